"""A real Airflow (SQLite, in this process) and a sandbox tenant over real HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink import backoff
from airflow_provider_nexthink.api import nql
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, DagBag, Run, sync_bag_to_db
from tests.support.metadata import empty_database
from tests.support.services import mariadb_connection, postgres_connection


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let polls and retries of requests come at once: there is no option for that."""
    monkeypatch.setattr(nql, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "_BASE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    empty_database()


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(devices=600, stale=250, removal_delay=0.0, pending_polls=0) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        yield sandbox


@pytest.fixture
def set_extras(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets extras of the connection, beside those of the sandbox."""

    def set_them(**extras: Any) -> None:
        fields = json.loads(sandbox.airflow_connection())
        fields["extra"] |= extras
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))

    return set_them


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database behind the connection ``warehouse``; returns which one it is."""
    with ExitStack() as stack:
        if request.param == "postgres":
            connection = stack.enter_context(postgres_connection())
        elif request.param == "mariadb":
            connection = stack.enter_context(mariadb_connection())
        else:
            connection = json.dumps({"conn_type": request.param, "host": str(tmp_path / "warehouse.db")})
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", connection)
        yield request.param


@pytest.fixture
def run_dag(airflow_db: None) -> Callable[..., Run]:
    """Return what runs a Dag made in a test, with ``dag.test()``."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    def run(dag: DAG, *, mark_success: str | None = None, **params: Any) -> Run:
        with create_session() as session:
            session.merge(DagBundleModel(name="tests"))
        errors: list[Any] = []
        for each in dag.tasks:
            each.on_failure_callback = [lambda context: errors.append(context["exception"])]
        bag = DagBag(dag_folder=os.devnull)
        bag.bag_dag(dag)
        sync_bag_to_db(bag, bundle_name="tests", bundle_version="1")
        return Run(dag.test(run_conf=params or None, mark_success_pattern=mark_success), errors)

    return run


@pytest.fixture
def example_dag() -> Callable[[str], DAG]:
    """Return what loads an example Dag."""

    def load(dag_id: str) -> DAG:
        bag = DagBag(str(DAGS / f"{dag_id}.py"))
        assert bag.import_errors == {}
        return bag.dags[dag_id]

    return load


@pytest.fixture
def stale_dag(example_dag: Callable[[str], DAG]) -> DAG:
    return example_dag("nexthink_delete_stale_devices")
