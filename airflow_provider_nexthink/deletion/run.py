"""The run: batches go out, answers come in, until every row is settled or something stops it.

One thread decides; the others only send. As long as all goes well there is nothing to decide: then a thread that has
its answer goes on with the next batch, and the deciding one looks in from time to time. What follows from an answer
that is no clear one is decided in ``next_step``, which is pure; the loop around it only sends and waits.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol, TypeVar

from airflow_provider_nexthink.backoff import (
    RETRY_AFTER_CAP_SECONDS,
    full_jitter,
    next_start,
    wait_before_resend,
)
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.outcome import Outcomes, Tally
from airflow_provider_nexthink.deletion.words import Status
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkBatchSizeError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkRateLimitError,
    NexthinkStoppedError,
    NexthinkUnavailableError,
)

FAILED_PAUSES_SECONDS = (1.0, 5.0, 15.0)
"""Devices that Nexthink answered FAILED are sent again once after each of these pauses."""

UNCLEAR_BATCHES_IN_A_ROW = 3
"""After so many batches without a clear answer in a row the tenant is taken to be down."""

REFUSED_IN_A_ROW = (20, 100)
"""After so many refused devices in a row, none accepted before or some, it is not the devices that are wrong."""

STOP_GRACE_SECONDS = 30.0
"""How long the requests under way may still be answered once an answer has stopped a run."""

KILL_GRACE_SECONDS = 2.5
"""How long the requests under way may still be answered once a run is told to stop. Airflow kills a process that has
not ended 5 seconds after it was asked to, and the table is still to be pushed."""

_LOOK_AROUND_SECONDS = 0.25

FIRST_AT_ONCE = 1
"""So many requests are under way at first, up to ``max_concurrency`` once the tenant has shown that it is not quick."""

QUICK_ANSWERS, QUICK_SECONDS = 10, 0.05
"""A tenant is quick if it gives so many answers in so many seconds. Python runs one thread at a time: several that have
little to wait for get in each other's way, and cost half as much again of the processor."""

_ANSWERS_AT_A_LOOK = 100
"""With so many answers to take the deciding thread is called; with twice as many, nothing goes out before it came."""

_ANSWERS_TO_SAVE = 4
"""The same where a checkpoint saves them, or ``max_concurrency`` if that is more: a lost process loses few."""

_TOLD_PAUSE_SECONDS = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class Answer(Protocol):
    """What came back for one batch."""

    @property
    def statuses(self) -> Sequence[str]:
        """SCHEDULED, INVALID or FAILED for each device, in the order sent."""

    @property
    def trace_id(self) -> str | None:
        """The trace id of the answer, where it had one."""


Send = Callable[[Sequence[dict[str, str]], str], Answer]
"""Sends devices under a request id, once; raises a ``NexthinkError`` for every answer but a clear one."""


@dataclass(frozen=True)
class Step:
    """What follows from an answer that settles nothing.

    :param action: ``again``: the same batch once more; ``pause``: the whole run waits, then the same batch;
        ``halve``: smaller batches from now on; ``split``: two batches instead of one, to find the row that is
        refused; ``reject``: it is this row; ``give up``: nobody knows; ``stop``: the run ends.
    :param wait: seconds before that.
    """

    action: Literal["again", "pause", "halve", "split", "reject", "give up", "stop"]
    wait: float = 0.0


def next_step(error: BaseException, *, size: int, unclear: int, limited: int, rng: random.Random) -> Step:
    """Decide what follows from an answer that is no clear 202.

    :param error: what the answer stands for.
    :param size: how many devices were sent.
    :param unclear: how many times this batch has ended without a clear answer, this time included.
    :param limited: how many times it has been answered 429, this time included.
    :param rng: the source of chance.
    """
    if isinstance(error, NexthinkRateLimitError):
        wait = max(error.retry_after or 0.0, full_jitter(limited, rng))
        return Step("pause", wait) if wait <= RETRY_AFTER_CAP_SECONDS else Step("stop")
    if isinstance(error, NexthinkBatchSizeError):
        return Step("halve") if size > 1 else Step("stop")
    if isinstance(error, NexthinkInvalidRequestError):
        return Step("split") if size > 1 else Step("reject")
    if isinstance(error, NexthinkUnavailableError):
        again = wait_before_resend(unclear, error.retry_after, rng)
        return Step("give up") if again is None else Step("again", again)
    return Step("stop")


@dataclass(eq=False)
class Batch:
    """Devices that go out in one request, and how that went so far."""

    positions: Sequence[int]
    devices: list[dict[str, str]]
    number: int
    request_id: str
    attempts_before: list[int]
    attempts: int = 0
    unclear: int = 0
    limited: int = 0
    not_before: float = 0.0
    submitted_at: str | None = None


@dataclass
class DeletionRun:
    """Sends the planned rows and settles each of them in the outcomes.

    :param outcomes: the table, as the plan left it.
    :param to_send: the positions of the rows to send, in order.
    :param send: sends one batch; called from several threads.
    :param batch_size: devices in one request.
    :param max_concurrency: requests under way at once, at the most: a quick tenant gets one after the other.
    :param prepare: called in the calling thread before the first batch and then several times a second while batches go
        out, such as for a token, so that no thread waits for one; if it raises, no other batch is sent.
    :param stop: once set, no other batch is sent.
    :param on_progress: called in the calling thread after each answer, with the rows settled and the rows in all.
    :param checkpoint: keeps what is settled for a retry; called in the calling thread.
    :param last_batch: the number of the last batch of an earlier try; numbers go on from there.
    :param requests_per_second: how many requests may start in a second at the most; None for no limit.
    :param clock: time and chance.
    """

    outcomes: Outcomes
    to_send: Sequence[int]
    send: Send
    batch_size: int
    max_concurrency: int
    prepare: Callable[[], object] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    on_progress: Callable[[int, int], None] = lambda _settled, _all: None
    checkpoint: Checkpoint | None = None
    last_batch: int = 0
    requests_per_second: float | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.tally = Tally()
        self.error: BaseException | None = None
        self._queue: deque[Sequence[int]] = deque()
        self._waiting: list[Batch] = []
        # A batch goes from the queue to those under way to the answered ones, each step under the lock.
        self._lock = threading.Lock()
        self._under_way: set[Batch] = set()
        self._answered: deque[tuple[Batch, Answer | BaseException]] = deque()
        self._unclear = 0  # how many of the answered ones have no clear answer
        self._answers_at_a_look = max(self.max_concurrency, _ANSWERS_TO_SAVE) if self.checkpoint else _ANSWERS_AT_A_LOOK
        self._at_once = min(FIRST_AT_ONCE, self.max_concurrency)
        self._watched = self.clock.monotonic(), 0  # a moment, and how many answers had come by then
        self._wake: SimpleQueue[None] = SimpleQueue()  # the deciding thread, for there is something to do
        self._failed: list[int] = []
        self._failed_rounds = 0
        self._settled = 0
        self._paused_until = 0.0
        self._next_start = 0.0
        self._paused_in_a_row = 0.0
        self._unclear_in_a_row = 0
        self._refused_in_a_row: list[int] = []
        self._accepted = False
        self._ended = threading.Event()

    def goes_on(self) -> bool:
        """Tell whether requests may still be sent. Safe to ask from any thread."""
        return self.error is None and not (self.stop.is_set() or self._ended.is_set())

    def run(self) -> BaseException | None:
        """Send everything, in as many requests as it takes.

        :return: what stopped the run before its end, or None.
        """
        self._enqueue(self.to_send)
        pool = ThreadPoolExecutor(self.max_concurrency, thread_name_prefix="nexthink")
        try:
            while self.error is None and (self._has_work() or self._send_failed_again()):
                if self.stop.is_set():
                    raise NexthinkStoppedError("The run was stopped from outside; no other batch was sent.")
                self._send_what_is_due(pool)
                self._wait_for_an_answer()
        except BaseException as interruption:  # noqa: BLE001 - such as Airflow's timeout: the table must survive it
            self.error = interruption
        self._ended.set()
        for _ in range(3):  # Airflow's timeout comes once, and may come here: the next go gets through
            try:
                self._settle_the_rest()
                if self.checkpoint:
                    self.checkpoint.save()
                break
            except BaseException as interruption:  # noqa: BLE001 - see above
                self.error = interruption
        pool.shutdown(wait=False, cancel_futures=True)
        return self.error

    def _has_work(self) -> bool:
        with self._lock:  # or a batch might be missed on its way from one to the next
            return bool(self._queue or self._waiting or self._under_way or self._answered)

    def _enqueue(self, positions: Sequence[int]) -> None:
        for start in range(0, len(positions), self.batch_size):
            self._queue.append(_as_range(list(positions[start : start + self.batch_size])))

    def _send_failed_again(self) -> bool:
        """Put the rows that were answered FAILED back, a few times; tell whether there were any."""
        if not self._failed or self._failed_rounds >= len(FAILED_PAUSES_SECONDS):
            return False
        failed, self._failed = self._failed, []
        self._paused_until = self.clock.monotonic() + FAILED_PAUSES_SECONDS[self._failed_rounds]
        log.info(
            "%d devices were answered FAILED: they are sent again in %.0f s.",
            len(failed),
            FAILED_PAUSES_SECONDS[self._failed_rounds],
        )
        self._failed_rounds += 1
        self._enqueue(failed)
        return True

    # Sending

    def _send_what_is_due(self, pool: ThreadPoolExecutor) -> None:
        due = [batch for batch in self._waiting if batch.not_before <= self.clock.monotonic()]
        if not (due or self._queue) or not self._may_start():
            return
        self.prepare()
        for batch in due:
            with self._lock:  # another thread may begin a batch, or have an answer, just before
                if not self._may_start():
                    return
                self._begin(batch)
            pool.submit(self._send_on, batch)
            self._waiting.remove(batch)
        while following := self._begin_next():
            pool.submit(self._send_on, following)

    def _begin_next(self) -> Batch | None:
        """Begin the next batch of the queue, if one may go out now."""
        with self._lock:
            return self._begin(self._next_batch()) if self._has_room() and self._may_start() else None

    def _may_start(self) -> bool:
        """Tell whether a request may go out now: nothing has ended or holds up the run, and the pace allows it."""
        is_time = self.clock.monotonic() >= max(self._paused_until, self._next_start)
        is_kept_up_with = len(self._answered) < 2 * self._answers_at_a_look
        return is_time and is_kept_up_with and not self._unclear and self.goes_on()

    def _has_room(self) -> bool:
        """Tell whether a batch of the queue may join those under way and those that wait for their next go."""
        under_way = len(self._under_way)
        return bool(self._queue) and under_way < self._at_once and under_way + len(self._waiting) < self.max_concurrency

    def _next_batch(self) -> Batch:
        positions = self._queue.popleft()
        if len(positions) > self.batch_size:  # the tenant has shown since that it takes fewer
            self._queue.appendleft(positions[self.batch_size :])
            positions = positions[: self.batch_size]
        self.tally.batches += 1
        uids, names = _cells(self.outcomes.uid, positions), _cells(self.outcomes.name, positions)
        devices = [{"uid": uid or "", "name": name or ""} for uid, name in zip(uids, names, strict=True)]
        before = _cells(self.outcomes.attempts, positions)
        return Batch(positions, devices, self.last_batch + self.tally.batches, str(uuid.uuid4()), before)

    def _begin(self, batch: Batch) -> Batch:
        """Note that a batch goes out now."""
        self._next_start = next_start(self.clock.monotonic(), self.requests_per_second)
        batch.submitted_at = self.clock.now().isoformat(timespec="milliseconds")
        self.tally.requests += 1
        self.tally.retries += batch.attempts > 0
        batch.attempts += 1
        self._under_way.add(batch)
        return batch

    # In the threads that send

    def _send_on(self, batch: Batch | None) -> None:
        """Send a batch, and then the next ones of the queue, as long as there is nothing to decide."""
        try:
            while batch:
                batch = self._next_after(batch, self._answer_to(batch))
        except BaseException as error:  # noqa: BLE001 - nobody else would see it
            self.error = self.error or error
        self._wake.put(None)

    def _answer_to(self, batch: Batch) -> Answer | BaseException:
        try:
            return self.send(batch.devices, batch.request_id)
        except BaseException as error:  # noqa: BLE001 - the deciding thread sees to it
            return error

    def _next_after(self, batch: Batch, answer: Answer | BaseException) -> Batch | None:
        """Hand an answer over, and return the batch that may go out at once, if one may."""
        if not isinstance(answer, BaseException):
            batch.devices = []  # nobody needs them any more, and a hundred answers may wait
        with self._lock:
            self._unclear += isinstance(answer, BaseException)
            self._answered.append((batch, answer))
            self._under_way.remove(batch)
            if len(self._answered) == self._answers_at_a_look:
                self._wake.put(None)
        return self._begin_next()

    # Answers

    def _wait_for_an_answer(self) -> None:
        now = self.clock.monotonic()
        due = max(self._paused_until, self._next_start)
        if not self._has_room():
            due = max(due, min((batch.not_before for batch in self._waiting), default=0.0))
        pause = min(max(due - now, 0.0), _LOOK_AROUND_SECONDS)  # never so long that a stop goes unnoticed
        if not (self._under_way or self._answered):
            if pause:
                self.clock.sleep(pause)
                self._watched = self.clock.monotonic(), self.tally.requests
            return
        self._take_answers(pause or (_LOOK_AROUND_SECONDS if self._at_once == self.max_concurrency else QUICK_SECONDS))
        self._send_more_if_that_is_quicker()

    def _send_more_if_that_is_quicker(self) -> None:
        since, answered_before = self._watched
        now, answered = self.clock.monotonic(), self.tally.requests - len(self._under_way)
        if now - since < QUICK_SECONDS:
            return
        if (answered - answered_before) / (now - since) < QUICK_ANSWERS / QUICK_SECONDS:
            self._at_once = self.max_concurrency
        self._watched = now, answered

    def _take_answers(self, timeout: float) -> None:
        with suppress(Empty):
            self._wake.get(timeout=timeout)
            while True:
                self._wake.get_nowait()
        for _ in range(len(self._answered)):  # of this thread's other duties none must wait for those that still come
            batch, answer = self._answered[0]  # where it stays until it is noted: an interruption may come at any point
            if isinstance(answer, BaseException):
                self._follow(batch, answer)
            else:
                self._accept(batch, answer)
            with self._lock:
                self._unclear -= isinstance(answer, BaseException)
                self._answered.popleft()
            if self.checkpoint:
                self.checkpoint.note(batch.positions)
            self.on_progress(self._settled, len(self.to_send))

    def _accept(self, batch: Batch, answer: Answer) -> None:
        self._accepted = True
        self._unclear_in_a_row = 0
        self._refused_in_a_row = []
        self._paused_in_a_row = 0.0
        self._note(batch, answer.trace_id)
        log.debug(_ANSWER_LINE, batch.number, len(batch.positions), batch.request_id, answer.trace_id)
        words = answer.statuses
        failed = [position for position, word in zip(batch.positions, words, strict=True) if word == "FAILED"]
        _fill(self.outcomes.status, batch.positions, [_STATUS_OF[word] for word in words])
        _fill(self.outcomes.reason, batch.positions, [_REASON_OF[word] for word in words])
        self._failed += failed
        self._settled += len(words) - len(failed)

    def _follow(self, batch: Batch, error: BaseException) -> None:
        """Do what follows from an answer that settles nothing."""
        unavailable = isinstance(error, NexthinkUnavailableError)
        batch.unclear += unavailable
        batch.limited += isinstance(error, NexthinkRateLimitError)
        if unavailable or not isinstance(error, NexthinkError):
            # It may have been carried out: that stays so until a clear answer comes.
            self._mark(batch, Status.UNKNOWN, f"sent, but no clear answer came: {_brief(error)}")
        trace_id = error.trace_id if isinstance(error, NexthinkApiError) else None
        step = next_step(
            error, size=len(batch.positions), unclear=batch.unclear, limited=batch.limited, rng=self.clock.rng
        )
        _tell(step, batch, error, has_ended=self.error is not None)
        if step.action == "again":
            batch.not_before = self.clock.monotonic() + step.wait
            self._waiting.append(batch)
            return
        if step.action == "pause":
            self._pause(step.wait, error)
            self._waiting.append(batch)
            return
        self._note(batch, trace_id)
        if step.action == "halve":
            self.batch_size = min(self.batch_size, (len(batch.positions) + 1) // 2)
            self._queue.appendleft(batch.positions)
        elif step.action == "split":
            middle = (len(batch.positions) + 1) // 2
            self._queue.extendleft([batch.positions[middle:], batch.positions[:middle]])
        elif step.action == "reject":
            detail = error.detail if isinstance(error, NexthinkApiError) else None
            self._mark(batch, Status.REJECTED, f"Nexthink refuses this device: {detail or _brief(error)}")
            self._settled += 1
            self._refused_in_a_row += batch.positions
            if len(self._refused_in_a_row) >= REFUSED_IN_A_ROW[self._accepted]:
                for position in self._refused_in_a_row:  # it is not these devices that are wrong
                    self.outcomes.status[position] = Status.NOT_SENT
                    self.outcomes.reason[position] = f"not accepted, like all before it: {_brief(error)}"
                self.error = self.error or error
        elif step.action == "give up":
            self._give_up(batch, error)
        else:
            self._mark_unsent(batch.positions, f"not accepted: {_brief(error)}")
            self.error = self.error or error

    def _pause(self, wait: float, error: BaseException) -> None:
        """Let the whole run wait; end it if waiting is all that happens."""
        now = self.clock.monotonic()
        until = max(self._paused_until, now + wait)
        if until - max(self._paused_until, now) >= _TOLD_PAUSE_SECONDS:
            log.info("%s No request goes out for %.0f s.", error, until - now)
        self._paused_in_a_row += until - max(self._paused_until, now)
        self._paused_until = until
        if self._paused_in_a_row > RETRY_AFTER_CAP_SECONDS:
            self.error = self.error or error

    def _give_up(self, batch: Batch, error: BaseException) -> None:
        """Leave the batch UNKNOWN; end the run if the tenant seems to be down."""
        self._settled += len(batch.positions)
        self._unclear_in_a_row += 1
        if self._unclear_in_a_row >= UNCLEAR_BATCHES_IN_A_ROW:
            self.error = self.error or NexthinkUnavailableError(
                f"{self._unclear_in_a_row} batches in a row got no clear answer; the run stops rather than hammer "
                f"the tenant. The last one: {error}",
                request_id=batch.request_id,
            )

    # The table

    def _note(self, batch: Batch, trace_id: str | None) -> None:
        """Write down for each row of a batch with which request it went out."""
        outcomes, positions = self.outcomes, batch.positions
        _fill(outcomes.attempts, positions, [before + batch.attempts for before in batch.attempts_before])
        columns: tuple[tuple[list[Any], Any], ...] = (
            (outcomes.batch, batch.number),
            (outcomes.request_id, batch.request_id),
            (outcomes.trace_id, trace_id),
            (outcomes.submitted_at, batch.submitted_at),
        )
        for column, value in columns:
            _fill(column, positions, [value] * len(positions))

    def _mark(self, batch: Batch, status: Status, reason: str) -> None:
        for position in batch.positions:
            self.outcomes.status[position] = status
            self.outcomes.reason[position] = reason

    def _mark_unsent(self, positions: Sequence[int], reason: str) -> None:
        """Say why rows were not sent, where nothing is said yet."""
        for position in positions:
            if self.outcomes.status[position] is Status.NOT_SENT and self.outcomes.reason[position] is None:
                self.outcomes.reason[position] = reason

    def _settle_the_rest(self) -> None:
        """Take the answers that still come; what is left was not sent, or nobody knows."""
        if self.error is None:
            return
        by_an_answer = isinstance(self.error, NexthinkError) and not isinstance(self.error, NexthinkStoppedError)
        try:
            self._await_answers(STOP_GRACE_SECONDS if by_an_answer else KILL_GRACE_SECONDS)
        finally:  # whatever comes in between: what was sent must not look as if it was not
            with self._lock:
                unanswered = [*self._under_way, *(batch for batch, _ in self._answered)]
            for batch in unanswered:
                self._mark(batch, Status.UNKNOWN, "sent, but the run was stopped before the answer came")
            for batch in [*unanswered, *self._waiting]:
                self._note(batch, None)
            self._mark_unsent(self.to_send, f"the run stopped before its turn: {_brief(self.error)}")

    def _await_answers(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while self._under_way and (left := end - self.clock.monotonic()) > 0:
            if self.stop.is_set():  # now it must end soon, whatever ended it
                end = min(end, self.clock.monotonic() + KILL_GRACE_SECONDS) if left > KILL_GRACE_SECONDS else end
            self._take_answers(min(left, _LOOK_AROUND_SECONDS))
        self._take_answers(0)


_STATUS_OF = {"SCHEDULED": Status.SCHEDULED, "INVALID": Status.INVALID, "FAILED": Status.FAILED}
_REASON_OF = {
    "SCHEDULED": None,
    "INVALID": "Nexthink says the uid is malformed",
    "FAILED": "Nexthink could not schedule it",
}


def _as_range(positions: list[int]) -> Sequence[int]:
    """Return positions without a gap, as those of most batches, as a range: a column gives and takes them in one go."""
    span = range(positions[0], positions[-1] + 1)
    return span if len(span) == len(positions) and list(span) == positions else positions


def _cells(column: list[T], positions: Sequence[int]) -> list[T]:
    """Return the cells of a column at these positions."""
    if isinstance(positions, range):
        return column[positions.start : positions.stop]
    return [column[at] for at in positions]


def _fill(column: list[T], positions: Sequence[int], cells: list[T]) -> None:
    """Write cells into a column, at these positions."""
    if isinstance(positions, range) and len(cells) == len(positions):  # or the column would change its length
        column[positions.start : positions.stop] = cells
        return
    for at, cell in zip(positions, cells, strict=True):
        column[at] = cell


def _brief(error: BaseException) -> str:
    """Return an error in a few words: it stands in every row that it befell."""
    if isinstance(error, NexthinkApiError) and error.status:
        return f"{error.status} {error.code}" if error.code else str(error.status)
    return type(error).__name__


_ANSWER_LINE = "Batch %d, %d devices [x-request-id %s, x-trace-id %s]: answered."

_FOLLOWS: dict[str, tuple[int, str]] = {
    "again": (logging.INFO, "sent again in {wait:.1f} s"),
    "pause": (logging.INFO, "sent again after a pause of {wait:.1f} s"),
    "halve": (logging.INFO, "sent again in smaller batches, like all that follow"),
    "split": (logging.INFO, "split in two, to find the device that is refused"),
    "reject": (logging.WARNING, "this device is refused"),
    "give up": (logging.WARNING, "not sent again: what became of them is UNKNOWN"),
    "stop": (logging.WARNING, "no other batch is sent"),
}


def _tell(step: Step, batch: Batch, error: BaseException, *, has_ended: bool) -> None:
    """Log what follows from an answer that settles nothing: with the request id, and without the devices."""
    level, follows = _FOLLOWS["stop" if has_ended else step.action]
    what = error.args[0] if isinstance(error, NexthinkError) else type(error).__name__
    log.log(
        level,
        "Batch %d, %d devices, try %d [x-request-id %s]: %s -> %s.",
        batch.number,
        len(batch.positions),
        batch.attempts,
        batch.request_id,
        what,
        follows.format(wait=step.wait),
    )
