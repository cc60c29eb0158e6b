"""Every response of the sandbox is one that our document of the API allows."""

import base64
import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

from airflow_provider_nexthink.sandbox import Fault, Sandbox
from tests.support.fake_time import FakeTime

API = OpenAPI.from_path(Path(__file__).with_name("nexthink.openapi.json"))

DELETIONS = "/api/v1/data-management/device/deletions"
EXECUTE = "/api/v2/nql/execute"
EXPORT = "/api/v1/nql/export"
TOKEN = "/oauth2/default/v1/token"
TOKEN_FORM = {"grant_type": "client_credentials", "scope": "service:integration"}
UNKNOWN_UID = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture(scope="module")
def clock() -> FakeTime:
    return FakeTime(seconds=1_800_000_000.0)


@pytest.fixture(scope="module")
def running(clock: FakeTime) -> Iterator[Sandbox]:
    # Nothing is ever removed, so that each test finds the whole fleet.
    with Sandbox(devices=40, stale=30, removal_delay=1e9, clock=lambda: clock.seconds) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.tenant.max_batch = 100
    running.tenant.export_row_limit = None
    running.tenant.data_management = True
    running.tenant.nql = True
    running.tenant.queued.clear()
    running.faults.clear()
    return running


@pytest.fixture
def anonymous(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.url) as client:
        yield client


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    credentials = (sandbox.client_id, sandbox.client_secret)
    token = check(httpx.post(sandbox.login_url, auth=credentials, data=TOKEN_FORM)).json()["access_token"]
    with httpx.Client(base_url=sandbox.url, headers={"authorization": f"Bearer {token}"}) as client:
        yield client


def check(response: httpx.Response) -> httpx.Response:
    """Check a response against the document; the sandbox is both hosts of a tenant."""
    path = response.request.url.path
    host = "https://acme-login.eu.nexthink.cloud" if path == TOKEN else "https://acme.api.eu.nexthink.cloud"
    API.validate_response(
        MockRequest(host, response.request.method.lower(), path),
        MockResponse(
            response.content,
            status_code=response.status_code,
            headers=dict(response.headers),
            content_type=response.headers.get("content-type", ""),
        ),
    )
    return response


def entries(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def completed(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    export_id = check(client.post(EXPORT, json=body)).json()["exportId"]
    for _ in range(10):
        response = check(client.get(f"/api/v1/nql/status/{export_id}"))
        if response.json()["status"] == "COMPLETED":
            return response
    raise AssertionError("the export is never completed")


# The check itself


def test_contract_check_finds_what_is_not_documented(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.faults.add(
        Fault("deletions", "not_json"),
        Fault("deletions", "status", status=418),
        Fault("deletions", "status", status=202, body='{"status": "ACCEPTED", "devices": []}'),
        Fault("deletions", "status", status=400, body='{"code": "OTHER", "message": ""}'),
    )
    for _ in range(4):
        with pytest.raises(OpenAPIError):
            check(client.post(DELETIONS, json={"devices": entries(sandbox, 1)}))
    assert len(sandbox.faults) == 0


# Signing in


def test_token(sandbox: Sandbox, anonymous: httpx.Client) -> None:
    response = check(anonymous.post(TOKEN, auth=(sandbox.client_id, sandbox.client_secret), data=TOKEN_FORM)).json()

    assert response["expires_in"] == 900
    assert response["scope"] == "service:integration nx_dataplatform_device_deletion_api"


def test_token_without_the_deletion_permission(sandbox: Sandbox, anonymous: httpx.Client) -> None:
    sandbox.tenant.data_management = False

    response = check(anonymous.post(TOKEN, auth=(sandbox.client_id, sandbox.client_secret), data=TOKEN_FORM))

    assert response.json()["scope"] == "service:integration"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"scope": "service:integration"}, "invalid_request"),
        ({"grant_type": "client_credentials"}, "invalid_scope"),
        ({"grant_type": "client_credentials", "scope": "openid"}, "invalid_scope"),
        ({"grant_type": "password", "scope": "service:integration"}, "unsupported_grant_type"),
    ],
)
def test_token_refuses_other_forms(sandbox: Sandbox, anonymous: httpx.Client, form: dict[str, str], error: str) -> None:
    response = check(anonymous.post(TOKEN, auth=(sandbox.client_id, sandbox.client_secret), data=form))

    assert (response.status_code, response.json()["error"]) == (400, error)


def test_token_refuses_json(sandbox: Sandbox, anonymous: httpx.Client) -> None:
    response = check(anonymous.post(TOKEN, auth=(sandbox.client_id, sandbox.client_secret), json=TOKEN_FORM))

    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Basic",
        "Basic not-base64!",
        "Basic " + base64.b64encode(b"sandbox-client:wrong").decode(),
        "Basic " + base64.b64encode(b"wrong:sandbox-secret-not-a-real-one").decode(),
        "Bearer " + base64.b64encode(b"sandbox-client:sandbox-secret-not-a-real-one").decode(),
    ],
)
def test_token_refuses_wrong_credentials(anonymous: httpx.Client, authorization: str | None) -> None:
    headers = {"authorization": authorization} if authorization else {}

    response = check(anonymous.post(TOKEN, headers=headers, data=TOKEN_FORM))

    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


# Deletions


def test_deletions_respond_with_each_device_in_order(sandbox: Sandbox, client: httpx.Client) -> None:
    first, second = entries(sandbox, 2)
    devices = [
        second,
        {"uid": "not-a-uuid", "name": "x"},
        {"uid": first["uid"].upper(), "name": first["name"]},
        {"uid": UNKNOWN_UID, "name": "nobody"},
        {"uid": UNKNOWN_UID.replace("-", ""), "name": "no hyphens"},
    ]

    response = check(client.post(DELETIONS, json={"devices": devices}))

    assert response.status_code == 202
    assert response.json() == {
        "scheduledCount": 3,
        "status": "ACCEPTED",
        "devices": [
            {**device, "status": status}
            for device, status in zip(
                devices, ["SCHEDULED", "INVALID", "SCHEDULED", "SCHEDULED", "INVALID"], strict=True
            )
        ],
    }
    assert sandbox.tenant.queued == [second["uid"], first["uid"], UNKNOWN_UID]


@pytest.mark.parametrize(
    "entry",
    [
        {"uid": UNKNOWN_UID},
        {"name": "x"},
        {"uid": "", "name": "x"},
        {"uid": " ", "name": "x"},
        {"uid": UNKNOWN_UID, "name": ""},
        {"uid": UNKNOWN_UID, "name": "\t "},
        {"uid": UNKNOWN_UID, "name": None},
        {"uid": UNKNOWN_UID, "name": 123},
        {"uid": 123, "name": "x"},
        "x",
        None,
    ],
)
def test_deletions_with_one_unusable_entry_refuse_the_whole_request(
    sandbox: Sandbox, client: httpx.Client, entry: object
) -> None:
    response = check(client.post(DELETIONS, json={"devices": [*entries(sandbox, 2), entry]}))

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b"{}", b'{"devices": {}}'])
def test_deletions_with_an_unreadable_body_are_refused(client: httpx.Client, body: bytes) -> None:
    response = check(client.post(DELETIONS, content=body))

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")


def test_deletions_without_devices_are_refused(client: httpx.Client) -> None:
    response = check(client.post(DELETIONS, json={"devices": []}))

    assert (response.status_code, response.json()["code"]) == (400, "EMPTY_REQUEST")


def test_deletions_over_the_batch_size_are_refused(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.tenant.max_batch = 3

    fits = check(client.post(DELETIONS, json={"devices": entries(sandbox, 3)}))
    too_many = check(client.post(DELETIONS, json={"devices": entries(sandbox, 4)}))

    assert fits.status_code == 202
    assert (too_many.status_code, too_many.json()["code"]) == (400, "BATCH_SIZE_EXCEEDED")
    assert len(sandbox.tenant.queued) == 3


def test_deletions_without_the_permission(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.tenant.data_management = False

    response = check(client.post(DELETIONS, json={"devices": entries(sandbox, 1)}))

    assert (response.status_code, response.json()["code"]) == (403, "FEATURE_NOT_ENABLED")
    assert sandbox.tenant.queued == []


def test_correlation_headers(sandbox: Sandbox, client: httpx.Client) -> None:
    headers = {
        "x-request-id": "6d2a9f0c-5a54-4d3c-8c56-0c8a2f1d7b11",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }

    given = check(client.post(DELETIONS, json={"devices": entries(sandbox, 1)}, headers=headers))
    made = [check(client.post(DELETIONS, json={"devices": []})) for _ in range(2)]

    assert given.headers["x-request-id"] == headers["x-request-id"]
    assert given.headers["x-trace-id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    for name in ("x-request-id", "x-trace-id"):
        assert made[0].headers[name] != made[1].headers[name]


# Tokens, on every endpoint that wants one


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer wrong", "Basic c2FuZGJveA=="])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", DELETIONS), ("POST", EXECUTE), ("POST", EXPORT), ("GET", "/api/v1/nql/status/some-id")],
)
def test_api_without_a_valid_token_responds_401(
    anonymous: httpx.Client, method: str, path: str, authorization: str | None
) -> None:
    headers = {"authorization": authorization} if authorization else {}

    response = check(anonymous.request(method, path, headers=headers))

    assert (response.status_code, response.content) == (401, b"")


def test_tokens_expire(client: httpx.Client, clock: FakeTime) -> None:
    clock.seconds += 899
    assert check(client.post(DELETIONS, json={"devices": []})).status_code == 400

    clock.seconds += 1
    assert check(client.post(DELETIONS, json={"devices": []})).status_code == 401


# NQL


def test_execute_as_json(sandbox: Sandbox, client: httpx.Client) -> None:
    response = check(client.post(EXECUTE, json={"queryId": "#stale_devices"})).json()

    stale = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]
    assert response["rows"] == len(response["data"]) == len(stale) == 30
    assert response["queryId"] == "#stale_devices"
    assert response["data"][0] == {
        "device.uid": stale[0].uid,
        "device.name": stale[0].name,
        "device.last_seen": stale[0].last_seen,
        "device.days_since_last_seen": stale[0].days_since_last_seen,
        "device.entity": stale[0].entity,
        "device.operating_system.name": stale[0].os_name,
        "device.operating_system.platform": stale[0].platform,
    }


def test_execute_as_csv(sandbox: Sandbox, client: httpx.Client) -> None:
    response = check(client.post(EXECUTE, json={"queryId": "#devices_both_uids"}, headers={"accept": "text/csv"}))

    rows = list(csv.DictReader(io.StringIO(response.content.decode(), newline="")))
    assert response.headers["content-type"].startswith("text/csv")
    assert response.content.startswith(b"device.uid,device.collector.uid,device.name,device.days_since_last_seen\r\n")
    assert [(row["device.uid"], row["device.collector.uid"], row["device.name"]) for row in rows] == [
        (device.uid, device.collector_uid, device.name) for device in sandbox.tenant.devices()
    ]


@pytest.mark.parametrize(
    ("accept", "status"),
    [("application/json", 200), ("text/html, */*;q=0.1", 200), ("text/html", 406), ("application/xml", 406)],
)
def test_execute_by_accept(client: httpx.Client, accept: str, status: int) -> None:
    response = check(client.post(EXECUTE, json={"queryId": "#all_devices"}, headers={"accept": accept}))

    assert response.status_code == status


def test_execute_gives_a_thousand_rows_at_most() -> None:
    with Sandbox(devices=1001, stale=0) as sandbox, httpx.Client(base_url=sandbox.url) as client:
        token = client.post(TOKEN, auth=(sandbox.client_id, sandbox.client_secret), data=TOKEN_FORM).json()
        headers = {"authorization": f"Bearer {token['access_token']}"}
        response = check(client.post(EXECUTE, json={"queryId": "#all_devices"}, headers=headers)).json()

    assert response["rows"] == len(response["data"]) == 1000


def test_execute_with_parameters_filters_by_age(sandbox: Sandbox, client: httpx.Client) -> None:
    def rows(min_days_unseen: str) -> int:
        parameters = {"min_days_unseen": min_days_unseen}
        response = check(client.post(EXECUTE, json={"queryId": "#stale_devices", "parameters": parameters}))
        return int(response.json()["rows"])

    ages = [device.days_since_last_seen for device in sandbox.tenant.devices()]
    assert rows("0") == 40
    assert rows("200") == sum(age >= 200 for age in ages)
    assert rows("401") == 0


@pytest.mark.parametrize("path", [EXECUTE, EXPORT])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"{}", 400),
        (b'{"queryId": "no_hash"}', 400),
        (b'{"queryId": "#a"}', 400),
        (b'{"queryId": "#UPPER"}', 400),
        (b'{"queryId": "#unknown"}', 404),
        (b'{"queryId": "#all_devices", "parameters": {"min_days_unseen": "3"}}', 400),
        (b'{"queryId": "#stale_devices", "parameters": {"min_days_unseen": 3}}', 400),
        (b'{"queryId": "#stale_devices", "parameters": {"min_days_unseen": "ten"}}', 400),
        (b'{"queryId": "#all_devices", "compression": "ZIP"}', 400),
    ],
)
def test_execute_of_an_unusable_query_is_refused(client: httpx.Client, path: str, body: bytes, status: int) -> None:
    response = check(client.post(path, content=body))

    assert (response.status_code, response.json()["code"]) == (status, status)


def test_nql_without_the_permission(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.tenant.nql = False

    responses = [
        check(client.post(EXECUTE, json={"queryId": "#all_devices"})),
        check(client.post(EXPORT, json={"queryId": "#all_devices"})),
        check(client.get("/api/v1/nql/status/some-id")),
    ]

    assert [response.status_code for response in responses] == [403, 403, 403]


def test_status_of_an_unknown_export(client: httpx.Client) -> None:
    assert check(client.get("/api/v1/nql/status/some-id")).status_code == 404


def test_export_is_pending_before_it_is_ready(client: httpx.Client) -> None:
    export_id = check(client.post(EXPORT, json={"queryId": "#all_devices"})).json()["exportId"]

    statuses = [check(client.get(f"/api/v1/nql/status/{export_id}")).json()["status"] for _ in range(4)]

    assert statuses == ["SUBMITTED", "IN_PROGRESS", "COMPLETED", "COMPLETED"]


@pytest.mark.parametrize("compression", [None, "NONE", "GZIP", "ZSTD"])
def test_export_file_holds_the_rows(sandbox: Sandbox, client: httpx.Client, compression: str | None) -> None:
    status = completed(client, {"queryId": "#all_devices", "compression": compression})

    content = httpx.get(status.json()["resultsFileUrl"]).content
    if compression == "GZIP":
        content = gzip.decompress(content)
    if compression == "ZSTD":
        content = zstandard.ZstdDecompressor().decompress(content)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert status.status_code == 200
    assert [row["device.name"] for row in rows] == [device.name for device in sandbox.tenant.devices()]


def test_export_over_the_limit_is_truncated(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.tenant.export_row_limit = 40
    whole = completed(client, {"queryId": "#all_devices"})
    sandbox.tenant.export_row_limit = 39
    truncated = completed(client, {"queryId": "#all_devices"})

    assert whole.status_code == 200
    assert truncated.status_code == 206
    lines = httpx.get(truncated.json()["resultsFileUrl"]).content.split(b"\r\n")
    assert len(lines) == 1 + 39 + 1  # header, rows, nothing after the last line end


def test_faults_are_valid_responses(sandbox: Sandbox, client: httpx.Client) -> None:
    sandbox.faults.add(
        Fault("deletions", "status", status=429, headers={"retry-after": "3"}),
        Fault("deletions", "failed_rows"),
        Fault("deletions", "refuse_names", names=[entries(sandbox, 1)[0]["name"]]),
        Fault("status", "status", status=429, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        Fault("execute", "status", status=503),
    )
    body = {"devices": entries(sandbox, 1)}

    statuses = [check(client.post(DELETIONS, json=body)).status_code for _ in range(3)]
    statuses.append(check(client.get("/api/v1/nql/status/some-id")).status_code)
    statuses.append(check(client.post(EXECUTE, json={"queryId": "#all_devices"})).status_code)

    assert statuses == [429, 202, 400, 429, 503]


# Object storage, which is another service


def test_storage_refuses_a_token(client: httpx.Client) -> None:
    link = completed(client, {"queryId": "#all_devices"}).json()["resultsFileUrl"]

    assert httpx.get(link).status_code == 200
    with_token = client.get(link)
    assert with_token.status_code == 400
    assert b"<Code>InvalidArgument</Code>" in with_token.content


def test_storage_refuses_a_wrong_signature(client: httpx.Client) -> None:
    link = completed(client, {"queryId": "#all_devices"}).json()["resultsFileUrl"]
    other = completed(client, {"queryId": "#all_devices"}).json()["resultsFileUrl"]
    address, _, _ = link.partition("?")

    assert httpx.get(address).status_code == 403
    assert httpx.get(f"{address}?X-Signature=00").status_code == 403
    assert httpx.get(f"{address}?{other.partition('?')[2]}").status_code == 403


def test_storage_links_expire(client: httpx.Client, clock: FakeTime) -> None:
    link = completed(client, {"queryId": "#all_devices"}).json()["resultsFileUrl"]

    clock.seconds += 899
    assert httpx.get(link).status_code == 200
    clock.seconds += 1
    assert httpx.get(link).status_code == 403


# The document


def test_document_closes_the_objects_that_are_sent() -> None:
    schemas = json.loads(Path(__file__).with_name("nexthink.openapi.json").read_text())["components"]["schemas"]

    for name in ("TokenRequest", "DeletionRequest", "DeviceEntry", "ExecuteRequest", "ExportRequest"):
        assert schemas[name]["additionalProperties"] is False
