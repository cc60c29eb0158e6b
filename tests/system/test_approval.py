"""The Dag with an approval, on a running Airflow: a person approves, rejects, or does not respond in time."""

from __future__ import annotations

import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import pytest

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, meant_to_go
from tests.support.running_airflow import PATIENCE, RunningAirflow, running_airflow

DAG_ID = "nexthink_delete_with_approval"
NATIVE = f"{DAG_ID}_native"
TWO = f"{DAG_ID}_two"


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=1500, stale=120, removal_delay=0.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox) -> Iterator[RunningAirflow]:
    """An Airflow with the Dag as it is, with one that renders natively, and with one that two people must approve."""
    root = tmp_path_factory.mktemp("approval")
    dags = root / "dags"
    dags.mkdir()
    dag = (DAGS / f"{DAG_ID}.py").read_text().replace('schedule="@monthly"', "schedule=None")
    (dags / f"{DAG_ID}.py").write_text(dag)
    variants = {
        NATIVE: ("catchup=False", "catchup=False, render_template_as_native_obj=True"),
        TWO: ("TWO_PEOPLE = False", "TWO_PEOPLE = True"),
    }
    for name, (old, new) in variants.items():
        assert old in dag
        (dags / f"{name}.py").write_text(dag.replace(DAG_ID, name).replace(old, new))
    environment = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection(),
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    }
    with running_airflow(root / "home", dags, environment, users=["ann", "ben", "cleo"]) as airflow:
        yield airflow


@pytest.fixture(autouse=True)
def _same_tenant_for_each_test(tenant: Sandbox) -> None:
    tenant.tenant.queued.clear()
    tenant.tenant.never_removed.update(device.uid for device in tenant.tenant.devices())


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
    share = f"{len(planned) / 15:.1f} % of the 1,500 devices in the fleet"
    assert f"**{len(planned)} devices would be deleted from sandbox**, {share}." in body
    assert f"&run_id={quote_plus(run_id)}&task_id=plan&map_index=-1)" in body
    assert tenant.tenant.queued == []
    back = sorted(planned)[:2]
    tenant.tenant.mark_seen(back)
    response(airflow, run_id, "Approve")
    assert airflow.wait(DAG_ID, run_id) == "success"
    assert set(tenant.tenant.queued) == planned - set(back)
    said = f"{len(planned) - 2} of the {len(planned)} approved devices are still stale"
    assert said in airflow.log(DAG_ID, run_id, "delete_devices", 1, until=said)


@pytest.mark.parametrize(
    ("approvers", "says"),
    [
        (["ben", "ben"], "ben has given both"),
        (["ann", "ben"], "ann has given one of them, and has triggered the run, too"),
        (["ben", "ann"], "ann has given one of them"),
        (["ben", None], "at least one of the two was given by no person"),
    ],
)
def test_approval_not_by_two_other_people_deletes_nothing(
    airflow: RunningAirflow, tenant: Sandbox, approvers: list[str | None], says: str
) -> None:
    run_id = approved_by(airflow, approvers)
    assert airflow.wait(TWO, run_id) == "failed"
    assert tenant.tenant.queued == []
    for said in (says, "This try sent nothing"):
        assert said in airflow.log(TWO, run_id, "delete_devices", 1, until=said)
    (deletion,) = [each for each in airflow.instances(TWO, run_id) if each["task_id"] == "delete_devices"]
    assert deletion["try_number"] == 1  # a retry changes nothing


def test_approval_by_two_other_people_deletes_the_devices(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = approved_by(airflow, ["ben", "cleo"])
    assert airflow.wait(TWO, run_id) == "success"
    planned = {row["uid"] for row in airflow.xcom(TWO, run_id, "plan") if row["status"] == "PLANNED"}
    assert set(tenant.tenant.queued) == planned != set()


def test_approval_rejected_by_the_second_person_deletes_nothing(airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = approved_by(airflow, ["ben"])
    wait_for_request(airflow, TWO, run_id, "approve_second")
    with airflow.signed_in("cleo") as hers:
        response(hers, run_id, "Reject", TWO, "approve_second")
    assert airflow.wait(TWO, run_id) == "success"
    assert airflow.states(TWO, run_id)["delete_devices"] == "skipped"
    assert tenant.tenant.queued == []


ANN, BEN, CLEO = ({"id": str(number), "name": name} for number, name in enumerate(["ann", "ben", "cleo"]))


PLANNED_AT = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("first", "second", "requester", "run_type", "says"),
    [
        (BEN, CLEO, "ann", "manual", None),
        (BEN, CLEO, None, "scheduled", None),
        (BEN, {"id": "7", "name": "BEN"}, None, "scheduled", "BEN has given both"),
        (BEN, {"id": "1", "name": "Benjamin"}, None, "scheduled", "Benjamin has given both"),
        (BEN, CLEO, "Cleo", "manual", "Cleo has given one of them"),
        (BEN, ANN, "ann", "backfill", "ann has given one of them"),
        (BEN, {}, "ann", "manual", "by no person"),
        (BEN, CLEO, None, "manual", "does not know who triggered this run"),
        (BEN, CLEO, None, "operator_triggered", "does not know who triggered this run"),
    ],
)
def test_check_two_people_in_doubt_refuses(
    first: dict[str, str], second: dict[str, str], requester: str | None, run_type: str, says: str | None
) -> None:
    check = runpy.run_path(str(DAGS / f"{DAG_ID}.py"))["check_two_people"]
    dag_run = SimpleNamespace(triggering_user_name=requester, run_type=run_type)
    responses = [response_of(first), response_of(second)]
    if says is None:
        check(responses, PLANNED_AT, dag_run)
    else:
        with pytest.raises(NexthinkInputError, match=says):
            check(responses, PLANNED_AT, dag_run)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chosen_options": ["Reject"]}, "or is a rejection"),
        ({"chosen_options": []}, "or is a rejection"),
        ({"responded_at": PLANNED_AT - timedelta(days=1)}, "before this plan was made"),
        ({"responded_at": (PLANNED_AT - timedelta(seconds=1)).isoformat()}, "before this plan was made"),
        (None, "by no person"),  # marked as success: there is no response at all
    ],
)
def test_check_two_people_response_that_approves_another_plan_or_none_is_refused(
    at: int, change: dict[str, Any] | None, says: str
) -> None:
    check = runpy.run_path(str(DAGS / f"{DAG_ID}.py"))["check_two_people"]
    responses = [response_of(BEN), response_of(CLEO)]
    responses[at] = {} if change is None else responses[at] | change
    with pytest.raises(NexthinkInputError, match=says):
        check(responses, PLANNED_AT, SimpleNamespace(triggering_user_name="ann", run_type="manual"))


def response_of(person: dict[str, str]) -> dict[str, Any]:
    """Return an approval as Airflow keeps it."""
    return {
        "chosen_options": ["Approve"],
        "params_input": {},
        "responded_at": PLANNED_AT + timedelta(hours=1),
        "responded_by_user": person,
    }


def approved_by(airflow: RunningAirflow, approvers: list[str | None]) -> str:
    """Start a run as ann, and have it approved; None marks the task as success. Return the id of the run."""
    run_id = airflow.start(TWO)
    for task_id, user in zip(("approve", "approve_second"), approvers, strict=False):
        wait_for_request(airflow, TWO, run_id, task_id)
        if user:
            with airflow.signed_in(user) as theirs:
                response(theirs, run_id, "Approve", TWO, task_id)
        else:
            airflow.patch(f"dags/{TWO}/dagRuns/{run_id}/taskInstances/{task_id}", {"new_state": "success"})
    return run_id


def wait_for_request(airflow: RunningAirflow, dag_id: str, run_id: str, task_id: str = "approve") -> dict[str, str]:
    """Wait until a person is asked; return what is asked."""
    airflow.wait_until_parked(dag_id, run_id, task_id)
    return dict(airflow.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"))


def let_time_run_out(airflow: RunningAirflow, run_id: str) -> None:
    """Move the deadline of the approval into the past: there is no other way to wait for a week."""
    with closing(sqlite3.connect(airflow.home / "airflow.db", timeout=PATIENCE)) as database, database:
        change = (
            "UPDATE task_instance SET trigger_timeout = '2000-01-01 00:00:00.000000' WHERE run_id = ? AND task_id = ?"
        )
        assert database.execute(change, (run_id, "approve")).rowcount == 1


def response(airflow: RunningAirflow, run_id: str, option: str, dag_id: str = DAG_ID, task_id: str = "approve") -> None:
    airflow.patch(
        f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails",
        {"chosen_options": [option], "params_input": {}},
    )


def assert_nothing_was_deleted(airflow: RunningAirflow, dag_id: str, run_id: str, tenant: Sandbox) -> None:
    states = airflow.states(dag_id, run_id)
    assert (states["approve"], states["delete_devices"]) == ("success", "skipped")
    assert tenant.tenant.queued == []
