"""The tries of one task where Airflow keeps no state for it (3.1 and 3.2): they share what the ledger keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_nexthink.exceptions import (
    NexthinkGuardError,
    NexthinkLedgerError,
    NexthinkSettingsError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.run import LedgerRun
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.interrupts import Line, TaskTimeout, interrupted_at_new_line
from tests.support.ledger_rows import rows_of
from tests.support.ledgers import LEDGERS
from tests.support.secrets import reset_secrets_maskers
from tests.support.tries import TaskInstance, execute

Devices = list[dict[str, str]]

ON_EACH_DATABASE = pytest.mark.parametrize("database", LEDGERS, indirect=True)
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

TRY = """
import json, sys
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from tests.support.tries import execute

operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=json.load(open(sys.argv[1])), batch_size=10)
print(execute(operator, None, run_id="run-1").xcoms)
"""


@pytest.fixture
def fleet(sandbox: Sandbox, set_extras: Callable[..., None]) -> Devices:
    """The devices of a tenant whose connection has a ledger, and a quota of 300."""
    set_extras(ledger_conn_id="warehouse", quota_devices=300, quota_days=7)
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()]


def run_try(try_number: int, devices: Any, **options: Any) -> TaskInstance:
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **{"max_concurrency": 1, **options})
    return execute(operator, None, try_number, 9, run_id="run-1")


def stop_after(sandbox: Sandbox, requests: int) -> None:
    """Let the try that comes now end after some requests, such that there is a retry."""
    wait = {"Retry-After": "1800"}
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers=wait, skip=requests))


def uids_of(devices: Devices) -> list[str]:
    return [device["uid"] for device in devices]


@ON_EACH_DATABASE
def test_retry_sends_only_what_is_not_accepted(sandbox: Sandbox, fleet: Devices, database: str) -> None:
    stop_after(sandbox, 1)
    first = run_try(1, fleet[:250])
    assert first.xcoms["summary"]["SCHEDULED"] == 100
    sandbox.faults.clear()
    second = run_try(2, fleet[:250])
    assert "raised" not in second.xcoms
    assert (second.xcoms["summary"]["SCHEDULED"], second.xcoms["summary"]["requests"]) == (250, 2)
    assert "earlier_tries" not in second.xcoms["summary"]
    assert sorted(sandbox.tenant.queued) == sorted(uids_of(fleet[:250]))
    assert [row["charged"] for row in rows_of(schema.runs)] == [100, 150]


@ON_SQLITE
def test_limits_hold_over_all_tries(sandbox: Sandbox, fleet: Devices, database: str) -> None:
    stop_after(sandbox, 2)
    run_try(1, fleet[:290], max_devices=295)
    sandbox.faults.clear()
    other = run_try(2, fleet[290:390], max_devices=295)
    assert isinstance(other.xcoms["raised"].__cause__, NexthinkGuardError)
    assert "100 now, 200 others sent or maybe sent by earlier tries" in str(other.xcoms["raised"])
    assert other.xcoms["summary"]["SCHEDULED"] == len(other.xcoms["return_value"]) - 90 == 200
    quota = run_try(3, fleet[290:391], max_devices=None)
    assert "101 devices, and 100 are left of the quota" in str(quota.xcoms["raised"])
    assert "raised" not in run_try(4, fleet[290:390], max_devices=None).xcoms
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 300


@ON_SQLITE
def test_retry_with_another_list_reports_the_others(sandbox: Sandbox, fleet: Devices, database: str) -> None:
    stop_after(sandbox, 1)
    run_try(1, fleet[:150])
    sandbox.faults.clear()
    ti = run_try(2, [*fleet[90:110], *fleet[200:202]])
    assert ti.xcoms["summary"]["earlier_tries"] == {"SCHEDULED": 90, "NOT_SENT": 40}
    assert [row["uid"] for row in ti.xcoms["earlier_tries"]] == uids_of([*fleet[:90], *fleet[110:150]])
    assert {row["status"] for row in ti.xcoms["return_value"]} == {"SCHEDULED"}
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 112


@ON_SQLITE
@pytest.mark.parametrize(
    "wrong", [{"password": ""}, {"login": ""}, {"extra": {"verify": "/gone/ca.pem"}}, {"extra": {"timeout": "x"}}]
)
def test_retry_whose_connection_is_wrong_tells_what_was_sent(
    sandbox: Sandbox, fleet: Devices, database: str, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    stop_after(sandbox, 1)
    run_try(1, fleet[:150])
    sandbox.faults.clear()
    connection = json.loads(os.environ["AIRFLOW_CONN_NEXTHINK_DEFAULT"])
    changed = {**connection, **wrong, "extra": {**connection["extra"], **wrong.get("extra", {})}}
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(changed))
        ti = run_try(2, fleet[:150])
    assert isinstance(ti.xcoms["raised"].__cause__, NexthinkSettingsError)
    assert (ti.xcoms["summary"]["requested"], ti.xcoms["summary"]["SCHEDULED"]) == (150, 100)
    assert [row["uid"] for row in ti.xcoms["return_value"]] == uids_of(fleet[:150])
    assert len(ti.xcoms["unscheduled"]) == 50
    assert run_try(3, fleet[:150]).xcoms["summary"]["SCHEDULED"] == 150
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 150


@ON_SQLITE
def test_retry_whose_ledger_is_away_sends_nothing_and_the_next_one_resumes(
    sandbox: Sandbox, fleet: Devices, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(sandbox, 1)
    run_try(1, fleet[:150])
    sandbox.faults.clear()
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "sqlite", "host": "/no-such-folder/ledger.db"}')
        away = run_try(2, fleet[:150])
    assert isinstance(away.xcoms["raised"], NexthinkLedgerError)
    assert away.xcoms["summary"]["error"]["type"] == "NexthinkLedgerError"
    assert away.xcoms["summary"]["earlier_tries"] is None  # not known
    assert len(sandbox.tenant.queued) == 100
    assert run_try(3, fleet[:150]).xcoms["summary"]["SCHEDULED"] == 150
    assert sorted(sandbox.tenant.queued) == sorted(uids_of(fleet[:150]))


@ON_EACH_DATABASE
def test_try_that_still_runs_is_over_once_the_next_one_has_begun(
    sandbox: Sandbox, fleet: Devices, database: str
) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="slow", seconds=0.5, times=-1))
    tries: dict[int, TaskInstance] = {}
    thread = threading.Thread(target=lambda: tries.update({1: run_try(1, fleet[:250], batch_size=5)}))
    thread.start()
    while len(sandbox.tenant.queued) < 20:
        time.sleep(0.05)
    sandbox.faults.clear()
    second = run_try(2, fleet[:250])
    thread.join()
    assert isinstance(tries[1].xcoms.pop("raised"), NexthinkTryOverError | NexthinkLedgerError)
    assert tries[1].xcoms == {}
    assert "raised" not in second.xcoms
    assert {row["status"] for row in second.xcoms["return_value"]} == {"SCHEDULED"}
    requested = Counter(sandbox.tenant.queued)
    assert requested.keys() == set(uids_of(fleet[:250]))
    assert max(requested.values()) <= 2
    assert sum(requested.values()) <= 250 + 20 * 5  # sent between the look of the second try and its reservation
    third = run_try(3, fleet[:250])  # what the tries have recorded is whole
    assert third.xcoms["summary"]["requests"] == 0
    assert sum(row["charged"] for row in rows_of(schema.runs)) == 250


def asked_for(sandbox: Sandbox) -> set[str]:
    """Return the uids in all requests for a deletion that the sandbox has received."""
    requests = [request for request in sandbox.requests if request.path.endswith("/deletions")]
    return {device["uid"] for request in requests for device in json.loads(request.body)["devices"]}


@ON_EACH_DATABASE
def test_retry_after_a_kill_sends_only_what_is_not_known_to_be_accepted(
    sandbox: Sandbox, fleet: Devices, database: str, tmp_path: Path
) -> None:
    (tmp_path / "devices.json").write_text(json.dumps(fleet[:250]))
    sandbox.faults.add(Fault(path="deletions", kind="slow", seconds=0.3, times=-1))
    process = subprocess.Popen([sys.executable, "-c", TRY, str(tmp_path / "devices.json")])
    try:
        while len(sandbox.tenant.queued) < 120:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    sandbox.faults.clear()
    end = time.monotonic() + 60
    while set(sandbox.tenant.queued) != asked_for(sandbox):  # it may still be at a request of the killed process
        assert time.monotonic() < end
        time.sleep(0.05)
    accepted = len(sandbox.tenant.queued)
    killed = [row for row in rows_of(schema.deletions) if row["run_id"] == 1]
    assert uids_of(killed) == uids_of(fleet[:250])
    assert {row["status"] for row in killed} <= {"REQUESTED", "SCHEDULED"}
    assert {row["uid"] for row in killed if row["status"] == "SCHEDULED"} <= set(sandbox.tenant.queued)
    second = run_try(2, fleet[:250])
    assert "raised" not in second.xcoms
    requested = Counter(sandbox.tenant.queued)
    assert requested.keys() == set(uids_of(fleet[:250]))
    again = sum(requested.values()) - 250
    assert again < accepted - 20  # what was recorded was not sent again
    runs = rows_of(schema.runs)
    assert [run["state"] for run in runs] == ["LOST", "FINISHED"]
    assert sum(run["charged"] for run in runs) == 250
    counting = [
        row["uid"] for row in rows_of(schema.deletions) if not row["superseded"] and row["status"] != "NOT_SENT"
    ]
    assert sorted(counting) == sorted(uids_of(fleet[:250]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # whose connection was interrupted while it was opened
@ON_SQLITE
def test_timeout_at_any_line_before_the_first_request_gives_back_what_was_reserved(
    sandbox: Sandbox, fleet: Devices, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_reserving = threading.Event()
    reserve = LedgerRun._reserve

    def reserve_now(*arguments: Any) -> Any:
        is_reserving.set()
        return reserve(*arguments)

    monkeypatch.setattr(LedgerRun, "_reserve", reserve_now)
    seen, interrupted, number = set[Line](), -1, 0
    while len(seen) > interrupted:
        interrupted, number = len(seen), number + 1
        is_reserving.clear()
        sandbox.tenant.queued.clear()
        reset_secrets_maskers()
        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[:3])
        with (
            suppress(TaskTimeout),
            interrupted_at_new_line(
                seen, {"run.py", "recording.py"}, lambda: is_reserving.is_set() and not sandbox.tenant.queued
            ),
        ):
            execute(operator, None, run_id=f"run-{number}")
        end = time.monotonic() + 30
        while any(run["state"] == "RUNNING" for run in rows_of(schema.runs)):  # its thread is still at it
            assert time.monotonic() < end, max(seen)
            time.sleep(0.05)
        charged = sum(run["charged"] for run in rows_of(schema.runs) if run["dag_run_id"] == f"run-{number}")
        assert charged == len(sandbox.tenant.queued)
    assert len(seen) > 30
