"""What a response means. Pure: a response goes in, the error for it comes out."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from airflow_provider_nexthink.api.models import ErrorResponse
from airflow_provider_nexthink.devices.identity import as_storable
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkApiError,
    NexthinkAuthenticationError,
    NexthinkBatchSizeError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkProxyError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkSettingsError,
    NexthinkUnavailableError,
)

_BY_CODE: dict[str, type[NexthinkApiError]] = {
    "BATCH_SIZE_EXCEEDED": NexthinkBatchSizeError,
    "INVALID_REQUEST": NexthinkInvalidRequestError,
}

_BY_STATUS: dict[int, type[NexthinkApiError]] = {
    401: NexthinkAuthenticationError,
    403: NexthinkPermissionError,
    404: NexthinkNotFoundError,
    408: NexthinkUnavailableError,
    413: NexthinkBatchSizeError,
    425: NexthinkUnavailableError,
    429: NexthinkRateLimitError,
}

_HINTS: dict[int, str] = {
    400: "The request was refused as it stands; a retry changes nothing.",
    401: "A new token was refused too: check that the API credential is still active in Nexthink.",
    403: "Tick the permission of this API on the API credential in Nexthink.",
    413: "The request is too large for a proxy or gateway in between: a smaller batch_size may help.",
    404: "Check the instance, the region and, where one is set, the base_url of the connection.",
    429: "Nexthink asks for fewer requests; try again later.",
}

_PROXY_REFUSALS = ("403", "407")

# By OpenSSL's codes (X509_V_ERR_...).
_CERTIFICATE_HINTS: dict[tuple[int, ...], str] = {
    (2, 18, 19, 20, 21, 24, 27): (
        "No authority that this machine trusts has signed it. Behind a proxy that inspects TLS, set the connection's "
        "extra 'verify' to the path of its CA bundle."
    ),
    (9, 10): "Check the clock of this machine; if it is right, the certificate must be renewed.",
    (62, 64): "It is that of another host: check the address, and whether a proxy is in between.",
}
_ANY_CERTIFICATE = (
    "Its issuer must replace it (behind a proxy that inspects TLS, that is the proxy). Python 3.13 and later check "
    "more strictly (RFC 5280). The connection's extra 'verify' takes the path of another CA bundle."
)

_SHOWN_CHARACTERS = 300
_TRACE_ID_CHARACTERS = 100


def to_error(
    response: httpx.Response,
    *,
    now: datetime,
    hints: Mapping[int, str] | None = None,
    proxy: str | None = None,
    scrub: Callable[[str], str] = str,
) -> NexthinkApiError | None:
    """Return the error for a response, or None for a success (2xx).

    :param response: the response, already read.
    :param now: the time, for a ``Retry-After`` that is a date.
    :param hints: by status, what to do about it, instead of the general hint.
    :param proxy: the address of the proxy that the request went through.
    :param scrub: takes secrets out of what the other side said.
    """
    if response.is_success:
        return None
    body = _error_body(response, scrub)
    status = response.status_code
    hints = {**_HINTS, **(hints or {})}
    is_of_proxy = status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED or (
        status == httpx.codes.FORBIDDEN and response.content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"
    )
    if is_of_proxy:
        hints[status] = (
            f"This response is not Nexthink's: {f'the proxy {proxy}' if proxy else 'a proxy or gateway'} in between "
            f"refused the request. Check whether it lets this machine through to {response.request.url.host}."
        )
    known = _BY_CODE.get(str(body.code)) if status == httpx.codes.BAD_REQUEST else _BY_STATUS.get(status)
    by_class = NexthinkUnavailableError if status >= 500 else NexthinkRequestError
    return (NexthinkProxyError if is_of_proxy else known or by_class)(
        _message(response, body, hints),
        status=status,
        code=str(body.code) if body.code is not None else None,
        request_id=response.request.headers.get("x-request-id"),
        trace_id=trace_id_of(response, scrub),
        detail=body.message,
        retry_after=_retry_after(response, now),
    )


def trace_id_of(response: httpx.Response, scrub: Callable[[str], str] = str) -> str | None:
    """Return the ``x-trace-id`` of a response, where it has one.

    :param response: the response.
    :param scrub: takes secrets out of what the other side said.
    """
    trace_id = response.headers.get("x-trace-id")
    return scrub(trace_id)[:_TRACE_ID_CHARACTERS] if trace_id else None


def no_response(
    error: httpx.RequestError,
    request: httpx.Request,
    *,
    has_left: bool = True,
    proxy: str | None = None,
    tls_with_proxy: bool = False,
    scrub: Callable[[str], str] = str,
) -> NexthinkError:
    """Return the error for a request that got no response.

    :param error: what httpx says.
    :param request: the request; the query of its address, which may be signed, is not shown.
    :param has_left: whether the request has left this machine.
    :param proxy: the address of the proxy that it was to go through.
    :param tls_with_proxy: whether the last TLS handshake was with the proxy itself.
    :param scrub: takes secrets out of what the other side said.
    """
    url, request_id = request.url, request.headers.get("x-request-id")
    host = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            whose = f"the proxy {proxy}" if tls_with_proxy else host
            code, reason = getattr(cause, "verify_code", 0), getattr(cause, "verify_message", str(cause))
            hint = next((hint for codes, hint in _CERTIFICATE_HINTS.items() if code in codes), _ANY_CERTIFICATE)
            return NexthinkSettingsError(f"The certificate of {whose} is not accepted: {reason.rstrip('.')}. {hint}")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError) and not has_left:
        return NexthinkSettingsError(f"The request to {host} could not be made: {type(error).__name__}.")
    reason = _reason(error, scrub)
    if isinstance(error, httpx.ProxyError) and reason.startswith(_PROXY_REFUSALS):
        return NexthinkSettingsError(
            f"The proxy {proxy} refused the connection to {host}: {reason}. Check the user and the password of the "
            "proxy, and whether it lets this machine through to Nexthink. It was not sent."
        )
    via = f" through the proxy {proxy}" if proxy else ""
    if not has_left or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return NexthinkConnectError(
            f"No connection to {host}{via}: {reason}. The request was not sent.", request_id=request_id, reason=reason
        )
    return NexthinkUnavailableError(
        f"No response from {host}{url.path}{via}: {reason}.", request_id=request_id, reason=reason
    )


def ambiguous_response(problem: str, request: httpx.Request) -> NexthinkAmbiguousResponseError:
    """Return the error for an ambiguous response: the request has left, and its outcome is not known.

    :param problem: what is wrong with it.
    :param request: the request.
    """
    url = request.url.copy_with(query=None, fragment=None)
    return NexthinkAmbiguousResponseError(
        f"{request.method} {url} was sent, but {problem}.",
        request_id=request.headers.get("x-request-id"),
        reason=problem,
    )


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Read a ``Retry-After`` header: seconds, an HTTP date, or an ISO date and time.

    NQL documents it as "the date and time" to wait for; RFC 9110 allows seconds and the HTTP date.

    :param value: the header, or None.
    :param now: the time, with its zone.
    :return: seconds from now, never below 0; None where it is missing or unreadable.
    """
    text = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return max(0.0, (moment - now).total_seconds())
        except (ValueError, OverflowError):
            continue
    return None


def _retry_after(response: httpx.Response, now: datetime) -> float | None:
    """Return the longest wait that a response asks for: something in between may add a header of its own."""
    values = response.headers.get_list("retry-after")
    numbers = [part for value in values if re.fullmatch(r"[\d\s.,]+", value) for part in value.split(",")]
    waits = [parse_retry_after(value, now) for value in values + numbers]
    return max((wait for wait in waits if wait is not None), default=None)


def _error_body(response: httpx.Response, scrub: Callable[[str], str]) -> ErrorResponse:
    """Read Nexthink's error body, without secrets and not too long; responses of proxies and gateways have none."""
    try:
        body = ErrorResponse.read(response.content)
    except ValueError:
        return ErrorResponse()
    code = as_storable(scrub(body.code))[:_SHOWN_CHARACTERS] if isinstance(body.code, str) else body.code
    message = as_storable(scrub(body.message))[:_SHOWN_CHARACTERS] if body.message else None
    return ErrorResponse(code=code, message=message)


def _message(response: httpx.Response, body: ErrorResponse, hints: Mapping[int, str]) -> str:
    request = response.request
    where = f"{request.method} {request.url.copy_with(query=None, fragment=None)}"
    code = body.code if body.code != response.status_code else None
    said = " ".join(str(part) for part in (code, body.message) if part)[:_SHOWN_CHARACTERS].rstrip(". ")
    if response.is_redirect:
        hint = "Redirects are not followed: check the base_url, or the proxy in between."
    else:
        hint = hints.get(response.status_code, _HINTS[400] if response.is_client_error else "")
    return " ".join(
        part for part in (f"{where} returned {response.status_code}{f' {said}' if said else ''}.", hint) if part
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: httpx.RequestError, scrub: Callable[[str], str]) -> str:
    """Return the cause of a failure, in a few words and without the secrets that the other side may repeat."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection within the timeout"
    if isinstance(error, httpx.ReadTimeout):
        return "no response within the timeout"
    if isinstance(error, httpx.WriteTimeout):
        return "the request could not be sent within the timeout"
    system = next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror), None)
    text = (system.strerror if system else None) or str(error) or type(error).__name__
    return scrub(text)[:_SHOWN_CHARACTERS].rstrip(". ")
