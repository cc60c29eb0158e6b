"""What a Dag has, through a real Airflow: mapped tasks, files on local and object storage; and the table as a file."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import polars as pl
import pytest
from airflow.sdk import DAG, Param, task
from airflow.sdk.io import attach

from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.status import COLUMNS
from airflow_provider_nexthink.utils.storage import check_results_path, open_file, write_table
from tests.support.dags import Run

RunDag = Callable[..., Run]
NATIVE = pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])


def devices_of(sandbox: Sandbox, count: int = 120) -> list[dict[str, str]]:
    """Devices with all the odd names."""
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def sent(run: Run) -> list[tuple[str, str]]:
    assert {row["status"] for row in run.xcom("delete")} == {"SCHEDULED"}
    return [(row["uid"], row["name"]) for row in run.xcom("delete")]


def pairs(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["uid"], row["name"]) for row in rows]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("returns", ["lists", "one mapping each", "DataFrames", "columns"])
def test_devices_xcoms_of_mapped_tasks_are_deleted(sandbox: Sandbox, run_dag: RunDag, returns: str, parts: int) -> None:
    rows = devices_of(sandbox, parts if returns == "one mapping each" else 60)
    with DAG("mapped") as dag:

        @task
        def part(number: int) -> Any:
            mine = rows[number::parts]
            return {
                "lists": mine,
                "one mapping each": mine[0],
                "DataFrames": pd.DataFrame(mine),
                "columns": {"uid": [row["uid"] for row in mine], "name": [row["name"] for row in mine]},
            }[returns]

        NexthinkDeleteDevicesOperator(task_id="delete", devices=part.expand(number=list(range(parts))))
    run = run_dag(dag)
    assert run.state == "success"
    assert sent(run) == pairs([row for number in range(parts) for row in rows[number::parts]])


CONTAINERS: dict[str, Callable[..., Any]] = {
    "lists": lambda found, **_: [found("lists", 0), found("lists", 1)],
    "tuple of lists": lambda found, **_: (found("lists", 0), found("lists", 1)),
    "frames": lambda found, **_: [found("frames", 0), found("frames", 1)],
    "one list": lambda found, **_: [found("lists")],
    "columns": lambda found, **_: {"uid": found("uids"), "name": found("names")},
    "mapped columns": lambda mapped, **_: {"uid": mapped("uids"), "name": mapped("names")},
    "columns of cells": lambda found, rows, **_: {
        "uid": [found("uid", at) for at in range(4)],
        "name": [row["name"] for row in rows],
    },
    "mappings of cells": lambda found, **_: [{"uid": found("uid", at), "name": found("name", at)} for at in range(4)],
    "a cell": lambda found, rows, **_: [*rows[:3], {"uid": rows[3]["uid"], "name": found("name", 3)}],
    "rows, then a list": lambda found, rows, **_: [*rows[:2], found("lists", 1)],
    "a list, then rows": lambda found, rows, **_: [found("lists", 0), *rows[2:]],
    "a row, a list, a row": lambda found, rows, **_: [rows[0], found("middle"), rows[3]],
    "rows, then a frame": lambda found, rows, **_: [*rows[:2], found("frames", 1)],
    "a frame, then rows": lambda found, rows, **_: [found("frames", 0), *rows[2:]],
    "columns, then rows": lambda found, rows, **_: [found("columns", 0), *rows[2:]],
    "rows, then columns": lambda found, rows, **_: [*rows[:2], found("columns", 1)],
    "single rows": lambda found, rows, **_: [found("row", 0), rows[1], found("row", 2), found("row", 3)],
    "a list and mapped rows": lambda found, mapped, **_: [found("lists", 0), mapped("row", [2, 3])],
    "rows and nothing": lambda found, rows, **_: [*rows, found("nothing")],
    "a deque": lambda found, rows, **_: deque([*rows[:2], found("lists", 1)]),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_devices_xcoms_in_a_container_are_resolved_and_literal_names_not_rendered(
    sandbox: Sandbox, run_dag: RunDag, container: str
) -> None:
    rows = [{**row, "name": f"{{{{ 7 * {at} }}}}"} for at, row in enumerate(devices_of(sandbox, 4))]
    gone = container == "a cell"
    with DAG("containers", render_template_as_native_obj=container == "a cell") as dag:

        @task
        def found(what: str, at: Any = None) -> Any:
            some = rows if at is None else rows[2 * at :][:2]
            return {
                "lists": some,
                "frames": pd.DataFrame(some),
                "columns": {key: [row[key] for row in some] for key in ("uid", "name")},
                "uids": [row["uid"] for row in rows] if at is None else rows[at]["uid"],
                "names": [row["name"] for row in rows] if at is None else rows[at]["name"],
                "uid": rows[at or 0]["uid"],
                "name": rows[at or 0]["name"],
                "middle": rows[1:3],
                "row": rows[at or 0],
                "nothing": None,
            }[what]

        def mapped(what: str, at: Any = range(4)) -> Any:
            return found.partial(what=what).expand(at=list(at))

        devices = CONTAINERS[container](found=found, mapped=mapped, rows=rows)
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices)
        if gone:
            delete >> NexthinkDevicesGoneSensor(task_id="gone", devices=devices, query_id="#all_devices")
    run = run_dag(dag)
    assert run.state == "success"
    assert sent(run) == pairs(rows)
    assert run.states["delete"] == "success"
    if gone:
        assert [row["status"] for row in run.xcom("gone")] == ["GONE"] * 4


def test_devices_xcoms_in_a_row_with_columns_are_resolved(sandbox: Sandbox, run_dag: RunDag) -> None:
    (row,) = devices_of(sandbox, 1)
    with DAG("cells") as dag:

        @task
        def cell(key: str) -> str:
            return row[key]

        uid, name = cell("uid"), cell("name")
        for task_id, devices in {"delete": [(uid, name)], "one": [uid, name], "mixed": [row["uid"], name]}.items():
            NexthinkDeleteDevicesOperator(task_id=task_id, devices=devices, columns=["uid", "name"], dry_run=True)
    run = run_dag(dag)
    assert [pairs(run.xcom(task_id)) for task_id in ("delete", "one", "mixed")] == [pairs([row])] * 3


def test_devices_xcoms_in_a_container_of_a_mapped_operator_are_resolved(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 4)
    with DAG("mapped") as dag:

        @task
        def found(at: int) -> Any:
            return rows[at : at + 1]

        delete = NexthinkDeleteDevicesOperator.partial(task_id="delete")
        delete.expand(devices=[[found(0), rows[1]], [*rows[2:3], found(3)]])
        partly = NexthinkDeleteDevicesOperator.partial(task_id="partly", devices=[rows[0], found(1)])
        partly.expand(dry_run=[True])
    run = run_dag(dag)
    assert run.state == "success"
    assert [pairs(run.xcom("delete", map_index=at)) for at in (0, 1)] == [pairs(rows[:2]), pairs(rows[2:])]
    assert pairs(run.xcom("partly", map_index=0)) == pairs(rows[:2])


@pytest.mark.parametrize("first", ["row", "XCom"])
def test_decorator_xcoms_in_a_list_argument_are_resolved(sandbox: Sandbox, run_dag: RunDag, first: str) -> None:
    rows = [{**row, "name": "{{ 7 * 7 }}"} for row in devices_of(sandbox, 2)]
    with DAG("decorated") as dag:

        @task
        def found() -> Any:
            return rows[1:]

        @task.nexthink_delete_devices
        def delete(lists: list[Any], *, named: list[Any]) -> Any:
            assert lists == named == ([rows[0], rows[1:]] if first == "row" else [rows[1:], rows[0]])
            return rows

        given = [rows[0], found()] if first == "row" else [found(), rows[0]]
        delete(given, named=given)
    assert sent(run_dag(dag)) == pairs(rows)


def test_devices_generator_of_xcoms_fails_without_retry(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("generator", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:

        @task
        def found() -> Any:
            return devices_of(sandbox, 1)

        lists = [found(), found()]
        NexthinkDeleteDevicesOperator(task_id="delete", devices=(each for each in lists))
    run = run_dag(dag)
    assert (run.states["delete"], run.tries("delete")) == ("failed", 1)
    assert "iterator" in run.error
    assert sandbox.requests == []


def test_devices_of_a_skipped_or_empty_mapped_task_are_none(sandbox: Sandbox, run_dag: RunDag) -> None:
    from airflow_provider_nexthink.version_compat import AirflowSkipException

    rows = devices_of(sandbox, 2)
    with DAG("holes") as dag:

        @task
        def part(number: int) -> list[dict[str, str]]:
            if number == 1:
                raise AirflowSkipException
            return [] if number == 0 else rows

        devices = part.expand(number=[0, 1, 2])
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, trigger_rule="none_failed")
    assert sent(run_dag(dag)) == pairs(rows)


def test_devices_polars_frame_is_read(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox)
    with DAG("polars") as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=pl.DataFrame(rows))
    assert sent(run_dag(dag)) == pairs(rows)


@NATIVE
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("where", ["local", "object storage"])
def test_results_path_file_is_read_by_the_next_task(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, suffix: str, where: str, native: bool
) -> None:
    rows = devices_of(sandbox)
    folder = f"{tmp_path}/new/folder" if where == "local" else "memory://bucket"
    attach("memory", fs=fsspec.filesystem("memory"))  # as a provider with an object storage does
    with DAG("files", render_template_as_native_obj=native, params={"folder": Param(folder)}) as dag:
        path = f"{{{{ params.folder }}}}/table-{{{{ 6 * 7 }}}}{suffix}"
        first = NexthinkDeleteDevicesOperator(task_id="plan", devices=rows, dry_run=True, results_path=path)
        first >> NexthinkDeleteDevicesOperator(task_id="delete", devices=path)
    run = run_dag(dag)
    assert run.state == "success"
    assert sent(run) == pairs(rows)
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows)
    with fsspec.open(f"{folder}/table-42{suffix}") as file:
        assert len(file.read()) > 1000
    if where == "local":
        assert [each.name for each in (tmp_path / "new/folder").iterdir()] == [f"table-42{suffix}"]


@NATIVE
def test_devices_csv_text_from_a_template_keeps_its_names(sandbox: Sandbox, run_dag: RunDag, native: bool) -> None:
    rows = [row for row in devices_of(sandbox) if "," not in row["name"] and '"' not in row["name"]]
    text = "uid,name\n" + "".join(f"{row['uid']},{row['name']}\n" for row in rows)
    with DAG("text", render_template_as_native_obj=native, params={"text": Param(text)}) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices="{{ params.text }}")
    assert sent(run_dag(dag)) == pairs(rows)


@NATIVE
@pytest.mark.parametrize("where", ["the Dag", "the task"])
def test_devices_json_text_from_a_template_keeps_its_names(
    sandbox: Sandbox, run_dag: RunDag, where: str, native: bool
) -> None:
    rows = devices_of(sandbox)
    slashed = [{**row, "name": f"SITE/{number}"} for number, row in enumerate(devices_of(sandbox, 140)[120:])]
    text = json.dumps([*rows, *slashed]).replace("/", r"\/")  # as PHP and others write it
    params = {"rows": Param(rows), "text": Param(text)}
    with DAG("text", render_template_as_native_obj=native and where == "the Dag", params=params) as dag:
        for task_id, template in {"delete": "{{ params.text }}", "again": "{{ params.rows | tojson }}"}.items():
            NexthinkDeleteDevicesOperator(
                task_id=task_id,
                devices=template,
                dry_run=True,
                render_template_as_native_obj=native if where == "the task" else None,
            )
    run = run_dag(dag)
    assert pairs(run.xcom("delete")) == pairs([*rows, *slashed])
    assert pairs(run.xcom("again")) == pairs(rows)
    assert {row["status"] for row in [*run.xcom("delete"), *run.xcom("again")]} == {"PLANNED"}


@NATIVE
@pytest.mark.parametrize("mapped", [False, True])
def test_devices_json_text_of_an_xcom_is_no_template(
    sandbox: Sandbox, run_dag: RunDag, mapped: bool, native: bool
) -> None:
    rows = [{**row, "name": r"{{ 7*7 }} \/ \x41"} for row in devices_of(sandbox, 2)]
    with DAG("text", render_template_as_native_obj=native) as dag:

        @task
        def found() -> Any:
            text = json.dumps(rows).replace("/", r"\/")
            return [text] if mapped else text

        if mapped:
            delete = NexthinkDeleteDevicesOperator.partial(task_id="delete", dry_run=True)
            delete.expand(devices=found())
        else:
            NexthinkDeleteDevicesOperator(task_id="delete", devices=found(), dry_run=True)
    assert pairs(run_dag(dag).xcom("delete", map_index=0 if mapped else -1)) == pairs(rows)


@NATIVE
def test_plan_as_the_next_list_is_safe(sandbox: Sandbox, run_dag: RunDag, native: bool) -> None:
    rows = [*devices_of(sandbox, 20), {"uid": "x", "name": "PC"}]
    kept = {row["uid"] for row in rows[:5]}
    with DAG("next", render_template_as_native_obj=native) as dag:
        plan = NexthinkDeleteDevicesOperator(task_id="plan", devices=rows, dry_run=True, exclude=sorted(kept))
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=plan.output)
        template = "{{ ti.xcom_pull('plan') | tojson }}"
        delete >> NexthinkDeleteDevicesOperator(task_id="again", devices=template, dry_run=True)
    run = run_dag(dag)
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows[5:20])
    planned = {row["uid"]: (row["status"], row["reason"]) for row in run.xcom("plan")}
    for task_id, word in {"delete": "SCHEDULED", "again": "PLANNED"}.items():
        table = {row["uid"]: (row["status"], row["reason"]) for row in run.xcom(task_id)}
        assert table == {uid: (word, None) if told[0] == "PLANNED" else told for uid, told in planned.items()}


def test_devices_missing_file_fails_without_retry(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("lost", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=f"{tmp_path}/lost.csv")
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert f"The file {tmp_path}/lost.csv does not exist" in run.error
    assert sandbox.requests == []


def test_results_path_file_is_whole_also_when_the_task_fails(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=403, body="{}", skip=1))
    rows = devices_of(sandbox, 250)
    with DAG("evidence") as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=rows, max_concurrency=1, results_path=f"{tmp_path}/table.csv"
        )
    run = run_dag(dag)
    assert run.state == "failed"
    with (tmp_path / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [tuple(row) for row in written[:1]] == [COLUMNS]
    expected = [{key: "" if value is None else str(value) for key, value in row.items()} for row in run.xcom("delete")]
    assert written == expected
    assert [row["status"] for row in written].count("SCHEDULED") == 100


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/proc/no/such/table.csv", "nothing can be written there.*This try sent nothing"),
        ("{{ '/tmp' }}/.csv", "it takes the path of a file that ends in .csv"),
        ("gs://conn@bucket/table.csv", "cannot be opened.*apache-airflow-providers-amazon.*This try sent nothing"),
        ("nosuch://bucket/table.csv", "cannot be opened"),
        ("{{ 'table.xlsx' }}", "results_path is 'table.xlsx': it takes the path of a file that ends in .csv or"),
        ("{{ '' }}", "results_path is ''"),
    ],
)
def test_results_path_not_writable_sends_nothing(sandbox: Sandbox, run_dag: RunDag, path: str, says: str) -> None:
    with DAG("unwritable", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices_of(sandbox, 1), results_path=path)
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert pytest.raises(AssertionError, match=says).matches(AssertionError(run.error))
    assert sandbox.requests == []


def test_results_path_failed_write_keeps_the_xcoms_and_the_retry_writes_it(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path
) -> None:
    rows = devices_of(sandbox, 150)
    place = tmp_path / "table.jsonl"
    usual, in_the_way = sandbox.tenant.clock, [place.mkdir]  # what is written cannot take the place of a folder

    def block_the_way() -> float:
        while in_the_way:  # once the tenant is asked: the check before that has found the place free
            in_the_way.pop()()
        return usual()

    sandbox.tenant.clock = block_the_way
    seen: dict[str, Any] = {}

    def clear_the_way(context: Any) -> None:
        seen["error"] = context["exception"]
        seen["xcom"] = context["ti"].xcom_pull(task_ids="delete")
        place.rmdir()

    with DAG("late") as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete",
            devices=rows,
            results_path=str(place),
            retries=1,
            retry_delay=timedelta(0),
            on_retry_callback=[clear_the_way],
        )
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert "The outcome table could not be written to" in str(seen["error"])
    assert len(seen["xcom"]) == 150
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 150
    assert [json.loads(line) for line in place.read_text().splitlines()] == run.xcom("delete")
    assert len(read_devices(place)) == 150


def test_results_path_folder_sends_nothing(sandbox: Sandbox, run_dag: RunDag, tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with DAG("folder") as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=devices_of(sandbox, 1), results_path=str(tmp_path / "table.csv")
        )
    assert "nothing can be written there" in run_dag(dag).error
    assert sandbox.requests == []


def test_results_path_in_a_home_folder_and_with_a_long_name_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = f"~/{'n' * 246}.csv"
    check_results_path(path)
    write_table(path, {"uid": ["1"], "name": ["=1+1"]})
    assert [each.name for each in tmp_path.iterdir()] == [f"{'n' * 246}.csv"]
    with open_file(path) as file:
        assert file.read() == b"uid,name\r\n1,=1+1\r\n"


def test_results_path_of_two_tasks_holds_one_whole_table(tmp_path: Path) -> None:
    path = str(tmp_path / "table.csv")
    tables = [{"uid": [str(number)] * 20_000, "name": ["PC"] * 20_000} for number in range(8)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda table: write_table(path, table), tables))
    rows = read_devices(path)
    assert len(rows) == 20_000
    assert len(set(rows.uids)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]
