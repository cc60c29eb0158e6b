"""What a run writes into the ledger: the intent before anything, then what became of each device; and what counts."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.reservation import (
    LOST_AFTER,
    LOST_REASON,
    InventoryLook,
    close_lost,
    record_blocked,
    spans_of,
)
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import START, FakeTime
from tests.support.ledgers import (
    StepwiseRun,
    all_rows,
    column_of,
    database_of,
    engine_of,
    ledger_database,
    origin_of,
    outcomes_of,
    request_of,
    rows_of,
)

TEN_A_WEEK = Quota(devices=10, days=7)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def database(sqlite_engine: Engine, time: FakeTime) -> Database:
    return database_of(sqlite_engine, time.clock())


def run_of(database: Database, count: int, *, first: int = 0, run: str = "run-1", **origin: Any) -> StepwiseRun:
    return StepwiseRun(database, outcomes_of(count, first=first), origin_of(run, **origin))


def charged(engine: Engine) -> list[int]:
    return list(column_of(rows_of(engine, "runs"), "charged"))


def test_reserve_commits_each_device_as_requested(ledger_engine: Engine, time: FakeTime) -> None:
    time.seconds = 12.5
    run = run_of(database_of(ledger_engine, time.clock()), 3, try_number=2)
    run.outcomes.name[1] = "PC-1 'ü' \"💻\" %s :name \\ ; --"
    look = InventoryLook("#all_devices", START, {run.outcomes.uid[0] or "": 12.5, run.outcomes.uid[1] or "": None})
    run.reserve(
        released=2,
        look=look,
        reason="CHG-1: 50 % off; it's :due",
        uid_column="device.uid",
        uid_kind="device",
        name_column="device.name",
        limits={"max_devices": 1000, "exclude": ["*-vip"]},
    )
    (row,) = rows_of(ledger_engine, "runs")
    expected = {
        "id": run.run_id,
        "pruned_at": None,
        "task_key": run.origin.task_key,
        "dag_id": "cleanup",
        "dag_run_id": "run-1",
        "task_id": "delete",
        "map_index": -1,
        "try_number": 2,
        "triggered_by": "the schedule",
        "reason": "CHG-1: 50 % off; it's :due",
        "provider_version": "0.1.0",
        "uid_column": "device.uid",
        "uid_kind": "device",
        "name_column": "device.name",
        "limits": '{"max_devices": 1000, "exclude": ["*-vip"]}',
        "state": "RUNNING",
        "planned": 3,
        "devices": 3,
        "released": 2,
        "charged": 3,
        **dict.fromkeys(["scheduled", "invalid", "failed", "rejected", "unknown", "not_sent"], 0),
        "error": None,
        "started_at": time.now(),
        "heartbeat_at": time.now(),
        "finished_at": None,
    }
    assert {column: row[column] for column in expected} == expected
    devices = rows_of(ledger_engine, "deletions")
    assert column_of(devices, "seq", "uid", "name") == [
        (at, run.outcomes.uid[at], run.outcomes.name[at]) for at in range(3)
    ]
    assert set(column_of(devices, "status", "attempts", "superseded", "requested_at")) == {
        ("REQUESTED", 0, False, time.now())
    }
    assert column_of(devices, "seen_at", "days_unseen") == [(START, 12.5), (START, None), (None, None)]


def test_finish_writes_what_became_of_each_device(ledger_engine: Engine, time: FakeTime) -> None:
    run = run_of(database_of(ledger_engine, time.clock()), 7)
    run.reserve()
    statuses = [Status.SCHEDULED, Status.INVALID, Status.FAILED, Status.REJECTED, Status.UNKNOWN, Status.NOT_SENT]
    time.seconds = 1.25
    for at, status in enumerate(statuses):
        run.settle(status, [at], batch=at)
    run.settle(Status.SCHEDULED, [6], batch=0)
    run.outcomes.reason[2], run.outcomes.trace_id[0] = "Nexthink could not schedule it", "trace"
    time.seconds = 2
    run.finish("NexthinkStoppedError: stopped")
    devices = rows_of(ledger_engine, "deletions")
    columns = ("status", "reason", "batch", "request_id", "trace_id", "attempts")
    assert [tuple(row[column] for column in columns) for row in devices] == [
        tuple(getattr(run.outcomes, column)[at] for column in columns) for at in range(7)
    ]
    assert column_of(devices, "submitted_at") == [START + timedelta(seconds=1.25)] * 5 + [
        None,
        START + timedelta(seconds=1.25),
    ]
    (row,) = rows_of(ledger_engine, "runs")
    assert (row["scheduled"], row["invalid"], row["failed"], row["rejected"], row["unknown"], row["not_sent"]) == (
        (2, 1, 1, 1, 1, 1)
    )
    assert (row["state"], row["charged"], row["finished_at"]) == ("FINISHED", 6, START + timedelta(seconds=2))
    assert row["error"] == "NexthinkStoppedError: stopped"


def test_keep_records_devices_and_gives_a_sign_of_life(ledger_engine: Engine, time: FakeTime) -> None:
    run = run_of(database_of(ledger_engine, time.clock()), 5)
    run.reserve(released=2)
    run.settle(Status.SCHEDULED, [0, 1])
    time.seconds = 30
    assert run.keep([0, 1], released=4)
    (row,) = rows_of(ledger_engine, "runs")
    assert (row["heartbeat_at"], row["released"], row["charged"], row["state"]) == (time.now(), 4, 5, "RUNNING")
    assert column_of(rows_of(ledger_engine, "deletions"), "status") == ["SCHEDULED"] * 2 + ["REQUESTED"] * 3
    assert run.keep([], released=4)  # at the same moment, with nothing new


def test_finish_keeps_the_outcome_that_is_there(database: Database, sqlite_engine: Engine) -> None:
    run = run_of(database, 2)
    run.reserve()
    run.settle(Status.SCHEDULED, [0])
    run.keep([0])
    run.settle(Status.UNKNOWN, [0, 1])
    run.finish()
    assert column_of(rows_of(sqlite_engine, "deletions"), "status") == ["SCHEDULED", "UNKNOWN"]


def test_reserve_nothing_to_send_records_no_run(database: Database, sqlite_engine: Engine) -> None:
    run = run_of(database, 0)
    run.reserve()
    assert run.run_id is None
    assert rows_of(sqlite_engine, "runs") == []


def test_reserve_dry_run_records_no_run(database: Database, sqlite_engine: Engine) -> None:
    run = run_of(database, 3)
    run.reserve(dry_run=True)
    assert run.run_id is None
    assert rows_of(sqlite_engine, "runs", "deletions") == []


def test_reserve_guard_that_trips_changes_nothing(database: Database, sqlite_engine: Engine, time: FakeTime) -> None:
    run_of(database, 8).reserve(released=0)
    before = all_rows(sqlite_engine)
    time.seconds = 3600  # the first run is lost by now, and would be closed
    with pytest.raises(NexthinkGuardError):
        run_of(database, 11, run="run-2").reserve(quota=TEN_A_WEEK)
    assert all_rows(sqlite_engine) == before


def test_reserve_database_that_fails_halfway_records_nothing(database: Database, sqlite_engine: Engine) -> None:
    run = run_of(database, 25_000)  # more than one INSERT takes
    database.open()
    run.outcomes.uid[-1] = "x" * 10
    run.outcomes.name[-1] = object()  # type: ignore[call-overload]
    with pytest.raises(Exception, match="not supported") as failure:
        run.reserve()
    assert isinstance(failure.value.__cause__, SQLAlchemyError)
    assert rows_of(sqlite_engine, "runs", "deletions") == []


def test_record_blocked_is_a_run_without_devices(database: Database, sqlite_engine: Engine, time: FakeTime) -> None:
    with database.locked() as (connection, now):
        record_blocked(connection, now, request_of(5000, origin_of(), reason="CHG-1"), "more than max_devices")
    (row,) = rows_of(sqlite_engine, "runs")
    assert (row["state"], row["planned"], row["devices"], row["charged"]) == ("BLOCKED", 5000, 0, 0)
    assert (row["error"], row["reason"], row["finished_at"]) == ("more than max_devices", "CHG-1", START)
    assert rows_of(sqlite_engine, "deletions") == []


# What is given back


def test_finish_devices_not_sent_are_given_back(database: Database, sqlite_engine: Engine) -> None:
    run = run_of(database, 10)
    run.reserve(quota=TEN_A_WEEK)
    run.settle(Status.SCHEDULED, range(4))
    run.finish()
    assert charged(sqlite_engine) == [4]
    run_of(database, 6, run="run-2").reserve(quota=TEN_A_WEEK)
    with pytest.raises(NexthinkGuardError):
        run_of(database, 1, run="run-3").reserve(quota=TEN_A_WEEK)


def test_reserve_lost_run_gives_back_what_it_had_not_released(
    database: Database, sqlite_engine: Engine, time: FakeTime
) -> None:
    lost = run_of(database, 10)
    lost.reserve(released=2, quota=TEN_A_WEEK)
    lost.settle(Status.SCHEDULED, [0])
    lost.keep([0], released=4)
    time.seconds = LOST_AFTER.total_seconds()
    with pytest.raises(NexthinkGuardError):  # it may still be alive
        run_of(database, 6, run="run-2").reserve(quota=TEN_A_WEEK)
    time.seconds += 1
    run_of(database, 6, run="run-2").reserve(quota=TEN_A_WEEK)
    row = rows_of(sqlite_engine, "runs")[0]
    assert (row["state"], row["charged"], row["scheduled"], row["not_sent"]) == ("LOST", 4, 1, 6)
    assert row["finished_at"] == START + LOST_AFTER
    devices = rows_of(sqlite_engine, "deletions")[:10]
    assert column_of(devices, "status") == ["SCHEDULED"] + ["REQUESTED"] * 3 + ["NOT_SENT"] * 6
    assert set(column_of(devices[4:], "reason")) == {LOST_REASON}


def test_keep_lost_run_releases_nothing(database: Database, sqlite_engine: Engine, time: FakeTime) -> None:
    """A process that was suspended for long, and wakes."""
    run = run_of(database, 4)
    run.reserve(released=2)
    time.seconds = 3600
    with database.locked() as (connection, now):
        close_lost(connection, now)
    run.settle(Status.SCHEDULED, [0])
    assert not run.keep([0], released=4)
    assert rows_of(sqlite_engine, "runs")[0]["released"] == 2
    run.settle(Status.SCHEDULED, [1])
    run.finish()
    assert column_of(rows_of(sqlite_engine, "deletions"), "status") == ["SCHEDULED"] * 2 + ["NOT_SENT"] * 2
    assert charged(sqlite_engine) == [2]


def test_finish_clock_set_back_is_recorded_at_the_time_of_the_ledger(
    database: Database, sqlite_engine: Engine, time: FakeTime
) -> None:
    time.seconds = 7200
    run = run_of(database, 1)
    run.reserve()
    run.settle(Status.SCHEDULED, [0])
    time.seconds = 0
    run.finish()
    assert rows_of(sqlite_engine, "runs")[0]["finished_at"] == START + timedelta(hours=2)


def test_reserve_look_before_is_recorded(database: Database, sqlite_engine: Engine) -> None:
    run_of(database, 1).reserve(look=InventoryLook("#all_devices", START, {"a": 1.0, "b": None}, "device"))
    (look,) = rows_of(sqlite_engine, "looks")
    assert (look["query_id"], look["uid_kind"], look["devices"], look["gone"]) == ("#all_devices", "device", 2, 0)


# The tries of one task


def test_reserve_next_try_closes_the_run_of_the_earlier_one(database: Database, sqlite_engine: Engine) -> None:
    first = run_of(database, 6)
    first.reserve(released=3)
    first.settle(Status.SCHEDULED, [0])
    first.keep([0], released=3)
    # The checkpoint knows more than the process had time to record.
    first.settle(Status.SCHEDULED, [1])
    first.settle(Status.UNKNOWN, [2])
    first.outcomes.attempts[2] = 0  # sent or not: it was lost
    second = run_of(database, 2, first=10, try_number=2)
    second.reserve(earlier=first.outcomes)
    row = rows_of(sqlite_engine, "runs")[0]
    assert (row["state"], row["scheduled"], row["charged"]) == ("LOST", 2, 3)
    assert column_of(rows_of(sqlite_engine, "deletions")[:6], "status") == (
        ["SCHEDULED", "SCHEDULED", "REQUESTED", "NOT_SENT", "NOT_SENT", "NOT_SENT"]
    )


def test_reserve_next_try_writes_what_could_not_be_written(database: Database, sqlite_engine: Engine) -> None:
    """The ledger was away at the end of the first try, and the run was closed by another one since."""
    first = run_of(database, 4)
    first.reserve()
    first.settle(Status.SCHEDULED, [0, 1])
    first.settle(Status.FAILED, [2])
    first.outcomes.reason[3] = "the run ended before its turn"
    run_of(database, 2, first=2, try_number=2).reserve(earlier=first.outcomes)
    devices = rows_of(sqlite_engine, "deletions")
    # What was not sent is not taken from the checkpoint: that may speak of another try.
    assert column_of(devices, "status") == ["SCHEDULED", "SCHEDULED", "FAILED", "REQUESTED", "REQUESTED", "REQUESTED"]
    assert charged(sqlite_engine) == [2, 2]


@pytest.mark.parametrize("again", [range(10), range(3, 10)])
def test_reserve_retry_counts_each_device_once(database: Database, sqlite_engine: Engine, again: range) -> None:
    first = run_of(database, 10)
    first.reserve(quota=TEN_A_WEEK)
    first.settle(Status.SCHEDULED, range(3))
    first.settle(Status.FAILED, range(3, 10))
    first.finish()
    second = run_of(database, len(again), first=again.start, try_number=2)
    second.reserve(quota=TEN_A_WEEK)
    assert charged(sqlite_engine) == [10 - len(again), len(again)]
    second.settle(Status.SCHEDULED, range(len(again)))
    second.finish()
    assert charged(sqlite_engine) == [10 - len(again), len(again)]
    superseded = [row["uid"] for row in rows_of(sqlite_engine, "deletions") if row["superseded"]]
    assert superseded == [first.outcomes.uid[at] for at in again]


def test_reserve_another_task_counts_the_same_device_again(database: Database) -> None:
    for number in (1, 2):
        run_of(database, 5, map_index=number).reserve(quota=TEN_A_WEEK)
    with pytest.raises(NexthinkGuardError):
        run_of(database, 1, run="run-2").reserve(quota=TEN_A_WEEK)


def test_reserve_retry_of_a_device_that_was_sent_counts_also_if_it_is_lost_itself(
    database: Database, sqlite_engine: Engine, time: FakeTime
) -> None:
    first = run_of(database, 4)
    first.reserve()
    first.settle(Status.UNKNOWN, range(3))
    first.finish()
    run_of(database, 4, try_number=2).reserve(released=1)
    time.seconds = 3600
    with database.locked() as (connection, now):
        close_lost(connection, now)
    # One of them may have been sent twice and counts once; two were sent by the first try; one never.
    assert charged(sqlite_engine) == [2, 1]
    devices = rows_of(sqlite_engine, "deletions")
    assert column_of(devices, "status") == ["UNKNOWN"] * 3 + ["NOT_SENT", "REQUESTED"] + ["NOT_SENT"] * 3
    third = run_of(database, 4, try_number=3)
    third.reserve()
    third.settle(Status.UNKNOWN, [3])
    third.outcomes.reason[:3] = ["the run ended before its turn"] * 3
    third.finish()
    assert charged(sqlite_engine) == [2, 1, 1]


def test_finish_of_a_try_that_was_replaced_counts_nothing_twice(database: Database, sqlite_engine: Engine) -> None:
    first = run_of(database, 3)
    first.reserve()
    first.settle(Status.UNKNOWN, range(3))
    first.finish()
    replaced = run_of(database, 3, try_number=2)
    replaced.reserve()
    run_of(database, 3, try_number=3).reserve()
    replaced.finish()  # it had sent nothing
    assert charged(sqlite_engine) == [0, 0, 3]


@pytest.mark.parametrize(
    ("numbers", "spans"), [([], []), ([4], [(4, 4)]), ([0, 1, 2, 5, 7, 8], [(0, 2), (5, 5), (7, 8)])]
)
def test_spans_of(numbers: list[int], spans: list[tuple[int, int]]) -> None:
    assert spans_of(numbers) == spans


def test_reserve_many_devices_has_each_once(ledger_engine: Engine) -> None:
    run = StepwiseRun(database_of(ledger_engine), outcomes_of(25_000))
    run.reserve()
    run.settle(Status.SCHEDULED, range(25_000))
    run.finish()
    devices = rows_of(ledger_engine, "deletions")
    assert column_of(devices, "seq", "uid") == list(enumerate(run.outcomes.uid))
    assert Counter(column_of(devices, "status")) == {"SCHEDULED": 25_000}


@pytest.mark.service
def test_finish_on_postgres_writes_few_index_entries(tmp_path: Path) -> None:
    with ledger_database("postgres", tmp_path) as url:
        with engine_of(url) as engine:
            run = StepwiseRun(database_of(engine), outcomes_of(2_000))
            run.reserve()
            run.settle(Status.SCHEDULED, range(2_000))
            run.finish()
        statistics = text(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'nexthink_deletions'"
        )
        with engine_of(url) as engine, engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            updated, without_index = connection.execute(statistics).one()
    assert updated == 2_000
    assert without_index > 0.5 * updated
