"""The Data Management API: ask for the deletion of up to 100 devices at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError
from pydantic_core import to_json

from airflow_provider_nexthink.api.errors import trace_id_of
from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.models import DeletionResponse
from airflow_provider_nexthink.exceptions import NexthinkAmbiguousResponseError

PATH = "/api/v1/data-management/device/deletions"

# The response repeats each device with a status; as JSON it may escape every character.
_SPARE_BYTES = 64 * 1024
_ECHO_FACTOR = 8

_JSON = {"Content-Type": "application/json"}

_HINTS = {
    403: "Tick the permission 'Data management' on the API credential in Nexthink; where the box is missing, "
    "the feature is not enabled for this tenant: ask Nexthink.",
}


@dataclass(frozen=True)
class BatchResponse:
    """The response to one deletion request.

    :param statuses: SCHEDULED, INVALID or FAILED, in the order of the devices that were sent.
    :param trace_id: the ``x-trace-id`` of the response, where it had one.
    """

    statuses: Sequence[str]
    trace_id: str | None


def delete_devices(
    transport: Transport,
    devices: Sequence[Mapping[str, str]],
    request_id: str,
    *,
    depart: Callable[[], None] = lambda: None,
    refused: Callable[[], None] = lambda: None,
    is_cancelled: Callable[[], bool] | None = None,
) -> BatchResponse:
    """Ask for the deletion of these devices, once. There is no undo.

    :param transport: of the tenant.
    :param devices: up to 100 of ``{"uid": ..., "name": ...}``.
    :param request_id: the ``x-request-id`` to send.
    :param depart: called at the moment at which the request leaves; it does not if this raises.
    :param refused: called when a 401 has come, before a new token is fetched.
    :param is_cancelled: asked while waiting for the response; once it says yes, the wait ends.
    :raises NexthinkAmbiguousResponseError: if the response does not say what became of each device.
    :raises NexthinkError: for any response other than 202, and for none.
    """
    body = to_json({"devices": devices})  # as ``json`` would, at a quarter of the cost
    response = transport.send_once(
        "POST",
        PATH,
        content=body,
        headers=_JSON,
        request_id=request_id,
        hints=_HINTS,
        depart=depart,
        refused=refused,
        is_cancelled=is_cancelled,
        max_bytes=_SPARE_BYTES + _ECHO_FACTOR * len(body),
    )
    trace_id = trace_id_of(response, transport.scrub)
    try:
        if response.status_code != httpx.codes.ACCEPTED:
            raise ValueError(f"it is a {response.status_code}, not a 202")
        response_body = _read(response.content)
        if len(response_body.devices) != len(devices):
            raise ValueError(f"it names {len(response_body.devices)} of {len(devices)} devices")
        for sent, received in zip(devices, response_body.devices, strict=True):
            if received["uid"] != sent["uid"] or received["name"] != sent["name"]:
                raise ValueError("it names other devices than were sent, or in another order")
        statuses = [received["status"] for received in response_body.devices]
        scheduled = statuses.count("SCHEDULED")
        counted = scheduled if response_body.scheduledCount is None else response_body.scheduledCount
        if response_body.status not in (None, "ACCEPTED") or counted < scheduled:
            raise ValueError("it contradicts itself")
    except ValueError as problem:
        raise NexthinkAmbiguousResponseError(
            f"The response to the deletion request cannot be trusted: {problem}.",
            reason=f"the response cannot be trusted: {problem}",
            status=response.status_code,
            request_id=request_id,
            trace_id=trace_id,
        ) from None
    return BatchResponse(statuses, trace_id)


def _read(content: bytes) -> DeletionResponse:
    try:
        return DeletionResponse.read(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "the body"
        raise ValueError(f"it cannot be read ({where})") from None
