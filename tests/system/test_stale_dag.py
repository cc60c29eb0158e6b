"""The example Dag, end to end: real Airflow, real HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run, meant_to_go

RunDag = Callable[..., Run]


def test_stale_dag_plans_only_by_default(sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag) -> None:
    run = run_dag(stale_dag)
    assert run.state == "success"
    assert set(run.states.values()) == {"success"}
    assert sandbox.tenant.queued == []
    assert not [request for request in sandbox.requests if "deletions" in request.path]
    table = run.xcom("delete_devices")
    assert {row["uid"] for row in table} == meant_to_go(sandbox.tenant.devices(), 90)
    assert {row["status"] for row in table} == {"PLANNED"}


@pytest.mark.parametrize("native", [False, True])
def test_stale_dag_for_real_deletes_only_the_chosen_devices(
    sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag, native: bool
) -> None:
    before = sandbox.tenant.devices()
    expected = meant_to_go(before, 200)
    assert 0 < len(expected) < 250
    stale_dag.render_template_as_native_obj = native
    run = run_dag(stale_dag, dry_run=False, min_days_unseen=200)
    assert run.state == "success"
    assert Counter(sandbox.tenant.queued) == Counter(expected)
    assert {device.uid for device in before} - {device.uid for device in sandbox.tenant.devices()} == expected
    table, summary = run.xcom("delete_devices"), run.xcom("delete_devices", "summary")
    chosen = run.xcom("choose_devices")
    assert [(row["uid"], row["name"]) for row in table] == [(row["device.uid"], row["device.name"]) for row in chosen]
    assert summary["SCHEDULED"] == summary["requested"] == len(expected)
    assert summary["uid_column"] == "device.uid"
    assert run.xcom("delete_devices", "unscheduled") == []


def test_stale_dag_odd_names_arrive_to_the_letter(sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag) -> None:
    run = run_dag(stale_dag)
    names = {device.uid: device.name for device in sandbox.tenant.devices()}
    table = run.xcom("delete_devices")
    assert all(row["name"] == names[row["uid"]] for row in table)
    assert {"NA", "None", "00123", "1E10"} <= {row["name"] for row in run.xcom("choose_devices") for row in table}


def test_stale_dag_over_max_devices_fails_with_nothing_sent(sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag) -> None:
    run = run_dag(stale_dag, dry_run=False, max_devices=10)
    assert run.state == "failed"
    assert run.states == {
        "pull_stale_devices": "success",
        "choose_devices": "success",
        "delete_devices": "failed",
    }
    assert run.tries("delete_devices") == 1
    assert sandbox.tenant.queued == []


def test_stale_dag_failed_deletion_fails_the_run_with_its_outcome(
    sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag
) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=403, body='{"code": "FEATURE_NOT_ENABLED"}'))
    run = run_dag(stale_dag, dry_run=False)
    assert run.state == "failed"
    assert run.xcom("delete_devices", "summary")["NOT_SENT"] > 0
    assert {row["status"] for row in run.xcom("delete_devices", "unscheduled")} == {"NOT_SENT"}


def test_stale_dag_without_stale_devices_succeeds(sandbox: Sandbox, stale_dag: DAG, run_dag: RunDag) -> None:
    run = run_dag(stale_dag, dry_run=False, min_days_unseen=10_000)
    assert run.state == "success"
    assert run.xcom("delete_devices") == []
    assert run.xcom("delete_devices", "summary")["requested"] == 0
