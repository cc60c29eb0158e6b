"""The one place that talks to the network, shared by all threads of a task.

Requests go to httpx's transports directly. What ``httpx.Client`` would do besides (cookies, redirects, a log line with
the address) is not wanted here, and costs as much again as building the request.
"""

from __future__ import annotations

import logging
import ssl
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, Self
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import SecretStr

from airflow_provider_nexthink.backoff import MAX_ATTEMPTS, wait_before_resend
from airflow_provider_nexthink.client.answers import error_of, no_answer
from airflow_provider_nexthink.client.auth import TokenProvider, sign_in_error
from airflow_provider_nexthink.client.settings import NexthinkSettings, is_private_enough
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkExportError,
    NexthinkInputError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkRetryableError,
    NexthinkSettingsError,
    NexthinkSignInError,
    NexthinkStoppedError,
)

log = logging.getLogger(__name__)


_ANSWER_TIMEOUTS = 4
_ANSWER_BYTES = 64 * 1024 * 1024
_SECRET_CHARACTERS = 6
_Way = Literal["plain", "direct", "proxied"]

_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "airflow-provider-nexthink",
}
_BODY_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


def untraced(_: httpx.Request) -> AbstractContextManager[None]:
    """Let a request go out as it is, in no trace."""
    return nullcontext()


class Transport:
    """Sends requests to one tenant and turns each answer that is no success into an error.

    Safe to share between threads. The bearer token goes to the API host and nowhere else; redirects
    are not followed.

    :param settings: the tenant and the credential.
    :param on_secret: told every value that must not show in a log, as soon as it is known.
    :param traced: what a request is sent within, once it is made; may add headers to it.
    :param max_attempts: how many times one request is sent at the most; 1 for a caller that retries by itself, such as
        an event loop, which must not sleep here.
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
        clock: Clock | None = None,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self._secrets: list[SecretStr] = []
        self._tell_secret = on_secret
        self._traced = traced
        self._max_attempts = max_attempts
        for secret in self._own_secrets():
            self._on_secret(secret)
        self._carriers = _Carriers(settings, http_transport)
        tokens = TokenProvider(settings, self._fetch_token, on_secret=self._on_secret, clock=self.clock.monotonic)
        self.sign_in = tokens.token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._carriers.close()

    def scrub(self, text: str) -> str:
        """Take every known secret out of what the other side said: it may repeat what was sent."""
        for secret in self._secrets:
            if len(secret) >= _SECRET_CHARACTERS:  # shorter ones stand in any text
                text = text.replace(secret.get_secret_value(), "***")
        return text

    @property
    def answer_seconds(self) -> float:
        """Within so many seconds an answer must have ended: httpx limits each read, not their sum."""
        return _ANSWER_TIMEOUTS * self.settings.timeout

    def request(self, method: str, path: str, request_id: str, parts: dict[str, Any]) -> httpx.Request:
        """Return a request that is not signed yet.

        :param method: the HTTP method.
        :param path: the path on the API host, from its first slash.
        :param request_id: the ``x-request-id`` to send.
        :param parts: ``json``, ``params``, ``headers`` and so on, as httpx names them.
        :raises NexthinkInputError: if it is no such path.
        """
        headers = httpx.Headers(_HEADERS)
        headers["x-request-id"] = request_id
        headers.update(parts.pop("headers", None))
        timeout = httpx.Timeout(parts.pop("timeout", self.settings.timeout))
        extensions = {"timeout": timeout.as_dict(), **(parts.pop("extensions", None) or {})}
        address = _address(self.settings.base_url, path)
        return httpx.Request(method, address, headers=headers, extensions=extensions, **parts)

    def answered(self, response: httpx.Response, cures: Mapping[int, str] | None = None) -> httpx.Response:
        """Return an answer that is a success (2xx).

        :param response: the answer, read.
        :param cures: by status, what a person can do about it.
        :raises NexthinkError: what any other answer stands for.
        """
        if refusal := error_of(response, now=self.clock.now(), cures=cures, scrub=self.scrub):
            raise refusal
        return response

    def unanswered(self, error: httpx.RequestError, request: httpx.Request) -> NexthinkError:
        """Return the error for a request that got no answer.

        :param error: what httpx says.
        :param request: the request.
        """
        return no_answer(error, request.url, request.headers.get("x-request-id"), scrub=self.scrub)

    def wait_before_again(self, error: NexthinkRetryableError, attempt: int, *, replay: bool) -> float | None:
        """Return how long to wait before a request is sent again, or None to give up.

        :param error: how it ended.
        :param attempt: how many times it was sent so far, 1 or more.
        :param replay: whether to send again after an answer that leaves open whether the request was carried out.
        """
        wait = wait_before_resend(attempt, getattr(error, "retry_after", None), self.clock.rng)
        may_repeat = replay or isinstance(error, NexthinkRateLimitError)  # which says that it was not carried out
        if wait is None or attempt >= self._max_attempts or isinstance(error, NexthinkSignInError) or not may_repeat:
            return None
        log.info("%s Trying again in %.1f s.", error, wait)
        return wait

    def send_once(
        self,
        method: str,
        path: str,
        *,
        request_id: str | None = None,
        cures: Mapping[int, str] | None = None,
        goes_on: Callable[[], bool] = lambda: True,
        **parts: Any,
    ) -> httpx.Response:
        """Send a request once (and once more with a new token after a 401).

        :param method: the HTTP method.
        :param path: the path on the API host, from its first slash.
        :param request_id: the ``x-request-id`` to send; a new one where it is None.
        :param cures: by status, what a person can do about it.
        :param goes_on: asked just before the request leaves; if it says no, the request does not.
        :param parts: ``json``, ``params``, ``headers`` and so on, as httpx names them.
        :return: the answer, a success (2xx).
        :raises NexthinkError: for every other answer, and for none.
        """
        request = self.request(method, path, request_id or str(uuid.uuid4()), parts)
        with self._traced(request):
            return self._answer(request, cures, goes_on)

    def _answer(
        self, request: httpx.Request, cures: Mapping[int, str] | None, goes_on: Callable[[], bool]
    ) -> httpx.Response:
        try:
            token = self.sign_in()
            response = self._send_signed(request, token, goes_on)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                response = self._send_signed(request, self.sign_in(rejected=token), goes_on)
        except httpx.RequestError as error:
            raise self.unanswered(error, request) from None
        return self.answered(response, cures)

    def send(self, method: str, path: str, *, replay: bool, **parts: Any) -> httpx.Response:
        """Send a request, and again while that makes sense, with growing pauses.

        :param method: the HTTP method.
        :param path: the path on the API host.
        :param replay: whether to send again after an answer that leaves open whether the request was
            carried out. A 429 says that it was not, and is always sent again.
        :param parts: as ``send_once`` takes them.
        :return: the answer, a success (2xx).
        :raises NexthinkError: for the last answer, where none was a success.
        """
        request_id = parts.pop("request_id", None) or str(uuid.uuid4())
        return self._persist(lambda: self.send_once(method, path, request_id=request_id, **parts), replay=replay)

    @contextmanager
    def download(self, url: SecretStr) -> Iterator[Iterator[bytes]]:
        """Open a result file by its signed address: without the token, and without a trace in a log.

        :param url: the signed address.
        :return: a context manager that gives the bytes of the file as they come.
        :raises NexthinkExportError: if the file cannot be fetched.
        """
        # The address stands in no local variable and in no chained exception: tracebacks may show both.
        host = _storage_host(url)
        self._on_secret(url.get_secret_value())
        problem, status = "", None
        try:
            # As it is stored: a compressed file that is cut off is noticed where it is decompressed.
            headers = _HEADERS | {"Accept-Encoding": "identity"}
            with self._opened(httpx.Request("GET", url.get_secret_value(), headers=headers)) as response:
                if response.status_code == httpx.codes.OK:
                    yield response.iter_raw()
                    return
                status = response.status_code
                problem = f"{host} answered {status}. The address of the file is good for 15 minutes only."
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__} from {host}."
        raise NexthinkExportError(f"The result file could not be fetched: {problem}", status=status) from None

    def _send_signed(self, request: httpx.Request, token: SecretStr, goes_on: Callable[[], bool]) -> httpx.Response:
        if not goes_on():  # asked last: signing in may have taken its time
            raise NexthinkStoppedError("The run was stopped before the request left.")
        request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        return self._exchange(request)

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read its answer, which must end in time: httpx limits each read, not their sum."""
        start = self.clock.monotonic()
        end = start + self.answer_seconds
        body = bytearray()
        with self._opened(request) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if self.clock.monotonic() > end:
                    raise httpx.ReadTimeout("the answer does not end", request=request)
                check_size(body)
        return whole_answer(response, bytes(body), self.clock.monotonic() - start)

    @contextmanager
    def _opened(self, request: httpx.Request) -> Iterator[httpx.Response]:
        """Send a request; give its answer, which is still to be read."""
        request.extensions.setdefault("timeout", httpx.Timeout(self.settings.timeout).as_dict())
        with self._carriers.lend(request.url) as carrier:
            response = carrier.handle_request(request)
            response.request = request
            try:
                yield response
            finally:
                response.close()

    def _own_secrets(self) -> Iterator[str]:
        """Give the secrets that the settings hold."""
        if self.settings.proxy and (password := httpx.URL(self.settings.proxy.get_secret_value()).password):
            yield password
        yield self.settings.client_secret.get_secret_value()

    def _on_secret(self, value: str) -> None:
        self._secrets.append(SecretStr(value))
        self._tell_secret(value)

    def _fetch_token(self, request: httpx.Request) -> httpx.Response:
        """Send the token request, which is known to time out now and then, with a few tries."""

        def once() -> httpx.Response:
            try:
                return self.answered(self._exchange(request))
            except httpx.RequestError as error:
                raise self.unanswered(error, request) from None

        try:
            return self._persist(once, replay=True)
        except NexthinkError as error:
            raise sign_in_error(error, self.settings) from None

    def _persist(self, once: Callable[[], httpx.Response], *, replay: bool) -> httpx.Response:
        attempt = 1
        while True:
            try:
                return once()
            except NexthinkRetryableError as error:
                if (wait := self.wait_before_again(error, attempt, replay=replay)) is None:
                    raise
                self.clock.sleep(wait)
            attempt += 1


class _Carriers:
    """What carries requests: the network, or a proxy in between, as the connection or the environment says.

    Each carrier has one request at a time, and so one connection, which it keeps for the next. In a pool that they
    share, every request would wait for a lock and look at the connections of all others.

    :param settings: the tenant.
    :param given: carries all requests instead, for tests.
    :raises NexthinkSettingsError: if the CA bundle cannot be read, or the environment's proxy is no address.
    """

    def __init__(self, settings: NexthinkSettings, given: httpx.BaseTransport | None = None) -> None:
        self._given = given
        self._made: list[httpx.BaseTransport] = [] if given is None else [given]
        self._idle: dict[_Way, list[httpx.BaseTransport]] = {"plain": [], "direct": [], "proxied": []}
        if given is None:
            verify = _ssl_context(settings.verify)
            self._trusted = httpx.create_ssl_context(verify=verify) if isinstance(verify, bool) else verify
            self._honours_exceptions = settings.proxy is None
            self._proxy = settings.proxy.get_secret_value() if settings.proxy else _proxy_of_the_environment()
            with proxy_of_the_environment():
                self._idle["proxied"].append(self._make("proxied"))

    @contextmanager
    def lend(self, url: httpx.URL) -> Iterator[httpx.BaseTransport]:
        """Lend what carries a request to this address: the one that came back last, or a new one."""
        if self._given is not None:
            yield self._given
            return
        way = self._way(url)
        try:
            carrier = self._idle[way].pop()
        except IndexError:
            carrier = self._make(way)
        try:
            yield carrier
        finally:
            self._idle[way].append(carrier)

    def close(self) -> None:
        for carrier in self._made:
            carrier.close()

    def _way(self, url: httpx.URL) -> _Way:
        if url.scheme == "http":
            return "plain"
        if self._proxy is None or (self._honours_exceptions and proxy_bypass(url.netloc.decode("ascii"))):
            return "direct"
        return "proxied"

    def _make(self, way: _Way) -> httpx.BaseTransport:
        # Plain http is accepted for this machine's own addresses only: no proxy is to see that.
        carrier = httpx.HTTPTransport(
            verify=False if way == "plain" else self._trusted, proxy=self._proxy if way == "proxied" else None
        )
        self._made.append(carrier)
        return carrier


def _proxy_of_the_environment() -> str | None:
    """Return the proxy for https that HTTPS_PROXY or ALL_PROXY names, in upper or lower case."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


@contextmanager
def proxy_of_the_environment() -> Iterator[None]:
    """Say what is wrong if a client cannot be made: it reads the environment's proxy.

    :raises NexthinkSettingsError: if that is no address.
    """
    try:
        yield
    except (httpx.InvalidURL, ValueError, ImportError):  # may repeat the address, which may hold a password
        raise NexthinkSettingsError(
            "The proxy that the environment names (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) cannot be used: it must "
            "be an address that starts with http:// or https://."
        ) from None


def check_size(body: bytearray) -> None:
    """Refuse an answer that grows without end.

    :param body: what has come of it so far.
    :raises NexthinkRequestError: if it is too large.
    """
    if len(body) > _ANSWER_BYTES:
        raise NexthinkRequestError("The answer is larger than 64 MiB: ask for less, or export it.")


def whole_answer(response: httpx.Response, body: bytes, seconds: float) -> httpx.Response:
    """Return an answer with the body that was read of it.

    :param response: the answer, closed.
    :param body: its body, decoded.
    :param seconds: how long it took.
    """
    headers: Any = response.headers
    if body and "content-encoding" in headers:  # it is decoded now
        headers = [(name, value) for name, value in headers.multi_items() if name not in _BODY_HEADERS]
    answer = httpx.Response(
        response.status_code,
        headers=headers,
        content=body,
        request=response.request,
        extensions=response.extensions,
    )
    answer.elapsed = timedelta(seconds=seconds)
    return answer


@lru_cache
def _address(base_url: str, path: str) -> httpx.URL:
    """Return the address of a path; a run of many requests parses it once."""
    if not path.startswith("/") or path.startswith("//"):
        raise NexthinkInputError(f"{path!r} is no path on the API host: it must start with one slash.")
    try:
        return httpx.URL(f"{base_url}{path}")
    except httpx.InvalidURL as error:
        raise NexthinkInputError(f"{path!r} is no path: {error}.") from None


def _ssl_context(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        if not verify:
            log.warning("Certificates are not checked (verify=false): anyone on the way can read the secret.")
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ValueError) as error:
        raise NexthinkSettingsError(f"The CA bundle {verify!r} (verify) cannot be read: {error}.") from None


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
