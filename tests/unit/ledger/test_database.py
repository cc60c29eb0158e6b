"""The database of a ledger: whose it is, which version it has, and the lock that limits rely on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, inspect, text, update
from sqlalchemy.engine import URL, Connection, Engine

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import NexthinkLedgerError, NexthinkLedgerMismatchError
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.database import CLOCK_TOLERANCE, Database
from tests.support.fake_time import START, FakeTime
from tests.support.ledgers import TENANT, all_rows, database_of, engine_of, rows_of


def test_open_empty_database_makes_every_table_and_index(ledger_engine: Engine) -> None:
    database_of(ledger_engine, FakeTime().clock()).open()
    found = inspect(ledger_engine)
    for table in schema.metadata.tables.values():
        assert {column["name"] for column in found.get_columns(table.name)} == {column.name for column in table.columns}
        assert {index.name for index in table.indexes} <= {index["name"] for index in found.get_indexes(table.name)}
    (ledger,) = rows_of(ledger_engine, "ledger")
    assert (ledger["schema_version"], ledger["instance"], ledger["created_at"]) == (1, "acme", START)


def test_open_ledger_changes_nothing(ledger_engine: Engine) -> None:
    time = FakeTime()
    database_of(ledger_engine, time.clock()).open()
    before = all_rows(ledger_engine)
    time.seconds = 3600
    database_of(ledger_engine, time.clock()).open()
    assert all_rows(ledger_engine) == before


def test_open_tables_without_indexes_makes_those(ledger_engine: Engine) -> None:
    """A process that was lost while it made the tables, where each statement is committed by itself (MySQL)."""
    with ledger_engine.begin() as connection:
        for table in schema.metadata.tables.values():
            indexes, table.indexes = table.indexes, set()
            table.create(connection)
            table.indexes = indexes
    database_of(ledger_engine).open()
    found = inspect(ledger_engine)
    assert {index["name"] for index in found.get_indexes("nexthink_deletions")} >= {
        index.name for index in schema.deletions.indexes
    }


def open_at_once(url: URL, tenants: Sequence[str], **options: Any) -> list[BaseException]:
    """Open a ledger in several threads at once, and return their errors."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(tenants))

    def open_ledger(tenant: str) -> None:
        with engine_of(url) as engine:
            start.wait()
            try:
                database_of(engine, tenant=tenant, **options).open()
            except Exception as error:  # noqa: BLE001 - the caller knows which may come
                errors.append(error)

    threads = [threading.Thread(target=open_ledger, args=[tenant]) for tenant in tenants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_open_by_many_at_once_makes_one_ledger(ledger_url: URL) -> None:
    assert open_at_once(ledger_url, [TENANT] * 8) == []
    with engine_of(ledger_url) as engine:
        assert len(rows_of(engine, "ledger")) == 1


def test_open_by_many_tenants_at_once_belongs_to_one(ledger_url: URL) -> None:
    errors = open_at_once(ledger_url, [f"tenant-{number}" for number in range(6)])
    assert [type(error) for error in errors] == [NexthinkLedgerMismatchError] * 5
    with engine_of(ledger_url) as engine:
        assert len(rows_of(engine, "ledger")) == 1


def test_open_ledger_of_another_tenant_is_an_error(ledger_engine: Engine) -> None:
    database_of(ledger_engine, tenant="https://acme.api.eu.nexthink.cloud\0acme").open()
    with pytest.raises(NexthinkLedgerMismatchError, match="another tenant.*ledger_conn_id.*Nothing was sent"):
        database_of(ledger_engine, tenant="https://other.api.eu.nexthink.cloud\0other").open()


def test_open_newer_schema_is_an_error(ledger_engine: Engine) -> None:
    database_of(ledger_engine).open()
    with ledger_engine.begin() as connection:
        connection.execute(update(schema.ledgers).values(schema_version=7))
    with pytest.raises(NexthinkLedgerMismatchError, match="version 7.*knows 1.*Upgrade the provider"):
        database_of(ledger_engine).open()


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE nexthink_looks ADD COLUMN note VARCHAR(10)"))


def count_up(connection: Connection) -> None:
    connection.execute(text("UPDATE nexthink_looks SET devices = devices + 1"))


@pytest.mark.parametrize("steps", [[add_column], [count_up], [count_up, add_column], [add_column, count_up]])
def test_open_older_schema_by_many_at_once_is_upgraded_once(
    ledger_url: URL, steps: Sequence[Callable[[Connection], None]]
) -> None:
    with engine_of(ledger_url) as engine:
        database_of(engine).open()
        with engine.begin() as connection:
            connection.execute(
                insert(schema.looks).values(
                    looked_at=START, query_id="#all", devices=10, gone=0, still_present=0, returned=0
                )
            )
    assert open_at_once(ledger_url, [TENANT] * 4, steps=[*schema.STEPS, *steps]) == []
    with engine_of(ledger_url) as engine:
        assert rows_of(engine, "ledger")[0]["schema_version"] == 1 + len(steps)
        assert rows_of(engine, "looks")[0]["devices"] == 10 + (count_up in steps)


def test_open_upgrade_that_fails_changes_nothing_or_is_made_again(ledger_engine: Engine) -> None:
    def fail(_: Connection) -> None:
        raise ZeroDivisionError

    database_of(ledger_engine).open()
    with pytest.raises(ZeroDivisionError):
        database_of(ledger_engine, steps=[*schema.STEPS, count_up, fail]).open()
    assert rows_of(ledger_engine, "ledger")[0]["schema_version"] == 1
    database_of(ledger_engine, steps=[*schema.STEPS, count_up]).open()  # the lock is free again
    assert rows_of(ledger_engine, "ledger")[0]["schema_version"] == 2


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?cache=shared&uri=true"])
def test_ledger_in_memory_is_an_error(url: str) -> None:
    with pytest.raises(NexthinkLedgerMismatchError, match="in memory"):
        database_of(create_engine(url))


def test_ledger_in_a_database_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NexthinkLedgerMismatchError, match="'duckdb'.*PostgreSQL, MySQL, MariaDB or SQLite"):
        database_of(create_engine(f"duckdb:///{tmp_path / 'ledger.duckdb'}"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://nobody@127.0.0.1:9/ledger",
        "mysql+mysqlconnector://nobody@127.0.0.1:9/ledger",
        "postgresql+psycopg2://nobody@no-such-host.invalid/ledger",
        "sqlite:////no-such-folder/ledger.db",
    ],
)
def test_open_database_that_is_not_there_is_retryable(url: str) -> None:
    database = Database(create_engine(url), tenant="acme", instance="acme", clock=FakeTime().clock())
    with pytest.raises(NexthinkLedgerError, match="The ledger cannot be opened"):
        database.open()


def test_locked_read_only_file_is_an_error_that_says_so(sqlite_engine: Engine, tmp_path: Path) -> None:
    database_of(sqlite_engine).open()
    with (
        engine_of(f"sqlite:///file:{tmp_path / 'ledger.db'}?mode=ro&uri=true") as read_only,
        pytest.raises(NexthinkLedgerMismatchError, match="refuses.*readonly.*right to make the tables"),
        database_of(read_only).locked(),
    ):
        pytest.fail("it must not be entered")


def test_open_empty_read_only_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with (
        engine_of(f"sqlite:///file:{tmp_path / 'empty.db'}?mode=ro&uri=true") as read_only,
        pytest.raises(NexthinkLedgerMismatchError, match="refuses.*readonly"),
    ):
        database_of(read_only).open()


def test_transaction_full_disk_is_retryable(sqlite_engine: Engine) -> None:
    @event.listens_for(sqlite_engine, "connect")
    def _limit(connection: object, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 5")  # type: ignore[attr-defined]

    with pytest.raises(NexthinkLedgerError, match="full"):
        database_of(sqlite_engine, FakeTime().clock()).open()


def test_locked_advances_the_time_of_the_ledger(ledger_engine: Engine) -> None:
    time = FakeTime()
    database = database_of(ledger_engine, time.clock())
    for seconds, expected in [(0.25, 0.25), (60.0, 60.0), (50.0, 60.0), (61.0, 61.0)]:
        time.seconds = seconds
        with database.locked() as (_, now):
            assert now == START + timedelta(seconds=expected)
    assert rows_of(ledger_engine, "ledger")[0]["latest_at"] == START + timedelta(seconds=61)


def test_locked_clock_far_behind_is_an_error(ledger_engine: Engine) -> None:
    time = FakeTime(seconds=3600)
    database = database_of(ledger_engine, time.clock())
    with database.locked():
        pass
    time.seconds = 3600 - CLOCK_TOLERANCE.total_seconds() - 1
    words = r"says .* 00:54:59 UTC, .* at .* 01:00:00 UTC.*Set the clock right"
    with pytest.raises(NexthinkLedgerError, match=words), database.locked():
        pytest.fail("it must not be entered")
    time.seconds += 1
    with database.locked() as (_, now):
        assert now == START + timedelta(hours=1)


def test_locked_error_rolls_everything_back(ledger_engine: Engine) -> None:
    time = FakeTime()
    database = database_of(ledger_engine, time.clock())
    database.open()
    before = all_rows(ledger_engine)
    time.seconds = 100

    def write() -> None:
        with database.locked() as (connection, now):
            connection.execute(insert(schema.lists).values(list_name="stale", created_at=now))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert all_rows(ledger_engine) == before


def test_locked_twice_at_once_waits_for_the_first_and_is_later(ledger_url: URL) -> None:
    times: list[datetime] = []
    is_locked, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        ahead = Clock(now=lambda: START + timedelta(seconds=60))
        with engine_of(ledger_url) as engine, database_of(engine, ahead).locked() as (_, now):
            is_locked.set()
            may_end.wait()
            times.append(now)

    def follow() -> None:
        with engine_of(ledger_url) as engine, database_of(engine, Clock(now=lambda: START)).locked() as (_, now):
            times.append(now)

    with engine_of(ledger_url) as engine:
        database_of(engine, Clock(now=lambda: START)).open()
    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    is_locked.wait()
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()
    may_end.set()
    for thread in threads:
        thread.join()
    assert times == [START + timedelta(seconds=60)] * 2


def test_times_keep_their_microseconds_and_zone(ledger_engine: Engine) -> None:
    moment = START + timedelta(microseconds=123_457)
    database = database_of(ledger_engine, Clock(now=lambda: moment))
    with database.locked() as (_, now):
        assert now == moment
    (ledger,) = rows_of(ledger_engine, "ledger")
    assert ledger["latest_at"] == ledger["created_at"] == moment
