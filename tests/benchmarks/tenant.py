"""A tenant that costs next to nothing itself: it responds SCHEDULED for every device, a set time after the request.

It reads no more of HTTP and JSON than it must, so that what is measured is the client.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

HOST = "127.0.0.1"
TOKEN_PATH = "/oauth2/default/v1/token"
TOKEN = b'{"token_type":"Bearer","expires_in":900,"access_token":"made-up-token","scope":"service:integration"}'

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"x-request-id: *([^\r]+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection of a client, which sends one request after the other.

    :param latency: seconds from the end of a request to its response.
    """

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._received, 0, head_end)
        if head_end < 4 or length is None or len(self._received) < head_end + int(length[1]):
            return
        request, self._received = bytes(self._received), bytearray()
        response = _respond(request[:head_end], request[head_end:])
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, response)
        else:
            self._transport.write(response)


def _respond(head: bytes, body: bytes) -> bytes:
    if TOKEN_PATH.encode() in head.partition(b"\r\n")[0]:
        return _response(b"200 OK", TOKEN)
    # The made devices have no quotes and no braces in their names: what ends one is clear.
    devices = body[body.index(b"[") : -1].replace(b'"}', b'","status":"SCHEDULED"}')
    received = b'{"scheduledCount":%d,"status":"ACCEPTED","devices":%b}' % (body.count(b'"}'), devices)
    request_id = _REQUEST_ID.search(head)
    ids = b"x-request-id: %b\r\nx-trace-id: 0af7651916cd43dd8448eb211c80319c\r\n" % (
        request_id[1] if request_id else b"-"
    )
    return _response(b"202 Accepted", received, ids)


def _response(status: bytes, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, len(body), headers) + body


@contextmanager
def tenants(latencies: Sequence[float]) -> Iterator[list[str]]:
    """Serve a tenant for each of these latencies, all from one process of their own.

    :param latencies: seconds.
    :return: a context manager that gives their addresses.
    """
    listeners = [socket.create_server((HOST, 0), backlog=1024) for _ in latencies]
    # Spawned, not forked: nothing of the measuring process is in it.
    server = get_context("spawn").Process(target=_serve, args=(listeners, latencies), daemon=True)
    server.start()
    try:
        yield [f"http://{HOST}:{listener.getsockname()[1]}" for listener in listeners]
    finally:
        server.terminate()
        server.join()
        for listener in listeners:
            listener.close()


def _serve(listeners: Sequence[socket.socket], latencies: Sequence[float]) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for listener, latency in zip(listeners, latencies, strict=True):
            await loop.create_server(partial(Connection, latency), sock=listener, backlog=1024)
        await asyncio.Event().wait()

    asyncio.run(serve())
