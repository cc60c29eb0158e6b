"""One deletion, from a list of devices to its outcome: plan, guards, run, result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes, RunCounters
from airflow_provider_nexthink.deletion.plan import Plan, check_guards, make_plan
from airflow_provider_nexthink.deletion.policy import DRY_RUN_ONLY, DeletionPolicy
from airflow_provider_nexthink.deletion.protect import ProtectList
from airflow_provider_nexthink.deletion.run import DeletionRun, RunLedger, Send
from airflow_provider_nexthink.deletion.scheduler import Scheduler
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkStoppedError, NexthinkTryOverError
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import RETRYABLE, Status

NOT_ENDED = (
    "the run had not ended when this table was written: see the log of its task, and whether Nexthink still has the "
    "device"
)
"""The reason of a row without a final status in a table that was written while the run went on."""

log = logging.getLogger(__name__)


class DeletionObserver:
    """Watches a deletion. Every method does nothing here; override those that matter.

    ``check`` and ``on_request`` are called by any thread, the others by the one that called ``delete_devices``.
    """

    def check(self) -> None:
        """Raise what is to end the run. Called often, and before each request leaves."""

    def on_plan(self, plan: Plan) -> None:
        """See the plan, once the guards have passed. If this raises, nothing is sent.

        :param plan: what is to be done with each row.
        """

    def on_resume(self, statuses: Iterable[Status]) -> None:
        """Learn which rows are not sent by this try, because an earlier one has settled devices of the same list.

        :param statuses: of these rows.
        """

    def on_request(self, seconds: float) -> None:
        """Learn that a request has ended.

        :param seconds: since it left.
        """

    def on_progress(self, settled: int, planned: int) -> None:
        """Learn how far the run is. Called a few times a second.

        :param settled: how many devices have their final status.
        :param planned: how many devices this try has to send.
        """

    def on_result(self, result: DeletionResult) -> None:
        """See the result, at the end.

        :param result: what became of each device.
        """


class Deletion:
    """One deletion. Its result can be taken at any moment, also after an interruption.

    :param rows: the devices.
    :param options: how they are to be deleted; where the policy is stricter, it holds.
    :param protect: the protect list of the options, read.
    :param tenant: what tells the tenant from any other.
    :param instance: the tenant's name, for people.
    :param clock: time and chance.
    :param checkpoint: records the run for a later try, if there is one.
    :param observer: watches it.
    :param policy: what the connection allows; None for everything.
    :param origin: who started it, and in which task; None for plain Python.
    :param reserve: records the devices in the ledger, if there is one, before the first of them is sent. It is called
        with this deletion and the positions of the rows to send, also for a dry run, for which it only checks limits.
    """

    def __init__(
        self,
        rows: DeviceRows,
        options: DeletionOptions,
        *,
        protect: ProtectList | None = None,
        tenant: str,
        instance: str,
        clock: Clock,
        checkpoint: Checkpoint | None = None,
        observer: DeletionObserver | None = None,
        policy: DeletionPolicy | None = None,
        origin: RunOrigin | None = None,
        reserve: Callable[[Deletion, Sequence[int]], RunLedger] | None = None,
    ) -> None:
        self.policy = policy or DeletionPolicy()
        self.origin = origin or RunOrigin()
        self.plan = make_plan(rows, options.exclude, self.policy.protected, protect)
        self.outcomes = Outcomes(self.plan)
        self.has_begun = False
        """Whether the guards have let it pass: from here on there is a result."""
        self._run: DeletionRun | None = None  # None as long as there is nothing to send
        self.rows = rows
        self.options = self.policy.tighten(options)
        self.checkpoint = checkpoint
        self._reserve = reserve
        self._ledger: RunLedger | None = None
        self._to_send: list[int] = []
        self._sent_before = 0
        self._check: Callable[[], None] = lambda: None
        self._tenant = tenant
        self._instance = instance
        self._clock = clock
        self._observer = observer or DeletionObserver()
        self._started_at, self._start = clock.now(), clock.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, so that nothing waits for a response any more."""
        return self._run is not None and self._run.has_ended

    @property
    def planned(self) -> int:
        """How many devices its task would send over all tries, once ``check`` has looked at the earlier ones."""
        return len(self.plan.to_send) + self._sent_before

    @property
    def limits(self) -> dict[str, Any]:
        """What limits this deletion, and who says so; plain JSON values."""
        return self.policy.limits_in_force(self.options)

    def set_fleet_size(self, devices: int) -> None:
        """Set how many devices the fleet has, once its query has counted them. Call it before ``check``.

        :param devices: how many.
        """
        self.options = replace(self.options, fleet_size=devices)

    def check(self) -> None:
        """Restore what earlier tries of the task have settled, and hold the guards against all tries.

        :raises NexthinkGuardError: if a guard trips; this try sent nothing.
        """
        plan = self.plan
        log.info(
            "%d devices for %s (uid from %r, name from %r): %d to send, %d not to be sent.",
            len(self.rows),
            self._instance,
            self.rows.uid_column,
            self.rows.name_column,
            len(plan.to_send),
            len(self.rows) - len(plan.to_send),
        )
        self._log_origin()
        if self.checkpoint:
            self._sent_before = self._restore(self.checkpoint)
        check_guards(
            len(plan.to_send),
            max_devices=self.options.max_devices,
            max_devices_set_by=self.policy.who_sets_max_devices(self.options),
            max_share=self.options.max_share,
            fleet_size=self.options.fleet_size,
            fleet_query_id=self.options.fleet_query_id,
            sent_before=self._sent_before,
        )
        self._observer.on_plan(plan)
        self._to_send = [at for at in plan.to_send if self.outcomes.status[at] is Status.NOT_SENT]

    def execute(self, send: Send, prepare: Callable[[], object], check: Callable[[], None]) -> DeletionResult:
        """Send what the plan says, without what an earlier try has settled. First of all, reserve it in the ledger.

        :param send: sends one batch.
        :param prepare: called by each worker before it takes a batch.
        :param check: raises what is to end the run.
        :return: the outcome of every row. What stopped the run once something was sent is in its ``error``.
        :raises NexthinkError: if nothing was sent, now or by earlier tries.
        """
        self._check = check
        try:
            if self._reserve:
                self._ledger = self._reserve(self, self._to_send)
            self.has_begun = True
            if self.options.dry_run:
                for position in self.plan.to_send:
                    self.outcomes.status[position] = Status.PLANNED
            elif self.plan.to_send:
                self._send(send, prepare, check)
            result = self.result()
            _log_outcome(result)
            self._observer.on_result(result)
        except BaseException as error:  # a timeout may come at any instruction: what was sent has a table
            if self._run:
                self._run.end(error)  # from here on nothing leaves: what has left is known
            if self._run is None or not self._run.counters.requests:
                self._finish_ledger(error)  # gives back what was reserved
                raise
            result = self.result(error)
        return result

    def result(self, error: BaseException | None = None) -> DeletionResult:
        """Return what became of each device so far, and record it in the checkpoint.

        :param error: what interrupted it from outside, if something did.
        """
        if self._run:
            self._run.end(error)
        finished_at, duration = self._clock.now(), self._clock.monotonic() - self._start
        error = (self._run.error if self._run else None) or error
        checkpoint = self.checkpoint
        if checkpoint and self._run:
            try:
                checkpoint.finish()
            except NexthinkTryOverError as over:
                error = error or over
        unrecorded = self._finish_ledger(error)
        if unrecorded is not None:
            log.warning("%s", unrecorded)
            error = error or unrecorded
        return DeletionResult(
            self.outcomes,
            error=error,
            counters=self._run.counters if self._run else RunCounters(),
            dry_run=bool(self.options.dry_run),
            uid_column=self.rows.uid_column,
            name_column=self.rows.name_column,
            instance=self._instance,
            started_at=self._started_at,
            finished_at=finished_at,
            duration_seconds=duration,
            origin=self.origin,
            reason=self.options.reason,
            limits=self.limits,
            earlier=checkpoint.earlier if checkpoint else None,
            is_earlier_known=checkpoint.is_earlier_known if checkpoint else True,
            may_have_sent_before=checkpoint.may_have_sent_before if checkpoint else False,
            clear_checkpoint=checkpoint.clear if checkpoint else None,
        )

    def snapshot(self) -> Outcomes | None:
        """Return the table as it is while the run is in progress: rows without a final status are UNKNOWN.

        :return: the table; None as long as nothing is sent.
        """
        if self._run is None:
            return None
        table = self._run.copy_of(self.outcomes)
        for position in self._to_send:
            if table.status[position] in RETRYABLE:
                table.status[position], table.reason[position] = Status.UNKNOWN, NOT_ENDED
        return table

    def _finish_ledger(self, error: BaseException | None) -> BaseException | None:
        """Record in the ledger what became of each device; return what kept it from being recorded."""
        if self._ledger is None:
            return None
        return self._ledger.finish(error, is_stopped=lambda: self._is_to_end_soon(error))

    def _is_to_end_soon(self, error: BaseException | None) -> bool:
        """Return whether the run was stopped or interrupted, so that its process is killed soon."""
        if error is not None and (isinstance(error, NexthinkStoppedError) or not isinstance(error, NexthinkError)):
            return True
        try:
            self._check()
        except NexthinkError as reason:
            return isinstance(reason, NexthinkStoppedError)
        return False

    def _log_origin(self) -> None:
        """Log who asked for this, why, and what the connection allows."""
        known = [f"Triggered by {self.origin.triggered_by}."] if self.origin.triggered_by else []
        known += [f"Reason: {self.options.reason!r}."] if self.options.reason else []
        log.info("%s", " ".join([*known, f"Policy of the connection: {self.policy.describe()}."]))
        if self.policy.deletions == DRY_RUN_ONLY:
            log.warning("The connection allows dry runs only (its extra deletions): this is one, and sends nothing.")

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Restore what earlier tries of the task have settled; return how many other devices they may have sent."""
        # A dry run sends nothing: its rows become PLANNED, whatever earlier tries have done with these devices.
        is_dry_run = bool(self.options.dry_run)
        outcomes = Outcomes(self.plan) if is_dry_run else self.outcomes
        sent_before = checkpoint.resume(outcomes, self.plan.to_send, self._tenant)
        earlier = checkpoint.earlier
        if is_dry_run:
            earlier.others = range(len(earlier))
        if earlier.others:
            log.warning(
                "Earlier tries of this task had %d devices that are not in this list: %s. Their rows are in the XCom "
                "earlier_tries, and more is in the logs of those tries.",
                len(earlier.others),
                ", ".join(f"{count} {status}" for status, count in earlier.counts().items()),
            )
        return sent_before

    def _send(self, send: Send, prepare: Callable[[], object], check: Callable[[], None]) -> None:
        plan, outcomes, checkpoint, options = self.plan, self.outcomes, self.checkpoint, self.options
        to_send = self._to_send
        if restored := len(plan.to_send) - len(to_send):
            # What the plan decides was the same then, and was counted then too.
            self._observer.on_resume(status for status in outcomes.status if status is not Status.NOT_SENT)
            log.info(
                "An earlier try of this task has settled %d of the %d devices: they are not sent again.",
                restored,
                len(plan.to_send),
            )
        scheduler = Scheduler(
            outcomes,
            to_send,
            batch_size=options.batch_size,
            max_concurrency=options.max_concurrency,
            rng=self._clock.rng,
            last_batch=checkpoint.last_batch if checkpoint else 0,
            requests_per_second=options.requests_per_second,
        )
        self._run = run = DeletionRun(
            scheduler,
            send,
            options.max_concurrency,
            prepare=prepare,
            check=check,
            on_progress=lambda settled: self._observer.on_progress(settled, len(to_send)),
            checkpoint=checkpoint,
            ledger=self._ledger,
            clock=self._clock,
        )
        if not to_send:
            return
        if checkpoint:
            checkpoint.begin(
                to_send,
                tenant=self._tenant,
                instance=self._instance,
                uid_column=self.rows.uid_column,
                name_column=self.rows.name_column,
            )
        run.run()
        if run.error and not run.counters.batches and not (checkpoint and checkpoint.earlier):
            self.result()  # records that nothing was sent
            self.has_begun = False
            raise run.error  # there is nothing to report but this: nothing was sent, now or before


def _log_outcome(result: DeletionResult) -> None:
    counts = "\n".join(f"  {status:<10} {count:>9,}" for status, count in result.counts.items() if count)
    log.info(
        "%s, %d rows in %.1f s with %d requests and %d retries:\n%s",
        "Dry run" if result.dry_run else "Outcome",
        len(result.outcomes),
        result.duration_seconds,
        result.counters.requests,
        result.counters.retries,
        counts or "  no devices",
    )
