"""The state that the tries of one task share, in the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.exceptions import (
    NexthinkLedgerError,
    NexthinkLedgerMismatchError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.ledger import task_state
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.task_state import LedgerStateStore
from tests.support.interrupts import TaskTimeout, interrupted_after
from tests.support.ledgers import TENANT, database_of, engine_of, rows_of


class Hanging(Database):
    """A ledger that does not respond until it is told to."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, tenant=TENANT, instance="acme")
        self.may_respond = threading.Event()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.may_respond.wait()
        with super().transaction() as connection:
            yield connection


def test_store_keeps_what_is_set_until_it_is_deleted(ledger_engine: Engine) -> None:
    store = LedgerStateStore(database_of(ledger_engine), "task-1", try_number=1)
    assert store.get("key") is None
    for value in (1, {"journal": "ü🖥️", "list": [None, True, 1.5]}, "x" * 200_000):
        store.set("key", value)
        assert store.get("key") == value
    other = LedgerStateStore(database_of(ledger_engine), "task-2", try_number=7)
    assert other.get("key") is None
    store.delete("key")
    store.delete("key")
    assert store.get("key") is None


def test_store_of_an_earlier_try_is_over_once_a_later_one_has_begun(ledger_engine: Engine) -> None:
    database = database_of(ledger_engine)
    first = LedgerStateStore(database, "task-1", try_number=1)
    first.set("key", 1)
    second = LedgerStateStore(database, "task-1", try_number=2)
    assert second.get("key") == 1
    before = rows_of(ledger_engine, "task_state")
    writes: list[Callable[[], None]] = [
        lambda: first.set("key", 2),
        lambda: first.set("other", 2),
        lambda: first.delete("key"),
    ]
    for write in writes:
        with pytest.raises(NexthinkTryOverError, match="Another try of this task has begun"):
            write()
    with pytest.raises(NexthinkTryOverError):
        LedgerStateStore(database, "task-1", try_number=1).get("key")
    assert rows_of(ledger_engine, "task_state") == before
    second.set("key", 3)
    assert LedgerStateStore(database, "task-1", try_number=2).get("key") == 3  # the same try, deferred or restarted


def test_store_where_tries_are_not_counted_is_never_over(ledger_engine: Engine) -> None:
    database = database_of(ledger_engine)
    store, other = LedgerStateStore(database, "task-1"), LedgerStateStore(database, "task-1")
    store.set("key", 1)
    other.set("key", 2)
    store.set("key", 3)
    assert other.get("key") == 3


def test_store_of_two_tries_at_once_loses_no_write_of_the_later_one(ledger_engine: Engine) -> None:
    """An earlier try that still runs writes on while the later one reads, and takes its place."""
    database = database_of(ledger_engine)
    first = LedgerStateStore(database, "task-1", try_number=1)
    first.get("entry-0")
    written = []

    def write_on() -> None:
        number = 0
        while True:
            try:
                first.set(f"entry-{number}", "of the first")
            except NexthinkTryOverError:
                return
            written.append(number)
            number += 1

    thread = threading.Thread(target=write_on)
    thread.start()
    while len(written) < 5:
        pass
    second = LedgerStateStore(database, "task-1", try_number=2)
    number = 0
    while second.get(f"entry-{number}") is not None:
        number += 1
    second.set(f"entry-{number}", "of the second")
    thread.join()
    assert number == len(written)
    assert second.get(f"entry-{number}") == "of the second"


def test_call_to_a_ledger_that_hangs_ends(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_state, "READ_SECONDS", 0.1)
    monkeypatch.setattr(task_state, "WRITE_SECONDS", 0.1)
    store = LedgerStateStore(database := Hanging(sqlite_engine), "task-1", try_number=1)
    with pytest.raises(NexthinkLedgerError, match=r"The ledger has not responded for 0\.\d seconds"):
        store.get("key")
    with pytest.raises(NexthinkLedgerError, match="The ledger has still not responded"):
        store.set("key", 1)
    database.may_respond.set()
    monkeypatch.setattr(task_state, "WRITE_SECONDS", 30.0)
    while True:  # once it responds, all is well
        try:
            store.set("key", 2)
            break
        except NexthinkLedgerError:
            pass
    assert store.get("key") == 2


def test_call_to_a_ledger_that_hangs_ends_soon_after_a_stop(sqlite_engine: Engine) -> None:
    database, stopped = Hanging(sqlite_engine), threading.Event()
    store = LedgerStateStore(database, "task-1", try_number=1, is_stopped=stopped.is_set)
    threading.Timer(0.2, stopped.set).start()
    start = time.monotonic()
    with pytest.raises(NexthinkLedgerError, match=r"The ledger has not responded for [1-4]\.\d seconds"):
        store.set("key", 1)
    assert time.monotonic() - start < task_state.WRITE_SECONDS
    database.may_respond.set()


def test_call_to_a_ledger_that_hangs_can_be_interrupted(sqlite_engine: Engine) -> None:
    store = LedgerStateStore(database := Hanging(sqlite_engine), "task-1", try_number=1)
    with pytest.raises(TaskTimeout), interrupted_after(0.1):
        store.set("key", 1)
    threading.Timer(0.1, database.may_respond.set).start()
    store.set("key", 2)
    assert store.get("key") == 2  # and not what the interrupted call has set


@pytest.mark.parametrize("is_retry", [False, True])
def test_checkpoint_in_a_ledger_that_cannot_be_read_is_an_error(is_retry: bool) -> None:
    """A store of Airflow that is down is a warning; without the ledger nothing is to be sent."""
    with engine_of("sqlite:////no-such-folder/ledger.db") as engine:
        store = LedgerStateStore(database_of(engine), "task-1", try_number=1 + is_retry)
        with pytest.raises(NexthinkLedgerError, match="cannot be opened"):
            Checkpoint(store, try_number=1 + is_retry).load()


def test_checkpoint_in_the_ledger_of_another_tenant_is_an_error(sqlite_engine: Engine) -> None:
    database_of(sqlite_engine).open()
    store = LedgerStateStore(database_of(sqlite_engine, tenant="another"), "task-1", try_number=1)
    with pytest.raises(NexthinkLedgerMismatchError):
        Checkpoint(store, try_number=1).load()
