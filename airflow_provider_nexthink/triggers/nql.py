"""Triggers for NQL exports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_nexthink.backoff import MAX_ATTEMPTS, jittered_backoff
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkExportError,
    NexthinkExportTimeoutError,
    NexthinkRateLimitError,
    NexthinkRetryableError,
)

if TYPE_CHECKING:
    from airflow_provider_nexthink.client import NexthinkClient
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class NexthinkExportTrigger(BaseTrigger):
    """Waits until the file of an export is there.

    Its one event is ``{"status": "success" or "error", "message", "export_id", "end_time"}``. With ``error``, the
    message says why the wait ended too early; what that means is for the worker to find out, which asks for the
    export's status itself.

    :param nexthink_conn_id: the connection.
    :param export_id: the export.
    :param poll_interval: seconds before the first poll, and between two polls, growing to a minute.
    :param end_time: when to give up, in seconds since the epoch.
    """

    clock = Clock()

    def __init__(self, *, nexthink_conn_id: str, export_id: str, poll_interval: float, end_time: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nexthink_conn_id = nexthink_conn_id
        self.export_id = export_id
        self.poll_interval = poll_interval
        self.end_time = end_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger anew."""
        return (
            "airflow_provider_nexthink.triggers.nql.NexthinkExportTrigger",
            {
                "nexthink_conn_id": self.nexthink_conn_id,
                "export_id": self.export_id,
                "poll_interval": self.poll_interval,
                "end_time": self.end_time,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then give the one event."""
        failure = None
        try:
            async with _Tenant(self.nexthink_conn_id, self.clock) as tenant:
                left = self.end_time - self.clock.now().timestamp()
                await tenant.wait_for_export(self.export_id, self.poll_interval, left)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker finds out and says it
            failure = error
        yield _event(self.export_id, self.end_time, failure)


class NexthinkQueryTrigger(BaseTrigger):
    """Exports the result of a saved query at a given time, and waits until its file is there.

    A triggerer that is started again starts another export: nothing but that request is done twice.

    Its one event is that of ``NexthinkExportTrigger``; without an export where none could be started.

    :param nexthink_conn_id: the connection.
    :param query_id: the id of the saved query.
    :param parameters: values for the query's ``where`` clause.
    :param start_time: when to start, in seconds since the epoch.
    :param poll_interval: seconds before the first poll of the export, and between two polls, growing to a minute.
    :param timeout: seconds after which to give up on the export.
    :param end_time: handed back in the event.
    """

    clock = Clock()

    def __init__(
        self,
        *,
        nexthink_conn_id: str,
        query_id: str,
        parameters: Mapping[str, str] | None,
        start_time: float,
        poll_interval: float,
        timeout: float,
        end_time: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nexthink_conn_id = nexthink_conn_id
        self.query_id = query_id
        self.parameters = parameters
        self.start_time = start_time
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.end_time = end_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger anew."""
        return (
            "airflow_provider_nexthink.triggers.nql.NexthinkQueryTrigger",
            {
                "nexthink_conn_id": self.nexthink_conn_id,
                "query_id": self.query_id,
                "parameters": self.parameters,
                "start_time": self.start_time,
                "poll_interval": self.poll_interval,
                "timeout": self.timeout,
                "end_time": self.end_time,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the time, export, wait for the file, then give the one event."""
        export_id = failure = None
        await self.clock.asleep(max(0.0, self.start_time - self.clock.now().timestamp()))
        try:
            async with _Tenant(self.nexthink_conn_id, self.clock) as tenant:
                export_id = await tenant.start_export(self.query_id, self.parameters, self.timeout)
                await tenant.wait_for_export(export_id, self.poll_interval, self.timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker finds out and says it
            failure = error
        yield _event(export_id, self.end_time, failure)


class _Tenant:
    """A tenant, called from an event loop: each call is a short one in a thread; the waits are the event loop's.

    :param nexthink_conn_id: the connection, which is looked up with the first call.
    :param clock: time and chance.
    """

    def __init__(self, nexthink_conn_id: str, clock: Clock) -> None:
        self._nexthink_conn_id = nexthink_conn_id
        self._clock = clock
        self._hook: NexthinkHook
        self._call: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        # The first import takes its time, which the event loop does not have.
        module = await asyncio.to_thread(import_module, "airflow_provider_nexthink.hooks.nexthink")
        self._hook = module.NexthinkHook(self._nexthink_conn_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is None or self._call.done():
            self._hook.close()
        else:  # a thread cannot be cancelled: it is stopped, and closed once its call has ended
            self._hook.stop()
            self._call.add_done_callback(self._close)

    async def start_export(self, query_id: str, parameters: Mapping[str, str] | None, timeout: float) -> str:
        """Start an export and return its id."""
        return await self._retry(
            lambda client: client.start_export(query_id, parameters), self._clock.monotonic() + timeout
        )

    async def wait_for_export(self, export_id: str, poll_interval: float, timeout: float) -> None:
        """Wait until the file of an export is there. Waits first: the export was started a moment ago."""
        from airflow_provider_nexthink.api import nql

        end = self._clock.monotonic() + timeout
        for wait in nql.poll_waits(poll_interval):
            left = end - self._clock.monotonic()
            if left <= 0:
                raise NexthinkExportTimeoutError(f"The export {export_id} was not ready in time.")
            await self._clock.asleep(min(wait, left))
            if await self._retry(lambda client: client.is_export_ready(export_id), end):
                return

    async def _retry(self, call: Callable[[NexthinkClient], _Result], end: float) -> _Result:
        """Call, and again after an error that may pass; a limit is waited out for as long as there is time."""
        attempt = 1
        while True:
            try:
                return await self._in_thread(call)
            except NexthinkExportError:  # no failure of the call, but the end of the export
                raise
            except NexthinkRetryableError as error:
                is_limit = isinstance(error, NexthinkRateLimitError)
                retry_after = getattr(error, "retry_after", None) or 0.0
                wait = max(retry_after, jittered_backoff(min(attempt, MAX_ATTEMPTS), self._clock.rng))
                if self._clock.monotonic() + wait >= end or (attempt >= MAX_ATTEMPTS and not is_limit):
                    raise
                log.info("%s Trying again in %.1f s.", error, wait)
                await self._clock.asleep(wait)
            attempt += 1

    async def _in_thread(self, call: Callable[[NexthinkClient], _Result]) -> _Result:
        client = await self._hook.aget_conn()
        self._call = running = asyncio.create_task(asyncio.to_thread(call, client))
        await asyncio.wait([running])  # which, cancelled, leaves the call alone
        await self._hook.amask_secrets()
        return running.result()

    def _close(self, call: asyncio.Task[Any]) -> None:
        if not call.cancelled():
            call.exception()  # retrieved, or asyncio would log that it never was
        self._hook.close()


def _event(export_id: str | None, end_time: float, failure: Exception | None) -> TriggerEvent:
    event = {
        "status": "success" if failure is None else "error",
        "message": f"The export {export_id} is ready." if failure is None else _message(failure),
        "export_id": export_id,
        "end_time": end_time,
    }
    return TriggerEvent(event)  # type: ignore[no-untyped-call]


def _message(error: Exception) -> str:
    """Return an error for the event, which goes through the database: only of our own it is known to hold no secret."""
    return f"{type(error).__name__}: {error}" if isinstance(error, NexthinkError) else type(error).__name__
