"""A SQL query decides what is deleted: four databases, each with the types and habits that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from airflow.sdk import DAG, BaseHook

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator
from tests.support.dags import Run
from tests.support.services import DATABASES

RunDag = Callable[..., Run]

ON_EACH = pytest.mark.parametrize("database", DATABASES, indirect=True)
UUID_TYPE = {"sqlite": "TEXT", "duckdb": "UUID", "postgres": "UUID", "mariadb": "UUID"}


def fill(database: str, rows: list[tuple[str | None, str | None]], name_type: str = "VARCHAR(100)") -> None:
    """Make the table ``assets``, with uids of the type that the database has for them."""
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run(f"CREATE TABLE assets (row_no INTEGER, asset_uid {UUID_TYPE[database]}, asset_name {name_type})")
    hook.insert_rows("assets", [(at, *row) for at, row in enumerate(rows)], ["row_no", "asset_uid", "asset_name"])


def delete(run_dag: RunDag, sql: str = "", native: bool = False, **options: Any) -> Run:
    default_args = {"retries": 1, "retry_delay": timedelta(0)}
    with DAG("sql", default_args=default_args, render_template_as_native_obj=native) as dag:
        sql = sql or 'SELECT asset_name AS "NAME", asset_uid AS "UID" FROM assets ORDER BY row_no'
        SqlToNexthinkDeleteDevicesOperator(task_id="delete", **{"sql": sql, "sql_conn_id": "warehouse", **options})
    return run_dag(dag)


def outcome(run: Run) -> list[tuple[str, str, str]]:
    return [(row["uid"], row["name"], row["status"]) for row in run.xcom("delete")]


@ON_EACH
@pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
def test_sql_deletes_the_devices_that_the_query_finds(
    sandbox: Sandbox, run_dag: RunDag, database: str, native: bool
) -> None:
    devices = sandbox.tenant.devices()[:150]  # all the odd names are among them
    fill(database, [(device.uid, device.name) for device in devices])
    run = delete(run_dag, native=native)
    assert run.state == "success"
    assert outcome(run) == [(device.uid, device.name, "SCHEDULED") for device in devices]
    assert sorted(sandbox.tenant.queued) == sorted(device.uid for device in devices)
    assert run.xcom("delete", "summary")["uid_column"] == "UID"


@ON_EACH
def test_sql_missing_cells_are_rejected_alone(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    device = sandbox.tenant.devices()[0]
    fill(database, [(None, "PC"), (device.uid, None), (None, None), (device.uid, device.name)])
    run = delete(run_dag)
    assert [row["status"] for row in run.xcom("delete")] == ["REJECTED", "REJECTED", "REJECTED", "SCHEDULED"]
    assert "missing" in run.xcom("delete")[0]["reason"]
    assert sandbox.tenant.queued == [device.uid]


@ON_EACH
def test_sql_padding_of_char_is_removed_and_a_blank_of_varchar_is_kept(
    sandbox: Sandbox, run_dag: RunDag, database: str
) -> None:
    device = sandbox.tenant.devices()[0]
    fill(database, [(device.uid, "PC-1")], "CHAR(20)")
    assert outcome(delete(run_dag)) == [(device.uid, "PC-1", "SCHEDULED")]
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("DROP TABLE assets")
    fill(database, [(device.uid, "PC-1 ")])
    assert outcome(delete(run_dag)) == [(device.uid, "PC-1 ", "SCHEDULED")]


@ON_EACH
def test_sql_stored_outcome_table_keeps_its_excluded_rows(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    devices = sandbox.tenant.devices()[:3]
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("CREATE TABLE plans (uid CHAR(36), name CHAR(20), state CHAR(12), reason VARCHAR(50))")
    states = ["PLANNED", "EXCLUDED", "DUPLICATE"]
    plans = [(device.uid, "PC", state, "why") for device, state in zip(devices, states, strict=True)]
    hook.insert_rows("plans", plans)
    run = delete(run_dag, "SELECT uid, name, state AS status, reason FROM plans ORDER BY state DESC")
    assert [(row["status"], row["reason"]) for row in run.xcom("delete")] == [
        ("SCHEDULED", None),
        ("EXCLUDED", "why"),
        ("DUPLICATE", "why"),
    ]
    assert sandbox.tenant.queued == [devices[0].uid]


@ON_EACH
def test_sql_uids_of_char_are_read(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    device = sandbox.tenant.devices()[0]
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("CREATE TABLE other (device_uid CHAR(40), name VARCHAR(20))")
    hook.insert_rows("other", [(device.uid.upper(), "PC-1")])
    assert outcome(delete(run_dag, "SELECT * FROM other")) == [(device.uid, "PC-1", "SCHEDULED")]


@ON_EACH
def test_sql_without_rows_is_an_empty_list(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    fill(database, [(sandbox.tenant.devices()[0].uid, "PC")])
    run = delete(run_dag, "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE row_no > 5")
    assert run.state == "success"
    assert run.xcom("delete") == []
    sql = "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE row_no > 5"
    assert delete(run_dag, sql, on_empty="skip").states == {"delete": "skipped"}


@ON_EACH
def test_sql_not_a_single_query_is_refused_and_changes_nothing(
    sandbox: Sandbox, run_dag: RunDag, database: str
) -> None:
    fill(database, [(sandbox.tenant.devices()[0].uid, "PC")])
    hook: Any = BaseHook.get_hook("warehouse")
    run = delete(run_dag, "SELECT asset_uid AS uid, asset_name AS name FROM assets; DELETE FROM assets")
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "sql takes one query, not several statements. This try ran none and sent nothing." in run.error
    if database != "duckdb":  # which commits at once, and returns the count
        run = delete(run_dag, "DELETE FROM assets")
        assert (run.state, run.tries("delete")) == ("failed", 1)
        assert re.search("sql gives no rows.*This try sent nothing", run.error)
    assert hook.get_first("SELECT COUNT(*) FROM assets")[0] == 1
    assert sandbox.requests == []


class DatabricksLike(SqliteHook):
    """Takes for a result what Databricks' hook takes: a list of its rows, or one of them."""

    def _make_common_data_structure(self, result: Any) -> Any:
        if isinstance(result, list):
            return [tuple(row[field] for field in result[0].__fields__) for row in result]
        raise TypeError(f"Expected Sequence[Row] or Row, but got {type(result)}")


class OdbcLike(SqliteHook):
    """Takes for a result what the ODBC hook takes: rows that know their cursor."""

    def _make_common_data_structure(self, result: Any) -> Any:
        if not result:
            return []
        rows = result if isinstance(result, Sequence) else [result]
        return [dict(zip([column[0] for column in row.cursor_description], row, strict=True)) for row in rows]


class Statement:
    """What Exasol's driver gives in the place of a cursor."""

    def __init__(self, cursor: Any) -> None:
        self.columns = [column[0] for column in cursor.description or ()]
        self.fetchmany = cursor.fetchmany


class ExasolLike(DatabricksLike):
    """Has statements for cursors, and describes them itself."""

    @staticmethod
    def get_description(statement: Statement) -> Any:
        return [(name, "VARCHAR") for name in statement.columns]

    def run(self, sql: Any, *args: Any, handler: Any = None, **kwargs: Any) -> Any:
        read: Any = handler and (lambda cursor: handler(Statement(cursor)))
        run: Any = super().run
        return run(sql, *args, handler=read, **kwargs)


class TrinoLike(SqliteHook):
    """Takes no semicolon, and removes it only where it splits statements."""

    strip_semicolon = True

    def _run_command(self, cur: Any, sql_statement: Any, parameters: Any) -> None:
        if ";" in sql_statement.rstrip()[-1:]:
            raise ValueError("mismatched input ';'. Expecting: <EOF>")
        super()._run_command(cur, sql_statement, parameters)


class ListLike(SqliteHook):
    """Returns a list of results, whatever it is asked for."""

    def run(self, sql: Any, *args: Any, **kwargs: Any) -> Any:
        return super().run([sql], *args, **kwargs)


class DeafHook(SqliteHook):
    """Has its own idea of ``run``."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return []


def use_hook(monkeypatch: pytest.MonkeyPatch, hook: type[SqliteHook]) -> None:
    monkeypatch.setattr(BaseHook, "get_hook", classmethod(lambda cls, conn_id, hook_params=None: hook(conn_id)))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("hook", [DatabricksLike, OdbcLike, ExasolLike, TrinoLike, ListLike])
def test_sql_hook_that_converts_the_result_of_its_handler_works(
    sandbox: Sandbox, run_dag: RunDag, database: str, monkeypatch: pytest.MonkeyPatch, hook: type[SqliteHook]
) -> None:
    devices = sandbox.tenant.devices()[:3]
    fill(database, [(device.uid, device.name) for device in devices])
    use_hook(monkeypatch, hook)
    assert outcome(delete(run_dag)) == [(device.uid, device.name, "SCHEDULED") for device in devices]
    assert delete(run_dag, "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE 1 = 0").state == "success"
    run = delete(run_dag, "DELETE FROM assets WHERE 1 = 0")
    assert re.search("sql gives no rows.*This try sent nothing", run.error)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_hook_that_ignores_its_handler_fails_without_retry(
    sandbox: Sandbox, run_dag: RunDag, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hook(monkeypatch, DeafHook)
    run = delete(run_dag, "SELECT 1")
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "DeafHook" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("hook", [SqliteHook, TrinoLike])
@pytest.mark.parametrize("end", [";", " ; ", ";\n", ";;", "; -- done;", ";/* done; */ -- ;\n"])
def test_sql_semicolon_at_the_end_is_not_sent(
    sandbox: Sandbox, run_dag: RunDag, database: str, monkeypatch: pytest.MonkeyPatch, hook: type[SqliteHook], end: str
) -> None:
    device = sandbox.tenant.devices()[0]
    fill(database, [(device.uid, device.name)])
    use_hook(monkeypatch, hook)
    run = delete(run_dag, f"SELECT asset_uid AS uid, asset_name AS name FROM assets{end}")
    assert outcome(run) == [(device.uid, device.name, "SCHEDULED")]


LONG = ", ".join(f"'{at}'" for at in range(20_000))


@ON_EACH
@pytest.mark.parametrize(
    "condition",
    [
        r"asset_name <> '{backslash}'",
        r"asset_name <> '{backslash}' AND asset_name <> ';'",
        r"asset_name NOT IN ('{backslash}', 'E:{backslash}', ';')",
        "asset_name <> 'it''s; here'",
        "asset_name <> 'a' -- it's; not the end\n AND 1 = 1",
        "asset_name <> 'a' /* it's; not the end */ AND 1 = 1",
        f"asset_name NOT IN ({LONG})",
        "{deep} = 1",
    ],
    ids=["backslash", "backslash, semicolon", "backslashes", "quote", "comment", "comment in line", "long", "deep"],
)
def test_sql_hard_to_parse_is_run_as_it_is(sandbox: Sandbox, run_dag: RunDag, database: str, condition: str) -> None:
    device = sandbox.tenant.devices()[0]
    fill(database, [(device.uid, "PC-1")])
    depth = 60 if database == "sqlite" else 150  # of which SQLite takes 100
    condition = condition.replace("{deep}", "(" * depth + "1" + ")" * depth)
    condition = condition.replace("{backslash}", r"D:\\" if database == "mariadb" else "D:\\")
    run = delete(run_dag, f"SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE {condition}")
    assert outcome(run) == [(device.uid, "PC-1", "SCHEDULED")]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_database_error_is_retried(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    run = delete(run_dag, "SELECT uid, name FROM not_there")
    assert (run.state, run.tries("delete")) == ("failed", 2)
    assert "not_there" in str(run.errors[-1])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_ambiguous_columns_fail_without_retry(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    fill(database, [])
    sql = 'SELECT asset_uid AS "device.uid", asset_uid AS "device.collector.uid", asset_name AS name FROM assets'
    run = delete(run_dag, sql)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "'device.uid' and 'device.collector.uid'" in run.error
    assert delete(run_dag, sql, uid_column="device.uid").state == "success"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_from_a_file_with_parameters_obeys_the_guards(
    sandbox: Sandbox, run_dag: RunDag, database: str, tmp_path: Path
) -> None:
    devices = sandbox.tenant.devices()[:10]
    fill(database, [(device.uid, device.name) for device in devices])
    (tmp_path / "stale.sql").write_text(
        "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE row_no < :below\n"
    )
    with DAG("file", template_searchpath=str(tmp_path), default_args={"max_devices": 5}) as dag:
        SqlToNexthinkDeleteDevicesOperator(
            task_id="delete",
            sql="stale.sql",
            sql_conn_id="{{ 'warehouse' }}",
            parameters={"below": "{{ params.below }}"},
            params={"below": 6},
        )
    run = run_dag(dag)
    assert run.state == "failed"
    assert "6 devices, more than max_devices=5" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("connection", "says"),
    [
        ('{"conn_type": "nexthink", "host": "acme"}', "'other' .sql_conn_id. is not one to a SQL database"),
        ('{"conn_type": "nobody_knows"}', "'other' .sql_conn_id. cannot be used"),
        (None, "'other' .sql_conn_id. cannot be used"),
    ],
)
def test_sql_connection_not_to_a_database_fails_without_retry(
    sandbox: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, connection: str | None, says: str
) -> None:
    if connection:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", connection)
    run = delete(run_dag, "SELECT 1", sql_conn_id="other")
    assert (run.state, run.tries("delete")) == ("failed", 1)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(run.error)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": []}, "devices is no option of SqlToNexthinkDeleteDevicesOperator"),
        ({"columns": ["uid", "name"]}, "columns is no option"),
        ({"sql": " "}, "sql"),
        ({"sql_conn_id": ""}, "sql_conn_id"),
        ({"max_devices": "many"}, "max_devices"),
    ],
)
def test_sql_wrong_option_fails_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        SqlToNexthinkDeleteDevicesOperator(
            **{"task_id": "delete", "sql": "SELECT 1", "sql_conn_id": "warehouse", **options}
        )


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_many_rows_keep_their_order(sandbox: Sandbox, run_dag: RunDag, database: str) -> None:
    fill(database, [(f"0fbd5a5c-0000-4000-8000-{at:012}", f"PC-{at}") for at in range(25_000)])
    run = delete(run_dag, dry_run=True, max_devices=None, return_format="columns")
    assert run.xcom("delete")["name"] == [f"PC-{at}" for at in range(25_000)]
