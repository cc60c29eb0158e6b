"""The XComs that a run pushes are those on the list of public names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkQuarantineOperator, NexthinkReconcileOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from tests.support.dags import Run
from tests.tools.public_names import XCOMS


def test_xcoms_of_each_operator_are_the_public_ones(
    sandbox: Sandbox, set_extras: Callable[..., None], run_dag: Callable[..., Run], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}))
    set_extras(ledger_conn_id="ledger")
    gone = sandbox.tenant.devices()[0]
    with DAG("public_xcoms") as dag:
        pull = NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", parameters={"min_days_unseen": "90"})
        quarantine = NexthinkQuarantineOperator(
            task_id="quarantine", devices=pull.output, uid_column="device.uid", grace=0, min_sightings=1
        )
        deletion = NexthinkDeleteDevicesOperator(
            task_id="delete", devices=quarantine.output, uid_column="device.uid", fail_on=()
        )
        reconcile = NexthinkReconcileOperator(task_id="reconcile", poll_interval=0.01)
        sensor = NexthinkDevicesGoneSensor(
            task_id="gone", devices=[{"uid": gone.uid, "name": gone.name}], query_id="#all_devices", timeout=0
        )
        deletion >> [reconcile, sensor]
    ran = run_dag(dag)
    for operator in dag.tasks:
        public = XCOMS[type(operator).__name__]
        pushed = {key: ran.xcom(operator.task_id, key) for key in xcom_keys(ran, operator.task_id)}
        # Only there for a retry with another list.
        assert set(pushed) == set(public) - {"earlier_tries"}, operator.task_id
        if fields := public.get("summary"):
            assert set(pushed["summary"]) == set(fields.split()) - {"earlier_tries", "error"}


def xcom_keys(run: Run, task_id: str) -> set[str]:
    """Return the keys under which a task pushed something, without those of its links."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    wanted = select(XComModel.key).where(
        XComModel.dag_id == run.dag_run.dag_id, XComModel.run_id == run.dag_run.run_id, XComModel.task_id == task_id
    )
    with create_session() as session:
        return {key for key in session.scalars(wanted) if not key.startswith("_")}
