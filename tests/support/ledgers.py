"""Ledgers for tests: in a file of SQLite, on PostgreSQL and on MariaDB, each in a database of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.engine import URL, make_url

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.reservation import RunRequest
from airflow_provider_nexthink.origin import RunOrigin
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
