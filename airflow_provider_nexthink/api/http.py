"""The one place that sends requests, shared by all threads of a task.

Requests go to the connections directly. ``httpx.Client`` would add cookies, redirects and a log line
with the address, none of which is wanted, at the cost of building the request once more.
"""

from __future__ import annotations

import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, Self, cast

import httpx
from pydantic import SecretStr

from airflow_provider_nexthink.api.auth import USER_AGENT, NexthinkAuth, token_error
from airflow_provider_nexthink.api.connections import Connections, Exchange
from airflow_provider_nexthink.api.errors import ambiguous_response, no_response, to_error
from airflow_provider_nexthink.api.settings import NexthinkSettings, is_private_enough
from airflow_provider_nexthink.backoff import MAX_ATTEMPTS, wait_before_retry
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkExportError,
    NexthinkInputError,
    NexthinkRateLimitError,
    NexthinkRetryableError,
    NexthinkSettingsError,
    NexthinkStoppedError,
    NexthinkTokenError,
)

log = logging.getLogger(__name__)

_RESPONSE_TIMEOUTS = 4
"""An exchange may take so many times the timeout, which is that of a single wait."""

_DOWNLOAD_BYTES_PER_SECOND = 32 * 1024
"""A result file that comes more slowly than this is given up."""

_DOWNLOAD_SECONDS = 3600.0
"""No result file may take longer than this."""

_RESPONSE_BYTES = 64 * 1024 * 1024
_TOKEN_BYTES = 1024 * 1024
_ERROR_BYTES = 64 * 1024
"""An error that is larger, or cannot be decompressed, counts by its status alone."""

_SECRET_CHARACTERS = 6

_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip",
    "Connection": "keep-alive",
    "User-Agent": USER_AGENT,
}
_ENCODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


class Download:
    """The bytes of a result file, as they come.

    :param response: the response of the store.
    :param exchange: its limits; each byte that comes moves the deadline.
    """

    def __init__(self, response: httpx.Response, exchange: Exchange) -> None:
        self._response = response
        self._exchange = exchange
        length = response.headers.get("content-length", "")
        is_chunked = "transfer-encoding" in response.headers
        self._length = int(length) if length.isdecimal() and not is_chunked else None
        self.has_length = is_chunked or self._length is not None
        """Whether a file that is cut off is noticed: where neither length nor chunks are given, it is not."""

    def __iter__(self) -> Iterator[bytes]:
        received, least_seconds = 0, self._exchange.seconds
        for chunk in self._response.iter_raw():
            received += len(chunk)
            more_seconds = received / _DOWNLOAD_BYTES_PER_SECOND
            self._exchange.seconds = max(least_seconds, min(least_seconds + more_seconds, _DOWNLOAD_SECONDS))
            yield chunk
        if self._length is not None and received != self._length:
            raise NexthinkExportError(f"The result file is cut off: {received:,} of {self._length:,} bytes have come.")


def untraced(_: httpx.Request) -> AbstractContextManager[None]:
    """Send a request outside any trace."""
    return nullcontext()


class Transport:
    """Sends requests to one tenant and turns each response that is no success into an error.

    Safe to share between threads. The bearer token goes to the API host and nowhere else; redirects
    are not followed.

    :param settings: the tenant and the credential.
    :param on_secret: called with every value that must not show in a log, as soon as it is known.
    :param traced: the context in which a request is sent; may add headers to it.
    :param max_attempts: how often one request is sent at most; 1 for a caller that has its own retries, such as a
        trigger, whose event loop must not sleep here.
    :param is_stopped: called during every wait but that for a connection; once it returns true, the wait ends with
        ``NexthinkStoppedError``.
    :param clock: time and chance.
    :param http_transport: what carries the requests, for tests; by default the network.
    """

    def __init__(
        self,
        settings: NexthinkSettings,
        *,
        on_secret: Callable[[str], None] = lambda _: None,
        traced: Callable[[httpx.Request], AbstractContextManager[object]] = untraced,
        max_attempts: int = MAX_ATTEMPTS,
        is_stopped: Callable[[], bool] = lambda: False,
        clock: Clock | None = None,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self._report_secret = on_secret
        self._traced = traced
        self._max_attempts = max_attempts
        self._is_stopped = is_stopped
        self._is_closed = False
        self._secrets: list[SecretStr] = []
        self._add_secret(settings.client_secret.get_secret_value())
        if settings.proxy and (password := httpx.URL(settings.proxy.get_secret_value()).password):
            self._add_secret(password)
        if settings.verify is False:
            log.warning("Certificates are not checked (verify=false): anyone on the way can read the secret.")
        self._connections = Connections(settings, http_transport)
        self._auth = NexthinkAuth(settings, self._fetch_token, on_secret=self._add_secret, clock=self.clock.monotonic)
        self.get_token = self._auth.get_token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end the waits of other threads."""
        self._is_closed = True
        self._connections.close()

    def scrub(self, text: str) -> str:
        """Remove every known secret from a text of the other side, which may repeat what was sent."""
        for secret in self._secrets:
            if len(secret) >= _SECRET_CHARACTERS:  # shorter ones are part of any text
                text = text.replace(secret.get_secret_value(), "***")
        return text

    def send_once(
        self,
        method: str,
        path: str,
        *,
        request_id: str | None = None,
        hints: Mapping[int, str] | None = None,
        depart: Callable[[], None] = lambda: None,
        refused: Callable[[], None] = lambda: None,
        is_cancelled: Callable[[], bool] | None = None,
        max_bytes: int = _RESPONSE_BYTES,
        **request_options: Any,
    ) -> httpx.Response:
        """Send a request once (and once more with a new token after a 401).

        :param method: the HTTP method.
        :param path: the path on the API host, from its first slash.
        :param request_id: the ``x-request-id`` to send; a new one where it is None.
        :param hints: by status, what to do about it.
        :param depart: called at the moment at which the request leaves; it does not if this raises.
        :param refused: called when a 401 has come, before a new token is fetched.
        :param is_cancelled: called while waiting for the response; once it returns true, the wait ends. By default
            ``is_stopped``.
        :param max_bytes: how large the response may be, also once decompressed.
        :param request_options: ``json``, ``params``, ``headers`` and so on, as httpx names them.
        :return: the response, a success (2xx).
        :raises NexthinkError: for every other response, and for none.
        """
        timeout = request_options.pop("timeout", self.settings.timeout)
        exchange = self._exchange(timeout, is_cancelled or self._has_ended, depart)
        request = self._request(method, path, request_id or str(uuid.uuid4()), request_options)
        with self._traced(request):
            flow = self._auth.sync_auth_flow(request)
            response = self._response(next(flow), exchange, max_bytes)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                refused()
            with suppress(StopIteration):  # of a flow that is done
                request = flow.send(response)
                exchange.has_left = False  # the first attempt got its response: 401
                response = self._response(request, exchange, max_bytes)
            return self._checked(response, hints)

    def send(self, method: str, path: str, *, idempotent: bool, **request_options: Any) -> httpx.Response:
        """Send a request, with retries and exponential backoff.

        :param method: the HTTP method.
        :param path: the path on the API host.
        :param idempotent: whether to retry after a failure that leaves open whether the request was carried out. A
            request that never left, or got a 429, was not carried out, and is always retried.
        :param request_options: as ``send_once`` takes them.
        :return: the response, a success (2xx).
        :raises NexthinkError: for the last response, where none was a success.
        """
        request_id = request_options.pop("request_id", None) or str(uuid.uuid4())
        return self._retry(
            lambda: self.send_once(method, path, request_id=request_id, **request_options), idempotent=idempotent
        )

    def pause(self, seconds: float) -> None:
        """Wait; a stop ends it.

        :param seconds: how long.
        :raises NexthinkStoppedError: if it was stopped.
        """
        self.clock.sleep(seconds, self._has_ended)
        self._check_stop()

    @contextmanager
    def download(self, url: SecretStr) -> Iterator[Download]:
        """Open a result file by its signed address: without the token, and without a trace in a log.

        It has a deadline: four times the timeout, and a second more for each 32 KiB that have come, up to an hour.

        :param url: the signed address.
        :return: a context manager that gives the bytes of the file as they come.
        :raises NexthinkExportError: if the file cannot be fetched.
        :raises NexthinkSettingsError: if a certificate is refused, or a proxy refuses the connection.
        """
        # The address is in no local variable and in no chained exception: tracebacks may show both.
        host = _storage_host(url)
        self._add_secret(url.get_secret_value())
        failure: NexthinkSettingsError | None = None
        problem, status = "", None
        exchange = self._exchange(self.settings.timeout, self._has_ended)
        try:
            # As it is stored: a compressed file that is cut off is noticed where it is decompressed.
            headers = _HEADERS | {"Accept-Encoding": "identity"}
            with self._connections.send(httpx.Request("GET", url.get_secret_value(), headers=headers), exchange) as got:
                if got.status_code == httpx.codes.OK:
                    _check_content_type(got.headers.get("content-type", ""), host)
                    yield Download(got, exchange)
                    return
                status = got.status_code
                problem = f"{host} returned {status}. The address of the file is good for 15 minutes only."
        except httpx.RequestError as error:
            # Only what names no more than the host.
            no_response = self._no_response(error, httpx.Request("GET", url.get_secret_value()), exchange)
            failure = no_response if isinstance(no_response, NexthinkSettingsError) else None
            del no_response
            problem = f"{type(error).__name__} from {host}."
        self._check_stop()
        if failure is not None:
            raise failure from None
        raise NexthinkExportError(f"The result file could not be fetched: {problem}", status=status) from None

    def _request(self, method: str, path: str, request_id: str, request_options: dict[str, Any]) -> httpx.Request:
        """Return a request that is not signed yet.

        :raises NexthinkInputError: if the path is none.
        """
        headers = httpx.Headers(_HEADERS)
        headers["x-request-id"] = request_id
        headers.update(request_options.pop("headers", None))
        return httpx.Request(method, _address(self.settings.base_url, path), headers=headers, **request_options)

    def _response(self, request: httpx.Request, exchange: Exchange, max_bytes: int = _RESPONSE_BYTES) -> httpx.Response:
        """Send a request and read its response, a success or not.

        Every error that arises once the request has left is ambiguous: the request may have
        been carried out.
        """
        try:
            with self._connections.send(request, exchange) as response:
                return self._read_response(response, exchange, max_bytes)
        except httpx.RequestError as error:
            if not exchange.has_left:  # else it may have been carried out, stopped or not
                self._check_stop()
            raise self._no_response(error, request, exchange) from None
        except NexthinkError:
            raise
        except Exception as error:
            if not exchange.has_left:
                raise
            raise ambiguous_response(f"{type(error).__name__} while its response was read", request) from error

    def _no_response(self, error: httpx.RequestError, request: httpx.Request, exchange: Exchange) -> NexthinkError:
        return no_response(
            error,
            request,
            has_left=exchange.has_left,
            proxy=self._connections.proxy_for(request.url),
            tls_with_proxy=exchange.tls_with_proxy,
            scrub=self.scrub,
        )

    def _exchange(
        self, timeout: float, is_cancelled: Callable[[], bool], depart: Callable[[], None] = lambda: None
    ) -> Exchange:
        return Exchange(timeout, _RESPONSE_TIMEOUTS * timeout, is_cancelled, depart)

    def _read_response(self, response: httpx.Response, exchange: Exchange, max_bytes: int) -> httpx.Response:
        """Return a response with its body: bounded, and with no other encoding than was asked for."""
        headers: Any = response.headers
        try:
            body = _read_body(response, max_bytes if response.is_success else _ERROR_BYTES)
        except NexthinkAmbiguousResponseError:
            if response.is_success:
                raise
            body = b""
        if "content-encoding" in headers:
            headers = [(name, value) for name, value in headers.multi_items() if name not in _BODY_HEADERS]
        whole = httpx.Response(
            response.status_code,
            headers=headers,
            content=body,
            request=response.request,
            extensions=response.extensions,
        )
        whole.elapsed = timedelta(seconds=time.monotonic() - exchange.left_at)
        return whole

    def _checked(self, response: httpx.Response, hints: Mapping[int, str] | None = None) -> httpx.Response:
        """Return a response that is a success (2xx).

        :raises NexthinkError: what any other response means.
        """
        if response.is_success:
            return response
        proxy = self._connections.proxy_for(response.request.url)
        if error := to_error(response, now=self.clock.now(), hints=hints, proxy=proxy, scrub=self.scrub):
            raise error
        return response

    def _add_secret(self, value: str) -> None:
        self._secrets.append(SecretStr(value))
        self._report_secret(value)

    def _fetch_token(self, request: httpx.Request) -> httpx.Response:
        """Send the token request, with retries: it is known to time out now and then."""
        timeout = self.settings.timeout

        def attempt() -> httpx.Response:
            return self._checked(self._response(request, self._exchange(timeout, self._has_ended), _TOKEN_BYTES))

        try:
            return self._retry(attempt, idempotent=True)
        except NexthinkError as error:
            raise token_error(error, self.settings) from None

    def _retry(self, attempt: Callable[[], httpx.Response], *, idempotent: bool) -> httpx.Response:
        attempts = 1
        while True:
            self._check_stop()
            try:
                return attempt()
            except NexthinkRetryableError as error:
                wait = wait_before_retry(attempts, getattr(error, "retry_after", None), self.clock.rng)
                # Both say that the request was not carried out.
                may_repeat = idempotent or isinstance(error, NexthinkRateLimitError | NexthinkConnectError)
                if (
                    attempts >= self._max_attempts
                    or wait is None
                    or not may_repeat
                    or isinstance(error, NexthinkTokenError | NexthinkStoppedError)
                ):
                    raise
                log.info("%s Retry in %.1f s.", error, wait)
            self.pause(wait)
            attempts += 1

    def _has_ended(self) -> bool:
        return self._is_closed or self._is_stopped()

    def _check_stop(self) -> None:
        if self._has_ended():
            raise NexthinkStoppedError("The run was stopped from outside: nothing more is sent.")


def _read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """Read a body and decompress it, one layer, as far as it may be large.

    :raises NexthinkAmbiguousResponseError: if it is larger, or has an encoding that was not asked for, or is damaged.
    """
    request = response.request
    size = f"{max_bytes // 1024**2} MiB" if max_bytes >= 1024**2 else f"{max_bytes // 1024} KiB"
    body = bytearray()
    for chunk in cast("httpx.SyncByteStream", response.stream):
        body += chunk
        if len(body) > max_bytes:
            raise ambiguous_response(f"its response is larger than {size}", request)
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise ambiguous_response(f"its response has the encoding {encoding[:40]!r}, which was not asked for", request)
    if not _ENCODINGS[encoding] or not body:
        return bytes(body)
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        decoded = decoder.decompress(body, max_bytes)
    except zlib.error as error:
        raise ambiguous_response(f"its response cannot be decompressed ({error})", request) from None
    if decoder.unconsumed_tail:
        raise ambiguous_response(f"its response is larger than {size}", request)
    if not decoder.eof:
        raise ambiguous_response("its response is cut off", request)
    return decoded


@lru_cache
def _address(base_url: str, path: str) -> httpx.URL:
    """Return the address of a path; a run of many requests parses it once."""
    if not path.startswith("/") or path.startswith("//"):
        raise NexthinkInputError(f"{path!r} is no path on the API host: it must start with one slash.")
    try:
        return httpx.URL(f"{base_url}{path}")
    except httpx.InvalidURL as error:
        raise NexthinkInputError(f"{path!r} is no path: {error}.") from None


def _check_content_type(content_type: str, host: str) -> None:
    """Refuse what calls itself something else than a table.

    :raises NexthinkExportError: if it does.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.endswith(("html", "json", "xml")):
        raise NexthinkExportError(
            f"The result file could not be fetched: {host} returned 200 with {media_type[:40]}, not with a CSV file."
        )


def _storage_host(url: SecretStr) -> str:
    """Return the host of a signed address, if a file may be fetched from there."""
    host = None
    with suppress(httpx.InvalidURL, ValueError):
        host = _host_to_fetch_from(url)
    if host is None:
        raise NexthinkExportError("The address of the result file is not plain https: it was not fetched.")
    return host


def _host_to_fetch_from(url: SecretStr) -> str | None:
    address = httpx.URL(url.get_secret_value())
    address.raw_host.decode("ascii").encode("idna")  # as the socket will: no label is empty or too long
    return address.host if is_private_enough(address) and not address.userinfo else None
