"""What we put on the wire is what our document of the API allows, and what the peer client puts there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

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
from tests.contract.conftest import ANSWERS, API, CLIENT_ID, CLIENT_SECRET, STORAGE_URL, TOKEN_URL, Wire

CONTRACT = OpenAPI.from_path(Path(__file__).with_name("nexthink.openapi.json"))

DELETIONS, EXECUTE, EXPORT = data_management.PATH, "/api/v2/nql/execute", "/api/v1/nql/export"
STATUS = "/api/v1/nql/status/export-1"

DEVICES = [
    {"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "00123"},
    {"uid": "0fbd5a5c-0000-4000-8000-000000000002", "name": 'Büro "PC" 株式会社 / {{ 1 }}'},
]


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


def test_every_request_is_one_that_the_document_allows(transport: Transport, wire: Wire) -> None:
    use_everything(transport)
    api = [request for request in wire.requests if request.url.host != "storage.example"]
    assert {request.url.path for request in api} == set(ANSWERS)
    for request in api:
        assert_allowed(request)


@pytest.mark.parametrize(
    "body", [{"devices": []}, {"devices": [{"uid": "x"}]}, {"devices": DEVICES * 51}, {"device": DEVICES}]
)
def test_the_check_notices_a_request_that_it_does_not_allow(wire: Wire, body: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer x"}
    with pytest.raises(Exception, match="(?i)invalid|error"):
        assert_allowed(httpx.Request("POST", f"{API}{DELETIONS}", json=body, headers=headers))


def test_each_secret_goes_where_it_belongs_and_nowhere_else(transport: Transport, wire: Wire) -> None:
    use_everything(transport)
    for request in wire.requests:
        scheme = request.headers.get("authorization", "none").split()[0]
        expected = {"acme-login.eu.nexthink.cloud": "Basic", "acme.api.eu.nexthink.cloud": "Bearer"}
        assert scheme == expected.get(request.url.host, "none")
        assert CLIENT_SECRET not in request.content.decode()


def test_every_request_to_the_api_has_a_request_id_of_its_own(transport: Transport, wire: Wire) -> None:
    use_everything(transport)
    ids = [r.headers["x-request-id"] for r in wire.requests if r.url.host == "acme.api.eu.nexthink.cloud"]
    assert len(set(ids)) == len(ids) == 5
    assert wire.last(DELETIONS).headers["x-request-id"] == "11111111-1111-4111-8111-111111111111"


@given(name=st.text(min_size=1).filter(str.strip))
def test_any_name_arrives_to_the_letter(name: str) -> None:
    wire = Wire()
    settings = NexthinkSettings.resolve(instance="acme", region="eu", client_id="id", client_secret="secret")
    with Transport(settings, http_transport=httpx.MockTransport(wire.response)) as transport:
        device = {"uid": DEVICES[0]["uid"], "name": name}
        assert data_management.delete_devices(transport, [device], "id").statuses == ["SCHEDULED"]
    assert json.loads(wire.last(DELETIONS).content) == {"devices": [device]}


@pytest.fixture
def peer() -> Iterator[requests_mock.Mocker]:
    """The peer client, used for the same as ours, with its requests recorded."""
    with requests_mock.Mocker() as recorder:
        recorder.post(TOKEN_URL, json=ANSWERS["/oauth2/default/v1/token"][1])
        told = [{**device, "status": "SCHEDULED"} for device in DEVICES]
        response = {"scheduledCount": 2, "status": "ACCEPTED", "devices": told}
        recorder.post(f"{API}{DELETIONS}", json=response, status_code=202)
        recorder.post(f"{API}{EXPORT}", json=ANSWERS[EXPORT][1])
        recorder.get(f"{API}{STATUS}", json=ANSWERS[STATUS][1])
        recorder.get(STORAGE_URL, text="device.name\r\nPC-1\r\n")
        client = NexthinkClient("acme", NxtRegionName.eu, CLIENT_ID, CLIENT_SECRET)
        client.data_management.delete_devices([NxtDeviceEntry(**device) for device in DEVICES])
        export = client.nql.export(NxtNqlApiExecuteRequest(queryId="#q1", parameters={"days": "90"}))
        client.nql.download(client.nql.get_status_export(export))
        yield recorder


def of_peer(peer: requests_mock.Mocker, path: str) -> Any:
    return next(request for request in peer.request_history if request.path == path)


@pytest.mark.parametrize("path", [DELETIONS, EXPORT, STATUS])
def test_the_peer_puts_the_same_on_the_wire(
    transport: Transport, wire: Wire, peer: requests_mock.Mocker, path: str
) -> None:
    use_everything(transport)
    ours, theirs = wire.last(path), of_peer(peer, path)
    assert (ours.method, str(ours.url)) == (theirs.method, theirs.url)
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    if ours.method == "POST":
        assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/json"
        compression = {"compression": "GZIP"} if path == EXPORT else {}  # what the peer cannot ask for
        assert json.loads(ours.content) == theirs.json() | compression


def test_the_peer_asks_for_a_token_in_the_same_form(
    transport: Transport, wire: Wire, peer: requests_mock.Mocker
) -> None:
    use_everything(transport)
    path = "/oauth2/default/v1/token"
    ours, theirs = wire.last(path), of_peer(peer, path)
    assert (ours.method, str(ours.url)) == (theirs.method, theirs.url)
    for header in ("authorization", "content-type", "accept"):
        assert ours.headers[header] == theirs.headers[header]
    assert dict(parse_qsl(ours.content.decode())) == dict(parse_qsl(theirs.text))


def test_the_peer_too_fetches_the_file_without_the_token(peer: requests_mock.Mocker) -> None:
    assert "authorization" not in of_peer(peer, "/result.csv").headers
