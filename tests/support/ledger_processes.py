"""Processes that use a ledger: they may be killed at any moment, and compete for a quota."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.client import NexthinkClient
from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkLedgerMismatchError
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.task_state import LedgerStateStore
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.status import Status
from tests.support.ledgers import StepwiseRun, database_of, devices_of, engine_of, outcomes_of

# Forked off one process that has everything imported: a kill may hit any moment of the work, and no import.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "psycopg2", "mysql.connector.plugins.mysql_native_password"])


def start(work: Callable[..., object], *arguments: Any, **named: Any) -> BaseProcess:
    """Start a process.

    :param work: what it does; a function of a module.
    :param arguments: of that function.
    :param named: more of them.
    """
    process = _CONTEXT.Process(target=work, args=arguments, kwargs=named, daemon=True)
    process.start()
    return process


def barrier(parties: int) -> Any:
    """Return a barrier that may be passed to processes."""
    return _CONTEXT.Barrier(parties)


def settings_of(sandbox: Sandbox) -> NexthinkSettings:
    return NexthinkSettings.resolve(
        instance="acme",
        base_url=sandbox.url,
        login_url=sandbox.login_url,
        client_id=sandbox.client_id,
        client_secret=sandbox.client_secret,
    )


def delete(settings: NexthinkSettings, url: str, origin: RunOrigin, count: int, *, first: int = 0) -> None:
    """Delete devices, as a try of a task does where Airflow keeps no state for one."""
    with engine_of(url) as engine, NexthinkClient(settings, ledger=engine) as client:
        assert client.ledger is not None
        client.delete_devices(
            devices_of(count, first=first),
            state_store=LedgerStateStore(client.ledger, origin.task_key),
            max_devices=None,
            origin=origin,
        )


def use_quota(url: str, quota: Quota, tenant: str, size: int, gate: Any) -> None:
    """Reserve runs of devices, and send all but one of each, until the quota is used to the last device."""
    with engine_of(url) as engine:
        gate.wait()
        database = database_of(engine, tenant=tenant)
        with suppress(NexthinkGuardError, NexthinkLedgerMismatchError):
            while True:
                run = StepwiseRun(database, outcomes_of(size))
                try:
                    run.reserve(quota=quota)
                except NexthinkGuardError:
                    if size == 1:
                        raise
                    size -= 1
                    continue
                run.settle(Status.SCHEDULED, range(max(1, size - 1)))
                run.finish()
