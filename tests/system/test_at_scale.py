"""The Dag for many workers, in this process: what it decides. On many workers it runs in ``test_celery``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run
from tests.support.tables import read_table

RunDag = Callable[..., Run]


BOTH_WAYS = pytest.mark.parametrize("dag", [False, True], ids=["as text", "natively"], indirect=True)
"""Once with templates rendered as text, as in the Dag, and once natively, as whoever copies it may want it."""


@pytest.fixture
def dag(request: pytest.FixtureRequest, example_dag: Callable[[str], DAG]) -> DAG:
    dag = example_dag("nexthink_delete_at_scale")
    dag.render_template_as_native_obj = getattr(request, "param", dag.render_template_as_native_obj)
    for each in dag.tasks:
        each.retry_delay = timedelta(0)
    return dag


@pytest.fixture
def devices(sandbox: Sandbox, tmp_path: Path) -> list[dict[str, str]]:
    """The list, in a file: 100 devices 20 of them twice, far from each other, and 10 excluded."""
    chosen = [{"uid": device.uid, "name": f"PC-{at}"} for at, device in enumerate(sandbox.tenant.devices()[:100])]
    for row in chosen[:10]:
        row["name"] = row["name"].replace("PC", "srv")
    rows = [*chosen, *chosen[20:40]]
    pd.DataFrame(rows).to_parquet(tmp_path / "devices.parquet")
    return rows


@pytest.fixture
def options(devices: list[dict[str, str]], tmp_path: Path) -> dict[str, Any]:
    return {
        "devices": str(tmp_path / "devices.parquet"),
        "folder": str(tmp_path / "runs"),
        "dry_run": False,
        "max_devices": 90,
        "chunk_size": 30,
    }


def joined(run: Run) -> dict[str, list[Any]]:
    return read_table(run.xcom("join"))


@BOTH_WAYS
def test_at_scale_deletes_in_chunks_and_returns_one_table(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, devices: list[dict[str, str]], options: dict[str, Any]
) -> None:
    run = run_dag(dag, **options)
    assert run.state == "success"
    assert [(chunk["start"], chunk["stop"]) for chunk in run.xcom("split")] == [(0, 30), (30, 60), (60, 90)]
    table = joined(run)
    assert list(zip(table["uid"], table["name"], strict=True)) == [(row["uid"], row["name"]) for row in devices]
    assert table["status"] == ["EXCLUDED"] * 10 + ["SCHEDULED"] * 90 + ["DUPLICATE"] * 20
    assert Counter(sandbox.tenant.queued) == Counter(row["uid"] for row in devices[10:100])
    assert set(table["batch"]) == {None, 1}


def test_at_scale_plans_only_by_default(sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any]) -> None:
    del options["dry_run"]
    run = run_dag(dag, **options)
    assert run.state == "success"
    assert Counter(joined(run)["status"]) == {"PLANNED": 90, "EXCLUDED": 10, "DUPLICATE": 20}
    assert sandbox.requests == []


@BOTH_WAYS
def test_at_scale_guard_counts_the_whole_list(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_dag(dag, **options | {"max_devices": 89})
    assert run.state == "failed"
    assert run.states["join"] == "success"
    assert run.tries("plan") == 1
    assert "90 devices, more than max_devices=89" in run.error
    assert "There is no plan, or it was not split, so no table; what was sent is not known here" in caplog.text
    assert sandbox.requests == []


def test_at_scale_with_one_chunk_or_none_returns_one_table(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any]
) -> None:
    run = run_dag(dag, **options | {"chunk_size": 1000})
    assert Counter(joined(run)["status"]) == {"SCHEDULED": 90, "EXCLUDED": 10, "DUPLICATE": 20}
    run = run_dag(dag, **options | {"devices": '[{"uid": "' + sandbox.tenant.devices()[0].uid + '", "name": "VIP-1"}]'})
    assert run.state == "success"
    assert run.states["delete_devices"] == "skipped"
    assert joined(run)["status"] == ["EXCLUDED"]


def test_at_scale_plan_that_could_not_be_split_is_no_outcome(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The run may have been cleared, and have sent these devices before."""
    split: Any = dag.get_task("split")
    split.retries = 0
    split.pre_execute = lambda context: 1 / 0
    run = run_dag(dag, **options)
    assert run.state == "failed"
    assert run.xcom("join") is None
    assert "There is no plan, or it was not split, so no table" in caplog.text


def test_at_scale_failed_chunk_is_in_the_table_and_fails_the_run(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any]
) -> None:
    sandbox.faults.add(
        Fault(path="deletions", kind="status", status=403, skip=2, body='{"code": "FEATURE_NOT_ENABLED"}')
    )
    run = run_dag(dag, **options)
    assert run.state == "failed"
    assert Counter(joined(run)["status"]) == {"SCHEDULED": 60, "NOT_SENT": 30, "EXCLUDED": 10, "DUPLICATE": 20}


def test_at_scale_chunk_without_a_table_is_unknown(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any]
) -> None:
    sandbox.faults.add(Fault(path="token", kind="status", status=401, skip=2, times=-1))
    run = run_dag(dag, **options)
    assert run.state == "failed"
    assert Counter(joined(run)["status"]) == {"SCHEDULED": 60, "UNKNOWN": 30, "EXCLUDED": 10, "DUPLICATE": 20}
    assert "left no outcome table, so what was sent is unknown" in str(joined(run)["reason"])


def test_at_scale_without_the_one_table_fails_the_run(
    sandbox: Sandbox, dag: DAG, run_dag: RunDag, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    join: Any = dag.get_task("join")
    join.retries = 0
    join.pre_execute = lambda context: 1 / 0
    run = run_dag(dag, **options)
    assert len(sandbox.tenant.queued) == 90
    assert run.states["join"] == "failed"
    assert run.state == "failed"
