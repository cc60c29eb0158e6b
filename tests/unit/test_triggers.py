"""The triggers, over real HTTP: one event, whatever happens, and no secret on the way."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.triggers.nql import NexthinkExportTrigger, NexthinkQueryTrigger

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = NOW.timestamp()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Sandbox(devices=20, stale=10, pending_polls=2) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        yield sandbox


def events(trigger: BaseTrigger, waits: list[float] | None = None) -> list[Any]:
    """Make the trigger anew, as the triggerer does, and run it; waits take no time."""
    path, kwargs = trigger.serialize()
    module, name = path.rsplit(".", 1)
    made: Any = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert made.serialize() == (path, kwargs)

    async def asleep(seconds: float) -> None:
        (waits if waits is not None else []).append(seconds)

    made.clock = Clock(now=lambda: NOW, asleep=asleep)

    async def collect() -> list[Any]:
        return [event.payload async for event in made.run()]

    return asyncio.run(collect())


def export_trigger(export_id: str, seconds: float = 60.0) -> NexthinkExportTrigger:
    return NexthinkExportTrigger(
        nexthink_conn_id="nexthink_default", export_id=export_id, poll_interval=0.01, end_time=EPOCH + seconds
    )


def query_trigger(**changes: Any) -> NexthinkQueryTrigger:
    options: dict[str, Any] = {
        "nexthink_conn_id": "nexthink_default",
        "query_id": "#all_devices",
        "parameters": None,
        "start_time": EPOCH,
        "poll_interval": 0.01,
        "timeout": 60.0,
        "end_time": EPOCH + 100,
    }
    return NexthinkQueryTrigger(**{**options, **changes})


def test_an_export_that_becomes_ready(sandbox: Sandbox) -> None:
    with NexthinkHook() as hook:
        export_id = hook.start_export("#stale_devices")
        (event,) = events(export_trigger(export_id))
        assert event == {"export_id": export_id, "end_time": EPOCH + 60.0, "problem": None}
        assert len(hook.fetch_export(export_id)) == 10


def test_an_export_that_is_late(sandbox: Sandbox) -> None:
    sandbox.tenant.pending_polls = 1000
    with NexthinkHook() as hook:
        export_id = hook.start_export("#stale_devices")
    (event,) = events(export_trigger(export_id, seconds=-1.0))
    assert event["export_id"] == export_id
    assert "not ready in time" in event["problem"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(path="status", kind="status", status=403, times=-1), "NexthinkPermissionError"),
        (Fault(path="status", kind="status", status=404, times=-1), "NexthinkExportError: Nexthink does not know"),
        (Fault(path="token", kind="status", status=401, times=-1), "NexthinkAuthenticationError"),
        (Fault(path="status", kind="not_json", times=-1), "NexthinkExportError"),
    ],
)
def test_what_is_refused_ends_the_wait(sandbox: Sandbox, fault: Fault, says: str) -> None:
    with NexthinkHook() as hook:
        export_id = hook.start_export("#stale_devices")
    sandbox.faults.add(fault)
    (event,) = events(export_trigger(export_id))
    assert event["problem"].startswith(says)
    assert sandbox.client_secret not in event["problem"]


def test_a_connection_that_is_not_there_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", raising=False)
    trigger = NexthinkExportTrigger(
        nexthink_conn_id="nowhere", export_id="an-export", poll_interval=0.01, end_time=EPOCH + 60.0
    )
    (event,) = events(trigger)
    assert event["problem"] == "AirflowNotFoundException"


def test_a_query_at_its_time(sandbox: Sandbox) -> None:
    waits: list[float] = []
    (event,) = events(query_trigger(start_time=EPOCH + 600.0, query_id="#stale_devices"), waits)
    assert waits == [600.0]
    assert (event["end_time"], event["problem"]) == (EPOCH + 100, None)
    with NexthinkHook() as hook:
        assert len(hook.fetch_export(event["export_id"])) == 10


def test_a_query_with_parameters(sandbox: Sandbox) -> None:
    (event,) = events(query_trigger(query_id="#stale_devices", parameters={"min_days_unseen": "10000"}))
    with NexthinkHook() as hook:
        assert hook.fetch_export(event["export_id"]) == []


def test_a_query_that_cannot_be_run(sandbox: Sandbox) -> None:
    (event,) = events(query_trigger(query_id="#not_there"))
    assert event["export_id"] is None
    assert event["problem"].startswith("NexthinkNotFoundError")


def test_nothing_that_a_trigger_carries_is_a_secret(sandbox: Sandbox) -> None:
    for trigger in (export_trigger("an-export"), query_trigger()):
        assert sandbox.client_secret not in json.dumps(trigger.serialize())
    events(query_trigger())
    bearers = {request.headers.get("authorization", "") for request in sandbox.requests}
    assert all(bearer.split()[-1] not in json.dumps(events(query_trigger())) for bearer in bearers)


def test_the_triggerer_signs_in_once_and_asks_with_the_token(sandbox: Sandbox) -> None:
    events(query_trigger())
    paths = [request.path.rsplit("/", 1)[0] for request in sandbox.requests]
    assert paths.count("/oauth2/default/v1") == 1
    assert paths.count("/api/v1/nql/status") == 3
