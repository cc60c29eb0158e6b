"""The Dag with an approval, on a running Airflow: a person approves, rejects, or does not respond in time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, meant_to_go
from tests.support.running_airflow import PATIENCE, RunningAirflow, running_airflow

DAG_ID = "nexthink_delete_with_approval"
NATIVE = f"{DAG_ID}_native"


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=300, stale=120, removal_delay=0.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox) -> Iterator[RunningAirflow]:
    """An Airflow with the Dag as it is; and with one that renders natively."""
    root = tmp_path_factory.mktemp("approval")
    dags = root / "dags"
    dags.mkdir()
    dag = (DAGS / f"{DAG_ID}.py").read_text().replace('schedule="@monthly"', "schedule=None")
    (dags / f"{DAG_ID}.py").write_text(dag)
    changes = {
        DAG_ID: NATIVE,
        "catchup=False": "catchup=False, render_template_as_native_obj=True",
    }
    for old, new in changes.items():
        assert old in dag
        dag = dag.replace(old, new)
    (dags / f"{NATIVE}.py").write_text(dag)
    environment = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection(),
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    }
    with running_airflow(root / "home", dags, environment) as airflow:
        yield airflow


@pytest.fixture(autouse=True)
def _nothing_queued_before(tenant: Sandbox) -> None:
    tenant.tenant.queued.clear()


def test_approval_timed_out_deletes_nothing(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = airflow.start(NATIVE)
    wait_for_request(airflow, NATIVE, run_id)
    let_time_run_out(airflow, run_id)
    assert airflow.wait(NATIVE, run_id) == "success"
    assert_nothing_was_deleted(airflow, NATIVE, run_id, tenant)


def test_approval_rejected_deletes_nothing(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = airflow.start(DAG_ID)
    request = wait_for_request(airflow, DAG_ID, run_id)
    assert request["subject"] == "Delete these devices from Nexthink?"
    response(airflow, run_id, "Reject")
    assert airflow.wait(DAG_ID, run_id) == "success"
    assert_nothing_was_deleted(airflow, DAG_ID, run_id, tenant)


def test_approval_given_deletes_the_devices_that_are_still_stale(airflow: RunningAirflow, tenant: Sandbox) -> None:
    expected = meant_to_go(tenant.tenant.devices(), 90)
    run_id = airflow.start(DAG_ID)
    body = wait_for_request(airflow, DAG_ID, run_id)["body"]
    planned = {row["uid"] for row in airflow.xcom(DAG_ID, run_id, "plan") if row["status"] == "PLANNED"}
    assert planned <= expected
    assert f"**{len(planned)} devices would be deleted from Nexthink.**" in body
    assert tenant.tenant.queued == []
    back = sorted(planned)[:2]
    tenant.tenant.mark_seen(back)
    response(airflow, run_id, "Approve")
    assert airflow.wait(DAG_ID, run_id) == "success"
    assert set(tenant.tenant.queued) == planned - set(back)
    log = airflow.log(DAG_ID, run_id, "delete_devices", 1)
    assert f"{len(planned) - 2} of the {len(planned)} approved devices are still stale" in log


def wait_for_request(airflow: RunningAirflow, dag_id: str, run_id: str) -> dict[str, str]:
    """Wait until a person is asked; return what is asked."""
    airflow.wait_until_parked(dag_id, run_id, "approve")
    return dict(airflow.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"))


def let_time_run_out(airflow: RunningAirflow, run_id: str) -> None:
    """Move the deadline of the approval into the past: there is no other way to wait for a week."""
    with closing(sqlite3.connect(airflow.home / "airflow.db", timeout=PATIENCE)) as database, database:
        change = (
            "UPDATE task_instance SET trigger_timeout = '2000-01-01 00:00:00.000000' WHERE run_id = ? AND task_id = ?"
        )
        assert database.execute(change, (run_id, "approve")).rowcount == 1


def response(airflow: RunningAirflow, run_id: str, option: str) -> None:
    airflow.patch(
        f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails",
        {"chosen_options": [option], "params_input": {}},
    )


def assert_nothing_was_deleted(airflow: RunningAirflow, dag_id: str, run_id: str, tenant: Sandbox) -> None:
    states = airflow.states(dag_id, run_id)
    assert (states["approve"], states["delete_devices"]) == ("success", "skipped")
    assert tenant.tenant.queued == []
