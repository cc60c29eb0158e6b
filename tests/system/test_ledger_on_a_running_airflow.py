"""The ledger behind a running Airflow: task processes that are killed, cleared or marked; the triggerer; secrets."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.running_airflow import RunningAirflow, running_airflow, until
from tests.support.services import postgres_database

pytestmark = pytest.mark.service

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import dag

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkReconcileOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor

OPTIONS = {"batch_size": 5, "max_concurrency": 2, "max_devices": None}


@dag(schedule=None, params={"devices": ""}, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)})
def interrupted():
    NexthinkDeleteDevicesOperator(task_id="delete", devices="{{ params.devices }}", reason="CHG-17", **OPTIONS)


@dag(schedule=None, params={"devices": ""})
def looks():
    delete = NexthinkDeleteDevicesOperator(task_id="delete", devices="{{ params.devices }}")
    gone = NexthinkDevicesGoneSensor(
        task_id="gone", devices=delete.output, query_id="#all_devices", poke_interval=1, timeout=200, deferrable=True
    )
    gone >> NexthinkReconcileOperator(task_id="reconcile", poll_interval=1, deferrable=True)


@dag(schedule=None, params={"devices": ""})
def unreachable():
    NexthinkDeleteDevicesOperator(
        task_id="delete", devices="{{ params.devices }}", nexthink_conn_id="unreachable", retries=0
    )


interrupted()
looks()
unreachable()
"""
PASSWORD = "made-up-password-of-the-ledger"
DEVICES = 150


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=800, stale=0, removal_delay=0.0, pending_polls=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def ledger() -> Iterator[Engine]:
    """A database on PostgreSQL."""
    with postgres_database() as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox, ledger: Engine) -> Iterator[RunningAirflow]:
    root = tmp_path_factory.mktemp("ledger")
    dags = root / "dags"
    dags.mkdir()
    (dags / "ledger.py").write_text(DAG_FILE)
    url = ledger.url
    warehouse = {"conn_type": "postgres", "host": url.host, "port": url.port, "schema": url.database}
    warehouse |= {"login": url.username, "password": PASSWORD}

    def connection(ledger_conn_id: str) -> str:
        fields = json.loads(tenant.airflow_connection())
        fields["extra"] |= {"ledger_conn_id": ledger_conn_id, "quota_devices": 600, "quota_days": 7}
        return json.dumps(fields)

    connections = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": connection("warehouse"),
        "AIRFLOW_CONN_UNREACHABLE": connection("away"),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps(warehouse),
        "AIRFLOW_CONN_AWAY": json.dumps(warehouse | {"port": 9}),
    }
    with running_airflow(root / "home", dags, connections) as airflow:
        yield airflow


@pytest.fixture
def start(
    airflow: RunningAirflow, tenant: Sandbox, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[str], tuple[str, list[str]]]:
    """Return what starts a Dag with devices that no other test has; it returns the run, and their uids."""

    def start_with_devices(dag_id: str) -> tuple[str, list[str]]:
        tenant.faults.clear()
        tenant.tenant.queued.clear()
        if dag_id == "interrupted":
            tenant.faults.add(Fault(path="deletions", kind="slow", seconds=0.5, times=-1))
        devices = tenant.tenant.devices()[:DEVICES]
        path = tmp_path / "devices.csv"
        names = [f'{device.uid},"{device.name.replace(chr(34), chr(34) * 2)}"' for device in devices]
        path.write_text("\n".join(["device.uid,device.name", *names]), encoding="utf-8")
        return airflow.start(dag_id, {"devices": str(path)}), [device.uid for device in devices]

    return start_with_devices


def rows_of(ledger: Engine, table: Any, *where: Any) -> list[dict[str, Any]]:
    """Return rows; none as long as there is no table."""
    try:
        with ledger.connect() as connection:
            found = connection.execute(select(table).where(*where).order_by(*table.primary_key.columns))
            return [dict(row._mapping) for row in found]
    except DBAPIError:
        return []


def runs_of(ledger: Engine, run_id: str) -> list[dict[str, Any]]:
    return rows_of(ledger, schema.runs, schema.runs.c.dag_run_id == run_id)


def devices_of(ledger: Engine, run: dict[str, Any]) -> list[dict[str, Any]]:
    return rows_of(ledger, schema.deletions, schema.deletions.c.run_id == run["id"])


def test_killed_task_process_is_resumed_and_its_devices_count_once(
    airflow: RunningAirflow, tenant: Sandbox, ledger: Engine, start: Callable[[str], tuple[str, list[str]]]
) -> None:
    run_id, uids = start("interrupted")
    until(lambda: len(tenant.tenant.queued) >= 40, "some devices")
    (instance,) = airflow.instances("interrupted", run_id)
    os.kill(instance["pid"], signal.SIGKILL)
    (killed,) = runs_of(ledger, run_id)
    rows = devices_of(ledger, killed)
    assert [row["uid"] for row in rows] == uids  # before the first of them was sent
    assert {row["status"] for row in rows} == {"REQUESTED", "SCHEDULED"}
    assert {row["uid"] for row in rows if row["status"] == "SCHEDULED"} <= set(tenant.tenant.queued)
    tenant.faults.clear()
    assert airflow.wait("interrupted", run_id) == "success"
    first, second = runs_of(ledger, run_id)
    assert (first["state"], second["state"], second["try_number"]) == ("LOST", "FINISHED", 2)
    assert (second["reason"], second["dag_id"]) == ("CHG-17", "interrupted")
    assert first["charged"] + second["charged"] == DEVICES
    requested = Counter(tenant.tenant.queued)
    assert requested.keys() == set(uids)
    assert sum(requested.values()) < DEVICES + 40  # what the first try had recorded was not sent again
    counting = [
        row["uid"]
        for run in (first, second)
        for row in devices_of(ledger, run)
        if not row["superseded"] and row["status"] != "NOT_SENT"
    ]
    assert sorted(counting) == sorted(uids)
    assert airflow.xcom("interrupted", run_id, "delete", "summary")["SCHEDULED"] == DEVICES


@pytest.mark.parametrize("how", ["marked", "cleared"])
def test_task_that_is_marked_or_cleared_while_it_runs_gives_back_what_it_has_not_sent(
    airflow: RunningAirflow, tenant: Sandbox, ledger: Engine, start: Callable[[str], tuple[str, list[str]]], how: str
) -> None:
    run_id, uids = start("interrupted")
    until(lambda: len(tenant.tenant.queued) >= 40, "some devices")
    interrupted_at = datetime.now(UTC)
    path = f"dags/interrupted/dagRuns/{run_id}/taskInstances/delete"
    if how == "marked":
        airflow.patch(path, {"new_state": "success"})
    else:
        clear = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["delete"], "only_failed": False}
        airflow.clear("interrupted", clear)
    until(lambda: runs_of(ledger, run_id)[0]["finished_at"], "the end of the run in the ledger")
    first = runs_of(ledger, run_id)[0]
    tenant.faults.clear()
    airflow.wait("interrupted", run_id)
    statuses = Counter(row["status"] for row in devices_of(ledger, first))
    requested = Counter(tenant.tenant.queued)
    assert first["finished_at"] - interrupted_at < timedelta(seconds=30)
    assert statuses["SCHEDULED"] >= 30
    assert sum(run["charged"] for run in runs_of(ledger, run_id)) == len(requested)
    if how == "marked":
        assert first["state"] == "FINISHED"
        assert statuses["NOT_SENT"] > 0
        assert first["charged"] == DEVICES - statuses["NOT_SENT"]
        assert first["error"].startswith("NexthinkStoppedError")
    else:
        assert requested.keys() == set(uids)
        assert airflow.xcom("interrupted", run_id, "delete", "summary")["SCHEDULED"] == DEVICES


def test_sensor_and_reconcile_operator_record_their_looks_after_a_deferral(
    airflow: RunningAirflow, tenant: Sandbox, ledger: Engine, start: Callable[[str], tuple[str, list[str]]]
) -> None:
    def export() -> datetime:
        """Wait for the next export; return the time."""
        until(lambda: sum(request.path.endswith("/nql/export") for request in tenant.requests) > len(exports), "it")
        return datetime.now(UTC)

    tenant.requests.clear()
    exports: list[datetime] = []
    run_id, uids = start("looks")
    exports += [export()]
    exports += [export()]
    assert airflow.wait("looks", run_id) == "success"
    assert airflow.xcom("looks", run_id, "reconcile", "summary")["looks_too_young"] is False
    (run,) = runs_of(ledger, run_id)
    rows = devices_of(ledger, run)
    assert [row["uid"] for row in rows] == uids
    assert {row["presence"] for row in rows} == {"GONE"}
    *_, by_sensor, by_operator = rows_of(ledger, schema.looks)
    assert by_sensor["gone"] == DEVICES
    # Each look is as old as its export, which the triggerer has started: not as young as the end of the wait.
    assert by_sensor["looked_at"] <= exports[0] <= by_operator["looked_at"] <= exports[1]


def test_secrets_of_the_ledger_are_written_nowhere(
    airflow: RunningAirflow, tenant: Sandbox, start: Callable[[str], tuple[str, list[str]]]
) -> None:
    run_id, _ = start("unreachable")
    assert airflow.wait("unreachable", run_id) == "failed"
    said = "The ledger (connection 'away') cannot be opened"
    assert said in airflow.log("unreachable", run_id, "delete", 1, until=said)
    assert airflow.xcom("unreachable", run_id, "delete", "summary")["error"]["type"] == "NexthinkLedgerError"
    assert tenant.tenant.queued == []
    assert PASSWORD.encode() not in airflow.everything_written()
