"""The Dag with an approval, on a running Airflow: a person approves, rejects, or does not answer in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.system.conftest import DAGS
from tests.system.running_airflow import RunningAirflow, running_airflow, select_nothing, until
from tests.system.test_stale_dag import meant_to_go

DAG_ID = "nexthink_delete_with_approval"
IMPATIENT = f"{DAG_ID}_impatient"


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=300, stale=120, removal_delay=0.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox) -> Iterator[RunningAirflow]:
    """An Airflow with the Dag as it is; and with one that waits for two seconds only, and renders natively."""
    root = tmp_path_factory.mktemp("approval")
    dags = root / "dags"
    dags.mkdir()
    dag = (DAGS / f"{DAG_ID}.py").read_text().replace('schedule="@monthly"', "schedule=None")
    (dags / f"{DAG_ID}.py").write_text(dag)
    changes = {
        DAG_ID: IMPATIENT,
        "timedelta(days=7)": "timedelta(seconds=2)",
        "catchup=False": "catchup=False, render_template_as_native_obj=True",
    }
    for old, new in changes.items():
        assert old in dag
        dag = dag.replace(old, new)
    (dags / f"{IMPATIENT}.py").write_text(dag)
    environment = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection(),
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    }
    with running_airflow(root / "home", dags, environment) as airflow:
        yield airflow


def test_no_answer_in_time_deletes_nothing(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = airflow.start(IMPATIENT)
    assert airflow.wait(IMPATIENT, run_id) == "success"
    assert_nothing_was_deleted(airflow, IMPATIENT, run_id, tenant)


def test_rejected_deletes_nothing(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = airflow.start(DAG_ID)
    request = wait_for_request(airflow, run_id)
    assert request["subject"] == "Delete these devices from Nexthink?"
    answer(airflow, run_id, "Reject")
    assert airflow.wait(DAG_ID, run_id) == "success"
    assert_nothing_was_deleted(airflow, DAG_ID, run_id, tenant)


def test_approved_deletes_what_is_still_stale(airflow: RunningAirflow, tenant: Sandbox) -> None:
    expected = meant_to_go(tenant.tenant.devices(), 90)
    run_id = airflow.start(DAG_ID)
    body = wait_for_request(airflow, run_id)["body"]
    planned = {row["uid"] for row in airflow.xcom(DAG_ID, run_id, "plan") if row["status"] == "PLANNED"}
    assert planned <= expected
    assert f"**{len(planned)} devices would be deleted from Nexthink.**" in body
    assert tenant.tenant.queued == []
    back = sorted(planned)[:2]
    tenant.tenant.see(back)
    answer(airflow, run_id, "Approve")
    assert airflow.wait(DAG_ID, run_id) == "success"
    assert set(tenant.tenant.queued) == planned - set(back)
    log = airflow.log(DAG_ID, run_id, "delete_devices", 1)
    assert f"{len(planned) - 2} of the {len(planned)} approved devices are still stale" in log


def wait_for_request(airflow: RunningAirflow, run_id: str) -> dict[str, str]:
    """Wait until a person is asked; return what is asked."""
    path = f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/approve"
    until(lambda: airflow.get(path)["state"] in ("awaiting_input", "deferred"), 120, "the request for an approval")
    # No person answers at once. An answer before the scheduler has noted the end of the task's process fails the task.
    select_nothing(3)
    return dict(airflow.get(f"{path}/-1/hitlDetails"))


def answer(airflow: RunningAirflow, run_id: str, option: str) -> None:
    airflow.patch(
        f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails",
        {"chosen_options": [option], "params_input": {}},
    )


def assert_nothing_was_deleted(airflow: RunningAirflow, dag_id: str, run_id: str, tenant: Sandbox) -> None:
    states = airflow.states(dag_id, run_id)
    assert (states["approve"], states["delete_devices"]) == ("success", "skipped")
    assert tenant.tenant.queued == []
