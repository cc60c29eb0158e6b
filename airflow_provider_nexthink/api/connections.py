"""Connections to the tenant: directly or through a proxy, each exchange with one deadline for all of it.

httpx limits every single read, not their sum: a server that drips would never be given up. So the sockets are wrapped
in httpcore's network backend, where every wait of an exchange ends in time, whatever it is for, and ends at once when
the exchange is cancelled.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.exceptions import NexthinkSettingsError

_KEEPALIVE_SECONDS = 5.0
_CANCEL_SECONDS = 0.2
_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)

_Way = Literal["plain", "direct", "proxied"]


@dataclass
class Exchange:
    """A request and its response, seen from the socket.

    :param timeout: seconds that each single wait may take.
    :param seconds: seconds that all of it may take.
    :param is_cancelled: asked while waiting for the response; once it says yes, the wait ends.
    :param depart: called at the moment at which the request leaves, connected and all; it does not if this raises.
    """

    timeout: float
    seconds: float = inf
    is_cancelled: Callable[[], bool] = lambda: False
    depart: Callable[[], None] = lambda: None
    has_left: bool = False
    left_at: float = 0.0

    def leave(self) -> None:
        """Let the request leave."""
        self.depart()
        self.has_left, self.left_at = True, time.monotonic()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Notice that the request leaves: httpcore's ``trace`` extension. The CONNECT to a proxy is not yet it."""
        if event == "http11.send_request_headers.started" and info["request"].method != b"CONNECT":
            self.leave()


class Connections:
    """The connections of one tenant, for any number of threads.

    Each carries one request at a time, and is kept for the next one. In a pool that they share, every request would
    wait for a lock and look at the connections of all others.

    :param settings: the tenant.
    :param given: carries all requests instead of the network, for tests.
    :raises NexthinkSettingsError: if the CA bundle cannot be read, or the environment's proxy is no address.
    """

    def __init__(self, settings: NexthinkSettings, given: httpx.BaseTransport | None = None) -> None:
        self._given = given
        self._made: list[_Connection] = []
        self._idle: dict[_Way, list[_Connection]] = {"plain": [], "direct": [], "proxied": []}
        self._proxy: httpx.Proxy | None = None
        if given is None:
            self._ssl_context = _ssl_context(settings.verify)
            self._honours_exceptions = settings.proxy is None
            self._proxy = _proxy(settings.proxy.get_secret_value()) if settings.proxy else _proxy_of_the_environment()

    @contextmanager
    def send(self, request: httpx.Request, exchange: Exchange) -> Iterator[httpx.Response]:
        """Send a request; give the response, whose body is still to be read.

        :param request: the request.
        :param exchange: its limits.
        :raises httpx.RequestError: if no response comes.
        """
        if self._given is not None:
            exchange.leave()  # such a transport traces nothing
            response = self._given.handle_request(request)
            response.request = request
            try:
                yield response
            finally:
                response.close()
            return
        way = self._way(request.url)
        try:
            connection = self._idle[way].pop()
        except IndexError:
            connection = self._connection(way)
        try:
            with connection.send(request, exchange) as response:
                yield response
        finally:
            self._idle[way].append(connection)

    def proxy_for(self, url: httpx.URL) -> str | None:
        """Return the address of the proxy that a request to this address goes through, without its password.

        :param url: the address.
        """
        if self._given is not None or self._proxy is None or self._way(url) != "proxied":
            return None
        return str(self._proxy.url)

    def close(self) -> None:
        """Close them all."""
        if self._given is not None:
            self._given.close()
        for connection in self._made:
            connection.close()

    def _way(self, url: httpx.URL) -> _Way:
        if url.scheme == "http":  # accepted for this machine's own addresses only: no proxy is to see that
            return "plain"
        if self._proxy is None or (self._honours_exceptions and proxy_bypass(url.netloc.decode("ascii"))):
            return "direct"
        return "proxied"

    def _connection(self, way: _Way) -> _Connection:
        connection = _Connection(self._ssl_context, self._proxy if way == "proxied" else None)
        self._made.append(connection)
        return connection


class _Connection:
    """A connection, made when it is first needed."""

    def __init__(self, ssl_context: ssl.SSLContext, proxy: httpx.Proxy | None) -> None:
        self._backend = _Backend()
        options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "max_connections": 1,
            "keepalive_expiry": _KEEPALIVE_SECONDS,
            "network_backend": self._backend,
        }
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
        else:
            self._pool = httpcore.HTTPProxy(
                _httpcore_url(proxy.url),
                proxy_auth=proxy.raw_auth,
                proxy_ssl_context=ssl_context if proxy.url.scheme == "https" else None,
                **options,
            )

    @contextmanager
    def send(self, request: httpx.Request, exchange: Exchange) -> Iterator[httpx.Response]:
        self._backend.begin(exchange)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), exchange.timeout)
        outgoing = httpcore.Request(
            request.method,
            _httpcore_url(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions={"timeout": timeouts, "trace": exchange.trace},
        )
        with _httpx_errors(request):
            response = self._pool.handle_request(outgoing)
        try:
            yield httpx.Response(
                response.status,
                headers=response.headers,
                stream=_Body(response.stream, request),
                extensions=response.extensions,
                request=request,
            )
        finally:
            with _httpx_errors(request):
                response.close()

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """The body of a response, as it comes."""

    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors(self._request):
            yield from self._stream


class _Backend(httpcore.NetworkBackend):
    """The network, for one exchange after the other."""

    def __init__(self) -> None:
        self._network = httpcore.SyncBackend()
        self.begin(Exchange(timeout=0.0))

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._end = time.monotonic() + exchange.seconds

    def limit(self, timeout: float | None, error: type[Exception]) -> float:
        """Return for how many seconds to wait now."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise error("the exchange does not end")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self.limit(timeout, httpcore.ConnectTimeout)
        stream = self._network.connect_tcp(host, port, seconds, local_address, socket_options)
        return _Stream(stream, self)


class _Stream(httpcore.NetworkStream):
    """A socket whose waits end in time."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _Backend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._backend.limit(timeout, httpcore.ReadTimeout)
        while not self._backend.exchange.is_cancelled():
            seconds = min(left, _CANCEL_SECONDS)
            try:
                return self._stream.read(max_bytes, seconds)
            except httpcore.ReadTimeout:
                left -= seconds
                if left <= 0:
                    raise
        raise httpcore.ReadError("cancelled")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.limit(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._backend.limit(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Raise httpx's errors instead of httpcore's, which have the same names."""
    try:
        yield
    except _HTTPCORE_ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error


def _httpcore_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _proxy_of_the_environment() -> httpx.Proxy | None:
    """Return the proxy for https that HTTPS_PROXY or ALL_PROXY names, in upper or lower case."""
    proxies = getproxies()
    address = proxies.get("https") or proxies.get("all")
    if address is None:
        return None
    try:
        return _proxy(address if "://" in address else f"http://{address}")
    except (httpx.InvalidURL, ValueError):  # may repeat the address, which may hold a password
        raise NexthinkSettingsError(
            "The proxy that the environment names (HTTPS_PROXY, ALL_PROXY) cannot be used: it must be an address that "
            "starts with http:// or https://."
        ) from None


def _proxy(address: str) -> httpx.Proxy:
    proxy = httpx.Proxy(address)
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise ValueError("no proxy for HTTP")
    return proxy


def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify)
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ValueError) as error:
        raise NexthinkSettingsError(f"The CA bundle {verify!r} (verify) cannot be read: {error}.") from None
