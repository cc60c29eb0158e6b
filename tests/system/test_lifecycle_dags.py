"""The Dags with a ledger, end to end and over weeks: the lifecycle, and the canary that goes first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseHook

from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.proof import STRONG, UNPROVEN_DEVICES, record_proof
from airflow_provider_nexthink.sandbox import queries
from airflow_provider_nexthink.sandbox.demo import sandbox_time
from airflow_provider_nexthink.sandbox.fleet import Device
from airflow_provider_nexthink.sandbox.queries import SavedQuery
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, DagBag, Run, meant_to_go
from tests.support.ledger_rows import rows_of
from tests.support.tables import read_table

RunDag = Callable[..., Run]
ExampleDag = Callable[[str], DAG]

WEEKLY, DAILY, CANARY = "nexthink_lifecycle", "nexthink_lifecycle_reconcile", "nexthink_delete_canary_first"


@pytest.fixture
def set_extras(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return what sets extras of the connection, which has a ledger."""
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}))

    def set_them(**extras: Any) -> None:
        fields = json.loads(sandbox.airflow_connection())
        fields["extra"] |= {"ledger_conn_id": "ledger", **extras}
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))

    set_them()
    return set_them


@pytest.fixture(autouse=True)
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A tenant whose clock the Dags go by, with few stale devices: a tenth of the fleet is a limit of the Dag."""
    with (
        Sandbox(devices=1500, stale=120, removal_delay=3600.0, pending_polls=0) as sandbox,
        sandbox_time(sandbox.tenant),
    ):
        yield sandbox


BOTH_WAYS = pytest.mark.parametrize("dag_of", [False, True], ids=["as text", "natively"], indirect=True)
"""Once with templates rendered as text, as in each Dag, and once natively, as whoever copies one may want it."""


@pytest.fixture
def dag_of(request: pytest.FixtureRequest) -> ExampleDag:
    """Return what loads a Dag of the lifecycle."""

    def load(dag_id: str) -> DAG:
        dag = load_dag(dag_id)
        dag.render_template_as_native_obj = getattr(request, "param", dag.render_template_as_native_obj)
        return dag

    return load


def load_dag(dag_id: str, folder: Path = DAGS) -> DAG:
    bag = DagBag(str(folder / f"{CANARY if dag_id == CANARY else WEEKLY}.py"))
    assert bag.import_errors == {}
    dag: DAG = bag.dags[dag_id]
    for each in dag.tasks:
        each.retry_delay = timedelta(0)
    return dag


# The lifecycle


@BOTH_WAYS
def test_lifecycle_over_weeks_deletes_what_stays_stale_and_releases_what_comes_back(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    tenant = sandbox.tenant
    stale = meant_to_go(tenant.devices(), 90)

    first = run_dag(dag_of(WEEKLY), dry_run=False)
    assert set(first.states.values()) == {"success"}
    assert {row["device.uid"] for row in first.xcom("choose_devices")} == stale
    assert first.xcom("quarantine") == first.xcom("delete_devices") == []
    assert first.xcom("quarantine", "summary")["marked"] == len(stale)

    tenant.advance(days=7)
    back = {row["uid"] for row in first.xcom("quarantine", "waiting")[:4]}
    tenant.mark_seen(back)
    second = run_dag(dag_of(WEEKLY), dry_run=False)
    assert second.xcom("quarantine", "summary")["released"] == 4
    assert second.xcom("quarantine") == []
    assert tenant.queued == []

    tenant.advance(days=7, seconds=-600)  # no run starts to the second a week after the one before
    third = run_dag(dag_of(WEEKLY), dry_run=False, reason="CHG-17")
    assert Counter(tenant.queued) == Counter(stale - back)
    assert {row["device.uid"] for row in third.xcom("quarantine")} == stale - back
    summary = third.xcom("delete_devices", "summary")
    assert (summary["SCHEDULED"], summary["reason"]) == (len(stale) - 4, "CHG-17")
    assert summary["limits"]["max_growth"] == 3
    (run,) = rows_of(schema.runs)
    assert (run["dag_id"], run["reason"], run["scheduled"]) == (WEEKLY, "CHG-17", len(stale) - 4)

    tenant.advance(days=1)
    look = run_dag(dag_of(DAILY)).xcom("reconcile")
    assert (look["gone"], look["still_present"], look["net"]) == (len(stale) - 4, 0, len(stale) - 4)

    again, anew = sorted(stale - back)[:2]
    tenant.bring_back([again])
    tenant.set_up_anew([anew])
    tenant.advance(days=6)
    fourth = run_dag(dag_of(WEEKLY), dry_run=False)
    assert fourth.xcom("quarantine", "summary")["deleted"] == len(stale) - 4  # off the list since their deletion
    assert len(tenant.queued) == len(stale) - 4
    look = run_dag(dag_of(DAILY)).xcom("reconcile")
    assert (look["gone"], look["returned"], look["net"]) == (len(stale) - 5, 1, len(stale) - 5)
    assert look["set_up_anew"] >= 1


def test_lifecycle_dry_run_marks_and_plans_only(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    stale = meant_to_go(sandbox.tenant.devices(), 90)
    for _ in range(2):
        run_dag(dag_of(WEEKLY))
        sandbox.tenant.advance(days=7)
    run = run_dag(dag_of(WEEKLY))
    assert run.state == "success"
    table = run.xcom("delete_devices")
    assert {row["uid"] for row in table} == stale
    assert {row["status"] for row in table} == {"PLANNED"}
    assert not [request for request in sandbox.requests if "deletions" in request.path]
    assert rows_of(schema.runs) == []


def test_lifecycle_run_with_another_threshold_releases_nothing(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    stale = meant_to_go(sandbox.tenant.devices(), 90)
    run_dag(dag_of(WEEKLY))
    sandbox.tenant.advance(days=1)
    what_if = run_dag(dag_of(WEEKLY), min_days_unseen=400)
    assert what_if.xcom("quarantine", "summary")["released"] == 0
    sandbox.tenant.advance(days=13)
    run = run_dag(dag_of(WEEKLY))
    assert run.xcom("quarantine", "summary")["list_name"] == f"{WEEKLY}, 90 days unseen"
    assert {row["device.uid"] for row in run.xcom("quarantine")} == stale


@BOTH_WAYS
def test_lifecycle_limits_of_the_form_hold(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    run_dag(dag_of(WEEKLY))
    sandbox.tenant.advance(days=14)
    run = run_dag(dag_of(WEEKLY), dry_run=False, max_share=0.01, max_growth=1.5)
    assert run.state == "failed"
    assert "max_share=0.01" in run.error
    assert sandbox.tenant.queued == []
    limits = run.xcom("delete_devices", "summary")["limits"]
    assert (limits["max_share"], limits["max_growth"]) == (0.01, 1.5)


def test_lifecycle_over_a_limit_of_the_connection_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    set_extras(quota_devices=20, quota_days=7)
    for _ in range(2):
        run_dag(load_dag(WEEKLY), dry_run=False)
        sandbox.tenant.advance(days=7)
    run = run_dag(load_dag(WEEKLY), dry_run=False)
    assert (run.state, run.states["delete_devices"], run.tries("delete_devices")) == ("failed", "failed", 1)
    assert "quota_devices=20 in quota_days=7" in run.error
    assert sandbox.tenant.queued == []
    assert [row["state"] for row in rows_of(schema.runs)] == ["BLOCKED"]


def test_lifecycle_without_a_ledger_says_what_to_set(
    sandbox: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
    run = run_dag(load_dag(WEEKLY), dry_run=False)
    assert (run.state, run.states["quarantine"]) == ("failed", "failed")
    assert "ledger_conn_id" in run.error
    assert sandbox.tenant.queued == []


# The canary


@pytest.fixture
def canary(sandbox: Sandbox) -> Device:
    return next(device for device in sandbox.tenant.devices() if device.days_since_last_seen < 5)


@pytest.fixture
def canary_dag(dag_of: ExampleDag) -> DAG:
    return without_wait(dag_of(CANARY))


def without_wait(dag: DAG) -> DAG:
    """Let the sensor check once, in this process."""
    sensor: Any = dag.get_task("canary_gone")
    sensor.deferrable, sensor.poke_interval, sensor.timeout = False, 0.01, 0.1
    return dag


@BOTH_WAYS
@pytest.mark.parametrize("require_proof", [False, True])
def test_canary_gone_lets_the_rest_go(
    sandbox: Sandbox,
    canary_dag: DAG,
    run_dag: RunDag,
    canary: Device,
    set_extras: Callable[..., None],
    require_proof: bool,
) -> None:
    set_extras(require_proof=require_proof)
    sandbox.tenant.removal_delay = 0.0
    expected = meant_to_go(sandbox.tenant.devices(), 90)
    run = run_dag(canary_dag, canary_uid=canary.uid.upper(), dry_run=False)
    assert run.state == "success"
    assert sandbox.tenant.queued[0] == canary.uid
    assert Counter(sandbox.tenant.queued[1:]) == Counter(expected)
    (proof,) = rows_of(schema.proofs)
    assert (proof["uid"], proof["name"], proof["strength"]) == (canary.uid, canary.name, "strong")
    assert run.xcom("delete_canary", "summary")["reason"] == "First deletion (canary)"


@pytest.mark.parametrize("require_proof", [False, True])
def test_canary_that_stays_keeps_the_rest(
    sandbox: Sandbox, run_dag: RunDag, canary: Device, set_extras: Callable[..., None], require_proof: bool
) -> None:
    set_extras(require_proof=require_proof)
    sandbox.tenant.never_removed.add(canary.uid)
    run = run_dag(without_wait(load_dag(CANARY)), canary_uid=canary.uid, dry_run=False)
    assert (run.state, run.states["canary_gone"], run.states["delete_devices"]) == (
        "failed",
        "failed",
        "upstream_failed",
    )
    assert sandbox.tenant.queued == [canary.uid]
    assert rows_of(schema.proofs) == []


@pytest.mark.parametrize("require_proof", [False, True])
def test_canary_by_the_wrong_kind_of_uid_stays_and_keeps_the_rest(
    sandbox: Sandbox,
    run_dag: RunDag,
    canary: Device,
    set_extras: Callable[..., None],
    require_proof: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    columns = ("device.collector.uid", "device.name", "device.days_since_last_seen")
    monkeypatch.setitem(queries.QUERIES, "#collectors", SavedQuery("devices | list ...", columns))
    text = (DAGS / f"{CANARY}.py").read_text()
    for old, new in {'UID = "device.uid"': 'UID = "device.collector.uid"', '"#all_devices"': '"#collectors"'}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / f"{CANARY}.py").write_text(text)
    set_extras(require_proof=require_proof)
    sandbox.tenant.removal_delay = 0.0
    run = run_dag(without_wait(load_dag(CANARY, tmp_path)), canary_uid=canary.collector_uid, dry_run=False)
    assert run.xcom("delete_canary")[0]["status"] == "SCHEDULED"
    assert (run.states["canary_gone"], run.states["delete_devices"]) == ("failed", "upstream_failed")
    assert sandbox.tenant.queued == [canary.collector_uid]
    assert [device for device in sandbox.tenant.devices() if device.uid == canary.uid]
    assert rows_of(schema.proofs) == []


def test_lifecycle_without_a_proof_waits_for_the_canary(
    sandbox: Sandbox, run_dag: RunDag, canary: Device, set_extras: Callable[..., None]
) -> None:
    set_extras(require_proof=True)
    sandbox.tenant.removal_delay = 0.0
    for _ in range(2):
        run_dag(load_dag(WEEKLY), dry_run=False)
        sandbox.tenant.advance(days=7)
    blocked = run_dag(load_dag(WEEKLY), dry_run=False)
    assert blocked.states["delete_devices"] == "failed"
    assert "nexthink_delete_canary_first" in blocked.error
    assert sandbox.tenant.queued == []
    sandbox.tenant.mark_seen([canary.uid])
    assert run_dag(without_wait(load_dag(CANARY)), canary_uid=canary.uid, dry_run=False, max_devices=1).error
    assert sandbox.tenant.queued == [canary.uid]
    sandbox.tenant.advance(days=7)
    assert run_dag(load_dag(WEEKLY), dry_run=False).state == "success"
    assert len(sandbox.tenant.queued) > 50


@pytest.mark.parametrize("require_proof", [False, True])
def test_canary_dry_run_plans_both(
    sandbox: Sandbox,
    canary_dag: DAG,
    run_dag: RunDag,
    canary: Device,
    set_extras: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    require_proof: bool,
) -> None:
    set_extras(require_proof=require_proof)
    expected = meant_to_go(sandbox.tenant.devices(), 90)
    run = run_dag(canary_dag, canary_uid=canary.uid)
    assert run.state == "success"
    assert [(row["uid"], row["status"]) for row in run.xcom("delete_canary")] == [(canary.uid, "PLANNED")]
    rest = {row["uid"]: row["status"] for row in run.xcom("delete_devices")}
    assert {uid for uid, status in rest.items() if status == "PLANNED"} == expected
    assert set(rest.values()) == {"PLANNED", "EXCLUDED"}
    assert ("This is a dry run. For real: " in caplog.text) == require_proof
    assert sandbox.tenant.queued == []


def test_canary_that_is_stale_or_unknown_fails_before_a_request(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    stale = next(device for device in sandbox.tenant.devices() if device.days_since_last_seen > 90)
    for uid, says in (
        (stale.uid, "was not seen for 30 days"),
        ("0fbd5a5c-0000-4000-8000-000000000001", "0 of the 1500 devices have the device.uid"),
    ):
        run = run_dag(without_wait(load_dag(CANARY)), canary_uid=uid, dry_run=False)
        assert run.state == "failed"
        assert says in run.error
    assert sandbox.tenant.queued == []


def test_canary_that_is_never_sent_keeps_the_rest(
    sandbox: Sandbox, run_dag: RunDag, canary: Device, set_extras: Callable[..., None]
) -> None:
    set_extras(protected=canary.uid)
    run = run_dag(without_wait(load_dag(CANARY)), canary_uid=canary.uid, dry_run=False)
    assert run.state == "failed"
    assert "The canary is ['EXCLUDED'], not GONE" in run.error
    assert sandbox.tenant.queued == []


# A proof binds every Dag, and all of them send the uid under the name that it has


@pytest.fixture
def proven(sandbox: Sandbox, set_extras: Callable[..., None]) -> None:
    """A connection with ``require_proof``, and a ledger with the proof for ``device.uid``."""
    set_extras(require_proof=True)
    now = sandbox.tenant.now()
    with NexthinkHook() as hook, hook.get_ledger().database.locked() as (connection, _):
        record_proof(
            connection,
            STRONG,
            uid_kind="device",
            uid="0fbd5a5c-0000-4000-8000-000000000001",
            name="PC-1",
            seen_at=now - timedelta(days=2),
            days_unseen=1.0,
            requested_at=now - timedelta(days=2),
            gone_at=now - timedelta(days=1),
        )


@pytest.fixture
def stale_rows(sandbox: Sandbox) -> list[dict[str, str]]:
    """Stale devices, as NQL lists them."""
    stale = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]
    return [{"device.uid": device.uid, "device.name": f"PC-{at}"} for at, device in enumerate(stale[:20])]


def assert_sent_as_device_uid(run: Run, sandbox: Sandbox, count: int) -> None:
    assert run.state == "success"
    assert len(sandbox.tenant.queued) == count > UNPROVEN_DEVICES
    assert {row["uid_kind"] for row in rows_of(schema.runs)} == {"device"}


@pytest.mark.usefixtures("proven")
def test_approval_with_a_proof_sends_the_list(
    sandbox: Sandbox, example_dag: ExampleDag, run_dag: RunDag, stale_rows: list[dict[str, str]]
) -> None:
    run = run_dag(example_dag("nexthink_delete_with_approval"), mark_success="approve")
    assert_sent_as_device_uid(run, sandbox, run.xcom("plan", "summary")["PLANNED"])


@pytest.mark.usefixtures("proven")
def test_delete_and_verify_with_a_proof_sends_the_list_and_what_remained(
    sandbox: Sandbox, example_dag: ExampleDag, run_dag: RunDag
) -> None:
    expected = meant_to_go(sandbox.tenant.devices(), 90)
    for sent in (1, 2):  # nothing is removed: the second run begins with what remained of the first
        dag = example_dag("nexthink_delete_and_verify")
        sensor: Any = dag.get_task("wait_until_gone")
        sensor.deferrable, sensor.poke_interval, sensor.timeout = False, 0.01, 0.1
        run = run_dag(dag, dry_run=False)
        assert_sent_as_device_uid(run, sandbox, sent * len(expected))


@pytest.mark.usefixtures("proven")
def test_at_scale_with_a_proof_sends_the_list(
    sandbox: Sandbox, example_dag: ExampleDag, run_dag: RunDag, stale_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "devices.jsonl"
    path.write_text("\n".join(map(json.dumps, stale_rows)))
    options = {"devices": str(path), "folder": str(tmp_path), "dry_run": False, "chunk_size": 10}
    run = run_dag(example_dag("nexthink_delete_at_scale"), **options)
    assert_sent_as_device_uid(run, sandbox, len(stale_rows))
    assert set(read_table(run.xcom("join"))["status"]) == {"SCHEDULED"}


@pytest.mark.usefixtures("proven")
def test_on_demand_with_a_proof_sends_a_pasted_list_whose_header_says_the_kind(
    sandbox: Sandbox, example_dag: ExampleDag, run_dag: RunDag, stale_rows: list[dict[str, str]]
) -> None:
    def pasted(header: str) -> Run:
        text = "\n".join([header, *(",".join(row.values()) for row in stale_rows)])
        return run_dag(example_dag("nexthink_delete_on_demand"), devices_text=text, reason="CHG-17", dry_run=False)

    assert "no device that was deleted by the uid of this column has been seen to go" in pasted("uid,name").error
    assert sandbox.tenant.queued == []
    run = pasted("device.uid,device.name")
    assert run.state == "success"
    assert len(sandbox.tenant.queued) == len(stale_rows)


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_retired_assets_with_a_proof_sends_the_list(
    sandbox: Sandbox, example_dag: ExampleDag, run_dag: RunDag, database: str
) -> None:
    retired = [device.name for device in sandbox.tenant.devices() if device.name.startswith("LAPTOP-")][-20:]
    warehouse: Any = BaseHook.get_hook("warehouse")
    warehouse.run("CREATE TABLE cmdb_assets (hostname VARCHAR(100), status VARCHAR(20))")
    warehouse.insert_rows("cmdb_assets", [(name, "retired") for name in retired], ["hostname", "status"])
    run = run_dag(example_dag("nexthink_delete_retired_assets"), dry_run=False)
    assert_sent_as_device_uid(run, sandbox, len(run.xcom("delete_devices")))
