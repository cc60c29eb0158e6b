"""What we put on the wire is what our document of the API allows, and what the peer client puts there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import requests_mock
from hypothesis import given
from hypothesis import strategies as st
from nexthink_api import NexthinkClient, NxtDeviceEntry, NxtNqlApiExecuteRequest, NxtRegionName
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest

from airflow_provider_nexthink.api import data_management, nql
from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from tests.support.tenant import API, TOKEN_URL, HttpTenant

CONTRACT = OpenAPI.from_path(Path(__file__).with_name("nexthink.openapi.json"))

DELETIONS, EXECUTE, EXPORT = data_management.PATH, "/api/v2/nql/execute", "/api/v1/nql/export"
STATUS = "/api/v1/nql/status/export-1"

TOKEN = urlsplit(TOKEN_URL).path
STORAGE_URL = "https://storage.example/result.csv?X-Signature=signed"

CLIENT_ID, CLIENT_SECRET = "made-up-id", "made-up/secret+with=odd ü:characters"
SETTINGS = NexthinkSettings.resolve(instance="acme", region="eu", client_id=CLIENT_ID, client_secret=CLIENT_SECRET)

RESPONSES: dict[str, Any] = {
    EXECUTE: {"queryId": "#q1", "rows": 1, "data": [{"device.name": "PC-1"}]},
    EXPORT: {"exportId": "export-1"},
    STATUS: {"status": "COMPLETED", "resultsFileUrl": STORAGE_URL},
}

DEVICES = [
    {"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "00123"},
    {"uid": "0fbd5a5c-0000-4000-8000-000000000002", "name": 'Büro "PC" 株式会社 / {{ 1 }}'},
]


def respond(request: httpx.Request) -> httpx.Response:
    if request.url.host == "storage.example":
        return httpx.Response(200, stream=httpx.ByteStream(b"device.name\r\nPC-1\r\n"))
    if request.url.path != DELETIONS:
        return httpx.Response(200, json=RESPONSES[request.url.path])
    devices = [{**device, "status": "SCHEDULED"} for device in json.loads(request.content)["devices"]]
    return httpx.Response(202, json={"scheduledCount": len(devices), "status": "ACCEPTED", "devices": devices})


@pytest.fixture
def tenant() -> HttpTenant:
    return HttpTenant(respond=respond)


@pytest.fixture
def transport(tenant: HttpTenant) -> Iterator[Transport]:
    with tenant.transport(SETTINGS) as transport:
        yield transport


def last(tenant: HttpTenant, path: str) -> httpx.Request:
    return [request for request in tenant.requests if request.url.path == path][-1]


def assert_allowed(request: httpx.Request) -> None:
    """Hold a request against our document of the API."""
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    CONTRACT.validate_request(
        MockRequest(
            f"{request.url.scheme}://{request.url.host}",
            request.method,
            request.url.path,
            headers=dict(request.headers),
            data=request.content or None,
            content_type="application/x-www-form-urlencoded" if form else "application/json",
        )
    )


def use_everything(transport: Transport) -> None:
    data_management.delete_devices(transport, DEVICES, "11111111-1111-4111-8111-111111111111")
    nql.execute(transport, "#q1", {"days": "90"})
    export_id = nql.start_export(transport, "#q1", {"days": "90"})
    nql.wait_for_export(transport, export_id, poll_interval=1, timeout=1)
    assert nql.fetch_export(transport, export_id) == [{"device.name": "PC-1"}]


def test_requests_are_allowed_by_the_document(transport: Transport, tenant: HttpTenant) -> None:
    use_everything(transport)
    api = [request for request in tenant.requests if request.url.host != "storage.example"]
    assert {request.url.path for request in api} == {TOKEN, DELETIONS, EXECUTE, EXPORT, STATUS}
    for request in api:
        assert_allowed(request)


@pytest.mark.parametrize(
    "body", [{"devices": []}, {"devices": [{"uid": "x"}]}, {"devices": DEVICES * 51}, {"device": DEVICES}]
)
def test_contract_check_finds_a_request_that_is_not_allowed(tenant: HttpTenant, body: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer x"}
    with pytest.raises(Exception, match="(?i)invalid|error"):
        assert_allowed(httpx.Request("POST", f"{API}{DELETIONS}", json=body, headers=headers))


def test_requests_send_each_secret_to_its_own_host_only(transport: Transport, tenant: HttpTenant) -> None:
    use_everything(transport)
    for request in tenant.requests:
        scheme = request.headers.get("authorization", "none").split()[0]
        expected = {"acme-login.eu.nexthink.cloud": "Basic", "acme.api.eu.nexthink.cloud": "Bearer"}
        assert scheme == expected.get(request.url.host, "none")
        assert CLIENT_SECRET not in request.content.decode()


def test_requests_to_the_api_have_request_ids_of_their_own(transport: Transport, tenant: HttpTenant) -> None:
    use_everything(transport)
    ids = [r.headers["x-request-id"] for r in tenant.requests if r.url.host == "acme.api.eu.nexthink.cloud"]
    assert len(set(ids)) == len(ids) == 5
    assert last(tenant, DELETIONS).headers["x-request-id"] == "11111111-1111-4111-8111-111111111111"


@given(name=st.text(min_size=1).filter(str.strip))
def test_deletion_request_sends_any_name_to_the_letter(name: str) -> None:
    tenant = HttpTenant(respond=respond)
    with tenant.transport() as transport:
        device = {"uid": DEVICES[0]["uid"], "name": name}
        assert data_management.delete_devices(transport, [device], "id").statuses == ["SCHEDULED"]
    assert json.loads(last(tenant, DELETIONS).content) == {"devices": [device]}


@pytest.fixture
def peer() -> Iterator[requests_mock.Mocker]:
    """The peer client, used for the same as ours, with its requests recorded."""
    with requests_mock.Mocker() as recorder:
        token = {"token_type": "Bearer", "expires_in": 900, "access_token": "made-up-token-1", "scope": "x"}
        recorder.post(TOKEN_URL, json=token)
        told = [{**device, "status": "SCHEDULED"} for device in DEVICES]
        response = {"scheduledCount": 2, "status": "ACCEPTED", "devices": told}
        recorder.post(f"{API}{DELETIONS}", json=response, status_code=202)
        recorder.post(f"{API}{EXPORT}", json=RESPONSES[EXPORT])
        recorder.get(f"{API}{STATUS}", json=RESPONSES[STATUS])
        recorder.get(STORAGE_URL, text="device.name\r\nPC-1\r\n")
        client = NexthinkClient("acme", NxtRegionName.eu, CLIENT_ID, CLIENT_SECRET)
        client.data_management.delete_devices([NxtDeviceEntry(**device) for device in DEVICES])
        export = client.nql.export(NxtNqlApiExecuteRequest(queryId="#q1", parameters={"days": "90"}))
        client.nql.download(client.nql.get_status_export(export))
        yield recorder


def of_peer(peer: requests_mock.Mocker, path: str) -> Any:
    return next(request for request in peer.request_history if request.path == path)


@pytest.mark.parametrize("path", [DELETIONS, EXPORT, STATUS])
def test_requests_are_those_of_the_peer_client(
    transport: Transport, tenant: HttpTenant, peer: requests_mock.Mocker, path: str
) -> None:
    use_everything(transport)
    ours, theirs = last(tenant, path), of_peer(peer, path)
    assert (ours.method, str(ours.url)) == (theirs.method, theirs.url)
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    if ours.method == "POST":
        assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/json"
        compression = {"compression": "GZIP"} if path == EXPORT else {}  # what the peer cannot ask for
        assert json.loads(ours.content) == theirs.json() | compression


def test_token_request_is_that_of_the_peer_client(
    transport: Transport, tenant: HttpTenant, peer: requests_mock.Mocker
) -> None:
    use_everything(transport)
    ours, theirs = last(tenant, TOKEN), of_peer(peer, TOKEN)
    assert (ours.method, str(ours.url)) == (theirs.method, theirs.url)
    for header in ("authorization", "content-type", "accept"):
        assert ours.headers[header] == theirs.headers[header]
    assert dict(parse_qsl(ours.content.decode())) == dict(parse_qsl(theirs.text))


def test_file_request_of_the_peer_client_has_no_token_either(peer: requests_mock.Mocker) -> None:
    assert "authorization" not in of_peer(peer, "/result.csv").headers
