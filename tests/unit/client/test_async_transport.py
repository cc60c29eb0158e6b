"""The transport of the event loop does what the one of the workers does, answer for answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_nexthink.client import nql
from airflow_provider_nexthink.client.async_transport import AsyncTransport
from airflow_provider_nexthink.client.settings import NexthinkSettings
from airflow_provider_nexthink.client.transport import Transport
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkAuthenticationError,
    NexthinkError,
    NexthinkExportError,
    NexthinkInputError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkSettingsError,
    NexthinkSignInError,
    NexthinkUnavailableError,
)

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SETTINGS = NexthinkSettings.resolve(instance="acme", region="eu", client_id="client", client_secret="made-up-secret")

Answer = httpx.Response | type[Exception]


@dataclass
class Net:
    """Answers as it is told, and remembers what was sent and how long was waited."""

    answers: list[Answer] = field(default_factory=list)
    tokens: list[Answer] = field(default_factory=list)
    sent: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    now: float = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        is_token = request.url.path.endswith("/token")
        answers = self.tokens if is_token else self.answers
        if not is_token:
            self.ids.append(request.headers["x-request-id"])
        self.sent.append((request.method, str(request.url), request.headers["authorization"], request.content))
        answer = answers.pop(0) if answers else token() if is_token else httpx.Response(200, json={})
        if not isinstance(answer, httpx.Response):
            raise answer("made up")
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def clock(self) -> Clock:
        def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.now += seconds

        async def asleep(seconds: float) -> None:
            sleep(seconds)

        return Clock(lambda: self.now, lambda: START, sleep, asleep, random.Random(1))

    def send(self, replay: bool) -> Any:
        """Send as a worker does; return the answer or the error."""
        http_transport = httpx.MockTransport(self)
        with Transport(
            SETTINGS, clock=self.clock(), http_transport=http_transport, on_secret=self.secrets.append
        ) as transport:
            try:
                return transport.send("POST", "/api/v1/nql/export", replay=replay, json={"a": 1}).status_code
            except NexthinkError as error:
                return type(error), str(error).partition("[x-request-id")[0]

    def asend(self, replay: bool) -> Any:
        """Send as the triggerer does; return the answer or the error."""

        async def send() -> Any:
            async with self.transport() as transport:
                try:
                    response = await transport.send("POST", "/api/v1/nql/export", replay=replay, json={"a": 1})
                except NexthinkError as error:
                    return type(error), str(error).partition("[x-request-id")[0]
                return response.status_code

        return asyncio.run(send())

    def transport(self) -> AsyncTransport:
        async def on_secret(value: str) -> None:
            self.secrets.append(value)

        return AsyncTransport(
            SETTINGS, clock=self.clock(), http_transport=httpx.MockTransport(self), on_secret=on_secret
        )


def token(value: str = "made-up-token", expires_in: object = 900) -> httpx.Response:
    return httpx.Response(200, json={"access_token": value, "expires_in": expires_in})


ANSWERS = st.one_of(
    st.builds(
        httpx.Response,
        st.sampled_from([200, 202, 206, 302, 400, 401, 403, 404, 408, 413, 425, 429, 500, 502, 503, 504]),
        headers=st.sampled_from([{}, {"retry-after": "7"}, {"retry-after": "4000"}, {"x-trace-id": "t-1"}]),
        content=st.sampled_from([b"", b"{}", b'{"code": "BATCH_SIZE_EXCEEDED", "message": "made-up-secret"}', b"<p>"]),
    ),
    st.sampled_from([httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError]),
)
TOKENS = st.one_of(ANSWERS, st.builds(token, st.just("another-token"), st.sampled_from([900, "60", None, -1, "x"])))


@given(st.lists(ANSWERS, max_size=8), st.lists(TOKENS, max_size=6), st.booleans())
@settings(max_examples=150)
def test_both_send_wait_and_end_alike(answers: list[Answer], tokens: list[Answer], replay: bool) -> None:
    worker, triggerer = Net([*answers], [*tokens]), Net([*answers], [*tokens])
    assert worker.send(replay) == triggerer.asend(replay)
    assert worker.sent == triggerer.sent
    assert worker.waits == triggerer.waits
    assert set(worker.secrets) == set(triggerer.secrets)
    assert len(set(triggerer.ids)) <= 1  # re-sends keep their x-request-id


def test_a_token_is_used_until_shortly_before_its_end_and_then_fetched_anew() -> None:
    net = Net(tokens=[token("first", 100), token("second", 100)])

    async def send() -> None:
        async with net.transport() as transport:
            for at in (0.0, 30.0, 45.0, 51.0):
                net.now = at
                await transport.send("GET", "/x", replay=True)

    asyncio.run(send())
    used = [authorization for method, _, authorization, _ in net.sent if method == "GET"]
    assert used == ["Bearer first", "Bearer first", "Bearer first", "Bearer second"]
    assert {"made-up-secret", "first", "second"} < set(net.secrets)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([httpx.Response(401)], NexthinkAuthenticationError),
        ([httpx.Response(200, text="<html>")], NexthinkAuthenticationError),
        ([httpx.Response(503)] * 5, NexthinkSignInError),
        ([httpx.ConnectTimeout] * 5, NexthinkSignInError),
    ],
)
def test_without_a_token_nothing_is_asked(tokens: list[Answer], expected: type[Exception]) -> None:
    net = Net(tokens=[*tokens])
    assert net.asend(replay=True)[0] is expected
    assert all("/token" in url for _, url, _, _ in net.sent)


class _Endless(httpx.AsyncBaseTransport):
    """Answers with a body that never ends: as fast as it is read, or not at all."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/token"):
            return token()

        async def body() -> AsyncIterator[bytes]:
            while True:
                if not self._chunk:
                    await asyncio.Event().wait()
                yield self._chunk

        return httpx.Response(200, content=body())


@pytest.mark.parametrize(
    ("chunk", "timeout", "expected"),
    [(b"", 0.01, NexthinkUnavailableError), (b"x" * 1_000_000, 30.0, NexthinkRequestError)],
    ids=["stalled", "too large"],
)
def test_an_answer_without_end_is_given_up(chunk: bytes, timeout: float, expected: type[Exception]) -> None:
    tenant = NexthinkSettings.resolve(
        instance="acme", region="eu", client_id="client", client_secret="made-up-secret", timeout=timeout
    )

    async def send() -> None:
        async with AsyncTransport(tenant, http_transport=_Endless(chunk)) as transport:
            await transport.send("GET", "/x", replay=False)

    with pytest.raises(expected):
        asyncio.run(send())


@pytest.mark.parametrize("path", ["x", "//other.example/x", "https://other.example/x"])
def test_the_token_goes_to_no_other_host(path: str) -> None:
    net = Net()

    async def send() -> None:
        async with net.transport() as transport:
            await transport.send("GET", path, replay=True)

    with pytest.raises(NexthinkInputError):
        asyncio.run(send())
    assert net.sent == []


def test_a_proxy_of_the_environment_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://user:made-up-password@x")
    with pytest.raises(NexthinkSettingsError, match="HTTPS_PROXY") as caught:
        AsyncTransport(SETTINGS)
    assert "made-up-password" not in str(caught.value)


# Waiting for an export


def status(word: str, code: int = 200) -> httpx.Response:
    return httpx.Response(code, json={"status": word})


def wait_for(net: Net, timeout: float = 3600.0, poll_interval: float = 5.0) -> None:
    async def wait() -> None:
        async with net.transport() as transport:
            await nql.async_wait_for_export(transport, "e-1", poll_interval=poll_interval, timeout=timeout)

    asyncio.run(wait())


def test_it_begins_with_a_wait_and_the_waits_grow_to_a_minute() -> None:
    net = Net([*[status("SUBMITTED")], *[status("IN_PROGRESS")] * 8, status("COMPLETED")])
    wait_for(net)
    assert net.waits == [5.0, 7.5, 11.25, 16.875, 25.3125, 37.96875, 56.953125, 60.0, 60.0, 60.0]


def test_the_last_look_is_at_the_end_of_the_time() -> None:
    net = Net([status("IN_PROGRESS")] * 9)
    with pytest.raises(NexthinkExportError, match="e-1 was not ready in time"):
        wait_for(net, timeout=20.0)
    assert net.waits == [5.0, 7.5, 7.5]
    assert len(net.answers) == 6


def test_an_export_without_time_left_is_not_waited_for() -> None:
    net = Net([status("COMPLETED")])
    with pytest.raises(NexthinkExportError, match="e-1 was not ready in time"):
        wait_for(net, timeout=-5.0)
    assert net.waits == []


def test_a_limit_is_waited_out_where_the_time_allows_it() -> None:
    limited = httpx.Response(429, headers={"retry-after": "1800"})  # a worker would give up on it
    net = Net([status("IN_PROGRESS"), limited, status("COMPLETED", 206)])
    wait_for(net)
    assert net.waits == [5.0, 7.5, 1800.0]


def test_a_limit_that_lasts_longer_than_the_time_ends_the_wait_at_once() -> None:
    net = Net([httpx.Response(429, headers={"retry-after": "7200"})])
    with pytest.raises(NexthinkRateLimitError):
        wait_for(net)
    assert net.waits == [5.0]


def test_an_export_that_failed_says_why() -> None:
    answer = httpx.Response(200, content=json.dumps({"status": "ERROR", "errorDescription": "too broad"}))
    with pytest.raises(NexthinkExportError, match="too broad"):
        wait_for(Net([answer]))
