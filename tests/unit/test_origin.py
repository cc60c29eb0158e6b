"""Who started a task, as its context says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_nexthink.utils.origin import run_origin

TI = SimpleNamespace(dag_id="dag", run_id="run", task_id="task", map_index=2, try_number=3)


def test_run_origin_names_the_task_and_the_try() -> None:
    origin = run_origin({"ti": TI})
    assert (origin.dag_id, origin.dag_run_id, origin.task_id, origin.map_index, origin.try_number) == (
        "dag",
        "run",
        "task",
        2,
        3,
    )
    assert origin.triggered_by is None
    assert run_origin({"ti": SimpleNamespace(**{**vars(TI), "map_index": None})}).map_index == -1


def test_run_origin_without_a_task_is_that_of_plain_python() -> None:
    origin = run_origin({})
    assert (origin.dag_id, origin.map_index, origin.try_number, origin.triggered_by) == (None, -1, None, None)


@pytest.mark.parametrize(
    ("run_type", "person", "expected"),
    [
        ("manual", "alice@example.com", "alice@example.com"),
        ("backfill", "alice@example.com", "alice@example.com"),
        ("manual", None, "manual"),
        ("scheduled", None, "schedule"),
        ("backfill", None, "backfill"),
        ("asset_triggered", None, "asset"),
        ("asset_materialization", "", "asset"),
        ("operator_triggered", None, "another Dag"),
        ("of_a_later_airflow", None, "of_a_later_airflow"),
        (None, None, None),
    ],
)
def test_run_origin_is_the_person_or_what_started_the_run(run_type: Any, person: Any, expected: str | None) -> None:
    for value in (run_type, SimpleNamespace(value=run_type) if run_type else None):
        dag_run = SimpleNamespace(run_type=value, triggering_user_name=person)
        assert run_origin({"dag_run": dag_run}).triggered_by == expected


def test_run_origin_of_a_dag_run_without_a_person_field_is_its_type() -> None:
    assert run_origin({"dag_run": SimpleNamespace(run_type="scheduled")}).triggered_by == "schedule"
