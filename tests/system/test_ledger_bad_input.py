"""What a connection gets whose ledger cannot be one, or is not there: a clear error, and no request at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from sqlalchemy import text, update
from sqlalchemy.engine import URL, make_url

from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkInputError,
    NexthinkLedgerError,
    NexthinkLedgerMismatchError,
    NexthinkPolicyError,
    NexthinkSettingsError,
)
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.version_compat import AirflowFailException
from tests.support.dags import Run
from tests.support.ledgers import database_of, engine_of
from tests.support.services import mariadb_database, postgres_database
from tests.support.store import Store
from tests.support.tries import TaskInstance, execute

SetExtras = Callable[..., None]

PASSWORD = "made-up-password-of-the-ledger"
MARIADB_EXTRA = {"client": "mysql-connector-python", "charset": "utf8mb4", "collation": "utf8mb4_general_ci"}
REFUSED: dict[str, Any] = {"host": "127.0.0.1", "port": 9, "login": "me", "password": PASSWORD, "schema": "ledger"}


@pytest.fixture
def devices(sandbox: Sandbox) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:3]]


@pytest.fixture
def set_ledger(set_extras: SetExtras, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets the connection of the ledger, and extras of the Nexthink connection."""

    def set_it(connection: dict[str, Any] | None, **extras: Any) -> None:
        set_extras(ledger_conn_id="warehouse", **extras)
        if connection is not None:
            monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))

    return set_it


def connection_to(url: URL, **changes: Any) -> dict[str, Any]:
    """Return the Airflow connection to a database."""
    if url.drivername == "sqlite":
        return {"conn_type": "sqlite", "host": url.database}
    kind = "postgres" if url.drivername.startswith("postgres") else "mysql"
    fields = {"login": url.username, "password": url.password, "schema": url.database}
    extra = MARIADB_EXTRA if kind == "mysql" else {}
    return {"conn_type": kind, "host": url.host, "port": url.port, **fields, "extra": extra, **changes}


@contextmanager
def user_without_rights(url: URL) -> Iterator[dict[str, Any]]:
    """Give the connection of a user who may read and write in a database, but make no tables."""
    name = f"reader_{url.database}"
    with engine_of(url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"))
            connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
            drop = f"DROP ROLE {name}"
        else:
            connection.execute(text(f"CREATE USER {name} IDENTIFIED BY '{PASSWORD}'"))
            connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {url.database}.* TO {name}"))
            drop = f"DROP USER {name}"
        try:
            yield connection_to(url, login=name, password=PASSWORD)
        finally:
            connection.execute(text(drop))


def fails(
    sandbox: Sandbox, devices: Any, error: type[NexthinkError], *, has_store: bool = True, **options: Any
) -> tuple[str, TaskInstance]:
    """Execute a task that must fail with an error before any request; return its message, and the XComs."""
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)
    ti = execute(operator, Store() if has_store else None, run_id="run-1")
    raised = ti.xcoms["raised"]
    if issubclass(error, NexthinkInputError):  # which no retry changes
        assert type(raised) is AirflowFailException
        raised = raised.__cause__
    assert type(raised) is error
    assert sandbox.requests == []
    summary = ti.xcoms["summary"]
    assert summary["error"] == {"type": error.__name__, "message": str(raised), "sent_nothing": True}
    assert (summary["SCHEDULED"], summary["requests"]) == (0, 0)
    return str(raised), ti


@pytest.mark.parametrize("has_store", [True, False], ids=["with task state", "without"])
@pytest.mark.parametrize(
    ("connection", "error", "words"),
    [
        (None, NexthinkInputError, "cannot be used"),
        ({"conn_type": "snowflake", "host": "example.com"}, NexthinkInputError, "cannot be used"),
        ({"conn_type": "fs"}, NexthinkInputError, "not one to a SQL database"),
        ({"conn_type": "duckdb", "host": "DIR/ledger.duckdb"}, NexthinkLedgerMismatchError, "the kind 'duckdb'"),
        ({"conn_type": "sqlite", "host": ":memory:"}, NexthinkLedgerMismatchError, "Give it a file"),
        ({"conn_type": "sqlite", "host": "DIR/text.db"}, NexthinkLedgerMismatchError, "not a database"),
        ({"conn_type": "sqlite", "host": "DIR/missing/ledger.db"}, NexthinkLedgerError, "Is its database there"),
        ({"conn_type": "postgres", **REFUSED}, NexthinkLedgerError, "Is its database there, reachable"),
        ({"conn_type": "mysql", **REFUSED, "extra": MARIADB_EXTRA}, NexthinkLedgerError, "Is its database there"),
        ({"conn_type": "mysql", **REFUSED, "schema": ""}, NexthinkLedgerMismatchError, "the name of a database"),
    ],
)
def test_ledger_that_cannot_be_one_fails_before_any_request(
    sandbox: Sandbox,
    set_ledger: Callable[..., None],
    devices: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    connection: dict[str, Any] | None,
    error: type[NexthinkError],
    words: str,
    has_store: bool,
) -> None:
    (tmp_path / "text.db").write_text("This is no database, however long one looks at it. " * 100)
    if connection and "host" in connection:
        connection = {**connection, "host": connection["host"].replace("DIR", str(tmp_path))}
    if connection and connection.get("schema") == "":
        connection["extra"] = MARIADB_EXTRA
    set_ledger(connection)
    message, ti = fails(sandbox, devices, error, has_store=has_store)
    assert "'warehouse'" in message
    assert words in message
    if issubclass(error, NexthinkInputError) and error is not NexthinkLedgerMismatchError:
        assert "PostgreSQL, MySQL, MariaDB or SQLite" in message
    captured = capfd.readouterr()
    assert PASSWORD not in f"{message}{ti.xcoms}{captured.out}{captured.err}"
    ok, answer = NexthinkHook().test_connection()
    assert not ok
    assert words in answer
    assert PASSWORD not in answer


@pytest.mark.service
@pytest.mark.parametrize("database", [postgres_database, mariadb_database], ids=["postgres", "mariadb"])
@pytest.mark.parametrize("has_store", [True, False], ids=["with task state", "without"])
@pytest.mark.parametrize("case", ["no right to make tables", "no such database", "no such user"])
def test_ledger_whose_database_refuses_fails_without_a_retry(
    sandbox: Sandbox,
    set_ledger: Callable[..., None],
    devices: Any,
    capfd: pytest.CaptureFixture[str],
    database: Any,
    has_store: bool,
    case: str,
) -> None:
    with database() as url, user_without_rights(url) as connection:
        changes = {"no such database": {"schema": "no_such_database"}, "no such user": {"login": "no_such_user"}}
        set_ledger(connection | changes.get(case, {}))
        message, ti = fails(sandbox, devices, NexthinkLedgerMismatchError, has_store=has_store)
    assert "The ledger (connection 'warehouse') cannot be opened: the database refuses" in message
    assert "the right to make the tables nexthink_* once" in message
    captured = capfd.readouterr()
    assert PASSWORD not in f"{message}{ti.xcoms}{captured.out}{captured.err}"


@pytest.mark.parametrize("has_store", [True, False], ids=["with task state", "without"])
@pytest.mark.parametrize("change", ["another tenant", "a newer schema"])
def test_ledger_of_another_tenant_or_version_fails_without_a_retry(
    sandbox: Sandbox, set_ledger: Callable[..., None], devices: Any, tmp_path: Path, change: str, has_store: bool
) -> None:
    url = make_url(f"sqlite:///{tmp_path / 'ledger.db'}")
    set_ledger(connection_to(url))
    with NexthinkHook() as hook:
        tenant = hook.get_conn().tenant
    with engine_of(url) as engine:
        database_of(
            engine, tenant="https://other.api.eu.nexthink.cloud" if change == "another tenant" else tenant
        ).open()
        if change == "a newer schema":
            with engine.begin() as connection:
                connection.execute(update(schema.ledgers).values(schema_version=99))
    message, _ = fails(sandbox, devices, NexthinkLedgerMismatchError, has_store=has_store)
    assert "connection 'warehouse'" in message
    assert {
        "another tenant": "give ledger_conn_id another database or schema",
        "a newer schema": "Upgrade the provider here, too",
    }[change] in message


@pytest.mark.parametrize(
    ("extras", "options", "error", "words"),
    [
        ({"quota_devices": 5, "quota_days": 0}, {}, NexthinkSettingsError, "quota_days of the connection is 0"),
        ({"quota_devices": 5, "quota_days": 7}, {}, NexthinkPolicyError, "set the extra ledger_conn_id"),
        ({"require_proof": True}, {}, NexthinkPolicyError, "set the extra ledger_conn_id"),
        ({}, {"max_growth": 3}, NexthinkPolicyError, "max_growth cannot take effect without a ledger"),
        ({}, {"fleet_query_id": "#all_devices"}, NexthinkInputError, "does nothing without max_share"),
    ],
)
def test_limit_that_cannot_take_effect_fails_before_any_request(
    sandbox: Sandbox,
    set_extras: SetExtras,
    devices: Any,
    extras: dict[str, Any],
    options: dict[str, Any],
    error: type[NexthinkError],
    words: str,
) -> None:
    set_extras(**extras)
    for dry_run in (False, True):
        message, _ = fails(sandbox, devices, error, dry_run=dry_run, **options)
        assert words in message


def test_max_growth_below_one_fails_the_parsing_of_the_dag() -> None:
    with pytest.raises(NexthinkInputError, match=r"max_growth is 0\.5: it takes a number, 1 or more"):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=[], max_growth=0.5)


def test_quota_lowered_below_what_is_used_says_what_is_left_and_when_there_is_more(
    sandbox: Sandbox, set_ledger: Callable[..., None], devices: Any, tmp_path: Path
) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}
    set_ledger(connection, quota_devices=10, quota_days=7)
    with NexthinkHook() as hook:
        hook.delete_devices(devices)
    set_ledger(connection, quota_devices=2, quota_days=7)
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices[:1])
    raised = execute(operator, Store(), run_id="run-1").xcoms["raised"]
    assert type(raised) is AirflowFailException
    assert "0 are left of the quota of the connection: quota_devices=2 in quota_days=7" in str(raised)
    assert "3 of them used. From 20" in str(raised)
    assert "UTC on there is room for it." in str(raised)
    assert len(sandbox.tenant.queued) == 3


@pytest.mark.parametrize("helps", [True, False], ids=["a retry may help", "a retry changes nothing"])
def test_airflow_retries_only_where_a_retry_may_help(
    sandbox: Sandbox,
    run_dag: Callable[..., Run],
    set_ledger: Callable[..., None],
    devices: Any,
    tmp_path: Path,
    helps: bool,
) -> None:
    (tmp_path / "text.db").write_text("no database " * 1000)
    bad = {"conn_type": "postgres", **REFUSED} if helps else {"conn_type": "sqlite", "host": str(tmp_path / "text.db")}
    good = {"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}

    def connect(context: Any) -> None:
        set_ledger(bad if context["ti"].try_number == 1 else good)

    with DAG("retries", default_args={"retries": 1, "retry_delay": 0}) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, pre_execute=connect)
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == (("success", 2) if helps else ("failed", 1))
    assert len(sandbox.tenant.queued) == (3 if helps else 0)
    assert run.xcom("delete", "summary")["requests"] == (1 if helps else 0)
