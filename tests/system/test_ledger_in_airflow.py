"""The ledger behind a deletion in a real Airflow: what is recorded, and the limits over all runs of a tenant."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkRateLimitError
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from tests.support.dags import Run
from tests.support.ledger_rows import rows_of
from tests.support.ledgers import LEDGERS
from tests.support.store import Store
from tests.support.tries import execute

RunDag = Callable[..., Run]
SetExtras = Callable[..., None]
Devices = list[dict[str, str]]

ON_EACH_DATABASE = pytest.mark.parametrize("database", LEDGERS, indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
ONE_RETRY = {"retries": 1, "retry_delay": timedelta(0)}


@pytest.fixture
def fleet(sandbox: Sandbox) -> Devices:
    """Every device: those that are not stale come last."""
    devices = sorted(sandbox.tenant.devices(), key=lambda device: -device.days_since_last_seen)
    return [{"device.uid": device.uid, "name": device.name} for device in devices]


def delete(run_dag: RunDag, devices: Devices, dag_id: str = "cleanup", **options: Any) -> Run:
    with DAG(dag_id, default_args=ONE_RETRY) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)
    return run_dag(dag)


def column_of(table: Any, *columns: str) -> list[Any]:
    return [tuple(row[column] for column in columns) if columns[1:] else row[columns[0]] for row in rows_of(table)]


def assert_blocked(sandbox: Sandbox, run: Run, message: str, *, sent: int) -> None:
    """Check that a guard has failed the task at once: nothing was sent, and the summary says why."""
    assert (run.state, run.tries("delete")) == ("failed", 1)
    summary = run.xcom("delete", "summary")
    assert (summary["error"]["type"], summary["SCHEDULED"], summary["requests"]) == ("NexthinkGuardError", 0, 0)
    assert message in summary["error"]["message"]
    assert len(sandbox.tenant.queued) == sent


@ON_EACH_DATABASE
def test_deletion_is_recorded_with_who_why_and_within_what(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse", quota_devices=10, quota_days=7)
    rows = [*fleet[:4], {"device.uid": "not-a-uid", "name": "PC"}]
    run = delete(run_dag, rows, reason="CHG-17: retired laptops", exclude=[fleet[3]["device.uid"]], max_growth=2)
    assert run.state == "success"
    table, summary = run.xcom("delete"), run.xcom("delete", "summary")
    (recorded,) = rows_of(schema.runs)
    assert {key: recorded[key] for key in ("dag_id", "dag_run_id", "task_id", "map_index", "try_number")} == {
        "dag_id": "cleanup",
        "dag_run_id": run.dag_run.run_id,
        "task_id": "delete",
        "map_index": -1,
        "try_number": 1,
    }
    assert recorded["triggered_by"] == summary["triggered_by"]
    assert (recorded["reason"], recorded["provider_version"]) == ("CHG-17: retired laptops", __version__)
    assert (recorded["uid_column"], recorded["uid_kind"], recorded["name_column"]) == ("device.uid", "device", "name")
    limits = json.loads(recorded["limits"])
    assert limits == summary["limits"]
    assert (limits["quota_devices"], limits["max_growth"], limits["ledger_conn_id"]) == (10, 2, "warehouse")
    assert (recorded["state"], recorded["error"]) == ("FINISHED", None)
    assert [recorded[key] for key in ("planned", "devices", "charged", "scheduled")] == [3, 3, 3, 3]
    columns = ("uid", "name", "status", "batch", "request_id", "trace_id", "attempts")
    assert column_of(schema.deletions, *columns) == [tuple(row[column] for column in columns) for row in table[:3]]
    submitted = [time.isoformat(timespec="milliseconds") for time in column_of(schema.deletions, "submitted_at")]
    assert submitted == [row["submitted_at"] for row in table[:3]]


@ON_EACH_DATABASE
def test_quota_holds_over_two_dags_and_a_run_in_plain_python(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse", quota_devices=10, quota_days=7)
    assert delete(run_dag, fleet[:4], "weekly").state == "success"
    with NexthinkHook() as hook:
        assert hook.delete_devices(fleet[4:7], reason="by hand").counts["SCHEDULED"] == 3
    run = delete(run_dag, fleet[7:11], "on_demand")
    left = "would delete 4 devices, and 3 are left of the quota of the connection: quota_devices=10 in quota_days=7"
    assert_blocked(sandbox, run, left, sent=7)
    assert "UTC on there is room for it." in run.xcom("delete", "summary")["error"]["message"]
    # A dry run reserves nothing, and is stopped by the same limits.
    assert_blocked(sandbox, delete(run_dag, fleet[7:11], "on_demand", dry_run=True), left, sent=7)
    planned = delete(run_dag, fleet[7:10], "on_demand", dry_run=True)
    assert planned.xcom("delete", "summary")["PLANNED"] == 3
    assert delete(run_dag, fleet[7:10], "on_demand").xcom("delete", "summary")["SCHEDULED"] == 3
    assert column_of(schema.runs, "dag_id", "state", "charged", "planned") == [
        ("weekly", "FINISHED", 4, 4),
        (None, "FINISHED", 3, 3),
        ("on_demand", "BLOCKED", 0, 4),
        ("on_demand", "FINISHED", 3, 3),
    ]
    assert left in rows_of(schema.runs)[2]["error"]
    assert len(rows_of(schema.deletions)) == len(sandbox.tenant.queued) == 10


@ON_EACH_DATABASE
def test_quota_counts_each_device_of_a_retried_and_of_a_mapped_task_once(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse", quota_devices=19, quota_days=7)
    sandbox.faults.add(
        Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "1800"}, skip=1, times=1)
    )
    run = delete(run_dag, fleet[:10], batch_size=4, max_concurrency=1)
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert len(sandbox.tenant.queued) == 10
    assert sum(column_of(schema.runs, "charged")) == 10
    with DAG("mapped", default_args=ONE_RETRY) as dag:
        NexthinkDeleteDevicesOperator.partial(task_id="delete").expand(
            devices=[fleet[10:13], fleet[13:16], fleet[16:19]]
        )
    mapped = run_dag(dag)
    assert mapped.state == "success"
    assert sorted(column_of(schema.runs, "map_index", "charged"))[-3:] == [(0, 3), (1, 3), (2, 3)]
    assert sum(column_of(schema.runs, "charged")) == len(sandbox.tenant.queued) == 19
    assert_blocked(sandbox, delete(run_dag, fleet[19:20]), "1 devices, and 0 are left", sent=19)


@ON_SQLITE
@pytest.mark.parametrize("has_store", [True, False])
def test_cleared_task_counts_each_device_once(
    sandbox: Sandbox, set_extras: SetExtras, fleet: Devices, database: str, has_store: bool
) -> None:
    from tests.support.store import Store

    set_extras(ledger_conn_id="warehouse", quota_devices=10, quota_days=7)
    store = Store() if has_store else None
    for try_number, max_tries in ((1, 0), (2, 1), (3, 2)):  # cleared twice
        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[:10])
        ti = execute(operator, store, try_number, max_tries, run_id="run-1")
        assert "raised" not in ti.xcoms
        assert ti.xcoms["summary"]["SCHEDULED"] == 10
    assert len(sandbox.tenant.queued) == 30
    assert column_of(schema.runs, "try_number", "charged", "scheduled") == [(1, 0, 10), (2, 0, 10), (3, 10, 10)]
    assert set(column_of(schema.deletions, "status")) == {"SCHEDULED"}


@ON_SQLITE
def test_max_growth_compares_with_the_runs_before(
    sandbox: Sandbox,
    run_dag: RunDag,
    set_extras: SetExtras,
    fleet: Devices,
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_extras(ledger_conn_id="warehouse")
    for number in range(3):
        assert delete(run_dag, fleet[4 * number : 4 * number + 4], max_growth=2).state == "success"
    assert caplog.text.count("max_growth=2 has no effect yet") == 3
    run = delete(run_dag, fleet[12:21], max_growth=2)
    assert_blocked(sandbox, run, "9 devices, more than max_growth=2 allows: the median of the last 3 runs", sent=12)
    assert delete(run_dag, fleet[12:20], max_growth="{{ 2 }}").state == "success"
    assert column_of(schema.runs, "state")[-2:] == ["BLOCKED", "FINISHED"]


@ON_SQLITE
def test_max_growth_adds_up_the_mapped_tasks_of_a_run(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse")

    def run(*lists: Devices) -> Run:
        with DAG("mapped") as dag:
            partial = NexthinkDeleteDevicesOperator.partial(task_id="delete", max_growth=1.5)
            partial.expand(devices=list(lists))
        return run_dag(dag)

    for first in (0, 4, 8):
        assert run(fleet[first : first + 2], fleet[first + 2 : first + 4]).state == "success"
    larger = run(fleet[12:15], fleet[15:18], fleet[18:21])
    assert larger.state == "failed"
    (blocked,) = [row for row in rows_of(schema.runs) if row["state"] == "BLOCKED"]
    assert "would delete 9 devices, more than max_growth=1.5 allows" in blocked["error"]
    assert larger.xcom("delete", "summary", blocked["map_index"])["error"]["message"] == blocked["error"]
    assert len(sandbox.tenant.queued) == 18  # 6 of these: as many as 1.5 times the usual 4


@ON_SQLITE
def test_max_growth_counts_what_earlier_tries_have_sent(
    sandbox: Sandbox, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse")

    def run(devices: Devices, run_id: str, store: Store, try_number: int = 1) -> Any:
        operator = NexthinkDeleteDevicesOperator(
            task_id="delete", devices=devices, batch_size=2, max_concurrency=1, max_growth=2
        )
        return execute(operator, store, try_number, max_tries=9, run_id=run_id).xcoms.get("raised")

    for number in range(3):
        assert run(fleet[4 * number : 4 * number + 4], f"run-{number}", Store()) is None
    store = Store()
    for try_number in (1, 2, 3):  # each with another list: two devices are sent, then the tenant asks to wait
        sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "1800"}, skip=1))
        first = 10 + 10 * try_number
        assert isinstance(run(fleet[first : first + 4], "run-3", store, try_number), NexthinkRateLimitError)
    sandbox.faults.clear()
    error = run(fleet[50:53], "run-3", store, 4)
    assert isinstance(error.__cause__, NexthinkGuardError)
    assert "would delete 9 devices, more than max_growth=2 allows" in str(error)
    assert run(fleet[50:52], "run-3", store, 5) is None
    assert len(sandbox.tenant.queued) == 12 + 8  # twice the usual four


@ON_SQLITE
def test_require_proof_lets_a_few_devices_pass_until_one_has_been_seen_to_go(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse", require_proof=True)
    run = delete(run_dag, fleet[:6])
    assert_blocked(sandbox, run, "no device that was deleted by the uid of device.uid has been seen to go", sent=0)
    with DAG("canary") as dag:
        canary = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[-1:], fleet_query_id="#all_devices")
        NexthinkDevicesGoneSensor(task_id="gone", devices=canary.output, query_id="#all_devices", poke_interval=0.01)
    assert run_dag(dag).state == "success"
    assert column_of(schema.proofs, "uid_kind", "strength", "uid") == [("device", "strong", fleet[-1]["device.uid"])]
    assert delete(run_dag, fleet[:6]).state == "success"
    assert len(sandbox.tenant.queued) == 7


@ON_SQLITE
def test_run_that_sends_nothing_is_not_in_the_way_of_the_ledger(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse", quota_devices=1, quota_days=1)
    run = delete(run_dag, [])
    assert run.state == "success"
    assert run.xcom("delete", "summary")["requested"] == 0
    assert rows_of(schema.runs) == []


@ON_SQLITE
def test_guard_of_the_task_is_recorded_as_blocked(
    sandbox: Sandbox, run_dag: RunDag, set_extras: SetExtras, fleet: Devices, database: str
) -> None:
    set_extras(ledger_conn_id="warehouse")
    run = delete(run_dag, fleet[:3], max_devices=2, reason="CHG-18")
    assert_blocked(sandbox, run, "max_devices=2", sent=0)
    assert column_of(schema.runs, "state", "planned", "charged", "reason") == [("BLOCKED", 3, 0, "CHG-18")]
    assert "max_devices=2" in rows_of(schema.runs)[0]["error"]
    assert rows_of(schema.deletions) == []
