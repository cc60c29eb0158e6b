"""OAuth2 client credentials: one token, fetched once, shared by all threads, renewed in good time.

Sign-in as Nexthink documents it ("Getting an authentication token"): HTTP Basic with the client id and
secret, a form with the grant type and the scope; a token is good for 15 minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx
from pydantic import SecretStr, ValidationError

from airflow_provider_nexthink.client.models import TokenResponse
from airflow_provider_nexthink.client.settings import NexthinkSettings
from airflow_provider_nexthink.exceptions import NexthinkAuthenticationError, NexthinkError

GRANT = {"grant_type": "client_credentials", "scope": "service:integration"}

LIFETIME_SECONDS = 900.0

RENEW_SECONDS_BEFORE_END = 60.0


class TokenProvider:
    """Fetches a token when one is needed and keeps it until shortly before its end.

    :param settings: where to sign in, and as whom.
    :param fetch: sends the token request and returns the answer, with the re-sends of a transport.
    :param on_secret: told every value that must not show in a log, as soon as it is known.
    :param clock: seconds that only ever grow.
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
        self._lock = threading.Lock()
        self._token: SecretStr | None = None
        self._renew_at = 0.0
        self._failures = 0
        self._failure: NexthinkError | None = None

    def token(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """Return a token that is good for some time to come.

        Threads that ask at once wait for the one that fetches.

        :param rejected: a token that was answered 401, and so is not to be used again.
        :raises NexthinkAuthenticationError: if the credentials are refused.
        :raises NexthinkRetryableError: if the token address does not answer.
        """
        failures = self._failures
        with self._lock:
            if self._failure is not None and self._failures != failures:
                raise self._failure  # of the thread that this one has waited for: asking again would not help
            if self._token is None or self._token == rejected or self._clock() >= self._renew_at:
                try:
                    self._token, self._failure = self._new_token(), None
                except NexthinkError as error:
                    self._failures, self._failure = self._failures + 1, error
                    raise
            return self._token

    def _new_token(self) -> SecretStr:
        asked_at = self._clock()
        request = httpx.Request("POST", self._settings.token_url, data=GRANT, headers={"Accept": "application/json"})
        basic = httpx.BasicAuth(self._settings.client_id, self._settings.client_secret.get_secret_value())
        request = next(basic.auth_flow(request))
        self._on_secret(request.headers["Authorization"].removeprefix("Basic "))
        response = self._fetch(request)
        try:
            answer = TokenResponse.model_validate_json(response.content)
        except ValidationError:
            raise NexthinkAuthenticationError(
                f"{self._settings.token_url} answered {response.status_code}, but not with a token. Check "
                "the token URL: something else seems to live there.",
                status=response.status_code,
            ) from None
        self._on_secret(answer.access_token.get_secret_value())
        lifetime = _lifetime(answer.expires_in)
        # A token with a very short life is used for half of it rather than never.
        self._renew_at = asked_at + lifetime - min(RENEW_SECONDS_BEFORE_END, lifetime / 2)
        return answer.access_token


def _lifetime(expires_in: object) -> float:
    """Read for how many seconds a token is good; where the answer does not say, as documented."""
    try:
        seconds = float(str(expires_in))
    except ValueError:
        return LIFETIME_SECONDS
    return seconds if 0 < seconds < float("inf") else LIFETIME_SECONDS
