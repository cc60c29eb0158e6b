"""The triggers, over real HTTP: one event, whatever happens, and no secret on the way."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from airflow.sdk.log import redact  # type: ignore[attr-defined]
from airflow.triggers.base import BaseTrigger
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_nexthink.exceptions import NexthinkEventError
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.operators._event import ExportEvent
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.triggers.nql import NexthinkExportTrigger, NexthinkQueryTrigger
from tests.support.fake_time import FakeTime

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = NOW.timestamp()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(devices=20, stale=10, pending_polls=2) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        yield sandbox


def made(trigger: BaseTrigger, time: FakeTime) -> Any:
    """Make the trigger anew, as the triggerer does."""
    path, kwargs = trigger.serialize()
    module, name = path.rsplit(".", 1)
    made: Any = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))
    assert made.serialize() == (path, kwargs)
    made.clock = time.clock()
    return made


def events(trigger: BaseTrigger, waits: list[float] | None = None) -> list[Any]:
    """Run the trigger; waits take no time."""
    time = FakeTime(start=NOW, slept=[] if waits is None else waits)

    async def collect() -> list[Any]:
        return [event.payload async for event in made(trigger, time).run()]

    return asyncio.run(collect())


def asked(sandbox: Sandbox, path: str) -> int:
    return sum(path in request.path for request in sandbox.requests)


def export_trigger(export_id: str, seconds: float = 60.0, poll_interval: float = 0.01) -> NexthinkExportTrigger:
    return NexthinkExportTrigger(
        nexthink_conn_id="nexthink_default", export_id=export_id, poll_interval=poll_interval, end_time=EPOCH + seconds
    )


def started(sandbox: Sandbox, *, pending_polls: int = 2) -> str:
    """Start an export that is ready at the poll after so many, and return its id."""
    sandbox.tenant.pending_polls = pending_polls
    with NexthinkHook() as hook:
        export_id = hook.get_conn().start_export("#stale_devices")
    sandbox.requests.clear()
    return export_id


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


def test_export_trigger_ready_export_is_a_success(sandbox: Sandbox) -> None:
    with NexthinkHook() as hook:
        export_id = hook.get_conn().start_export("#stale_devices")
        (event,) = events(export_trigger(export_id))
        assert event == {
            "status": "success",
            "message": f"The export {export_id} is ready.",
            "export_id": export_id,
            "end_time": EPOCH + 60.0,
        }
        assert len(hook.get_conn().fetch_export(export_id)) == 10


def test_export_trigger_late_export_is_an_error(sandbox: Sandbox) -> None:
    sandbox.tenant.pending_polls = 1000
    with NexthinkHook() as hook:
        export_id = hook.get_conn().start_export("#stale_devices")
    (event,) = events(export_trigger(export_id, seconds=-1.0))
    assert (event["status"], event["export_id"]) == ("error", export_id)
    assert "not ready in time" in event["message"]
    assert "timeout." not in event["message"], "whose timeout that is, only the worker knows"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(path="status", kind="status", status=403, times=-1), "NexthinkPermissionError"),
        (Fault(path="status", kind="status", status=404, times=-1), "NexthinkExportError: Nexthink does not know"),
        (Fault(path="token", kind="status", status=401, times=-1), "NexthinkAuthenticationError"),
        (Fault(path="status", kind="not_json", times=-1), "NexthinkExportError"),
    ],
)
def test_export_trigger_refused_poll_ends_the_wait(sandbox: Sandbox, fault: Fault, says: str) -> None:
    with NexthinkHook() as hook:
        export_id = hook.get_conn().start_export("#stale_devices")
    sandbox.faults.add(fault)
    (event,) = events(export_trigger(export_id))
    assert event["status"] == "error"
    assert event["message"].startswith(says)
    assert sandbox.client_secret not in event["message"]


def test_trigger_missing_connection_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", raising=False)
    trigger = NexthinkExportTrigger(
        nexthink_conn_id="nowhere", export_id="an-export", poll_interval=0.01, end_time=EPOCH + 60.0
    )
    (event,) = events(trigger)
    assert (event["status"], event["message"]) == ("error", "AirflowNotFoundException")


def test_query_trigger_starts_the_export_at_its_time(sandbox: Sandbox) -> None:
    waits: list[float] = []
    (event,) = events(query_trigger(start_time=EPOCH + 600.0, query_id="#stale_devices"), waits)
    assert waits[0] == 600.0
    assert (event["end_time"], event["status"]) == (EPOCH + 100, "success")
    with NexthinkHook() as hook:
        assert len(hook.get_conn().fetch_export(event["export_id"])) == 10


def test_query_trigger_passes_the_parameters(sandbox: Sandbox) -> None:
    (event,) = events(query_trigger(query_id="#stale_devices", parameters={"min_days_unseen": "10000"}))
    with NexthinkHook() as hook:
        assert hook.get_conn().fetch_export(event["export_id"]) == []


def test_query_trigger_unknown_query_is_an_error(sandbox: Sandbox) -> None:
    (event,) = events(query_trigger(query_id="#not_there"))
    assert (event["status"], event["export_id"]) == ("error", None)
    assert event["message"].startswith("NexthinkNotFoundError")


def test_trigger_serialized_has_no_secret(sandbox: Sandbox) -> None:
    for trigger in (export_trigger("an-export"), query_trigger()):
        assert sandbox.client_secret not in json.dumps(trigger.serialize())
    events(query_trigger())
    bearers = {request.headers.get("authorization", "") for request in sandbox.requests}
    assert all(bearer.split()[-1] not in json.dumps(events(query_trigger())) for bearer in bearers)


def test_trigger_fetches_one_token_and_polls_with_it(sandbox: Sandbox) -> None:
    events(query_trigger())
    paths = [request.path.rsplit("/", 1)[0] for request in sandbox.requests]
    assert paths.count("/oauth2/default/v1") == 1
    assert paths.count("/api/v1/nql/status") == 3


# The waits, which are the event loop's


def test_trigger_waits_before_each_poll_up_to_a_minute(sandbox: Sandbox) -> None:
    waits: list[float] = []
    (event,) = events(export_trigger(started(sandbox, pending_polls=9), 3600.0, 5.0), waits)
    assert event["status"] == "success"
    assert waits == [5.0, 7.5, 11.25, 16.875, 25.3125, 37.96875, 56.953125, 60.0, 60.0, 60.0]


def test_trigger_last_poll_is_at_the_end_time(sandbox: Sandbox) -> None:
    waits: list[float] = []
    (event,) = events(export_trigger(started(sandbox, pending_polls=100), 20.0, 5.0), waits)
    assert "not ready in time" in event["message"]
    assert waits == [5.0, 7.5, 7.5]
    assert asked(sandbox, "/status/") == 3


def test_trigger_without_time_left_does_not_wait(sandbox: Sandbox) -> None:
    waits: list[float] = []
    (event,) = events(export_trigger(started(sandbox, pending_polls=0), -5.0), waits)
    assert "not ready in time" in event["message"]
    assert waits == []


@pytest.mark.parametrize("seconds", [7, 200, 1800])  # a worker would sleep for the first two, and give up on the third
@pytest.mark.parametrize("path", ["token", "export", "status"])
def test_trigger_429_is_waited_for_in_the_event_loop(sandbox: Sandbox, path: str, seconds: int) -> None:
    headers = {"retry-after": str(seconds)}
    sandbox.faults.add(Fault(path=path, kind="status", status=429, headers=headers, times=2))
    waits: list[float] = []
    (event,) = events(query_trigger(poll_interval=1.0, timeout=7200.0), waits)
    assert event["status"] == "success"
    assert waits.count(float(seconds)) == 2


@pytest.mark.parametrize("path", ["token", "export", "status"])
def test_trigger_429_beyond_the_end_time_ends_the_wait_at_once(sandbox: Sandbox, path: str) -> None:
    sandbox.faults.add(Fault(path=path, kind="status", status=429, headers={"retry-after": "7200"}, times=-1))
    waits: list[float] = []
    (event,) = events(query_trigger(poll_interval=1.0, timeout=3600.0), waits)
    assert event["status"] == "error"
    assert sum(waits) <= 1.0
    assert asked(sandbox, path) == 1


@pytest.mark.parametrize("path", ["token", "export", "status"])
@pytest.mark.parametrize(
    "fault",
    [{"kind": "drop"}, {"kind": "drop_after"}, {"kind": "status", "status": 502}, {"kind": "status", "status": 429}],
    ids=str,
)
def test_trigger_single_failure_is_retried(sandbox: Sandbox, path: str, fault: dict[str, Any]) -> None:
    sandbox.faults.add(Fault(path=path, times=4, **fault))
    waits: list[float] = []
    (event,) = events(query_trigger(timeout=3600.0), waits)
    assert event["status"] == "success"
    assert len(waits) >= 1 + 1 + 4  # for the time to start, for a poll, and before the retries


@pytest.mark.parametrize("path", ["token", "export", "status"])
def test_trigger_tenant_down_ends_the_wait_after_the_retries(sandbox: Sandbox, path: str) -> None:
    sandbox.faults.add(Fault(path=path, kind="status", status=503, times=-1))
    (event,) = events(query_trigger(timeout=3600.0))
    assert event["status"] == "error"
    assert "503" in event["message"]
    assert asked(sandbox, path) == 5


def test_trigger_endless_429_end_at_the_end_time(sandbox: Sandbox) -> None:
    export_id = started(sandbox)
    sandbox.faults.add(Fault(path="status", kind="status", status=429, headers={"retry-after": "1"}, times=-1))
    time = FakeTime(start=NOW)

    async def run() -> list[Any]:
        return [event.payload async for event in made(export_trigger(export_id, 600.0), time).run()]

    (event,) = asyncio.run(run())
    assert event["message"].startswith("NexthinkRateLimitError")
    assert 550 < time.seconds <= 600


# The calls, which are in threads


@pytest.mark.slow
@pytest.mark.parametrize("is_known", [True, False], ids=["a response", "an error"])
def test_trigger_cancelled_during_a_slow_call_does_not_block_the_event_loop(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, is_known: bool
) -> None:
    export_id = started(sandbox) if is_known else "not-there"
    sandbox.faults.add(Fault(path="status", kind="slow", seconds=1.0))

    async def cancel() -> None:
        trigger = made(export_trigger(export_id), FakeTime(start=NOW))
        waiting = asyncio.create_task(anext(trigger.run()))
        while not asked(sandbox, "/status/"):  # the loop runs on while the call is in flight
            await asyncio.sleep(0)
            assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        (in_flight,) = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait([in_flight])

    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(cancel())
        assert open_connections(sandbox) == []
        gc.collect()
    assert [str(warning.message) for warning in warned] == [], "it was closed, not merely forgotten"
    assert [record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage()] == []


def open_connections(sandbox: Sandbox) -> list[socket.socket]:
    port = int(sandbox.url.rpartition(":")[2])
    sockets = [thing for thing in gc.get_objects() if type(thing) is socket.socket and thing.fileno() >= 0]
    return [each for each in sockets if _peer_port(each) == port]


def _peer_port(connection: socket.socket) -> int | None:
    try:
        return int(connection.getpeername()[1])
    except (OSError, IndexError):  # one that listens, or is no network's
        return None


def test_trigger_leaves_no_connection_open(sandbox: Sandbox) -> None:
    events(query_trigger())
    assert open_connections(sandbox) == []


def test_trigger_masks_new_secrets_before_its_event(sandbox: Sandbox) -> None:
    events(query_trigger())
    secrets = {request.headers["authorization"].split()[-1] for request in sandbox.requests}
    assert len(secrets) == 2  # the id with the secret, and the token
    for secret in (*secrets, sandbox.client_secret):
        assert redact(f"it is {secret}") == "it is ***"


# The events, as the worker reads them

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = {
    "status": st.sampled_from(["success", "error"]) | JSON,
    "message": st.text() | JSON,
    "export_id": st.text() | JSON,
    "end_time": st.floats() | JSON,
}


@given(st.fixed_dictionaries({}, optional=FIELDS) | JSON)
@example({"status": "error", "message": "", "end_time": 0.0})
def test_event_is_read_or_refused(event: Any) -> None:
    try:
        read = ExportEvent.read(event)
    except NexthinkEventError as error:
        assert "A retry waits anew" in str(error)
    else:
        assert read.export_id == event.get("export_id")
        assert read.end_time == event["end_time"]
        assert (read.failure is None) == (event["status"] == "success")
        assert read.failure in (None, event["message"])
        assert read.export_id is not None or read.failure is not None


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (None, "a NoneType"),
        ("ready", "a str"),
        ({"export_id": "e-1", "end_time": 1.0, "problem": None}, "'end_time', 'export_id', 'problem'"),
        ({"status": "success", "message": "", "export_id": None, "end_time": 1.0}, "'status'"),
    ],
)
def test_event_of_another_shape_is_named_in_the_error(event: Any, says: str) -> None:
    with pytest.raises(NexthinkEventError, match=says):
        ExportEvent.read(event)


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_event_survives_json(export_id: str, end_time: float) -> None:
    event = {"status": "success", "message": "ready", "export_id": export_id, "end_time": end_time}
    assert ExportEvent.read(json.loads(json.dumps(event))) == ExportEvent(export_id, end_time, None)
