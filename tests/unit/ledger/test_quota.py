"""The quota: exact over all runs of a tenant, in any window of so many days; and what its message says."""

from __future__ import annotations

import re

import pytest
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.quota import Quota, quota_used
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import FakeTime
from tests.support.ledgers import StepwiseRun, database_of, outcomes_of

DAY = 86_400.0
QUOTA = Quota(devices=100, days=7)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def database(sqlite_engine: Engine, time: FakeTime) -> Database:
    return database_of(sqlite_engine, time.clock())


def reserved(database: Database, count: int, quota: Quota = QUOTA) -> StepwiseRun:
    run = StepwiseRun(database, outcomes_of(count), RunOrigin())
    run.reserve(quota=quota)
    return run


def sent(database: Database, count: int, quota: Quota = QUOTA) -> None:
    run = reserved(database, count, quota)
    run.settle(Status.SCHEDULED, range(count))
    run.finish()


def refused(database: Database, count: int, quota: Quota = QUOTA) -> NexthinkGuardError:
    with pytest.raises(NexthinkGuardError) as failure:
        reserved(database, count, quota)
    return failure.value


def used(database: Database, quota: Quota = QUOTA) -> int:
    with database.locked() as (connection, now):
        return quota_used(connection, quota, now)


def test_quota_is_used_to_the_last_device(database: Database) -> None:
    sent(database, 60)
    reserved(database, 40)
    error = refused(database, 1)
    assert (error.planned, error.limit) == (1, 0)


def test_quota_of_a_single_run_is_used_to_the_last_device(database: Database) -> None:
    assert refused(database, 101).limit == 100
    sent(database, 100)


def test_quota_without_devices_to_send_lets_pass(database: Database) -> None:
    sent(database, 100)
    reserved(database, 0)


def test_quota_that_was_lowered_says_that_nothing_is_left(database: Database) -> None:
    sent(database, 100)
    error = refused(database, 1, Quota(devices=10, days=7))
    assert error.limit == 0
    assert "0 are left" in str(error)
    assert "100 of them used" in str(error)


@pytest.mark.parametrize("days", [1, 7, 30])
def test_quota_counts_a_run_for_so_many_days_after_its_end(database: Database, time: FakeTime, days: int) -> None:
    quota = Quota(devices=100, days=days)
    run = reserved(database, 100, quota)
    time.seconds = 3 * DAY  # a run that goes on for long
    run.keep()
    run.settle(Status.SCHEDULED, range(100))
    run.finish()
    time.seconds = (3 + days) * DAY - 1
    refused(database, 1, quota)
    time.seconds = (3 + days) * DAY
    sent(database, 100, quota)


def test_quota_counts_a_run_that_goes_on_whatever_its_age(database: Database, time: FakeTime) -> None:
    run = reserved(database, 100)
    for day in range(30):
        time.seconds = day * DAY
        run.keep()
        refused(database, 1)


def test_quota_window_slides(database: Database, time: FakeTime) -> None:
    for day in range(30):
        time.seconds = day * DAY
        sent(database, 14)
        assert used(database) == 14 * min(day + 1, 7)
    assert refused(database, 3).limit == 2


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (31, "From 2026-11-30 00:00 UTC on there is room for it"),
        (60, "From 2026-11-30 00:00 UTC on there is room for it"),
        (61, "From 2026-12-02 12:00 UTC on there is room for it"),
        (91, "Runs that have not ended hold the rest"),
        (101, "The list alone is larger than the whole quota"),
    ],
)
def test_quota_message_says_how_much_is_left_and_when_there_is_more(
    database: Database, time: FakeTime, wanted: int, words: str
) -> None:
    sent(database, 30)
    time.seconds = 2.5 * DAY
    sent(database, 30)
    run = reserved(database, 10)
    time.seconds = 3 * DAY
    run.keep()
    error = refused(database, wanted)
    assert (error.planned, error.limit) == (wanted, 30)
    assert re.search(
        rf"would delete {wanted} devices, and 30 are left .*quota_devices=100 in quota_days=7.*70 of them used\. "
        rf"{words}\. This try sent nothing\. .*raised on the connection; there is no undo",
        str(error),
    )


def test_quota_promise_of_when_there_is_more_is_kept(database: Database, time: FakeTime) -> None:
    sent(database, 60)
    time.seconds = 1.5 * DAY
    sent(database, 40)
    assert "From 2026-11-30 00:00 UTC on" in str(refused(database, 60))
    time.seconds = 7 * DAY
    sent(database, 60)
