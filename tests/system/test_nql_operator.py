"""The export wait of NexthinkNqlOperator in a real Airflow: what a retry resumes, and where it starts anew."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink.exceptions import NexthinkEventError
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run

RunDag = Callable[..., Run]

WAYS = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
LATER = {"retry-after": "7200"}


def pull(run_dag: RunDag, **options: Any) -> Run:
    with DAG("pull", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", poll_interval=0.01, **options)
    return run_dag(dag)


def exports(sandbox: Sandbox) -> int:
    return sum(request.path.endswith("/nql/export") for request in sandbox.requests)


@WAYS
@pytest.mark.parametrize("return_format", ["records", "columns", "dataframe"])
def test_export_wait_of_worker_and_triggerer_gives_the_same_rows(
    sandbox: Sandbox, run_dag: RunDag, deferrable: bool, return_format: str
) -> None:
    sandbox.tenant.pending_polls = 2
    run = pull(run_dag, deferrable=deferrable, return_format=return_format)
    assert run.state == "success"
    rows = run.xcom("pull")
    names = [row["device.name"] for row in rows] if return_format == "records" else list(rows["device.name"])
    assert names == [device.name for device in sandbox.tenant.devices() if device.days_since_last_seen >= 90]


@WAYS
def test_export_retry_resumes_the_same_export(sandbox: Sandbox, run_dag: RunDag, deferrable: bool) -> None:
    sandbox.faults.add(Fault(path="status", kind="status", status=429, headers=LATER, times=1 + deferrable))
    run = pull(run_dag, deferrable=deferrable, timeout=600)
    assert (run.state, run.tries("pull")) == ("success", 2)
    assert exports(sandbox) == 1
    assert len(run.xcom("pull")) == 250


@WAYS
@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="status", kind="status", status=200, body='{"status": "ERROR"}'),
        Fault(path="status", kind="status", status=404),
        Fault(path="storage", kind="status", status=403, times=3),
    ],
    ids=["failed", "not known any more", "no file"],
)
def test_export_retry_starts_another_where_the_first_is_of_no_use(
    sandbox: Sandbox, run_dag: RunDag, deferrable: bool, fault: Fault
) -> None:
    sandbox.faults.clear()
    times = 2 if deferrable and fault.path == "status" else fault.times  # the triggerer asks, then the worker
    sandbox.faults.add(Fault(**{**vars(fault), "times": times}))
    run = pull(run_dag, deferrable=deferrable)
    assert (run.state, run.tries("pull")) == ("success", 2)
    assert exports(sandbox) == 2


@WAYS
def test_export_late_gives_up(sandbox: Sandbox, run_dag: RunDag, deferrable: bool) -> None:
    sandbox.tenant.pending_polls = 1_000_000
    run = pull(run_dag, deferrable=deferrable, timeout=0.05)
    assert (run.state, run.tries("pull")) == ("failed", 2)
    assert "was not ready in time" in str(run.errors[-1])
    assert exports(sandbox) == 2


@pytest.mark.parametrize(
    ("blip", "pending_polls"),
    [
        (Fault(path="status", kind="status", status=503, times=5), 2),  # then the worker finds it in progress
        (Fault(path="status", kind="drop", times=12), 0),  # the worker's poll fails too
        (Fault(path="status", kind="status", status=502, skip=2, times=5), 0),  # it is ready, but not to be fetched
        (Fault(path="token", kind="status", status=503, skip=1, times=12), 1),
    ],
    ids=["seen by the triggerer", "seen by both", "seen by the worker", "no token"],
)
def test_export_short_outage_does_not_fail_the_task(
    sandbox: Sandbox, run_dag: RunDag, blip: Fault, pending_polls: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.tenant.pending_polls = pending_polls
    sandbox.faults.add(blip)
    run = pull(run_dag, deferrable=True)
    assert (run.state, run.tries("pull"), exports(sandbox)) == ("success", 1, 1)
    assert len(run.xcom("pull")) == 250
    assert "raise the timeout" not in capsys.readouterr().out


def test_export_tenant_down_until_the_timeout_is_what_the_error_says(
    sandbox: Sandbox, run_dag: RunDag, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.faults.add(Fault(path="status", kind="status", status=503, times=-1))
    run = pull(run_dag, deferrable=True, timeout=0.5)
    assert (run.state, run.tries("pull")) == ("failed", 2)
    assert "503" in str(run.errors[-1])
    assert "raise the timeout" not in str(run.errors) + capsys.readouterr().out


@pytest.mark.parametrize("status", [400, 401, 403])
def test_export_final_error_ends_the_wait_at_once(sandbox: Sandbox, run_dag: RunDag, status: int) -> None:
    sandbox.faults.add(Fault(path="status", kind="status", status=status, times=-1))
    run = pull(run_dag, deferrable=True, timeout=3600)
    assert (run.state, run.tries("pull")) == ("failed", 1)
    assert str(status) in run.error


@pytest.mark.parametrize(
    "event",
    [
        {"export_id": "e-1", "end_time": 1.0, "problem": None},
        {"status": "error", "message": "no export", "export_id": None, "end_time": 1.0},
        None,
    ],
    ids=["of another version", "without an export", "none"],
)
def test_export_event_of_another_shape_is_refused(event: Any) -> None:
    with pytest.raises(NexthinkEventError, match="The triggerer resumed this task with an event that"):
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices").execute_complete({}, event)


@WAYS
def test_export_truncated_fails_unless_it_is_allowed(sandbox: Sandbox, run_dag: RunDag, deferrable: bool) -> None:
    sandbox.tenant.export_row_limit = 100
    run = pull(run_dag, deferrable=deferrable)
    assert (run.state, run.tries("pull")) == ("failed", 1)
    assert "NexthinkTruncatedError" in run.error
    assert len(pull(run_dag, deferrable=deferrable, allow_truncated=True).xcom("pull")) == 100


def test_deferrable_default_is_airflows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not NexthinkNqlOperator(task_id="pull", query_id="#stale_devices").deferrable
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert NexthinkNqlOperator(task_id="pull", query_id="#stale_devices").deferrable
    assert not NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", deferrable=False).deferrable
