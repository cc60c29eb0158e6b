"""Requests, retries and downloads: what is sent where, and what is never shown."""

from __future__ import annotations

import dataclasses
import gzip
import logging
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.backoff import MAX_ATTEMPTS, RETRY_AFTER_CAP_SECONDS
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkApiError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkExportError,
    NexthinkFinalError,
    NexthinkInputError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkSettingsError,
    NexthinkStoppedError,
    NexthinkTokenError,
    NexthinkUnavailableError,
)
from tests.support.fake_time import FakeTime
from tests.support.tenant import CREDENTIAL, SETTINGS, shown_by
from tests.support.tenant import HttpTenant as Net

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
API = "acme.api.eu.nexthink.cloud"
SIGNED = "https://store.example/results/7.csv?X-Signature=made-up-signature"

Scripted = httpx.Response | Exception


@pytest.fixture
def net() -> Net:
    return Net(time=FakeTime(start=START))


@pytest.fixture
def transport(net: Net) -> Iterator[Transport]:
    with net.transport() as transport:
        yield transport


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The logs, all at their most talkative, whatever another test or Airflow has set."""
    for name in ("root", "airflow_provider_nexthink", "httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
        caplog.set_level("DEBUG", logger=None if name == "root" else name)
    return caplog


def failed(transport: Transport, **parts: Any) -> NexthinkApiError:
    with pytest.raises(NexthinkApiError) as caught:
        transport.send("POST", "/api/v1/x", **{"idempotent": True, "json": {"a": 1}, **parts})
    assert "made-up" not in shown_by(caught.value)
    return caught.value


# --- requests


def test_send_once_request_has_the_token_and_goes_to_the_api_host(net: Net, transport: Transport) -> None:
    net.responses = [httpx.Response(200, json={"a": 1})]
    response = transport.send_once(
        "PUT", "/api/v1/x", json={"b": "ü"}, params={"c": "d", "e": 1}, headers={"x-more": "1"}
    )

    [request] = net.received
    assert response.json() == {"a": 1}
    assert (request.method, str(request.url)) == ("PUT", f"https://{API}/api/v1/x?c=d&e=1")
    assert request.headers["Authorization"] == "Bearer made-up-token-1"
    assert request.headers["User-Agent"] == "airflow-provider-nexthink"
    assert request.headers["x-more"] == "1"
    assert request.content == '{"b":"ü"}'.encode()


@pytest.mark.parametrize(
    "path", ["", "x", "https://evil.example/x", "//evil.example/x", "@evil.example/x", ".evil.example"]
)
def test_send_once_path_with_another_host_is_refused(net: Net, transport: Transport, path: str) -> None:
    with pytest.raises(NexthinkInputError, match="no path on the API host"):
        transport.send_once("GET", path)

    assert net.received == []


@pytest.mark.parametrize(
    "path", ["/a\0b", "/a\nHost: evil.example", "/x?a=\x7f", pytest.param("/" + "a" * 70_000, id="long")]
)
def test_send_once_invalid_path_is_refused(net: Net, transport: Transport, path: str) -> None:
    with pytest.raises(NexthinkInputError, match="is no path"):
        transport.send_once("GET", path)

    assert net.received == []


@pytest.mark.parametrize(
    "path", ["/@evil.example/x", "/:80/x", "/\\evil.example", "/..//evil.example/", "/x?u=https://e.example"]
)
def test_send_once_token_goes_to_the_api_host_only(net: Net, transport: Transport, path: str) -> None:
    net.responses = [httpx.Response(200)]
    transport.send_once("GET", path)

    assert [request.url.host for request in net.received] == [API]


def test_send_once_each_request_has_its_own_id(net: Net, transport: Transport) -> None:
    net.responses = [httpx.Response(200) for _ in range(3)]
    transport.send_once("GET", "/x")
    transport.send("GET", "/x", idempotent=True)
    transport.send_once("GET", "/x", request_id="my-id")
    *made, given = (request.headers["x-request-id"] for request in net.received)

    assert len({uuid.UUID(each) for each in made}) == 2
    assert given == "my-id"


def test_send_retries_keep_the_id_and_the_body(net: Net, transport: Transport) -> None:
    net.responses = [
        httpx.Response(500),
        httpx.ConnectError("x"),
        httpx.Response(429),
        httpx.Response(401),
        httpx.Response(200),
    ]
    transport.send("POST", "/x", idempotent=True, json={"a": 1})

    assert len({request.headers["x-request-id"] for request in net.received}) == 1
    assert [request.content for request in net.received] == [b'{"a":1}'] * 5
    assert len(net.sleeps) == 3


# --- responses that are no success


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, NexthinkRequestError),
        (403, NexthinkPermissionError),
        (404, NexthinkNotFoundError),
        (409, NexthinkRequestError),
    ],
)
def test_send_final_error_is_not_retried(
    net: Net, transport: Transport, status: int, kind: type[NexthinkApiError]
) -> None:
    body = {"code": "A_CODE", "message": "their words"}
    net.responses = [httpx.Response(status, json=body, headers={"x-request-id": "their-id", "x-trace-id": "a-trace"})]
    error = failed(transport, hints={status: "Do this."})

    assert type(error) is kind
    assert isinstance(error, NexthinkFinalError)
    sent_id = net.received[-1].headers["x-request-id"]
    assert (error.status, error.code, error.request_id, error.trace_id) == (status, "A_CODE", sent_id, "a-trace")
    assert str(error) == (
        f"POST https://{API}/api/v1/x returned {status} A_CODE their words. Do this. [x-request-id {sent_id}]"
    )
    assert net.sleeps == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_send_redirect_is_named_and_not_followed(net: Net, transport: Transport, status: int) -> None:
    net.responses = [httpx.Response(status, headers={"location": f"https://{API}/elsewhere?key=made-up-key"})]
    error = failed(transport)

    assert "Redirects are not followed" in str(error)
    assert len(net.received) == 1


@pytest.mark.parametrize(
    "failure",
    [408, 500, 502, 503, 504, httpx.ConnectError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x")],
)
def test_send_ambiguous_failure_is_retried_with_backoff(
    net: Net, transport: Transport, failure: int | Exception
) -> None:
    net.responses = [httpx.Response(failure) if isinstance(failure, int) else failure for _ in range(MAX_ATTEMPTS)]
    error = failed(transport)

    assert isinstance(error, NexthinkUnavailableError)
    assert error.status == (failure if isinstance(failure, int) else None)
    assert error.request_id == net.received[0].headers["x-request-id"]
    assert len(net.received) == MAX_ATTEMPTS
    assert len(net.sleeps) == MAX_ATTEMPTS - 1
    assert all(2.0**attempt <= wait <= 2.0 ** (attempt + 1) for attempt, wait in enumerate(net.sleeps))
    assert len(set(net.sleeps)) == len(net.sleeps)


@pytest.mark.parametrize("failure", [408, 500, 503, httpx.ReadTimeout("x"), httpx.WriteError("x")])
def test_send_not_idempotent_is_not_retried_after_an_ambiguous_failure(
    net: Net, transport: Transport, failure: int | Exception
) -> None:
    headers = {"retry-after": "1"}
    net.responses = [httpx.Response(failure, headers=headers) if isinstance(failure, int) else failure]
    error = failed(transport, idempotent=False)

    assert isinstance(error, NexthinkUnavailableError)
    assert len(net.received) == 1
    assert net.sleeps == []


@pytest.mark.parametrize("failure", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), httpx.ProxyError("502 Bad")])
def test_send_request_that_never_left_is_retried_if_not_idempotent(
    net: Net, transport: Transport, failure: Exception
) -> None:
    net.responses = [failure] * MAX_ATTEMPTS
    error = failed(transport, idempotent=False)

    assert isinstance(error, NexthinkConnectError)
    assert "The request was not sent" in str(error)
    assert len(net.received) == MAX_ATTEMPTS


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("42", 42.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("2026-03-01T12:00:45Z", 45.0),
        (f"{RETRY_AFTER_CAP_SECONDS:.0f}", RETRY_AFTER_CAP_SECONDS),
    ],
)
def test_send_429_honours_retry_after(
    net: Net, transport: Transport, retry_after: str, wait: float, idempotent: bool
) -> None:
    net.responses = [httpx.Response(429, headers={"retry-after": retry_after}), httpx.Response(200)]

    assert transport.send("POST", "/x", idempotent=idempotent).status_code == 200
    assert net.sleeps == [wait]


@pytest.mark.parametrize("retry_after", ["0", "0.001", "2026-03-01T11:00:00Z"])
def test_send_retry_after_of_0_still_backs_off(net: Net, transport: Transport, retry_after: str) -> None:
    net.responses = [
        *(httpx.Response(429, headers={"retry-after": retry_after}) for _ in range(3)),
        httpx.Response(200),
    ]

    transport.send("POST", "/x", idempotent=False)
    assert len(net.sleeps) == 3
    assert sum(net.sleeps) > 0.1


@pytest.mark.parametrize("retry_after", ["301", "86400", "Mon, 02 Mar 2026 00:00:00 GMT", "2026-03-02T00:00:00Z"])
@pytest.mark.parametrize("status", [429, 503])
def test_send_retry_after_beyond_the_cap_is_not_retried(
    net: Net, transport: Transport, retry_after: str, status: int
) -> None:
    net.responses = [httpx.Response(status, headers={"retry-after": retry_after})]
    error = failed(transport)

    assert type(error) is (NexthinkRateLimitError if status == 429 else NexthinkUnavailableError)
    assert error.retry_after is not None
    assert error.retry_after > RETRY_AFTER_CAP_SECONDS
    assert net.sleeps == []


def test_send_429_without_retry_after_is_retried_a_few_times(net: Net, transport: Transport) -> None:
    net.responses = [httpx.Response(429) for _ in range(MAX_ATTEMPTS)]

    assert type(failed(transport, idempotent=False)) is NexthinkRateLimitError
    assert len(net.sleeps) == MAX_ATTEMPTS - 1


@pytest.mark.parametrize("failure", [500, 429, httpx.ConnectError("x")])
def test_send_once_sends_once(net: Net, transport: Transport, failure: int | Exception) -> None:
    net.responses = [httpx.Response(failure) if isinstance(failure, int) else failure]
    with pytest.raises(NexthinkApiError):
        transport.send_once("GET", "/x")

    assert len(net.received) == 1
    assert net.sleeps == []


def test_send_retry_is_logged(net: Net, transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="airflow_provider_nexthink")
    net.responses = [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(200)]
    transport.send("GET", "/x", idempotent=True)

    assert f"GET https://{API}/x returned 429." in caplog.text
    assert "Retry in 7.0 s." in caplog.text


# --- the result file


def test_download_sends_no_token(net: Net, transport: Transport) -> None:
    net.responses = [httpx.Response(200), httpx.Response(200, stream=httpx.ByteStream(b"a,b\r\n"))]
    transport.send_once("GET", "/x")
    with transport.download(SecretStr(SIGNED)) as chunks:
        assert b"".join(chunks) == b"a,b\r\n"

    request = net.received[-1]
    assert str(request.url) == SIGNED
    assert "made-up-token" not in str(request.headers.raw)
    assert "authorization" not in request.headers
    assert net.secrets[-1] == SIGNED


def test_download_is_not_decoded(net: Net, transport: Transport) -> None:
    stream = httpx.ByteStream(b"\x1f\x8b as stored")
    net.responses = [httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)]
    with transport.download(SecretStr(SIGNED)) as chunks:
        assert b"".join(chunks) == b"\x1f\x8b as stored"

    assert net.received[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]"])
def test_download_plain_http_from_loopback_is_allowed(net: Net, transport: Transport, host: str) -> None:
    net.responses = [httpx.Response(200, stream=httpx.ByteStream(b"x"))]
    with transport.download(SecretStr(f"http://{host}/x?s=made-up-signature")) as chunks:
        assert list(chunks) == [b"x"]


@pytest.mark.parametrize(
    "address",
    [
        "http://store.example/x?s=made-up-signature",
        "http://127.0.0.1.evil.example/?s=made-up-signature",
        "ftp://store.example/?s=made-up-signature",
        "file:///etc/passwd#made-up-signature",
        "made-up-signature",
        "https://store.example:x/?s=made-up-signature",
        "https://me:made-up-password@store.example/?s=made-up-signature",
        "https://made-up-token@store.example/",
        "https://xn--/?s=made-up-signature",
        "https://store.example/?s=made-up-signature\0",
        "",
    ],
)
def test_download_unsafe_address_is_refused(net: Net, transport: Transport, address: str) -> None:
    with pytest.raises(NexthinkExportError) as caught, transport.download(SecretStr(address)):
        pytest.fail("it was fetched")

    assert "made-up" not in shown_by(caught.value)
    assert net.received == []


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(403, text="<Error>made-up-signature has expired</Error>"),
        httpx.Response(404),
        httpx.Response(500),
        httpx.Response(302, headers={"location": "https://store.example/other?s=made-up-signature"}),
    ],
)
def test_download_refused_shows_the_host_and_not_the_signature(
    net: Net, transport: Transport, response: httpx.Response
) -> None:
    net.responses = [response]
    with pytest.raises(NexthinkExportError) as caught, transport.download(SecretStr(SIGNED)):
        pytest.fail("it was opened")

    assert caught.value.status == response.status_code
    assert f"store.example returned {response.status_code}" in str(caught.value)
    assert "made-up" not in shown_by(caught.value)
    assert len(net.received) == 1


class Cut(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"a,b\r\n"
        raise httpx.ReadError("made-up-signature")


@pytest.mark.parametrize("response", [httpx.ConnectError("made-up-signature"), httpx.Response(200, stream=Cut())])
def test_download_broken_connection_is_an_export_error(net: Net, transport: Transport, response: Scripted) -> None:
    net.responses = [response]
    with pytest.raises(NexthinkExportError) as caught, transport.download(SecretStr(SIGNED)) as chunks:
        list(chunks)

    assert "store.example" in str(caught.value)
    assert "made-up" not in shown_by(caught.value)


# --- over a real connection


@contextmanager
def served(
    response: Callable[[str, Any], tuple[int, bytes]],
    tls: ssl.SSLContext | None = None,
    opened: list[object] | None = None,
) -> Iterator[str]:
    """Serve this machine's loopback address, and tell the address.

    :param response: told path and headers; gives status and body.
    :param opened: where every connection is written down; they are kept alive then.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0" if opened is None else "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            if opened is not None:
                opened.append(self.client_address)

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = response(self.path, self.headers)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def local_tenant(url: str, **more: Any) -> Transport:
    addresses = {"base_url": url, "login_url": f"{url}/token"}
    settings = NexthinkSettings.resolve(instance="acme", **addresses, **CREDENTIAL, **more)
    return Transport(settings, clock=Net().clock())


def test_transport_logs_no_secret(everything_logged: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str | None]] = []

    def response(path: str, headers: Any) -> tuple[int, bytes]:
        seen.append((path, headers["authorization"]))
        if path == "/token":
            return 200, b'{"access_token": "made-up-token"}'
        return (403 if "refused" in path else 200), b"made-up-content"

    with served(response) as url, local_tenant(url) as transport:
        transport.send_once("POST", "/x", json={"a": 1})
        with transport.download(SecretStr(f"{url}/file?s=made-up-signature")) as chunks:
            assert b"".join(chunks) == b"made-up-content"
        with (
            pytest.raises(NexthinkExportError),
            transport.download(SecretStr(f"{url}/refused?s=made-up-signature")),
        ):
            pytest.fail("it was opened")

    (_, basic), signed, file, refused = seen
    assert signed == ("/x", "Bearer made-up-token")
    assert [file, refused] == [("/file?s=made-up-signature", None), ("/refused?s=made-up-signature", None)]
    logged = [f"{record.getMessage()} {record.args}" for record in everything_logged.records]
    assert {"httpcore.http11", "httpcore.connection"} <= {record.name for record in everything_logged.records}
    assert basic
    for secret in ("made-up", basic.removeprefix("Basic ")):
        assert [line for line in logged if secret in line] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine that no authority signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    path.write_bytes(made.public_bytes(pem) + secret)
    return path


def test_transport_verify_decides_which_certificates_are_accepted(
    certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with served(lambda *_: (200, b'{"access_token": "made-up-token"}'), tls) as url:
        with (
            local_tenant(url) as transport,
            pytest.raises(NexthinkSettingsError, match=f"certificate of {url} .*'verify'"),
        ):
            transport.send("GET", "/x", idempotent=True)
        with local_tenant(url, verify=str(certificate)) as transport:
            assert transport.send_once("GET", "/x").status_code == 200
        assert "not checked" not in caplog.text
        with local_tenant(url, verify="false") as transport:
            assert transport.send_once("GET", "/x").status_code == 200
        assert "Certificates are not checked" in caplog.text


def test_transport_unreadable_ca_bundle_is_named(tmp_path: Path) -> None:
    for bundle in (str(tmp_path / "missing.pem"), str(tmp_path), "\0", f"{tmp_path}/ca\0.pem"):
        with pytest.raises(NexthinkSettingsError, match=re.escape(f"CA bundle {bundle!r} (verify) cannot be read")):
            local_tenant("http://127.0.0.1", verify=bundle)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
def test_send_once_invalid_host_name_is_an_error_of_ours(host: str) -> None:
    def send_once(url: str, **more: str) -> None:
        with local_tenant(url, **more) as transport:
            transport.send_once("GET", "/x")

    with pytest.raises(NexthinkError):
        send_once(f"https://{host}")
    with pytest.raises(NexthinkError):
        send_once("https://nx.example", proxy=f"http://{host}:3128")


@pytest.mark.parametrize("proxy", ["ftp://me:hush@proxy.example", "http://me:hush@proxy.example:hush"])
def test_transport_invalid_proxy_of_the_environment_is_a_settings_error(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(NexthinkSettingsError, match="proxy") as caught:
        Transport(SETTINGS)

    assert "hush" not in str(caught.value)


def test_transport_plain_http_to_loopback_is_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def response(path: str, headers: Any) -> tuple[int, bytes]:
        seen.append(path)
        return 200, b'{"access_token": "made-up-token"}'

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for proxy in (None, "http://127.0.0.1:9"):
        with served(response) as tenant, local_tenant(tenant, proxy=proxy) as transport:
            transport.send_once("GET", "/x")

    assert seen == ["/token", "/x"] * 2


@pytest.mark.parametrize(("exceptions", "asked"), [("", True), ("other.example", True), ("example,10.0.0.1", False)])
def test_transport_proxy_of_the_environment_and_no_proxy(
    monkeypatch: pytest.MonkeyPatch, exceptions: str, asked: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", exceptions)
    addresses = {"base_url": "https://nx.example:9", "login_url": "https://nx.example:9/token"}
    settings = NexthinkSettings.resolve(instance="acme", **addresses, **CREDENTIAL)
    with served(lambda *_: (418, b"")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.removeprefix("http://"))
        with (
            Transport(settings, clock=Clock(sleep=lambda *_: None)) as transport,
            pytest.raises(NexthinkTokenError) as it,
        ):
            transport.get_token()
    assert ("through the proxy" in str(it.value)) == asked


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 32])
def test_connections_each_thread_keeps_one(threads: int) -> None:
    opened: list[object] = []
    all_at_once = threading.Barrier(threads, timeout=30)

    def response(path: str, headers: Any) -> tuple[int, bytes]:
        if path == "/x":
            all_at_once.wait()
        return 200, b'{"access_token": "made-up-token"}'

    with served(response, opened=opened) as tenant, local_tenant(tenant) as client:
        for _ in range(3):  # in between, all connections are idle
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda _: client.send_once("GET", "/x"), range(threads)))
    assert len(opened) == threads


def test_get_token_goes_through_the_proxy() -> None:
    with served(lambda *_: (418, b"")) as proxy:
        transport = Transport(dataclasses.replace(SETTINGS, proxy=SecretStr(proxy)), clock=Clock(sleep=lambda *_: None))
        with transport, pytest.raises(NexthinkTokenError, match="through the proxy http://127.0.0.1:.*501"):
            transport.get_token()


@pytest.mark.parametrize("status", [400, 401, 500])
def test_to_error_repeated_secret_is_scrubbed(net: Net, transport: Transport, status: int) -> None:
    body = {"code": "X", "message": "you sent Bearer made-up-token-1"}
    net.responses = [httpx.Response(status, json=body) for _ in range(2)]

    with pytest.raises(NexthinkApiError) as caught:
        transport.send_once("GET", "/x")
    assert "made-up-token" not in f"{caught.value} {caught.value.detail}"
    assert caught.value.detail == "you sent Bearer ***"


def test_send_once_timed_out_once_departed_is_ambiguous() -> None:
    """Also where what has gone wrong is no network error."""
    net = Net([httpx.Response(202, stream=Broken())])
    with (
        Transport(SETTINGS, clock=net.clock(), http_transport=httpx.MockTransport(net)) as transport,
        pytest.raises(NexthinkAmbiguousResponseError, match="was sent, but MemoryError") as it,
    ):
        transport.send_once("POST", "/x")
    assert it.value.request_id == net.received[0].headers["x-request-id"]


class Broken(httpx.SyncByteStream):
    """A body that cannot be held."""

    def __iter__(self) -> Iterator[bytes]:
        raise MemoryError


GZIP = gzip.compress(b'{"a": 1}')


@pytest.mark.parametrize(
    ("encoding", "body", "says"),
    [
        ("gzip, gzip", gzip.compress(GZIP), "not asked for"),
        ("zstd", b"x", "not asked for"),
        ("br", b"x", "not asked for"),
        ("gzip", GZIP[:-4], "cut off"),
        ("gzip", b"no gzip", "cannot be decompressed"),
        ("gzip", gzip.compress(bytes(65 * 1024 * 1024)), "larger than 64 MiB"),
        ("identity", bytes(65 * 1024 * 1024), "larger than 64 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_response_encoding_not_trusted_is_ambiguous(
    net: Net, transport: Transport, encoding: str, body: bytes, says: str
) -> None:
    net.responses = [httpx.Response(202, headers={"content-encoding": encoding}, stream=httpx.ByteStream(body))]
    with pytest.raises(NexthinkAmbiguousResponseError, match=says):
        transport.send_once("POST", "/x")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_response_gzip_is_read(net: Net, transport: Transport, encoding: str) -> None:
    net.responses = [httpx.Response(200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(GZIP))]
    assert transport.send_once("GET", "/x").json() == {"a": 1}


def test_send_once_elapsed_excludes_the_token_request() -> None:
    net = Net(responses=[httpx.Response(202, json={})])
    busy = [httpx.Response(503, headers={"retry-after": "200"}) for _ in range(3)]

    def busy_at_first(request: httpx.Request) -> httpx.Response:
        return busy.pop() if busy and request.url.path.endswith("/token") else net(request)

    with Transport(SETTINGS, clock=net.clock(), http_transport=httpx.MockTransport(busy_at_first)) as transport:
        assert transport.send_once("POST", "/x").status_code == 202
    assert sum(net.sleeps) == 600


def test_trace_id_is_shortened_and_scrubbed(net: Net, transport: Transport) -> None:
    net.responses = [httpx.Response(400, headers={"x-trace-id": "Bearer made-up-token-1" + "x" * 4000})]
    error = failed(transport)
    assert error.trace_id is not None
    assert error.trace_id.startswith("Bearer ***xxx")
    assert len(error.trace_id) <= 100


def test_send_once_returns_the_response_unchanged(net: Net, transport: Transport) -> None:
    cookies = [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/plain; charset=latin-1")]
    net.responses = [httpx.Response(200, headers=cookies, stream=httpx.ByteStream("ü".encode("latin-1")))]
    response = transport.send_once("GET", "/x")
    assert response.text == "ü"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.elapsed.total_seconds() >= 0


def test_send_once_departure_refused_does_not_leave(net: Net, transport: Transport) -> None:
    def refuse() -> None:
        raise NexthinkStoppedError("no more")

    with pytest.raises(NexthinkStoppedError):
        transport.send_once("POST", "/x", depart=refuse)
    check: list[int] = []

    def refuse_the_second() -> None:
        check.append(1)
        if len(check) == 2:
            raise NexthinkStoppedError("no more")

    net.responses = [httpx.Response(401)]
    with pytest.raises(NexthinkStoppedError):
        transport.send_once("POST", "/x", depart=refuse_the_second)
    assert len([request for request in net.received if request.url.path == "/x"]) == 1


def test_send_once_stopped_once_departed_is_still_ambiguous() -> None:
    """What has left may have been carried out, whatever ends the wait for the response."""
    stopped = threading.Event()

    def response(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return httpx.Response(200, json={"access_token": "made-up-token"})
        stopped.set()
        raise httpx.ReadError("reset")

    with (
        Transport(SETTINGS, is_stopped=stopped.is_set, http_transport=httpx.MockTransport(response)) as transport,
        pytest.raises(NexthinkUnavailableError, match="reset"),
    ):
        transport.send_once("POST", "/x")


@pytest.mark.parametrize("failure", [httpx.ConnectError("x"), httpx.ReadError("x")])
def test_send_once_second_turn_after_a_401_is_judged_by_itself(net: Net, transport: Transport, failure: Any) -> None:
    net.responses = [httpx.Response(401), failure]
    with pytest.raises(NexthinkUnavailableError) as it:
        transport.send_once("POST", "/x")
    assert isinstance(it.value, NexthinkConnectError) == isinstance(failure, httpx.ConnectError)


@pytest.mark.parametrize("waits_for", ["token", "request"])
def test_pause_ends_when_stopped(waits_for: str) -> None:
    busy, waiting, stopped = httpx.Response(429, headers={"retry-after": "200"}), threading.Event(), threading.Event()

    def response(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token") == (waits_for == "token"):
            waiting.set()
            return busy
        return httpx.Response(200, json={"access_token": "made-up-token"})

    with (
        Transport(SETTINGS, is_stopped=stopped.is_set, http_transport=httpx.MockTransport(response)) as transport,
        ThreadPoolExecutor(1) as pool,
    ):
        sending = pool.submit(transport.send, "GET", "/x", idempotent=True)
        assert waiting.wait(30)
        stopped.set()
        assert isinstance(sending.exception(30), NexthinkStoppedError)


@pytest.mark.parametrize("status", [403, 407, 429])
@pytest.mark.parametrize("body", [b"x" * 100_000, b"not brotli"])
def test_send_error_with_an_unreadable_body_counts_by_its_status(
    net: Net, transport: Transport, status: int, body: bytes
) -> None:
    net.responses = [httpx.Response(status, headers={"content-encoding": "br"}, stream=httpx.ByteStream(body))]
    with pytest.raises(NexthinkApiError) as caught:
        transport.send_once("POST", "/x")
    assert caught.value.status == status
    assert not isinstance(caught.value, NexthinkAmbiguousResponseError)
