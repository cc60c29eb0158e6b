"""``LedgerRun``: a thread of its own talks to the database; the run goes on, or ends, whatever that does."""

from __future__ import annotations

import logging
import threading
import time as real_time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.exceptions import (
    NexthinkConnectError,
    NexthinkGuardError,
    NexthinkLedgerError,
    NexthinkStoppedError,
)
from airflow_provider_nexthink.ledger import run as ledger_run
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.run import (
    BUSY_SECONDS,
    HEARTBEAT_SECONDS,
    PATIENCE_SECONDS,
    STOP_SECONDS,
    LedgerRun,
)
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import FakeTime
from tests.support.ledgers import (
    StepwiseRun,
    all_rows,
    column_of,
    database_of,
    origin_of,
    outcomes_of,
    request_of,
    rows_of,
)

QUOTA = Quota(devices=10, days=7)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TICK_SECONDS", "_RETRY_SECONDS", "_SAVE_SECONDS"):
        monkeypatch.setattr(ledger_run, name, 0.01)


class Reserved:
    """A run of devices in the ledger, with the table that it writes from."""

    def __init__(
        self, engine: Engine, time: FakeTime, count: int, *, ahead: int = 100, origin: RunOrigin | None = None
    ) -> None:
        self.outcomes = outcomes_of(count)
        self.run = LedgerRun(database_of(engine, time.clock()), ahead=ahead)
        self.origin = origin or RunOrigin()
        self.changes = threading.Semaphore(0)
        self.run.on_change = self.changes.release

    def reserve(self, check: Callable[[], None] = lambda: None, **options: object) -> None:
        size = len(self.outcomes)
        request = request_of(size, self.origin, **options)
        self.run.reserve(request, self.outcomes, range(size), check=check)

    def settle(self, status: Status, positions: range) -> None:
        for at in positions:
            self.outcomes.status[at], self.outcomes.attempts[at] = status, 1

    def finish(self, error: BaseException | None = None) -> BaseException | None:
        return self.run.finish(error, is_stopped=lambda: False)


def eventually(condition: Callable[[], object]) -> None:
    end = real_time.monotonic() + 20
    while not condition():
        assert real_time.monotonic() < end, "it has not happened"
        real_time.sleep(0.01)


@pytest.fixture
def threads_have_ended() -> Callable[[], bool]:
    """What tells whether the threads that the test has started have ended."""
    before = set(threading.enumerate())
    return lambda: not set(threading.enumerate()) - before


@contextmanager
def broken(engine: Engine) -> Iterator[None]:
    """Let every statement of a run fail."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE nexthink_runs RENAME TO elsewhere"))
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO nexthink_runs"))


def statuses(engine: Engine) -> list[str]:
    return list(column_of(rows_of(engine, "deletions"), "status"))


def test_reserve_releases_what_the_ledger_knows_to_be_released(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 50, ahead=20)
    reserved.reserve()
    assert reserved.run.released == 20
    assert rows_of(sqlite_engine, "runs")[0]["released"] == 20
    for taken, expected in [(5, 20), (15, 35), (35, 50), (50, 50)]:
        reserved.run.take(taken)
        if expected > reserved.run.released:
            reserved.changes.acquire(timeout=20)
        assert reserved.run.released == rows_of(sqlite_engine, "runs")[0]["released"] == expected
    assert reserved.finish() is None


def test_reserve_dry_run_changes_nothing(sqlite_engine: Engine, time: FakeTime) -> None:
    lost = StepwiseRun(database_of(sqlite_engine, time.clock()), outcomes_of(5), origin_of())
    lost.reserve(released=2)
    before = all_rows(sqlite_engine)
    time.seconds = 3600
    dry = Reserved(sqlite_engine, time, 8, origin=origin_of(try_number=2))
    dry.reserve(quota=QUOTA, dry_run=True)
    assert dry.run.run_id is None
    assert dry.finish() is None
    refused = Reserved(sqlite_engine, time, 11)
    with pytest.raises(NexthinkGuardError):
        refused.reserve(quota=QUOTA, dry_run=True)
    assert all_rows(sqlite_engine) == before


def test_reserve_warnings_are_logged(sqlite_engine: Engine, time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reserved = Reserved(sqlite_engine, time, 5, origin=origin_of())
    reserved.reserve(max_growth=2.0)
    reserved.finish()
    assert "max_growth=2 has no effect yet" in caplog.text
    assert "The ledger has the 5 devices as REQUESTED (run 1)" in caplog.text


def test_finish_writes_the_whole_table(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 6)
    reserved.reserve()
    reserved.settle(Status.SCHEDULED, range(3))
    reserved.run.record(range(2))
    eventually(lambda: statuses(sqlite_engine) == ["SCHEDULED"] * 2 + ["REQUESTED"] * 4)
    reserved.settle(Status.UNKNOWN, range(3, 5))
    assert reserved.finish(NexthinkStoppedError("stopped from outside")) is None
    assert statuses(sqlite_engine) == ["SCHEDULED"] * 3 + ["UNKNOWN"] * 2 + ["NOT_SENT"]
    (row,) = rows_of(sqlite_engine, "runs")
    assert (row["state"], row["charged"]) == ("FINISHED", 5)
    assert row["error"] == "NexthinkStoppedError: stopped from outside"
    assert reserved.finish() is None  # as after an interruption


def test_finish_error_of_anything_else_is_not_copied(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 1)
    reserved.reserve()
    reserved.finish(RuntimeError("https://storage.example/?signature=secret"))
    assert rows_of(sqlite_engine, "runs")[0]["error"] == "RuntimeError: see the log of this try"


def test_record_devices_that_may_be_retried_are_not_final(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 2)
    reserved.reserve()
    reserved.settle(Status.FAILED, range(2))
    reserved.run.record(range(2))
    reserved.settle(Status.SCHEDULED, range(2))
    assert reserved.finish() is None
    assert statuses(sqlite_engine) == ["SCHEDULED"] * 2


def test_heartbeat_is_given_while_nothing_happens(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 2)
    reserved.reserve()
    for _ in range(3):
        time.seconds += HEARTBEAT_SECONDS
        eventually(lambda: rows_of(sqlite_engine, "runs")[0]["heartbeat_at"] == time.now())
    assert reserved.finish() is None


def test_reserve_that_is_interrupted_gives_back(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 5)

    def check() -> None:
        if reserved.run.run_id is not None:  # the ledger has it, and the main thread does not know yet
            raise NexthinkStoppedError("stopped")

    reserve = reserved.run._reserve

    def reserve_slowly(*args: Any) -> Any:
        done = reserve(*args)
        real_time.sleep(0.2)  # so that the main thread looks once more before it knows
        return done

    reserved.run._reserve = reserve_slowly  # type: ignore[method-assign,assignment]
    with pytest.raises(NexthinkStoppedError):
        reserved.reserve(check)
    eventually(lambda: rows_of(sqlite_engine, "runs")[0]["state"] == "LOST")
    (row,) = rows_of(sqlite_engine, "runs")
    assert (row["charged"], row["not_sent"]) == (0, 5)


def test_reserve_that_is_stopped_while_it_waits_reserves_nothing(
    sqlite_engine: Engine, time: FakeTime, threads_have_ended: Callable[[], bool]
) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise NexthinkStoppedError("stopped")
        stop.set()

    other = database_of(sqlite_engine, time.clock())
    with other.locked():  # another process has it for long
        reserved = Reserved(sqlite_engine, time, 5)
        with pytest.raises(NexthinkStoppedError):
            reserved.reserve(check)
    eventually(threads_have_ended)
    assert rows_of(sqlite_engine, "runs") == []


def test_reserve_database_that_hangs_ends(
    sqlite_engine: Engine, time: FakeTime, threads_have_ended: Callable[[], bool]
) -> None:
    def check() -> None:
        time.seconds += BUSY_SECONDS / 4

    with database_of(sqlite_engine, time.clock()).locked():
        reserved = Reserved(sqlite_engine, time, 5)
        with pytest.raises(NexthinkLedgerError, match="not responded for 600 seconds. Nothing was sent"):
            reserved.reserve(check)
    eventually(threads_have_ended)
    assert rows_of(sqlite_engine, "runs") == []


def test_run_goes_on_after_a_short_outage(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 50, ahead=20)
    reserved.reserve()
    reserved.settle(Status.SCHEDULED, range(20))
    with broken(sqlite_engine):
        reserved.run.record(range(20))
        reserved.run.take(20)
        eventually(lambda: reserved.run._failure)
        assert reserved.run.released == 20
        time.seconds += PATIENCE_SECONDS - 1
        assert reserved.run.error is None
    eventually(lambda: reserved.run.released == 40)
    assert reserved.run.error is None
    assert statuses(sqlite_engine).count("SCHEDULED") == 20
    time.seconds += PATIENCE_SECONDS - 1  # another outage has its own patience
    with broken(sqlite_engine):
        reserved.run.take(40)
        eventually(lambda: reserved.run._failure)
        assert reserved.run.error is None
    assert reserved.finish() is None


def test_run_without_a_ledger_for_long_ends(
    sqlite_engine: Engine, time: FakeTime, threads_have_ended: Callable[[], bool]
) -> None:
    reserved = Reserved(sqlite_engine, time, 50, ahead=20)
    reserved.reserve()
    reserved.settle(Status.SCHEDULED, range(20))
    with broken(sqlite_engine):
        reserved.run.record(range(20))
        reserved.run.take(20)
        eventually(lambda: reserved.run._failure)
        time.seconds += PATIENCE_SECONDS
        assert isinstance(reserved.run.error, NexthinkLedgerError)
        assert "no such table" in str(reserved.run.error)

        def is_stopped() -> bool:
            time.seconds += PATIENCE_SECONDS / 3
            return False

        error = reserved.run.finish(reserved.run.error, is_stopped=is_stopped)
        assert "there they stay REQUESTED until the next try of this task has written it" in str(error)
        assert reserved.run.released == 20
        eventually(threads_have_ended)
    assert statuses(sqlite_engine) == ["REQUESTED"] * 50


def test_run_with_a_database_that_hangs_ends(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 50, ahead=20)
    reserved.reserve()
    with database_of(sqlite_engine, time.clock()).locked():  # SQLite waits for half a real minute
        reserved.run.take(20)
        eventually(lambda: reserved.run._trying_since is not None)
        for _ in range(100):  # workers that wait
            reserved.run.take(20)
        assert reserved.run._jobs.qsize() <= 1
        assert reserved.run.error is None
        time.seconds += PATIENCE_SECONDS
        assert "has not responded for 30 seconds" in str(reserved.run.error)

        def is_stopped() -> bool:
            time.seconds += STOP_SECONDS / 2
            return True

        before = time.seconds
        assert isinstance(reserved.run.finish(reserved.run.error, is_stopped=is_stopped), NexthinkLedgerError)
        assert time.seconds - before <= 2 * STOP_SECONDS
    assert reserved.run.released == 20  # also once the database responds again


def test_run_that_the_ledger_has_as_lost_ends(sqlite_engine: Engine, time: FakeTime) -> None:
    first = Reserved(sqlite_engine, time, 50, ahead=20, origin=origin_of())
    first.reserve()
    second = Reserved(sqlite_engine, time, 50, ahead=20, origin=origin_of(try_number=2))
    second.reserve()
    first.run.take(20)
    first.changes.acquire(timeout=20)
    assert "has this run as lost: another try of the task has begun" in str(first.run.error)
    assert first.run.released == 20
    first.settle(Status.SCHEDULED, range(20))
    assert first.finish(first.run.error) is None
    assert second.finish() is None
    rows = rows_of(sqlite_engine, "runs")
    # What the first try had released before the second asked for it again is counted there.
    assert column_of(rows, "state", "scheduled", "not_sent", "charged") == [
        ("FINISHED", 20, 30, 20),
        ("FINISHED", 0, 50, 0),
    ]


def test_run_whose_rights_are_taken_away_ends(sqlite_engine: Engine, time: FakeTime) -> None:
    reserved = Reserved(sqlite_engine, time, 50, ahead=20)
    reserved.reserve()
    with sqlite_engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE UPDATE ON nexthink_runs "
                "BEGIN SELECT RAISE(ABORT, 'permission denied for table nexthink_runs'); END"
            )
        )
    reserved.run.take(20)
    eventually(lambda: reserved.run._failure)
    assert reserved.run.error is None  # a server that fails over may refuse for a moment
    time.seconds += PATIENCE_SECONDS
    assert "the database refuses (permission denied for table nexthink_runs)" in str(reserved.run.error)
    assert reserved.run.released == 20
    with sqlite_engine.begin() as connection:
        connection.execute(text("DROP TRIGGER refuse"))
    assert reserved.finish(reserved.run.error) is None


def test_record_blocked_ledger_that_fails_is_logged(
    sqlite_engine: Engine, time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    run = LedgerRun(database_of(sqlite_engine, time.clock()), ahead=100)
    database_of(sqlite_engine, time.clock()).open()
    error = NexthinkGuardError("too many", planned=5000, limit=1000)
    with broken(sqlite_engine):
        run.record_blocked(request_of(5000, origin_of()), error, check=lambda: None)
    assert "could not be written to the ledger" in caplog.text
    assert rows_of(sqlite_engine, "runs") == []
    LedgerRun(database_of(sqlite_engine, time.clock()), ahead=100).record_blocked(
        request_of(5000, origin_of()), error, check=lambda: None
    )
    assert column_of(rows_of(sqlite_engine, "runs"), "state", "error") == [("BLOCKED", "too many")]


def test_thread_of_the_ledger_ends_with_the_run(
    sqlite_engine: Engine, time: FakeTime, threads_have_ended: Callable[[], bool]
) -> None:
    reserved = Reserved(sqlite_engine, time, 5)
    reserved.reserve()
    reserved.finish(NexthinkConnectError("refused"))
    empty = Reserved(sqlite_engine, time, 0)
    empty.reserve()
    eventually(threads_have_ended)
