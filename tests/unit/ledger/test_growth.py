"""``max_growth``: a run of a Dag is compared with the runs of the same task before it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.growth import RUNS_COMPARED
from airflow_provider_nexthink.ledger.reservation import record_blocked
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import FakeTime
from tests.support.ledgers import StepwiseRun, database_of, origin_of, outcomes_of, request_of


@pytest.fixture
def database(sqlite_engine: Engine) -> Database:
    return database_of(sqlite_engine, FakeTime().clock())


def send(database: Database, count: int, run: str, *, max_growth: float | None = None, **origin: Any) -> list[str]:
    step = StepwiseRun(database, outcomes_of(count), origin_of(run, **origin))
    warnings = step.reserve(max_growth=max_growth)
    step.settle(Status.SCHEDULED, range(count))
    if step.run_id:
        step.finish()
    return warnings


def refused(database: Database, count: int, run: str, *, max_growth: float, **origin: Any) -> NexthinkGuardError:
    with pytest.raises(NexthinkGuardError) as failure:
        send(database, count, run, max_growth=max_growth, **origin)
    return failure.value


def test_growth_fewer_than_three_runs_lets_pass_and_says_so(database: Database) -> None:
    for number in range(3):
        (warning,) = send(database, 10 ** (number + 1), f"run-{number}", max_growth=2)
        assert re.search(rf"max_growth=2 has no effect yet: .* at least 3 runs .* has {number}\.", warning)
    refused(database, 1000, "run-3", max_growth=2)


@pytest.mark.parametrize(("max_growth", "limit"), [(1.0, 20), (1.5, 30), (2, 40), (1.15, 23), (0.1, 2)])
def test_growth_limit_is_exact(database: Database, max_growth: float, limit: int) -> None:
    for number, size in enumerate([10, 30, 20]):
        send(database, size, f"run-{number}")
    error = refused(database, limit + 1, "run-3", max_growth=max_growth)
    assert (error.planned, error.limit) == (limit + 1, limit)
    assert re.search(
        rf"would delete {limit + 1} devices, more than max_growth={max_growth:g} allows: the median of the last 3 runs "
        rf"of this task is 20, and {limit} the most.* raise max_growth",
        str(error),
    )
    assert send(database, limit, "run-3", max_growth=max_growth) == []


def test_growth_run_of_another_task_or_dag_does_not_count(database: Database) -> None:
    for number in range(5):
        send(database, 1, f"run-{number}", task_id="canary")
    assert len(send(database, 100, "run-5", max_growth=1)) == 1


def test_growth_empty_and_blocked_runs_do_not_count(database: Database) -> None:
    for number, size in enumerate([10, 10, 10]):
        send(database, size, f"run-{number}")
    for number in range(3, 9):
        send(database, 0, f"run-{number}")
        with database.locked() as (connection, now):
            record_blocked(connection, now, request_of(5000, origin_of(f"blocked-{number}")), "too many")
    assert refused(database, 21, "run-9", max_growth=2).limit == 20


def test_growth_mapped_tasks_of_a_run_are_summed(database: Database) -> None:
    for number in range(3):
        for index in range(4):
            send(database, 5, f"run-{number}", map_index=index)
    for index in range(4):
        assert send(database, 10, "run-3", map_index=index, max_growth=2) == []
    error = refused(database, 1, "run-3", map_index=4, max_growth=2)
    assert (error.planned, error.limit) == (41, 40)


def test_growth_tries_of_a_run_count_once(database: Database) -> None:
    for number in range(3):
        for try_number in (1, 2, 3):
            send(database, 10, f"run-{number}", try_number=try_number)
    for try_number in (1, 2, 3):
        send(database, 20, "run-3", try_number=try_number, max_growth=2)


def test_growth_only_the_latest_runs_are_compared(database: Database) -> None:
    for number in range(20):
        send(database, 1000, f"old-{number}")
    for number in range(RUNS_COMPARED):
        send(database, 10, f"new-{number}")
    assert refused(database, 21, "run", max_growth=2).limit == 20


def test_growth_outside_a_dag_is_an_error(database: Database) -> None:
    with pytest.raises(NexthinkInputError, match="max_growth .* in a Dag only"):
        StepwiseRun(database, outcomes_of(1), RunOrigin()).reserve(max_growth=2)


def planned(database: Database, count: int, run: str, *, max_growth: float) -> list[str]:
    """Plan what other tasks of the Dag are to send; return the warnings."""
    step = StepwiseRun(database, outcomes_of(count), origin_of(run, task_id="plan"))
    return step.reserve(max_growth=max_growth, dry_run=True, is_plan=True)


def test_growth_of_a_plan_is_compared_with_all_tasks_of_the_dag(database: Database, sqlite_engine: Engine) -> None:
    for number in range(3):
        for task_id in ("canary", "delete"):
            for index in range(5):
                send(database, 1, f"run-{number}", task_id=task_id, map_index=index)
    assert planned(database, 20, "run-3", max_growth=2) == []
    with pytest.raises(NexthinkGuardError, match=r"21 devices.* median of the last 3 runs of this Dag is 10, and 20"):
        planned(database, 21, "run-3", max_growth=2)
    send(database, 20, "run-3", task_id="delete")  # planning has reserved nothing, and does not count itself
    assert planned(database, 20, "run-3", max_growth=2) == []


def test_growth_of_a_plan_without_runs_before_says_so(database: Database) -> None:
    (warning,) = planned(database, 10_000, "run-0", max_growth=2)
    assert "at least 3 runs of this Dag, and the ledger has 0" in warning
