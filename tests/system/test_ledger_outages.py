"""A ledger that goes away before, in the middle of, and after a run; and one that cannot be written at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Engine

from airflow_provider_nexthink.api.data_management import PATH
from airflow_provider_nexthink.client import DeletionObserver, DeletionResult, NexthinkClient
from airflow_provider_nexthink.exceptions import NexthinkLedgerError, NexthinkLedgerMismatchError, NexthinkStoppedError
from airflow_provider_nexthink.ledger import run as ledger_run
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.ledger_processes import settings_of
from tests.support.ledgers import column_of, devices_of, engine_of, ledger_database, origin_of, rows_of
from tests.support.store import Store
from tests.support.tcp_proxy import TcpProxy

PATIENCE_SECONDS = 1.5
DEVICES = 400

SERVERS = [pytest.param(kind, marks=pytest.mark.service) for kind in ("postgres", "mariadb")]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_run, "PATIENCE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(ledger_run, "_RETRY_SECONDS", 0.1)


@pytest.fixture
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=1, stale=0) as sandbox:
        sandbox.faults.add(Fault("deletions", "slow", times=-1, seconds=0.1))
        yield sandbox


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """The address of an empty database on a server."""
    with ledger_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def proxy(server: URL) -> Iterator[TcpProxy]:
    with TcpProxy(server.host or "127.0.0.1", server.port or 0) as proxy:
        yield proxy


@pytest.fixture
def direct(server: URL) -> Iterator[Engine]:
    """An engine that does not pass by the proxy."""
    with engine_of(server) as engine:
        yield engine


@pytest.fixture
def engine(server: URL, proxy: TcpProxy) -> Iterator[Engine]:
    """An engine that passes by the proxy."""
    engine = create_engine(server.set(port=proxy.port))
    yield engine
    proxy.refuse()  # ends the threads that wait for a response
    engine.dispose()


class At(DeletionObserver):
    """Does something once, when so many devices are settled.

    :param settled: how many.
    :param act: what to do.
    """

    def __init__(self, settled: int, act: Callable[[], object]) -> None:
        self._settled = settled
        self._act: Callable[[], object] | None = act

    def on_progress(self, settled: int, planned: int) -> None:
        if self._act is not None and settled >= self._settled:
            act, self._act = self._act, None
            act()


def delete(
    sandbox: Sandbox,
    engine: Engine,
    observer: DeletionObserver | None = None,
    *,
    store: Store | None = None,
    try_number: int = 1,
    **options: Any,
) -> DeletionResult:
    with NexthinkClient(settings_of(sandbox), ledger=engine) as client:
        return client.delete_devices(
            devices_of(DEVICES),
            observer=observer,
            state_store=store,
            origin=origin_of(try_number=try_number),
            batch_size=10,
            max_concurrency=2,
            **options,
        )


def asked(sandbox: Sandbox) -> set[str]:
    requests = [request for request in sandbox.requests if request.path == PATH]
    return {device["uid"] for request in requests for device in json.loads(request.body)["devices"]}


def check_complete(result: DeletionResult, sandbox: Sandbox, direct: Engine) -> None:
    """Check that the table says of each device what the tenant knows, and that the ledger knows each of them."""
    rows = result.table
    assert len(rows) == DEVICES
    assert {row["uid"] for row in rows if row["status"] != "NOT_SENT"} == asked(sandbox)
    assert {row["uid"] for row in rows if row["status"] == "SCHEDULED"} == set(sandbox.tenant.queued)
    known = {row["uid"] for row in rows_of(direct, "deletions") if row["status"] != "NOT_SENT"}
    assert asked(sandbox) <= known


# Before


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://nobody@127.0.0.1:9/ledger",
        "mysql+mysqlconnector://nobody@127.0.0.1:9/ledger",
        "postgresql+psycopg2://nobody@no-such-host.invalid/ledger",
        "sqlite:////no-such-folder/ledger.db",
    ],
)
def test_ledger_that_is_not_there_stops_the_run_before_any_request(tenant: Sandbox, url: str) -> None:
    with engine_of(url) as engine, pytest.raises(NexthinkLedgerError, match="cannot be opened.*Nothing was sent"):
        delete(tenant, engine)
    assert tenant.requests == []


def test_ledger_that_hangs_from_the_start_stops_the_run(
    tenant: Sandbox, engine: Engine, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_run, "BUSY_SECONDS", 1.0)
    proxy.hang()
    with pytest.raises(NexthinkLedgerError, match="not responded for 1 seconds.*Nothing was sent"):
        delete(tenant, engine)
    assert tenant.requests == []


def test_ledger_that_hangs_from_the_start_does_not_hold_up_a_stop(
    tenant: Sandbox, engine: Engine, proxy: TcpProxy
) -> None:
    proxy.hang()
    begin = time.monotonic()
    with NexthinkClient(settings_of(tenant), ledger=engine) as client:
        threading.Timer(0.5, client.stop).start()
        with pytest.raises(NexthinkStoppedError):
            client.delete_devices(devices_of(DEVICES))
        assert time.monotonic() - begin < 4
    assert tenant.requests == []


def test_ledger_on_a_full_disk_stops_the_run_before_any_request(tenant: Sandbox, tmp_path: Path) -> None:
    with engine_of(f"sqlite:///{tmp_path / 'ledger.db'}") as engine:
        delete(tenant, engine)
        sent = len(tenant.requests)
        with engine.connect() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))  # of this connection, which is pooled
        with pytest.raises(NexthinkLedgerError, match="full.*Nothing was sent"):
            delete(tenant, engine, try_number=2)
    assert len(tenant.requests) == sent


@pytest.mark.service
def test_ledger_on_a_read_only_postgres_stops_the_run_before_any_request(tenant: Sandbox, tmp_path: Path) -> None:
    with ledger_database("postgres", tmp_path) as url:
        with engine_of(url) as engine:
            delete(tenant, engine)
        sent = len(tenant.requests)
        read_only = url.update_query_dict({"options": "-c default_transaction_read_only=on"})
        with (
            engine_of(read_only) as engine,
            pytest.raises(
                NexthinkLedgerError, match="read-only transaction.*Nothing was sent"
            ),  # it may be failing over
        ):
            delete(tenant, engine, try_number=2)
    assert len(tenant.requests) == sent


@pytest.mark.service
@pytest.mark.parametrize("rights", ["SELECT", "SELECT, INSERT"])
def test_ledger_without_rights_on_mariadb_stops_the_run_before_any_request(
    tenant: Sandbox, tmp_path: Path, rights: str
) -> None:
    with ledger_database("mariadb", tmp_path) as url, engine_of(url) as owner:
        delete(tenant, owner)
        sent = len(tenant.requests)
        name = f"reader_{url.database}"[-30:]
        with owner.begin() as connection:
            connection.execute(text(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'made-up'"))
            connection.execute(text(f"GRANT {rights} ON {url.database}.* TO '{name}'@'%'"))
        try:
            with (
                engine_of(url.set(username=name, password="made-up")) as engine,
                pytest.raises(NexthinkLedgerMismatchError, match="denied.*The user needs the right"),
            ):
                delete(tenant, engine, try_number=2)
        finally:
            with owner.begin() as connection:
                connection.execute(text(f"DROP USER '{name}'@'%'"))
    assert len(tenant.requests) == sent


# In the middle


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["refuse", "hang"])
def test_ledger_that_goes_away_in_the_middle_ends_the_run_and_the_next_try_writes_it(
    tenant: Sandbox, engine: Engine, direct: Engine, proxy: TcpProxy, outage: str
) -> None:
    store = Store()
    begin: list[float] = []

    def go_away() -> None:
        begin.append(time.monotonic())
        getattr(proxy, outage)()

    result = delete(tenant, engine, At(100, go_away), store=store)
    assert time.monotonic() - begin[0] < 3 * PATIENCE_SECONDS + 10
    assert isinstance(result.error, NexthinkLedgerError)
    assert 100 <= len(asked(tenant)) < DEVICES
    check_complete(result, tenant, direct)
    sent = asked(tenant)
    assert rows_of(direct, "runs")[0]["state"] == "RUNNING"
    proxy.restore()
    engine.dispose()
    retried = delete(tenant, engine, store=store, try_number=2)
    assert retried.error is None
    first, second = rows_of(direct, "runs")
    assert first["state"] != "RUNNING"  # FINISHED, if what had hung got through when the retry began
    assert first["scheduled"] == len(sent)
    assert (second["state"], second["scheduled"]) == ("FINISHED", DEVICES - len(sent))
    assert first["charged"] + second["charged"] == DEVICES


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["refuse", "hang"])
def test_ledger_that_goes_away_in_the_middle_does_not_hold_up_a_stop(
    tenant: Sandbox, engine: Engine, direct: Engine, proxy: TcpProxy, outage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_run, "PATIENCE_SECONDS", 60.0)
    stopped_at: list[float] = []
    with NexthinkClient(settings_of(tenant), ledger=engine) as client:

        def stop() -> None:
            stopped_at.append(time.monotonic())
            client.stop()

        def go_away() -> None:
            getattr(proxy, outage)()
            threading.Timer(0.5, stop).start()

        result = client.delete_devices(
            devices_of(DEVICES), observer=At(100, go_away), origin=origin_of(), batch_size=10, max_concurrency=2
        )
        assert time.monotonic() - stopped_at[0] < 4
    assert isinstance(result.error, NexthinkStoppedError)
    check_complete(result, tenant, direct)


@pytest.mark.slow
def test_ledger_whose_connections_are_cut_is_used_again(
    tenant: Sandbox, engine: Engine, direct: Engine, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_run, "PATIENCE_SECONDS", 30.0)
    observer = At(100, proxy.cut)
    result = delete(tenant, engine, observer)
    assert result.error is None
    check_complete(result, tenant, direct)
    assert set(column_of(rows_of(direct, "deletions"), "status")) == {"SCHEDULED"}


@pytest.mark.slow
def test_ledger_that_is_away_for_a_moment_does_not_end_the_run(
    tenant: Sandbox, engine: Engine, direct: Engine, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_run, "PATIENCE_SECONDS", 30.0)

    def go_away() -> None:
        proxy.refuse()
        threading.Timer(1.0, proxy.restore).start()

    result = delete(tenant, engine, At(100, go_away))
    assert result.error is None
    check_complete(result, tenant, direct)
    assert set(column_of(rows_of(direct, "deletions"), "status")) == {"SCHEDULED"}


@pytest.mark.slow
@pytest.mark.service
def test_ledger_that_lets_nobody_in_any_more_ends_the_run(tenant: Sandbox, tmp_path: Path) -> None:
    with ledger_database("postgres", tmp_path) as url, engine_of(url.set(database="postgres")) as server:

        def allow(allowed: bool) -> None:
            with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS {allowed}"))
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                    {"name": url.database},
                )

        with engine_of(url) as engine:
            result = delete(tenant, engine, At(100, lambda: allow(False)))
            assert isinstance(result.error, NexthinkLedgerError)
            allow(True)
            engine.dispose()
            check_complete(result, tenant, engine)
            assert len(asked(tenant)) < DEVICES


# After


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["refuse", "hang"])
def test_ledger_that_goes_away_at_the_end_says_so_and_the_next_try_writes_it(
    tenant: Sandbox, engine: Engine, direct: Engine, proxy: TcpProxy, outage: str
) -> None:
    store = Store()
    result = delete(tenant, engine, At(DEVICES, getattr(proxy, outage)), store=store)
    assert {row["status"] for row in result.table} == {"SCHEDULED"}
    assert isinstance(result.error, NexthinkLedgerError)
    assert "there they stay REQUESTED until the next try of this task has written it" in str(result.error)
    assert (set(column_of(rows_of(direct, "deletions"), "status"))) <= {"REQUESTED", "SCHEDULED"}
    assert rows_of(direct, "runs")[0]["state"] == "RUNNING"
    proxy.restore()
    engine.dispose()
    sent = len(tenant.requests)
    retried = delete(tenant, engine, store=store, try_number=2)
    assert retried.error is None
    assert [request for request in tenant.requests[sent:] if request.path == PATH] == []  # nothing is sent again
    assert set(column_of(rows_of(direct, "deletions"), "status")) == {"SCHEDULED"}
    (run,) = rows_of(direct, "runs")
    assert run["state"] != "RUNNING"  # FINISHED, if what had hung got through when the retry began
    assert (run["scheduled"], run["charged"]) == (DEVICES, DEVICES)
