"""``require_proof``: until a device has been seen to go, a run sends a few devices at most."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.proof import (
    JUST_BEFORE,
    STAYS_DAYS,
    STRONG,
    UNPROVEN_DEVICES,
    WEAK,
    record_proof,
    strength_of,
)
from airflow_provider_nexthink.ledger.prune import prune
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import START, FakeTime
from tests.support.ledgers import StepwiseRun, database_of, origin_of, outcomes_of, rows_of

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def database(sqlite_engine: Engine) -> Database:
    return database_of(sqlite_engine, FakeTime().clock())


def reserve(database: Database, count: int, *, kind: str | None = "device", origin: RunOrigin | None = None) -> Any:
    run = StepwiseRun(database, outcomes_of(count), origin or RunOrigin())
    return run.reserve(require_proof=True, uid_kind=kind)


def prove(
    database: Database,
    strength: str,
    kind: str | None = "device",
    name: str = "PC-0",
    days_unseen: float | None = None,
) -> None:
    with database.locked() as (connection, _):
        record_proof(
            connection,
            strength,
            uid_kind=kind,
            uid="00000000-0000-4000-8000-000000000000",
            name=name,
            seen_at=START - DAY,
            days_unseen=1.0 if strength == STRONG else days_unseen,
            requested_at=START - DAY + HOUR,
            gone_at=START,
        )


@pytest.mark.parametrize(
    ("days_unseen", "gone_after", "strength"),
    [
        (0.0, 2 * HOUR, STRONG),
        (29.0, 23 * HOUR, STRONG),
        (29.0, DAY, None),  # by then it may have left by itself
        (STAYS_DAYS, 2 * HOUR, None),
        (5.0, 25 * DAY, None),
        (5.0, 24.9 * DAY, STRONG),
        (None, 2 * HOUR, WEAK),
    ],
)
def test_strength_of_a_device_that_is_gone(
    days_unseen: float | None, gone_after: timedelta, strength: str | None
) -> None:
    assert strength == strength_of(
        seen_at=START, days_unseen=days_unseen, requested_at=START + HOUR, gone_at=START + gone_after
    )


@pytest.mark.parametrize("days_unseen", [0.0, None])
@pytest.mark.parametrize(
    ("seen_at", "requested_at", "gone_at"),
    [
        (None, START, START + HOUR),  # no look found it before
        (START, START + HOUR, None),  # it is still there
        (START, START + JUST_BEFORE + timedelta(seconds=1), START + 2 * DAY),  # the look was too long before
        (START, START + 2 * HOUR, START + HOUR),  # it was gone before it was asked for
        (START, START + HOUR, START + HOUR),
        (START + 2 * HOUR, START + HOUR, START + 2 * HOUR),  # seen again at the same look
    ],
)
def test_strength_of_what_proves_nothing_is_none(
    days_unseen: float | None, seen_at: Any, requested_at: Any, gone_at: Any
) -> None:
    assert strength_of(seen_at=seen_at, days_unseen=days_unseen, requested_at=requested_at, gone_at=gone_at) is None


@given(days=st.floats(0, 400), before=st.floats(0, 3), after=st.floats(0, 100))
def test_strength_of_a_device_that_may_have_left_by_itself_is_never_strong(
    days: float, before: float, after: float
) -> None:
    seen_at = START
    requested_at = START + before * DAY
    gone_at = requested_at + after * DAY
    strength = strength_of(seen_at=seen_at, days_unseen=days, requested_at=requested_at, gone_at=gone_at)
    if strength == STRONG:
        assert seen_at <= requested_at < gone_at
        assert days + (gone_at - seen_at) / DAY < STAYS_DAYS


def test_proof_none_sends_a_few_devices_at_most(database: Database, sqlite_engine: Engine) -> None:
    with pytest.raises(NexthinkGuardError) as failure:
        reserve(database, UNPROVEN_DEVICES + 1)
    assert (failure.value.planned, failure.value.limit) == (6, 5)
    assert "would delete 6 devices, and no device that was deleted by the uid of device.uid has been seen to go" in (
        str(failure.value)
    )
    assert "nexthink_delete_canary_first" in str(failure.value)
    assert rows_of(sqlite_engine, "runs", "deletions") == []
    assert reserve(database, UNPROVEN_DEVICES) == []


def test_proof_none_mapped_tasks_of_a_run_send_a_few_devices_together(database: Database) -> None:
    for index in range(UNPROVEN_DEVICES):
        assert reserve(database, 1, origin=origin_of(map_index=index)) == []
    with pytest.raises(NexthinkGuardError, match="would delete 6 devices"):
        reserve(database, 1, origin=origin_of(map_index=UNPROVEN_DEVICES))
    assert reserve(database, 1, origin=origin_of("run-2", map_index=UNPROVEN_DEVICES)) == []


def test_proof_none_tries_of_a_task_send_a_few_devices_together(database: Database) -> None:
    """A task that was cleared with another list each time."""
    first = StepwiseRun(database, outcomes_of(4), origin_of())
    first.reserve(require_proof=True)
    first.settle(Status.FAILED, range(4))
    first.finish()
    retry = StepwiseRun(database, outcomes_of(4), origin_of(try_number=2))
    assert retry.reserve(require_proof=True) == []
    with pytest.raises(NexthinkGuardError, match="would delete 6 devices"):
        StepwiseRun(database, outcomes_of(2, first=10), origin_of(try_number=3)).reserve(require_proof=True)
    StepwiseRun(database, outcomes_of(1, first=10), origin_of(try_number=3)).reserve(require_proof=True)


def test_proof_none_tasks_of_a_run_send_a_few_devices_together(database: Database) -> None:
    reserve(database, 3, origin=RunOrigin(dag_id="dag", dag_run_id="run", task_id="first"))
    with pytest.raises(NexthinkGuardError):
        reserve(database, 3, origin=RunOrigin(dag_id="dag", dag_run_id="run", task_id="second"))
    reserve(database, 3, origin=RunOrigin(dag_id="dag", dag_run_id="next", task_id="second"))


def test_proof_none_dry_run_is_only_warned(database: Database, sqlite_engine: Engine) -> None:
    dry = StepwiseRun(database, outcomes_of(10))
    (warning,) = dry.reserve(uid_kind="device", require_proof=True, dry_run=True)
    assert warning.startswith("This is a dry run. For real: The list would delete 10 devices")
    assert rows_of(sqlite_engine, "runs") == []


def test_proof_none_plan_of_what_other_tasks_send_is_stopped(database: Database, sqlite_engine: Engine) -> None:
    plan = StepwiseRun(database, outcomes_of(10))
    with pytest.raises(NexthinkGuardError, match="would delete 10 devices"):
        plan.reserve(uid_kind="device", require_proof=True, dry_run=True, is_plan=True)
    prove(database, STRONG)
    assert plan.reserve(uid_kind="device", require_proof=True, dry_run=True, is_plan=True) == []
    assert rows_of(sqlite_engine, "runs") == []


def test_proof_strong_lets_pass(database: Database) -> None:
    prove(database, STRONG)
    assert reserve(database, 1000) == []


def test_proof_weak_lets_pass_with_a_warning(database: Database) -> None:
    prove(database, WEAK)
    (warning,) = reserve(database, 1000)
    assert "proven weakly only: PC-0 (00000000-0000-4000-8000-000000000000)" in warning
    assert "2026-11-22 00:00 UTC and gone at 2026-11-23 00:00 UTC" in warning
    assert reserve(database, UNPROVEN_DEVICES) == []
    prove(database, STRONG)
    assert reserve(database, 1000) == []


def test_proof_weak_of_a_pruned_device_says_so(sqlite_engine: Engine) -> None:
    time = FakeTime()
    database = database_of(sqlite_engine, time.clock())
    prove(database, WEAK)
    time.seconds += 100 * 86_400
    prune(database, timedelta(days=30))
    (warning,) = reserve(database, 1000)
    assert "proven weakly only: a device that is pruned by now was there at 2026-11-22 00:00 UTC and gone" in warning


def test_proof_weak_for_an_unknown_kind_of_uid_says_so(database: Database) -> None:
    prove(database, WEAK, kind=None, days_unseen=1.0)
    (warning,) = reserve(database, 1000, kind=None)
    assert warning.endswith("but the kind of its uid is not known. Keep the name of the column, device.uid.")


@pytest.mark.parametrize(("proven", "asked"), [("collector", "device"), (None, "device"), ("device", None)])
def test_proof_of_another_kind_of_uid_is_none(database: Database, proven: str | None, asked: str | None) -> None:
    prove(database, STRONG, kind=proven)
    with pytest.raises(NexthinkGuardError):
        reserve(database, 6, kind=asked)
    assert reserve(database, 6, kind=proven) == []


def test_record_proof_keeps_the_first(database: Database, sqlite_engine: Engine) -> None:
    prove(database, STRONG)
    prove(database, STRONG, name="PC-1")
    (row,) = rows_of(sqlite_engine, "proofs")
    assert row["name"] == "PC-0"
