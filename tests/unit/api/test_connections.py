"""Connections, on real sockets: an exchange ends in time, whatever drips, and it is known whether it has left."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from airflow_provider_nexthink.api.connections import Connections, Exchange
from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkSettingsError
from tests.support.tls import Authority, make_authority, server_context

Talk = Callable[[socket.socket], None]


@contextmanager
def server(talk: Talk) -> Iterator[str]:
    """A server that talks so on every connection, until the client is gone."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                talk(connection)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def drips(before: bytes, drop: bytes, beat: threading.Event) -> Talk:
    """Say something, and then something small again and again, as long as anybody listens."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(before)
        while not beat.wait(0.05):
            connection.sendall(drop)

    return talk


def settings(base_url: str, proxy: str | None = None) -> NexthinkSettings:
    return NexthinkSettings(
        "acme", base_url, base_url, "client", SecretStr("made-up-secret"), proxy=SecretStr(proxy) if proxy else None
    )


def send(base_url: str, exchange: Exchange, proxy: str | None = None) -> bytes:
    connections = Connections(settings(base_url, proxy))
    try:
        with connections.send(httpx.Request("POST", f"{base_url}/x", json={}), exchange) as response:
            return b"".join(response.iter_raw())
    finally:
        connections.close()


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("before", "drop"),
    [
        (b"", b"H"),
        (HEAD, b"x-a: b\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x-trailer: y\r\n"),
    ],
    ids=["status line", "headers", "1xx", "body", "chunks", "trailers"],
)
def test_exchange_dripping_response_ends_in_time(before: bytes, drop: bytes) -> None:
    beat, exchange = threading.Event(), Exchange(timeout=5.0, seconds=0.4)
    with server(drips(before, drop, beat)) as url:
        start = time.monotonic()
        with pytest.raises((httpx.ReadTimeout, httpx.RemoteProtocolError)):
            send(url, exchange)
        beat.set()
    assert time.monotonic() - start < 5.0
    assert exchange.has_left


def test_exchange_dripping_connect_of_a_proxy_ends_in_time_and_never_left() -> None:
    beat, exchange = threading.Event(), Exchange(timeout=5.0, seconds=0.4)
    with server(drips(HEAD, b"x-a: b\r\n", beat)) as proxy, pytest.raises(httpx.ReadTimeout):
        send("https://tenant.example", exchange, proxy)
    beat.set()
    assert not exchange.has_left


@pytest.mark.parametrize("status", [b"403 Forbidden", b"407 Proxy Authentication Required", b"502 Bad Gateway"])
def test_exchange_tunnel_refused_never_left(status: bytes) -> None:
    asked: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    exchange = Exchange(timeout=5.0)
    with server(refuse) as proxy, pytest.raises(httpx.ProxyError, match=status[:3].decode()):
        send("https://tenant.example", exchange, proxy.replace("//", "//someone:made-up@"))
    assert not exchange.has_left
    assert asked[0].startswith(b"CONNECT tenant.example:443 ")
    assert b"proxy-authorization: basic" in asked[0].lower()


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://no-such-host.invalid"])
def test_exchange_without_connection_never_left(base_url: str) -> None:
    exchange = Exchange(timeout=5.0)
    with pytest.raises(httpx.ConnectError):
        send(base_url, exchange)
    assert not exchange.has_left


@pytest.mark.slow
def test_exchange_host_with_many_silent_addresses_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent, contextlib.ExitStack() as queue:
        for _ in range(4):  # a queue that is full: who comes now gets no reply
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())
        real = socket.getaddrinfo

        def many(host: str, *args: Any, **options: Any) -> Any:
            return [address] * 40 if host == "many.example" else real(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", many)
        start, exchange = time.monotonic(), Exchange(timeout=0.5, seconds=1.0)
        with pytest.raises((httpx.ConnectTimeout, httpx.ConnectError)):
            send(f"https://many.example:{silent.getsockname()[1]}", exchange)
    assert time.monotonic() - start < 10.0
    assert not exchange.has_left


def test_exchange_departure_refused_sends_nothing() -> None:
    received: list[bytes] = []

    def refuse() -> None:
        raise RuntimeError("no more")

    with (
        server(lambda connection: received.append(connection.recv(65536))) as url,
        pytest.raises(RuntimeError, match="no more"),
    ):
        send(url, Exchange(timeout=5.0, depart=refuse))
    assert [data for data in received if data] == []


@pytest.mark.parametrize("drop", [b"", b"H"], ids=["silent", "dripping"])
def test_exchange_cancelled_ends_the_wait_for_the_response(drop: bytes) -> None:
    cancelled, received, gone = threading.Event(), threading.Event(), threading.Event()

    def be_silent(connection: socket.socket) -> None:
        connection.recv(65536)
        received.set()
        while not gone.wait(0.05):
            connection.sendall(drop)

    errors: list[BaseException] = []
    exchange = Exchange(timeout=60.0, is_cancelled=cancelled.is_set)

    def client(url: str) -> None:
        try:
            send(url, exchange)
        except httpx.HTTPError as error:
            errors.append(error)

    with server(be_silent) as url:
        waiting = threading.Thread(target=client, args=(url,))
        waiting.start()
        assert received.wait(30)
        cancelled.set()
        waiting.join(30)
        gone.set()
    assert not waiting.is_alive()
    assert isinstance(errors[0], httpx.ReadError)
    assert exchange.has_left


def test_connection_is_kept_for_the_next_request() -> None:
    opened: list[Any] = []

    def serve_one(connection: socket.socket) -> None:
        opened.append(connection)
        while connection.recv(65536):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with server(serve_one) as url:
        connections = Connections(settings(url))
        for _ in range(3):
            with connections.send(httpx.Request("GET", f"{url}/x"), Exchange(timeout=5.0)) as response:
                assert b"".join(response.iter_raw()) == b"{}"
        connections.close()
    assert len(opened) == 1


# --- TLS, and the host that it failed with


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


def tls_talk(certificate: Path, talk: Talk) -> Talk:
    """Speak TLS on a connection, then talk."""

    def secured(connection: socket.socket) -> None:
        with server_context(certificate).wrap_socket(connection, server_side=True) as secure:
            talk(secure)

    return secured


def respond(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        if b"\r\n\r\n" in data or data.endswith(b"}"):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")


def tunnel(port: int, targets: list[bytes]) -> Talk:
    """A proxy that connects everything to a port of this machine."""

    def talk(connection: socket.socket) -> None:
        targets.append(connection.recv(65536).split(b" ")[1])
        with socket.create_connection(("127.0.0.1", port)) as onward:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(onward, connection), daemon=True)
            back.start()
            pump(connection, onward)

    return talk


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except (OSError, ValueError):
        return


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def transport_to(host: str, *, proxy: str | None = None, verify: bool | str = True, timeout: float = 5.0) -> Transport:
    url = f"https://{host}"
    options = {"client_id": "client", "client_secret": "made-up-secret", "base_url": url, "login_url": f"{url}/token"}
    made = NexthinkSettings.resolve(instance="acme", proxy=proxy, verify=verify, timeout=timeout, **options)
    return Transport(made, clock=Clock(sleep=lambda *_: None))


def refused(transport: Transport) -> str:
    with transport, pytest.raises(NexthinkSettingsError) as caught:
        transport.send("GET", "/x", idempotent=True)
    assert "made-up" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("issued", "reason", "hint"),
    [
        ({"host": "127.0.0.1", "days_to": -1}, "certificate has expired", "clock"),
        ({"host": "127.0.0.1", "days_from": 1}, "certificate is not yet valid", "clock"),
        ({"host": "127.0.0.2"}, "IP address mismatch", "that of another host"),
        ({"host": "other.example"}, "IP address mismatch", "that of another host"),
    ],
)
@pytest.mark.parametrize("of", ["API", "proxy"])
def test_certificate_refused_names_openssls_reason_and_the_host(
    authority: Authority, of: str, issued: dict[str, Any], reason: str, hint: str
) -> None:
    with server(tls_talk(authority.issue(**issued), respond)) as url:
        host = f"127.0.0.1:{port_of(url)}"
        if of == "API":
            message = refused(transport_to(host, verify=str(authority.bundle)))
            assert f"The certificate of https://{host} is not accepted" in message
        else:
            message = refused(transport_to("api.example", proxy=f"https://{host}", verify=str(authority.bundle)))
            assert f"The certificate of the proxy https://{host} is not accepted" in message
    assert reason in message
    assert hint in message


@pytest.mark.parametrize(
    "first", [b"", b"no TLS at all", b"\x15\x03\x03\x00\x02\x02\x28"], ids=["cut", "junk", "alert"]
)
@pytest.mark.parametrize("secure_proxy", [False, True])
def test_tunnel_that_fails_in_its_handshake_is_made_anew(
    authority: Authority, first: bytes, secure_proxy: bool
) -> None:
    targets: list[bytes] = []
    certificate = authority.issue("127.0.0.1")

    def talk(connection: socket.socket) -> None:
        if targets:
            tunnel(port_of(api), targets)(connection)
            return
        targets.append(connection.recv(65536).split(b" ")[1])
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.recv(65536)
        connection.sendall(first)

    with (
        server(tls_talk(certificate, respond)) as api,
        server(tls_talk(certificate, talk) if secure_proxy else talk) as proxy,
    ):
        url = api.replace("http:", "https:")
        address = proxy.replace("http:", "https:") if secure_proxy else proxy
        connections = Connections(dataclasses.replace(settings(url, address), verify=str(authority.bundle)))
        exchange = Exchange(timeout=5.0)
        with pytest.raises(httpx.ConnectError), connections.send(httpx.Request("GET", f"{url}/x"), exchange):
            pass
        assert not exchange.has_left
        with connections.send(httpx.Request("GET", f"{url}/x"), Exchange(timeout=5.0)) as response:
            assert b"".join(response.iter_raw()) == b"{}"
        connections.close()
    assert len(targets) == 2


@pytest.mark.parametrize("secure_proxy", [False, True])
def test_certificate_of_the_api_refused_through_a_proxy_names_the_api(
    authority: Authority, secure_proxy: bool, tmp_path: Path
) -> None:
    other = make_authority(tmp_path)
    with server(tls_talk(other.issue("127.0.0.1"), respond)) as api:
        talk = tunnel(port_of(api), [])
        with server(tls_talk(authority.issue("127.0.0.1"), talk) if secure_proxy else talk) as proxy:
            address = proxy.replace("http:", "https:") if secure_proxy else proxy
            message = refused(transport_to("127.0.0.1", proxy=address, verify=str(authority.bundle)))
    assert "The certificate of https://127.0.0.1 is not accepted: unable to get local issuer certificate" in message
    assert "'verify'" in message


@pytest.mark.parametrize("verify", ["bundle", "false"])
def test_verify_holds_for_an_https_proxy_too(authority: Authority, verify: str) -> None:
    certificate, targets = authority.issue("127.0.0.1"), list[bytes]()
    with (
        server(tls_talk(certificate, respond)) as api,
        server(tls_talk(certificate, tunnel(port_of(api), targets))) as proxy,
    ):
        address = proxy.replace("http:", "https:")
        base = settings(f"https://127.0.0.1:{port_of(api)}", address)
        connections = Connections(
            dataclasses.replace(base, verify=str(authority.bundle) if verify == "bundle" else False)
        )
        for _ in range(2):
            with connections.send(httpx.Request("GET", f"{base.base_url}/x"), Exchange(timeout=5.0)) as response:
                assert b"".join(response.iter_raw()) == b"{}"
        connections.close()
        assert "not accepted" in refused(transport_to("127.0.0.1", proxy=address))
    assert targets == [f"127.0.0.1:{port_of(api)}".encode()]


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["handshake", "response"])
def test_exchange_dripping_within_the_tls_of_a_proxy_ends_in_time(authority: Authority, phase: str) -> None:
    """One TLS record that comes byte by byte: a single read of the inner TLS would wait for all of it."""
    certificate, beat = authority.issue("127.0.0.1"), threading.Event()

    def drip_back(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        if phase == "response":
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            inner = server_context(certificate).wrap_bio(incoming, outgoing, server_side=True)
            for step in (inner.do_handshake, lambda: inner.read(65536)):
                while True:
                    try:
                        step()
                        break
                    except ssl.SSLWantReadError:
                        connection.sendall(outgoing.read())
                        incoming.write(connection.recv(65536))
                connection.sendall(outgoing.read())
        connection.sendall(b"\x17\x03\x03\x40\x00" if phase == "response" else b"\x16\x03\x03\x40\x00")
        while not beat.wait(0.05):
            connection.sendall(b"x")

    exchange = Exchange(timeout=5.0, seconds=1.0)
    with server(tls_talk(certificate, drip_back)) as proxy:
        base = settings("https://127.0.0.1", proxy.replace("http:", "https:"))
        connections = Connections(dataclasses.replace(base, verify=False))
        start = time.monotonic()
        with (
            pytest.raises((httpx.ReadTimeout, httpx.ConnectTimeout)),
            connections.send(httpx.Request("GET", "https://127.0.0.1/x"), exchange),
        ):
            pytest.fail("it responded")
        beat.set()
        connections.close()
    assert time.monotonic() - start < 5.0
    assert exchange.has_left == (phase == "response")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://[fd00::1]", b"[fd00::1]:443"),
        ("https://[::1]:8443", b"[::1]:8443"),
        ("https://10.1.2.3", b"10.1.2.3:443"),
    ],
)
def test_connect_to_an_ip_literal_has_brackets_for_ipv6_only(authority: Authority, url: str, target: bytes) -> None:
    targets: list[bytes] = []
    host = httpx.URL(url).host
    with (
        server(tls_talk(authority.issue(host), respond)) as api,
        server(tunnel(port_of(api), targets)) as proxy,
    ):
        connections = Connections(dataclasses.replace(settings(url, proxy), verify=str(authority.bundle)))
        with connections.send(httpx.Request("GET", f"{url}/x"), Exchange(timeout=5.0)) as response:
            assert response.status_code == 200
        connections.close()
    assert targets == [target]


@pytest.mark.parametrize("status", [b"403 Forbidden", b"407 Proxy Authentication Required"])
@pytest.mark.parametrize("use", ["request", "download"])
def test_proxy_refusing_the_tunnel_is_asked_once_and_named(status: bytes, use: str) -> None:
    asked: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    def use_it(transport: Transport) -> None:
        if use == "request":
            transport.send("POST", "/x", idempotent=True)
        else:
            with transport.download(SecretStr("https://store.example/x?s=made-up-signature")):
                pytest.fail("it was opened")

    with server(refuse) as proxy, transport_to("api.example", proxy=proxy.replace("//", "//me:made-up@")) as transport:
        with pytest.raises(NexthinkSettingsError, match=f"The proxy {proxy} refused .*{status.decode()}") as caught:
            use_it(transport)
        assert "made-up" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert len(asked) == 1


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["missing", "empty", "broken", "a folder", "a file"])
def test_ca_bundle_of_the_environment_unreadable_is_a_settings_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, kind: str
) -> None:
    if variable == "SSL_CERT_DIR" and kind == "broken":
        (tmp_path / "not-a-hash.pem").write_text("x")
    path = tmp_path if kind == "a folder" or (variable == "SSL_CERT_DIR" and kind == "broken") else tmp_path / "x"
    if kind in ("empty", "broken", "a file") and path != tmp_path:
        path.write_text("" if kind == "empty" else "no certificate")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(NexthinkSettingsError, match=variable):
        transport_to("api.example")
    transport_to("api.example", verify=False).close()  # which reads neither


def test_ca_bundle_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    with server(tls_talk(authority.issue("127.0.0.1"), respond)) as url:
        secure = url.replace("http:", "https:")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
        assert send(secure, Exchange(timeout=5.0)) == b"{}"


def test_ca_bundle_changed_is_read_by_the_next_client(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, tmp_path: Path
) -> None:
    bundle = make_authority(tmp_path).bundle
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with server(tls_talk(authority.issue("127.0.0.1"), respond)) as url:
        secure = url.replace("http:", "https:")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            send(secure, Exchange(timeout=5.0))
        bundle.write_bytes(authority.bundle.read_bytes())
        assert send(secure, Exchange(timeout=5.0)) == b"{}"


# --- downloads


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "drop"),
    [
        (b"", b"H"),
        (HEAD, b"x-a: b\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (HEAD + b"\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x-trailer: y\r\n"),
    ],
    ids=["status line", "headers", "1xx", "body", "body without length", "chunks", "trailers"],
)
def test_download_dripping_ends_in_time_as_an_error_of_the_export(before: bytes, drop: bytes) -> None:
    beat = threading.Event()
    with server(drips(before, drop, beat)) as url, transport_to("api.example", timeout=0.2) as transport:
        start = time.monotonic()
        with (
            pytest.raises(NexthinkExportError, match=r"from 127\.0\.0\.1"),
            transport.download(SecretStr(f"{url}/x")) as file,
        ):
            list(file)
        beat.set()
    assert time.monotonic() - start < 10.0


@pytest.mark.slow
def test_download_deadline_grows_with_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steady, but longer than an exchange may take that brings nothing."""

    def steady(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (16 * 100_000))
        for _ in range(16):
            connection.sendall(b"x" * 100_000)
            threading.Event().wait(0.15)

    with (
        server(steady) as url,
        transport_to("api.example", timeout=0.5) as transport,
        transport.download(SecretStr(f"{url}/x")) as file,
    ):
        assert sum(map(len, file)) == 16 * 100_000


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_download_cut_off_is_an_error(framing: bytes) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + framing + b"\r\n" + (b"5\r\na,b\r\n\r\n" if b"chunked" in framing else b"a,b\r\n"))

    with (
        server(cut) as url,
        transport_to("api.example") as transport,
        pytest.raises(NexthinkExportError),
        transport.download(SecretStr(f"{url}/x")) as file,
    ):
        list(file)


@pytest.mark.parametrize(
    ("framing", "has_length"),
    [(b"Content-Length: 2\r\n", True), (b"Transfer-Encoding: chunked\r\n", True), (b"", False)],
)
def test_download_says_whether_its_length_is_known(framing: bytes, has_length: bool) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        body = b"2\r\nab\r\n0\r\n\r\n" if b"chunked" in framing else b"ab"
        connection.sendall(HEAD + framing + b"Connection: close\r\n\r\n" + body)

    with (
        server(talk) as url,
        transport_to("api.example") as transport,
        transport.download(SecretStr(f"{url}/x")) as file,
    ):
        assert file.has_length == has_length
        assert b"".join(file) == b"ab"


@pytest.mark.parametrize("content_type", ["text/html", "application/json; charset=utf-8", "application/problem+json"])
def test_download_of_another_content_type_is_an_error(content_type: str) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + f"Content-Type: {content_type}\r\nContent-Length: 2\r\n\r\na\n".encode())

    with (
        server(talk) as url,
        transport_to("api.example") as transport,
        pytest.raises(NexthinkExportError, match="not with a CSV file"),
        transport.download(SecretStr(f"{url}/x")),
    ):
        pytest.fail("it was opened")
