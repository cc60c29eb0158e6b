"""One run in the ledger, from the reservation to its end.

A thread of its own talks to the database. So a database that hangs holds up neither the workers that send nor the main
thread that supervises them, which Airflow may interrupt at any instruction.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import update

from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkGuardError,
    NexthinkLedgerBusyError,
    NexthinkLedgerError,
    NexthinkLedgerMismatchError,
)
from airflow_provider_nexthink.ledger import reservation
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.reservation import Columns, InventoryLook, Outcome, RunRequest
from airflow_provider_nexthink.ledger.schema import runs
from airflow_provider_nexthink.status import RESUMABLE

HEARTBEAT_SECONDS = 30.0
"""How often a run records a heartbeat; see ``reservation.LOST_AFTER``."""

PATIENCE_SECONDS = 30.0
"""For so long a ledger that fails is tried again: until then no device is sent but those released before."""

BUSY_SECONDS = 600.0
"""The same where other runs hold the lock of the ledger; and for so long it may take to record the devices of a run."""

BLOCKED_SECONDS = 10.0
"""For so long a ledger may take to record that a guard has stopped a run."""

STOP_SECONDS = 1.0
"""For so long the end of a run that is stopped waits for the ledger: Airflow kills it soon."""

_TICK_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_SAVE_SECONDS = 1.0

Done = TypeVar("Done")

log = logging.getLogger(__name__)


class LedgerRun:
    """One run in the ledger. Its methods are called by one thread, that of the run.

    :param database: the ledger.
    :param ahead: so many devices may be sent at most before the ledger knows of them: those of a lost process that the
        ledger cannot tell from sent ones.
    """

    def __init__(self, database: Database, *, ahead: int) -> None:
        self.released = 0
        """How many devices, in order, may be sent."""
        self.on_change: Callable[[], object] = lambda: None
        """Called by the thread of the ledger when ``released`` has changed, or ``error`` before its time."""
        self.run_id: int | None = None
        self._database = database
        self._clock = database.clock
        self._ahead = ahead
        self._columns: Columns | None = None
        self._positions: Sequence[int] = ()
        self._seq_of: dict[int, int] = {}
        self._is_recorded = bytearray()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._pending: list[Outcome] = []
        self._written = 0  # so many of them are in the database
        self._wanted = 0
        self._final: tuple[list[Outcome], str | None] | None = None
        self._is_abandoned = self._has_thread = False
        self._is_over = self._has_given_up = False
        self._has_ended: SimpleQueue[None] = SimpleQueue()
        self._error: BaseException | None = None
        self._beat_at = 0.0
        self._trying_since: float | None = None  # the first of the attempts to write since one has succeeded
        self._failure: NexthinkLedgerError | None = None  # of the latest attempt

    @property
    def error(self) -> BaseException | None:
        """What keeps the ledger from being written; the run must end."""
        since = self._trying_since
        if self._error is None and since is not None and self._clock.monotonic() - since >= self._patience():
            # Checked by time: an attempt that hangs never returns.
            self._error = self._failure or NexthinkLedgerError(
                f"{self._database.title} has not responded for {PATIENCE_SECONDS:.0f} seconds. No other device is sent."
            )
        return self._error

    def reserve(
        self,
        request: RunRequest,
        columns: Columns,
        positions: Sequence[int],
        *,
        check: Callable[[], None],
        earlier: Columns | None = None,
        look: InventoryLook | None = None,
    ) -> None:
        """Record each device as REQUESTED, if the limits that need memory allow it.

        :param request: what the run is about to do.
        :param columns: the outcome table.
        :param positions: the rows to send, in order.
        :param check: called often; raises what is to end the wait.
        :param earlier: what is known of earlier tries of the same task.
        :param look: a look at the inventory just before.
        :raises NexthinkGuardError: if a limit is exceeded; nothing is sent.
        :raises NexthinkLedgerError: if the ledger cannot be written; nothing is sent.
        :raises NexthinkLedgerMismatchError: if it is no ledger of this tenant; nothing is sent.
        """
        self._columns, self._positions = columns, positions
        try:
            reserved = self._wait_for(lambda: self._reserve(request, earlier, look), check, BUSY_SECONDS)
            for warning in reserved.warnings:
                log.warning("%s", warning)
            if self.run_id is None:
                self._jobs.put(None)
                return
            log.info("The ledger has the %d devices as REQUESTED (run %d).", len(positions), self.run_id)
            self._seq_of = {position: seq for seq, position in enumerate(positions)}
            self._is_recorded = bytearray(len(positions))
            self._jobs.put(self._keep_up)
        except BaseException:
            self.abandon()
            raise

    def check_limits(self, request: RunRequest, *, check: Callable[[], None]) -> None:
        """Check the limits that need memory, for a dry run that is too long to be held in memory.

        :param request: what the run would do.
        :param check: called often; raises what is to end the wait.
        :raises NexthinkGuardError: if a limit is exceeded.
        :raises NexthinkLedgerError: if the ledger cannot be used.
        :raises NexthinkLedgerMismatchError: if it is no ledger of this tenant.
        """
        try:
            for warning in self._wait_for(lambda: self._check_limits(request), check, BUSY_SECONDS):
                log.warning("%s", warning)
        finally:
            self._is_abandoned = True
            self._jobs.put(None)

    def record_blocked(self, request: RunRequest, error: NexthinkGuardError, *, check: Callable[[], None]) -> None:
        """Record that a guard has stopped the run before it sent anything; a failure is logged.

        :param request: what the run was about to do.
        :param error: of the guard.
        :param check: called often; raises what is to end the wait.
        """
        try:
            self._wait_for(lambda: self._record_blocked(request, str(error)), check, BLOCKED_SECONDS)
        except NexthinkError as failure:
            log.warning("That a guard has stopped this run could not be written to the ledger: %s", failure)
        self._jobs.put(None)

    def abandon(self) -> None:
        """Give back what was reserved: nothing of it was sent, or will be."""
        self._is_abandoned = True
        self._jobs.put(self._give_back)
        self._jobs.put(None)

    def take(self, count: int) -> None:
        """Say how many devices have been handed out, so that more are released in time.

        :param count: of those in order, retries aside.
        """
        wanted = min(count + self._ahead, len(self._positions))
        if self.released - count < self._ahead // 2 and self._wanted < wanted:
            self._wanted = wanted
            self._jobs.put(None)

    def record(self, positions: Sequence[int]) -> None:
        """Record those of these rows that have a final status; it is written soon.

        :param positions: the rows of one response.
        """
        columns = self._columns
        if columns is None or self.run_id is None:
            return
        pairs = [(self._seq_of[at], at) for at in positions if columns.status[at] in RESUMABLE]
        if not pairs:
            return
        self._pending.extend(reservation.outcomes_of(columns, pairs))
        for seq, _ in pairs:
            self._is_recorded[seq] = 1

    def finish(self, error: BaseException | None, *, is_stopped: Callable[[], bool]) -> BaseException | None:
        """Record what became of each device. May be called again after an interruption.

        :param error: what ended the run, if something did.
        :param is_stopped: whether the run is to end at once.
        :return: what kept it from being recorded, or None. It stays REQUESTED then, until the next try records it.
        """
        if self.run_id is None or self._columns is None:
            return None
        if self._final is None:
            rest = [(seq, at) for seq, at in enumerate(self._positions) if not self._is_recorded[seq]]
            words = None if error is None else f"{type(error).__name__}: {_words_of(error)}"
            self._final = reservation.outcomes_of(self._columns, rest), words
        self._jobs.put(None)
        start = self._clock.monotonic()
        while not (self._is_over or self._has_given_up):
            with suppress(Empty):
                self._has_ended.get(timeout=_TICK_SECONDS)
            waited = self._clock.monotonic() - start
            self._has_given_up = waited >= (STOP_SECONDS if is_stopped() else self._patience())
        if self._is_over:
            return None
        cause = self.error or self._failure or "no response"
        return NexthinkLedgerError(
            f"What became of the devices could not be written to the ledger ({cause}): there they stay REQUESTED until "
            "the next try of this task has written it. The outcome table of this try is complete."
        )

    def _patience(self) -> float:
        """Return for how many seconds a ledger that fails is tried again."""
        return BUSY_SECONDS if isinstance(self._failure, NexthinkLedgerBusyError) else PATIENCE_SECONDS

    def _wait_for(self, job: Callable[[], Done], check: Callable[[], None], seconds: float) -> Done:
        """Run a job in the thread of the ledger, and wait for what it returns or raises."""
        outcome: SimpleQueue[tuple[Done] | BaseException] = SimpleQueue()

        def run() -> None:
            try:
                outcome.put((job(),))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
                outcome.put(error)

        if not self._has_thread:
            self._has_thread = True
            threading.Thread(target=self._work, name="nexthink-ledger", daemon=True).start()
        self._jobs.put(run)
        start = self._clock.monotonic()
        while True:
            check()
            if self._clock.monotonic() - start >= seconds:
                raise NexthinkLedgerError(
                    f"{self._database.title} has not responded for {seconds:.0f} seconds. Nothing was sent by this try."
                )
            with suppress(Empty):
                done = outcome.get(timeout=_TICK_SECONDS)
                if isinstance(done, BaseException):
                    raise done
                return done[0]

    # In the thread of the ledger

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _reserve(
        self, request: RunRequest, earlier: Columns | None, look: InventoryLook | None
    ) -> reservation.Reservation:
        """Reserve; try again as long as other runs hold the lock of the ledger, and nobody has given up waiting."""
        while True:
            try:
                return self._reserve_once(request, earlier, look)
            except NexthinkLedgerBusyError:
                if self._is_abandoned:
                    raise

    def _reserve_once(
        self, request: RunRequest, earlier: Columns | None, look: InventoryLook | None
    ) -> reservation.Reservation:
        assert self._columns is not None  # noqa: S101 - set by the only caller
        try:
            with self._database.locked() as (connection, now):
                reserved = reservation.reserve(
                    connection,
                    now,
                    request,
                    self._columns,
                    self._positions,
                    released=self._ahead,
                    earlier=earlier,
                    look=look,
                )
                if request.dry_run or self._is_abandoned:
                    raise _NothingReservedError(reserved)
        except _NothingReservedError as nothing:  # rolled back
            return nothing.reserved
        except NexthinkLedgerError as error:
            raise type(error)(f"{error} Nothing was sent by this try.") from error
        self.run_id = reserved.run_id
        self.released = self._wanted = min(self._ahead, len(self._positions))
        self._beat_at = self._clock.monotonic()
        return reserved

    def _check_limits(self, request: RunRequest) -> list[str]:
        while True:
            try:
                with self._database.locked() as (connection, now):
                    return reservation.check_limits(connection, now, request, request.planned)
            except NexthinkLedgerBusyError:
                if self._is_abandoned:
                    raise

    def _record_blocked(self, request: RunRequest, error: str) -> None:
        with self._database.locked() as (connection, now):
            reservation.record_blocked(connection, now, request, error)

    def _give_back(self) -> None:
        if self.run_id is None:
            return
        with suppress(NexthinkError), self._database.locked(is_final=True) as (connection, now):
            connection.execute(update(runs).where(runs.c.id == self.run_id).values(released=0))
            reservation.close_run(connection, now, self.run_id)

    def _keep_up(self) -> None:
        """Write what is to be written, until the run has ended."""
        while not (self._is_over or self._has_given_up or self._is_abandoned):
            with suppress(Empty):
                self._jobs.get(timeout=_SAVE_SECONDS if self._trying_since is None else _RETRY_SECONDS)
            now = self._clock.monotonic()
            is_due = (
                self._written < len(self._pending)
                or self._wanted > self.released
                or self._final is not None
                or now - self._beat_at >= HEARTBEAT_SECONDS
            )
            if is_due:
                self._write(now)
        if self._is_abandoned:
            self._give_back()
        self._has_ended.put(None)
        self._jobs.put(None)

    def _write(self, now: float) -> None:
        pending, wanted, final = len(self._pending), self._wanted, self._final
        if self._trying_since is None:
            self._trying_since = now
        try:
            self._write_once(self._pending[self._written : pending], wanted, final)
        except NexthinkLedgerError as error:
            self._failure = error
            return
        except NexthinkLedgerMismatchError as error:  # it was a ledger when the run began, and may be one again
            self._failure = NexthinkLedgerError(str(error))
            return
        except BaseException as defect:  # noqa: BLE001 - no other thread would see it
            self._fail(defect)
            return
        self._pending[self._written : pending] = [_WRITTEN] * (pending - self._written)
        self._written, self._trying_since, self._failure, self._beat_at = pending, None, None, now
        self._is_over = final is not None
        if wanted > self.released and not self._error:
            self.released = wanted
            self.on_change()

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            self.on_change()

    def _write_once(self, pending: list[Outcome], wanted: int, final: tuple[list[Outcome], str | None] | None) -> None:
        run_id: Any = self.run_id
        if final is not None:
            outcomes, words = final
            with self._database.locked(is_final=True) as (connection, now):
                reservation.finish_run(connection, now, run_id, [*pending, *outcomes], error=words)
            return
        with self._database.transaction() as connection:
            is_running = reservation.keep_run(connection, self._clock.now(), run_id, pending, released=wanted)
        if not is_running:
            self._fail(
                NexthinkLedgerError(
                    "The ledger has this run as lost: another try of the task has begun, or this process gave no sign "
                    "of life for long. No other device is sent."
                )
            )


class _NothingReservedError(Exception):
    def __init__(self, reserved: reservation.Reservation) -> None:
        super().__init__()
        self.reserved = reservation.Reservation(None, reserved.warnings)


_WRITTEN = Outcome([], {})
"""In the place of an outcome that is in the database."""


def _words_of(error: BaseException) -> str:
    # The text of an error of anything else may hold what belongs in no database.
    return str(error) if isinstance(error, NexthinkError) else "see the log of this try"
