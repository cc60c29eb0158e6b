"""Connections, on real sockets: an exchange ends in time, whatever drips, and it is known whether it has left."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from airflow_provider_nexthink.api.connections import Connections, Exchange
from airflow_provider_nexthink.api.settings import NexthinkSettings

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
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
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

    def answer(connection: socket.socket) -> None:
        opened.append(connection)
        while connection.recv(65536):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with server(answer) as url:
        connections = Connections(settings(url))
        for _ in range(3):
            with connections.send(httpx.Request("GET", f"{url}/x"), Exchange(timeout=5.0)) as response:
                assert b"".join(response.iter_raw()) == b"{}"
        connections.close()
    assert len(opened) == 1
