"""Quarantine, deletion and reconciliation in a real Airflow, with the ledger in each database."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import DAG
from sqlalchemy import delete

from airflow_provider_nexthink.cli.definition import main
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkQuarantineOperator, NexthinkReconcileOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from tests.support.dags import Run
from tests.support.ledger_rows import rows_of
from tests.support.ledgers import LEDGERS

RunDag = Callable[..., Run]
WAYS = pytest.mark.parametrize("deferrable", [False, True], ids=["in the worker", "deferred"])


@pytest.fixture
def with_ledger(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Give the connection a ledger: the database ``warehouse``, else a file of SQLite."""
    fields = json.loads(sandbox.airflow_connection())
    fields["extra"] |= {"ledger_conn_id": "warehouse"}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))


@pytest.fixture
def on_sqlite(with_ledger: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "l.db")}))


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def reconcile(run_dag: RunDag, **options: Any) -> Run:
    with DAG("daily") as dag:
        NexthinkReconcileOperator(task_id="reconcile", **{"poll_interval": 0.01, **options})
    return run_dag(dag)


@pytest.mark.parametrize("database", LEDGERS, indirect=True)
def test_lifecycle_of_devices_ends_with_seats_won(
    sandbox: Sandbox, run_dag: RunDag, with_ledger: None, database: str
) -> None:
    rows = devices_of(sandbox, 8)
    stuck = rows[0]["uid"]
    sandbox.tenant.never_removed |= {stuck}
    with DAG("weekly") as dag:
        quarantine = NexthinkQuarantineOperator(task_id="quarantine", devices=rows, grace=0)
        NexthinkDeleteDevicesOperator(task_id="delete", devices=quarantine.output)
    first = run_dag(dag)
    assert first.xcom("quarantine") == []
    assert first.xcom("quarantine", "summary")["waiting"] == 8
    assert [row["devices"] for row in first.xcom("quarantine", "summary")["due_by_day"]] == [8]
    assert len(first.xcom("quarantine", "waiting")) == 8
    second = run_dag(dag)
    assert second.xcom("quarantine") == rows
    assert second.xcom("quarantine", "summary")["due"] == 8
    assert second.xcom("quarantine", "summary")["list_name"] == "weekly.quarantine"
    assert second.xcom("delete", "summary")["SCHEDULED"] == 8
    summary = (run := reconcile(run_dag)).xcom("reconcile", "summary")
    assert run.xcom("reconcile") == summary
    assert (summary["requested"], summary["gone"], summary["still_present"]) == (8, 7, 1)
    assert (summary["seats_won"], summary["net"], summary["looks_too_young"]) == (7, 7, False)
    assert (summary["instance"], summary["quota"]) == ("sandbox", None)
    assert [row["uid"] for row in run.xcom("reconcile", "still_present")] == [stuck]
    assert run.xcom("reconcile", "returned") == []


@WAYS
def test_reconcile_operator_exports_the_inventory(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None, deferrable: bool
) -> None:
    run = reconcile(run_dag, deferrable=deferrable)
    assert run.xcom("reconcile", "summary")["devices"] == len(sandbox.tenant.devices())
    (look,) = rows_of(schema.looks)
    assert (look["query_id"], look["uid_kind"]) == ("#all_devices", "device")
    assert abs(look["looked_at"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_reconcile_operator_says_how_much_of_the_quota_is_left(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_NEXTHINK_DEFAULT"])
    connection["extra"] |= {"quota_devices": 10, "quota_days": 6}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(connection))
    with DAG("daily") as dag:
        remove = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices_of(sandbox, 3))
        remove >> NexthinkReconcileOperator(task_id="reconcile", poll_interval=0.01)
    summary = run_dag(dag).xcom("reconcile")
    assert summary["quota"] == {"devices": 10, "days": 6, "used": 3, "left": 7}


@WAYS
def test_reconcile_operator_of_a_truncated_result_changes_nothing(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None, deferrable: bool
) -> None:
    sandbox.tenant.export_row_limit = 300
    run = reconcile(run_dag, deferrable=deferrable, retries=2)
    assert run.state == "failed"
    assert run.tries("reconcile") == 1
    assert "NexthinkTruncatedError" in run.error
    assert rows_of(schema.looks) == []


def test_reconcile_operator_says_that_the_ledger_looks_too_young_until_it_knows_as_much_again(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None
) -> None:
    with DAG("daily") as dag:
        remove = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices_of(sandbox, 2))
        remove >> NexthinkReconcileOperator(task_id="reconcile", poll_interval=0.01)
    assert [run_dag(dag).xcom("reconcile")["looks_too_young"] for _ in range(3)] == [False, False, False]
    with NexthinkHook() as hook, hook.get_ledger().database.transaction() as connection:
        connection.execute(delete(schema.runs))
        connection.execute(delete(schema.deletions))
    found = [run_dag(dag).xcom("reconcile") for _ in range(3)]
    assert [(row["runs"], row["known_runs"], row["looks_too_young"]) for row in found] == [
        (1, 3, True),
        (2, 3, True),
        (3, 3, False),
    ]
    assert found[1]["known_latest_run_at"] == found[1]["latest_run_at"]


def test_quarantine_operator_of_mapped_tasks_keeps_a_list_for_each(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None
) -> None:
    rows = devices_of(sandbox, 4)
    with DAG("weekly") as dag:
        NexthinkQuarantineOperator.partial(task_id="quarantine", grace=0).expand(devices=[rows[:2], rows[2:]])
    run_dag(dag)
    run = run_dag(dag)
    assert [run.xcom("quarantine", map_index=index) for index in (0, 1)] == [rows[:2], rows[2:]]
    assert sorted(row["list_name"] for row in rows_of(schema.lists)) == ["weekly.quarantine[0]", "weekly.quarantine[1]"]


def test_quarantine_operator_options_are_templates(sandbox: Sandbox, run_dag: RunDag, on_sqlite: None) -> None:
    rows = devices_of(sandbox, 1)
    with DAG("weekly", params={"days": 21, "runs": 3, "list": "laptops"}) as dag:
        NexthinkQuarantineOperator(
            task_id="quarantine",
            devices=rows,
            grace="{{ params.days }}",
            min_sightings="{{ params.runs }}",
            list_name="{{ params.list }}",
        )
    summary = run_dag(dag).xcom("quarantine", "summary")
    assert (summary["grace_days"], summary["min_sightings"], summary["list_name"]) == (21.0, 3, "laptops")
    run = run_dag(dag, days="-1")
    assert "grace is '-1'" in run.error


@pytest.mark.parametrize("operator", [NexthinkQuarantineOperator, NexthinkReconcileOperator])
def test_operator_without_a_ledger_fails_at_once(sandbox: Sandbox, run_dag: RunDag, operator: Any) -> None:
    options = {"devices": devices_of(sandbox, 1)} if operator is NexthinkQuarantineOperator else {}
    with DAG("no_ledger") as dag:
        operator(task_id="task", retries=2, **options)
    run = run_dag(dag)
    assert run.tries("task") == 1
    assert "set its extra ledger_conn_id" in run.error
    assert sandbox.requests == []


@WAYS
def test_sensor_records_in_the_ledger_what_it_sees(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None, deferrable: bool
) -> None:
    rows = [{"device.uid": row["uid"], "name": row["name"]} for row in devices_of(sandbox, 5)]
    with DAG("other") as other:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=[devices_of(sandbox, 6)[5]])
    run_dag(other)
    with DAG("gone") as dag:
        removal = NexthinkDeleteDevicesOperator(task_id="delete", devices=rows)
        NexthinkDevicesGoneSensor(
            task_id="gone",
            devices=removal.output,
            query_id="#all_devices",
            poke_interval=0.01,
            timeout=30,
            deferrable=deferrable,
        )
    assert run_dag(dag).state == "success"
    found = {row["uid"]: row["presence"] for row in rows_of(schema.deletions)}
    assert [found.pop(row["device.uid"]) for row in rows] == ["GONE"] * 5
    assert list(found.values()) == [None]  # not of its list
    (look,) = rows_of(schema.looks)
    assert (look["gone"], look["query_id"]) == (5, "#all_devices")


def test_sensor_of_the_other_kind_of_uid_fails_instead_of_counting_devices_as_gone(
    sandbox: Sandbox, run_dag: RunDag, on_sqlite: None
) -> None:
    rows = [{"device.uid": row["uid"], "name": row["name"]} for row in devices_of(sandbox, 2)]
    with DAG("gone") as dag:
        removal = NexthinkDeleteDevicesOperator(task_id="delete", devices=rows)
        NexthinkDevicesGoneSensor(
            task_id="gone",
            devices=removal.output,
            query_id="#devices_both_uids",
            uid_column="device.collector.uid",
            poke_interval=0.01,
            timeout=30,
        )
    run = run_dag(dag)
    assert run.states["gone"] == "failed"
    assert "deleted by the other kind of uid" in run.error
    assert {row["presence"] for row in rows_of(schema.deletions)} == {None}


@pytest.mark.parametrize("database", LEDGERS, indirect=True)
def test_command_line_takes_the_connections_of_airflow(
    sandbox: Sandbox,
    with_ledger: None,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with NexthinkHook() as hook:
        hook.get_ledger().open()
    fields = json.loads(sandbox.airflow_connection())
    fields["extra"] |= {"ledger_conn_id": "warehouse", "quota_devices": 10, "quota_days": 7}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    assert main(["ledger", "report", "warehouse"]) == 0
    assert "quota" not in capsys.readouterr().out
    assert main(["ledger", "report", "nexthink_default"]) == 0
    assert "10 devices in 7 days: 0 used, 10 left" in capsys.readouterr().out
    assert main(["ledger", "prune", "nexthink_default", "--older-than-days", "400"]) == 0
    assert "0 devices pruned" in capsys.readouterr().out
