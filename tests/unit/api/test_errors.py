"""What a response means."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.errors import no_response, parse_retry_after, to_error
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkAuthenticationError,
    NexthinkBatchSizeError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkFinalError,
    NexthinkInvalidRequestError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkProxyError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkRetryableError,
    NexthinkSettingsError,
    NexthinkUnavailableError,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
URL = "https://acme.api.eu.nexthink.cloud/api/v1/x"


def response(status: int, *, url: str = URL, **parts: Any) -> httpx.Response:
    request = httpx.Request("POST", url, headers={"x-request-id": "sent-id", "Authorization": "Bearer made-up-token"})
    return httpx.Response(status, request=request, **parts)


def error(status: int, *, hints: dict[int, str] | None = None, **parts: Any) -> NexthinkApiError:
    found = to_error(response(status, **parts), now=NOW, hints=hints)
    assert found is not None
    return found


@pytest.mark.parametrize("status", [200, 202, 204, 206])
def test_to_error_success_is_none(status: int) -> None:
    assert to_error(response(status, json={"code": "INVALID_REQUEST"}), now=NOW) is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, None, NexthinkRequestError),
        (304, None, NexthinkRequestError),
        (307, None, NexthinkRequestError),
        (400, None, NexthinkRequestError),
        (400, "EMPTY_REQUEST", NexthinkRequestError),
        (400, "EMPTY_TENANT", NexthinkRequestError),
        (400, "INVALID_REQUEST", NexthinkInvalidRequestError),
        (400, "BATCH_SIZE_EXCEEDED", NexthinkBatchSizeError),
        (401, None, NexthinkAuthenticationError),
        (403, "FEATURE_NOT_ENABLED", NexthinkPermissionError),
        (403, "INVALID_REQUEST", NexthinkPermissionError),
        (404, None, NexthinkNotFoundError),
        (406, None, NexthinkRequestError),
        (408, None, NexthinkUnavailableError),
        (413, None, NexthinkBatchSizeError),
        (429, None, NexthinkRateLimitError),
        (500, "INTERNAL_ERROR", NexthinkUnavailableError),
        (500, "BATCH_SIZE_EXCEEDED", NexthinkUnavailableError),
        (502, None, NexthinkUnavailableError),
        (503, None, NexthinkUnavailableError),
        (504, None, NexthinkUnavailableError),
        (599, None, NexthinkUnavailableError),
    ],
)
def test_to_error_class_follows_from_the_status(status: int, code: str | None, kind: type[NexthinkApiError]) -> None:
    found = error(status, json={"code": code, "message": "made up"} if code else None)

    assert type(found) is kind
    assert (found.status, found.code) == (status, code)
    retryable = status in (408, 429) or status >= 500
    assert isinstance(found, NexthinkRetryableError) is retryable
    assert isinstance(found, NexthinkFinalError) is not retryable


def test_to_error_has_ids_and_retry_after() -> None:
    headers = {"x-request-id": "their-id", "x-trace-id": "a-trace", "retry-after": "12"}
    found = error(503, headers=headers)

    assert (found.request_id, found.trace_id, found.retry_after) == ("sent-id", "a-trace", 12.0)
    assert str(found).endswith("[x-request-id sent-id]")


def test_to_error_request_id_is_the_one_sent() -> None:
    found = error(502)

    assert (found.request_id, found.trace_id, found.retry_after, found.code) == ("sent-id", None, None, None)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "a retry changes nothing"),
        (401, "check that the API credential is still active"),
        (403, "Tick the permission"),
        (404, "Check the instance, the region"),
        (429, "fewer requests"),
    ],
)
def test_to_error_message_has_the_response_and_a_hint(status: int, hint: str) -> None:
    message = str(error(status, json={"code": "A_CODE", "message": "their words"}))

    assert message.startswith(f"POST {URL} returned {status} A_CODE their words. ")
    assert hint in message


def test_to_error_hint_of_the_caller_wins() -> None:
    message = str(error(403, hints={403: "Ask Ada.", 404: "Ask Bob."}))

    assert "Ask Ada." in message
    assert "Tick" not in message
    assert "Bob" not in message


def test_to_error_redirect_is_named() -> None:
    message = str(error(302, headers={"location": "https://elsewhere.example/?key=hush"}))

    assert "returned 302. Redirects are not followed" in message
    assert "hush" not in message


def test_to_error_query_of_the_address_is_not_shown() -> None:
    message = str(error(500, url=f"{URL}?signature=hush#hush"))

    assert f"POST {URL} returned 500." in message
    assert "hush" not in message


def test_to_error_numeric_code_of_nql_is_text() -> None:
    found = error(404, json={"message": "no such query", "code": 1404, "source": "nql"})

    assert found.code == "1404"
    assert "returned 404 1404 no such query." in str(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"null",
        b"[1]",
        b'"x"',
        b'{"code": []}',
        b'{"message": 1}',
        b"\xff\xfe",
        b"{",
        pytest.param(b'{"code": ' + b"[" * 100_000, id="nested"),
        b'{"code": "INVALID_REQUEST", "code": "BATCH_SIZE_EXCEEDED"}',
        b'{"code": "INVALID_REQUEST", "details": {"a": 1, "a": 2}}',
    ],
)
@pytest.mark.parametrize("status", [400, 502])
def test_to_error_body_of_a_gateway_has_no_code(body: bytes, status: int) -> None:
    found = error(status, content=body)

    assert found.code is None
    assert type(found) is (NexthinkRequestError if status == 400 else NexthinkUnavailableError)
    assert f"returned {status}. " in f"{found} "


def test_to_error_long_message_is_shortened() -> None:
    found = error(400, json={"message": "x" * 100_000})

    assert len(str(found)) < 1000
    assert len(found.detail or "") < 1000


def test_to_error_detail_is_the_servers_message() -> None:
    assert error(400, json={"code": "A_CODE", "message": "their words."}).detail == "their words."
    assert error(502, content=b"<html>").detail is None


def test_to_error_repeats_nothing() -> None:
    message = str(error(404, json={"code": 404, "message": "no such thing."}))

    assert "returned 404 no such thing. Check" in message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("-5", None),
        ("soon", None),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120.0),
        ("Sun, 01 Mar 2026 12:02:00 -0000", 120.0),
        ("Sun, 01 Mar 2026 14:02:00 +0200", 120.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("2026-03-01T12:02:00Z", 120.0),
        ("2026-03-01T12:02:00", 120.0),
        ("2026-03-01 12:02:00.500", 120.5),
        ("2026-03-01T14:02:00+02:00", 120.0),
        ("2025-03-01T12:02:00Z", 0.0),
        ("2026-02-30T12:02:00Z", None),
        ("Sun, 01 Mar 2026 12:02:00 +99999999999999999999", None),
        ("Sun, 01 Mar 2026 12:02:00 -99999999999999999999", None),
        ("Sun, 01 Mar 99999999999999999999 12:02:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("9" * 400, None),
    ],
)
def test_parse_retry_after_seconds_and_dates(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("value", ["2026-03-01T12:02:00", "Sun, 01 Mar 2026 12:02:00 -0000"])
@pytest.mark.usefixtures("far_from_utc")
def test_parse_retry_after_date_without_zone_is_utc(value: str) -> None:
    assert parse_retry_after(value, NOW) == 120.0


@given(st.text() | st.text("0123456789-+:.TZ, JanSuGMT", max_size=40))
def test_parse_retry_after_arbitrary_text_is_a_wait_or_none(text: str) -> None:
    seconds = parse_retry_after(text, NOW)

    assert seconds is None or seconds >= 0


@given(
    moment=st.datetimes(min_value=datetime(1980, 1, 1), max_value=datetime(2200, 1, 1)),  # noqa: DTZ001 - the zone follows
    offset=st.integers(-14 * 60, 14 * 60),
)
def test_parse_retry_after_date_of_either_form_and_any_zone(moment: datetime, offset: int) -> None:
    date = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
    expected = max(0.0, (date - NOW).total_seconds())

    assert parse_retry_after(format_datetime(date), NOW) == expected
    assert parse_retry_after(date.isoformat(), NOW) == expected


def chained(failure: httpx.RequestError, cause: BaseException, *, by_cause: bool) -> httpx.RequestError:
    middle = OSError("in between")
    if by_cause:
        failure.__cause__, middle.__cause__ = middle, cause
    else:
        failure.__context__, middle.__context__ = middle, cause
    return failure


def told(failure: httpx.RequestError, url: str = f"{URL}?signature=hush", *, has_left: bool = True) -> NexthinkError:
    return no_response(failure, httpx.Request("POST", url, headers={"x-request-id": "sent-id"}), has_left=has_left)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (httpx.ReadTimeout("it broke"), "no response within the timeout"),
        (httpx.WriteTimeout("it broke"), "the request could not be sent within the timeout"),
        (httpx.RemoteProtocolError("Server disconnected."), "Server disconnected"),
        (httpx.ReadError("[Errno 104] Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (httpx.PoolTimeout(""), "PoolTimeout"),
    ],
)
def test_no_response_names_the_cause_and_is_retryable(failure: httpx.RequestError, reason: str) -> None:
    found = told(failure)

    assert type(found) is NexthinkUnavailableError
    assert (found.status, found.request_id, found.reason) == (None, "sent-id", reason)
    assert f"No response from {URL}: {reason}." in str(found)
    assert "hush" not in str(found)


def test_no_response_system_error_has_the_systems_reason() -> None:
    failure = httpx.ConnectError("[Errno 111] ...")
    failure.__cause__ = ConnectionRefusedError(111, "Connection refused")
    found = told(failure)
    assert type(found) is NexthinkConnectError
    assert found.reason == "Connection refused"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (httpx.ReadTimeout(""), NexthinkConnectError),  # of the response to CONNECT
        (httpx.ProxyError("502 Bad Gateway"), NexthinkConnectError),
        (httpx.ProxyError("403 Forbidden"), NexthinkSettingsError),
        (httpx.ProxyError("407 Proxy Authentication Required"), NexthinkSettingsError),
    ],
)
def test_no_response_never_left_names_the_proxy(failure: httpx.RequestError, kind: type[NexthinkError]) -> None:
    found = no_response(failure, httpx.Request("POST", URL), has_left=False, proxy="http://proxy.example:3128")
    assert type(found) is kind
    assert "http://proxy.example:3128" in str(found)
    assert "secret" not in str(found).lower()


def test_no_response_password_in_the_address_is_not_shown() -> None:
    assert "hush" not in str(told(httpx.ReadTimeout(""), "https://me:hush@nx.example/x"))


@pytest.mark.parametrize("by_cause", [True, False])
def test_no_response_unknown_authority_names_verify(by_cause: bool) -> None:
    cause = ssl.SSLCertVerificationError(1, "self-signed certificate in certificate chain")
    found = told(chained(httpx.ConnectError("x"), cause, by_cause=by_cause))

    assert type(found) is NexthinkSettingsError
    assert "certificate of https://acme.api.eu.nexthink.cloud" in str(found)
    assert "'verify'" in str(found)


def test_no_response_other_tls_failure_is_retryable() -> None:
    found = told(chained(httpx.ConnectError("x"), ssl.SSLEOFError(8, "cut off"), by_cause=True))

    assert type(found) is NexthinkConnectError


@pytest.mark.parametrize("kind", [httpx.UnsupportedProtocol, httpx.LocalProtocolError])
def test_no_response_invalid_request_does_not_show_its_headers(kind: type[httpx.RequestError]) -> None:
    found = told(kind("Illegal header value b'Bearer hush'"), has_left=False)

    assert type(found) is NexthinkSettingsError
    assert kind.__name__ in str(found)
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["1", "5"], 5),
        (["5", "1"], 5),
        (["1, 5"], 5),
        (["soon", "7"], 7),
        ([format_datetime(NOW + timedelta(seconds=60), usegmt=True), "5"], 60),
        (["5", (NOW + timedelta(seconds=60)).isoformat()], 60),
        (["", "soon"], None),
        (["5", format_datetime(NOW - timedelta(seconds=60), usegmt=True)], 5),
    ],
)
def test_retry_after_given_twice_the_longer_holds(values: list[str], seconds: float | None) -> None:
    found = error(429, headers=[("retry-after", value) for value in values])
    assert found.retry_after == seconds


@pytest.mark.parametrize(("status", "body"), [(403, b" \n<html>Blocked</html>"), (407, b""), (407, b"{}")])
@pytest.mark.parametrize("proxy", [None, "http://proxy.example:3128"])
def test_to_error_page_of_a_proxy_names_it_and_no_permission(status: int, body: bytes, proxy: str | None) -> None:
    response = httpx.Response(status, content=body, request=httpx.Request("POST", URL))
    found = to_error(response, now=NOW, hints={403: "Tick the permission"}, proxy=proxy)

    assert type(found) is NexthinkProxyError
    assert (proxy or "a proxy or gateway") in str(found)
    assert "permission" not in str(found)


@pytest.mark.parametrize("code", [2, 9, 10, 18, 19, 20, 21, 62, 64, 79, 92, 0])
def test_no_response_certificate_refused_has_openssls_reason(code: int) -> None:
    cause = ssl.SSLCertVerificationError(1, "x")
    cause.verify_code, cause.verify_message = code, "in OpenSSL's words."
    found = told(chained(httpx.ConnectError("x"), cause, by_cause=True))

    assert type(found) is NexthinkSettingsError
    assert "certificate of https://acme.api.eu.nexthink.cloud is not accepted: in OpenSSL's words. " in str(found)
