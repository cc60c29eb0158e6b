import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_nexthink.sandbox import Fault, Sandbox
from airflow_provider_nexthink.sandbox.faults import Faults

DELETIONS = "/api/v1/data-management/device/deletions"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(devices=40, stale=20) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.faults.clear()
    running.requests.clear()
    running.tenant.queued.clear()
    return running


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {sandbox.tenant.issue_token()}"}
    with httpx.Client(base_url=sandbox.url, headers=headers) as client:
        yield client


@pytest.fixture
def devices(sandbox: Sandbox) -> list[dict[str, str]]:
    """Three devices with three names."""
    by_name = {device.name: device.uid for device in sandbox.tenant._fleet.values()}
    return [{"uid": uid, "name": name} for name, uid in list(by_name.items())[:3]]


def delete(client: httpx.Client, devices: list[dict[str, str]]) -> httpx.Response:
    return client.post(DELETIONS, json={"devices": devices})


def uids(devices: list[dict[str, Any]]) -> list[str]:
    return [device["uid"] for device in devices]


def test_deletions_without_a_fault_schedule_every_device(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    response = delete(client, devices).json()

    assert response["devices"] == [{**device, "status": "SCHEDULED"} for device in devices]
    assert sandbox.tenant.queued == uids(devices)


def test_fault_status_responds_without_processing(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(
        Fault("deletions", "status", status=429, headers={"retry-after": "7"}),
        Fault("deletions", "status", status=500, body='{"code": "INTERNAL_ERROR", "message": "m"}'),
        Fault("deletions", "status", status=502, body="<html>", headers={"content-type": "text/html"}),
    )

    limited, failed, gateway = (delete(client, devices) for _ in range(3))

    assert (limited.status_code, limited.content, limited.headers["retry-after"]) == (429, b"", "7")
    assert (failed.status_code, failed.json()["code"]) == (500, "INTERNAL_ERROR")
    assert failed.headers["content-type"] == "application/json"
    assert (gateway.status_code, gateway.text) == (502, "<html>")
    assert gateway.headers["content-type"] == "text/html"
    assert sandbox.tenant.queued == []
    assert [request.status for request in sandbox.requests] == [429, 500, 502]
    assert delete(client, devices).status_code == 202


def test_fault_slow_delays_the_response(sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]) -> None:
    sandbox.faults.add(Fault("deletions", "slow", seconds=0.2))

    started = time.monotonic()
    response = delete(client, devices)

    assert time.monotonic() - started >= 0.2
    assert response.status_code == 202


@pytest.mark.slow
def test_fault_slow_with_a_shorter_client_timeout_is_processed(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "slow", seconds=1.0))

    with pytest.raises(httpx.ReadTimeout):
        client.post(DELETIONS, json={"devices": devices}, timeout=httpx.Timeout(60, read=0.05))

    assert [request.status for request in sandbox.requests] == [None]
    assert sandbox.tenant.queued == []
    # A client that gives up does not cancel its request: it is processed before the later, slower one.
    sandbox.faults.add(Fault("deletions", "slow", seconds=2.0))
    assert delete(client, devices).status_code == 202
    assert [request.status for request in sandbox.requests] == [202, 202]
    assert sandbox.tenant.queued == uids(devices) * 2


@pytest.mark.parametrize(("kind", "done"), [("drop", False), ("drop_after", True)])
def test_fault_drop_cuts_the_connection(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]], kind: str, done: bool
) -> None:
    sandbox.faults.add(Fault("deletions", kind))

    with pytest.raises(httpx.TransportError):
        delete(client, devices)

    assert sandbox.tenant.queued == (uids(devices) if done else [])
    assert sandbox.requests[0].status is None
    assert delete(client, devices).status_code == 202


def test_fault_status_after_processes_first(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "status_after", status=504))

    assert delete(client, devices).status_code == 504
    assert sandbox.tenant.queued == uids(devices)


def test_fault_short_omits_the_last_device(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "short"))

    assert uids(delete(client, devices).json()["devices"]) == uids(devices)[:-1]
    assert sandbox.tenant.queued == uids(devices)


def test_fault_reorder_reverses_the_response(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "reorder"))

    assert uids(delete(client, devices).json()["devices"]) == uids(devices)[::-1]
    assert sandbox.tenant.queued == uids(devices)


def test_fault_other_responds_with_other_uids(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "other"))

    results = delete(client, devices).json()["devices"]

    assert len(results) == 3
    assert set(uids(results)).isdisjoint(uids(devices))
    assert sandbox.tenant.queued == uids(devices)


def test_fault_not_json_responds_with_html(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "not_json"))

    response = delete(client, devices)

    assert response.status_code == 202
    assert response.headers["content-type"].startswith("text/html")
    assert sandbox.tenant.queued == uids(devices)


def test_fault_failed_rows_does_not_queue_them(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "failed_rows", names=[devices[1]["name"]]), Fault("deletions", "failed_rows"))

    one, every = delete(client, devices).json(), delete(client, devices).json()

    assert [device["status"] for device in one["devices"]] == ["SCHEDULED", "FAILED", "SCHEDULED"]
    assert one["scheduledCount"] == 2
    assert [device["status"] for device in every["devices"]] == ["FAILED"] * 3
    assert every["scheduledCount"] == 0
    assert sandbox.tenant.queued == [devices[0]["uid"], devices[2]["uid"]]


def test_fault_failed_rows_with_names_skips_other_requests(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "failed_rows", names=[devices[1]["name"]]))

    responses = [delete(client, [device]).json()["devices"][0]["status"] for device in devices]

    assert responses == ["SCHEDULED", "FAILED", "SCHEDULED"]
    assert delete(client, devices).json()["scheduledCount"] == 3


def test_fault_refuse_names_applies_until_removed(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "refuse_names", names=[devices[1]["name"]]))

    for _ in range(2):
        refused = delete(client, devices)
        assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
        assert devices[1]["name"] not in refused.json()["message"]
    assert sandbox.tenant.queued == []
    assert delete(client, [devices[0], devices[2]]).status_code == 202

    sandbox.faults.clear()
    assert delete(client, devices).status_code == 202


def test_fault_revoke_tokens_responds_401(
    sandbox: Sandbox, client: httpx.Client, devices: list[dict[str, str]]
) -> None:
    sandbox.faults.add(Fault("deletions", "revoke_tokens"))

    assert delete(client, devices).status_code == 401
    # The old token stays revoked, a new one is valid.
    assert delete(client, devices).status_code == 401
    client.headers["authorization"] = f"Bearer {sandbox.tenant.issue_token()}"
    assert delete(client, devices).status_code == 202


@pytest.mark.parametrize(
    ("path", "method", "address"),
    [
        ("token", "POST", "/oauth2/default/v1/token"),
        ("deletions", "POST", DELETIONS),
        ("execute", "POST", "/api/v2/nql/execute"),
        ("export", "POST", "/api/v1/nql/export"),
        ("status", "GET", "/api/v1/nql/status/some-id"),
        ("storage", "GET", "/storage/some-id"),
    ],
)
def test_faults_apply_to_every_path(
    sandbox: Sandbox, client: httpx.Client, path: str, method: str, address: str
) -> None:
    sandbox.faults.add(Fault(path, "status", status=503), Fault(path, "drop"))

    assert client.request(method, address).status_code == 503
    with pytest.raises(httpx.TransportError):
        client.request(method, address)
    assert client.request(method, address).status_code in (400, 401, 404)


def test_faults_take_honors_skip_and_times() -> None:
    faults = Faults()
    faults.add(Fault("token", "drop", skip=1, times=2), Fault("token", "slow"), Fault("status", "drop", times=-1))

    def taken(path: str) -> str | None:
        fault = faults.take(path, set())
        return fault.kind if fault else None

    assert [taken("token") for _ in range(5)] == ["slow", "drop", "drop", None, None]
    assert [taken("status") for _ in range(5)] == ["drop"] * 5
    assert [fault.path for fault in faults] == ["status"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "elsewhere", "kind": "drop"},
        {"path": "token", "kind": "explode"},
        {"path": "token", "kind": "short"},
        {"path": "token", "kind": "drop", "names": ["x"]},
        {"path": "deletions", "kind": "refuse_names"},
        {"path": "deletions", "kind": "drop", "times": 0},
        {"path": "deletions", "kind": "drop", "times": -2},
        {"path": "deletions", "kind": "drop", "skip": -1},
        {"path": "deletions", "kind": "slow", "seconds": -1},
        {"path": "deletions", "kind": "status", "status": 99},
    ],
)
def test_fault_with_contradictory_values_is_an_error(
    sandbox: Sandbox, client: httpx.Client, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        Fault(**arguments)
    assert client.post("/sandbox/faults", json=arguments).status_code == 400
    assert len(sandbox.faults) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"1",
        b"{}",
        b'{"path": "token"}',
        b'{"path": "token", "kind": "drop", "extra": 1}',
        b'{"path": "token", "kind": "drop", "times": "1"}',
        b'{"path": "token", "kind": "drop", "times": true}',
        b'{"path": "token", "kind": "status", "headers": {"retry-after": 3}}',
        b'{"path": "deletions", "kind": "failed_rows", "names": "x"}',
        b'[{"path": "token", "kind": "drop"}, {"path": "token", "kind": "explode"}]',
    ],
)
def test_faults_over_http_with_invalid_body_respond_400(sandbox: Sandbox, client: httpx.Client, body: bytes) -> None:
    response = client.post("/sandbox/faults", content=body)

    assert response.status_code == 400
    assert response.json()["error"]
    assert len(sandbox.faults) == 0


def test_faults_over_http_are_added_and_cleared(sandbox: Sandbox, client: httpx.Client) -> None:
    one = {"path": "token", "kind": "status", "status": 503, "headers": {"x-a": "b"}, "times": -1}
    two = {"path": "deletions", "kind": "slow", "seconds": 1, "body": None, "names": ["x"], "skip": 2}

    assert client.post("/sandbox/faults", json=one).json() == {"faults": 1}
    assert client.post("/sandbox/faults", json=[one, two]).json() == {"faults": 3}
    assert list(sandbox.faults) == [Fault(**one), Fault(**one), Fault(**two)]  # type: ignore[arg-type]
    assert httpx.post(sandbox.login_url).headers["x-a"] == "b"

    assert client.delete("/sandbox/faults").json() == {"faults": 0}
    assert len(sandbox.faults) == 0
