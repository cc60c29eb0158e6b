"""The example Dags, each end to end: real Airflow, real HTTP, real databases; rendered natively and as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseHook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.fleet import Device
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, DagSerialization, Run, meant_to_go
from tests.support.services import DATABASES

RunDag = Callable[..., Run]
ExampleDag = Callable[[str], DAG]

NEVER_REMOVED = 3


BOTH_WAYS = pytest.mark.parametrize("dag_of", [False, True], ids=["as text", "natively"], indirect=True)
"""Once with templates rendered as text, as in each Dag, and once natively, as whoever copies one may want it."""


@pytest.fixture
def dag_of(request: pytest.FixtureRequest, example_dag: ExampleDag) -> ExampleDag:
    """Return what loads an example Dag; retries come at once."""

    def load(dag_id: str) -> DAG:
        dag = example_dag(dag_id)
        dag.render_template_as_native_obj = getattr(request, "param", dag.render_template_as_native_obj)
        for each in dag.tasks:
            each.retry_delay = timedelta(0)
        return dag

    return load


def text_of(devices: list[Device], separator: str = ",") -> str:
    """Write devices as a spreadsheet pastes them."""
    return "\r\n".join(["Device UID\tName".replace("\t", separator)] + [f"{d.uid}{separator}{d.name}" for d in devices])


def plain(devices: list[Device]) -> list[Device]:
    """Leave out names that cannot be pasted without quotes."""
    return [device for device in devices if not set(device.name) & set(',;"\t') and device.name == device.name.strip()]


# By hand


@BOTH_WAYS
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_on_demand_with_pasted_devices(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, separator: str) -> None:
    devices = plain(sandbox.tenant.devices())[:50]
    run = run_dag(
        dag_of("nexthink_delete_on_demand"),
        devices_text=text_of(devices, separator),
        dry_run=False,
        reason="TICKET-17",
    )
    assert run.state == "success"
    assert sandbox.tenant.queued == [device.uid for device in devices]
    assert [row["name"] for row in run.xcom("delete_devices")] == [device.name for device in devices]
    assert run.xcom("report")["reason"] == "TICKET-17"
    assert run.xcom("report")["SCHEDULED"] == 50


@BOTH_WAYS
def test_on_demand_with_a_table_of_odd_names(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    devices = sandbox.tenant.devices()[:100]
    table = [{"uid": device.uid, "name": device.name} for device in devices]
    run = run_dag(dag_of("nexthink_delete_on_demand"), devices_table=table)
    assert run.state == "success"
    assert [(row["uid"], row["name"], row["status"]) for row in run.xcom("delete_devices")] == [
        (device.uid, device.name, "PLANNED") for device in devices
    ]
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({}, "The form has no devices: paste some, or fill in the table. Nothing was deleted."),
        ({"devices_text": None, "devices_table": None}, "The form has no devices"),
        ({"devices_text": " \n "}, "The form has no devices"),
        ({"devices_text": "uid,name\n1,a", "devices_table": [{"uid": "1", "name": "a"}]}, "leave one of the two empty"),
        ({"devices_text": "uid,name\n1,a", "dry_run": False, "reason": " "}, "The form has no reason"),
        ({"devices_text": "uid,name"}, "The form has one line of devices: the first line must be a header"),
        ({"devices_text": "/etc/devices.csv"}, "The form has one line of devices"),
        ({"devices_text": "s3://aws_default@bucket/devices.csv"}, "The form has one line of devices"),
        ({"devices_text": "uid,name\n"}, "The form has one line of devices"),
        ({"devices_table": [{"name": "PC"}]}, "no column for the uid"),
    ],
)
def test_on_demand_refused_list_explains_why(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, form: dict[str, Any], says: str
) -> None:
    run = run_dag(dag_of("nexthink_delete_on_demand"), **form)
    assert run.states == {"delete_devices": "failed", "report": "success"}
    assert (run.state, run.tries("delete_devices")) == ("failed", 1)
    assert says in run.error
    assert [request for request in sandbox.requests if "deletions" in request.path] == []


def test_on_demand_over_its_limit_sends_nothing(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    table = [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:11]]
    run = run_dag(dag_of("nexthink_delete_on_demand"), devices_table=table, max_devices=10, dry_run=False, reason="x")
    assert run.state == "failed"
    assert "11 devices, more than max_devices=10" in run.error
    assert sandbox.tenant.queued == []


UID = "0fbd5a5c-0000-4000-8000-000000000001"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("header", "row", "line_end"),
    [
        ("uid,name", f"{UID},PC-1  ", ""),
        ("uid,name", f"{UID},PC-1  ", "\r\n\r\n"),
        ("name,uid", f"  PC-1  ,{UID} ", "\n"),
        ("uid\tname\tcomment", f"{UID}\tPC-1  \t", ""),
        ("\tuid\tname", f"\t{UID}\tPC-1 \u00a0", "\n"),
        (" uid;name", f"{UID};PC-1\u3000", "\r\n\r\n"),
    ],
)
def test_on_demand_pasted_blanks_and_empty_cells_at_either_end_arrive(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, header: str, row: str, line_end: str
) -> None:
    run = run_dag(dag_of("nexthink_delete_on_demand"), devices_text=f"\n{header}\r\n{row}{line_end}")
    assert run.state == "success"
    (planned,) = run.xcom("delete_devices")
    assert (planned["uid"], planned["status"]) == (UID, "PLANNED")
    assert planned["name"] in row
    assert planned["name"].strip() == "PC-1"
    assert len(planned["name"]) > len("PC-1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(
            st.characters(exclude_characters='\r\n,;\t"', exclude_categories=["Cs"]) | st.sampled_from(" \u00a0\u2003"),
            min_size=1,
        ),
        min_size=1,
    ),
    ending=st.sampled_from(["", "\n", "\r\n"]),
)
def test_on_demand_pasted_names_arrive_to_the_letter(example_dag: ExampleDag, names: list[str], ending: str) -> None:
    delete: Any = example_dag("nexthink_delete_on_demand").get_task("delete_devices")
    text = "uid,name\n" + "\n".join(f"{UID},{name}" for name in names) + ending
    form = {"devices_text": text, "devices_table": [], "reason": "", "dry_run": True}
    assert read_devices(delete.python_callable(params=form)).names == names


def test_on_demand_without_a_summary_says_that_the_sent_devices_are_unknown(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, caplog: pytest.LogCaptureFixture
) -> None:
    dag = dag_of("nexthink_delete_on_demand")
    delete: Any = dag.get_task("delete_devices")
    delete.do_xcom_push = False
    run = run_dag(dag, devices_text=text_of(sandbox.tenant.devices()[:1]), dry_run=False, reason="TICKET-17")
    assert len(sandbox.tenant.queued) == 1
    assert run.xcom("report")["reason"] == "TICKET-17"
    assert "what was sent is not known here. See the log of delete_devices" in caplog.text
    assert "Nothing was" not in caplog.text


# The warehouse decides


ON_EACH_DATABASE = pytest.mark.parametrize("database", DATABASES, indirect=True)


@pytest.fixture
def warehouse(sandbox: Sandbox, database: str) -> dict[str, str]:
    """A CMDB; returns the retired hostnames that Nexthink still has, and that are to go."""
    stale = [d for d in sandbox.tenant.devices() if d.days_since_last_seen >= 90 and d.name.startswith("LAPTOP-")]
    fresh = next(d for d in sandbox.tenant.devices() if d.days_since_last_seen < 14)
    gone, both, ambiguous, in_use, accent = stale[:20], stale[20], stale[21], stale[22], stale[23]
    sandbox.tenant.rename(accent.uid, "Müller-PC")
    assets: list[tuple[str | None, str | None]] = [(device.name.lower(), "retired") for device in gone]
    assets += [(device.name, "retired") for device in (both, ambiguous, fresh)]
    assets += [(f"{both.name.lower()} ", "in use"), (ambiguous.name, None), (in_use.name, "in use"), (accent.name, "x")]
    assets += [("MULLER-PC", "retired"), ("not-in-nexthink", "retired"), (None, "retired"), ("", "retired")]
    fill_cmdb(assets)
    return {device.uid: device.name for device in gone}


def fill_cmdb(assets: list[tuple[str | None, str | None]]) -> None:
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("CREATE TABLE cmdb_assets (hostname VARCHAR(100), status VARCHAR(20))")
    hook.insert_rows("cmdb_assets", assets, ["hostname", "status"])


@BOTH_WAYS
@ON_EACH_DATABASE
def test_retired_assets_that_nexthink_still_has_are_deleted(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, warehouse: dict[str, str]
) -> None:
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert run.state == "success"
    assert run.xcom("load_inventory") == 600
    assert {row["uid"]: row["name"] for row in run.xcom("delete_devices")} == warehouse
    assert sorted(sandbox.tenant.queued) == sorted(warehouse)
    again = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert again.xcom("load_inventory") == 580
    assert again.xcom("delete_devices") == []


def pull_gives(sandbox: Sandbox, changed: Mapping[str, tuple[str, str]]) -> None:
    """Let the pull give these names and ages, by uid, and for the rest the fleet as it is."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("device.uid", "device.name", "device.days_since_last_seen"))
    for each in sandbox.tenant.devices():
        writer.writerow((each.uid, *changed.get(each.uid, (each.name, each.days_since_last_seen))))
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=text.getvalue(), times=-1))


def retire(sandbox: Sandbox, changed: list[tuple[str, str]], hostnames: list[str]) -> list[str]:
    """Put names and ages in the place of those of as many devices; their hostnames are retired. Return the uids."""
    uids = [device.uid for device in sandbox.tenant.devices()[: len(changed)]]
    pull_gives(sandbox, dict(zip(uids, changed, strict=True)))
    fill_cmdb([(hostname, "retired") for hostname in hostnames])
    return uids


@ON_EACH_DATABASE
def test_retired_names_that_cannot_be_compared_stay_and_stop_no_other(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str
) -> None:
    fit = ["X-1", "X-" + "2" * 253, "Größe-3", "O'X-4", "X;--5", "X%s_-6", 'X"-7', "日本-8", "X-\U0001f600", "X 10"]
    odd = ["Y-1 ", " Y-2", "Y-3\u00a0", "Y-4\t", "Y-" + "5" * 254, "Y-\u200b6", "Y-7\x07", "\ufeffY-8", "Y\n-9"]
    uids = retire(
        sandbox, [(name, "100") for name in fit + odd], [*fit[:1], *fit[2:], *(name.strip() for name in odd[:4])]
    )
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("DROP TABLE cmdb_assets")
    hook.run("CREATE TABLE cmdb_assets (hostname VARCHAR(300), status VARCHAR(20))")
    # The odd ones in each way in which a CMDB may have them.
    visible = ["".join(char for char in name if char.isprintable()).strip() for name in odd]
    hook.insert_rows("cmdb_assets", [(name, "retired") for name in {*fit, *odd, *visible}], ["hostname", "status"])
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert run.state == "success"
    assert run.tries("load_inventory") == 1
    assert run.xcom("load_inventory") == 600
    assert {row["uid"]: row["name"] for row in run.xcom("delete_devices")} == dict(zip(uids, fit, strict=False))
    assert sorted(sandbox.tenant.queued) == sorted(uids[: len(fit)])


@ON_EACH_DATABASE
def test_retired_of_unknown_age_stay_and_stop_no_other(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str
) -> None:
    old = ["14", "14.0", "100", "14.9", " 20 ", "1e3"]
    others = [
        "13.9",
        "0",
        "",
        "N/A",
        "-20",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "999999",
    ]
    names = [f"X-{at}" for at in range(len(old + others))]
    uids = retire(sandbox, list(zip(names, old + others, strict=True)), names)
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert run.state == "success"
    assert run.tries("load_inventory") == 1
    assert sorted(sandbox.tenant.queued) == sorted(uids[: len(old)])


@ON_EACH_DATABASE
def test_retired_is_a_status_to_the_letter_on_each_database(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str
) -> None:
    statuses = ["retired", "Retired", "RETIRED", "retired ", " retired", "retiredretired", "rétired", "", None]
    names = [f"X-{at}" for at in range(2 * len(statuses) + 1)]
    uids = retire(sandbox, [(name, "100") for name in names], [])
    rows = [*zip(names, statuses, strict=False)]
    # Each of them besides one that is retired for certain, too.
    again = names[len(statuses) : -1]
    rows += [(name, "retired") for name in again] + [*zip(again, statuses, strict=True)]
    rows += [(names[-1].lower() + "  ", "retired")]
    hook: Any = BaseHook.get_hook("warehouse")
    hook.insert_rows("cmdb_assets", rows, ["hostname", "status"])
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert run.state == "success"
    assert sorted(sandbox.tenant.queued) == sorted([uids[0], uids[len(statuses)], uids[-1]])


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_retired_in_a_warehouse_that_changes_names_sends_nothing(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str
) -> None:
    names = ["X-\U0001f600", "X-1"]
    retire(sandbox, [(name, "100") for name in names], [*names, "X-?"])
    hook: Any = BaseHook.get_hook("warehouse")
    hook.run("CREATE TABLE nexthink_devices (uid VARCHAR(36), name VARCHAR(255), days_unseen INTEGER)")
    # As a MySQL does that is not strict and has latin1.
    change = "UPDATE nexthink_devices SET name = REPLACE(name, '\U0001f600', '?') WHERE rowid = NEW.rowid"
    hook.run(f"CREATE TRIGGER latin1 AFTER INSERT ON nexthink_devices BEGIN {change}; END", split_statements=False)
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert (run.state, run.tries("load_inventory")) == ("failed", 1)
    assert sandbox.tenant.queued == []
    assert "The warehouse has changed" in run.error
    assert "utf8mb4" in run.error


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("header", ["uid,name,age", "device.uid,device.name"])
def test_retired_without_a_column_fails_at_once(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str, header: str
) -> None:
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=f"{header}\n", times=-1))
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False)
    assert (run.state, run.tries("load_inventory")) == ("failed", 1)
    assert "#all_devices does not list" in run.error
    assert "device.days_since_last_seen" in run.error


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_retired_everything_is_aborted(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, database: str) -> None:
    fill_cmdb([(device.name, "retired") for device in sandbox.tenant.devices()])
    run = run_dag(dag_of("nexthink_delete_retired_assets"), dry_run=False, max_devices=1000)
    assert run.state == "failed"
    assert "more than max_share=0.1" in run.error
    assert sandbox.tenant.queued == []


# With approval: the rest of it is in test_approval.py, where a person responds


@BOTH_WAYS
def test_approval_device_seen_since_the_plan_stays(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    dag = dag_of("nexthink_delete_with_approval")
    expected = meant_to_go(sandbox.tenant.devices(), 90)
    back = sorted(uid for uid in expected)[:5]
    dag.get_task("delete_devices").on_execute_callback = [lambda _: sandbox.tenant.mark_seen(back)]
    run = run_dag(dag, mark_success="approve", max_share=1)
    assert run.state == "success"
    planned = {row["uid"] for row in run.xcom("plan") if row["status"] == "PLANNED"}
    assert set(back) < planned
    assert set(sandbox.tenant.queued) == planned - set(back)
    assert run.xcom("delete_devices", "summary")["SCHEDULED"] == len(planned) - 5


def test_approval_without_stale_devices_asks_nobody(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    run = run_dag(dag_of("nexthink_delete_with_approval"), min_days_unseen=10_000)
    assert run.state == "success"
    assert run.states["describe_plan"] == run.states["approve"] == run.states["delete_devices"] == "skipped"
    assert sandbox.tenant.queued == []


def test_approval_does_not_ask_for_excluded_devices(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    dag = dag_of("nexthink_delete_with_approval")
    for task_id in ("plan", "delete_devices"):
        each: Any = dag.get_task(task_id)
        each.exclude = ["*"]
    run = run_dag(dag)
    assert run.states["plan"] == "success"
    assert run.states["approve"] == run.states["delete_devices"] == "skipped"


def test_approval_shows_devices_whose_uid_has_another_form(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    devices = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]
    shouting = "device.uid,device.name,device.days_since_last_seen\n" + "".join(
        f"{device.uid.upper()},PC-{at},{device.days_since_last_seen}\n" for at, device in enumerate(devices[:3])
    )
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=shouting, times=-1))
    run = run_dag(dag_of("nexthink_delete_with_approval"), mark_success="approve", max_share=1)
    body = run.xcom("describe_plan")
    assert "**3 devices would be deleted" in body
    assert "  PC-2\n" in body
    assert sorted(sandbox.tenant.queued) == sorted(device.uid for device in devices[:3])


@BOTH_WAYS
def test_approval_text_has_tenant_share_ages_reasons_names_and_a_link(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    run = run_dag(dag_of("nexthink_delete_with_approval"), mark_success="approve", max_share=0.5)
    body = run.xcom("describe_plan")
    table = run.xcom("plan")
    planned = [row for row in table if row["status"] == "PLANNED"]
    rows = {row["device.uid"]: row for row in run.xcom("choose_devices")}
    ages = sorted((int(rows[row["uid"]]["device.days_since_last_seen"]) for row in planned), reverse=True)
    share = f"{len(planned) / 6:.1f} % of the 600 devices in the fleet"
    assert f"**{len(planned)} devices would be deleted from sandbox**, {share}. There is no undo." in body
    assert f"| 365 or more | {sum(age >= 365 for age in ages)} |" in body
    excluded = sum(row["reason"] == "excluded by 'SRV-*'" for row in table)
    assert f"{excluded:>5}  EXCLUDED: excluded by 'SRV-*'\n" in body
    names = body.rpartition("```text\n")[2].partition("\n```")[0].splitlines()
    assert [int(line[:5]) for line in names] == ages[:20]
    assert "](plugin/nexthink-deletions?dag_id=nexthink_delete_with_approval&run_id=" in body
    assert "&task_id=plan&map_index=-1)" in body


def test_approval_of_too_large_a_share_is_not_asked_for(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    run = run_dag(dag_of("nexthink_delete_with_approval"))
    assert "more than max_share=0.1" in run.error
    assert run.states["approve"] == "upstream_failed"
    assert sandbox.tenant.queued == []


# Delete and verify


@BOTH_WAYS
def test_verify_reports_freed_seats_and_retries_present_devices(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    dag_id = "nexthink_delete_and_verify"
    expected = meant_to_go(sandbox.tenant.devices(), 90)
    stuck = set(sorted(expected)[:NEVER_REMOVED])
    sandbox.tenant.never_removed |= stuck

    def run(stuck_until_the_wait: bool = False) -> Run:
        dag = dag_of(dag_id)
        sensor: Any = dag.get_task("wait_until_gone")
        sensor.poke_interval, sensor.timeout = 0.2, 1.5
        if stuck_until_the_wait:
            sensor.on_execute_callback = [lambda _: sandbox.tenant.never_removed.clear()]
        return run_dag(dag, dry_run=False)

    first = run()
    assert first.state == "success"
    assert first.states["wait_until_gone"] == "skipped"
    freed = first.xcom("delete_devices", "summary")["SCHEDULED"] - NEVER_REMOVED
    assert first.xcom("report") == {"seats_freed": freed, "still_present": NEVER_REMOVED}
    assert {row["uid"] for row in first.xcom("report", "still_present")} == stuck
    assert events_of("nexthink_seats_freed")[-1] == {"seats_freed": freed, "still_present": NEVER_REMOVED}

    second = run()
    left = [row["uid"] for row in first.xcom("report", "still_present")]
    assert [row["uid"] for row in second.xcom("delete_devices")][:NEVER_REMOVED] == left
    became = {row["uid"]: row["status"] for row in second.xcom("wait_until_gone")}
    assert {became[uid] for uid in left} == {"STILL_PRESENT"}
    # What is excluded keeps that word: nobody waits for it, and it frees no seat.
    assert set(became.values()) == {"STILL_PRESENT", "GONE", "EXCLUDED"}
    third = run(stuck_until_the_wait=True)
    assert third.states["wait_until_gone"] == "success"
    assert third.xcom("report") == {"seats_freed": NEVER_REMOVED, "still_present": 0}
    assert run().xcom("report") == {"seats_freed": 0, "still_present": 0}


def test_verify_follows_up_scheduled_devices_although_others_failed(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=403, skip=1, times=-1))
    dag = dag_of("nexthink_delete_and_verify")
    delete: Any = dag.get_task("delete_devices")
    delete.max_concurrency = 1
    run = run_dag(dag, dry_run=False)
    assert run.state == "failed"
    assert run.states["delete_devices"] == "failed"
    assert run.states["wait_until_gone"] == run.states["report"] == "success"
    assert run.xcom("delete_devices", "summary")["SCHEDULED"] == 100
    assert run.xcom("report") == {"seats_freed": 100, "still_present": 0}


def test_verify_without_an_outcome_fails_and_reports_nothing(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    before = len(events_of("nexthink_seats_freed"))
    run = run_dag(dag_of("nexthink_delete_and_verify"), dry_run=False, max_devices=1)
    assert run.state == "failed"
    assert run.states["delete_devices"] == run.states["wait_until_gone"] == run.states["report"] == "failed"
    assert [run.tries(task_id) for task_id in ("delete_devices", "wait_until_gone", "report")] == [1, 1, 1]
    assert "what was sent is not known here: see the logs of delete_devices and wait_until_gone" in str(run.errors[-1])
    assert len(events_of("nexthink_seats_freed")) == before
    assert sandbox.tenant.queued == []


def test_verify_does_not_retry_a_remaining_device_of_unknown_age(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    stale = [device for device in sandbox.tenant.devices() if device.name.startswith("LAPTOP-")]
    stuck = [device for device in stale if device.days_since_last_seen >= 90][:2]
    sandbox.tenant.never_removed |= {device.uid for device in stuck}
    dag = dag_of("nexthink_delete_and_verify")
    sensor: Any = dag.get_task("wait_until_gone")
    sensor.poke_interval, sensor.timeout = 0.2, 0.5
    first = run_dag(dag, dry_run=False)
    assert {row["uid"] for row in first.xcom("report", "still_present")} == {device.uid for device in stuck}
    # The saved query has been changed since, and lists everything.
    sent = len(sandbox.tenant.queued)
    rows = [("5", stuck[0]), ("", stuck[1])]
    sandbox.faults.add(
        Fault(
            path="storage",
            kind="status",
            status=200,
            body="device.uid,device.name,device.days_since_last_seen\n"
            + "".join(f"{device.uid},{device.name},{days}\n" for days, device in rows),
            times=1,
        )
    )
    second = run_dag(dag_of("nexthink_delete_and_verify"), dry_run=False)
    assert second.xcom("delete_devices") == []
    assert len(sandbox.tenant.queued) == sent


@pytest.fixture
def verify(example_dag: ExampleDag, run_dag: RunDag) -> RunDag:
    """Return what runs the Dag with a short wait; ``dry_run=False`` unless it says otherwise."""

    def run(**params: Any) -> Run:
        dag = example_dag("nexthink_delete_and_verify")
        sensor: Any = dag.get_task("wait_until_gone")
        sensor.poke_interval, sensor.timeout = 0.2, 0.5
        return run_dag(dag, **{"dry_run": False, **params})

    return run


@pytest.fixture
def stuck(sandbox: Sandbox) -> list[str]:
    """Two stale devices that are never removed, each the only one of its name, with an age of its own; oldest first."""
    stale = [d for d in sandbox.tenant.devices() if d.days_since_last_seen >= 90 and d.name.startswith("LAPTOP-")]
    last = sorted(stale[-40:], key=lambda device: device.days_since_last_seen)
    younger, older = last[0], last[-1]
    assert older.days_since_last_seen > younger.days_since_last_seen
    sandbox.tenant.never_removed |= {older.uid, younger.uid}
    return [older.uid, younger.uid]


def without_logical_date(run: Run) -> None:
    """Make of a run one that was triggered by hand, without a logical date."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == run.dag_run.id).values(logical_date=None))


def still_present(run: Run) -> list[str]:
    return [row["uid"] for row in run.xcom("report", "still_present")]


def sent_first(run: Run, count: int) -> list[str]:
    return [row["uid"] for row in run.xcom("delete_devices")][:count]


@pytest.mark.parametrize("by_hand", [(0,), (1,)])
def test_verify_starts_with_the_remaining_devices_of_the_last_run_whatever_runs_have_no_logical_date(
    sandbox: Sandbox, verify: RunDag, stuck: list[str], by_hand: tuple[int, ...]
) -> None:
    older, younger = (next(d for d in sandbox.tenant.devices() if d.uid == uid) for uid in stuck)
    first = verify(min_days_unseen=older.days_since_last_seen)
    assert still_present(first) == [older.uid]
    second = verify(min_days_unseen=younger.days_since_last_seen)
    assert sorted(still_present(second)) == sorted(stuck)
    for at in by_hand:
        without_logical_date((first, second)[at])
    third = verify(min_days_unseen=90)
    assert len(third.xcom("delete_devices")) > 10
    assert sorted(sent_first(third, 2)) == sorted(stuck)


@pytest.mark.parametrize("reports", [False, True], ids=["runs without a report", "runs with one"])
def test_verify_keeps_a_remaining_device_over_runs_that_do_not_send_it(
    sandbox: Sandbox, verify: RunDag, stuck: list[str], reports: bool
) -> None:
    names = {device.uid: device.name for device in sandbox.tenant.devices()}
    first = verify(min_days_unseen=90)
    assert sorted(still_present(first)) == sorted(stuck)
    if reports:
        # Refused.
        sandbox.faults.add(Fault(path="deletions", kind="status", status=403))
        run = verify()
        assert {row["status"] for row in run.xcom("delete_devices")} == {"EXCLUDED", "NOT_SENT"}
        assert run.xcom("report") == {"seats_freed": 0, "still_present": 2}
        # Of an age that is not known any more.
        header = "device.uid,device.name,device.days_since_last_seen\n"
        body = header + "".join(f"{uid},{names[uid]},\n" for uid in stuck)
        sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=body, times=1))
        run = verify()
        assert run.xcom("delete_devices") == []
        assert sorted(still_present(run)) == sorted(stuck)
    else:
        # Blocked by a guard, planned only, without a list, without a look at all devices.
        assert verify(max_devices=1).state == "failed"
        assert verify(dry_run=True).state == "success"
        sandbox.faults.add(Fault(path="export", kind="status", status=403))
        assert verify().states["delete_devices"] == "upstream_failed"
        sandbox.tenant.export_row_limit = 100
        assert verify().states["report"] == "failed"
        sandbox.tenant.export_row_limit = None
    # Others have become stale since then, and stand behind these.
    last = verify(min_days_unseen=30)
    assert sorted(sent_first(last, 2)) == sorted(stuck)
    assert sorted(still_present(last)) == sorted(stuck)


def test_verify_drops_a_remaining_device_that_was_seen_since(
    sandbox: Sandbox, verify: RunDag, stuck: list[str]
) -> None:
    verify()
    sandbox.tenant.mark_seen(stuck[:1])
    assert still_present(verify()) == stuck[1:]
    sandbox.tenant.never_removed.clear()
    assert still_present(verify()) == []


def test_verify_ignores_events_of_others_and_missing_reports(
    sandbox: Sandbox, verify: RunDag, stuck: list[str]
) -> None:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    verify()
    second = verify()
    with create_session() as session:
        asset_id = session.scalar(select(AssetModel.id).where(AssetModel.name == "nexthink_seats_freed"))
        session.add(AssetEvent(asset_id=asset_id, extra={}))
        where = {"source_dag_id": "another", "source_task_id": "report", "source_run_id": second.dag_run.run_id}
        session.add(AssetEvent(asset_id=asset_id, extra={}, **where))
        session.execute(delete(XComModel).where(XComModel.run_id == second.dag_run.run_id))
    assert sorted(sent_first(verify(), 2)) == sorted(stuck)


@pytest.mark.parametrize("dag_id", ["nexthink_delete_and_verify", "nexthink_delete_stale_devices"])
def test_pull_without_the_age_fails_without_retry(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, dag_id: str
) -> None:
    body = f"device.uid,device.name\n{UID},PC-1\n"
    sandbox.faults.add(Fault(path="storage", kind="status", status=200, body=body, times=-1))
    run = run_dag(dag_of(dag_id), dry_run=False)
    assert run.state == "failed"
    assert run.tries("choose_devices") == 1


def test_verify_dry_run_frees_nothing_and_publishes_nothing(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag
) -> None:
    before = len(events_of("nexthink_seats_freed"))
    run = run_dag(dag_of("nexthink_delete_and_verify"))
    assert run.state == "success"
    assert run.states["report"] == "skipped"
    assert len(events_of("nexthink_seats_freed")) == before
    assert sandbox.tenant.queued == []


def test_verify_truncated_result_frees_no_seat(sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag) -> None:
    sandbox.tenant.export_row_limit = 300  # the stale devices pass, the whole fleet does not
    dag = dag_of("nexthink_delete_and_verify")
    run = run_dag(dag, dry_run=False)
    assert run.state == "failed"
    assert run.states["report"] == "failed"


def events_of(asset: str) -> list[dict[str, Any]]:
    """Return the extras of an asset's events, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return [event.extra for event in session.scalars(query.where(AssetModel.name == asset).order_by(AssetEvent.id))]


# Many tenants


@BOTH_WAYS
def test_many_tenants_return_one_table(
    sandbox: Sandbox, dag_of: ExampleDag, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(devices=300, stale=120, seed=2, removal_delay=0.0, pending_polls=0) as other:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_EMEA", sandbox.airflow_connection())
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_APAC", other.airflow_connection())
        run = run_dag(dag_of("nexthink_delete_many_tenants"), dry_run=False)
        assert run.state == "success"
        table = run.xcom("join_tables")
        for conn_id, tenant in (("nexthink_emea", sandbox), ("nexthink_apac", other)):
            rows = [row for row in table if row["tenant"] == conn_id]
            assert sorted(tenant.tenant.queued) == sorted(row["uid"] for row in rows if row["status"] == "SCHEDULED")
            assert len(tenant.tenant.queued) > 50


def test_many_tenants_failed_tenant_stops_no_other(
    sandbox: Sandbox,
    dag_of: ExampleDag,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Sandbox(devices=50, stale=20, seed=2, pending_polls=0) as refusing:
        refusing.faults.add(Fault(path="export", kind="status", status=403, times=-1))
        monkeypatch.setenv("AIRFLOW_CONN_A", refusing.airflow_connection())
        monkeypatch.setenv("AIRFLOW_CONN_B", sandbox.airflow_connection())
        run = run_dag(dag_of("nexthink_delete_many_tenants"), dry_run=False, tenants=["a", "b", "b"])
        assert run.state == "failed"
        assert "a: no outcome table; what was sent is not known here" in caplog.text
        assert "othing was" not in caplog.text
        table = run.xcom("join_tables")
        assert {row["tenant"] for row in table} == {"b"}
        assert len(table) == len(sandbox.tenant.queued) + sum(row["status"] == "EXCLUDED" for row in table)


@pytest.mark.parametrize("dag_id", sorted(path.stem for path in DAGS.glob("*.py")))
def test_example_dag_reaches_the_scheduler_as_the_dag_processor_sends_it(example_dag: ExampleDag, dag_id: str) -> None:
    """It sends plain text, numbers, lists and mappings only: a subclass of one of them keeps the whole Dag out."""
    import msgspec

    msgspec.msgpack.encode(DagSerialization.to_dict(example_dag(dag_id)))
