"""Triggers for NQL exports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import NexthinkError

if TYPE_CHECKING:
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook


class NexthinkExportTrigger(BaseTrigger):
    """Waits until the file of an export is there.

    Its one event is ``{"export_id", "end_time", "problem"}``. The problem is what ended the wait too early, in words,
    or None; what it means is for the worker to say, which asks for the export's status itself.

    :param nexthink_conn_id: the connection.
    :param export_id: the export.
    :param poll_interval: seconds between two looks, growing to a minute.
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
        problem = None
        try:
            async with await sync_to_async(_new_hook)(self.nexthink_conn_id) as hook:
                left = self.end_time - self.clock.now().timestamp()
                await hook.async_wait_for_export(self.export_id, poll_interval=self.poll_interval, timeout=left)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker finds out and says it
            problem = _in_words(error)
        yield _event(self.export_id, self.end_time, problem)


class NexthinkQueryTrigger(BaseTrigger):
    """Exports the result of a saved query at a given time, and waits until its file is there.

    A triggerer that is started again starts another export: nothing but that request is done twice.

    Its one event is ``{"export_id", "end_time", "problem"}``: without an export where none could be started; else as
    that of ``NexthinkExportTrigger``.

    :param nexthink_conn_id: the connection.
    :param query_id: the id of the saved query.
    :param parameters: values for the query's ``where`` clause.
    :param start_time: when to start, in seconds since the epoch.
    :param poll_interval: seconds between two looks whether the export is ready, growing to a minute.
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
        export_id = problem = None
        await self.clock.asleep(max(0.0, self.start_time - self.clock.now().timestamp()))
        try:
            async with await sync_to_async(_new_hook)(self.nexthink_conn_id) as hook:
                export_id = await hook.async_start_export(self.query_id, self.parameters)
                await hook.async_wait_for_export(export_id, poll_interval=self.poll_interval, timeout=self.timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker finds out and says it
            problem = _in_words(error)
        yield _event(export_id, self.end_time, problem)


def _new_hook(nexthink_conn_id: str) -> NexthinkHook:
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

    return NexthinkHook(nexthink_conn_id)


def _event(export_id: str | None, end_time: float, problem: str | None) -> TriggerEvent:
    event = {"export_id": export_id, "end_time": end_time, "problem": problem}
    return TriggerEvent(event)  # type: ignore[no-untyped-call]


def _in_words(error: Exception) -> str:
    """Return an error for the event, which goes through the database: only of our own it is known to hold no secret."""
    return f"{type(error).__name__}: {error}" if isinstance(error, NexthinkError) else type(error).__name__
