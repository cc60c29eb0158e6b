"""The XComs of one try of a deletion, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_nexthink.exceptions import NexthinkStoppedError, NexthinkTryOverError
from airflow_provider_nexthink.status import ACTION_REQUIRED
from airflow_provider_nexthink.utils.task_state import timeout_deferred

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
    from airflow_provider_nexthink.deletion.deletion import Deletion
    from airflow_provider_nexthink.deletion.journal import EarlierTries
    from airflow_provider_nexthink.deletion.outcome import DeletionResult
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.origin import RunOrigin

log = logging.getLogger(__name__)

_NOT_ENDED = (
    "This try has not recorded its end: the table is that of earlier tries, and what this one sent is not known here. "
    "See its log, and Nexthink's inventory."
)


class DeletionReport:
    """Pushes the tables and the summary of a try, and those of the tries before it.

    Airflow deletes the XComs of a task when a try begins. The outcomes of earlier tries are therefore pushed again at
    once, before anything can fail, and replaced when this try has a table of its own.

    :param context: the task's context.
    :param enabled: whether XComs are to be pushed at all.
    :param to_format: turns a result into the value for ``return_value``.
    :param origin: who started the deletion, and in which task.
    :param max_unscheduled: how many rows ``unscheduled`` has at most; None for all.
    """

    def __init__(
        self,
        context: Context,
        *,
        enabled: bool,
        to_format: Callable[[DeletionResult], Any],
        origin: RunOrigin,
        max_unscheduled: int | None = None,
    ) -> None:
        self.origin = origin
        self._context = context
        self._enabled = enabled
        self._to_format = to_format
        self._max_unscheduled = max_unscheduled
        self._checkpoint: Checkpoint | None = None
        self._earlier: EarlierTries | None = None
        self._is_earlier_known = False  # until ``begin``

    def begin(self, checkpoint: Checkpoint | None, *, is_retry: bool) -> None:
        """Push the outcomes of earlier tries.

        :param checkpoint: the records of earlier tries; None where this Airflow keeps no state.
        :param is_retry: whether there were earlier tries.
        :raises NexthinkTryOverError: if this try is over.
        """
        self._checkpoint = checkpoint
        self._is_earlier_known = not is_retry
        if checkpoint is None:
            return
        self._earlier = earlier = checkpoint.load() or checkpoint.cleared
        self._is_earlier_known = checkpoint.is_earlier_known
        if not earlier:
            return
        result = replace(self._earlier_result(NexthinkStoppedError(_NOT_ENDED)), may_have_sent_before=True)
        log.info(
            "Earlier tries of this task had %d devices: %s.",
            len(earlier),
            ", ".join(f"{count} {status}" for status, count in result.counts.items() if count),
        )
        failure = self._push_all(result, is_end=False)
        if isinstance(failure, NexthinkTryOverError) or not isinstance(failure, Exception | None):
            raise failure  # a timeout; a value that could not be pushed is in the log

    @property
    def is_over(self) -> bool:
        """Whether another try has taken the place of this one, and owns the XComs and the file."""
        return self._checkpoint is not None and self._checkpoint.is_over

    def mark_done(self) -> None:
        """Record that this try has done its work."""
        if self._checkpoint:
            self._checkpoint.mark_done()

    def push(self, result: DeletionResult) -> BaseException | None:
        """Push the result of this try.

        :param result: the outcome of each device.
        :return: the error that kept a value from being pushed, or None.
        """
        return self._push_all(self._with_earlier(result))

    def push_failure(
        self, error: BaseException, deletion: Deletion | None, describe: Callable[[], dict[str, Any]]
    ) -> None:
        """Push the summary of a try that sent nothing. The tables stay those of earlier tries.

        :param error: the error that kept it from sending.
        :param deletion: its plan, if it came that far.
        :param describe: returns what is known of the deletion without a plan, as ``describe_request`` does.
        """
        planned = self._with_earlier(deletion.result(error)) if deletion else None

        def summary() -> dict[str, Any]:
            if self._earlier:
                known: dict[str, Any] = (
                    describe() if planned is None else {"limits": planned.limits, "reason": planned.reason}
                )
                return replace(self._earlier_result(error), limits=known["limits"], reason=known["reason"]).summary
            return planned.summary if planned else self._no_result(error).summary | {"requested": None, **describe()}

        self._claim()
        self._push("summary", summary)

    def _with_earlier(self, result: DeletionResult) -> DeletionResult:
        """Return the result of a try with what is known of the tries before it."""
        if self._is_earlier_known:
            return result
        return replace(result, is_earlier_known=False, may_have_sent_before=True)

    def _earlier_result(self, error: BaseException) -> DeletionResult:
        """Return the devices of earlier tries as a result: they were requested, with these outcomes."""
        earlier = self._earlier
        assert earlier  # noqa: S101 - checked by the callers
        result = self._no_result(error)
        return replace(
            result,
            outcomes=earlier.outcomes,
            uid_column=earlier.uid_column,
            name_column=earlier.name_column,
            instance=earlier.instance,
            started_at=datetime.fromisoformat(earlier.started_at) if earlier.started_at else result.started_at,
        )

    def _no_result(self, error: BaseException) -> DeletionResult:
        """Return the result of a list that was not read."""
        from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes, RunCounters

        now = datetime.now(UTC)
        return DeletionResult(
            Outcomes.empty(),
            error=error,
            counters=RunCounters(),
            dry_run=False,
            uid_column=None,
            name_column=None,
            instance="",
            started_at=now,
            finished_at=now,
            origin=self.origin,
            is_earlier_known=self._is_earlier_known,
            may_have_sent_before=self._may_have_sent_before(),
        )

    def _may_have_sent_before(self) -> bool:
        if not self._is_earlier_known:
            return True
        return self._checkpoint is not None and self._checkpoint.may_have_sent_before

    def _push_all(self, result: DeletionResult, *, is_end: bool = True) -> BaseException | None:
        values: dict[str, Callable[[], Any]] = {
            "summary": lambda: result.summary,
            "return_value": lambda: self._to_format(result),
            "unscheduled": lambda: result.outcomes.rows_with(ACTION_REQUIRED, self._max_unscheduled),
        }
        if result.earlier_tries:
            values["earlier_tries"] = lambda: result.earlier_tries
        failure = self._claim(is_end=is_end)
        for key, value in values.items():
            failure = self._push(key, value) or failure
        return failure

    def _claim(self, *, is_end: bool = True) -> BaseException | None:
        """Check that no other try has taken the place of this one; return the error that says so, or interrupted it."""
        failure: BaseException | None = None
        for _ in range(2):
            try:
                if self._checkpoint:
                    self._checkpoint.claim(is_end=is_end)
                break
            except BaseException as error:  # noqa: BLE001 - a timeout, raised once the XComs are pushed
                failure = failure or error
        return failure

    def _push(self, key: str, value: Callable[[], Any]) -> BaseException | None:
        """Push one value, again after an interruption; return the error that prevented or interrupted it."""
        if not self._enabled or self.is_over:
            return None
        failure: BaseException | None = None
        for _ in range(2):
            try:
                made = value()
                with timeout_deferred():
                    try:
                        self._context["ti"].xcom_push(key=key, value=made)
                    except Exception as error:  # noqa: BLE001 - the other values are pushed regardless
                        log.warning("The XCom %s could not be pushed: %s: %s", key, type(error).__name__, error)
                        failure = failure or error
                break
            except BaseException as interruption:  # noqa: BLE001 - a timeout, raised once the table is pushed
                failure = failure or interruption
        return failure


def describe_request(hook: NexthinkHook | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a summary says of a deletion that has no plan; None for what is not known. Sends nothing.

    :param hook: of the connection; None to leave that alone.
    :param chosen: the options of the task, rendered and not checked.
    """
    from airflow_provider_nexthink.deletion import options

    known: dict[str, Any] = {"instance": None, "dry_run": None, "reason": None, "limits": None}
    # Whatever is wrong here, the error of the task says it.
    with suppress(Exception):
        known["dry_run"] = bool(options.check_dry_run(chosen["dry_run"]))
    with suppress(Exception):
        known["reason"] = options.check_reason(chosen["reason"])
    if hook is None:
        return known
    with timeout_deferred():  # looks at the connection, which the supervisor gives
        with suppress(Exception):
            known["instance"] = hook.read_instance()
        with suppress(Exception):
            policy = hook.read_policy()
            tightened = policy.tighten(options.DeletionOptions.checked(**chosen))
            known |= {"dry_run": bool(tightened.dry_run), "limits": policy.limits_in_force(tightened)}
    return known
