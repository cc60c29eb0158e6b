"""The scheduler: which batch is sent when, and what each response leads to. Sans-I/O: no threads, no clock, no waiting.

A caller takes the next batch, sends it, and settles it with the response, or with the error that came in its place. It
passes in the time, and makes one call at a time. Retries, throttling, halving, splitting, pacing and the circuit
breakers are all here; which of them an error calls for is decided in ``retry_policy``.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from airflow_provider_nexthink.backoff import RETRY_AFTER_CAP_SECONDS, next_start
from airflow_provider_nexthink.deletion.outcome import Outcomes, RunCounters, as_range, read_cells, write_cells
from airflow_provider_nexthink.deletion.retry_policy import FOLLOWS, Action, Step, next_step, reason_of
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkPolicyError,
    NexthinkRateLimitError,
    NexthinkSettingsError,
    NexthinkStoppedError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.status import Status

FAILED_PAUSES_SECONDS = (1.0, 5.0, 15.0)
"""FAILED devices are retried once after each of these pauses."""

AMBIGUOUS_LIMIT = 3
"""The circuit breaker: after so many consecutive batches without an unambiguous response, the run ends."""

REFUSED_LIMITS = (20, 100)
"""The circuit breaker for refused devices: so many consecutive ones, if none was accepted before, or if some were."""

QUICK_SECONDS = 0.005
"""Requests go out one at a time until one has taken this long. Python runs one thread at a time: with a tenant that
responds at once, threads contend for the GIL, and cost half as much CPU again."""

_NOT_ACCEPTED = (NexthinkConnectError, NexthinkSettingsError, NexthinkPolicyError, NexthinkStoppedError)
"""Errors of a request that never left. An earlier one of the same turn may have left, and got a 401."""

_LOGGED_PAUSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Response(Protocol):
    """What came back for one batch."""

    @property
    def statuses(self) -> Sequence[str]:
        """SCHEDULED, INVALID or FAILED for each device, in the order sent."""

    @property
    def trace_id(self) -> str | None:
        """The trace id of the response, where it had one."""


@dataclass(eq=False)
class Batch:
    """Devices that are sent in one request, and the state of that request.

    :param positions: their rows in the table.
    :param devices: ``{"uid", "name"}`` of each, as sent.
    :param number: the number of the batch.
    :param request_id: the ``x-request-id`` of all its requests.
    :param attempts_before: how many requests each device was in before this batch.
    :param is_retry: whether these devices were in a batch before.
    """

    positions: Sequence[int]
    devices: list[dict[str, str]]
    number: int
    request_id: str
    attempts_before: list[int]
    is_retry: bool
    turns: int = 0
    """How often it was handed out."""
    attempts: int = 0
    """Requests that left."""
    has_left: bool = False
    """Whether the request of this turn has left."""
    is_refused: bool = False
    """Whether it was refused for its token, and is about to leave again."""
    started: float = 0.0
    """When it was handed out this time, or has left."""
    submitted_at: str | None = None
    ambiguous: int = 0
    limited: int = 0
    not_before: float = 0.0


class Scheduler:
    """Hands out batches, and writes their outcome into the table.

    :param outcomes: the table, as the plan left it.
    :param to_send: the positions of the rows to send, in order.
    :param batch_size: devices in one request.
    :param max_concurrency: the most requests in flight.
    :param rng: the source of chance.
    :param last_batch: the number of the last batch of an earlier try; numbers resume there.
    :param requests_per_second: the most requests that may start in a second; None for no limit.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        to_send: Sequence[int],
        *,
        batch_size: int,
        max_concurrency: int,
        rng: random.Random,
        last_batch: int = 0,
        requests_per_second: float | None = None,
    ) -> None:
        self.counters = RunCounters()
        self.error: BaseException | None = None
        self.settled = 0
        self.limit = inf
        """How many devices may be handed out, retries aside."""
        self.handed_out = 0
        """How many have been handed out, retries aside."""
        self.messages: deque[tuple[Any, ...]] = deque()
        """Log records to be written by the main thread, as arguments of ``Logger.log``."""
        self._outcomes = outcomes
        self._to_send = to_send
        self._batch_size = batch_size
        self._max_concurrency = max_concurrency
        self._rng = rng
        self._last_batch = last_batch
        self._requests_per_second = requests_per_second
        self._queue: deque[tuple[Sequence[int], bool]] = deque()  # positions, and whether they are retried
        self._waiting: list[Batch] = []
        self._in_flight: dict[Batch, None] = {}  # the oldest first
        self._is_closed = False
        self._is_slow = False
        self._failed: list[int] = []
        self._failed_rounds = 0
        self._paused_until = 0.0
        self._next_start = 0.0
        self._consecutive_pause = 0.0
        self._consecutive_ambiguous = 0
        self._consecutive_refused: list[tuple[int, Status, str | None]] = []  # with what was known of them before
        self._has_accepted = False
        self._enqueue(to_send, is_retry=False)

    # Batches out

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be sent, and nothing in flight."""
        return not (self._queue or self._waiting or self._in_flight or self._may_retry_failed)

    @property
    def awaits_response(self) -> bool:
        """Whether a request has left and has no response yet."""
        return any(batch.has_left and not batch.is_refused for batch in self._in_flight)

    def next_batch(self, now: float) -> Batch | float | None:
        """Return the next batch to send, or for how many seconds to wait for one unless a batch is settled before.

        :param now: monotonic time, in seconds.
        :return: the batch, the seconds (infinite where only a settled batch can bring another), or None when all is
            done or the run has ended.
        """
        if self.error is not None or self._is_closed:
            return None
        if not (self._queue or self._waiting or self._in_flight):
            if not self._may_retry_failed:
                return None
            self._retry_failed(now)
        if (pause := max(self._paused_until, self._next_start) - now) > 0:
            return pause
        due = next((batch for batch in self._waiting if batch.not_before <= now), None)
        if due is not None:
            self._waiting.remove(due)
            return self._hand_out(due, now)
        has_room = len(self._in_flight) + len(self._waiting) < self._max_concurrency
        if has_room and self._may_take_next():
            quick = self._seconds_to_join(now)
            return quick or self._hand_out(self._new_batch(), now)
        return min((batch.not_before - now for batch in self._waiting), default=inf)

    def depart(self, batch: Batch, now: float, at: str) -> bool:
        """Record that a request of this batch leaves at this moment, if it still may.

        :param batch: in flight.
        :param now: monotonic time, in seconds.
        :param at: the time of day, as it is to be in the table.
        :return: False if the run has ended: then it must not leave.
        """
        if self.error is not None or self._is_closed:
            return False
        self.counters.requests += 1
        batch.attempts += 1
        batch.has_left, batch.started, batch.submitted_at = True, now, at
        batch.is_refused = False
        return True

    def refuse(self, batch: Batch) -> None:
        """Record that the request of a batch was refused for its token, and nothing of it accepted.

        :param batch: in flight.
        """
        batch.is_refused = True

    def _hand_out(self, batch: Batch, now: float) -> Batch:
        self._next_start = next_start(now, self._requests_per_second)
        batch.turns += 1
        batch.has_left, batch.is_refused, batch.started = False, False, now
        self._in_flight[batch] = None
        return batch

    def _may_take_next(self) -> bool:
        """Return whether the first devices in the queue may be sent: there are some, and they are within the limit."""
        if not self._queue:
            return False
        positions, is_retry = self._queue[0]
        return is_retry or self.handed_out + min(len(positions), self._batch_size) <= self.limit

    def _seconds_to_join(self, now: float) -> float:
        """Return for how long another request must wait for those in flight, since the tenant may be a quick one."""
        if self._is_slow or not self._in_flight:
            return 0.0
        elapsed = now - next(iter(self._in_flight)).started
        self._is_slow = elapsed >= QUICK_SECONDS
        return 0.0 if self._is_slow else QUICK_SECONDS - elapsed

    def _enqueue(self, positions: Sequence[int], *, is_retry: bool) -> None:
        for start in range(0, len(positions), self._batch_size):
            self._queue.append((as_range(list(positions[start : start + self._batch_size])), is_retry))
            self.counters.retries += is_retry

    def _retry_at_once(self, positions: Sequence[int]) -> None:
        self._queue.appendleft((positions, True))
        self.counters.retries += self.error is None

    def _new_batch(self) -> Batch:
        positions, is_retry = self._queue.popleft()
        if len(positions) > self._batch_size:  # the tenant has shown since that it takes fewer
            self._queue.appendleft((positions[self._batch_size :], is_retry))
            self.counters.retries += is_retry
            positions = positions[: self._batch_size]
        if not is_retry:
            self.handed_out += len(positions)
        self.counters.batches += 1
        outcomes = self._outcomes
        uids, names = read_cells(outcomes.uid, positions), read_cells(outcomes.name, positions)
        return Batch(
            positions,
            devices=[{"uid": uid or "", "name": name or ""} for uid, name in zip(uids, names, strict=True)],
            number=self._last_batch + self.counters.batches,
            request_id=str(uuid.uuid4()),
            attempts_before=read_cells(outcomes.attempts, positions),
            is_retry=is_retry,
        )

    @property
    def _may_retry_failed(self) -> bool:
        return bool(self._failed) and self._failed_rounds < len(FAILED_PAUSES_SECONDS)

    def _retry_failed(self, now: float) -> None:
        failed, self._failed = self._failed, []
        pause = FAILED_PAUSES_SECONDS[self._failed_rounds]
        self._failed_rounds += 1
        self._paused_until = now + pause
        self._enqueue(failed, is_retry=True)
        self._log(logging.INFO, "%d devices are FAILED: they are retried in %.0f s.", len(failed), pause)

    # Responses in

    def settle(self, batch: Batch, response: Response | BaseException, now: float) -> None:
        """Apply the response to a batch, or the error that came in its place. Nothing, once the run is closed.

        :param batch: what ``next_batch`` has handed out.
        :param response: what became of its request.
        :param now: monotonic time, in seconds.
        """
        if self._is_closed:
            return
        self._is_slow = self._is_slow or now - batch.started >= QUICK_SECONDS
        del self._in_flight[batch]
        try:
            if isinstance(response, BaseException):
                self._handle_error(batch, response, now)
            else:
                self._accept(batch, response)
        except BaseException as defect:  # it was sent: that is what the table must say, whatever is wrong here
            self._set_status(batch, Status.UNKNOWN, f"sent, but the response could not be read: {reason_of(defect)}")
            self._record_request(batch, None)
            raise

    def abort(self, error: BaseException) -> None:
        """End the run: no other batch is handed out, none leaves.

        :param error: why; the first one counts.
        """
        self.error = self.error or error

    def close(self) -> None:
        """Record how the run ended in the rows that are not settled. May be called again."""
        self._is_closed = True
        for batch in self._in_flight:
            if batch.is_refused:
                self._explain_not_sent(batch.positions, "not accepted: 401")
            elif batch.has_left:
                self._set_status(batch, Status.UNKNOWN, "sent, but the run ended before the response came")
        for batch in [*self._in_flight, *self._waiting]:
            self._record_request(batch, None)
        if self.error is not None:
            self._explain_not_sent(self._to_send, f"the run ended before its turn: {reason_of(self.error)}")

    def _accept(self, batch: Batch, response: Response) -> None:
        self._has_accepted = True
        self._consecutive_ambiguous = 0
        self._consecutive_refused = []
        self._consecutive_pause = 0.0
        statuses = response.statuses
        failed = [position for position, status in zip(batch.positions, statuses, strict=True) if status == "FAILED"]
        self._record_request(batch, response.trace_id)
        write_cells(self._outcomes.reason, batch.positions, [_REASON_OF[status] for status in statuses])
        write_cells(self._outcomes.status, batch.positions, [_STATUS_OF[status] for status in statuses])
        self._failed += failed
        self.settled += len(statuses) - len(failed)
        self._log(
            logging.DEBUG, _RESPONSE_LINE, batch.number, len(batch.positions), batch.request_id, response.trace_id
        )

    def _handle_error(self, batch: Batch, error: BaseException, now: float) -> None:
        is_known = isinstance(error, _NOT_ACCEPTED) or (
            isinstance(error, NexthinkApiError) and not isinstance(error, NexthinkUnavailableError)
        )
        batch.ambiguous += isinstance(error, NexthinkUnavailableError)
        batch.limited += isinstance(error, NexthinkRateLimitError)
        if batch.has_left and not batch.is_refused and not is_known:
            # The devices may have been queued: the row says so until an unambiguous response comes.
            self._set_status(batch, Status.UNKNOWN, f"sent, without an unambiguous response: {reason_of(error)}")
        elif batch.has_left:
            self._explain_not_sent(batch.positions, f"not accepted: {reason_of(error)}")
        size = len(batch.positions)
        step = next_step(error, size=size, ambiguous=batch.ambiguous, limited=batch.limited, rng=self._rng)
        if step.action is Action.THROTTLE:
            self._throttle(step.wait, error, now)  # which may end the run: then the log does not promise a retry
        self._log_action(step, batch, error)
        if step.action in (Action.RETRY, Action.THROTTLE):
            batch.is_retry = True
            batch.not_before = now + step.wait if step.action is Action.RETRY else 0.0
            self._waiting.append(batch)
            self.counters.retries += self.error is None
            return
        self._record_request(batch, error.trace_id if isinstance(error, NexthinkApiError) else None)
        if step.action is Action.HALVE:
            self._batch_size = min(self._batch_size, (size + 1) // 2)
            self._retry_at_once(batch.positions)
        elif step.action is Action.SPLIT:
            middle = (size + 1) // 2
            self._retry_at_once(batch.positions[middle:])
            self._retry_at_once(batch.positions[:middle])
        elif step.action is Action.REJECT:
            self._reject(batch, error)
        elif step.action is Action.GIVE_UP:
            self._give_up(batch, error)
        else:
            if not batch.has_left:
                self._explain_not_sent(batch.positions, f"not sent: {reason_of(error)}")
            if isinstance(error, NexthinkStoppedError | NexthinkPolicyError):
                self._waiting.append(batch)  # it was held back: the run is not complete
            self.abort(error)

    def _throttle(self, wait: float, error: BaseException, now: float) -> None:
        """Throttle the whole run; end it if it only waits."""
        until = max(self._paused_until, now + wait)
        added = until - max(self._paused_until, now)
        self._consecutive_pause += added
        self._paused_until = until
        if self._consecutive_pause > RETRY_AFTER_CAP_SECONDS:
            self.abort(error)
        elif added >= _LOGGED_PAUSE_SECONDS:
            self._log(logging.INFO, "%s No request goes out for %.0f s.", error, until - now)

    def _reject(self, batch: Batch, error: BaseException) -> None:
        """Reject a device that is refused; end the run if the circuit opens."""
        detail = error.detail if isinstance(error, NexthinkApiError) else None
        outcomes = self._outcomes
        for position in batch.positions:
            self._consecutive_refused.append((position, outcomes.status[position], outcomes.reason[position]))
        self._set_status(batch, Status.REJECTED, f"Nexthink refuses this device: {detail or reason_of(error)}")
        self.settled += 1
        if len(self._consecutive_refused) >= REFUSED_LIMITS[self._has_accepted]:
            for position, status, reason in self._consecutive_refused:  # it is not these devices that are wrong
                if status is Status.NOT_SENT:
                    reason = f"not accepted, like all before it: {reason_of(error)}"
                outcomes.status[position], outcomes.reason[position] = status, reason
            self.abort(error)

    def _give_up(self, batch: Batch, error: BaseException) -> None:
        """Leave the batch UNKNOWN or NOT_SENT; end the run if the circuit opens."""
        for position in batch.positions:
            if self._outcomes.status[position] is Status.NOT_SENT:  # whatever an earlier attempt ended with
                self._outcomes.reason[position] = f"not sent: {reason_of(error)}"
        self.settled += len(batch.positions)
        self._consecutive_ambiguous += 1
        if self._consecutive_ambiguous >= AMBIGUOUS_LIMIT:
            self.abort(
                NexthinkUnavailableError(
                    f"{self._consecutive_ambiguous} consecutive batches got no unambiguous response: the run ends here "
                    f"rather than load the tenant further (circuit breaker). The last one: {error}",
                    request_id=batch.request_id,
                    reason=reason_of(error),
                )
            )

    def _log_action(self, step: Step, batch: Batch, error: BaseException) -> None:
        """Log the action: with the request id, and without the devices."""
        level, follows = FOLLOWS[Action.ABORT if self.error is not None else step.action]
        self._log(
            level,
            "Batch %d, %d devices, attempt %d [x-request-id %s]: %s -> %s.",
            batch.number,
            len(batch.positions),
            batch.turns,
            batch.request_id,
            error.args[0] if isinstance(error, NexthinkError) else f"{type(error).__name__}: {error}",
            follows.format(wait=step.wait),
        )

    def _log(self, level: int, message: str, *values: object) -> None:
        # Not written here: the caller may hold a lock, and logging takes another one.
        if log.isEnabledFor(level):
            self.messages.append((level, message, *values))

    # The table

    def _record_request(self, batch: Batch, trace_id: str | None) -> None:
        """Record in each row of a batch in which request it was sent; nothing if none has left."""
        if not batch.attempts:
            return
        outcomes, positions = self._outcomes, batch.positions
        write_cells(outcomes.attempts, positions, [before + batch.attempts for before in batch.attempts_before])
        columns: tuple[tuple[list[Any], Any], ...] = (
            (outcomes.batch, batch.number),
            (outcomes.request_id, batch.request_id),
            (outcomes.trace_id, trace_id),
            (outcomes.submitted_at, batch.submitted_at),
        )
        for column, value in columns:
            write_cells(column, positions, [value] * len(positions))

    def _set_status(self, batch: Batch, status: Status, reason: str) -> None:
        for position in batch.positions:
            self._outcomes.reason[position] = reason
            self._outcomes.status[position] = status

    def _explain_not_sent(self, positions: Sequence[int], reason: str) -> None:
        """Give rows that are NOT_SENT a reason, unless they have one."""
        for position in positions:
            if self._outcomes.status[position] is Status.NOT_SENT and self._outcomes.reason[position] is None:
                self._outcomes.reason[position] = reason


_STATUS_OF = {"SCHEDULED": Status.SCHEDULED, "INVALID": Status.INVALID, "FAILED": Status.FAILED}
_REASON_OF = {
    "SCHEDULED": None,
    "INVALID": "Nexthink says the uid is malformed",
    "FAILED": "Nexthink could not schedule it",
}


_RESPONSE_LINE = "Batch %d, %d devices [x-request-id %s, x-trace-id %s]: 202."
