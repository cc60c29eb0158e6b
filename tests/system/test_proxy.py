"""A tenant behind a real squid: tunnels, passwords, TLS to the proxy, and TLS that the proxy inspects."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import NexthinkProxyError, NexthinkSettingsError, NexthinkTokenError
from tests.support.services import squid as running
from tests.support.squid import Squid
from tests.support.tls import make_authority, server_context

pytestmark = pytest.mark.service

LOGIN = "someone:made-up"
PAGE = b"<html>Blocked by policy</html>"


@dataclass
class Tenant:
    """An https server of this machine, and what it was asked."""

    url: str
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def tenant_at(certificate: Path, host: str = "127.0.0.1", *, name: str = "", refuse: bytes = b"") -> Iterator[Tenant]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            tenant.seen.append((self.path, self.headers.get("authorization", "")))
            body = refuse or (b'{"access_token": "made-up-token"}' if self.path == "/token" else b"a,b\r\n1,2\r\n")
            self.send_response(403 if refuse else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Handler) as server:
        server.socket = server_context(certificate).wrap_socket(server.socket, server_side=True)
        tenant = Tenant(f"https://{name or (f'[{host}]' if ':' in host else host)}:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield tenant
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def squid() -> Iterator[Squid]:
    with running() as started:
        yield started


def transport_to(url: str, squid: Squid, proxy: str, **options: Any) -> Transport:
    options = {"verify": str(squid.authority.bundle), "timeout": 10, **options}
    settings = NexthinkSettings.resolve(
        instance="acme", client_id="client", client_secret="made-up-secret", base_url=url, login_url=f"{url}/token",
        proxy=proxy, **options,
    )  # fmt: skip
    return Transport(settings, clock=Clock(sleep=lambda *_: None))


def send(transport: Transport) -> None:
    with transport:
        transport.send("POST", "/x", idempotent=True, json={})


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_transport_through_squid_reaches_the_tenant(squid: Squid, scheme: str, host: str) -> None:
    proxy = f"{scheme}://{LOGIN}@127.0.0.1:{squid.plain if scheme == 'http' else squid.tls}"
    with (
        tenant_at(squid.authority.issue(host), host) as tenant,
        transport_to(tenant.url, squid, proxy) as transport,
    ):
        for _ in range(3):
            transport.send_once("POST", "/x", json={})
        with transport.download(SecretStr(f"{tenant.url}/file")) as file:
            assert b"".join(file) == b"a,b\r\n1,2\r\n"
    assert [path for path, _ in tenant.seen] == ["/token", "/x", "/x", "/x", "/file"]
    assert [authorization for path, authorization in tenant.seen if path == "/x"] == ["Bearer made-up-token"] * 3
    [line] = squid.accesses(f"CONNECT {tenant.url.removeprefix('https://')}")  # one tunnel for all of them
    assert " someone " in line


@pytest.mark.parametrize("login", ["", "someone:wrong@", "nobody:made-up@"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_transport_squid_refuses_the_password_is_asked_once(squid: Squid, scheme: str, login: str) -> None:
    address = f"127.0.0.1:{squid.plain if scheme == 'http' else squid.tls}"
    host = f"{scheme}-{login.rpartition(':')[2].rstrip('@') or 'none'}.example"
    with pytest.raises(NexthinkSettingsError, match=f"The proxy {scheme}://{address} refused .*407") as caught:
        send(transport_to(f"https://{host}", squid, f"{scheme}://{login}{address}"))
    assert "secret" not in str(caught.value)
    assert "someone" not in str(caught.value)
    [line] = squid.accesses(host)
    assert "TCP_DENIED/407" in line


def test_transport_squid_forbids_the_host_is_final(squid: Squid) -> None:
    with pytest.raises(NexthinkSettingsError, match="The proxy .* refused .*forbidden.example: 403"):
        send(transport_to("https://forbidden.example", squid, f"http://{LOGIN}@127.0.0.1:{squid.plain}"))
    [line] = squid.accesses("forbidden.example")
    assert "TCP_DENIED/403" in line


def test_transport_squid_cannot_reach_the_host_is_retried(squid: Squid) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NexthinkTokenError, match="through the proxy .*: 503"):
        send(transport_to(f"https://127.0.0.1:{port}", squid, f"http://{LOGIN}@127.0.0.1:{squid.plain}"))


def test_transport_squid_inspects_tls_needs_its_authority(squid: Squid, tmp_path: Path) -> None:
    proxy = f"http://127.0.0.1:{squid.inspecting}"
    with tenant_at(squid.authority.issue("localhost"), name="localhost") as tenant:
        send(transport_to(tenant.url, squid, proxy))
        assert [path for path, _ in tenant.seen] == ["/token", "/x"]
        assert squid.accesses(f"POST {tenant.url}/x")  # it has read what was sent
        other = make_authority(tmp_path).bundle
        with pytest.raises(NexthinkSettingsError, match=f"certificate of {tenant.url} is not accepted: .*'verify'"):
            send(transport_to(tenant.url, squid, proxy, verify=str(other)))


def test_transport_page_of_an_inspecting_proxy_is_not_blamed_on_the_secret(squid: Squid) -> None:
    proxy = f"http://127.0.0.1:{squid.inspecting}"
    with (
        tenant_at(
            squid.authority.issue("localhost"), name="localhost", refuse=b"<html>Blocked by policy</html>"
        ) as tenant,
        pytest.raises(NexthinkProxyError, match=f"the proxy {proxy} in between refused") as caught,
    ):
        send(transport_to(tenant.url, squid, proxy))
    assert "secret" not in str(caught.value)
    assert len(tenant.seen) == 1
