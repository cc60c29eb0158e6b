"""What ``dag.test()`` hides, on a running Airflow: masking, what is stored, real task processes, the triggerer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import KEEPS_TASK_STATE
from tests.support.running_airflow import RunningAirflow, running_airflow, until

DAG_FILE = """
import base64
from datetime import timedelta

from airflow.sdk import dag, task

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor


@dag(schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)})
def secrets():
    pull = NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", poll_interval=0.1)
    NexthinkDeleteDevicesOperator(task_id="delete", devices=pull.output)
    NexthinkDeleteDevicesOperator(task_id="forbidden", devices=pull.output, nexthink_conn_id="forbidden")
    NexthinkDeleteDevicesOperator(task_id="wrong_secret", devices=pull.output, nexthink_conn_id="wrong_secret")
    NexthinkNqlOperator(task_id="lost", query_id="#stale_devices", nexthink_conn_id="lost", retries=0)


@dag(schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1), "nexthink_conn_id": "slow"})
def waiting():
    pull = NexthinkNqlOperator(
        task_id="pull",
        query_id="#stale_devices",
        parameters={"min_days_unseen": "{{ 30 * 3 }}"},
        timeout=600,
        deferrable=True,
    )
    delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=pull.output, max_devices=30, retries=0)
    options = {"query_id": "#all_devices", "deferrable": True, "poke_interval": 1}
    NexthinkDevicesGoneSensor(task_id="all_go", devices=delete.output, timeout=300, **options)
    NexthinkDevicesGoneSensor(task_id="three_stay", devices=delete.output, timeout=5, **options)


@dag(schedule=None)
def patient():
    NexthinkNqlOperator(
        task_id="pull",
        query_id="#all_devices",
        nexthink_conn_id="slow",
        poll_interval=1,
        deferrable=True,
    )


@dag(schedule=None)
def careless():
    @task
    def log_what_must_not_be_logged():
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        hook = NexthinkHook()
        token = hook.get_conn().get_token().get_secret_value()
        connection = hook.get_connection("nexthink_default")
        print("secret", connection.password)
        print("basic", base64.b64encode(f"{connection.login}:{connection.password}".encode()).decode())
        print("token", token)
        raise RuntimeError(repr(hook.get_conn().settings) + repr(vars(hook.get_conn())))

    log_what_must_not_be_logged()


secrets()
careless()
waiting()
patient()
"""


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=400, stale=300, removal_delay=0.0, pending_polls=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def forbidden() -> Iterator[Sandbox]:
    with Sandbox(devices=10, stale=5, data_management=False, client_secret="another-made-up-secret") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def lost() -> Iterator[Sandbox]:
    """A tenant whose object storage refuses every signed address."""
    with Sandbox(devices=10, stale=5, pending_polls=0, client_secret="third-made-up-secret") as sandbox:
        sandbox.faults.add(Fault(path="storage", kind="status", status=403, times=-1))
        yield sandbox


@pytest.fixture(scope="module")
def slow() -> Iterator[Sandbox]:
    """A tenant that takes its time with an export."""
    with Sandbox(devices=60, stale=30, removal_delay=0.0, pending_polls=1, client_secret="4th-made-up-secret") as it:
        yield it


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox, forbidden: Sandbox, lost: Sandbox, slow: Sandbox
) -> Iterator[RunningAirflow]:
    root = tmp_path_factory.mktemp("running")
    dags = root / "dags"
    dags.mkdir()
    (dags / "secrets.py").write_text(DAG_FILE)
    wrong = json.loads(tenant.airflow_connection()) | {"password": "a-wrong-made-up-secret"}
    connections = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection(),
        "AIRFLOW_CONN_FORBIDDEN": forbidden.airflow_connection(),
        "AIRFLOW_CONN_LOST": lost.airflow_connection(),
        "AIRFLOW_CONN_SLOW": slow.airflow_connection(),
        "AIRFLOW_CONN_WRONG_SECRET": json.dumps(wrong),
    }
    with running_airflow(root / "home", dags, connections) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def ran(airflow: RunningAirflow) -> tuple[str, bytes]:
    """The id of a run of all that our operators do, and everything that was written down by its end."""
    run_id = airflow.run("secrets")
    return run_id, airflow.everything_written()


@pytest.fixture
def run_id(ran: tuple[str, bytes]) -> str:
    return ran[0]


def test_tasks_end_in_the_expected_states(airflow: RunningAirflow, run_id: str) -> None:
    assert airflow.states("secrets", run_id) == {
        "pull": "success",
        "delete": "success",
        "forbidden": "failed",
        "wrong_secret": "failed",
        "lost": "failed",
    }


def test_xcoms_of_a_failed_task_are_pushed(airflow: RunningAirflow, run_id: str, tenant: Sandbox) -> None:
    rows = airflow.xcom("secrets", run_id, "delete")
    assert [row["uid"] for row in rows] == [row["device.uid"] for row in airflow.xcom("secrets", run_id, "pull")]
    assert sorted(tenant.tenant.queued) == sorted(row["uid"] for row in rows)
    assert airflow.xcom("secrets", run_id, "delete", "summary")["SCHEDULED"] == 300
    assert airflow.xcom("secrets", run_id, "forbidden", "summary")["NOT_SENT"] == 300
    assert len(airflow.xcom("secrets", run_id, "forbidden", "unscheduled")) == 300
    assert {row["status"] for row in airflow.xcom("secrets", run_id, "forbidden")} == {"NOT_SENT"}


def test_rendered_view_shows_a_summary_and_no_device(airflow: RunningAirflow, run_id: str) -> None:
    assert airflow.rendered("secrets", run_id, "delete")["devices"] == "300 rows (list)"


def test_secrets_are_written_nowhere(
    ran: tuple[str, bytes], tenant: Sandbox, forbidden: Sandbox, lost: Sandbox
) -> None:
    _, written = ran
    assert b"gave no token" in written  # the logs are there
    requests = [*tenant.requests, *forbidden.requests, *lost.requests]
    secrets = {header.split()[1] for r in requests if (header := r.headers.get("authorization"))}
    assert len(secrets) >= 8
    secrets |= {tenant.client_secret, forbidden.client_secret, lost.client_secret, "a-wrong-made-up-secret"}
    assert [secret for secret in secrets if secret.encode() in written] == []
    assert not re.search(rb"X-Signature=[0-9a-f]", written)


def test_secrets_logged_by_a_careless_task_are_masked(
    airflow: RunningAirflow, ran: tuple[str, bytes], tenant: Sandbox
) -> None:
    airflow.run("careless")
    (log,) = (airflow.home / "logs").rglob("task_id=log_what_must_not_be_logged/*.log")
    text = log.read_text()
    for line in ("secret ***", "basic ***", "token ***"):
        assert line in text
    assert "client_secret=SecretStr" in text
    assert tenant.client_secret not in text


# In a real triggerer


def exports(tenant: Sandbox) -> int:
    return sum(request.path.endswith("/nql/export") for request in tenant.requests)


def test_triggerer_retry_resumes_the_export_and_the_sensor_reports_present_devices(
    airflow: RunningAirflow, slow: Sandbox
) -> None:
    stale = [device for device in slow.tenant.devices() if device.days_since_last_seen >= 90]
    stuck = {device.uid for device in stale[:3]}
    slow.tenant.never_removed |= stuck
    # In the first try neither the triggerer nor the worker gets a response with a status.
    later = {"retry-after": "7200"}
    slow.faults.add(Fault(path="status", kind="status", status=429, headers=later, times=2))
    run_id = airflow.start("waiting")
    until(lambda: airflow.states("waiting", run_id).get("three_stay") == "failed", "the end of the wait")
    # All the time the other one waits too: its devices go away now.
    slow.tenant.never_removed.clear()
    assert airflow.wait("waiting", run_id) == "failed"
    assert airflow.states("waiting", run_id) == {
        "pull": "success",
        "delete": "success",
        "all_go": "success",
        "three_stay": "failed",
    }
    said = "An earlier try has started the export"
    log = airflow.log("waiting", run_id, "pull", try_number=2, until=said if KEEPS_TASK_STATE else "")
    assert (said in log) == KEEPS_TASK_STATE
    queries = [json.loads(r.body)["queryId"] for r in slow.requests if r.path.endswith("/nql/export")]
    assert queries.count("#stale_devices") == (1 if KEEPS_TASK_STATE else 2)
    assert len(airflow.xcom("waiting", run_id, "pull")) == len(stale)
    table = airflow.xcom("waiting", run_id, "three_stay")
    assert {row["uid"] for row in table if row["status"] == "STILL_PRESENT"} == stuck
    assert {row["status"] for row in table} == {"GONE", "STILL_PRESENT"}
    assert {row["status"] for row in airflow.xcom("waiting", run_id, "all_go")} == {"GONE"}
    assert len(table) == len(airflow.xcom("waiting", run_id, "all_go")) == len(stale)
    assert "3 of 30 devices are still in Nexthink" in airflow.log(
        "waiting", run_id, "three_stay", try_number=1, until="3 of 30 devices are still in Nexthink"
    )


def test_triggerer_lost_costs_no_export(airflow: RunningAirflow, slow: Sandbox) -> None:
    slow.tenant.pending_polls = 1_000_000
    before = exports(slow)
    run_id = airflow.start("patient")
    until(lambda: airflow.states("patient", run_id).get("pull") == "deferred", "the wait")
    polls = len(slow.requests)
    until(lambda: len(slow.requests) > polls + 1, "looks of the triggerer")
    airflow.lose("triggerer")
    slow.tenant.pending_polls = 1
    assert airflow.wait("patient", run_id) == "success"
    assert exports(slow) == before + 1
    assert len(airflow.xcom("patient", run_id, "pull")) == len(slow.tenant.devices())


def test_secrets_of_deferred_tasks_are_written_nowhere(airflow: RunningAirflow, slow: Sandbox) -> None:
    written = airflow.everything_written()
    secrets = {header.split()[1] for r in slow.requests if (header := r.headers.get("authorization"))}
    assert len(secrets) >= 5
    assert [secret for secret in {*secrets, slow.client_secret} if secret.encode() in written] == []
    assert not re.search(rb"X-Signature=[0-9a-f]", written)
