"""The deletion request, and ambiguous responses to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.data_management import BatchResponse, delete_devices
from airflow_provider_nexthink.api.models import DeletionResponse
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkBatchSizeError,
    NexthinkInvalidRequestError,
    NexthinkPermissionError,
    NexthinkRateLimitError,
    NexthinkRetryableError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.strict_json import RepeatedKeyError
from tests.support.tenant import HttpTenant

DEVICES = [
    {"uid": "00000000-0000-4000-8000-000000000001", "name": "NA"},
    {"uid": "00000000-0000-4000-8000-000000000002", "name": "00123"},
    {"uid": "00000000-0000-4000-8000-000000000003", "name": 'Zoë "1E10"\n'},
]

Body = dict[str, Any]


def body(*statuses: str) -> Body:
    devices = [{**device, "status": status} for device, status in zip(DEVICES, statuses, strict=True)]
    return {"scheduledCount": statuses.count("SCHEDULED"), "status": "ACCEPTED", "devices": devices}


class Deletions(HttpTenant):
    """Responds to the deletion requests as scripted."""

    def __init__(self, *responses: httpx.Response | Exception) -> None:
        super().__init__(list(responses))

    def delete(self) -> BatchResponse:
        with self.transport() as transport:
            try:
                return delete_devices(transport, DEVICES, "my-request-id")
            finally:
                assert self.sleeps == []


def ambiguous(response: httpx.Response) -> NexthinkAmbiguousResponseError:
    with pytest.raises(NexthinkAmbiguousResponseError) as caught:
        Deletions(response).delete()
    return caught.value


def test_delete_devices_request_is_as_documented() -> None:
    tenant = Deletions(httpx.Response(202, json=body("SCHEDULED", "INVALID", "FAILED")))
    tenant.delete()

    [request] = tenant.received
    assert request.method == "POST"
    assert request.url == "https://acme.api.eu.nexthink.cloud/api/v1/data-management/device/deletions"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == "Bearer made-up-token-1"
    assert request.headers["x-request-id"] == "my-request-id"
    assert json.loads(request.content) == {"devices": DEVICES}


def test_delete_devices_returns_each_status() -> None:
    response = httpx.Response(202, json=body("SCHEDULED", "INVALID", "FAILED"), headers={"x-trace-id": "a-trace"})

    assert Deletions(response).delete() == BatchResponse(["SCHEDULED", "INVALID", "FAILED"], "a-trace")


def test_delete_devices_without_counts_and_trace_is_read() -> None:
    response = httpx.Response(202, json={"devices": body(*["SCHEDULED"] * 3)["devices"], "more": 1})

    assert Deletions(response).delete() == BatchResponse(["SCHEDULED"] * 3, None)


def changed(change: Callable[[list[Body]], object]) -> Body:
    response = body("SCHEDULED", "SCHEDULED", "SCHEDULED")
    change(response["devices"])
    return response


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (changed(lambda devices: devices.pop()), "it names 2 of 3 devices"),
        (changed(lambda devices: devices.clear()), "it names 0 of 3 devices"),
        (changed(lambda devices: devices.append(devices[0])), "it names 4 of 3 devices"),
        (changed(lambda devices: devices.reverse()), "in another order"),
        (changed(lambda devices: devices[1].update(name="00124")), "other devices"),
        (changed(lambda devices: devices[1].update(name="123")), "other devices"),
        (changed(lambda devices: devices[0].update(name="na")), "other devices"),
        (changed(lambda devices: devices[2].update(uid=devices[0]["uid"])), "other devices"),
        (changed(lambda devices: devices[1].update(name=123)), "it cannot be read (devices.1.name)"),
        (changed(lambda devices: devices[1].update(status="DELETED")), "it cannot be read (devices.1.status)"),
        (changed(lambda devices: devices[1].update(status=None)), "it cannot be read (devices.1.status)"),
        (changed(lambda devices: devices[0].pop("status")), "it cannot be read (devices.0.status)"),
        (changed(lambda devices: devices[2].pop("uid")), "it cannot be read (devices.2.uid)"),
        (body("SCHEDULED", "SCHEDULED", "FAILED") | {"scheduledCount": 1}, "it contradicts itself"),
        (body("SCHEDULED", "SCHEDULED", "SCHEDULED") | {"scheduledCount": 0}, "it contradicts itself"),
        (body("SCHEDULED", "SCHEDULED", "SCHEDULED") | {"status": "REFUSED"}, "it contradicts itself"),
        ({"status": "ACCEPTED"}, "it cannot be read (devices)"),
        ({"devices": None}, "it cannot be read (devices)"),
        ([], "it cannot be read (the body)"),
        (None, "it cannot be read (the body)"),
    ],
)
def test_delete_devices_inconsistent_response_is_ambiguous(response: object, problem: str) -> None:
    error = ambiguous(httpx.Response(202, content=json.dumps(response), headers={"x-trace-id": "a-trace"}))

    assert problem in str(error)
    assert (error.status, error.request_id, error.trace_id) == (202, "my-request-id", "a-trace")
    assert isinstance(error, NexthinkRetryableError)
    assert "made-up" not in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Accepted",
        b"<html></html>",
        b'{"devices": [',
        pytest.param(b'{"devices": ' + b"[" * 50_000, id="nested"),
        b"\xff\xfe\x00",
    ],
)
def test_delete_devices_invalid_json_is_ambiguous(content: bytes) -> None:
    assert "it cannot be read (the body)" in str(ambiguous(httpx.Response(202, content=content)))


def naming_twice(content: str) -> dict[str, str]:
    """Return a body with a key twice, for each key that it has."""
    found = {}
    for at in range(len(content)):
        if (key := re.match(r'"(\w+)": ?("(?:[^"\\]|\\.)*"|\d+)', content[at:])) and content[at - 1] in "{ ,":
            written = key[0].replace(f'"{key[1]}"', '"' + "".join(f"\\u{ord(letter):04x}" for letter in key[1]) + '"')
            for how, extra in (("at once", key[0]), ("with escapes", written), ("with blanks", f'"{key[1]}" : "x"')):
                found[f"{key[1]} at {at}, {how}"] = f"{content[:at]}{extra},{content[at:]}"
    return found


TWICE = naming_twice(json.dumps({**body("SCHEDULED", "INVALID", "FAILED"), "more": {"a": 1}}))
TWICE["another device list"] = json.dumps(body("FAILED", "FAILED", "FAILED"))[:-1] + ', "devices": []}'
TWICE["another device list first"] = '{"devices": [], ' + json.dumps(body(*["SCHEDULED"] * 3))[1:]


@pytest.mark.parametrize("content", TWICE.values(), ids=TWICE.keys())
def test_delete_devices_repeated_key_is_ambiguous(content: str) -> None:
    json.loads(content)  # it is JSON, and Python's own reader takes the last
    assert re.search("names the key '.*' twice|it cannot be read", str(ambiguous(httpx.Response(202, content=content))))


@pytest.mark.slow
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4), st.booleans(), st.data())
def test_deletion_response_repeated_key_is_found(names: list[str], escaped: bool, data: st.DataObject) -> None:
    devices = [{"uid": f'{at}"uid":', "name": name, "status": "SCHEDULED"} for at, name in enumerate(names)]
    text = json.dumps({"devices": devices}, ensure_ascii=escaped)
    assert [dict(device) for device in DeletionResponse.read(text.encode()).devices] == devices
    at = data.draw(st.sampled_from([at for at, letter in enumerate(text) if text[at : at + 9] == '"status":']))
    with pytest.raises(RepeatedKeyError):
        DeletionResponse.read(f'{text[:at]}"name":"{at}",{text[at:]}'.encode())


@pytest.mark.parametrize("status", [200, 201, 204, 206])
def test_delete_devices_success_other_than_202_is_ambiguous(status: int) -> None:
    error = ambiguous(httpx.Response(status, json=body(*["SCHEDULED"] * 3)))

    assert f"it is a {status}, not a 202" in str(error)
    assert error.status == status


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(400, json={"code": "BATCH_SIZE_EXCEEDED", "message": "at most 2"}), NexthinkBatchSizeError),
        (httpx.Response(400, json={"code": "INVALID_REQUEST", "message": "blank"}), NexthinkInvalidRequestError),
        (httpx.Response(429, headers={"retry-after": "1"}), NexthinkRateLimitError),
        (httpx.Response(500, json={"code": "INTERNAL_ERROR", "message": "sorry"}), NexthinkUnavailableError),
        (httpx.ReadTimeout("slow"), NexthinkUnavailableError),
    ],
)
def test_delete_devices_does_not_retry(response: httpx.Response | Exception, kind: type[Exception]) -> None:
    tenant = Deletions(response)
    with pytest.raises(kind) as caught:
        tenant.delete()

    assert type(caught.value) is kind
    assert len(tenant.received) == 1
    assert getattr(caught.value, "request_id", None) == "my-request-id"


def test_delete_devices_403_names_the_permission() -> None:
    response = httpx.Response(403, json={"code": "FEATURE_NOT_ENABLED", "message": "no"})
    with pytest.raises(NexthinkPermissionError, match="Tick the permission 'Data management'") as caught:
        Deletions(response).delete()

    assert caught.value.code == "FEATURE_NOT_ENABLED"


def test_delete_devices_401_sends_the_same_devices_with_a_new_token() -> None:
    tenant = Deletions(httpx.Response(401), httpx.Response(202, json=body(*["SCHEDULED"] * 3)))

    assert tenant.delete().statuses == ["SCHEDULED"] * 3
    first, second = tenant.received
    assert first.content == second.content
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
