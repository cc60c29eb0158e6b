"""The policy on the connection, and who asked why: against a real Airflow and a sandbox tenant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_nexthink.decorators.nexthink_delete_devices import nexthink_delete_devices_task
from airflow_provider_nexthink.deletion.policy import DeletionPolicy
from airflow_provider_nexthink.exceptions import NexthinkPolicyError
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator
from airflow_provider_nexthink.utils import policy_watch
from tests.support.dags import Run

RunDag = Callable[..., Run]
VARIABLE = "AIRFLOW_CONN_NEXTHINK_DEFAULT"


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def delete(run_dag: RunDag, devices: Any, **options: Any) -> Run:
    with DAG("policy", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)
    return run_dag(dag)


def test_operator_summary_says_who_and_why(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("why", params={"ticket": "CHG-17"}) as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=devices_of(sandbox, 2), reason="{{ params.ticket }}: retired laptops "
        )
    run = run_dag(dag)
    summary = run.xcom("delete", "summary")
    assert summary["reason"] == "CHG-17: retired laptops"
    assert summary["triggered_by"] == (run.dag_run.triggering_user_name or "manual")
    assert (summary["dag_id"], summary["dag_run_id"], summary["task_id"]) == ("why", run.dag_run.run_id, "delete")
    assert (summary["map_index"], summary["try_number"]) == (-1, 1)


def test_operator_summary_of_a_try_that_sent_nothing_says_who_and_why(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    set_extras(max_devices=1)
    run = delete(run_dag, devices_of(sandbox, 2), reason="CHG-17")
    assert run.state == "failed"
    assert "max_devices=1 of the connection" in run.error
    summary = run.xcom("delete", "summary")
    assert (summary["reason"], summary["task_id"], summary["error"]["type"]) == (
        "CHG-17",
        "delete",
        "NexthinkGuardError",
    )
    assert summary["limits"]["max_devices_set_by"] == "connection"
    unread = delete(run_dag, [1, 2], reason="CHG-18").xcom("delete", "summary")
    assert (unread["reason"], unread["task_id"], unread["requested"]) == ("CHG-18", "delete", None)
    assert unread["limits"] == summary["limits"]
    assert sandbox.requests == []


def test_operator_reason_that_is_too_long_fails_without_a_request(sandbox: Sandbox, run_dag: RunDag) -> None:
    run = delete(run_dag, devices_of(sandbox, 1), reason="{{ 'x' * 1001 }}")
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "reason has 1001 characters" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_operator_with_deletions_off_fails_without_a_retry_or_a_request(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None], dry_run: bool
) -> None:
    set_extras(deletions="off")
    run = delete(run_dag, devices_of(sandbox, 1), dry_run=dry_run)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "NexthinkPolicyError: Deletions are off" in run.error
    assert sandbox.requests == []


def test_operator_with_dry_run_only_plans(sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]) -> None:
    set_extras(deletions="dry_run_only", protected="KEEP-*")
    devices = [*devices_of(sandbox, 2), {"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "KEEP-1"}]
    run = delete(run_dag, devices)
    assert [row["status"] for row in run.xcom("delete")] == ["PLANNED", "PLANNED", "EXCLUDED"]
    summary = run.xcom("delete", "summary")
    assert (summary["dry_run"], summary["limits"]["dry_run_set_by"]) == (True, "connection")
    assert sandbox.requests == []


def test_hook_with_a_policy_without_effect_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    set_extras(quota_devices=5, quota_days=7)
    with DAG("by_hook") as dag:

        @task
        def by_hook(devices: Any) -> None:
            with NexthinkHook() as hook:
                hook.delete_devices(devices)

        by_hook(devices_of(sandbox, 1))
    run = run_dag(dag)
    assert run.state == "failed"
    assert "quota_devices, which needs a ledger: set the extra ledger_conn_id" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize("as_uri", [False, True])
def test_hook_reads_the_policy_of_a_uri_and_of_json(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    set_extras: Callable[..., None],
    tmp_path: Path,
    as_uri: bool,
) -> None:
    if as_uri:
        address = "nexthink://id:secret@acme/?region=eu&max_devices=5&protected=SRV-%2A%0AVIP-%2A&require_proof=true"
        monkeypatch.setenv(VARIABLE, f"{address}&ledger_conn_id=warehouse")
    else:
        set_extras(max_devices=5, protected=["SRV-*", "VIP-*"], require_proof=True, ledger_conn_id="warehouse")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"sqlite:///{tmp_path / 'ledger.db'}")
    with NexthinkHook() as hook:
        policy = hook.get_conn().policy
    assert (policy.max_devices, policy.protected, policy.require_proof) == (5, ("SRV-*", "VIP-*"), True)


@pytest.mark.parametrize("deletions", ["off", "dry_run_only"])
def test_operator_with_deletions_forbidden_while_it_runs_ends_without_a_retry(
    sandbox: Sandbox,
    run_dag: RunDag,
    set_extras: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    deletions: str,
) -> None:
    monkeypatch.setattr(policy_watch, "LOOK_SECONDS", 0.1)
    sandbox.faults.add(Fault("deletions", "slow", seconds=1.0, times=-1))

    def press() -> None:
        while not sandbox.tenant.queued:
            time.sleep(0.05)
        set_extras(deletions=deletions)

    button = threading.Thread(target=press)
    button.start()
    run = delete(run_dag, devices_of(sandbox, 500), batch_size=5, max_concurrency=1, max_devices=None)
    button.join()
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert f"the connection was set to deletions={deletions} while the run was going" in run.error
    table = run.xcom("delete")
    statuses = [row["status"] for row in table]
    assert statuses.count("SCHEDULED") == len(sandbox.tenant.queued) < 50
    assert statuses.count("SCHEDULED") + statuses.count("NOT_SENT") == 500
    assert table[-1]["reason"] == (
        f"the run ended before its turn: the connection was set to deletions={deletions} while the run was going"
    )
    assert run.xcom("delete", "summary")["error"]["type"] == "NexthinkPolicyError"


def test_hook_reads_the_policy_before_each_deletion(sandbox: Sandbox, set_extras: Callable[..., None]) -> None:
    devices = devices_of(sandbox, 2)
    with NexthinkHook() as hook:
        assert hook.delete_devices(devices[:1]).counts["SCHEDULED"] == 1
        set_extras(deletions="off")
        with pytest.raises(NexthinkPolicyError):
            hook.delete_devices(devices[1:])
    assert sandbox.tenant.queued == [devices[0]["uid"]]


def rendered(run: Run, task_id: str, map_index: int = -1, field: str = "policy") -> Any:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session

    with create_session() as session:
        instance = run.dag_run.get_task_instance(task_id, map_index=map_index, session=session)
        fields = RenderedTaskInstanceFields.get_templated_fields(instance, session=session)
    assert fields is not None
    return fields[field]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_rendered_task_shows_the_policy_of_its_connection(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None], database: str
) -> None:
    set_extras(max_devices=5, protected="KEEP-*")
    devices = devices_of(sandbox, 2)
    with DAG("rendered", params={"conn": "nexthink_default"}) as dag:
        conn: dict[str, Any] = {"nexthink_conn_id": "{{ params.conn }}"}
        NexthinkDeleteDevicesOperator(task_id="plain", devices=devices, **conn)
        NexthinkDeleteDevicesOperator.partial(task_id="mapped", **conn).expand(devices=[devices])
        SqlToNexthinkDeleteDevicesOperator(
            task_id="sql", sql=f"SELECT '{devices[0]['uid']}' AS uid, 'PC' AS name", sql_conn_id="warehouse", **conn
        )

        nexthink_delete_devices_task(task_id="decorated", **conn)(lambda: devices)()
    run = run_dag(dag)
    assert run.state == "success"
    policy = {**DeletionPolicy().as_dict(), "max_devices": 5, "protected": ["KEEP-*"]}
    for task_id, map_index in (("plain", -1), ("mapped", 0), ("sql", -1), ("decorated", -1)):
        assert rendered(run, task_id, map_index) == policy


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
def test_rendered_task_shows_the_exclusions_as_they_are(
    sandbox: Sandbox, run_dag: RunDag, database: str, native: bool
) -> None:
    exclude = ["1e10", "{# no comment", "[1, 2]", "None"]
    names = [*exclude, "1e1", "10000000000.0", ""]
    devices = [{**row, "name": names[at] or row["name"]} for at, row in enumerate(devices_of(sandbox, len(names)))]
    options: dict[str, Any] = {"exclude": exclude, "dry_run": True}
    with DAG("rendered", render_template_as_native_obj=native) as dag:
        NexthinkDeleteDevicesOperator(task_id="plain", devices=devices, **options)
        NexthinkDeleteDevicesOperator.partial(task_id="mapped", **options).expand(devices=[devices])
        NexthinkDeleteDevicesOperator.partial(task_id="each", devices=devices, dry_run=True).expand(exclude=[exclude])
        sql = " UNION ALL ".join(f"SELECT '{row['uid']}' AS uid, '{row['name']}' AS name" for row in devices)
        sql = sql.replace("{#", "{' || '#")  # SQL is a template
        SqlToNexthinkDeleteDevicesOperator(task_id="sql", sql=sql, sql_conn_id="warehouse", **options)
        nexthink_delete_devices_task(task_id="decorated", **options)(lambda: devices)()
    run = run_dag(dag)
    assert run.state == "success"
    for task_id, map_index in (("plain", -1), ("mapped", 0), ("each", 0), ("sql", -1), ("decorated", -1)):
        assert rendered(run, task_id, map_index, "exclude") == exclude
        excluded = {row["name"] for row in run.xcom(task_id, map_index=map_index) if row["status"] == "EXCLUDED"}
        assert excluded == set(exclude)
        assert run.xcom(task_id, "summary", map_index)["limits"]["exclude"] == exclude


def test_rendered_task_shows_a_long_list_of_exclusions_in_short(sandbox: Sandbox, run_dag: RunDag) -> None:
    many = {f"KEEP-{at:03}-*" for at in range(120)}
    run = delete(run_dag, devices_of(sandbox, 1), exclude=many, dry_run=True)
    assert rendered(run, "delete", field="exclude") == [*sorted(many)[:50], "and 70 more"]
    assert rendered(delete(run_dag, [], dry_run=True), "delete", field="exclude") == []


@pytest.mark.parametrize(
    ("conn_id", "shows", "raises"),
    [
        ("nexthink_default", "The extra max_devices of the connection is 'many'", "The extra max_devices"),
        ("no_such_connection", "AirflowNotFoundException", "no_such_connection"),
    ],
)
def test_rendered_task_with_an_unreadable_policy_says_so_and_the_task_fails(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None], conn_id: str, shows: str, raises: str
) -> None:
    set_extras(max_devices="many")
    run = delete(run_dag, devices_of(sandbox, 1), nexthink_conn_id=conn_id)
    assert run.state == "failed"
    assert raises in str(run.errors[-1])
    assert shows in rendered(run, "delete")["not known"]
    assert sandbox.requests == []


def test_connection_test_says_which_policy_holds_and_whether_the_ledger_works(
    sandbox: Sandbox, set_extras: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_extras(deletions="dry_run_only", max_devices=500, ledger_conn_id="warehouse")
    for folder, says in (
        (tmp_path, "works"),
        (tmp_path / "missing", "does not work (The ledger (connection 'warehouse') cannot be "),
    ):
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"sqlite:///{folder / 'ledger.db'}")
        ok, message = NexthinkHook().test_connection()
        assert f"Policy: deletions dry_run_only, at most 500 devices in a run, ledger in warehouse. Ledger: {says}" in (
            message
        )
        assert ok == (says == "works")
        assert message.endswith(". Nothing was deleted.")


def test_connection_test_with_a_policy_without_effect_fails(sandbox: Sandbox, set_extras: Callable[..., None]) -> None:
    set_extras(quota_devices=5)
    ok, message = NexthinkHook().test_connection()
    assert not ok
    assert "quota_devices without quota_days" in message
