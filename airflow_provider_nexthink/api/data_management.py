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
from airflow_provider_nexthink.exceptions import NexthinkUnclearAnswerError

PATH = "/api/v1/data-management/device/deletions"

_JSON = {"Content-Type": "application/json"}

_CURES = {
    403: "Tick the permission 'Data management' on the API credential in Nexthink; where the box is missing, "
    "the feature is not enabled for this tenant: ask Nexthink.",
}


@dataclass(frozen=True)
class DeletionAnswer:
    """What Nexthink answered to one request.

    :param statuses: SCHEDULED, INVALID or FAILED, in the order of the devices that were sent.
    :param trace_id: the ``x-trace-id`` of the answer, where it had one.
    """

    statuses: Sequence[str]
    trace_id: str | None


def delete_devices(
    transport: Transport,
    devices: Sequence[Mapping[str, str]],
    request_id: str,
    *,
    depart: Callable[[], None] = lambda: None,
    is_cancelled: Callable[[], bool] | None = None,
) -> DeletionAnswer:
    """Ask for the deletion of these devices, once. There is no undo.

    :param transport: signed in to the tenant.
    :param devices: up to 100 of ``{"uid": ..., "name": ...}``.
    :param request_id: the ``x-request-id`` to send.
    :param depart: called at the moment at which the request leaves; it does not if this raises.
    :param is_cancelled: asked while waiting for the response; once it says yes, the wait ends.
    :raises NexthinkUnclearAnswerError: if the answer does not say what became of each of the devices.
    :raises NexthinkError: for any other answer than 202, and for none.
    """
    response = transport.send_once(
        "POST",
        PATH,
        content=to_json({"devices": devices}),  # the same as ``json``, at a quarter of the cost
        headers=_JSON,
        request_id=request_id,
        cures=_CURES,
        depart=depart,
        is_cancelled=is_cancelled,
    )
    trace_id = trace_id_of(response, transport.scrub)
    try:
        if response.status_code != httpx.codes.ACCEPTED:
            raise ValueError(f"it is a {response.status_code}, not a 202")
        answered = _read(response.content)
        if len(answered.devices) != len(devices):
            raise ValueError(f"it names {len(answered.devices)} of {len(devices)} devices")
        for asked, told in zip(devices, answered.devices, strict=True):
            if told["uid"] != asked["uid"] or told["name"] != asked["name"]:
                raise ValueError("it names other devices than were sent, or in another order")
        statuses = [told["status"] for told in answered.devices]
        scheduled = statuses.count("SCHEDULED")
        counted = scheduled if answered.scheduledCount is None else answered.scheduledCount
        if answered.status not in (None, "ACCEPTED") or counted < scheduled:
            raise ValueError("it contradicts itself")
    except ValueError as problem:
        raise NexthinkUnclearAnswerError(
            f"The response to the deletion request cannot be trusted: {problem}.",
            reason=f"the response cannot be trusted: {problem}",
            status=response.status_code,
            request_id=request_id,
            trace_id=trace_id,
        ) from None
    return DeletionAnswer(statuses, trace_id)


def _read(content: bytes) -> DeletionResponse:
    try:
        return DeletionResponse.read(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "the body"
        raise ValueError(f"it cannot be read ({where})") from None
