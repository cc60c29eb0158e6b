"""``return_format="manifest"``: the table is in a file, XCom has what stands for it, and nothing else changes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from airflow_provider_nexthink.exceptions import NexthinkStoppedError
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.status import MAX_UNSCHEDULED
from airflow_provider_nexthink.utils import results
from airflow_provider_nexthink.utils.results import unfinished_path
from tests.support.dags import Run
from tests.support.interrupts import Line, TaskTimeout, interrupted_at_new_line, signal_raises
from tests.support.ledger_rows import rows_of
from tests.support.running_airflow import until
from tests.support.secrets import reset_secrets_maskers
from tests.support.store import Store
from tests.support.tables import read_table
from tests.support.tries import TaskInstance, execute

RunDag = Callable[..., Run]
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "outcome.parquet")


@pytest.fixture
def rows(sandbox: Sandbox, tmp_path: Path) -> list[dict[str, str]]:
    """The list, also in ``devices.parquet``: 250 devices, one of them twice, one excluded, two that are none."""
    uids = [device.uid for device in sandbox.tenant.devices()[:250]]
    rows = [{"device.uid": uid, "device.name": f"PC-{at}"} for at, uid in enumerate(uids)]
    rows[3]["device.name"] = "VIP-3"
    nameless = {"device.uid": rows[9]["device.uid"], "device.name": ""}
    rows += [rows[0], {"device.uid": "x", "device.name": "PC"}, nameless]
    pd.DataFrame(rows).to_parquet(tmp_path / "devices.parquet", row_group_size=100)
    return rows


def delete(run_dag: RunDag, devices: Any, path: str, **given: Any) -> Run:
    with DAG("manifest") as dag:
        options: dict[str, Any] = {"exclude": ["VIP-*"], "return_format": "manifest", "results_path": path} | given
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)
    return run_dag(dag)


def of_list(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["device.uid"], row["device.name"]) for row in rows]


@pytest.mark.parametrize("dry_run", [False, True, "plan"])
@pytest.mark.parametrize("form", ["records", "parquet", "reference", "manifest"])
def test_manifest_stands_for_the_table(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, tmp_path: Path, form: str, dry_run: Any
) -> None:
    place = str(tmp_path / "devices.parquet")
    devices: dict[str, Any] = {
        "records": rows,
        "parquet": place,
        "reference": {"path": place, "start": 0, "stop": len(rows)},
        "manifest": {"path": place, "size": Path(place).stat().st_size},
    }
    run = delete(run_dag, devices[form], path, dry_run=dry_run)
    assert run.state == "success"
    manifest, summary = run.xcom("delete"), run.xcom("delete", "summary")
    table = read_table(manifest)
    assert list(zip(table["uid"], table["name"], strict=True)) == of_list(rows)
    done = "PLANNED" if dry_run else "SCHEDULED"
    counts = {done: 249, "EXCLUDED": 1, "DUPLICATE": 1, "INVALID": 1, "REJECTED": 1}
    assert Counter(table["status"]) == counts
    assert {status: summary[status] for status in counts} == counts
    assert (summary["requested"], summary["dry_run"]) == (len(rows), bool(dry_run))
    assert (summary["uid_column"], manifest["uid_column"]) == ("device.uid", "device.uid")
    assert manifest["path"] == path
    assert manifest["size"] == Path(path).stat().st_size
    unscheduled = run.xcom("delete", "unscheduled")
    assert [row["status"] for row in unscheduled] == ["INVALID", "REJECTED"]
    assert manifest["unscheduled"] == {"path": str(tmp_path / "outcome.unscheduled.parquet"), "rows": 2}
    assert parquet.read_table(manifest["unscheduled"]["path"]).to_pylist() == unscheduled
    assert len(sandbox.tenant.queued) == (0 if dry_run else 249)
    assert len(json.dumps([manifest, summary])) < 2500  # whatever the length of the list


def test_manifest_of_a_plan_is_a_safe_next_list(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, tmp_path: Path
) -> None:
    plan = delete(run_dag, str(tmp_path / "devices.parquet"), path, dry_run=True).xcom("delete")
    with DAG("next") as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=plan)
    run = run_dag(dag)
    assert Counter(row["status"] for row in run.xcom("delete")) == {
        "SCHEDULED": 249, "EXCLUDED": 1, "DUPLICATE": 1, "INVALID": 1, "REJECTED": 1,
    }  # fmt: skip
    assert rows[3]["device.uid"] not in sandbox.tenant.queued


def test_manifest_of_a_file_that_has_changed_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, tmp_path: Path
) -> None:
    plan = delete(run_dag, str(tmp_path / "devices.parquet"), path, dry_run=True).xcom("delete")
    table = parquet.read_table(path)
    parquet.write_table(table.slice(1), path)
    run = delete(run_dag, plan, str(tmp_path / "next.parquet"))
    assert run.state == "failed"
    assert "has changed since it was planned" in run.error
    assert run.xcom("delete", "summary")["error"]["sent_nothing"] is True
    assert sandbox.requests == []


def test_manifest_unscheduled_is_capped_and_has_its_own_file(
    sandbox: Sandbox, run_dag: RunDag, path: str, tmp_path: Path
) -> None:
    size = MAX_UNSCHEDULED + 7
    run = delete(run_dag, [{"uid": "x", "name": f"PC-{at}"} for at in range(size)], path)
    assert [row["name"] for row in run.xcom("delete", "unscheduled")] == [f"PC-{at}" for at in range(MAX_UNSCHEDULED)]
    manifest = run.xcom("delete")
    assert manifest["unscheduled"]["rows"] == size
    assert parquet.read_table(manifest["unscheduled"]["path"]).num_rows == size
    again = delete(run_dag, [], path).xcom("delete")
    assert (again["rows"], again["unscheduled"]) == (0, None)
    assert not (tmp_path / "outcome.unscheduled.parquet").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_manifest_of_a_text_file_is_the_next_list(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], tmp_path: Path, suffix: str
) -> None:
    path = str(tmp_path / f"outcome{suffix}")
    plan = delete(run_dag, str(tmp_path / "devices.parquet"), path, dry_run=True).xcom("delete")
    assert plan["path"] == path
    assert delete(run_dag, plan, str(tmp_path / "next.parquet")).xcom("delete")["counts"]["SCHEDULED"] == 249


def test_manifest_that_cannot_be_written_leaves_the_table_in_xcom(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "publish", full)
    run = delete(run_dag, rows, path)
    assert run.state == "failed"
    assert "could not be written" in run.error
    table = run.xcom("delete")
    assert list(zip(table["uid"], table["name"], strict=True)) == of_list(rows)
    assert Counter(table["status"])["SCHEDULED"] == 249


@pytest.mark.parametrize("dry_run", [True, False])
def test_manifest_guard_that_trips_writes_no_table(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, tmp_path: Path, dry_run: bool
) -> None:
    run = delete(run_dag, str(tmp_path / "devices.parquet"), path, dry_run=dry_run, max_devices=248)
    assert run.state == "failed"
    assert "249 devices, more than max_devices=248 of the task" in run.error
    error = run.xcom("delete", "summary")["error"]
    assert (error["planned"], error["limit"], error["sent_nothing"]) == (249, 248, True)
    assert not Path(path).exists()
    assert sandbox.requests == []


def test_manifest_max_share_of_a_plan_counts_the_fleet(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dry_run": "plan", "fleet_query_id": "#all_devices", "max_share": 0.3}
    run = delete(run_dag, str(tmp_path / "devices.parquet"), path, **options)
    assert "249 of 600 devices (41.5%), more than max_share=0.3" in run.error
    run = delete(run_dag, str(tmp_path / "devices.parquet"), path, **options | {"max_share": 0.5})
    assert run.xcom("delete", "summary")["limits"]["fleet_size"] == 600


@ON_SQLITE
@pytest.mark.parametrize("form", ["parquet", "records"])
def test_plan_holds_the_limits_of_the_ledger_for_the_whole_list(
    sandbox: Sandbox,
    run_dag: RunDag,
    rows: list[dict[str, str]],
    path: str,
    tmp_path: Path,
    set_extras: Callable[..., None],
    database: str,
    form: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    devices = str(tmp_path / "devices.parquet") if form == "parquet" else rows

    def errors(**options: Any) -> str:
        run = delete(run_dag, devices, path, **options)
        return str(run.error) if run.errors else ""

    set_extras(ledger_conn_id="warehouse", quota_devices=248, quota_days=7)
    for dry_run in (True, "plan"):
        assert "249 devices, and 248 are left of the quota" in errors(dry_run=dry_run)
    set_extras(ledger_conn_id="warehouse", require_proof=True)
    assert errors(dry_run=True) == ""
    assert "This is a dry run. For real: The list would delete 249 devices" in caplog.text
    assert "no device that was deleted by the uid of device.uid has been seen to go" in errors(dry_run="plan")
    set_extras(ledger_conn_id="warehouse")
    with DAG("manifest") as dag:
        NexthinkDeleteDevicesOperator.partial(task_id="chunks").expand(devices=[[row] for row in rows[10:14]])
    for _ in range(3):
        assert run_dag(dag).state == "success"
    assert "249 devices, more than max_growth=2 allows: the median of the last 3 runs of this Dag is 4" in errors(
        dry_run="plan", max_growth=2
    )
    assert errors(dry_run=True, max_growth=2) == ""  # no run of this task itself has sent anything
    assert Counter(row["state"] for row in rows_of(schema.runs)) == {"BLOCKED": 3, "FINISHED": 12}
    assert len(sandbox.tenant.queued) == 12


def test_table_is_kept_while_the_run_goes_on(
    sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a worker that is lost leaves what it had; what is not settled is UNKNOWN there, as it may be sent."""
    monkeypatch.setattr(results, "KEEP_SECONDS", 0.0)
    sandbox.faults.add(Fault(path="deletions", kind="slow", seconds=3.0, skip=1, times=-1))
    kept: list[dict[str, list[Any]]] = []
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(0.05):
            with suppress(OSError):
                kept.append(parquet.read_table(unfinished_path(path)).to_pydict())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run = delete(run_dag, rows, path, max_concurrency=1)
    has_ended.set()
    watcher.join()
    assert run.xcom("delete")["counts"]["SCHEDULED"] == 249
    tables = [Counter(table["status"]) for table in kept]
    decided = {"EXCLUDED": 1, "DUPLICATE": 1, "INVALID": 1, "REJECTED": 1}
    parts = [decided | {"SCHEDULED": sent, "UNKNOWN": 249 - sent} for sent in (100, 200)]
    assert any(part in tables for part in parts)  # a busy machine may not see each
    for table in kept:
        assert set(table["reason"]) >= {"excluded by 'VIP-*'"}
        unknown = [row for row in zip(table["status"], table["reason"], strict=True) if row[0] == "UNKNOWN"]
        assert all("the run had not ended" in reason for _, reason in unknown)
        assert [at for at, status in enumerate(table["status"]) if status == "SCHEDULED"] == [
            at for at, request in enumerate(table["request_id"]) if request is not None
        ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"results_path": None}, "needs results_path"),
        ({"results_path": "a.txt"}, "results_path"),
        ({"dry_run": "plans"}, "dry_run is 'plans': it takes True, False or 'plan'"),
    ],
)
def test_manifest_option_that_cannot_take_effect_fails_the_parsing(options: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says):
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=[], **{"return_format": "manifest", "results_path": "a.parquet", **options}
        )


def test_manifest_is_not_mapped_over(sandbox: Sandbox, run_dag: RunDag, rows: list[dict[str, str]], path: str) -> None:
    with DAG("mapped") as dag:
        table = NexthinkDeleteDevicesOperator(
            task_id="delete", devices=rows, return_format="manifest", results_path=path, retries=0
        )
        NexthinkDeleteDevicesOperator.partial(task_id="next", dry_run=True).expand(devices=table.output)
    run = run_dag(dag)
    assert "a manifest has no rows to map over" in run.error
    assert sandbox.requests == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # whose connection was interrupted while it was opened
@pytest.mark.parametrize("do_xcom_push", [True, False])
def test_timeout_at_any_line_once_devices_were_sent_their_table_is_in_its_file(
    sandbox: Sandbox, rows: list[dict[str, str]], tmp_path: Path, do_xcom_push: bool
) -> None:
    files = {"data_management.py", "_report.py", "results.py", "storage.py"}
    seen, interrupted = set[Line](), -1
    while len(seen) > interrupted:
        interrupted = len(seen)
        reset_secrets_maskers()
        sandbox.tenant.queued.clear()
        path = tmp_path / f"{interrupted}.parquet"
        operator = NexthinkDeleteDevicesOperator(
            task_id="delete",
            devices=rows[:2],
            return_format="manifest",
            results_path=str(path),
            do_xcom_push=do_xcom_push,
        )
        ti = TaskInstance()
        with suppress(TaskTimeout), interrupted_at_new_line(seen, files, lambda: sandbox.tenant.queued):
            operator.execute({"ti": ti})  # type: ignore[typeddict-item]
        assert path.exists(), sorted(seen)[-1]
        assert parquet.read_table(path)["status"].to_pylist() == ["SCHEDULED"] * 2
        if do_xcom_push:
            assert read_table(ti.xcoms["return_value"])["uid"] == [row["device.uid"] for row in rows[:2]]
    assert {Path(name).name for name, *_ in seen} == files


@pytest.mark.parametrize("ends", ["stop", "timeout"])
@pytest.mark.parametrize("return_format", ["manifest", "records"])
def test_storage_that_hangs_does_not_keep_the_table_of_a_run_that_was_ended(
    sandbox: Sandbox, rows: list[dict[str, str]], return_format: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a stop there is no time for a second limit.
    monkeypatch.setattr(results, "AFTER_TIMEOUT_SECONDS", {"timeout": 1.0, "stop": 3600.0}[ends])
    sandbox.faults.add(Fault(path="deletions", kind="slow", seconds=0.1, times=-1))
    may_respond = threading.Event()

    class Hanging(MemoryFileSystem):  # type: ignore[misc]
        def open(self, *arguments: Any, **options: Any) -> Any:
            assert may_respond.wait(400)
            return super().open(*arguments, **options)

    attach("memory", fs=Hanging())
    operator = NexthinkDeleteDevicesOperator(
        task_id="delete",
        devices=rows[:250],
        batch_size=1,
        max_concurrency=1,
        return_format=return_format,  # type: ignore[arg-type]
        results_path="memory://bucket/outcome.jsonl",
    )

    def end() -> None:
        until(lambda: bool(sandbox.tenant.queued), "the first device")
        if ends == "stop":
            operator.on_kill()
        else:
            os.kill(os.getpid(), signal.SIGALRM)

    thread = threading.Thread(target=end)
    thread.start()
    ti = TaskInstance()
    with pytest.raises((NexthinkStoppedError, TaskTimeout)), signal_raises():
        operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    thread.join()
    may_respond.set()
    statuses = Counter(pd.DataFrame(ti.xcoms["return_value"])["status"])
    assert statuses["SCHEDULED"] == len(sandbox.tenant.queued) > 0
    assert statuses["NOT_SENT"] == ti.xcoms["summary"]["NOT_SENT"] == 250 - len(sandbox.tenant.queued) > 0
    assert ti.xcoms["unscheduled"]


@pytest.mark.parametrize(("on_empty", "state"), [("succeed", "success"), ("skip", "skipped"), ("fail", "failed")])
@pytest.mark.parametrize("dry_run", [True, False])
def test_empty_file_is_an_empty_list_and_where_that_is_no_success_keeps_the_table_that_is_there(
    sandbox: Sandbox, run_dag: RunDag, path: str, tmp_path: Path, on_empty: str, state: str, dry_run: bool
) -> None:
    pd.DataFrame().to_parquet(tmp_path / "empty.parquet")
    Path(path).write_text("of an earlier run")
    run = delete(run_dag, str(tmp_path / "empty.parquet"), path, dry_run=dry_run, on_empty=on_empty)
    assert run.states["delete"] == state
    if on_empty == "succeed":
        assert read_table(run.xcom("delete"))["uid"] == []
    else:
        assert Path(path).read_text() == "of an earlier run"


def test_plan_of_a_file_that_fails_for_rows_that_are_not_listed_says_how_many(
    sandbox: Sandbox, rows: list[dict[str, str]], run_dag: RunDag, path: str, tmp_path: Path
) -> None:
    pd.DataFrame(rows[10:20] * 2).to_parquet(tmp_path / "twice.parquet")
    run = delete(run_dag, str(tmp_path / "twice.parquet"), path, dry_run=True, fail_on=["DUPLICATE"])
    assert "10 DUPLICATE of 20 devices. A retry changes nothing" in run.error


def test_retry_that_plans_a_file_reports_what_earlier_tries_have_sent(
    sandbox: Sandbox, rows: list[dict[str, str]], path: str, tmp_path: Path
) -> None:
    """Such as after somebody has set the connection to dry runs only."""
    store = Store()
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "1800"}, skip=1))
    for try_number, dry_run in ((1, False), (2, True)):
        operator = NexthinkDeleteDevicesOperator(
            task_id="delete",
            devices=str(tmp_path / "devices.parquet"),
            max_concurrency=1,
            return_format="manifest",
            results_path=path,
            dry_run=dry_run,
        )
        xcoms = execute(operator, store, try_number).xcoms
    assert len(sandbox.tenant.queued) == 100
    assert read_table(xcoms["return_value"])["status"].count("PLANNED") == 250
    assert Counter(row["status"] for row in xcoms["earlier_tries"])["SCHEDULED"] == 100
    assert xcoms["summary"]["earlier_tries"]["SCHEDULED"] == 100


@pytest.mark.parametrize("rendered", [None, "None", "outcome.txt"])
def test_retry_whose_results_path_is_none_writes_no_file(
    sandbox: Sandbox,
    rows: list[dict[str, str]],
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rendered: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store()
    operator = NexthinkDeleteDevicesOperator(
        task_id="delete", devices=rows, return_format="manifest", results_path=path
    )
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "1800"}, skip=1))
    execute(operator, store, 1)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    operator.results_path = rendered
    xcoms = execute(operator, store, 2).xcoms
    assert "results_path" in str(xcoms["raised"])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
