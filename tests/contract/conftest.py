"""Everything our client puts on the wire, recorded."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
import pytest

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings

API = "https://acme.api.eu.nexthink.cloud"
TOKEN_URL = "https://acme-login.eu.nexthink.cloud/oauth2/default/v1/token"
STORAGE_URL = "https://storage.example/result.csv?X-Signature=signed"
CLIENT_ID, CLIENT_SECRET = "made-up-id", "made-up/secret+with=odd ü:characters"
TOKEN = "made-up-token"

ANSWERS = {
    "/oauth2/default/v1/token": (200, {"token_type": "Bearer", "expires_in": 900, "access_token": TOKEN, "scope": "x"}),
    "/api/v1/data-management/device/deletions": (202, None),
    "/api/v2/nql/execute": (200, {"queryId": "#q1", "rows": 1, "data": [{"device.name": "PC-1"}]}),
    "/api/v1/nql/export": (200, {"exportId": "export-1"}),
    "/api/v1/nql/status/export-1": (200, {"status": "COMPLETED", "resultsFileUrl": STORAGE_URL}),
}


@dataclass
class Wire:
    """A tenant that answers well, and what came to it."""

    requests: list[httpx.Request] = field(default_factory=list)

    def response(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host == "storage.example":
            return httpx.Response(200, stream=httpx.ByteStream(b"device.name\r\nPC-1\r\n"))
        status, body = ANSWERS[request.url.path]
        if body is None:
            devices = httpx.Response(200, content=request.content).json()["devices"]
            told = [{**device, "status": "SCHEDULED"} for device in devices]
            body = {"scheduledCount": len(told), "status": "ACCEPTED", "devices": told}
        return httpx.Response(status, json=body)

    def last(self, path: str) -> httpx.Request:
        return [request for request in self.requests if request.url.path == path][-1]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def transport(wire: Wire) -> Transport:
    settings = NexthinkSettings.resolve(instance="acme", region="eu", client_id=CLIENT_ID, client_secret=CLIENT_SECRET)
    return Transport(settings, http_transport=httpx.MockTransport(wire.response))
