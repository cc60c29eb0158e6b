"""The NQL API: run a saved query at once, or export its result and fetch the file.

Facts of the NQL API 1.2.0. Every value is text, as it is in Nexthink: a device may be named ``NA``,
``00123`` or ``1E10``, and must keep that name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.models import ExecuteResponse, ExportResponse, StatusResponse
from airflow_provider_nexthink.api.query import check_query_id, parameters_as_text
from airflow_provider_nexthink.api.result_file import ResultLimits, read_csv
from airflow_provider_nexthink.backoff import jittered_backoff
from airflow_provider_nexthink.exceptions import (
    NexthinkExportError,
    NexthinkExportTimeoutError,
    NexthinkNotFoundError,
    NexthinkResultLimitError,
    NexthinkTruncatedError,
)
from airflow_provider_nexthink.strict_json import read_json

log = logging.getLogger(__name__)

_DESCRIPTION_CHARACTERS = 300

Compression = Literal["NONE", "GZIP", "ZSTD"]

_DOWNLOAD_ATTEMPTS = 3

EXECUTE_PATH = "/api/v2/nql/execute"
EXPORT_PATH = "/api/v1/nql/export"

EXECUTE_ROWS = 1000
"""About so many rows are all that a query executed at once gives, as users report."""

POLL_SECONDS = 5.0
"""The first wait between two polls of an export."""

MAX_POLL_SECONDS = 60.0
"""The longest wait between two polls: Nexthink pauses the API of tenants that poll too often."""

EXPORT_SECONDS = 3600.0
"""The default timeout of an export."""

_Read = TypeVar("_Read")


class ExportOptions(TypedDict, total=False):
    """The options of an export. See ``NexthinkClient.export_nql``."""

    compression: Compression
    poll_interval: float
    timeout: float
    allow_truncated: bool


class NqlRows(list[dict[str, str]]):
    """The rows of a result, each ``{column: text}``.

    :param rows: the rows.
    :param columns: the names of the columns, also where there is no row; empty where Nexthink named none.
    :param truncated: whether the license's maximum cut the result off.
    """

    def __init__(
        self,
        rows: Iterator[dict[str, str]] | list[dict[str, str]],
        columns: list[str],
        truncated: bool = False,
    ) -> None:
        super().__init__(rows)
        self.columns = columns
        self.truncated = truncated


def execute(transport: Transport, query_id: str, parameters: Mapping[str, str] | None = None) -> NqlRows:
    """Run a saved query at once; for small results (about 1,000 rows), with times in UTC.

    :param transport: of the tenant.
    :param query_id: the id of the saved query.
    :param parameters: values for the query's ``where`` clause, as text.
    :raises NexthinkError: if Nexthink refuses, or does not respond.
    """
    response = transport.send(
        "POST",
        EXECUTE_PATH,
        idempotent=True,
        json=_query(query_id, parameters),
        headers={"Accept": "application/json", "x-utc-times": "true"},
        hints=_hints(query_id),
    )
    rows = _read(lambda: _executed_rows(response.content), response)
    if len(rows) >= EXECUTE_ROWS:
        log.warning("%s gave %d rows, which may not be all of them: export it instead.", query_id, len(rows))
    return NqlRows(rows, columns=list(dict.fromkeys(column for row in rows for column in row)))


def start_export(
    transport: Transport,
    query_id: str,
    parameters: Mapping[str, str] | None = None,
    compression: Compression = "GZIP",
) -> str:
    """Start the export of a saved query's result.

    :param transport: of the tenant.
    :param query_id: the id of the saved query.
    :param parameters: values for the query's ``where`` clause, as text.
    :param compression: of the result file.
    :return: the id of the export.
    :raises NexthinkError: if Nexthink refuses, or does not respond.
    """
    response = transport.send(
        "POST",
        EXPORT_PATH,
        idempotent=True,
        json={**_query(query_id, parameters), "compression": compression},
        hints=_hints(query_id),
    )
    return _read(lambda: ExportResponse.read(response.content), response).exportId


def export_status(transport: Transport, export_id: str) -> tuple[StatusResponse, bool]:
    """Ask how far an export is.

    :param transport: of the tenant.
    :param export_id: what ``start_export`` returned.
    :return: the status, and whether it says that the result was cut off (206).
    :raises NexthinkExportError: if the export ended in an error.
    :raises NexthinkError: if Nexthink refuses, or does not respond.
    """
    path = _status_path(export_id)
    try:
        response = transport.send("GET", path, idempotent=True)
    except NexthinkNotFoundError as error:  # the path is right: the export is gone, and another one may help
        raise NexthinkExportError(
            f"Nexthink does not know the export {export_id} (any more).",
            status=error.status,
            request_id=error.request_id,
        ) from None
    return _status(export_id, response, transport.scrub)


def is_ready(transport: Transport, export_id: str) -> bool:
    """Tell whether the file of an export is there.

    :param transport: of the tenant.
    :param export_id: what ``start_export`` returned.
    :raises NexthinkExportError: if the export ended in an error.
    :raises NexthinkError: if Nexthink refuses, or does not respond.
    """
    return export_status(transport, export_id)[0].status == "COMPLETED"


def wait_for_export(transport: Transport, export_id: str, *, poll_interval: float, timeout: float) -> None:
    """Wait until the file of an export is there. Polls at least once.

    :param transport: of the tenant.
    :param export_id: what ``start_export`` returned.
    :param poll_interval: seconds before the second poll; each further wait is half as long again, to a minute.
    :param timeout: seconds after which to give up.
    :raises NexthinkExportTimeoutError: if it takes longer than that.
    :raises NexthinkExportError: if the export fails.
    """
    end = transport.clock.monotonic() + timeout
    for wait in poll_waits(poll_interval):
        if is_ready(transport, export_id):
            return
        left = end - transport.clock.monotonic()
        if left <= 0:
            raise NexthinkExportTimeoutError(
                f"The export {export_id} was not ready in time. Narrow the query, or raise the timeout."
            )
        transport.pause(min(wait, left))


def poll_waits(poll_interval: float) -> Iterator[float]:
    """Give the waits between two polls, growing to a minute.

    :param poll_interval: the first of them, in seconds.
    """
    while True:
        yield poll_interval
        poll_interval = min(poll_interval * 1.5, max(MAX_POLL_SECONDS, poll_interval))


@dataclass(frozen=True)
class NqlStream:
    """The rows of a result as they arrive.

    :param columns: the names of the columns.
    :param rows: the cells of each row, in the order of the columns, as text; once. It raises what is wrong with the
        file, perhaps only after the last row.
    :param truncated: whether the license's maximum cut the result off.
    """

    columns: list[str]
    rows: Iterator[list[str]]
    truncated: bool = False


def fetch_export(
    transport: Transport, export_id: str, *, allow_truncated: bool = False, limits: ResultLimits | None = None
) -> NqlRows:
    """Fetch the file of an export that is ready.

    :param transport: of the tenant.
    :param export_id: what ``start_export`` returned.
    :param allow_truncated: whether to take a result that the license's maximum cut off.
    :param limits: how large the file may be; by default as ``ResultLimits`` says.
    :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
    :raises NexthinkResultLimitError: if the file exceeds a limit.
    :raises NexthinkExportError: if the file cannot be fetched or read.
    """
    return read_export(transport, export_id, _as_rows, allow_truncated=allow_truncated, limits=limits)


def read_export(
    transport: Transport,
    export_id: str,
    read: Callable[[NqlStream], _Read],
    *,
    allow_truncated: bool = False,
    limits: ResultLimits | None = None,
) -> _Read:
    """Fetch the file of an export that is ready, and read it row by row.

    Each attempt asks for the address of the file again: it is valid for 15 minutes only.

    :param transport: of the tenant.
    :param export_id: what ``start_export`` returned.
    :param read: reads the rows. It is called again, with all rows from the first, after a download that failed.
    :param allow_truncated: whether to take a result that the license's maximum cut off.
    :param limits: how large the file may be; by default as ``ResultLimits`` says.
    :return: what ``read`` returned.
    :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
    :raises NexthinkResultLimitError: if the file exceeds a limit.
    :raises NexthinkExportError: if the file cannot be fetched or read.
    """
    attempt = 1
    while True:
        try:
            return _read_once(transport, export_id, read, allow_truncated, limits)
        except NexthinkExportError as error:
            if attempt >= _DOWNLOAD_ATTEMPTS or isinstance(error, NexthinkResultLimitError):
                raise
            log.info("%s Retrying.", error)
            transport.pause(jittered_backoff(attempt, transport.clock.rng))
        attempt += 1


def _read_once(
    transport: Transport,
    export_id: str,
    read: Callable[[NqlStream], _Read],
    allow_truncated: bool,
    limits: ResultLimits | None,
) -> _Read:
    status, truncated = export_status(transport, export_id)
    if truncated and not allow_truncated:
        raise NexthinkTruncatedError(
            f"The result of export {export_id} was cut off at the maximum of the tenant's license: devices are "
            "missing from it. Narrow the query, or set allow_truncated=True where a part will do.",
            status=httpx.codes.PARTIAL_CONTENT,
        )
    if truncated:
        log.warning("The export %s was cut off at the license's maximum: rows are missing.", export_id)
    if status.resultsFileUrl is None:
        raise NexthinkExportError(f"The export {export_id} names no file.")
    with transport.download(status.resultsFileUrl) as file:
        return read(NqlStream(*read_csv(file, limits, ends_with_line=not file.has_length), truncated))


def _as_rows(result: NqlStream) -> NqlRows:
    columns = result.columns
    rows = [dict(zip(columns, cells, strict=True)) for cells in result.rows]
    return NqlRows(rows, columns, result.truncated)


def _query(query_id: str, parameters: Mapping[str, str] | None) -> dict[str, object]:
    query: dict[str, object] = {"queryId": check_query_id(query_id)}
    if parameters is not None and (as_text := parameters_as_text(parameters)):
        query["parameters"] = as_text
    return query


def _hints(query_id: str) -> dict[int, str]:
    return {
        403: "Tick the permission 'NQL API' on the API credential in Nexthink.",
        404: f"Nexthink has no saved query {query_id}: create it there (NQL API queries) under exactly this id.",
    }


def _status_path(export_id: str) -> str:
    if not export_id.strip("."):
        raise NexthinkExportError(f"Nexthink named the export {export_id!r}, which is no id.")
    return f"/api/v1/nql/status/{quote(export_id, safe='')}"


def _status(export_id: str, response: httpx.Response, scrub: Callable[[str], str]) -> tuple[StatusResponse, bool]:
    status = _read(lambda: StatusResponse.read(response.content), response)
    if status.status == "ERROR":
        raise NexthinkExportError(
            f"Nexthink could not export the result (export {export_id}): "
            f"{scrub(status.errorDescription or 'no reason given')[:_DESCRIPTION_CHARACTERS]}.",
            request_id=response.request.headers.get("x-request-id"),
        )
    return status, response.status_code == httpx.codes.PARTIAL_CONTENT


def _read(read: Callable[[], _Read], response: httpx.Response) -> _Read:
    try:
        return read()
    except (ValueError, RecursionError):  # pydantic's and json's errors are ValueErrors
        raise NexthinkExportError(
            f"{response.request.url.copy_with(query=None)} returned {response.status_code} with a body that is not "
            "as the NQL API documents it.",
            status=response.status_code,
            request_id=response.request.headers.get("x-request-id"),
        ) from None


def _executed_rows(content: bytes) -> list[dict[str, str]]:
    # Numbers are kept as the text they came as: no float in between rounds or reformats them.
    executed = ExecuteResponse.model_validate(read_json(content, parse_float=str, parse_int=str, parse_constant=str))
    return [{column: _text(value) for column, value in row.items()} for row in executed.data]


def _text(value: object) -> str:
    """Return a JSON value as the text that a CSV of it would hold."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False)
