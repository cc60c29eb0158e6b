"""A query's rows in a Parquet file: whole or not there, in bounded memory, and read back as devices."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from airflow.sdk import DAG, BaseHook, ObjectStoragePath
from airflow.sdk.io import attach
from pyarrow import parquet

from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.status import Status
from airflow_provider_nexthink.transfers.sql_to_parquet import SqlToParquetOperator
from tests.support.dags import KEEPS_TASK_STATE, Run
from tests.support.services import DATABASES

RunDag = Callable[..., Run]

ON_EACH = pytest.mark.parametrize("database", DATABASES, indirect=True)
ONE_RETRY = {"retries": 1, "retry_delay": timedelta(0)}
WAYS = pytest.mark.parametrize(
    "way", [{}, {"deferrable": True}, {"query_mode": "execute"}], ids=["worker", "triggerer", "execute"]
)
EXPORTS = pytest.mark.parametrize("way", [{}, {"deferrable": True}], ids=["worker", "triggerer"])


def pull(run_dag: RunDag, path: object, **options: Any) -> Run:
    with DAG("pull_to_file", default_args=ONE_RETRY) as dag:
        NexthinkNqlOperator(
            task_id="pull", query_id="#stale_devices", poll_interval=0.01, results_path=str(path), **options
        )
    return run_dag(dag)


def check_manifest(manifest: dict[str, Any], path: object) -> pa.Table:
    """Check what a manifest says of its file, and return the table in it."""
    content = ObjectStoragePath(str(path)).read_bytes()
    table = parquet.read_table(pa.BufferReader(content))
    assert manifest == {
        "path": str(path),
        "rows": table.num_rows,
        "columns": table.schema.names,
        "size": len(content),
        "checksum": hashlib.blake2b(content, digest_size=16).hexdigest(),
    }
    return table


@WAYS
@pytest.mark.parametrize("where", ["local", "object storage"])
def test_nql_to_file_holds_all_rows_as_text(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, way: dict[str, Any], where: str
) -> None:
    path = tmp_path / "new/folder/stale.parquet" if where == "local" else "memory://bucket/stale.parquet"
    attach("memory", fs=fsspec.filesystem("memory"))  # as a provider with an object storage does
    run = pull(run_dag, path, **way)
    assert run.state == "success"
    table = check_manifest(run.xcom("pull"), path)
    stale = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]
    assert table.schema.types == [pa.string()] * table.num_columns
    assert table["device.uid"].to_pylist() == [device.uid for device in stale]
    assert table["device.name"].to_pylist() == [device.name for device in stale]
    assert table["device.days_since_last_seen"].to_pylist() == [str(device.days_since_last_seen) for device in stale]


def test_nql_to_file_is_read_back_as_devices(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    path = f"{tmp_path}/{{{{ dag_run.run_type }}}}.parquet"
    stale = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]
    with DAG("pull_and_delete") as dag:
        pull = NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", results_path=path)
        NexthinkDeleteDevicesOperator(task_id="delete", devices=pull.output, return_format="columns")
    run = run_dag(dag)
    assert run.states == {"pull": "success", "delete": "success"}
    assert run.xcom("delete")["name"] == [device.name for device in stale]
    assert len(sandbox.tenant.queued) == 250


@pytest.mark.parametrize("query_mode", ["export", "execute"])
def test_nql_to_file_without_rows_is_an_empty_list_of_devices(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, query_mode: Any
) -> None:
    with DAG("pull_none", default_args=ONE_RETRY) as dag:
        pull = NexthinkNqlOperator(
            task_id="pull",
            query_id="#stale_devices",
            parameters={"min_days_unseen": "9999"},
            query_mode=query_mode,
            results_path=f"{tmp_path}/none.parquet",
        )
        NexthinkDeleteDevicesOperator(task_id="delete", devices=pull.output)
    run = run_dag(dag)
    assert run.states == {"pull": "success", "delete": "success"}
    assert run.xcom("delete") == []


def test_nql_to_file_without_rows_has_the_columns(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    run = pull(run_dag, path, parameters={"min_days_unseen": "9999"})
    table = check_manifest(run.xcom("pull"), path)
    assert (table.num_rows, "device.uid" in table.schema.names) == (0, True)


ROW = "device.uid,device.name\r\n" + "u,n\r\n" * 120_000  # more than are written at once


@EXPORTS
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (f"{ROW}u,n,x\r\n", "Line 120002 of the result file has 3 values for 2 columns"),
        (f'{ROW}u,"n', "unexpected end of data"),
        ("<html>\r\n</html>\r\n", "not a CSV table"),
    ],
    ids=["another width", "cut off", "error page"],
)
@pytest.mark.parametrize("is_there", [False, True], ids=["no file before", "a file before"])
def test_nql_to_file_damaged_result_leaves_the_file_as_it_was(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, way: dict[str, Any], body: str, says: str, is_there: bool
) -> None:
    path = tmp_path / "stale.parquet"
    if is_there:
        path.write_bytes(b"of an earlier run")
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=body, times=-1))
    run = pull(run_dag, path, **way)
    assert (run.state, run.tries("pull")) == ("failed", 2)
    assert says in str(run.errors[-1])
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"of an earlier run"] * is_there


def test_nql_to_file_download_that_fails_once_gives_each_row_once(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path
) -> None:
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=f'{ROW}u,"n'))
    run = pull(run_dag, tmp_path / "stale.parquet")
    assert (run.state, run.tries("pull")) == ("success", 1)
    assert check_manifest(run.xcom("pull"), tmp_path / "stale.parquet").num_rows == 250


@EXPORTS
def test_nql_to_file_truncated_fails_unless_it_is_allowed(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, way: dict[str, Any]
) -> None:
    sandbox.tenant.export_row_limit = 100
    run = pull(run_dag, tmp_path / "stale.parquet", **way)
    assert (run.state, run.tries("pull")) == ("failed", 1)
    assert "NexthinkTruncatedError" in run.error
    assert list(tmp_path.iterdir()) == []
    run = pull(run_dag, tmp_path / "stale.parquet", allow_truncated=True, **way)
    assert run.xcom("pull")["rows"] == 100


@WAYS
def test_nql_to_file_where_nothing_can_be_written_fails_before_the_query(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, way: dict[str, Any]
) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file/stale.parquet", "nobody://bucket/stale.parquet"):
        run = pull(run_dag, path, **way)
        assert (run.state, run.tries("pull")) == ("failed", 1)
        assert "results_path" in run.error
    run = pull(run_dag, "{{ dag_run.run_type }}.csv", **way)
    assert "the rows of a query go to a .parquet file" in run.error
    assert sandbox.requests == []


@EXPORTS
@pytest.mark.skipif(not KEEPS_TASK_STATE, reason="Airflow before 3.3 keeps no state for a task")
def test_nql_to_file_retry_resumes_the_export_after_a_write_that_failed(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    replace = Path.replace
    failures = [OSError(28, "No space left on device")]

    def fail_once(self: Path, target: Any) -> Path:
        if failures:
            raise failures.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    run = pull(run_dag, tmp_path / "stale.parquet", **way)
    assert (run.state, run.tries("pull"), failures) == ("success", 2, [])
    assert sum(request.path.endswith("/nql/export") for request in sandbox.requests) == 1
    check_manifest(run.xcom("pull"), tmp_path / "stale.parquet")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"results_path": "stale.csv"}, "go to a .parquet file"),
        ({"results_path": ""}, "results_path"),
        ({"results_path": 5}, "results_path"),
        ({"results_path": "a.parquet", "return_format": "columns"}, "does nothing with results_path"),
    ],
)
def test_nql_to_file_wrong_option_fails_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", **options)


PROGRAM = """
import resource, sys
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
import airflow_provider_nexthink.hooks.nexthink, airflow_provider_nexthink.utils.source_file
import pyarrow.parquet

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

class Try:
    max_tries = 0

before = peak()
pull = NexthinkNqlOperator(task_id="pull", query_id="#all_devices", poll_interval=0.01, results_path=sys.argv[1])
manifest = pull.execute({"ti": Try()})
print(manifest["rows"], peak() - before)
"""


@pytest.mark.slow
def test_nql_to_file_takes_memory_that_does_not_grow_with_the_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = {}
    for devices in (50_000, 150_000):
        with Sandbox(devices=devices, stale=0, pending_polls=0) as sandbox:
            monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
            command = [sys.executable, "-c", PROGRAM, str(tmp_path / "all.parquet")]
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
        rows, taken[devices] = map(int, output.split()[-2:])
        assert rows == devices
    # As a list, 200,000 rows more take 150 MB; these are half as many.
    assert taken[150_000] - taken[50_000] < 30 * 1024**2


UUID_TYPE = {"sqlite": "TEXT", "duckdb": "UUID", "postgres": "UUID", "mariadb": "UUID"}
SELECT = "SELECT asset_uid AS uid, asset_name AS name, asset_no AS no FROM assets ORDER BY asset_no"


def fill(database: str, rows: list[tuple[str | None, str | None]], name_type: str = "VARCHAR(100)") -> None:
    """Make the table ``assets``, with uids of the type that the database has for them."""
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run(f"CREATE TABLE assets (asset_no INTEGER, asset_uid {UUID_TYPE[database]}, asset_name {name_type})")
    hook.insert_rows("assets", [(at, *row) for at, row in enumerate(rows)], ["asset_no", "asset_uid", "asset_name"])


def sql_to_file(run_dag: RunDag, path: object, sql: str = SELECT, **options: Any) -> Run:
    with DAG("sql_to_file", default_args=ONE_RETRY) as dag:
        SqlToParquetOperator(
            task_id="query", **{"sql": sql, "sql_conn_id": "warehouse", "results_path": str(path), **options}
        )
    return run_dag(dag)


@ON_EACH
def test_sql_to_file_keeps_text_and_null_and_writes_the_rest_as_text(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, database: str
) -> None:
    devices = sandbox.tenant.devices()[:150]  # all the odd names are among them
    fill(database, [*((device.uid, device.name) for device in devices), (None, None)])
    run = sql_to_file(run_dag, tmp_path / "assets.parquet")
    assert run.state == "success"
    table = check_manifest(run.xcom("query"), tmp_path / "assets.parquet")
    assert table.to_pydict() == {
        "uid": [*(device.uid for device in devices), None],
        "name": [*(device.name for device in devices), None],
        "no": [str(at) for at in range(151)],
    }


@ON_EACH
def test_sql_to_file_is_read_back_as_devices(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, database: str) -> None:
    devices = sandbox.tenant.devices()[:30]
    fill(database, [(device.uid, device.name) for device in devices])
    with DAG("sql_and_delete") as dag:
        query = SqlToParquetOperator(
            task_id="query",
            sql=SELECT,
            sql_conn_id="{{ 'warehouse' }}",
            results_path=f"{tmp_path}/{{{{ 'assets' }}}}.parquet",
        )
        NexthinkDeleteDevicesOperator(task_id="delete", devices=query.output)
    run = run_dag(dag)
    assert [(row["uid"], row["name"], row["status"]) for row in run.xcom("delete")] == [
        (device.uid, device.name, "SCHEDULED") for device in devices
    ]


@ON_EACH
def test_sql_to_file_many_rows_keep_their_order(run_dag: RunDag, tmp_path: Path, database: str) -> None:
    numbers = (
        "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 999) "
        "SELECT CONCAT('PC-', a.n * 1000 + b.n) AS name, NULL AS uid FROM numbers a JOIN numbers b ON a.n < 120 "
        "ORDER BY a.n, b.n"
    )
    if database == "sqlite":
        numbers = numbers.replace("CONCAT('PC-', a.n * 1000 + b.n)", "'PC-' || (a.n * 1000 + b.n)")
    run = sql_to_file(run_dag, tmp_path / "many.parquet", numbers)
    table = check_manifest(run.xcom("query"), tmp_path / "many.parquet")
    assert table["name"].to_pylist() == [f"PC-{at}" for at in range(120_000)]
    assert table["uid"].null_count == 120_000


@ON_EACH
def test_sql_to_file_padding_of_char_is_removed_and_a_blank_of_varchar_is_kept(
    run_dag: RunDag, tmp_path: Path, database: str
) -> None:
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("CREATE TABLE padded (uid CHAR(40), name CHAR(20), other VARCHAR(20))")
    hook.insert_rows("padded", [("u", "PC-1", "PC-1 ")])
    run = sql_to_file(run_dag, tmp_path / "padded.parquet", "SELECT * FROM padded")
    (row,) = check_manifest(run.xcom("query"), tmp_path / "padded.parquet").to_pylist()
    assert row == {"uid": "u", "name": "PC-1", "other": "PC-1 "}


@ON_EACH
@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ("asset_uid AS uid, asset_no AS name", "name"),
        ("asset_no AS uid, asset_name AS name", "uid"),
        ("asset_uid, asset_name, asset_no", "asset_no"),  # any of them may be what identifies a device
    ],
)
def test_sql_to_file_uid_or_name_of_another_type_fails_without_retry(
    run_dag: RunDag, tmp_path: Path, database: str, columns: str, label: str
) -> None:
    fill(database, [(str(uuid.UUID(int=number, version=4)), "PC") for number in range(3)])
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", f"SELECT {columns} FROM assets ORDER BY asset_no")
    assert (run.state, run.tries("query")) == ("failed", 1)
    assert f"The column '{label}' holds an int (0)" in run.error
    assert "CAST it in the query" in run.error
    assert list(tmp_path.glob("*.parquet")) == []


@ON_EACH
def test_sql_to_file_without_rows_has_the_columns(run_dag: RunDag, tmp_path: Path, database: str) -> None:
    fill(database, [(str(uuid.uuid4()), "PC")])
    run = sql_to_file(
        run_dag, tmp_path / "none.parquet", "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE 1 = 0"
    )
    table = check_manifest(run.xcom("query"), tmp_path / "none.parquet")
    assert (table.num_rows, table.schema.names) == (0, ["uid", "name"])


@ON_EACH
def test_sql_to_file_not_a_single_query_changes_nothing(run_dag: RunDag, tmp_path: Path, database: str) -> None:
    fill(database, [(str(uuid.uuid4()), "PC")])
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", f"{SELECT}; DELETE FROM assets")
    assert (run.state, run.tries("query")) == ("failed", 1)
    assert "sql takes one query, not several statements" in run.error
    if database != "duckdb":  # which commits at once, and returns the count
        assert sql_to_file(run_dag, tmp_path / "assets.parquet", "DELETE FROM assets").state == "failed"
    hook: Any = BaseHook.get_hook("warehouse")
    assert hook.get_first("SELECT COUNT(*) FROM assets")[0] == 1
    assert list(tmp_path.glob("*.parquet")) == []


@ON_EACH
def test_sql_to_file_parameters_are_passed_on(run_dag: RunDag, tmp_path: Path, database: str) -> None:
    fill(database, [(str(uuid.uuid4()), f"PC-{at}") for at in range(5)])
    mark = {"sqlite": "?", "duckdb": "?"}.get(database, "%s")
    sql = f"SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE asset_no < {mark} AND asset_name LIKE {mark}"
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", sql, parameters=[3, "PC%"])
    assert run.xcom("query")["rows"] == 3
    sql = (
        "SELECT asset_uid AS uid, asset_name AS name FROM assets WHERE asset_name LIKE '%2'"  # no parameter, no escape
    )
    assert sql_to_file(run_dag, tmp_path / "assets.parquet", sql).xcom("query")["rows"] == 1


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_to_file_error_in_the_middle_leaves_the_file_as_it_was(
    run_dag: RunDag, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000) "
    path = tmp_path / "assets.parquet"
    path.write_bytes(b"of an earlier run")
    run = sql_to_file(
        run_dag, path, f"{numbers} SELECT 'u' AS uid, CASE WHEN n = 90000 THEN n ELSE 'PC' END AS name FROM numbers"
    )
    assert (run.state, run.tries("query")) == ("failed", 1)
    assert "The column 'name' holds an int (90000)" in run.error
    # abs() of this number is an error of SQLite's, which it finds at that row.
    overflow = "CASE n WHEN 90000 THEN abs(-9223372036854775808) ELSE 'PC' END"
    run = sql_to_file(run_dag, path, f"{numbers} SELECT 'u' AS uid, {overflow} AS name FROM numbers")
    assert (run.state, run.tries("query")) == ("failed", 2)
    assert "overflow" in str(run.errors[-1])
    assert path.read_bytes() == b"of an earlier run"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_to_file_columns_that_a_file_cannot_have_fail_without_retry(
    run_dag: RunDag, tmp_path: Path, database: str
) -> None:
    sql = "SELECT 'u' AS uid, 'n' AS name, 1 AS no, 2 AS no"
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", sql)
    assert (run.state, run.tries("query")) == ("failed", 1)
    assert "gives the column 'no' twice: rename one of them with AS" in run.error


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_to_file_other_types_become_text(run_dag: RunDag, tmp_path: Path, database: str) -> None:
    sql = "SELECT 'u' AS uid, 'n' AS name, 1.5 AS number, x'00ff' AS bytes, 7 AS batch, NULL AS attempts"
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", sql)
    (row,) = check_manifest(run.xcom("query"), tmp_path / "assets.parquet").to_pylist()
    assert row == {"uid": "u", "name": "n", "number": "1.5", "bytes": "00ff", "batch": "7", "attempts": None}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sql_to_file_statuses_and_reasons_in_bytes_become_their_text(
    run_dag: RunDag, tmp_path: Path, database: str
) -> None:
    rows = [("a", b"EXCLUDED", b"excluded by 'VIP-*'"), ("b", b"PLANNED\0\0", b"")]
    sql = " UNION ALL ".join(
        f"SELECT '0fbd5a5c-0000-4000-8000-00000000000{end}' AS uid, 'PC' AS name, x'{status.hex()}' AS device_status, "
        f"x'{reason.hex()}' AS reason, x'01' AS flag_status"
        for end, status, reason in rows
    )
    run = sql_to_file(run_dag, tmp_path / "plan.parquet", sql)
    found = check_manifest(run.xcom("query"), tmp_path / "plan.parquet")
    assert found["device_status"].to_pylist() == ["EXCLUDED", "PLANNED"]
    assert found["flag_status"].to_pylist() == ["01", "01"]
    plan = make_plan(read_devices(run.xcom("query")))
    assert (plan.statuses, plan.reasons) == ([Status.EXCLUDED, None], ["excluded by 'VIP-*'", None])


@pytest.mark.parametrize("database", [pytest.param("postgres", marks=pytest.mark.service)], indirect=True)
@pytest.mark.parametrize("cursor", [None, "dictcursor", "namedtuplecursor"])
def test_sql_to_file_postgres_gives_the_rows_in_parts_whatever_its_cursor(
    run_dag: RunDag, tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, cursor: str | None
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_WAREHOUSE"])
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE", json.dumps(connection | {"extra": {"cursor": cursor} if cursor else {}})
    )
    # What runs in the database while the rows are read: the statement that fetches the next part of them.
    sql = (
        "SELECT n AS no, 'PC' AS name, 'u' AS uid, (SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()) "
        "AS statement FROM generate_series(1, 25000) n"
    )
    run = sql_to_file(run_dag, tmp_path / "assets.parquet", sql)
    table = check_manifest(run.xcom("query"), tmp_path / "assets.parquet")
    assert table["no"].to_pylist() == [str(at) for at in range(1, 25_001)]
    assert all("FETCH FORWARD" in statement for statement in set(table["statement"].to_pylist()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"results_path": "assets.csv"}, "go to a .parquet file"),
        ({"results_path": None}, "results_path"),
        ({"sql": " "}, "sql"),
        ({"sql_conn_id": ""}, "sql_conn_id"),
    ],
)
def test_sql_to_file_wrong_option_fails_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        SqlToParquetOperator(
            **{"task_id": "q", "sql": "SELECT 1", "sql_conn_id": "warehouse", "results_path": "a.parquet", **options}
        )
