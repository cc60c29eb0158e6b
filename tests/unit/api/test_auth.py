"""One token: fetched once, shared, renewed early, and never shown."""

from __future__ import annotations

import base64
import json
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import SecretStr

from airflow_provider_nexthink.api.auth import NexthinkAuth
from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.backoff import MAX_ATTEMPTS
from airflow_provider_nexthink.exceptions import (
    NexthinkAuthenticationError,
    NexthinkError,
    NexthinkFinalError,
    NexthinkProxyError,
    NexthinkRetryableError,
    NexthinkTokenError,
)
from tests.support.tenant import TOKEN_URL, shown_by
from tests.support.tenant import HttpTenant as Tenant

SECRET = "made-up-secret:with-colon-ü"
BASIC = base64.b64encode(f"client:{SECRET}".encode()).decode()
SETTINGS = NexthinkSettings.resolve(instance="acme", region="eu", client_id="client", client_secret=SECRET)
THREADS = 8


@pytest.fixture
def tenant() -> Tenant:
    return Tenant(respond=lambda _: httpx.Response(200))


@pytest.fixture
def transport(tenant: Tenant) -> Iterator[Transport]:
    with tenant.transport(SETTINGS) as transport:
        yield transport


def renewed() -> None:
    """Wait until no token is being renewed in the background."""
    for thread in threading.enumerate():
        if thread.name == "nexthink-token":
            thread.join(30)


def refusal(transport: Transport) -> NexthinkError:
    with pytest.raises(NexthinkError) as caught:
        transport.send_once("GET", "/x")
    shown = shown_by(caught.value)
    assert BASIC not in shown
    assert SECRET not in shown
    assert "made-up-token" not in shown
    return caught.value


def test_get_token_request_is_as_documented(tenant: Tenant, transport: Transport) -> None:
    transport.send_once("GET", "/x")

    [request] = tenant.token_requests
    assert (request.method, str(request.url)) == ("POST", TOKEN_URL)
    assert request.headers["Authorization"] == f"Basic {BASIC}"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.content.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "scope": ["service:integration"],
    }
    assert request.headers["User-Agent"] == "airflow-provider-nexthink"
    assert tenant.bearers == ["made-up-token-1"]


def test_get_token_is_lazy(tenant: Tenant, transport: Transport) -> None:
    assert tenant.token_requests == []
    assert transport.get_token().get_secret_value() == "made-up-token-1"
    assert tenant.bearers == []


def test_get_token_reports_secrets_as_soon_as_they_are_known(tenant: Tenant, transport: Transport) -> None:
    tenant.token_responses = [httpx.Response(401)]
    refusal(transport)
    assert tenant.secrets == [SECRET, BASIC]

    transport.get_token()
    assert tenant.secrets == [SECRET, BASIC, BASIC, "made-up-token-2"]


def test_get_token_is_shared_by_many_requests(tenant: Tenant, transport: Transport) -> None:
    for _ in range(20):
        transport.send_once("GET", "/x")

    assert len(tenant.token_requests) == 1
    assert tenant.bearers == ["made-up-token-1"] * 20


def test_get_token_threads_at_once_fetch_one() -> None:
    workers: list[threading.Thread] = []
    fetched: list[httpx.Request] = []
    tokens: list[SecretStr] = []

    def is_asking(worker: threading.Thread) -> bool:
        frame = sys._current_frames().get(worker.ident or 0)
        return any(each.f_code is NexthinkAuth.get_token.__code__ for each, _ in traceback.walk_stack(frame))

    def fetch(request: httpx.Request) -> httpx.Response:
        fetched.append(request)
        # Answers only when all of them have asked: whoever does not wait for another is fetching by then.
        while not all(is_asking(worker) for worker in workers if worker.is_alive()) and len(fetched) == 1:
            pass
        return httpx.Response(200, json={"access_token": "made-up-token"})

    provider = NexthinkAuth(SETTINGS, fetch, clock=lambda: 0.0)
    ready = threading.Barrier(THREADS)

    def ask() -> None:
        ready.wait(60)
        tokens.append(provider.get_token())

    workers += [threading.Thread(target=ask) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert tokens == [SecretStr("made-up-token")] * THREADS
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("lifetime", "renewed_at"), [(900, 840), (3600, 3540), (120, 60), (100, 50), (60, 30), (10, 5), (0.5, 0.25)]
)
def test_token_is_renewed_early_in_the_background(
    tenant: Tenant, transport: Transport, lifetime: float, renewed_at: float
) -> None:
    tenant.lifetime = lifetime
    for seconds, requests in ((0, 1), (renewed_at - 0.01, 1), (renewed_at, 2), (renewed_at, 2)):
        tenant.time.seconds = seconds
        transport.send_once("GET", "/x")
        renewed()
        assert len(tenant.token_requests) == requests

    assert tenant.bearers[-1] == "made-up-token-2"


def test_token_being_renewed_blocks_no_request(tenant: Tenant) -> None:
    may_respond = threading.Event()

    def slow(request: httpx.Request) -> httpx.Response:
        if request.url == TOKEN_URL and tenant.token_requests:
            assert may_respond.wait(30)
        return tenant(request)

    with Transport(SETTINGS, clock=tenant.clock(), http_transport=httpx.MockTransport(slow)) as transport:
        for seconds in (0.0, 841.0, 880.0):
            tenant.time.seconds = seconds
            transport.send_once("GET", "/x")
        may_respond.set()
        renewed()
        transport.send_once("GET", "/x")
    assert tenant.bearers == ["made-up-token-1"] * 3 + ["made-up-token-2"]


def test_token_renewal_fails_old_one_is_used_until_its_end(tenant: Tenant, transport: Transport) -> None:
    transport.send_once("GET", "/x")
    tenant.time.seconds, tenant.token_responses = 850.0, [httpx.Response(401)]
    transport.send_once("GET", "/x")
    renewed()
    transport.send_once("GET", "/x")
    assert len(tenant.token_requests) == 2  # and not again for some seconds
    tenant.time.seconds = 896.0  # the end: now it is waited for
    transport.send_once("GET", "/x")
    assert tenant.bearers == ["made-up-token-1"] * 3 + ["made-up-token-3"]


def test_get_token_lifetime_counts_from_the_request() -> None:
    seconds = 0.0

    def slow(request: httpx.Request) -> httpx.Response:
        nonlocal seconds
        seconds += 100
        return httpx.Response(200, json={"access_token": f"made-up-{seconds:.0f}", "expires_in": 900})

    provider = NexthinkAuth(SETTINGS, slow, clock=lambda: seconds)
    first = provider.get_token()
    seconds = 894.0
    assert provider.get_token() == first
    seconds = 895.0
    renewed()
    assert provider.get_token() != first


@pytest.mark.parametrize("lifetime", [{}, {"expires_in": None}])
def test_get_token_without_lifetime_is_valid_for_15_minutes(
    tenant: Tenant, transport: Transport, lifetime: dict[str, None]
) -> None:
    tenant.token_responses = [httpx.Response(200, json={"access_token": "made-up-token-0", **lifetime})]
    for seconds in (0.0, 839.0, 896.0):
        tenant.time.seconds = seconds
        transport.send_once("GET", "/x")

    assert tenant.bearers == ["made-up-token-0", "made-up-token-0", "made-up-token-2"]


def test_send_once_401_fetches_one_new_token(tenant: Tenant, transport: Transport) -> None:
    tenant.accepts = lambda token: token != "made-up-token-1"
    response = transport.send_once("GET", "/x")
    transport.send_once("GET", "/x")

    assert response.status_code == 200
    assert tenant.bearers == ["made-up-token-1", "made-up-token-2", "made-up-token-2"]
    first, second, _ = tenant.received
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert len(tenant.token_requests) == 2


def test_send_once_second_401_is_final(tenant: Tenant, transport: Transport) -> None:
    tenant.accepts = lambda token: False
    with pytest.raises(NexthinkAuthenticationError) as caught:
        transport.send("GET", "/x", idempotent=True)

    assert caught.value.status == 401
    assert caught.value.request_id == tenant.received[0].headers["x-request-id"]
    assert isinstance(caught.value, NexthinkFinalError)
    assert "A new token was refused too" in str(caught.value)
    assert "made-up-token" not in shown_by(caught.value)
    assert tenant.bearers == ["made-up-token-1", "made-up-token-2"]
    assert tenant.sleeps == []


def test_get_token_threads_with_401_fetch_one_new_token(tenant: Tenant, transport: Transport) -> None:
    all_refused = threading.Barrier(THREADS)

    def accepts(token: str) -> bool:
        if token == "made-up-token-1":
            all_refused.wait(60)
            return False
        return True

    tenant.accepts = accepts
    transport.get_token()
    with ThreadPoolExecutor(THREADS) as pool:
        responses = list(pool.map(lambda _: transport.send_once("GET", "/x"), range(THREADS)))

    assert [response.status_code for response in responses] == [200] * THREADS
    assert sorted(tenant.bearers) == ["made-up-token-1"] * THREADS + ["made-up-token-2"] * THREADS
    assert len(tenant.token_requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_get_token_refused_is_final_and_names_the_address(tenant: Tenant, transport: Transport, status: int) -> None:
    tenant.token_responses = [httpx.Response(status, json={"error": "invalid_client", "message": f"{SECRET} {BASIC}"})]
    error = refusal(transport)

    assert type(error) is NexthinkAuthenticationError
    assert error.status == status
    assert f"{TOKEN_URL} returned {status}" in str(error)
    assert "client secret (password)" in str(error)
    assert len(tenant.token_requests) == 1
    assert (tenant.bearers, tenant.sleeps) == ([], [])


CREDENTIAL, INACTIVE, SCOPE, POLICY = "client secret", "not active", "scope 'service:integration'", "policy"


@pytest.mark.parametrize(
    ("status", "body", "said", "hint"),
    [
        (
            401,
            {"error": "invalid_client", "error_description": "The client secret supplied is invalid."},
            "invalid_client: The client secret supplied is invalid.",
            CREDENTIAL,
        ),
        (401, {"errorCode": "E0000004", "errorSummary": "Authentication failed"}, "Authentication failed", CREDENTIAL),
        (401, {}, "returned 401.", CREDENTIAL),
        (400, {"error": "invalid_scope", "error_description": "One or more scopes"}, "invalid_scope: One", SCOPE),
        (400, {"error": "invalid_scope"}, "(invalid_scope)", SCOPE),
        (400, {"error": "access_denied", "error_description": "Policy evaluation failed"}, "Policy eval", POLICY),
        (403, {"errorCode": "E0000006", "errorSummary": "Blocked by a network policy"}, "Blocked by", POLICY),
        (401, {"error": "invalid_client", "error_description": "The client is inactive"}, "is inactive", INACTIVE),
        (400, {"error": "unauthorized_client"}, "(unauthorized_client)", INACTIVE),
        (400, {"error": "invalid_request"}, "(invalid_request)", "login address"),
        (302, {}, "returned 302", "Redirects are not followed"),
        (307, {"error": "x"}, "returned 307", "Redirects are not followed"),
    ],
)
def test_get_token_refused_says_why_and_blames_the_secret_only_for_that(
    tenant: Tenant, transport: Transport, status: int, body: dict[str, str], said: str, hint: str
) -> None:
    tenant.token_responses = [httpx.Response(status, json=body, headers={"location": "https://other.example"})]
    error = refusal(transport)

    assert type(error) is NexthinkAuthenticationError
    assert said in str(error)
    assert hint in str(error)
    assert ("client secret (password)" in str(error)) == (hint == CREDENTIAL)
    assert len(tenant.token_requests) == 1


@pytest.mark.parametrize("status", [403, 407])
def test_get_token_refused_by_a_proxys_page_names_the_proxy(tenant: Tenant, transport: Transport, status: int) -> None:
    tenant.token_responses = [httpx.Response(status, html="<html>Blocked</html>")]
    error = refusal(transport)

    assert type(error) is NexthinkProxyError
    assert "proxy" in str(error)
    assert "secret" not in str(error)
    assert len(tenant.token_requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "invalid_client", "error_description": null}',
        b'{"error": {"code": 1}, "error_description": ["x"]}',
        b'{"error": "<b>"}',
        b'["error"]',
        b'"error"',
        b"null",
    ],
)
def test_get_token_refused_with_an_odd_body_is_still_an_error_of_ours(
    tenant: Tenant, transport: Transport, body: bytes
) -> None:
    tenant.token_responses = [httpx.Response(401, content=body)]
    assert type(refusal(transport)) is NexthinkAuthenticationError


@pytest.mark.parametrize(
    "body",
    [
        '{"access_token": "made-up-token\\n"}',
        '{"access_token": "  made-up-token\\r\\n\\t"}',
        '{"access_token": "\\ufeffmade-up-token"}',
        '\ufeff{"access_token": "made-up-token"}',
        ' \r\n{"access_token": "made-up-token"}\n',
    ],
)
def test_get_token_blanks_and_bom_around_it_are_stripped(tenant: Tenant, transport: Transport, body: str) -> None:
    tenant.token_responses = [httpx.Response(200, content=body.encode())]
    transport.send_once("GET", "/x")
    assert tenant.bearers == ["made-up-token"]


@pytest.mark.parametrize("failure", [500, 503, 408, 429, httpx.ReadTimeout("slow"), httpx.ConnectError("refused")])
def test_get_token_ambiguous_failure_is_retried(tenant: Tenant, transport: Transport, failure: int | Exception) -> None:
    def failed() -> httpx.Response | Exception:
        return httpx.Response(failure) if isinstance(failure, int) else failure

    tenant.token_responses = [failed() for _ in range(MAX_ATTEMPTS - 1)]
    transport.send_once("GET", "/x")
    assert len(tenant.token_requests) == MAX_ATTEMPTS
    assert len(tenant.sleeps) == MAX_ATTEMPTS - 1
    assert all(2.0**attempt <= wait <= 2.0 ** (attempt + 1) for attempt, wait in enumerate(tenant.sleeps))

    tenant.time.seconds = 10_000
    tenant.token_responses = [failed() for _ in range(MAX_ATTEMPTS)]
    error = refusal(transport)
    assert type(error) is NexthinkTokenError
    assert isinstance(error, NexthinkRetryableError)
    assert TOKEN_URL.partition("/oauth2")[0] in str(error)
    assert len(tenant.token_requests) == 2 * MAX_ATTEMPTS


def test_send_token_failure_is_not_retried_by_the_request(tenant: Tenant, transport: Transport) -> None:
    tenant.token_responses = [httpx.Response(500) for _ in range(MAX_ATTEMPTS)]
    with pytest.raises(NexthinkTokenError):
        transport.send("GET", "/x", idempotent=True)

    assert len(tenant.token_requests) == MAX_ATTEMPTS
    assert tenant.bearers == []


def test_get_token_honours_retry_after(tenant: Tenant, transport: Transport) -> None:
    tenant.token_responses = [httpx.Response(429, headers={"retry-after": "17"})]
    transport.get_token()

    assert tenant.sleeps == [17.0]


@pytest.mark.parametrize("status", [429, 503])
def test_get_token_retry_after_beyond_the_cap_is_reported(tenant: Tenant, transport: Transport, status: int) -> None:
    tenant.token_responses = [httpx.Response(status, headers={"retry-after": "900"})]
    error = refusal(transport)

    assert isinstance(error, NexthinkTokenError)
    assert (error.status, error.retry_after) == (status, 900.0)
    assert tenant.sleeps == []


def test_get_token_without_response_has_no_status(tenant: Tenant, transport: Transport) -> None:
    tenant.token_responses = [httpx.ReadTimeout("slow") for _ in range(MAX_ATTEMPTS)]
    error = refusal(transport)

    assert isinstance(error, NexthinkTokenError)
    assert (error.status, error.retry_after) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"access_token": ""}',
        b'{"access_token": null}',
        b'{"access_token": 1}',
        b'{"access_token": {"a": "made-up-token"}}',
        pytest.param(b'{"access_token": ' + b"[" * 100_000, id="nested"),
        *(
            pytest.param(
                b'{"access_token": "made-up-token", "expires_in": ' + b"[" * depth + b"]" * depth + b"}",
                id=f"nested {depth} deep",
            )
            for depth in (300, 800, 850, 900, 950, 100_000)
        ),
        b'{"access_token": "made-up-token", "expires_in": []',
        b'{"access_token": "made-up-token", "access_token": "made-up-other"}',
        b'{"access_token": "made-up-token", "expires_in": 60, "expires_in": 900}',
    ],
)
def test_get_token_response_without_token_is_final(tenant: Tenant, transport: Transport, body: bytes) -> None:
    tenant.token_responses = [httpx.Response(200, content=body)]
    error = refusal(transport)

    assert type(error) is NexthinkAuthenticationError
    assert error.status == 200
    assert f"{TOKEN_URL} returned 200, but not with a token" in str(error)
    assert len(tenant.token_requests) == 1


@pytest.mark.parametrize(
    "token", ["made-up-\ntoken", "made up", "made-up-t\u00f6ken", "made-up-\ufefftoken", "made-up\0", " ", "\ufeff"]
)
def test_token_that_no_header_can_hold_is_refused(tenant: Tenant, transport: Transport, token: str) -> None:
    tenant.token_responses = [httpx.Response(200, json={"access_token": token})]
    error = refusal(transport)
    assert type(error) is NexthinkAuthenticationError
    assert "that no request can carry" in str(error)
    assert tenant.bearers == []


@pytest.mark.parametrize("told", ["null", '"soon"', "NaN", '"NaN"', "Infinity", "-Infinity", "1e999", "0", "-5", "[]"])
def test_get_token_unreadable_lifetime_is_15_minutes(tenant: Tenant, transport: Transport, told: str) -> None:
    tenant.token_responses = [
        httpx.Response(200, content=f'{{"access_token": "made-up-token-0", "expires_in": {told}}}')
    ]
    transport.get_token()
    for seconds, same in ((839, True), (896, False)):
        tenant.time.seconds = seconds
        assert (transport.get_token().get_secret_value() == "made-up-token-0") == same


def test_get_token_waiting_threads_share_the_failure() -> None:
    asked: list[str] = []
    refused = NexthinkAuthenticationError("no")

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        while len(asked) == 1 and sum("_lock" in line for line in waiting_lines()) < THREADS - 1:
            pass
        raise refused

    def waiting_lines() -> list[str]:
        frames = [frame for frame in sys._current_frames().values() if frame.f_code.co_name == "get_token"]
        return [linecache.getline(frame.f_code.co_filename, frame.f_lineno) for frame in frames]

    tokens = NexthinkAuth(SETTINGS, refuse)
    with ThreadPoolExecutor(THREADS) as pool:
        errors = [future.exception() for future in [pool.submit(tokens.get_token) for _ in range(THREADS)]]
    assert errors == [refused] * THREADS
    assert len(asked) == 1
    with pytest.raises(NexthinkAuthenticationError):
        tokens.get_token()
    assert len(asked) == 2


def test_get_token_after_a_failure_tries_again(tenant: Tenant, transport: Transport) -> None:
    tenant.token_responses = [httpx.Response(401)]
    refusal(transport)

    assert transport.send_once("GET", "/x").status_code == 200


def test_get_token_logs_no_secret(tenant: Tenant, transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    tenant.token_responses = [httpx.Response(500, json={"message": "busy"}), httpx.ReadTimeout("slow")]
    tenant.accepts = lambda token: token != "made-up-token-3"
    transport.send_once("GET", "/x")
    logged = json.dumps([[record.getMessage(), repr(record.args)] for record in caplog.records], ensure_ascii=False)

    assert logged.count("Retry in") >= 2
    assert TOKEN_URL in logged
    for secret in (BASIC, SECRET, "made-up-token"):
        assert secret not in logged


def test_auth_repr_shows_no_token(tenant: Tenant, transport: Transport) -> None:
    token: Any = transport.get_token()

    assert "made-up" not in f"{token} {token!r}"
