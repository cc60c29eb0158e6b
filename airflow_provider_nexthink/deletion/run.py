"""The run: workers send batches and apply responses; the main thread supervises.

Airflow raises its timeout in the main thread, at any instruction. So that thread never holds a batch and never writes
to the table while workers do: it watches for a stop, saves the checkpoint, reports progress, and ends the run. What it
waits on survives an exception at any moment: ``SimpleQueue`` and a plain lock, but no ``Condition`` or ``Event``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from queue import Empty, SimpleQueue
from typing import Protocol

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.scheduler import Batch, Response, Scheduler
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkLedgerError,
    NexthinkPolicyError,
    NexthinkStoppedError,
)

RESPONSE_GRACE_SECONDS = 30.0
"""How long the responses to requests in flight are awaited once a response, or the policy, has ended the run."""

STOP_GRACE_SECONDS = 2.5
"""The same once the run is stopped. Airflow kills a process that has not ended 5 seconds after it was asked to,
and the table is still to be pushed."""

_TICK_SECONDS = 0.25

_UNSAVED_BATCHES = 4
"""The main thread is woken to save so many batches, or ``max_concurrency`` if that is more. With twice as many unsaved,
no batch is sent until it has saved: a lost process costs its retry no more than these."""

log = logging.getLogger(__name__)


class Departure(Protocol):
    """Learns how far the request of a batch is."""

    def __call__(self) -> None:
        """Let the request leave: to be called at that moment, after all waiting; raises if it must not."""

    def refused(self) -> None:
        """Learn that the request was refused for its token: it leaves again once there is another one."""


class Send(Protocol):
    """Sends devices under a request id, once."""

    def __call__(self, devices: Sequence[dict[str, str]], request_id: str, depart: Departure) -> Response:
        """Return the response.

        :param devices: of the batch.
        :param request_id: the ``x-request-id`` to send.
        :param depart: called when the request leaves.
        :raises BaseException: for everything but an unambiguous response.
        """


class RunLedger(Protocol):
    """The memory between runs: it knows of each device before that is sent. One call at a time."""

    @property
    def released(self) -> int:
        """How many devices, in order, may be sent."""

    @property
    def error(self) -> BaseException | None:
        """What keeps it from being written; the run must end."""

    on_change: Callable[[], object]
    """Called by another thread when one of these has changed."""

    def take(self, count: int) -> None:
        """Learn how many devices have been handed out, retries aside."""

    def record(self, positions: Sequence[int]) -> None:
        """Record those of these rows that have a final status."""

    def finish(self, error: BaseException | None, *, is_stopped: Callable[[], bool]) -> BaseException | None:
        """Record what became of each device; return what kept it from being recorded. May be called again."""


@dataclass
class DeletionRun:
    """Sends what a scheduler hands out, until all is done or something ends it.

    :param scheduler: what goes out when.
    :param send: sends one batch; called in several threads.
    :param max_concurrency: how many threads send.
    :param prepare: called in each of these threads before it takes a batch, such as for a token; if it raises, the run
        ends.
    :param check: called in any thread, often, and before each request leaves: raises what is to end the run.
    :param on_progress: called in the calling thread a few times a second, with the number of devices settled.
    :param checkpoint: stores what is settled for a retry; called in the calling thread.
    :param ledger: knows of each device before it is sent, if there is one.
    :param clock: time.
    """

    scheduler: Scheduler
    send: Send
    max_concurrency: int
    prepare: Callable[[], object] = lambda: None
    check: Callable[[], None] = lambda: None
    on_progress: Callable[[int], None] = lambda _: None
    checkpoint: Checkpoint | None = None
    ledger: RunLedger | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.error: BaseException | None = None
        self.has_ended = False
        self.counters = self.scheduler.counters
        self._lock = threading.Lock()  # of the scheduler, and so of the table
        self._changed = threading.Condition(self._lock)  # for the workers; the main thread takes the lock itself
        self._wake: SimpleQueue[None] = SimpleQueue()  # the main thread
        self._settled: list[Sequence[int]] = []  # grows only
        self._saved = self._recorded = 0  # so many of them are in the checkpoint, and in the ledger
        self._unsaved_batches = max(self.max_concurrency, _UNSAVED_BATCHES)
        if self.ledger:
            self.scheduler.limit = self.ledger.released
            self.ledger.on_change = self._follow_ledger

    def run(self) -> BaseException | None:
        """Send everything.

        An exception that comes from outside, at whatever instruction, ends the run and is returned as its error: once
        something was sent, the table survives it.

        :return: what ended the run before all was done, or None.
        """
        try:
            self._report()  # a look before the first request, too: what came before may have taken minutes
            self.check()
            for number in range(self.max_concurrency):
                threading.Thread(target=self._work, name=f"nexthink-worker-{number}", daemon=True).start()
            self._supervise()
        except BaseException as error:  # noqa: BLE001 - such as Airflow's timeout
            self.error = error
        try:
            self._close()
            self._report()
            self._save()
        except BaseException as error:  # noqa: BLE001 - it comes once, and may come here
            self.error = error
            self._close()
            with suppress(Exception):
                self._save()
        return self.error

    def end(self, error: BaseException | None) -> None:
        """End the run at once if it has not ended: interruptions may have left no time to.

        :param error: the last one.
        """
        self.has_ended = True
        with self._lock:
            if error is not None:
                self.scheduler.abort(error)
            self.scheduler.close()

    def copy_of(self, outcomes: Outcomes) -> Outcomes:
        """Return a copy of the table, taken while no worker writes to it.

        :param outcomes: the table.
        """
        with self._lock:
            return outcomes.copy()

    # In the main thread

    def _supervise(self) -> None:
        while not self._is_over():
            self.check()
            self._report()
            if self.ledger and self.ledger.error:
                raise self.ledger.error
            with suppress(Empty):
                self._wake.get(timeout=_TICK_SECONDS)

    def _is_over(self) -> bool:
        with self._lock:
            return self.scheduler.error is not None or self.scheduler.is_complete

    def _report(self) -> None:
        """Log, save and report what has happened since the last time."""
        self._log()
        if self.checkpoint and self._saved < len(self._settled):
            while self._saved < len(self._settled):
                self.checkpoint.record(self._settled[self._saved])
                self._saved += 1
            with self._lock:
                self._changed.notify_all()
        while self.ledger and self._recorded < len(self._settled):
            self.ledger.record(self._settled[self._recorded])
            self._recorded += 1
        self.on_progress(self.scheduler.settled)

    def _log(self) -> None:
        while self.scheduler.messages:
            log.log(*self.scheduler.messages.popleft())

    def _close(self) -> None:
        """End the run, whatever ended it; may be interrupted anywhere, and is then called again."""
        if self.error is not None:
            self.scheduler.abort(self.error)
        self.error = self.error or self.scheduler.error
        self._await_responses(
            RESPONSE_GRACE_SECONDS
            if isinstance(self.error, NexthinkApiError | NexthinkPolicyError | NexthinkLedgerError)
            else STOP_GRACE_SECONDS
        )
        self.has_ended = True
        with self._lock:
            self.scheduler.close()
            if type(self.error) in (NexthinkStoppedError, NexthinkPolicyError) and self.scheduler.is_complete:
                self.error = None  # the last responses came in time: nothing was held back

    def _save(self) -> None:
        if self.checkpoint:
            self.checkpoint.save()

    def _await_responses(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while self._is_awaiting() and (left := end - self.clock.monotonic()) > 0:
            self._log()
            try:
                self.check()
            except NexthinkStoppedError:  # now it must end soon, whatever has ended it
                end = min(end, self.clock.monotonic() + STOP_GRACE_SECONDS) if left > STOP_GRACE_SECONDS else end
            except NexthinkPolicyError:
                pass  # which has ended it; what is in flight has left, and its responses are worth the wait
            with suppress(Empty):
                self._wake.get(timeout=min(left, _TICK_SECONDS))

    def _is_awaiting(self) -> bool:
        with self._lock:
            return self.scheduler.awaits_response

    # In the thread of the ledger

    def _follow_ledger(self) -> None:
        assert self.ledger  # noqa: S101 - it is what calls this
        with self._changed:
            self.scheduler.limit = self.ledger.released
            self._changed.notify_all()
        self._wake.put(None)

    # In the workers

    def _work(self) -> None:
        try:
            while True:
                self.prepare()
                with self._changed:
                    if not self.scheduler.is_complete:
                        self.check()
                    step = self._next_batch()
                    if step == inf:
                        self._changed.wait(_TICK_SECONDS)
                    elif isinstance(step, float):
                        self.clock.wait(self._changed, min(step, _TICK_SECONDS))
                if step is None:
                    break
                if isinstance(step, Batch):
                    self._settle(step, self._response_to(step))
        except BaseException as error:  # noqa: BLE001 - no other thread would see it
            with self._changed:
                self.scheduler.abort(error)
                self._changed.notify_all()
        self._wake.put(None)

    def _next_batch(self) -> Batch | float | None:
        """Return what the scheduler returns; infinite seconds also while the main thread has to save first."""
        if self.checkpoint and not self.has_ended and len(self._settled) - self._saved >= 2 * self._unsaved_batches:
            return inf
        step = self.scheduler.next_batch(self.clock.monotonic())
        if self.ledger:
            self.ledger.take(self.scheduler.handed_out)
        return step

    def _response_to(self, batch: Batch) -> Response | BaseException:
        try:
            return self.send(batch.devices, batch.request_id, _Departure(self, batch))
        except BaseException as error:  # noqa: BLE001 - the scheduler knows what follows
            return error

    def depart(self, batch: Batch) -> None:
        """Let a request of a batch leave.

        :param batch: in flight.
        :raises NexthinkError: if it must not.
        """
        self.check()
        with self._lock:
            now = self.clock.now().isoformat(timespec="milliseconds")
            if not self.scheduler.depart(batch, self.clock.monotonic(), now):
                raise NexthinkStoppedError("The run has ended before this request left.")

    def refuse(self, batch: Batch) -> None:
        """Record that the request of a batch was refused for its token.

        :param batch: in flight.
        """
        with self._lock:
            self.scheduler.refuse(batch)

    def _settle(self, batch: Batch, response: Response | BaseException) -> None:
        with self._changed:
            self.scheduler.settle(batch, response, self.clock.monotonic())
            self._settled.append(batch.positions)
            self._changed.notify_all()
        if self.checkpoint and len(self._settled) - self._saved >= self._unsaved_batches:
            self._wake.put(None)


@dataclass(frozen=True)
class _Departure:
    run: DeletionRun
    batch: Batch

    def __call__(self) -> None:
        self.run.depart(self.batch)

    def refused(self) -> None:
        self.run.refuse(self.batch)
