"""A protect list through a real Airflow: XComs, a file, rows of a database, a template; in each operator."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG, task

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator
from tests.support.dags import Run

RunDag = Callable[..., Run]
ONE_RETRY = {"retries": 1, "retry_delay": timedelta(0)}


def devices_of(sandbox: Sandbox, count: int = 6) -> list[dict[str, str]]:
    """Devices with odd names, each another one."""
    named = {device.name: {"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()}
    return list(named.values())[:count]


@pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
@pytest.mark.parametrize("form", ["literal", "xcom", "xcoms", "mapped", "frame", "file", "template", "tuples"])
def test_operator_protect_list_keeps_its_devices_from_being_sent(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, form: str, native: bool
) -> None:
    rows = devices_of(sandbox)
    listed: list[dict[str, Any]] = [{"name": rows[1]["name"], "uid": None}, {"uid": rows[3]["uid"], "name": None}]
    pd.DataFrame(listed).to_csv(tmp_path / "vip.csv", index=False)
    with DAG("protect", render_template_as_native_obj=native) as dag:

        @task
        def found(at: int | None = None) -> Any:
            return listed if at is None else [listed[at]]

        @task
        def frame() -> Any:
            return pd.DataFrame(listed)

        protect: dict[str, Callable[[], object]] = {
            "literal": lambda: listed,
            "xcom": lambda: found(),
            "xcoms": lambda: [found(0), found(1)],
            "mapped": lambda: found.expand(at=[0, 1]),
            "frame": lambda: frame(),
            "file": lambda: str(tmp_path / "vip.csv"),
            "template": lambda: "{{ dag_run.conf['listed'] | tojson }}",
            "tuples": lambda: [(rows[1]["name"],), (rows[3]["uid"],)],
        }
        NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, protect=protect[form]())
    run = run_dag(dag, listed=listed)
    assert run.state == "success", run.error
    kept = [at for at, row in enumerate(run.xcom("delete")) if row["status"] == "EXCLUDED"]
    assert kept == [1, 3]
    assert run.xcom("delete")[1]["reason"] == "protected by the protect list"
    assert sandbox.tenant.queued == [row["uid"] for at, row in enumerate(rows) if at not in kept]


@pytest.mark.parametrize("form", ["None", "one of two is None", "template", "empty", "other columns"])
def test_operator_protect_list_that_protects_nothing_fails_without_retry_and_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, form: str
) -> None:
    rows = devices_of(sandbox)
    with DAG("protect", default_args=ONE_RETRY, render_template_as_native_obj=form == "template") as dag:

        @task
        def found(value: Any) -> Any:
            return value

        protect: dict[str, Callable[[], object]] = {
            "None": lambda: found(None),
            "one of two is None": lambda: [found(rows[:1]), found(None)],
            "template": lambda: "{{ dag_run.conf.get('listed') }}",
            "empty": lambda: found([]),
            "other columns": lambda: found([{"serial": "x"}]),
        }
        NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, protect=protect[form]())
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "protect" in run.error
    assert "This try sent nothing" in run.error
    assert run.xcom("delete", key="summary")["error"]["type"] == "NexthinkInputError"
    assert sandbox.requests == []


def test_decorator_protect_list_of_a_task_and_dry_run(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox)
    with DAG("protect", render_template_as_native_obj=True) as dag:

        @task
        def found() -> Any:
            return [rows[0]["name"]]

        @task.nexthink_delete_devices(protect=found(), dry_run=True)
        def delete() -> Any:
            return rows

        @task.nexthink_delete_devices(protect="{{ dag_run.conf['listed'] }}")
        def other() -> Any:
            return rows

        delete() >> other()
    run = run_dag(dag, listed=json.dumps([{"name": row["name"]} for row in rows[1:]]))
    assert run.state == "success", run.error
    assert [row["status"] for row in run.xcom("delete")] == ["EXCLUDED"] + ["PLANNED"] * 5
    assert [row["status"] for row in run.xcom("other")] == ["SCHEDULED"] + ["EXCLUDED"] * 5


def test_sql_transfer_protect_list_is_applied(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = devices_of(sandbox)
    path = tmp_path / "warehouse.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE stale (uid TEXT, name TEXT)")
        database.executemany("INSERT INTO stale VALUES (:uid, :name)", rows)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    with DAG("protect") as dag:
        SqlToNexthinkDeleteDevicesOperator(
            task_id="delete", sql="SELECT * FROM stale", sql_conn_id="warehouse", protect=[rows[2]]
        )
    run = run_dag(dag)
    assert run.state == "success", run.error
    assert sandbox.tenant.queued == [row["uid"] for at, row in enumerate(rows) if at != 2]
