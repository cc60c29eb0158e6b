"""The summary of a deletion that fails: what was asked for, by what limits, and whether anything was sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.status import Status
from tests.support.dags import KEEPS_TASK_STATE, Run
from tests.support.interrupts import TaskTimeout
from tests.support.store import Store
from tests.support.tries import TaskInstance, execute

RunDag = Callable[..., Run]
Devices = list[dict[str, str]]

VARIABLE = "AIRFLOW_CONN_NEXTHINK_DEFAULT"
HALF_AN_HOUR = {"Retry-After": "1800"}
NUMBERS = itertools.count()


@pytest.fixture
def fleet(sandbox: Sandbox) -> Devices:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()]


def connection_of(sandbox: Sandbox, *, without: str | None = None, **change: Any) -> str:
    connection = json.loads(sandbox.airflow_connection())
    connection["extra"] |= change.pop("extra", {})
    connection |= change
    connection.pop(without, None)
    return json.dumps(connection)


def summary_of(run_dag: RunDag, devices: Any, *, native: bool = False, **options: Any) -> dict[str, Any]:
    """Run a deletion that fails in its only try; return its summary."""
    with DAG(f"failures_{next(NUMBERS)}", render_template_as_native_obj=native) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, retries=0, **options)
    run = run_dag(dag)
    assert run.state == "failed"
    summary: dict[str, Any] = run.xcom("delete", "summary")
    return summary


def counts_of(summary: dict[str, Any]) -> dict[str, int]:
    return {status: summary[status] for status in Status if summary[status]}


def test_summary_of_a_run_that_a_guard_stops_has_the_counts_of_the_plan(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    devices = [*fleet[:30], fleet[0], {"uid": "x", "name": "X"}]
    summary = summary_of(run_dag, devices, max_devices=20, exclude=[fleet[1]["uid"]])
    message = summary["error"].pop("message")
    assert summary["error"] == {"type": "NexthinkGuardError", "sent_nothing": True, "planned": 29, "limit": 20}
    assert "max_devices=20" in message
    assert counts_of(summary) == {"NOT_SENT": 29, "EXCLUDED": 1, "DUPLICATE": 1, "INVALID": 1}
    assert (summary["requested"], summary["dry_run"], summary["instance"]) == (32, False, "sandbox")
    assert summary["limits"]["max_devices"] == 20
    assert sandbox.requests == []


def test_summary_of_a_run_that_a_share_of_the_fleet_stops_says_how_many_were_planned(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    summary = summary_of(run_dag, fleet[:31], max_share=0.05, fleet_query_id="#all_devices")
    error, limits = summary["error"], summary["limits"]
    assert (error["type"], error["planned"], error["limit"]) == ("NexthinkGuardError", 31, 30)
    assert (limits["fleet_size"], limits["max_share"]) == (600, 0.05)
    assert error["sent_nothing"]
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize(
    ("failure", "error", "is_instance_known"),
    [
        ("policy off", "NexthinkPolicyError", True),
        ("policy incomplete", "NexthinkPolicyError", True),
        ("no secret", "NexthinkSettingsError", True),
        ("unknown region", "NexthinkSettingsError", True),
        ("no CA bundle", "NexthinkSettingsError", True),
        ("host with a password", "NexthinkSettingsError", False),
        ("no connection", "AirflowNotFoundException", False),
        ("no file", "NexthinkInputError", True),
        ("no list", "NexthinkInputError", True),
        ("column not there", "MissingColumnError", True),
    ],
)
@pytest.mark.parametrize("dry_run", ["{{ 1 > 2 }}", "{{ 1 < 2 }}"])
def test_summary_of_a_run_without_a_plan_says_what_is_known(
    sandbox: Sandbox,
    run_dag: RunDag,
    fleet: Devices,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    error: str,
    is_instance_known: bool,
    dry_run: str,
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "policy off": {"extra": {"deletions": "off", "max_devices": 7}},
        "policy incomplete": {"extra": {"quota_devices": 7}},
        "no secret": {"without": "password"},
        "unknown region": {"extra": {"base_url": "", "region": "mars"}},
        "no CA bundle": {"extra": {"verify": "/nowhere/ca.pem"}},
        "host with a password": {"host": "https://anna:geheim@acme.eu.nexthink.cloud"},
    }
    if failure == "no connection":
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, connection_of(sandbox, **changes.get(failure, {})))
    devices: Any = {"no file": "/nowhere/devices.csv", "no list": [1, 2]}.get(failure, fleet[:3])
    options: dict[str, Any] = {"uid_column": "serial"} if failure == "column not there" else {}
    summary = summary_of(run_dag, devices, dry_run=dry_run, reason="CHG-17", exclude=["VIP-*"], **options)
    assert (summary["error"]["type"], summary["error"]["sent_nothing"]) == (error, True)
    assert "planned" not in summary["error"]
    assert summary["requested"] is None
    assert counts_of(summary) == {}
    assert summary["dry_run"] is (dry_run == "{{ 1 < 2 }}")
    assert summary["reason"] == "CHG-17"
    assert summary["instance"] == ("sandbox" if is_instance_known else None)
    if failure in ("policy incomplete", "no connection"):
        assert summary["limits"] is None
    else:
        assert summary["limits"]["deletions"] == ("off" if failure == "policy off" else "allowed")
        assert summary["limits"]["max_devices"] == (7 if failure == "policy off" else 1000)
        assert summary["limits"]["exclude"] == ["VIP-*"]
    assert "geheim" not in json.dumps(summary)
    assert sandbox.client_secret not in json.dumps(summary)
    assert sandbox.requests == []


def test_summary_of_a_run_without_a_plan_is_a_dry_run_where_the_connection_allows_nothing_else(
    sandbox: Sandbox, run_dag: RunDag, set_extras: Callable[..., None]
) -> None:
    set_extras(deletions="dry_run_only")
    summary = summary_of(run_dag, [1, 2])
    assert (summary["dry_run"], summary["limits"]["dry_run_set_by"]) == (True, "connection")


def test_summary_of_a_run_with_a_wrong_option_says_the_rest(sandbox: Sandbox, run_dag: RunDag, fleet: Devices) -> None:
    summary = summary_of(run_dag, fleet[:3], max_devices="{{ 'many' }}", dry_run="{{ 'maybe' }}")
    assert summary["error"]["sent_nothing"]
    assert (summary["instance"], summary["dry_run"], summary["limits"]) == ("sandbox", None, None)


def test_summary_of_a_run_whose_limit_is_missing_does_not_say_that_there_is_none(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    summary = summary_of(run_dag, fleet[:3], native=True, max_devices="{{ none }}")
    assert "max_devices is a template that gave nothing" in summary["error"]["message"]
    assert (summary["instance"], summary["dry_run"], summary["limits"]) == ("sandbox", False, None)


def test_summary_of_a_run_without_a_token_says_that_nothing_was_sent(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, connection_of(sandbox, password="wrong"))
    summary = summary_of(run_dag, fleet[:3])
    assert summary["error"]["type"] == "NexthinkAuthenticationError"
    assert summary["error"]["sent_nothing"]
    assert counts_of(summary) == {"NOT_SENT": 3}


def test_summary_of_an_empty_list_that_fails_says_that_nothing_was_sent(sandbox: Sandbox, run_dag: RunDag) -> None:
    summary = summary_of(run_dag, [], on_empty="fail")
    assert (summary["requested"], summary["error"]["sent_nothing"]) == (0, True)


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        ({"kind": "status", "status": 403}, 1),
        ({"kind": "status", "status": 429, "headers": HALF_AN_HOUR}, 1),
        ({"kind": "status", "status": 403, "skip": 1}, 2),
    ],
)
def test_summary_of_a_run_that_was_refused_says_that_something_was_sent(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, fault: dict[str, Any], requests: int
) -> None:
    sandbox.faults.add(Fault(path="deletions", **fault))
    summary = summary_of(run_dag, fleet[:150], max_concurrency=1)
    assert summary["requests"] == requests
    assert summary["error"]["sent_nothing"] is False


def operator_of(devices: Any, **options: Any) -> NexthinkDeleteDevicesOperator:
    return NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, max_concurrency=1, **options)


@pytest.mark.parametrize(
    ("first", "sent_nothing"),
    [("no token", True), ("guard", True), ("no list", True), ("refused", False), ("sent", False), ("lost", False)],
)
@pytest.mark.parametrize("second", ["guard", "no list", "no token"])
def test_retry_that_sends_nothing_knows_whether_the_tries_before_did(
    sandbox: Sandbox, fleet: Devices, monkeypatch: pytest.MonkeyPatch, first: str, sent_nothing: bool, second: str
) -> None:
    store = Store()
    for number, failure in ((1, first), (2, second)):
        monkeypatch.setenv(VARIABLE, connection_of(sandbox, **({"password": "no"} if failure == "no token" else {})))
        if failure == "refused":
            sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers=HALF_AN_HOUR))
        elif failure == "sent":
            sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers=HALF_AN_HOUR, skip=1))
        devices: Any = 7 if failure == "no list" else fleet[:120]
        operator = operator_of(devices, max_devices=5 if failure == "guard" else 1000)
        ti = execute(operator, Store() if failure == "lost" else store, number, 2)
    assert ti.xcoms["summary"]["error"]["sent_nothing"] is sent_nothing


@pytest.mark.parametrize("second", ["guard", "no list", "empty"])
def test_retry_after_a_try_that_could_record_nothing_does_not_claim_that_nothing_was_sent(
    sandbox: Sandbox, fleet: Devices, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    store = Store()
    monkeypatch.setenv(VARIABLE, connection_of(sandbox, password="wrong"))
    execute(operator_of(fleet[:120]), store, 1, 3)  # the journal has 120 devices as NOT_SENT
    monkeypatch.setenv(VARIABLE, connection_of(sandbox))
    failing = operator_of(None)

    def store_goes_down(_: Any) -> Devices:
        store.broken = True
        return fleet[:120]

    failing._read_devices = store_goes_down  # type: ignore[method-assign, assignment]
    execute(failing, store, 2, 3)
    assert len(sandbox.tenant.queued) == 120
    store.broken = False
    devices: Any = {"guard": fleet[:120], "no list": 7, "empty": []}[second]
    operator = operator_of(devices, max_devices=5, on_empty="fail")
    assert execute(operator, store, 3, 3).xcoms["summary"]["error"]["sent_nothing"] is False


@pytest.mark.parametrize("store", [None, Store()], ids=["without task state", "with"])
@pytest.mark.parametrize("devices", [7, "guard"])
def test_first_try_with_or_without_task_state_knows_that_nothing_was_sent(
    sandbox: Sandbox, fleet: Devices, store: Store | None, devices: Any
) -> None:
    operator = operator_of(fleet[:9] if devices == "guard" else devices, max_devices=5)
    assert execute(operator, store).xcoms["summary"]["error"]["sent_nothing"] is True


@pytest.mark.parametrize("devices", [7, "guard", "empty"])
def test_retry_without_task_state_does_not_claim_that_nothing_was_sent(
    sandbox: Sandbox, fleet: Devices, devices: Any
) -> None:
    given = {"guard": fleet[:9], "empty": []}.get(devices, devices)
    summary = execute(operator_of(given, max_devices=5, on_empty="fail"), None, 2).xcoms["summary"]
    assert (summary["error"]["sent_nothing"], summary["earlier_tries"]) == (False, None)


def test_cleared_task_that_a_guard_stops_does_not_claim_that_nothing_was_sent(sandbox: Sandbox, fleet: Devices) -> None:
    store = Store()
    assert "error" not in execute(operator_of(fleet[:9]), store, 1, 0).xcoms["summary"]
    summary = execute(operator_of(fleet[:9], max_devices=5), store, 2, 1).xcoms["summary"]
    assert (summary["error"]["type"], summary["error"]["sent_nothing"]) == ("NexthinkGuardError", False)
    assert summary["SCHEDULED"] == 9  # as the table says, which is that of the tries before


@pytest.mark.parametrize("interruption", [TaskTimeout("out of time"), RuntimeError("the database is away")])
def test_summary_of_an_interrupted_run_without_a_plan_leaves_the_error_as_it_is(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    operator = operator_of(None, retries=1, execution_timeout=timedelta(hours=1))

    def interrupt(_: Any) -> Any:
        monkeypatch.setenv(VARIABLE, "{this is no connection")
        raise interruption

    operator._read_devices = interrupt  # type: ignore[method-assign, assignment]
    ti = TaskInstance()
    context: Any = {"ti": ti, "task_state_store": Store()}
    with pytest.raises(type(interruption)) as raised:
        operator.execute(context)
    assert raised.value is interruption
    summary = ti.xcoms["summary"]
    assert (summary["instance"], summary["limits"], summary["dry_run"]) == (None, None, False)
    assert summary["error"] == {
        "type": type(interruption).__name__,
        "message": "See the log of this try.",
        "sent_nothing": True,
    }


@pytest.mark.skipif(not KEEPS_TASK_STATE, reason="Airflow before 3.3 keeps no state for a task")
def test_retry_without_a_plan_has_the_limits_and_the_reason_beside_the_outcome_of_the_try_before(
    sandbox: Sandbox, fleet: Devices
) -> None:
    store = Store()
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers=HALF_AN_HOUR, skip=1))
    execute(operator_of(fleet[:120], reason="CHG-1"), store)
    summary = execute(operator_of(7, reason="CHG-2", max_devices=44), store, 2).xcoms["summary"]
    assert (summary["requested"], summary["SCHEDULED"], summary["NOT_SENT"]) == (120, 100, 20)
    assert (summary["reason"], summary["limits"]["max_devices"], summary["dry_run"]) == ("CHG-2", 44, False)
