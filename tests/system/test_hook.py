"""The hook, against a sandbox tenant over real HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.exceptions import (
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkNotFoundError,
    NexthinkSettingsError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox

DELETIONS = "/api/v1/data-management/device/deletions"


@pytest.fixture
def hook(sandbox: Sandbox) -> Iterator[NexthinkHook]:
    with NexthinkHook() as hook:
        yield hook


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


NO_NQL = "NQL API: no permission (tick NQL API on the API credential in Nexthink)."
NO_DELETION = "Data management (deletions): no permission (tick Data management on the API credential in Nexthink)."


@pytest.mark.parametrize(
    ("nql", "data_management", "says"),
    [
        (True, True, "NQL API: permitted. Data management (deletions): permitted."),
        (False, True, f"{NO_NQL} Data management (deletions): permitted."),
        (True, False, f"NQL API: permitted. {NO_DELETION}"),
        (False, False, f"{NO_NQL} {NO_DELETION}"),
    ],
)
def test_connection_test_reports_each_permission_and_deletes_nothing(
    sandbox: Sandbox, hook: NexthinkHook, nql: bool, data_management: bool, says: str
) -> None:
    sandbox.tenant.nql, sandbox.tenant.data_management = nql, data_management
    before = sandbox.tenant.devices()
    ok, message = hook.test_connection()
    assert ok == (nql or data_management)
    assert message == f"Authentication: works (sandbox). {says} Policy: deletions allowed. Nothing was deleted."
    assert sandbox.tenant.queued == []
    assert sandbox.tenant.devices() == before


def test_connection_test_unknown_permission_is_not_guessed(sandbox: Sandbox, hook: NexthinkHook) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=503, times=-1))
    ok, message = hook.test_connection()
    assert ok
    assert "NQL API: permitted. Data management (deletions): not known (" in message


def test_connection_test_failure_says_why(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = json.loads(sandbox.airflow_connection()) | {"password": "wrong"}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(wrong))
    ok, message = NexthinkHook().test_connection()
    assert not ok
    assert message.startswith("Authentication: failed. ")
    assert "client secret" in message
    assert message.endswith("NQL API: not tried. Data management: not tried.")
    assert sandbox.client_secret not in message


def test_connection_test_leaves_no_connection_open(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    hook = NexthinkHook()
    assert hook.test_connection()[0]
    sockets = [thing for thing in gc.get_objects() if type(thing) is socket.socket and thing.fileno() >= 0]
    assert not [each for each in sockets if each.family == socket.AF_INET and _peer_port(each) == port]
    assert hook.test_connection()[0], "it can be used again"


def _peer_port(connection: socket.socket) -> int | None:
    try:
        return int(connection.getpeername()[1])
    except OSError:  # one that listens
        return None


@pytest.mark.parametrize(("port", "warned"), [(443, False), (8443, True)])
def test_connection_port_is_not_used(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: int, warned: bool
) -> None:
    fields = json.loads(sandbox.airflow_connection()) | {"port": port}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    with NexthinkHook() as hook:
        assert hook.get_conn().settings.base_url == sandbox.url
    assert (f"has the port {port}" in capsys.readouterr().out) == warned


@pytest.mark.parametrize("form", ["JSON", "URI"])
def test_connection_in_both_forms_works(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    addresses = {"base_url": sandbox.url, "login_url": sandbox.login_url}
    extra = urlencode({"region": "eu", "timeout": "7.5", "verify": "false", **addresses})
    uri = f"nexthink://{sandbox.client_id}:{sandbox.client_secret}@acme/?{extra}"
    fields: dict[str, Any] = json.loads(sandbox.airflow_connection())
    fields |= {"host": "acme", "extra": fields["extra"] | {"timeout": 7.5, "verify": False}}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", uri if form == "URI" else json.dumps(fields))
    with NexthinkHook() as hook:
        settings = hook.get_conn().settings
        assert hook.run_nql("#stale_devices")
    assert (settings.instance, settings.timeout, settings.verify) == ("acme", 7.5, False)
    assert (settings.base_url, settings.login_url) == (sandbox.url, sandbox.login_url)


def test_connection_unknown_extra_is_named_and_ignored(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = json.loads(sandbox.airflow_connection())
    fields["extra"] |= {"headers": {"X": "1"}}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    with NexthinkHook() as hook:
        hook.run_nql("#stale_devices")
    assert all("x" not in request.headers for request in sandbox.requests)
    assert "headers" in capsys.readouterr().out


@pytest.mark.parametrize("extra", ['["region"]', '"eu"', "7", "null"])
def test_hook_with_an_extra_that_is_no_object_says_so(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    fields = json.loads(sandbox.airflow_connection()) | {"extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    with pytest.raises(NexthinkSettingsError, match="nexthink_default"):
        NexthinkHook().run_nql("#stale_devices")
    with pytest.raises(NexthinkSettingsError, match="nexthink_default"):
        asyncio.run(NexthinkHook().aget_conn())
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ('{"deletions": "off", "deletions": "allowed"}', "names the key 'deletions' twice"),
        ('{"max_devices": 5, "region": "eu", "max_devices": 5000}', "names the key 'max_devices' twice"),
        ('{"deletions": "off"', "is no JSON"),
        ("deletions=off", "is no JSON"),
    ],
)
def test_hook_with_an_extra_of_which_airflow_would_drop_limits_sends_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, extra: str, says: str
) -> None:
    fields = json.loads(sandbox.airflow_connection()) | {"extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    with pytest.raises(NexthinkSettingsError, match=says):
        NexthinkHook().delete_devices(devices_of(sandbox, 1))
    with pytest.raises(NexthinkSettingsError, match=says):
        asyncio.run(NexthinkHook().aget_conn())
    works, message = NexthinkHook().test_connection()
    assert not works
    assert says in message
    assert sandbox.requests == []


def test_delete_devices_error_before_the_first_request_is_raised(
    sandbox: Sandbox, hook: NexthinkHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = devices_of(sandbox, 3)
    with pytest.raises(NexthinkGuardError):
        hook.delete_devices(rows, max_devices=2)
    with pytest.raises(NexthinkInputError, match="uid_column"):
        hook.delete_devices(rows, uid_column="guid")
    with pytest.raises(NexthinkInputError, match="exclude"):
        hook.delete_devices(rows, exclude="VIP-*")
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", '{"conn_type": "nexthink", "login": "a", "password": "b"}')
    with pytest.raises(NexthinkSettingsError, match="no instance"):
        NexthinkHook("empty").delete_devices(rows)
    assert sandbox.requests == []


def test_delete_devices_plan_check_that_raises_sends_nothing(sandbox: Sandbox, hook: NexthinkHook) -> None:
    class TooManyError(Exception):
        """A guard of one's own."""

    def guard(plan: Plan) -> None:
        if len(plan.to_send) > 2:
            raise TooManyError

    with pytest.raises(TooManyError):
        hook.delete_devices(devices_of(sandbox, 3), on_plan=guard)
    assert sandbox.requests == []
    assert hook.delete_devices(devices_of(sandbox, 2), on_plan=guard).counts["SCHEDULED"] == 2


def test_delete_devices_throttled_logs_the_rate_and_the_time_left(
    sandbox: Sandbox, hook: NexthinkHook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("airflow_provider_nexthink.hooks.nexthink.PROGRESS_SECONDS", 0.0)
    hook.delete_devices(devices_of(sandbox, 500), requests_per_second=4)
    told = re.findall(r"(\d+) of 500 devices settled, (\d+) a second, about (\d+) s left", capsys.readouterr().out)
    settled = [int(answered) for answered, _, _ in told]
    assert settled == sorted(settled)
    assert settled[0] < settled[-1] == 500
    assert int(told[-1][1]) <= 500 / (4 / 4)
    assert told[-1][2] == "0"


def test_delete_devices_error_after_the_first_request_is_in_the_result(sandbox: Sandbox, hook: NexthinkHook) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=404, skip=1))
    result = hook.delete_devices(devices_of(sandbox, 250), max_concurrency=1)
    assert isinstance(result.error, NexthinkNotFoundError)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (100, 150)
    with pytest.raises(NexthinkNotFoundError):
        result.raise_for_status()


def test_delete_devices_dry_run_sends_nothing_and_fetches_no_token(sandbox: Sandbox, hook: NexthinkHook) -> None:
    result = hook.delete_devices(devices_of(sandbox, 250), dry_run=True, exclude=["LAPTOP-*"])
    assert result.counts["PLANNED"] + result.counts["EXCLUDED"] == 250
    assert result.counts["EXCLUDED"] > 0
    assert sandbox.requests == []


@pytest.mark.parametrize("kind", ["drop", "drop_after", "status_after", "short", "reorder", "other", "not_json"])
def test_delete_devices_ambiguous_response_retries_the_same_batch(
    sandbox: Sandbox, hook: NexthinkHook, kind: str
) -> None:
    sandbox.faults.add(Fault(path="deletions", kind=kind, status=502))
    result = hook.delete_devices(devices_of(sandbox, 3))
    assert result.counts["SCHEDULED"] == 3
    first, second = (request for request in sandbox.requests if request.path == DELETIONS)
    assert first.body == second.body
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == result.table[0]["request_id"]
    assert result.summary["retries"] == 1


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("short", "the response cannot be trusted: it names 2 of 3 devices"),
        ("reorder", "the response cannot be trusted: it names other devices than were sent, or in another order"),
        ("status_after", "502"),
    ],
)
def test_delete_devices_reason_names_what_was_wrong_with_each_response(
    sandbox: Sandbox, hook: NexthinkHook, kind: str, cause: str
) -> None:
    sandbox.faults.add(Fault(path="deletions", kind=kind, status=502, times=-1))
    result = hook.delete_devices(devices_of(sandbox, 3))
    assert {row["reason"] for row in result.table} == {f"sent, without an unambiguous response: {cause}"}


def test_delete_devices_revoked_token_is_replaced_once(sandbox: Sandbox, hook: NexthinkHook) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="revoke_tokens", skip=1))
    result = hook.delete_devices(devices_of(sandbox, 500), max_concurrency=4)
    assert result.counts["SCHEDULED"] == 500
    assert len([request for request in sandbox.requests if request.path.endswith("/token")]) == 2


def test_request_calls_any_other_api(sandbox: Sandbox, hook: NexthinkHook) -> None:
    response = hook.request("POST", "/api/v2/nql/execute", json={"queryId": "#all_devices"})
    assert response.json()["rows"] == 600
    with pytest.raises(NexthinkNotFoundError):
        hook.request("GET", "/api/v1/enrichment/none")
    for path in ("https://elsewhere.example/", "//elsewhere.example/", "elsewhere"):
        with pytest.raises(NexthinkInputError):
            hook.request("GET", path)


def test_request_not_idempotent_is_not_retried(sandbox: Sandbox, hook: NexthinkHook) -> None:
    sandbox.faults.add(Fault(path="execute", kind="status", status=502, times=-1))
    with pytest.raises(NexthinkUnavailableError):
        hook.request("POST", "/api/v2/nql/execute", json={"queryId": "#all_devices"})
    assert len([request for request in sandbox.requests if "execute" in request.path]) == 1


def test_request_redirect_is_not_followed(sandbox: Sandbox, hook: NexthinkHook) -> None:
    headers = {"Location": f"{sandbox.url}/api/v2/nql/execute"}
    sandbox.faults.add(Fault(path="deletions", kind="status", status=307, headers=headers))
    result = hook.delete_devices(devices_of(sandbox, 1))
    assert "Redirects are not followed" in str(result.error)
    assert result.counts["NOT_SENT"] == 1
