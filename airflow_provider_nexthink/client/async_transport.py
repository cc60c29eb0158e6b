"""The transport of the triggerer: what waits there must not hold up the event loop.

The same sign-in, the same requests and the same decisions as ``Transport``; only the sending and the waiting differ.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

import httpx

from airflow_provider_nexthink.client.auth import Token, basic_value, read_token, sign_in_error, token_request
from airflow_provider_nexthink.client.settings import NexthinkSettings
from airflow_provider_nexthink.client.transport import (
    BaseTransport,
    check_size,
    proxy_of_the_environment,
    untraced,
    whole_answer,
)
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkRetryableError


async def _tell_nobody(_: str) -> None:
    """Do nothing with a secret."""


class AsyncTransport(BaseTransport):
    """Sends requests to one tenant, one after the other, and turns each answer that is no success into an error.

    For one task of an event loop. The bearer token goes to the API host and nowhere else; redirects are not followed.

    :param settings: the tenant and the credential.
    :param on_secret: told every value that must not show in a log, as soon as it is known.
    :param traced: what a request is sent within, once it is made; may add headers to it.
    :param clock: time and chance.
    :param http_transport: what carries the requests, for tests; by default the network.
    """

    def __init__(
        self,
        settings: NexthinkSettings,
        *,
        on_secret: Callable[[str], Awaitable[None]] = _tell_nobody,
        traced: Callable[[httpx.Request], AbstractContextManager[object]] = untraced,
        clock: Clock | None = None,
        http_transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(settings, clock)
        self._tell_secret = on_secret
        self._traced = traced
        self._token: Token | None = None
        options = self.client_options()
        with proxy_of_the_environment():
            self._http = httpx.AsyncClient(
                **options,
                transport=http_transport,
                # Plain http is accepted for this machine's own addresses only: no proxy is to see that.
                mounts=None if http_transport else {"http://": httpx.AsyncHTTPTransport(verify=False)},
            )

    async def __aenter__(self) -> Self:
        for secret in self.own_secrets():
            await self._on_secret(secret)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(
        self, method: str, path: str, *, replay: bool, cures: Mapping[int, str] | None = None, **parts: Any
    ) -> httpx.Response:
        """Send a request, and again while that makes sense, with growing pauses.

        :param method: the HTTP method.
        :param path: the path on the API host.
        :param replay: whether to send again after an answer that leaves open whether the request was carried out.
        :param cures: by status, what a person can do about it.
        :param parts: ``json``, ``params``, ``headers`` and so on, as httpx names them.
        :return: the answer, a success (2xx).
        :raises NexthinkError: for the last answer, where none was a success.
        """
        request = self.request(method, path, str(uuid.uuid4()), parts)
        return await self._persist(lambda: self._send_once(request, cures), replay=replay)

    async def _send_once(self, request: httpx.Request, cures: Mapping[int, str] | None) -> httpx.Response:
        with self._traced(request):
            return await self._answer(request, cures)

    async def _answer(self, request: httpx.Request, cures: Mapping[int, str] | None) -> httpx.Response:
        token = await self._sign_in()
        response = await self._send_signed(request, token)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            response = await self._send_signed(request, await self._sign_in(rejected=token))
        return self.answered(response, cures)

    async def _send_signed(self, request: httpx.Request, token: Token) -> httpx.Response:
        request.headers["Authorization"] = f"Bearer {token.value.get_secret_value()}"
        return await self._exchange(request)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        start = self.clock.monotonic()
        body = bytearray()
        try:
            async with asyncio.timeout(self.answer_seconds):
                response = await self._http.send(request, stream=True)
                try:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        check_size(body)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise self.unanswered(httpx.ReadTimeout("the answer does not end", request=request), request) from None
        except httpx.RequestError as error:
            raise self.unanswered(error, request) from None
        return whole_answer(response, bytes(body), self.clock.monotonic() - start)

    async def _sign_in(self, *, rejected: Token | None = None) -> Token:
        """Return a token that is good for some time to come."""
        token = self._token
        if token is None or token is rejected or self.clock.monotonic() >= token.renew_at:
            token = self._token = await self._new_token()
        return token

    async def _new_token(self) -> Token:
        asked_at = self.clock.monotonic()
        request = token_request(self.settings)
        await self._on_secret(basic_value(request))

        async def once() -> httpx.Response:
            return self.answered(await self._exchange(request))

        try:
            response = await self._persist(once, replay=True)
        except NexthinkError as error:
            raise sign_in_error(error, self.settings) from None
        token = read_token(response, self.settings, asked_at)
        await self._on_secret(token.value.get_secret_value())
        return token

    async def _persist(self, once: Callable[[], Awaitable[httpx.Response]], *, replay: bool) -> httpx.Response:
        attempt = 1
        while True:
            try:
                return await once()
            except NexthinkRetryableError as error:
                if (wait := self.wait_before_again(error, attempt, replay=replay)) is None:
                    raise
                await self.clock.asleep(wait)
            attempt += 1

    async def _on_secret(self, value: str) -> None:
        self.remember(value)
        await self._tell_secret(value)
