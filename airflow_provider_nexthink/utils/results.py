"""The outcome table in a file, and the manifest that stands for it in XCom."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

from airflow_provider_nexthink.devices.formats import write_file
from airflow_provider_nexthink.exceptions import NexthinkStoppedError
from airflow_provider_nexthink.status import ACTION_REQUIRED
from airflow_provider_nexthink.utils.storage import publish, remove, write_table

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.outcome import Outcomes

KEEP_SECONDS = 10.0
"""The table of a run in progress is written this often, but takes at most a twentieth of the time."""

AFTER_TIMEOUT_SECONDS = 10.0
"""So long a table may take to be written after a timeout of the task has interrupted that once."""

AFTER_STOP_SECONDS = 1.0
"""So long it may take once the run was stopped: Airflow kills the task 5 seconds after that."""

_COST = 20.0

T = TypeVar("T")


def beside(path: str, word: str) -> str:
    """Return the path of a file beside another one: ``a.parquet`` and ``rest`` give ``a.rest.parquet``.

    :param path: of a file.
    :param word: what tells the other one from it.
    """
    suffix = PurePosixPath(path).suffix
    return f"{path.removesuffix(suffix)}.{word}{suffix}"


def unfinished_path(path: str) -> str:
    """Return where the table of a run is as long as the run is in progress.

    :param path: where it is in the end.
    """
    return beside(path, "unfinished")


def within(seconds: float | None, write: Callable[[], T]) -> T:
    """Call what writes to a storage, which may hang; in a thread, unless there is no limit.

    :param seconds: after which to give up; None for never.
    :param write: what to call.
    :return: what it returns.
    :raises TimeoutError: if it takes longer; others as ``write`` has them.
    """
    if seconds is None:
        return write()
    ended: SimpleQueue[Callable[[], T]] = SimpleQueue()

    def run() -> None:
        try:
            written = write()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for it
            ended.put(partial(_raise, error))
        else:
            ended.put(lambda: written)

    threading.Thread(target=run, name="nexthink-results", daemon=True).start()
    try:
        result = ended.get(timeout=seconds)
    except Empty:
        raise TimeoutError(
            f"it was not written within {seconds:g} s, the time that a run has once it has ended"
        ) from None
    return result()


def _raise(error: BaseException) -> NoReturn:
    raise error


def seconds_to_write(error: BaseException | None) -> float | None:
    """Return how long the table of a run may take to be written; None for no limit but the timeout of the task.

    :param error: what ended the run.
    """
    if isinstance(error, NexthinkStoppedError):
        return AFTER_STOP_SECONDS
    # An interruption, such as the timeout of the task, which comes once.
    return AFTER_TIMEOUT_SECONDS if error is not None and not isinstance(error, Exception) else None


def store_results(path: str, outcomes: Outcomes, uid_column: str | None) -> dict[str, Any]:
    """Write an outcome table, and its rows that need attention to a file of their own; return the manifest.

    :param path: where to; its suffix says in which format.
    :param outcomes: the table.
    :param uid_column: the name of the column with the uids in the list.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    attention = outcomes.only(ACTION_REQUIRED)
    with tempfile.TemporaryFile() as table, tempfile.TemporaryFile() as unscheduled:
        write_file(table, path, outcomes.columns())
        if len(attention):
            write_file(unscheduled, path, attention.columns())
        manifest = publish_results(path, outcomes, table, unscheduled, uid_column)
    remove(unfinished_path(path))
    return manifest


def publish_results(
    path: str, outcomes: Outcomes, table: BinaryIO, unscheduled: BinaryIO, uid_column: str | None
) -> dict[str, Any]:
    """Copy an outcome table that is complete to where it belongs; return the manifest.

    :param path: where to.
    :param outcomes: what is in it.
    :param table: an open file with the table.
    :param unscheduled: an open file with its rows that need attention.
    :param uid_column: the name of the column with the uids in the list; it says the kind of uid.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    counts = outcomes.counts()
    attention = sum(counts[status] for status in ACTION_REQUIRED)
    place = beside(path, "unscheduled")
    if attention:
        publish(place, unscheduled)
    else:
        remove(place)  # of an earlier try
    stored = publish(path, table)
    return {
        "path": path,
        "rows": len(outcomes),
        "counts": counts,
        "size": stored.size,
        "checksum": stored.checksum,
        "uid_column": uid_column,
        "unscheduled": {"path": place, "rows": attention} if attention else None,
    }


class ResultsKeeper:
    """Writes the table of a run in progress, so that a lost worker leaves what it had. Errors are ignored.

    :param path: where the table is in the end; until then it is in ``unfinished_path``.
    :param monotonic: the time, in seconds.
    """

    def __init__(self, path: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = unfinished_path(path)
        self._monotonic = monotonic
        self._due_at = monotonic() + KEEP_SECONDS
        self._is_writing = False
        self._is_closed = False

    def close(self) -> None:
        """Write no more, since the table is where it belongs, and delete what has been written."""
        self._is_closed = True
        remove(self._path)

    def keep(self, snapshot: Callable[[], Outcomes | None]) -> None:
        """Write the table if it is time, in a thread: a storage that hangs must not hold up the run.

        :param snapshot: returns the table.
        """
        if self._is_closed or self._is_writing or self._monotonic() < self._due_at or (table := snapshot()) is None:
            return
        self._is_writing = True
        threading.Thread(target=self._write, args=(table,), name="nexthink-results", daemon=True).start()

    def _write(self, table: Outcomes) -> None:
        start = self._monotonic()
        with suppress(Exception):
            write_table(self._path, table.columns())
        if self._is_closed:
            remove(self._path)
        now = self._monotonic()
        self._due_at = now + max(KEEP_SECONDS, _COST * (now - start))
        self._is_writing = False
