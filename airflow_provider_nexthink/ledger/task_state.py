"""What the tries of one task share, kept in the ledger: for Airflow before 3.3, which keeps no state for a task."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from airflow_provider_nexthink.exceptions import NexthinkLedgerError, NexthinkTryOverError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.schema import task_state

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

READ_SECONDS = 30.0
"""For so long a value is waited for."""

WRITE_SECONDS = 5.0
"""For so long a write is waited for; it may still be done later."""

STOP_SECONDS = 1.0
"""The same once the run is stopped: its table is still to be reported."""

_TICK_SECONDS = 0.1

_LATEST_TRY_KEY = "nexthink_latest_try"


class LedgerStateStore:
    """A key-value store for the tries of one task, with the rules of the checkpoint: it is what writes to it.

    Each call talks to the database in a thread: the calling one may be interrupted at any instruction, and must not
    hang.

    :param database: the ledger.
    :param task_key: of the task.
    :param try_number: the number of this try: once a later one has begun, this one writes nothing any more. None if
        tries are not counted.
    :param is_stopped: says whether the run is to end soon.
    """

    def __init__(
        self,
        database: Database,
        task_key: str,
        *,
        try_number: int | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._task_key = task_key
        self._try_number = try_number
        self._is_stopped = is_stopped
        self._has_begun = try_number is None
        self._thread: threading.Thread | None = None  # of the latest call
        self._late: SimpleQueue[Any] | None = None  # for the outcome of a call that was not waited for any longer

    def get(self, key: str) -> Any:
        """Return the value of a key, or None.

        :param key: the key.
        :raises NexthinkLedgerError: if the ledger cannot be read.
        :raises NexthinkTryOverError: if a later try has begun before this one.
        """

        def read(connection: Connection) -> Any:
            if not self._has_begun:
                self._lock(connection)
            return self._read(connection, key)

        return self._call(read, READ_SECONDS)

    def set(self, key: str, value: Any) -> None:
        """Store a JSON value under a key.

        :param key: the key.
        :param value: the value.
        :raises NexthinkLedgerError: if the ledger cannot be written.
        :raises NexthinkTryOverError: if a later try has begun.
        """

        def write(connection: Connection) -> None:
            self._lock(connection)
            self._write(connection, key, value)

        self._call(write, WRITE_SECONDS)

    def delete(self, key: str) -> None:
        """Delete a key.

        :param key: the key.
        :raises NexthinkLedgerError: if the ledger cannot be written.
        :raises NexthinkTryOverError: if a later try has begun.
        """

        def remove(connection: Connection) -> None:
            self._lock(connection)
            connection.execute(delete(task_state).where(*self._at(key)))

        self._call(remove, WRITE_SECONDS)

    def _call(self, job: Callable[[Connection], Any], seconds: float) -> Any:
        """Do something in a transaction, in a thread; return what it returns."""
        title = self._database.title
        if self._late is not None and self._late.empty():
            raise NexthinkLedgerError(f"{title} has still not responded.")
        before = self._thread  # an interruption may have left it behind
        outcome: SimpleQueue[Any] = SimpleQueue()

        def run() -> None:
            if before is not None:
                before.join()
            try:
                with self._database.transaction() as connection:
                    done = job(connection)
                self._has_begun = True
                outcome.put((done, None))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
                outcome.put((None, error))

        thread = threading.Thread(target=run, name="nexthink-task-state", daemon=True)
        thread.start()
        self._thread = thread
        begin = time.monotonic()
        while True:
            limit = min(seconds, STOP_SECONDS) if self._is_stopped() else seconds
            try:
                done, error = outcome.get(timeout=max(0.0, min(begin + limit - time.monotonic(), _TICK_SECONDS)))
                break
            except Empty:
                if (waited := time.monotonic() - begin) >= limit:
                    self._late = outcome
                    raise NexthinkLedgerError(f"{title} has not responded for {waited:.1f} seconds.") from None
        if error is not None:
            raise error
        return done

    # In the thread of a call

    def _lock(self, connection: Connection) -> None:
        """Let no other try write until the transaction ends, and check that this is the latest one."""
        if self._try_number is None:
            return
        # A write is what takes the lock on every database.
        latest = self._at(_LATEST_TRY_KEY)
        connection.execute(update(task_state).where(*latest).values(value=task_state.c.value))
        number = self._read(connection, _LATEST_TRY_KEY)
        if number is not None and number > self._try_number:
            raise NexthinkTryOverError(
                "Another try of this task has begun: this one is over, and sends no other batch. That one reports what "
                "was done; see also the outcome in this log."
            )
        if number != self._try_number:
            self._write(connection, _LATEST_TRY_KEY, self._try_number)

    def _read(self, connection: Connection, key: str) -> Any:
        value = connection.execute(select(task_state.c.value).where(*self._at(key))).scalar_one_or_none()
        return None if value is None else json.loads(value)

    def _write(self, connection: Connection, key: str, value: Any) -> None:
        values = {"value": json.dumps(value), "updated_at": self._database.clock.now()}
        if not connection.execute(update(task_state).where(*self._at(key)).values(**values)).rowcount:
            connection.execute(insert(task_state).values(task_key=self._task_key, state_key=key, **values))

    def _at(self, key: str) -> tuple[Any, Any]:
        return task_state.c.task_key == self._task_key, task_state.c.state_key == key
