"""A tenant behind ``httpx.MockTransport``, for responses that no server sends by itself. Others use the sandbox."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.clock import Clock
from tests.support.fake_time import FakeTime

API = "https://acme.api.eu.nexthink.cloud"
TOKEN_URL = "https://acme-login.eu.nexthink.cloud/oauth2/default/v1/token"
CREDENTIAL = {"client_id": "client", "client_secret": "made-up-secret"}
SETTINGS = NexthinkSettings.resolve(instance="acme", region="eu", **CREDENTIAL)


@dataclass
class HttpTenant:
    """Responds as scripted and records the requests, in virtual time.

    :param responses: the responses to the API requests, in their order; an exception is raised instead.
    :param respond: makes the responses to the API requests instead.
    :param token_responses: the first responses to the token requests; then tokens with numbers.
    :param lifetime: ``expires_in`` of these tokens.
    :param accepts: whether the API accepts a bearer token; otherwise it responds with 401.
    """

    responses: list[httpx.Response | Exception] = field(default_factory=list)
    respond: Callable[[httpx.Request], httpx.Response] | None = None
    token_responses: list[httpx.Response | Exception] = field(default_factory=list)
    lifetime: float = 900.0
    accepts: Callable[[str], bool] = lambda token: True
    time: FakeTime = field(default_factory=FakeTime)
    received: list[httpx.Request] = field(default_factory=list)
    token_requests: list[httpx.Request] = field(default_factory=list)
    bearers: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url == TOKEN_URL:
            self.token_requests.append(request)
            return _raise_or_return(self.token_responses.pop(0) if self.token_responses else self.token())
        self.received.append(request)
        if request.url.host == httpx.URL(API).host:
            # A retry has the same object, with another token.
            self.bearers.append(str(request.headers["Authorization"]).removeprefix("Bearer "))
            if not self.accepts(self.bearers[-1]):
                return httpx.Response(401)
        return self.respond(request) if self.respond else _raise_or_return(self.responses.pop(0))

    def token(self) -> httpx.Response:
        token = f"made-up-token-{len(self.token_requests)}"
        return httpx.Response(200, json={"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"})

    @property
    def requests(self) -> list[httpx.Request]:
        return [*self.token_requests, *self.received]

    @property
    def sleeps(self) -> list[float]:
        return self.time.slept

    def clock(self) -> Clock:
        return self.time.clock()

    def transport(self, settings: NexthinkSettings = SETTINGS) -> Transport:
        return Transport(
            settings, on_secret=self.secrets.append, clock=self.clock(), http_transport=httpx.MockTransport(self)
        )


def shown_by(error: BaseException) -> str:
    """Return what a log shows of an error, with the local variables of our own code."""
    stack = traceback.TracebackException.from_exception(error, capture_locals=True, compact=True).stack
    ours = [frame.locals for frame in stack if "airflow_provider_nexthink" in frame.filename]
    assert ours
    return f"{error} {error!r} {vars(error)} {ours}"


def _raise_or_return(response: httpx.Response | Exception) -> httpx.Response:
    if isinstance(response, Exception):
        raise response
    return response
