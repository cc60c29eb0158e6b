"""The example Dags with a schedule, on a running Airflow: backfills, and runs with and without a logical date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS
from tests.support.running_airflow import RunningAirflow, running_airflow, until
from tests.support.services import postgres_database

SCHEDULED = {
    "nexthink_delete_stale_devices": "@weekly",
    "nexthink_delete_and_verify": "@weekly",
    "nexthink_delete_retired_assets": "@weekly",
    "nexthink_delete_many_tenants": "@weekly",
    "nexthink_delete_with_approval": "@monthly",
    "nexthink_lifecycle": "@weekly",
}
VERIFY = "nexthink_delete_and_verify"


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=300, stale=120, removal_delay=0.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox) -> Iterator[RunningAirflow]:
    """An Airflow on PostgreSQL, with the Dags as they are but for the wait, which is a short one."""
    root = tmp_path_factory.mktemp("backfill")
    dags = root / "dags"
    dags.mkdir()
    for dag_id in SCHEDULED:
        text = (DAGS / f"{dag_id}.py").read_text()
        if dag_id == VERIFY:
            assert "poke_interval=timedelta(minutes=10)" in text
            assert "timeout=timedelta(hours=12)" in text
            text = text.replace("poke_interval=timedelta(minutes=10)", "poke_interval=timedelta(seconds=1)")
            text = text.replace("timeout=timedelta(hours=12)", "timeout=timedelta(seconds=3)")
        (dags / f"{dag_id}.py").write_text(text)
    connection = json.loads(tenant.airflow_connection())
    connection["extra"]["ledger_conn_id"] = "ledger"
    with postgres_database() as database:
        environment = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.render_as_string(hide_password=False),
            "AIRFLOW_CONN_NEXTHINK_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_LEDGER": f'{{"conn_type": "sqlite", "host": "{root}/ledger.db"}}',
            "AIRFLOW_CONN_NEXTHINK_EMEA": tenant.airflow_connection(),
            "AIRFLOW_CONN_NEXTHINK_APAC": tenant.airflow_connection(),
            "AIRFLOW_CONN_WAREHOUSE": f'{{"conn_type": "sqlite", "host": "{root}/warehouse.db"}}',
        }
        with running_airflow(root / "home", dags, environment) as airflow:
            airflow.post("pools", {"name": "nexthink", "slots": 2})
            yield airflow


def start(airflow: RunningAirflow, dag_id: str, logical_date: str | None = None, **conf: Any) -> str:
    """Run a Dag for real, with a logical date or without one; return the id of the run, which has ended."""
    body = {"logical_date": logical_date, "conf": {"dry_run": False, **conf}}
    run_id = str(airflow.post(f"dags/{dag_id}/dagRuns", body)["dag_run_id"])
    assert airflow.wait(dag_id, run_id) == "success"
    return run_id


@pytest.fixture(scope="module")
def backfills(airflow: RunningAirflow) -> dict[str, int]:
    """The backfill of each Dag: two runs each, all of them side by side as soon as the Dags are not paused any more."""
    started = {}
    for dag_id, schedule in SCHEDULED.items():
        until(partial(airflow.get, f"dags/{dag_id}"), f"the Dag {dag_id}")
        conf = {} if dag_id == "nexthink_delete_with_approval" else {"dry_run": False}
        end = {"@weekly": "2026-02-08T00:00:00Z", "@monthly": "2026-03-01T00:00:00Z"}[schedule]
        period = {"from_date": "2026-02-01T00:00:00Z", "to_date": end}
        body = {"dag_id": dag_id, **period, "max_active_runs": 5, "dag_run_conf": conf}
        started[dag_id] = airflow.post("backfills", body)["id"]
    for dag_id in SCHEDULED:
        # The run that is scheduled by then, too, is a dry run, or is rejected in the end.
        unpause(airflow, dag_id)
    return started


def unpause(airflow: RunningAirflow, dag_id: str) -> None:
    until(lambda: airflow.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).is_success, dag_id)


@pytest.mark.service
@pytest.mark.parametrize("dag_id", SCHEDULED)
def test_backfill_sends_nothing(
    airflow: RunningAirflow, tenant: Sandbox, backfills: dict[str, int], dag_id: str
) -> None:
    def runs() -> list[dict[str, Any]]:
        found = airflow.get(f"dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return [run for run in found if run["run_type"] == "backfill"]

    until(lambda: airflow.get(f"backfills/{backfills[dag_id]}")["completed_at"], f"the backfill of {dag_id}")
    assert len(runs()) == 2
    assert {run["state"] for run in runs()} == {"success"}
    assert tenant.tenant.queued == []
    assert not [request for request in tenant.requests if "deletions" in request.path]
    for run in runs():
        states = airflow.states(dag_id, run["dag_run_id"])
        if dag_id in ("nexthink_delete_with_approval", "nexthink_delete_retired_assets", "nexthink_lifecycle"):
            assert states["delete_devices"] == "skipped"
        if dag_id in (VERIFY, "nexthink_lifecycle"):
            assert states["report"] == "skipped"


@pytest.mark.service
def test_verify_starts_with_the_remaining_devices_of_the_last_run_whatever_runs_have_no_logical_date(
    airflow: RunningAirflow, tenant: Sandbox
) -> None:
    unpause(airflow, VERIFY)
    devices = tenant.tenant.devices()
    stale = [d for d in devices if d.days_since_last_seen >= 90 and d.name.startswith("LAPTOP-")]
    last = sorted(stale[-20:], key=lambda device: device.days_since_last_seen)
    younger, older = last[0], last[-1]
    tenant.tenant.never_removed |= {older.uid, younger.uid}
    # On PostgreSQL a run without a logical date is sorted before those that have one, on others behind them.
    start(airflow, VERIFY, None, min_days_unseen=older.days_since_last_seen)
    start(airflow, VERIFY, "2026-01-02T00:00:00Z", min_days_unseen=younger.days_since_last_seen)
    dated = start(airflow, VERIFY, "2026-01-03T00:00:00Z", min_days_unseen=60)
    by_hand = start(airflow, VERIFY, None, min_days_unseen=30)
    for run_id in (dated, by_hand):
        sent = [row["uid"] for row in airflow.xcom(VERIFY, run_id, "delete_devices")]
        assert len(sent) > 2
        assert sorted(sent[:2]) == sorted([older.uid, younger.uid])
