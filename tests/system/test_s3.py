"""Lists and tables on S3: that of another program, deleted at scale; and a storage that fails in the middle."""

from __future__ import annotations

import io
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from airflow.sdk import DAG, ObjectStoragePath, task
from pyarrow import parquet

from airflow_provider_nexthink.chunks import join_tables
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.devices.references import write_chunks
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.status import COLUMNS
from airflow_provider_nexthink.utils import results, storage
from tests.support.dags import KEEPS_TASK_STATE, Run
from tests.support.s3 import S3, StorageFault

RunDag = Callable[..., Run]

DEVICES, CHUNK = 600, 300


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", server.connection())
    server.clear()
    yield server
    server.release()


@pytest.fixture
def dag(example_dag: Callable[[str], DAG]) -> DAG:
    return without_waits(example_dag("nexthink_delete_at_scale"))


def without_waits(dag: DAG) -> DAG:
    for each in dag.tasks:
        each.retry_delay = timedelta(0)
    return dag


def rows_of(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(device.uid, f"PC-{at}") for at, device in enumerate(sandbox.tenant.devices())]


def table_from(rows: list[tuple[str, str]]) -> Any:
    return pa.table([[uid for uid, _ in rows], [name for _, name in rows]], names=["uid", "name"])


def duckdb_on(s3: S3, rows: list[tuple[str, str]]) -> duckdb.DuckDBPyConnection:
    """A DuckDB with the devices in a table, which reads and writes S3 by Airflow's connection."""
    connection = duckdb.connect()
    connection.register_filesystem(ObjectStoragePath(s3.path("")).fs)
    connection.execute("CREATE TABLE stale (uid VARCHAR, name VARCHAR, os VARCHAR, days INTEGER)")
    connection.register("rows", table_from(rows))
    connection.execute("INSERT INTO stale SELECT uid, name, 'Windows', 120 FROM rows")
    return connection


def spark_folder(s3: S3, rows: list[tuple[str, str]], folder: str, parts: int = 3) -> list[str]:
    """A data set as Spark writes it: a folder, with a part for each of its tasks; return their paths."""
    paths = []
    job = uuid.UUID(int=7)
    for number in range(parts):
        made = io.BytesIO()
        part = rows[number * len(rows) // parts : (number + 1) * len(rows) // parts]
        parquet.write_table(table_from(part), made)
        paths.append(s3.put(f"{folder}/part-{number:05}-{job}-c000.snappy.parquet", made.getvalue()))
    s3.put(f"{folder}/_SUCCESS", b"")
    return paths


def table_of(s3: S3, manifest: dict[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = parquet.read_table(io.BytesIO(s3.get(manifest["path"]))).to_pydict()
    assert manifest["rows"] == len(columns["uid"])
    return columns


def options(s3: S3, **changed: Any) -> dict[str, Any]:
    return {
        "devices": s3.path("list.parquet"),
        "folder": s3.path("runs"),
        "dry_run": False,
        "max_devices": DEVICES,
        "chunk_size": CHUNK,
    } | changed


def plan_of(s3: S3, devices: Any) -> None:
    """Add the plan of a list to a Dag."""
    NexthinkDeleteDevicesOperator(
        task_id="plan",
        devices=devices,
        dry_run=True,
        return_format="manifest",
        results_path=s3.path("plan.parquet"),
    )


def assert_joined(s3: S3, run: Run, rows: list[tuple[str, str]]) -> None:
    table = table_of(s3, run.xcom("join"))
    assert list(zip(table["uid"], table["name"], strict=True)) == rows
    assert Counter(table["status"]) == {"SCHEDULED": len(rows)}


def test_list_that_duckdb_wrote_to_s3_is_deleted_in_chunks(s3: S3, sandbox: Sandbox, dag: DAG, run_dag: RunDag) -> None:
    rows = rows_of(sandbox)
    duckdb_on(s3, rows).execute("COPY stale TO 's3://bucket/list.parquet' (FORMAT parquet)")
    run = run_dag(dag, **options(s3))
    assert run.state == "success"
    assert_joined(s3, run, rows)
    assert sorted(sandbox.tenant.queued) == sorted(uid for uid, _ in rows)
    made = s3.keys("runs/")
    assert len(made) == 5, made  # the plan, the chunks, a table of each chunk, the outcome
    (chunks,) = [key for key in made if "~" in key]
    assert {reference["path"] for reference in run.xcom("split")} == {s3.path(chunks)}


def test_chunk_reads_its_rows_only(s3: S3) -> None:
    """And not what comes after them: s3fs reads 50 MB ahead unless it is told otherwise."""
    made = io.BytesIO()
    size, count = 10_000, 30
    cells = ([[str(uuid.uuid4()) for _ in range(size)], ["PC-0123456789"] * size] for _ in range(count))
    _, ending = write_chunks(made, ("uid", "name"), cells)
    path = s3.put(f"chunks{ending}", made.getvalue())
    whole = len(made.getvalue())
    for number in (0, 12, 29):
        s3.requests.clear()
        reference = {"path": path, "start": number * size, "stop": (number + 1) * size}
        assert len(read_devices(reference, open_file=storage.open_file)) == size
        read = sum(s3.read("chunks"))
        assert whole / count * 0.8 < read < whole / count * 2 + 65_536, (number, read, whole)


def test_whole_file_is_copied_in_few_requests(s3: S3) -> None:
    path = s3.put("a.parquet", bytes(40_000_000))
    s3.requests.clear()
    with storage._local_copy(path) as (file, stored):
        assert stored.size == len(file.read()) == 40_000_000
    assert len(s3.read("a.parquet")) <= 5
    assert sum(s3.read("a.parquet")) == 40_000_000


def test_folder_that_spark_wrote_is_deleted_as_one_file(s3: S3, sandbox: Sandbox, dag: DAG, run_dag: RunDag) -> None:
    rows = rows_of(sandbox)
    spark_folder(s3, rows, "stale.parquet")
    duckdb_on(s3, []).execute(
        "COPY (SELECT uid, name FROM read_parquet('s3://bucket/stale.parquet/*.parquet') ORDER BY uid) "
        "TO 's3://bucket/list.parquet' (FORMAT parquet)"
    )
    run = run_dag(dag, **options(s3, chunk_size=DEVICES))
    assert run.state == "success"
    assert_joined(s3, run, sorted(rows))


def test_folder_that_spark_wrote_is_planned_as_a_list_of_parts(s3: S3, sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = rows_of(sandbox)
    paths = spark_folder(s3, rows, "stale.parquet")

    with DAG("parts") as dag:

        @task
        def list_parts(folder: str) -> list[dict[str, str]]:
            return [{"path": str(part)} for part in sorted(ObjectStoragePath(folder).glob("*.parquet"))]

        plan_of(s3, list_parts(s3.path("stale.parquet")))

    run = run_dag(dag)
    assert [part["path"] for part in run.xcom("list_parts")] == paths
    plan = run.xcom("plan")
    assert plan["counts"]["PLANNED"] == DEVICES
    table = table_of(s3, plan)
    assert list(zip(table["uid"], table["name"], strict=True)) == rows


@pytest.mark.parametrize("path", ["stale.parquet", "stale.parquet/", "stale", "stale/"])
def test_folder_is_refused_with_what_to_pass_instead(s3: S3, path: str) -> None:
    spark_folder(s3, [("0fbd5a5c-0000-4000-8000-000000000001", "PC-1")] * 3, path.rstrip("/"))
    for devices in (s3.path(path), {"path": s3.path(path)}, ObjectStoragePath(s3.path(path))):
        with pytest.raises(NexthinkInputError, match="folder") as error:
            read_devices(devices, open_file=storage.open_file)
        assert s3.path(path).rstrip("/") in str(error.value)
        assert "pass the files in it" in str(error.value)


def test_plan_of_a_folder_is_refused(s3: S3, sandbox: Sandbox, run_dag: RunDag) -> None:
    spark_folder(s3, rows_of(sandbox), "stale.parquet")
    with DAG("folder", default_args={"retries": 1}) as dag:
        plan_of(s3, s3.path("stale.parquet"))
    run = run_dag(dag)
    assert (run.state, run.tries("plan")) == ("failed", 1)
    assert "is a folder" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("suffix", "fault"),
    [
        ("parquet", StorageFault("list")),
        ("parquet", StorageFault("list", "HEAD", status=403)),
        ("parquet", StorageFault("list", status=403)),
        ("parquet", StorageFault("list", status=503)),
        ("parquet", StorageFault("list", kind="cut")),
        ("csv", StorageFault("list")),
        ("csv", StorageFault("list", "HEAD", status=403)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.method} {value.kind} {value.status}",
)
def test_plan_that_cannot_read_the_list_is_retried(
    s3: S3, sandbox: Sandbox, run_dag: RunDag, fault: StorageFault, suffix: str
) -> None:
    duckdb_on(s3, rows_of(sandbox)).execute(f"COPY stale TO 's3://bucket/list.{suffix}' (FORMAT {suffix})")
    with DAG("unreadable", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        plan_of(s3, s3.path(f"list.{suffix}"))
    s3.fail(fault)
    run = run_dag(dag)
    assert (run.state, run.tries("plan")) == ("failed", 2)
    assert "damaged" not in str(run.errors)
    if fault.kind == "status":
        assert f"The file {s3.path('list')}.{suffix} cannot be read just now" in str(run.errors[-1])
    assert run.xcom("plan", "summary")["error"]["sent_nothing"] is True
    assert sandbox.requests == []


def test_tasks_that_cannot_read_or_write_for_a_moment_are_retried(
    s3: S3, sandbox: Sandbox, dag: DAG, run_dag: RunDag
) -> None:
    rows = rows_of(sandbox)
    duckdb_on(s3, rows).execute("COPY stale TO 's3://bucket/list.parquet' (FORMAT parquet)")
    faults = [
        s3.fail(StorageFault(*which, status=status, skip=skip, times=1))
        for which, status, skip in [
            (("list", "GET"), 503, 0),
            ((r"\.plan\.parquet", "PUT"), 500, 0),
            ((r"\.plan\.parquet", "GET"), 403, 0),  # split
            (("~", "PUT"), 500, 0),
            (("~", "GET"), 500, 0),
            (("~", "HEAD"), 403, 2),
            ((r"\.1\.parquet", "GET"), 403, 0),  # join
            ((r"\.outcome\.parquet", "PUT"), 500, 0),
        ]
    ]
    for each in dag.tasks:
        each.retries = 5
    run = run_dag(dag, **options(s3))
    assert [fault.hits for fault in faults] == [1] * len(faults)
    assert run.state == "success"
    assert_joined(s3, run, rows)
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == DEVICES
    assert (run.tries("plan"), run.tries("split"), run.tries("join")) == (3, 3, 3)
    assert "damaged" not in str(run.errors)


def test_table_of_a_chunk_cannot_be_written_is_in_xcom_and_in_the_joined_table(
    s3: S3, sandbox: Sandbox, dag: DAG, run_dag: RunDag
) -> None:
    rows = rows_of(sandbox)
    duckdb_on(s3, rows).execute("COPY stale TO 's3://bucket/list.parquet' (FORMAT parquet)")
    s3.fail(StorageFault(r"\.1\.parquet", "PUT", status=403))
    run = run_dag(dag, **options(s3))
    assert run.state == "failed"
    assert "could not be written" in str(run.errors[-1])
    table = run.xcom("delete_devices", map_index=1)
    assert list(zip(table["uid"], table["name"], strict=True)) == rows[CHUNK : 2 * CHUNK]
    assert set(table["status"]) == {"SCHEDULED"}
    assert_joined(s3, run, rows)


def test_table_written_by_the_retry_sends_nothing_again(s3: S3, sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = [{"uid": uid, "name": name} for uid, name in rows_of(sandbox)[:150]]
    fault = s3.fail(StorageFault("table.parquet", "PUT", times=1))
    with DAG("retried", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=rows, return_format="manifest", results_path=s3.path("table.parquet")
        )
    run = run_dag(dag)
    assert (run.state, run.tries("delete"), fault.hits) == ("success", 2, 1)
    assert set(table_of(s3, run.xcom("delete"))["status"]) == {"SCHEDULED"}
    if KEEPS_TASK_STATE:
        assert len(sandbox.tenant.queued) == 150


@pytest.mark.parametrize(
    ("key", "method", "table", "return_format"),
    [
        ("list", "GET", "table.parquet", "manifest"),
        ("table", "PUT", "table.parquet", "manifest"),
        ("table", "PUT", "table.csv", "columns"),
    ],
)
def test_storage_that_hangs_ends_with_the_timeout_of_the_task(
    s3: S3,
    sandbox: Sandbox,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    method: str,
    table: str,
    return_format: Any,
) -> None:
    """Botocore and s3fs each try again many times; an upload without a response waits for ever."""
    monkeypatch.setattr(results, "AFTER_TIMEOUT_SECONDS", 0.5)
    rows = rows_of(sandbox)[:150]
    duckdb_on(s3, rows).execute("COPY stale TO 's3://bucket/list.parquet' (FORMAT parquet)")
    s3.fail(StorageFault(key, method, kind="hang"))
    with DAG("hangs") as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete",
            devices=s3.path("list.parquet"),
            return_format=return_format,
            results_path=s3.path(table),
            execution_timeout=timedelta(seconds=3),
        )
    run = run_dag(dag)
    assert run.state == "failed"
    if method == "GET":
        assert run.xcom("delete", "summary")["error"]["sent_nothing"] is True
        assert sandbox.requests == []
    else:
        outcomes = run.xcom("delete")
        assert list(zip(outcomes["uid"], outcomes["name"], strict=True)) == rows
        assert set(outcomes["status"]) == {"SCHEDULED"}


def test_list_that_changes_while_it_is_read_is_not_mixed(s3: S3) -> None:
    """S3 reads a range of the object that was opened, or fails."""
    first = "uid,name\n" + "".join(f"{uuid.uuid4()},old\n" for _ in range(100))
    path = s3.put("a.csv", first.encode())
    with storage.open_file(path) as file:
        s3.put("a.csv", first.replace("old", "new").encode())
        with pytest.raises(OSError, match="no longer exists"):
            file.read()


def test_store_exists_remove_on_s3(s3: S3) -> None:
    path = s3.path("runs/0a1b2c3d.chunks~0a1b2c3d.parquet")
    assert not storage.exists(path)
    for rows in (3, 2):  # the second in the place of the first
        stored = storage.write_table(path, {"uid": ["a"] * rows, "name": ["b~ä c"] * rows})
        assert storage.exists(path)
        assert s3.keys() == ["runs/0a1b2c3d.chunks~0a1b2c3d.parquet"]
        assert stored.size == len(s3.get(path))
        with storage.open_file(path) as file:
            assert parquet.read_table(io.BytesIO(file.read())).num_rows == rows
    s3.fail(StorageFault("chunks", "PUT", status=500))
    with pytest.raises(OSError, match="InternalError"):
        storage.write_table(path, {"uid": ["a"] * 9, "name": ["b"] * 9})
    assert parquet.read_table(io.BytesIO(s3.get(path))).num_rows == 2  # all of it, or nothing
    s3.faults.clear()
    fault = s3.fail(StorageFault("chunks", "HEAD", status=500))
    with pytest.raises(OSError, match="Internal"):  # not known, which is not the same as not there
        storage.exists(path)
    storage.remove(path)
    assert fault.hits >= 2
    s3.faults.clear()
    storage.remove(path)
    assert s3.keys() == []
    storage.remove(path)


def test_connection_is_that_of_the_path(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    path = s3.put("a.csv", b"uid,name\n")
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", s3.connection())
    with storage.open_file(path.replace("aws_default", "lake")) as file:
        assert file.read() == b"uid,name\n"


def test_tables_of_chunks_that_are_refused_are_not_unknown(s3: S3) -> None:
    """Their devices were sent, and a retry of the join reads them: UNKNOWN would send them again."""
    plan: dict[str, list[Any]] = {column: [None] for column in COLUMNS}
    plan |= {"uid": [str(uuid.uuid4())], "name": ["PC-1"], "status": ["PLANNED"]}
    stored = storage.write_table(s3.path("plan.parquet"), plan)
    manifest = {
        "path": s3.path("plan.parquet"),
        "rows": 1,
        "counts": {"PLANNED": 1},
        "size": stored.size,
        "checksum": stored.checksum,
    }
    storage.write_table(s3.path("0.parquet"), plan | {"status": ["SCHEDULED"]})
    chunks = [{"path": s3.path("chunks.parquet"), "start": 0, "stop": 1}]
    fault = s3.fail(StorageFault("0.parquet", "HEAD", status=403))
    for table in (s3.path("0.parquet"), {"path": s3.path("0.parquet")}):
        with pytest.raises(Exception, match="Forbidden|cannot be read") as error:
            join_tables(manifest, chunks, [table], s3.path("outcome.parquet"))
        assert not isinstance(error.value, NexthinkInputError)
    assert fault.hits
    assert "outcome.parquet" not in set(s3.keys())
    s3.faults.clear()
    joined = join_tables(manifest, chunks, [s3.path("0.parquet")], s3.path("outcome.parquet"))
    assert table_of(s3, joined)["status"] == ["SCHEDULED"]
