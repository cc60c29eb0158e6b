"""What goes out when, and what follows from each response. Sans-I/O: no threads, no clock, no waiting.

A caller takes the next batch, sends it, and settles it with the response, or with the error that came in its place. It
passes in the time, and one call at a time. Retries, throttling, halving, splitting, pacing and the circuit breakers
are all here; what a request is and how it travels is not.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Any, Protocol, TypeVar

from airflow_provider_nexthink.backoff import (
    RETRY_AFTER_CAP_SECONDS,
    jittered_backoff,
    next_start,
    wait_before_retry,
)
from airflow_provider_nexthink.deletion.outcome import Outcomes, RunCounters
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkBatchSizeError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkRateLimitError,
    NexthinkSettingsError,
    NexthinkStoppedError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.status import Status

FAILED_PAUSES_SECONDS = (1.0, 5.0, 15.0)
"""Devices that Nexthink answered FAILED are retried once after each of these pauses."""

AMBIGUOUS_LIMIT = 3
"""The circuit breaker: after so many batches in a row that stay without a clear response, the run ends."""

REFUSED_LIMITS = (20, 100)
"""The circuit breaker for refused devices: so many in a row, where none was accepted before, or some were."""

QUICK_SECONDS = 0.005
"""Requests go out one at a time until one has taken this long. Python runs one thread at a time: with a tenant that
responds at once, threads contend for the GIL, and cost half as much CPU again."""

_NOT_ACCEPTED = (NexthinkConnectError, NexthinkSettingsError, NexthinkStoppedError)
"""Errors that say that a request has not left, also where an earlier one of the same turn has, and was answered 401."""

_SHOWN_CHARACTERS = 200
_LOGGED_PAUSE_SECONDS = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class Response(Protocol):
    """What came back for one batch."""

    @property
    def statuses(self) -> Sequence[str]:
        """SCHEDULED, INVALID or FAILED for each device, in the order sent."""

    @property
    def trace_id(self) -> str | None:
        """The trace id of the response, where it had one."""


class Action(Enum):
    """What follows from a response that settles nothing."""

    RETRY = auto()
    """The same batch once more, after a wait."""
    THROTTLE = auto()
    """The whole run waits, then the same batch once more."""
    HALVE = auto()
    """Smaller batches from now on."""
    SPLIT = auto()
    """Two batches instead of one, to find the device that is refused."""
    REJECT = auto()
    """It is this device."""
    GIVE_UP = auto()
    """No clear response, also after the retries."""
    ABORT = auto()
    """The run ends."""


@dataclass(frozen=True)
class Step:
    """What to do now.

    :param action: what follows.
    :param wait: seconds before that.
    """

    action: Action
    wait: float = 0.0


def next_step(error: BaseException, *, size: int, unanswered: int, limited: int, rng: random.Random) -> Step:
    """Decide what follows from a request that ended without a clear 202.

    :param error: what it ended with.
    :param size: how many devices the batch has.
    :param unanswered: how many times this batch has ended without a response to rely on, this time included.
    :param limited: how many times it was answered 429, this time included.
    :param rng: the source of chance.
    """
    if isinstance(error, NexthinkRateLimitError):
        wait = max(error.retry_after or 0.0, jittered_backoff(limited, rng))
        return Step(Action.THROTTLE, wait) if wait <= RETRY_AFTER_CAP_SECONDS else Step(Action.ABORT)
    if isinstance(error, NexthinkBatchSizeError):
        return Step(Action.HALVE if size > 1 else Action.ABORT)
    if isinstance(error, NexthinkInvalidRequestError):
        return Step(Action.SPLIT if size > 1 else Action.REJECT)
    if isinstance(error, NexthinkUnavailableError):
        retry = wait_before_retry(unanswered, error.retry_after, rng)
        return Step(Action.GIVE_UP) if retry is None else Step(Action.RETRY, retry)
    return Step(Action.ABORT)


@dataclass(eq=False)
class Batch:
    """Devices that go out in one request, and what became of that so far.

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
    started: float = 0.0
    """When it was handed out this time, or has left."""
    submitted_at: str | None = None
    unanswered: int = 0
    limited: int = 0
    not_before: float = 0.0


class Scheduler:
    """Hands out batches, and writes into the table what became of them.

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
        self.messages: deque[tuple[Any, ...]] = deque()
        """What there is to log, as ``Logger.log`` takes it."""
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
        self._paused_in_a_row = 0.0
        self._unanswered_in_a_row = 0
        self._refused_in_a_row: list[tuple[int, Status, str | None]] = []  # with what was known of them before
        self._has_accepted = False
        self._enqueue(to_send, is_retry=False)

    # What goes out

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be sent, and nothing in flight."""
        return not (self._queue or self._waiting or self._in_flight or self._may_retry_failed)

    @property
    def awaits_response(self) -> bool:
        """Whether a request has left and has no response yet."""
        return any(batch.has_left for batch in self._in_flight)

    def next_batch(self, now: float) -> Batch | float | None:
        """Return the next batch to send; or for how many seconds to wait for one, unless a batch is settled before.

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
        if self._queue and has_room:
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
        return True

    def _hand_out(self, batch: Batch, now: float) -> Batch:
        self._next_start = next_start(now, self._requests_per_second)
        self.counters.retries += batch.is_retry
        batch.turns += 1
        batch.has_left, batch.started = False, now
        self._in_flight[batch] = None
        return batch

    def _seconds_to_join(self, now: float) -> float:
        """Return for how long another request must wait for those in flight, since the tenant may be a quick one."""
        if self._is_slow or not self._in_flight:
            return 0.0
        elapsed = now - next(iter(self._in_flight)).started
        self._is_slow = elapsed >= QUICK_SECONDS
        return 0.0 if self._is_slow else QUICK_SECONDS - elapsed

    def _enqueue(self, positions: Sequence[int], *, is_retry: bool) -> None:
        for start in range(0, len(positions), self._batch_size):
            self._queue.append((_as_range(list(positions[start : start + self._batch_size])), is_retry))

    def _new_batch(self) -> Batch:
        positions, is_retry = self._queue.popleft()
        if len(positions) > self._batch_size:  # the tenant has shown since that it takes fewer
            self._queue.appendleft((positions[self._batch_size :], is_retry))
            positions = positions[: self._batch_size]
        self.counters.batches += 1
        outcomes = self._outcomes
        uids, names = _read_cells(outcomes.uid, positions), _read_cells(outcomes.name, positions)
        return Batch(
            positions,
            devices=[{"uid": uid or "", "name": name or ""} for uid, name in zip(uids, names, strict=True)],
            number=self._last_batch + self.counters.batches,
            request_id=str(uuid.uuid4()),
            attempts_before=_read_cells(outcomes.attempts, positions),
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
        self._log(logging.INFO, "%d devices were answered FAILED: they are retried in %.0f s.", len(failed), pause)

    # What follows

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
        """Write down how the run ended for the rows that are not settled. May be called again."""
        self._is_closed = True
        for batch in self._in_flight:
            if batch.has_left:
                self._set_status(batch, Status.UNKNOWN, "sent, but the run ended before the response came")
        for batch in [*self._in_flight, *self._waiting]:
            self._record_request(batch, None)
        if self.error is not None:
            self._explain_not_sent(self._to_send, f"the run ended before its turn: {reason_of(self.error)}")

    def _accept(self, batch: Batch, response: Response) -> None:
        self._has_accepted = True
        self._unanswered_in_a_row = 0
        self._refused_in_a_row = []
        self._paused_in_a_row = 0.0
        words = response.statuses
        failed = [position for position, word in zip(batch.positions, words, strict=True) if word == "FAILED"]
        self._record_request(batch, response.trace_id)
        _write_cells(self._outcomes.reason, batch.positions, [_REASON_OF[word] for word in words])
        _write_cells(self._outcomes.status, batch.positions, [_STATUS_OF[word] for word in words])
        self._failed += failed
        self.settled += len(words) - len(failed)
        self._log(
            logging.DEBUG, _RESPONSE_LINE, batch.number, len(batch.positions), batch.request_id, response.trace_id
        )

    def _handle_error(self, batch: Batch, error: BaseException, now: float) -> None:
        is_known = isinstance(error, _NOT_ACCEPTED) or (
            isinstance(error, NexthinkApiError) and not isinstance(error, NexthinkUnavailableError)
        )
        batch.unanswered += isinstance(error, NexthinkUnavailableError)
        batch.limited += isinstance(error, NexthinkRateLimitError)
        if batch.has_left and not is_known:
            # The devices may have been queued: that stays so until a clear response comes.
            self._set_status(batch, Status.UNKNOWN, f"sent, but no clear response came: {reason_of(error)}")
        elif batch.has_left:
            self._explain_not_sent(batch.positions, f"not accepted: {reason_of(error)}")
        size = len(batch.positions)
        step = next_step(error, size=size, unanswered=batch.unanswered, limited=batch.limited, rng=self._rng)
        if step.action is Action.THROTTLE:
            self._throttle(step.wait, error, now)  # which may end the run: then the log does not promise a retry
        self._log_action(step, batch, error)
        if step.action in (Action.RETRY, Action.THROTTLE):
            batch.is_retry = True
            batch.not_before = now + step.wait if step.action is Action.RETRY else 0.0
            self._waiting.append(batch)
            return
        self._record_request(batch, error.trace_id if isinstance(error, NexthinkApiError) else None)
        if step.action is Action.HALVE:
            self._batch_size = min(self._batch_size, (size + 1) // 2)
            self._queue.appendleft((batch.positions, True))
        elif step.action is Action.SPLIT:
            middle = (size + 1) // 2
            self._queue.extendleft([(batch.positions[middle:], True), (batch.positions[:middle], True)])
        elif step.action is Action.REJECT:
            self._reject(batch, error)
        elif step.action is Action.GIVE_UP:
            self._give_up(batch, error)
        else:
            if not batch.has_left:
                self._explain_not_sent(batch.positions, f"not sent: {reason_of(error)}")
            if isinstance(error, NexthinkStoppedError):
                self._waiting.append(batch)  # it was held back: the run is not complete
            self.abort(error)

    def _throttle(self, wait: float, error: BaseException, now: float) -> None:
        """Let the whole run wait; end it if waiting is all that happens."""
        until = max(self._paused_until, now + wait)
        added = until - max(self._paused_until, now)
        self._paused_in_a_row += added
        self._paused_until = until
        if self._paused_in_a_row > RETRY_AFTER_CAP_SECONDS:
            self.abort(error)
        elif added >= _LOGGED_PAUSE_SECONDS:
            self._log(logging.INFO, "%s No request goes out for %.0f s.", error, until - now)

    def _reject(self, batch: Batch, error: BaseException) -> None:
        """Leave a device out that is refused; end the run if all are, one after the other."""
        detail = error.detail if isinstance(error, NexthinkApiError) else None
        outcomes = self._outcomes
        for position in batch.positions:
            self._refused_in_a_row.append((position, outcomes.status[position], outcomes.reason[position]))
        self._set_status(batch, Status.REJECTED, f"Nexthink refuses this device: {detail or reason_of(error)}")
        self.settled += 1
        if len(self._refused_in_a_row) >= REFUSED_LIMITS[self._has_accepted]:
            for position, status, reason in self._refused_in_a_row:  # it is not these devices that are wrong
                if status is Status.NOT_SENT:
                    reason = f"not accepted, like all before it: {reason_of(error)}"
                outcomes.status[position], outcomes.reason[position] = status, reason
            self.abort(error)

    def _give_up(self, batch: Batch, error: BaseException) -> None:
        """Leave the batch as it is, UNKNOWN or NOT_SENT; end the run if the tenant seems to be down."""
        self._explain_not_sent(batch.positions, f"not sent: {reason_of(error)}")
        self.settled += len(batch.positions)
        self._unanswered_in_a_row += 1
        if self._unanswered_in_a_row >= AMBIGUOUS_LIMIT:
            self.abort(
                NexthinkUnavailableError(
                    f"{self._unanswered_in_a_row} batches in a row got no clear response: the run ends here rather "
                    f"than load the tenant further (circuit breaker). The last one: {error}",
                    request_id=batch.request_id,
                    reason=reason_of(error),
                )
            )

    def _log_action(self, step: Step, batch: Batch, error: BaseException) -> None:
        """Log what follows from a request that settles nothing: with its id, and without the devices."""
        level, follows = _FOLLOWS[Action.ABORT if self.error is not None else step.action]
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
        # Not logged here: the caller may hold a lock, and whoever logs waits for another one.
        if log.isEnabledFor(level):
            self.messages.append((level, message, *values))

    # The table

    def _record_request(self, batch: Batch, trace_id: str | None) -> None:
        """Write down for each row of a batch in which request it left; nothing if none has left."""
        if not batch.attempts:
            return
        outcomes, positions = self._outcomes, batch.positions
        _write_cells(outcomes.attempts, positions, [before + batch.attempts for before in batch.attempts_before])
        columns: tuple[tuple[list[Any], Any], ...] = (
            (outcomes.batch, batch.number),
            (outcomes.request_id, batch.request_id),
            (outcomes.trace_id, trace_id),
            (outcomes.submitted_at, batch.submitted_at),
        )
        for column, value in columns:
            _write_cells(column, positions, [value] * len(positions))

    def _set_status(self, batch: Batch, status: Status, reason: str) -> None:
        for position in batch.positions:
            self._outcomes.reason[position] = reason
            self._outcomes.status[position] = status

    def _explain_not_sent(self, positions: Sequence[int], reason: str) -> None:
        """Say why rows are NOT_SENT, where that is not said yet."""
        for position in positions:
            if self._outcomes.status[position] is Status.NOT_SENT and self._outcomes.reason[position] is None:
                self._outcomes.reason[position] = reason


_STATUS_OF = {"SCHEDULED": Status.SCHEDULED, "INVALID": Status.INVALID, "FAILED": Status.FAILED}
_REASON_OF = {
    "SCHEDULED": None,
    "INVALID": "Nexthink says the uid is malformed",
    "FAILED": "Nexthink could not schedule it",
}


def reason_of(error: BaseException) -> str:
    """Return the cause of an error in a few words: they are in every row that it is the reason of.

    :param error: any.
    """
    if isinstance(error, NexthinkApiError) and error.status:
        return f"{error.status} {error.code}" if error.code else str(error.status)
    if isinstance(error, NexthinkError):
        return error.reason or str(error.args[0])[:_SHOWN_CHARACTERS].rstrip(". ")
    return f"{type(error).__name__}: {error}"[:_SHOWN_CHARACTERS].rstrip(": ")


def _as_range(positions: list[int]) -> Sequence[int]:
    """Return positions without a gap, as most batches have, as a range: columns are then read and written by slices."""
    span = range(positions[0], positions[-1] + 1)
    return span if len(span) == len(positions) and list(span) == positions else positions


def _read_cells(column: list[T], positions: Sequence[int]) -> list[T]:
    """Return the cells of a column at these positions."""
    if isinstance(positions, range):
        return column[positions.start : positions.stop]
    return [column[at] for at in positions]


def _write_cells(column: list[T], positions: Sequence[int], cells: list[T]) -> None:
    """Write cells into a column, at these positions."""
    if isinstance(positions, range) and len(cells) == len(positions):  # or the column would change its length
        column[positions.start : positions.stop] = cells
        return
    for at, cell in zip(positions, cells, strict=True):
        column[at] = cell


_RESPONSE_LINE = "Batch %d, %d devices [x-request-id %s, x-trace-id %s]: answered."

_FOLLOWS: dict[Action, tuple[int, str]] = {
    Action.RETRY: (logging.INFO, "retry in {wait:.1f} s"),
    Action.THROTTLE: (logging.INFO, "retry after a pause of {wait:.1f} s"),
    Action.HALVE: (logging.INFO, "retry in smaller batches, as all that follow"),
    Action.SPLIT: (logging.INFO, "retry in two parts, to find the device that is refused"),
    Action.REJECT: (logging.WARNING, "this device is refused"),
    Action.GIVE_UP: (logging.WARNING, "no further retry"),
    Action.ABORT: (logging.WARNING, "no other batch is sent"),
}
