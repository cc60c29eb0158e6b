"""Airflow's task state store, through a real supervisor and a real API server: which errors say that a try is over."""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import structlog

from airflow_provider_nexthink.exceptions import NexthinkStoppedError, NexthinkTryOverError
from airflow_provider_nexthink.operators._export import Export, ExportState
from airflow_provider_nexthink.utils.task_state import TaskState, TaskStateStore, timeout_deferred
from tests.support.dags import KEEPS_TASK_STATE
from tests.support.interrupts import TaskTimeout, signal_raises

needs_task_state = pytest.mark.skipif(not KEEPS_TASK_STATE, reason="Airflow before 3.3 keeps no state for a task")


@contextmanager
def supervised(client: Any) -> Iterator[tuple[TaskStateStore, Callable[[], None]]]:
    """Be the task process of a supervisor that uses this client; yield the store, and what ends the supervisor."""
    from airflow.sdk._shared.state import TaskScope
    from airflow.sdk.execution_time.comms import CommsDecoder
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor
    from airflow.sdk.execution_time.supervisor import (
        ActivitySubprocess,
        length_prefixed_frame_reader,
        set_supervisor_comms,
    )

    ours, theirs = socket.socketpair()
    supervisor = ActivitySubprocess(
        id=uuid.uuid4(),
        pid=os.getpid(),
        stdin=theirs,
        process=psutil.Process(),
        process_log=structlog.get_logger(),
        client=client,
    )
    read, _ = length_prefixed_frame_reader(supervisor.handle_requests(structlog.get_logger()), lambda _: None)

    def serve() -> None:
        while read(theirs):
            pass

    def end() -> None:
        theirs.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    scope = TaskScope(dag_id="d", run_id="r", task_id="t", map_index=-1)
    with ours, theirs, set_supervisor_comms(CommsDecoder(socket=ours)):
        store = TaskStateStoreAccessor(ti_id=uuid.uuid4(), scope=scope)
        yield TaskStateStore(store, consequence="No other batch is sent."), end
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def client_of(transport: httpx.BaseTransport) -> Any:
    from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor

    client = InProcessTestSupervisor._Client(base_url=None, token="", dry_run=True, transport=transport)
    client.base_url = httpx.URL("http://in-process.invalid./")
    return client


def responds(status: int, **content: Any) -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(status, **content))


@needs_task_state
@pytest.mark.parametrize("write", ["set", "delete"])
def test_write_of_a_try_that_airflow_does_not_know_says_that_the_try_is_over(airflow_db: None, write: str) -> None:
    from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor

    with supervised(InProcessTestSupervisor._api_client()) as (store, _):  # type: ignore[no-untyped-call]
        assert store.get("key") is None
        with pytest.raises(NexthinkTryOverError, match=r"another try has taken its place\. No other batch is sent"):
            store.set("key", 1) if write == "set" else store.delete("key")
        assert issubclass(NexthinkTryOverError, NexthinkStoppedError)


@needs_task_state
@pytest.mark.parametrize("write", ["save", "clear"])
def test_export_of_a_try_that_airflow_does_not_know_says_that_the_try_is_over(airflow_db: None, write: str) -> None:
    from airflow.sdk.execution_time.supervisor import InProcessTestSupervisor

    with supervised(InProcessTestSupervisor._api_client()) as (store, _):  # type: ignore[no-untyped-call]
        state = ExportState(TaskState(store, try_number=2, max_tries=2), {"query_id": "#query"})
        assert state.load(0.0) is None
        with pytest.raises(NexthinkTryOverError, match="another try has taken its place"):
            state.save(Export("e-1", 1.0)) if write == "save" else state.clear()


@needs_task_state
@pytest.mark.parametrize("operation", ["get", "set"])
def test_call_to_a_supervisor_that_is_gone_says_that_the_try_is_over(operation: str) -> None:
    with supervised(client_of(responds(204))) as (store, end):
        store.set("key", 1)
        end()
        with pytest.raises(NexthinkTryOverError, match="supervisor of this task process is gone"):
            store.set("key", 2) if operation == "set" else store.get("key")


@needs_task_state
@pytest.mark.parametrize(
    "transport",
    [
        responds(500, json={"detail": "Internal Server Error"}),
        responds(503, text="no healthy upstream"),
        responds(429, json={"detail": "slow down"}),
        responds(403, json={"detail": "Invalid auth token"}),
        responds(404, text="<html>a proxy's page</html>"),
        responds(404, json={"detail": "Not Found"}),
        responds(404, json={"reason": "not_found"}),
        responds(422, json={"detail": [{"loc": ["body"], "msg": "no", "type": "x"}]}),
        httpx.MockTransport(lambda _: (_ for _ in ()).throw(httpx.ConnectError("refused"))),
        httpx.MockTransport(lambda _: (_ for _ in ()).throw(httpx.ReadTimeout("slow"))),
    ],
    ids=["500", "503", "429", "403", "404 of a proxy", "no such route", "404 of another form", "422", "down", "slow"],
)
def test_write_to_a_server_that_fails_does_not_say_that_the_try_is_over(transport: httpx.MockTransport) -> None:
    with supervised(client_of(transport)) as (store, _), pytest.raises(Exception, match="API_SERVER_ERROR") as raised:
        store.set("key", 1)
    assert not isinstance(raised.value, NexthinkTryOverError)


@pytest.mark.parametrize("error", [BrokenPipeError("a backend's"), ConnectionResetError(), EOFError(), TimeoutError()])
def test_connection_error_of_a_state_store_backend_does_not_say_that_the_try_is_over(error: Exception) -> None:
    class Backend:
        """Keeps values elsewhere, where the connection breaks."""

        def get(self, key: str) -> None:
            return None

        def set(self, key: str, value: Any) -> None:
            raise error

    with pytest.raises(type(error)):
        TaskStateStore(Backend()).set("key", 1)


@pytest.fixture
def alarm() -> Iterator[None]:
    with signal_raises():
        yield


def test_timeout_during_a_call_comes_after_it(alarm: None) -> None:
    done = []

    def call() -> None:
        signal.raise_signal(signal.SIGALRM)
        done.append(True)

    with pytest.raises(TaskTimeout), timeout_deferred():
        call()
    assert done
    with pytest.raises(TaskTimeout):
        signal.raise_signal(signal.SIGALRM)


def test_timeout_deferred_without_a_timeout_or_in_another_thread_does_nothing(alarm: None) -> None:
    with timeout_deferred():
        pass
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with timeout_deferred():
                pass
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == []
