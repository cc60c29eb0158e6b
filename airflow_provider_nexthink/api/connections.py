"""Connections to the tenant: directly or through a proxy, each exchange with one deadline for all of it.

httpx limits each read, not their sum: a server that drips would hold a request forever. So the sockets are wrapped
in httpcore's network backend, where every wait of an exchange but that for DNS ends in time. A read ends at once when
the exchange is canceled.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpcore
import httpx

from airflow_provider_nexthink.api.proxies import ProxyRules
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.exceptions import NexthinkSettingsError

_KEEPALIVE_SECONDS = 5.0
_CANCEL_SECONDS = 0.2
_WRITE_BYTES = 16 * 1024
_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)

_HASHED_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.[0-9]+")

_Way = Literal["plain", "direct", "proxied"]

_Done = TypeVar("_Done")


@dataclass
class Exchange:
    """A request and its response, seen from the socket.

    :param timeout: seconds that each single wait may take.
    :param seconds: seconds that all of it may take; may be raised while it lasts.
    :param is_cancelled: asked while waiting for the response; once it says yes, the wait ends.
    :param depart: called at the moment at which the request leaves, connected and all; it does not if this raises.
    """

    timeout: float
    seconds: float = inf
    is_cancelled: Callable[[], bool] = lambda: False
    depart: Callable[[], None] = lambda: None
    has_left: bool = False
    left_at: float = 0.0
    tls_with_proxy: bool = False
    """Whether the last TLS handshake was with the proxy itself, not with the host behind it."""

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
    wait for a lock and check the connections of all others.

    :param settings: the tenant.
    :param given: carries all requests instead of the network, for tests.
    :raises NexthinkSettingsError: if the CA bundle cannot be read, or the environment's proxy cannot be used.
    """

    def __init__(self, settings: NexthinkSettings, given: httpx.BaseTransport | None = None) -> None:
        self._given = given
        self._made: list[_Connection] = []
        self._idle: dict[_Way, list[_Connection]] = {"plain": [], "direct": [], "proxied": []}
        self._proxies = ProxyRules(settings.proxy)
        if given is None:
            self._verify = settings.verify
            self._ssl_context: ssl.SSLContext | None = None
            urls = [httpx.URL(url) for url in (settings.base_url, settings.login_url)]
            for url in urls:
                self.proxy_for(url)  # a proxy that cannot be used is an error now, if it is needed
            # Reading the authorities takes longer than a small deletion, and a sandbox needs none.
            if isinstance(self._verify, str) or any(self._way(url) != "plain" for url in urls):
                self._read_authorities()

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
        except BaseException:  # httpcore keeps a tunnel that is half made: each later request would wait in vain
            self._made.remove(connection)
            connection.close()
            raise
        self._idle[way].append(connection)

    def proxy_for(self, url: httpx.URL) -> str | None:
        """Return the address of the proxy that a request to this address goes through, without its password.

        :param url: the address.
        """
        if self._given is not None or self._way(url) != "proxied":
            return None
        return str(self._proxies.proxy.url)

    def close(self) -> None:
        """Close them all."""
        if self._given is not None:
            self._given.close()
        for connection in list(self._made):  # a worker may just remove one
            connection.close()

    def _way(self, url: httpx.URL) -> _Way:
        if url.scheme == "http":  # accepted for this machine's own addresses only: no proxy is to see that
            return "plain"
        return "proxied" if self._proxies.is_proxied(url) else "direct"

    def _connection(self, way: _Way) -> _Connection:
        ssl_context = None if way == "plain" else self._read_authorities()
        connection = _Connection(ssl_context, self._proxies.proxy if way == "proxied" else None)
        self._made.append(connection)
        return connection

    def _read_authorities(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = _ssl_context(self._verify)
        return self._ssl_context


class _Connection:
    """A connection, made when it is first needed."""

    def __init__(self, ssl_context: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        self._backend = _Backend(has_tls_proxy=proxy is not None and proxy.url.scheme == "https")
        self._is_proxied = proxy is not None
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
            _httpcore_url(request.url, brackets=self._is_proxied),
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

    def __init__(self, *, has_tls_proxy: bool) -> None:
        self._network = httpcore.SyncBackend()
        self.has_tls_proxy = has_tls_proxy
        self.begin(Exchange(timeout=0.0))

    def begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._start = time.monotonic()

    def limit(self, timeout: float | None, error: type[Exception]) -> float:
        """Return for how many seconds to wait now."""
        left = self._start + self.exchange.seconds - time.monotonic()
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
        # One address after the other, as the socket module does, which would give each the whole timeout.
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for *_, address in addresses:
            try:
                seconds = self.limit(timeout, httpcore.ConnectTimeout)
                stream = self._network.connect_tcp(str(address[0]), port, seconds, local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


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
        for start in range(0, len(buffer), _WRITE_BYTES):
            piece = buffer[start : start + _WRITE_BYTES]
            self._stream.write(piece, self._backend.limit(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._backend.limit(timeout, httpcore.ConnectTimeout)
        host = server_hostname.strip("[]") if server_hostname else None
        is_inner = self.get_extra_info("ssl_object") is not None
        self._backend.exchange.tls_with_proxy = self._backend.has_tls_proxy and not is_inner
        if is_inner:
            return _InnerTls(self, ssl_context, host, seconds)
        return _Stream(self._stream.start_tls(ssl_context, host, seconds), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _InnerTls(httpcore.NetworkStream):
    """TLS within the TLS of a proxy. httpcore's reads from the socket by itself, for as long as something drips."""

    def __init__(
        self, outer: _Stream, ssl_context: ssl.SSLContext, server_hostname: str | None, timeout: float
    ) -> None:
        self._outer = outer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            self._perform(self._tls.do_handshake, timeout)
        except (ssl.SSLError, httpcore.ReadError, httpcore.WriteError) as error:
            outer.close()
            raise httpcore.ConnectError(str(error)) from error
        except httpcore.TimeoutException as error:
            outer.close()
            raise httpcore.ConnectTimeout(str(error)) from error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._perform(lambda: self._tls.read(max_bytes), timeout)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            while buffer:
                buffer = buffer[self._perform(lambda: self._tls.write(buffer), timeout) :]  # noqa: B023 - called at once
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._outer.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._outer.get_extra_info(info)

    def _perform(self, step: Callable[[], _Done], timeout: float | None) -> _Done:
        """Do a step of TLS, with as much as it needs from the other side."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                if self._outgoing.pending:
                    self._outer.write(self._outgoing.read(), timeout)
            if not (data := self._outer.read(_WRITE_BYTES, timeout)):
                raise httpcore.ReadError("the proxy closed the connection")
            self._incoming.write(data)


@contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    """Raise httpx's errors instead of httpcore's, which have the same names."""
    try:
        yield
    except _HTTPCORE_ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error), request=request) from error


def _httpcore_url(url: httpx.URL, *, brackets: bool = False) -> httpcore.URL:
    """Return an address as httpcore takes it.

    :param url: the address.
    :param brackets: whether to put an IPv6 literal in brackets, which httpcore forgets in a CONNECT.
    """
    host = b"[%b]" % url.raw_host if brackets and b":" in url.raw_host else url.raw_host
    return httpcore.URL(scheme=url.raw_scheme, host=host, port=url.port, target=url.raw_path)


def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    """Return what decides which certificates are trusted.

    :raises NexthinkSettingsError: if a CA bundle, also one that the environment names, cannot be read.
    """
    source = f"The CA bundle {verify!r} (verify)"
    try:
        if isinstance(verify, str):
            return ssl.create_default_context(cafile=verify)
        if verify and (file := os.environ.get("SSL_CERT_FILE")):
            source = f"The CA bundle {file!r} (environment variable SSL_CERT_FILE)"
            return ssl.create_default_context(cafile=file)
        if verify and (folders := os.environ.get("SSL_CERT_DIR")):
            source = f"The folder of CA certificates {folders!r} (environment variable SSL_CERT_DIR)"
            names = [file.name for folder in folders.split(os.pathsep) for file in Path(folder).iterdir()]
            if not any(_HASHED_CERTIFICATE.fullmatch(name) for name in names):
                raise ValueError("it holds no certificates under their hashes: run 'openssl rehash' on it")
            return ssl.create_default_context(capath=folders)
        return _public_authorities() if verify else httpx.create_ssl_context(verify=False, trust_env=False)
    except (OSError, ValueError) as error:
        raise NexthinkSettingsError(f"{source} cannot be read: {error}.") from None


@cache
def _public_authorities() -> ssl.SSLContext:
    """Return what trusts the authorities that httpx brings."""
    return httpx.create_ssl_context(trust_env=False)
