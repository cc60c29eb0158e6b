"""OAuth2 client credentials: one token, fetched once, shared by all threads, renewed early.

As Nexthink documents it ("Getting an authentication token"): HTTP Basic with the client id and
secret, a form with the grant type and the scope; a token is good for 15 minutes.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from airflow_provider_nexthink.api.models import TokenResponse
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.exceptions import (
    NexthinkAuthenticationError,
    NexthinkError,
    NexthinkFinalError,
    NexthinkProxyError,
    NexthinkRetryableError,
    NexthinkStoppedError,
    NexthinkTokenError,
)

USER_AGENT = "airflow-provider-nexthink"

GRANT = {"grant_type": "client_credentials", "scope": "service:integration"}

LIFETIME_SECONDS = 900.0

RENEW_SECONDS_BEFORE_END = 60.0

END_SECONDS_BEFORE_END = 5.0
"""The token must still be valid when the request arrives."""

RENEW_PAUSE_SECONDS = 5.0
"""Between two attempts to renew a token early."""

_TOKEN_HINTS = (
    (
        "policy|access_denied",
        "A policy of the login service refuses it: ask the administrator of Nexthink which one.",
    ),
    (
        "inactive|not active|disabled|deactivated|suspended|unauthorized_client",
        "The API credential is not active, or may not fetch tokens: activate it in Nexthink, or create another one.",
    ),
    (
        r"invalid_scope|\bscopes?\b",
        f"The API credential does not have the scope {GRANT['scope']!r}: check its permissions in Nexthink.",
    ),
    (
        "unsupported_grant_type|invalid_request",
        "Check the login address, and the proxies in between: the request did not arrive as it was sent.",
    ),
)
"""By the error that the login service names, what to do about it."""

_CREDENTIAL_HINT = (
    "Check the connection's client id (login), client secret (password), instance and region, and that the API "
    "credential is still active in Nexthink."
)

_IS_TOKEN = re.compile(r"[\x21-\x7e]+")  # visible ASCII: what a header may hold

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """A bearer token.

    :param value: the token.
    :param renew_at: when to fetch another one, in seconds of monotonic time.
    :param ends_at: when it is not to be used any more.
    """

    value: SecretStr
    renew_at: float
    ends_at: float


class NexthinkAuth(httpx.Auth):
    """Signs requests with a token that all threads share, fetched when one is first needed.

    It is renewed early, in a thread of its own: no request waits while the old one is good.

    :param settings: where to fetch it, and as whom.
    :param fetch: sends the token request and returns the response, with the retries of a transport.
    :param on_secret: called with every value that must not show in a log, as soon as it is known.
    :param clock: monotonic time, in seconds.
    """

    def __init__(
        self,
        settings: NexthinkSettings,
        fetch: Callable[[httpx.Request], httpx.Response],
        *,
        on_secret: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._on_secret = on_secret
        self._clock = clock
        self._lock = threading.Lock()  # held by the thread that fetches
        self._token: Token | None = None
        self._failures = 0
        self._failure: NexthinkError | None = None
        self._renewal: threading.Thread | None = None
        self._renew_after = 0.0

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request, as httpx has it; after a 401 once more, with a new token.

        :param request: to be signed.
        """
        token = self.get_token()
        request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            token = self.get_token(expired=token)
            request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
            yield request

    def get_token(self, *, expired: SecretStr | None = None) -> SecretStr:
        """Return a token that is good for now. Threads that need one at once wait for the one that fetches it.

        :param expired: a token that was refused (401), and is not to be used again.
        :raises NexthinkAuthenticationError: if the credentials are refused.
        :raises NexthinkRetryableError: if the login address does not respond.
        """
        token = self._token
        if token is not None and token.value != expired and (now := self._clock()) < token.ends_at:
            if now >= max(token.renew_at, self._renew_after):
                self._renew_in_background(token)
            return token.value
        failures = self._failures
        with self._lock:
            if self._failure is not None and self._failures != failures:
                raise self._failure  # of the thread that this one has waited for: another request would not help
            token = self._token
            if token is None or token.value == expired or self._clock() >= token.ends_at:
                token = self._new_token()
            return token.value

    def _renew_in_background(self, token: Token) -> None:
        if self._renewal is not None and self._renewal.is_alive():
            return
        self._renew_after = self._clock() + RENEW_PAUSE_SECONDS
        self._renewal = threading.Thread(target=self._renew, args=(token,), name="nexthink-token", daemon=True)
        self._renewal.start()

    def _renew(self, token: Token) -> None:
        with self._lock:
            if self._token is not token:  # another thread was faster
                return
            try:
                self._new_token()
            except NexthinkError as error:
                log.info("The token could not be renewed early; the old one is still good. %s", error)

    def _new_token(self) -> Token:
        asked_at = self._clock()
        request = token_request(self._settings)
        self._on_secret(basic_value(request))
        try:
            token = read_token(self._fetch(request), self._settings, asked_at)
        except NexthinkError as error:
            self._failures, self._failure = self._failures + 1, error
            raise
        self._on_secret(token.value.get_secret_value())
        self._token, self._failure = token, None
        return token


def token_request(settings: NexthinkSettings) -> httpx.Request:
    """Return the request for a token, as Nexthink documents it.

    :param settings: where to fetch a token, and as whom.
    """
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    request = httpx.Request("POST", settings.login_url, data=GRANT, headers=headers)
    basic = httpx.BasicAuth(settings.client_id, settings.client_secret.get_secret_value())
    return next(basic.auth_flow(request))


def basic_value(request: httpx.Request) -> str:
    """Return the id and secret as the header of a token request encodes them: a secret too.

    :param request: what ``token_request`` returned.
    """
    return request.headers["Authorization"].removeprefix("Basic ")


def read_token(response: httpx.Response, settings: NexthinkSettings, asked_at: float) -> Token:
    """Read the response to a token request.

    :param response: the response, a success.
    :param settings: where it was fetched.
    :param asked_at: when it was asked for, in seconds of monotonic time.
    :raises NexthinkAuthenticationError: if it holds no token.
    """
    try:
        body = TokenResponse.read(response.content.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        raise NexthinkAuthenticationError(
            f"{settings.login_url} returned {response.status_code}, but not with a token. Check the login address, and "
            "whether something in between responds instead.",
            status=response.status_code,
        ) from None
    value = SecretStr(body.access_token.get_secret_value().strip("\ufeff \t\r\n"))
    if not _IS_TOKEN.fullmatch(value.get_secret_value()):
        raise NexthinkAuthenticationError(
            f"{settings.login_url} returned {response.status_code} with a token that no request can carry: it holds "
            "blanks or control characters. Check the login address, and the proxies in between.",
            status=response.status_code,
        )
    lifetime = _lifetime(body.expires_in)
    # A token with a very short life is used for a part of it rather than never.
    return Token(
        value,
        renew_at=asked_at + lifetime - min(RENEW_SECONDS_BEFORE_END, lifetime / 2),
        ends_at=asked_at + lifetime - min(END_SECONDS_BEFORE_END, lifetime / 10),
    )


def token_error(error: NexthinkError, settings: NexthinkSettings) -> NexthinkError:
    """Return the error for a request that needs a token and gets none.

    :param error: what the token request ended with, after its retries.
    :param settings: where the token was asked for, and as whom.
    """
    status = getattr(error, "status", None)
    if isinstance(error, NexthinkStoppedError):
        return error
    if isinstance(error, NexthinkRetryableError):
        return NexthinkTokenError(
            f"No token could be fetched. {error}",
            status=status,
            retry_after=getattr(error, "retry_after", None),
            reason=f"no token could be fetched ({status or error.reason or 'no response'})",
        )
    if isinstance(error, NexthinkFinalError) and not isinstance(error, NexthinkProxyError):
        code, detail = getattr(error, "code", None), getattr(error, "detail", None)
        said = ": ".join(part for part in (code, detail) if part)
        return NexthinkAuthenticationError(
            f"Nexthink gave no token: {settings.login_url} returned {status}{f' ({said})' if said else ''}. "
            f"{_token_hint(status, said)}",
            status=status,
            code=code,
            detail=detail,
        )
    return error


def _token_hint(status: int | None, said: str) -> str:
    """Return what to do about a refused token request.

    :param status: the HTTP status.
    :param said: the error and its description, as the login service says them.
    """
    if status is not None and 300 <= status < 400:
        return "Redirects are not followed: check the login address, or the proxy in between."
    hints = (hint for pattern, hint in _TOKEN_HINTS if re.search(pattern, said, re.IGNORECASE))
    return next(hints, _CREDENTIAL_HINT)


def _lifetime(expires_in: object) -> float:
    """Return for how many seconds a token is good; where the response does not say, as documented."""
    try:
        seconds = float(str(expires_in))
    except ValueError:
        return LIFETIME_SECONDS
    return seconds if 0 < seconds < float("inf") else LIFETIME_SECONDS
