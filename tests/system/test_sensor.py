"""Are they gone? The sensor in a real Airflow: it waits in the worker, by rescheduling, and in the triggerer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_nexthink.api import nql
from airflow_provider_nexthink.exceptions import NexthinkEventError, NexthinkInputError
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from tests.support.dags import Run
from tests.support.tries import TaskInstance

RunDag = Callable[..., Run]

WAYS = pytest.mark.parametrize(
    "way", [{"deferrable": False}, {"mode": "reschedule"}, {"deferrable": True}], ids=["poke", "reschedule", "defer"]
)


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def sensor(devices: Any, **options: Any) -> NexthinkDevicesGoneSensor:
    return NexthinkDevicesGoneSensor(
        **{
            "task_id": "gone",
            "devices": devices,
            "query_id": "#all_devices",
            "poke_interval": 0.01,
            "timeout": 30,
            "retries": 1,
            "retry_delay": timedelta(0),
            **options,
        }
    )


def delete_and_wait(run_dag: RunDag, devices: Any, native: bool = False, **options: Any) -> Run:
    with DAG("gone", render_template_as_native_obj=native) as dag:
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, exclude=["VIP-*", "SRV-*"])
        sensor(delete.output, **options)
    return run_dag(dag)


def looks(sandbox: Sandbox) -> int:
    return sum(request.path.endswith("/export") for request in sandbox.requests)


@WAYS
@pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
def test_sensor_waits_until_all_devices_are_gone(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any], native: bool
) -> None:
    rows = devices_of(sandbox, 100)  # the odd names are among them, and some that are excluded
    # They go away between the first look and the second: with each look a minute has passed.
    sandbox.tenant.removal_delay, start = 30.0, sandbox.tenant.clock()
    sandbox.tenant.clock = lambda: start + 60.0 * max(0, looks(sandbox) - 1)
    run = delete_and_wait(run_dag, rows, native=native, **way)
    assert run.state == "success"
    assert looks(sandbox) == 2
    outcome = run.xcom("delete")
    assert run.xcom("gone") == [
        {
            "uid": row["uid"],
            "name": row["name"],
            "status": "GONE" if row["status"] == "SCHEDULED" else row["status"],
        }
        for row in outcome
    ]
    assert {row["status"] for row in outcome} == {"SCHEDULED", "EXCLUDED"}


@WAYS
def test_sensor_devices_still_present_fail_with_their_table(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any]
) -> None:
    rows = devices_of(sandbox, 60)
    stuck = {row["uid"] for row in [row for row in rows if not row["name"].startswith(("VIP-", "SRV-"))][:3]}
    sandbox.tenant.never_removed |= stuck
    run = delete_and_wait(run_dag, rows, timeout=0.3, **way)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert run.tries("gone") == 1  # waiting longer is what the timeout is for
    table = run.xcom("gone")
    assert {row["uid"] for row in table if row["status"] == "STILL_PRESENT"} == stuck
    assert len(table) == 60
    assert {row["uid"] for row in table if row["status"] == "GONE"} == set(sandbox.tenant.queued) - stuck
    assert "3 of " in run.error
    assert "are still in Nexthink" in run.error


@WAYS
def test_sensor_with_soft_fail_is_skipped_with_its_table(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any]
) -> None:
    rows = devices_of(sandbox, 20)
    sandbox.tenant.never_removed |= {rows[-1]["uid"]}
    run = delete_and_wait(run_dag, rows, timeout=0.3, soft_fail=True, **way)
    assert run.states == {"delete": "success", "gone": "skipped"}
    assert [row["status"] for row in run.xcom("gone")].count("STILL_PRESENT") == 1


@WAYS
def test_sensor_truncated_result_proves_nothing(sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any]) -> None:
    sandbox.tenant.export_row_limit = 300
    run = delete_and_wait(run_dag, devices_of(sandbox, 20), **way)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert run.tries("gone") == 1
    assert "NexthinkTruncatedError" in run.error
    assert run.xcom("gone") is None


@WAYS
def test_sensor_truncated_result_with_soft_fail_gives_no_table(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any]
) -> None:
    sandbox.tenant.export_row_limit = 300
    run = delete_and_wait(run_dag, devices_of(sandbox, 20), soft_fail=True, **way)
    assert run.states == {"delete": "success", "gone": "skipped"}
    assert run.xcom("gone") is None


@WAYS
@pytest.mark.parametrize("body", ["device.uid,device.name\n", "foo,bar\n"], ids=["no rows", "another"])
def test_sensor_empty_result_proves_nothing_and_is_polled_again(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any], body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=body, times=1))
    run = delete_and_wait(run_dag, devices_of(sandbox, 20), **way)
    assert run.states == {"delete": "success", "gone": "success"}
    assert (run.tries("gone"), looks(sandbox)) == (1, 2)
    assert "#all_devices lists no device at all: that proves nothing." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "options", "says"),
    [
        ("device.uid,device.name\n{1},a\n", {}, "'device.uid' of #all_devices has values that are no uid"),
        ("device.uid,device.name\n,a\n", {}, "has values that are no uid"),
        ("device.name,device.entity\nPC,a\n", {}, "no column for the uid"),
        (None, {"uid_column": "device.name"}, "'device.name' of #all_devices has values that are no uid"),
    ],
)
def test_sensor_result_without_readable_uids_proves_nothing(
    sandbox: Sandbox, run_dag: RunDag, body: str | None, options: dict[str, Any], says: str
) -> None:
    if body is not None:
        sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=body, times=-1))
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), **options)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert run.tries("gone") == 1
    assert says in run.error
    assert run.xcom("gone") is None


def test_sensor_unknown_devices_are_checked_once(sandbox: Sandbox, run_dag: RunDag) -> None:
    devices = sandbox.tenant.devices()
    table = [
        {"uid": devices[0].uid, "name": "A", "status": "UNKNOWN", "request_id": "r"},
        {"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "B", "status": "UNKNOWN", "request_id": "r"},
    ]
    with DAG("unknown") as dag:
        sensor(table)
    assert [row["status"] for row in run_dag(dag).xcom("gone")] == ["STILL_PRESENT", "GONE"]
    assert looks(sandbox) == 1


FINAL = [
    (Fault(path="export", kind="status", status=403, times=-1), "NexthinkPermissionError"),
    (Fault(path="export", kind="status", status=404, times=-1), "NexthinkNotFoundError"),
    (Fault(path="status", kind="status", status=403, times=-1), "NexthinkPermissionError"),
    (Fault(path="token", kind="status", status=401, skip=1, times=-1), "NexthinkAuthenticationError"),
]


@WAYS
@pytest.mark.parametrize(("fault", "says"), FINAL, ids=str)
def test_sensor_final_error_fails_at_once(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any], fault: Fault, says: str
) -> None:
    sandbox.faults.add(fault)
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), timeout=3600, **way)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert run.tries("gone") == 1
    assert says in run.error
    assert run.xcom("gone") is None


# Each lasts longer than the retries of a request, and is seen by the triggerer and by the worker after it.
BLIPS = [
    Fault(path="token", kind="status", status=503, skip=1, times=12),
    Fault(path="export", kind="drop_after", times=12),
    Fault(path="export", kind="not_json", times=2),
    Fault(path="status", kind="status", status=503, times=12),
    Fault(path="status", kind="status", status=404, times=2),
    Fault(path="status", kind="status", status=200, body='{"status": "ERROR", "errorDescription": "busy"}', times=2),
    Fault(path="storage", kind="status", status=403, times=4),
]


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "defer"])
@pytest.mark.parametrize("blip", BLIPS, ids=lambda blip: f"{blip.path} {blip.kind} {blip.status}")
def test_sensor_failed_check_does_not_fail_it_before_the_timeout(
    sandbox: Sandbox, run_dag: RunDag, deferrable: bool, blip: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.faults.add(blip)
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), timeout=timedelta(hours=12), deferrable=deferrable)
    assert run.states == {"delete": "success", "gone": "success"}
    assert run.tries("gone") == 1
    assert {row["status"] for row in run.xcom("gone")} == {"GONE", "EXCLUDED"}
    log = capsys.readouterr().out
    assert "This check failed; the next one tries again" in log
    assert "raise the timeout" not in log


@pytest.mark.parametrize("pending_polls", [1, 3])
def test_sensor_failed_trigger_does_not_fail_it(
    sandbox: Sandbox, run_dag: RunDag, pending_polls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.tenant.pending_polls = pending_polls
    # Only the triggerer sees it: the worker's own poll finds an export that is in progress.
    sandbox.faults.add(Fault(path="status", kind="status", status=503, times=5))
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), timeout=timedelta(hours=12), deferrable=True)
    assert run.states == {"delete": "success", "gone": "success"}
    assert (run.tries("gone"), looks(sandbox)) == (1, 2)
    log = capsys.readouterr().out
    assert "is not ready" in log
    assert "raise the timeout" not in log


@WAYS
def test_sensor_without_a_successful_check_says_so_and_pushes_no_table(
    sandbox: Sandbox, run_dag: RunDag, way: dict[str, Any]
) -> None:
    sandbox.faults.add(Fault(path="status", kind="status", status=404, times=-1))
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), timeout=0.3, **way)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert run.tries("gone") == 1
    assert "Which devices are gone is not known." in run.error
    assert "The last check failed" in run.error
    assert "does not know the export" in run.error
    assert "are still in Nexthink" not in run.error
    assert run.xcom("gone") is None


def test_sensor_deferred_failed_last_check_keeps_the_table_of_the_one_before(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 5)
    sandbox.tenant.never_removed |= {row["uid"] for row in rows}
    sandbox.faults.add(Fault(path="export", kind="status", status=503, skip=1, times=-1))
    run = delete_and_wait(run_dag, rows, timeout=10, poke_interval=2, deferrable=True)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert "The last check failed" in run.error
    assert "If an earlier check has succeeded" in run.error
    assert "STILL_PRESENT" in {row["status"] for row in run.xcom("gone")}


@WAYS
def test_sensor_late_export_is_not_blamed_on_its_timeout(
    sandbox: Sandbox,
    run_dag: RunDag,
    way: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(nql, "EXPORT_SECONDS", 0.05)
    sandbox.tenant.pending_polls = 1_000_000
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), timeout=0.5, **way)
    assert run.states == {"delete": "success", "gone": "failed"}
    assert "ready" in run.error
    assert "raise the timeout" not in run.error + capsys.readouterr().out


def test_sensor_deferred_list_that_cannot_be_read_just_now_is_read_at_the_next_check(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
    resets = [ConnectionResetError(104, "Connection reset by peer")]

    class Resetting(MemoryFileSystem):  # type: ignore[misc]
        def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            if resets and "r" in mode:
                raise resets.pop()
            return super().open(path, mode, **options)

    storage = Resetting()
    attach("memory", fs=storage)
    rows = [{**row, "status": "SCHEDULED"} for row in devices_of(sandbox, 2)]
    storage.pipe("/bucket/outcome.jsonl", "\n".join(map(json.dumps, rows)).encode())
    event = {"status": "error", "message": "down", "export_id": None, "end_time": time.time() + 3600}
    for is_read in (False, True):
        waiting = sensor("memory://bucket/outcome.jsonl", deferrable=True, poke_interval=60)
        xcoms = TaskInstance()
        with pytest.raises(TaskDeferred):
            waiting.execute_complete({"ti": xcoms}, event)  # type: ignore[typeddict-item]
        assert ("return_value" in xcoms.xcoms) == is_read
    assert resets == []


def test_sensor_event_of_another_shape_is_refused(sandbox: Sandbox) -> None:
    task = sensor(devices_of(sandbox, 1))
    with pytest.raises(NexthinkEventError, match="does not say how the wait ended"):
        task.execute_complete({}, {"export_id": "e-1", "end_time": 1.0, "problem": None})


@pytest.mark.parametrize(
    "devices", [[], [{"uid": "x", "name": "y"}], [{"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "VIP-1"}]]
)
def test_sensor_without_scheduled_devices_does_not_wait(sandbox: Sandbox, run_dag: RunDag, devices: Any) -> None:
    run = delete_and_wait(run_dag, devices, deferrable=True)
    assert run.states == {"delete": "success", "gone": "success"}
    assert len(run.xcom("gone")) == len(devices)
    assert sandbox.requests == []


@pytest.mark.parametrize("form", ["records", "columns", "dataframe", "file", "mapped"])
def test_sensor_outcome_table_in_every_form_is_read(
    sandbox: Sandbox, run_dag: RunDag, form: str, tmp_path: Path
) -> None:
    rows = devices_of(sandbox, 30)
    with DAG("forms") as dag:
        options: dict[str, Any] = {"results_path": str(tmp_path / "table.parquet")}
        if form in ("columns", "dataframe"):
            options["return_format"] = form
        if form == "mapped":
            mapped = NexthinkDeleteDevicesOperator.partial(task_id="delete").expand(devices=[rows[:10], rows[10:]])
            sensor(mapped.output, deferrable=True)
        else:
            delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, **options)
            gone = sensor(options["results_path"] if form == "file" else delete.output, deferrable=True)
            delete >> gone
    run = run_dag(dag)
    assert run.state == "success"
    assert run.xcom("gone") == [{**row, "status": "GONE"} for row in rows]


def test_sensor_devices_without_an_outcome_are_checked(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 5)
    with DAG("plain") as dag:

        @task
        def retired() -> Any:
            return pd.DataFrame({"Device UID": [row["uid"].upper() for row in rows], "Name": ["a"] * 5})

        sensor(retired(), timeout=0.1)
    run = run_dag(dag)
    assert [row["status"] for row in run.xcom("gone")] == ["STILL_PRESENT"] * 5


def test_sensor_query_with_two_uids_takes_the_named_one(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 5)
    run = delete_and_wait(run_dag, rows, query_id="#devices_both_uids")
    assert "'device.uid' and 'device.collector.uid'" in run.error
    assert run.tries("gone") == 1
    assert delete_and_wait(run_dag, rows, query_id="#devices_both_uids", uid_column="device.uid").state == "success"


def test_sensor_other_kind_of_uid_is_a_warning(
    sandbox: Sandbox, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.tenant.never_removed |= {row["uid"] for row in devices_of(sandbox, 5)}
    options: dict[str, Any] = {"query_id": "#devices_both_uids", "uid_column": "device.collector.uid"}
    run = delete_and_wait(run_dag, devices_of(sandbox, 5), **options)
    assert run.state == "success"  # which is why it is warned of
    assert "3 devices count as gone, but another uid has their name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"query_id": "all_devices"}, "query id"),
        ({"uid_column": " "}, "uid_column"),
        ({"deferrable": True, "exponential_backoff": True}, "exponential_backoff does nothing"),
    ],
)
def test_sensor_wrong_option_fails_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        sensor([], **options)


def test_sensor_list_is_kept_out_of_the_rendered_view() -> None:
    assert str(sensor([{"uid": "1", "name": "{{ 7*7 }}"}]).devices) == "1 rows (list)"
