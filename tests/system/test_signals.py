"""A signal at any moment: the table comes out, or nothing was sent; and no row of it is false.

``NEXTHINK_TEST_SIGNALS=5000 pytest tests/system/test_signals.py`` tries more of them.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_nexthink.deletion.outcome import DeletionResult
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.interrupts import TaskTimeout, interrupted_after

SIGNALS = int(os.environ.get("NEXTHINK_TEST_SIGNALS", "80"))
DEVICES, BATCH = 120, 10


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(devices=DEVICES, stale=DEVICES, removal_delay=1e9) as sandbox:
        yield sandbox


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may come in a callback of the GC
@pytest.mark.timeout(max(600, 2 * SIGNALS))
def test_delete_devices_interrupted_anywhere_returns_the_table(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
    devices = [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()]
    chance, seen = random.Random(), Counter[str]()
    usual = duration(sandbox, devices)
    for _ in range(SIGNALS):
        sandbox.tenant.queued.clear()
        sandbox.requests.clear()
        sandbox.faults.clear()
        sandbox.faults.add(Fault(path="deletions", kind="slow", seconds=0.01, times=3, skip=chance.randrange(10)))
        result: DeletionResult | None = None
        moment, start = chance.uniform(1e-4, 1.1 * usual), time.monotonic()
        with suppress(TaskTimeout), interrupted_after(moment), NexthinkHook() as hook:
            result = hook.delete_devices(devices, batch_size=BATCH, max_concurrency=4)
        if result is None:
            seen["nothing was sent"] += 1
            assert sent(sandbox) == Counter()
        else:
            seen["interrupted" if isinstance(result.error, TaskTimeout) else "complete"] += 1
            usual = time.monotonic() - start if result.error is None else usual  # as busy as the machine is by now
            check(result, sandbox)
    assert seen["interrupted"], seen


def duration(sandbox: Sandbox, devices: list[dict[str, str]]) -> float:
    start = time.monotonic()
    with NexthinkHook() as hook:
        hook.delete_devices(devices, batch_size=BATCH, max_concurrency=4)
    return time.monotonic() - start


def sent(sandbox: Sandbox) -> Counter[str]:
    """Return how many requests for deletion had each device in them."""
    bodies: list[Any] = [json.loads(r.body) for r in sandbox.requests if r.path.endswith("/deletions")]
    return Counter(device["uid"] for body in bodies for device in body["devices"])


def check(result: DeletionResult, sandbox: Sandbox) -> None:
    left = Counter({row["uid"]: row["attempts"] for row in result.table if row["attempts"]})
    end = time.monotonic() + 60
    while sent(sandbox) != left and time.monotonic() < end:  # what has just left is still to arrive
        threading.Event().wait(0.01)
    assert sent(sandbox) == left
    assert len(result.table) == DEVICES
    queued = set(sandbox.tenant.queued)
    for row in result.table:
        assert (row["submitted_at"] is not None) == (row["attempts"] > 0)
        assert (row["status"] == "NOT_SENT") == (row["attempts"] == 0)
        assert row["status"] != "SCHEDULED" or row["uid"] in queued
        assert (row["reason"] is None) == (row["status"] == "SCHEDULED")
    if result.error is None:
        assert result.counts["SCHEDULED"] == DEVICES
