"""Ledgers for tests: in a file of SQLite, on PostgreSQL and on MariaDB, each in a database of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import URL, Engine, make_url

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.ledger import reservation, schema
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.reservation import Columns, InventoryLook, RunRequest
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.support.runs import device_rows
from tests.support.services import mariadb_database, postgres_database

LEDGERS = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.service),
    pytest.param("mariadb", marks=pytest.mark.service),
]
"""What the fixture ``ledger_url`` takes."""

TENANT = "https://acme.api.eu.nexthink.cloud\0acme"


@contextmanager
def ledger_database(kind: str, folder: Path) -> Iterator[URL]:
    """Give the address of an empty database, which is gone afterwards.

    :param kind: sqlite, postgres or mariadb.
    :param folder: where a file may be.
    """
    if kind == "sqlite":
        yield make_url(f"sqlite:///{folder / 'ledger.db'}")
    else:
        with postgres_database() if kind == "postgres" else mariadb_database() as url:
            yield url


@contextmanager
def engine_of(url: URL | str, **options: Any) -> Iterator[Engine]:
    """Give an engine, whose connections are closed afterwards.

    :param url: of the database.
    :param options: of ``create_engine``.
    """
    engine = create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def text_of(url: URL) -> str:
    """Return an address with its password, to be passed to another process."""
    return url.render_as_string(hide_password=False)


def database_of(engine: Engine, clock: Clock | None = None, *, tenant: str = TENANT, **options: Any) -> Database:
    """Return the ledger of a tenant."""
    return Database(engine, tenant=tenant, instance="acme", clock=clock, **options)


def outcomes_of(count: int, *, first: int = 0) -> Outcomes:
    """Return the outcome table of a run that has sent nothing yet.

    :param count: how many devices.
    :param first: the number of the first of them.
    """
    rows = device_rows(first + count)
    return Outcomes(make_plan(DeviceRows(rows.uids[first:], rows.names[first:], "uid", "name")))


def origin_of(run: str = "run-1", *, task_id: str = "delete", map_index: int = -1, try_number: int = 1) -> RunOrigin:
    """Return the origin of a try of a task.

    :param run: the run of the Dag.
    """
    return RunOrigin(
        dag_id="cleanup",
        dag_run_id=run,
        task_id=task_id,
        map_index=map_index,
        try_number=try_number,
        triggered_by="the schedule",
    )


def request_of(planned: int, origin: RunOrigin | None = None, **options: Any) -> RunRequest:
    """Return what a run is about to do."""
    return RunRequest(origin=origin or RunOrigin(), provider_version="0.1.0", planned=planned, **options)


@dataclass
class StepwiseRun:
    """A run of devices in the ledger, one transaction at a time: what ``LedgerRun`` does in a thread.

    :param database: the ledger.
    :param outcomes: the outcome table.
    :param origin: the task and the try.
    """

    database: Database
    outcomes: Outcomes
    origin: RunOrigin = field(default_factory=RunOrigin)
    run_id: int | None = None

    def reserve(
        self,
        *,
        released: int | None = None,
        earlier: Columns | None = None,
        look: InventoryLook | None = None,
        **options: Any,
    ) -> list[str]:
        """Reserve all devices, and return the warnings.

        :param released: how many may be sent from the start; all by default.
        :param earlier: what is known of earlier tries.
        :param look: a look at the inventory just before.
        :param options: of the request.
        """
        size = len(self.outcomes)
        with self.database.locked() as (connection, now):
            reserved = reservation.reserve(
                connection,
                now,
                request_of(options.pop("planned", size), self.origin, **options),
                self.outcomes,
                range(size),
                released=size if released is None else released,
                earlier=earlier,
                look=look,
            )
        self.run_id = reserved.run_id
        return list(reserved.warnings)

    def settle(self, status: Status, positions: Iterable[int], *, batch: int = 1) -> None:
        """Set the outcome of devices in the table."""
        for at in positions:
            self.outcomes.status[at], self.outcomes.batch[at] = status, batch
            if status is not Status.NOT_SENT:
                self.outcomes.attempts[at], self.outcomes.request_id[at] = 1, f"request-{batch}"
                self.outcomes.submitted_at[at] = self.database.clock.now().isoformat(timespec="milliseconds")

    def keep(self, positions: Iterable[int] = (), *, released: int | None = None) -> bool:
        """Record a heartbeat and devices, and release more."""
        assert self.run_id is not None
        with self.database.transaction() as connection:
            return reservation.keep_run(
                connection,
                self.database.clock.now(),
                self.run_id,
                self._outcomes_of(positions),
                released=len(self.outcomes) if released is None else released,
            )

    def finish(self, error: str | None = None) -> None:
        """Record the whole table, and the end."""
        assert self.run_id is not None
        with self.database.locked(is_final=True) as (connection, now):
            reservation.finish_run(
                connection, now, self.run_id, self._outcomes_of(range(len(self.outcomes))), error=error
            )

    def _outcomes_of(self, positions: Iterable[int]) -> list[reservation.Outcome]:
        return reservation.outcomes_of(self.outcomes, [(at, at) for at in positions])


def devices_of(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Return a list of devices.

    :param count: how many.
    :param first: the number of the first of them.
    """
    rows = device_rows(first + count)
    return [{"uid": uid, "name": name} for uid, name in zip(rows.uids[first:], rows.names[first:], strict=True)]


DEVICES_IN_A_RUN = 1_000
"""Of the runs that ``fill`` makes."""


def fill(engine: Engine, rows: int) -> None:
    """Fill a ledger with runs that have ended long ago.

    :param rows: how many devices they had together.
    """
    database_of(engine, Clock(now=lambda: datetime(2025, 1, 1, tzinfo=UTC))).open()
    dialect = engine.dialect.name
    is_mysql = dialect == "mysql"
    integer = "SIGNED" if is_mysql else "BIGINT"
    padded = "printf('%012d', {})" if dialect == "sqlite" else "lpad(CAST({} AS CHAR(12)), 12, '0')"

    def joined(prefix: str, value: str) -> str:
        return f"CONCAT('{prefix}', {value})" if is_mysql else f"'{prefix}' || {value}"

    numbers = f"""
        WITH RECURSIVE numbers(i) AS (
            SELECT CAST(0 AS {integer}) UNION ALL SELECT i + 1 FROM numbers WHERE i < :count - 1
        )"""
    moment, size = "'2025-01-01 00:00:00'", DEVICES_IN_A_RUN
    # Multiplied by a prime, the uids come in no order.
    uid = joined("00000000-0000-4000-9000-", padded.format("i * 2654435761 % 1000000000000"))
    with engine.begin() as connection:
        if is_mysql:
            connection.execute(text("SET SESSION max_recursive_iterations = 4294967295"))
        connection.execute(
            text(
                f"""
                INSERT INTO nexthink_runs (id, task_key, dag_id, dag_run_id, task_id, map_index, provider_version,
                    state, planned, devices, released, charged, scheduled, invalid, failed, rejected, unknown, not_sent,
                    started_at, heartbeat_at, finished_at)
                {numbers}
                SELECT i + 1, {joined("task-", "i")}, 'cleanup', {joined("old-", "i")}, 'delete', -1, '0.1.0',
                    'FINISHED', {size}, {size}, {size}, {size}, {size}, 0, 0, 0, 0, 0, {moment}, {moment}, {moment}
                FROM numbers
                """
            ),
            {"count": rows // size},
        )
        connection.execute(
            text(
                f"""
                INSERT INTO nexthink_deletions (run_id, seq, uid, name, requested_at, status, batch, request_id,
                    attempts, submitted_at, superseded, presence)
                {numbers}
                SELECT i {"DIV" if is_mysql else "/"} {size} + 1, i % {size}, {uid}, {joined("PC-", "i")}, {moment},
                    'SCHEDULED', 1, '7c9e6679-7425-40de-944b-e07fc1f90ae7', 1, {moment}, FALSE, 'GONE'
                FROM numbers
                """
            ),
            {"count": rows},
        )
        if dialect == "postgresql":
            connection.execute(text("SELECT setval('nexthink_runs_id_seq', (SELECT max(id) FROM nexthink_runs))"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE TABLE nexthink_runs, nexthink_deletions" if is_mysql else "ANALYZE"))


def rows_of(engine: Engine, *tables: str) -> list[dict[str, Any]]:
    """Return the rows of tables of a ledger, in the order of their keys.

    :param tables: without the prefix ``nexthink_``.
    """
    rows: list[dict[str, Any]] = []
    with engine.connect() as connection:
        for name in tables:
            table = schema.metadata.tables[f"nexthink_{name}"]
            found = connection.execute(select(table).order_by(*table.primary_key.columns))
            rows += [dict(row._mapping) for row in found]
    return rows


def all_rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table of a ledger."""
    names = [name.removeprefix("nexthink_") for name in schema.metadata.tables]
    return {name: rows_of(engine, name) for name in names}


def column_of(rows: Iterable[dict[str, Any]], *columns: str) -> Sequence[Any]:
    """Return a column of rows, or tuples of several."""
    return [row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns) for row in rows]
