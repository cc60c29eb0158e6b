"""A stop stops, whatever is being waited for: the run comes back with its table, and a script ends.

What is waited for here would take minutes; a run that does not end fails the test by its patience.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_nexthink.deletion.outcome import DeletionResult
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkStoppedError
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.utils.task_state import TaskStateStore
from tests.support.interrupts import TaskTimeout, signal_raises
from tests.support.store import Store
from tests.support.threads import provider_threads

PATIENCE = 60.0
DEVICES, BATCH, SKIPPED = 100, 10, 3

BUSY: dict[str, Any] = {"status": 429, "headers": {"retry-after": "240"}, "times": -1}
LONG: dict[str, Any] = {"seconds": 600.0, "times": -1}

WAITS: dict[str, list[Fault]] = {
    "token, Retry-After": [
        Fault("deletions", "revoke_tokens", skip=SKIPPED),
        Fault("token", "status", skip=1, **BUSY),
    ],
    "token, silent": [
        Fault("deletions", "revoke_tokens", skip=SKIPPED),
        Fault("token", "slow", skip=1, **LONG),
    ],
    "Retry-After": [Fault("deletions", "status", skip=SKIPPED, **BUSY)],
    "silent": [Fault("deletions", "slow", skip=SKIPPED, **LONG)],
    "backoff": [
        Fault("deletions", "status", skip=SKIPPED, status=503, headers={"retry-after": "240"}, times=-1),
    ],
}


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(devices=DEVICES, stale=DEVICES, removal_delay=1e9) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        yield sandbox


def devices_of(sandbox: Sandbox) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()]


def until(what: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE / 0.05)):
        if what():
            return
        threading.Event().wait(0.05)
    raise TimeoutError("it does not come")


def stopped_run(hook: NexthinkHook, sandbox: Sandbox, waits: Callable[[], bool], **options: Any) -> list[object]:
    """Stop a run once it waits; return its result, or what it has raised."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(hook.delete_devices(devices_of(sandbox), batch_size=BATCH, **options))
        except NexthinkError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(waits)
    hook.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return ended


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("wait", WAITS)
def test_stop_while_waiting_ends_the_run_and_its_threads(sandbox: Sandbox, wait: str, concurrency: int) -> None:
    for fault in WAITS[wait]:
        sandbox.faults.add(fault)
    with NexthinkHook() as hook:
        (result,) = stopped_run(
            hook, sandbox, lambda: len(sandbox.requests) >= SKIPPED + len(WAITS[wait]) + 1, max_concurrency=concurrency
        )
    assert isinstance(result, DeletionResult)
    assert isinstance(result.error, NexthinkStoppedError)
    assert len(result.table) == DEVICES
    assert result.counts["SCHEDULED"] >= SKIPPED * BATCH
    assert result.counts["NOT_SENT"] > 0
    until(lambda: not provider_threads())


def test_timeout_while_a_token_is_renewed_leaves_no_row_in_doubt(sandbox: Sandbox) -> None:
    for fault in WAITS["token, silent"]:
        sandbox.faults.add(fault)

    def time_out() -> None:
        until(lambda: len(sandbox.requests) >= SKIPPED + 3)  # the tokens, and the request that was refused
        os.kill(os.getpid(), signal.SIGALRM)

    thread = threading.Thread(target=time_out)
    thread.start()
    with NexthinkHook() as hook, signal_raises():
        result = hook.delete_devices(devices_of(sandbox), batch_size=BATCH, max_concurrency=1)
    thread.join()
    assert isinstance(result.error, TaskTimeout)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (SKIPPED * BATCH, DEVICES - SKIPPED * BATCH)
    refused = [row["reason"] for row in result.table if row["status"] == "NOT_SENT" and row["attempts"]]
    assert refused == ["not accepted: 401"] * BATCH


def test_stop_while_pacing_ends_the_run(sandbox: Sandbox) -> None:
    with NexthinkHook() as hook:
        (result,) = stopped_run(hook, sandbox, lambda: len(sandbox.tenant.queued) >= BATCH, requests_per_second=0.005)
    assert isinstance(result, DeletionResult)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (BATCH, DEVICES - BATCH)


@pytest.mark.parametrize("kind", ["slow", "status"])
def test_stop_before_the_first_token_raises_with_nothing_sent(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(Fault("token", kind, **(LONG if kind == "slow" else BUSY)))
    with NexthinkHook() as hook:
        (error,) = stopped_run(hook, sandbox, lambda: len(sandbox.requests) >= 1)
    assert isinstance(error, NexthinkStoppedError)
    assert not [request for request in sandbox.requests if request.path.endswith("/deletions")]


def test_timeout_while_airflow_does_not_respond_sends_no_other_batch(sandbox: Sandbox) -> None:
    hangs, may_respond = threading.Event(), threading.Event()
    ended_before_the_main_thread_knew: list[bool] = []

    class Hanging(Store):
        def set(self, key: str, value: Any) -> None:
            super().set(key, value)
            if sandbox.tenant.queued:
                hangs.set()
                assert may_respond.wait(5 * PATIENCE)

    def time_out() -> None:
        assert hangs.wait(PATIENCE)
        workers = provider_threads()
        os.kill(os.getpid(), signal.SIGALRM)
        for worker in workers:
            worker.join(PATIENCE)
        ended_before_the_main_thread_knew.extend(not worker.is_alive() for worker in workers)
        may_respond.set()

    thread = threading.Thread(target=time_out)
    thread.start()
    with NexthinkHook() as hook, signal_raises():
        result = hook.delete_devices(
            devices_of(sandbox), batch_size=1, max_concurrency=1, state_store=TaskStateStore(Hanging())
        )
    thread.join()
    assert ended_before_the_main_thread_knew == [True]
    assert isinstance(result.error, TaskTimeout)
    assert result.counts["SCHEDULED"] == len(sandbox.tenant.queued) == result.summary["requests"] < DEVICES
    assert result.counts["NOT_SENT"] == DEVICES - len(sandbox.tenant.queued)


SCRIPT = """
import json, sys, threading
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

hook = NexthinkHook()
threading.Thread(target=lambda: (sys.stdin.readline(), hook.stop()), daemon=True).start()
result = hook.delete_devices(json.loads(sys.argv[1]), batch_size=10)
print("counts", result.counts["SCHEDULED"], result.counts["UNKNOWN"] + result.counts["NOT_SENT"])
"""


def test_script_whose_run_is_stopped_ends_though_a_request_hangs(sandbox: Sandbox) -> None:
    sandbox.faults.add(WAITS["silent"][0])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(devices_of(sandbox))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    until(lambda: len(sandbox.requests) > SKIPPED + 1)
    output, _ = process.communicate("stop\n", timeout=PATIENCE)
    assert process.returncode == 0, output
    assert f"counts {SKIPPED * BATCH} {DEVICES - SKIPPED * BATCH}" in output
