"""The export of a task, kept for a retry of it: for the same query only, and not for long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_provider_nexthink.operators._export import Export, ExportState
from airflow_provider_nexthink.utils.task_state import TaskState
from tests.support.store import Store

QUERY: dict[str, Any] = {"tenant": "acme", "query_id": "#query", "parameters": {"a": "1"}}
EXPORT = Export("e-1", 1000.0)


def export_state(store: Any, query: Mapping[str, Any] = QUERY, max_tries: int = 2) -> ExportState:
    return ExportState(TaskState(store, try_number=2, max_tries=max_tries), query)


def test_export_state_of_a_retry_has_the_export_until_its_time_is_over() -> None:
    store = Store()
    export_state(store).save(EXPORT)
    assert export_state(store, dict(QUERY)).load(999.0) == EXPORT
    assert export_state(store).load(1000.0) is None


@pytest.mark.parametrize("change", [{"tenant": "other"}, {"query_id": "#other"}, {"parameters": None}])
def test_export_state_of_another_query_is_empty(change: dict[str, Any]) -> None:
    store = Store()
    export_state(store).save(EXPORT)
    assert export_state(store, {**QUERY, **change}).load(0.0) is None


def test_export_state_of_a_cleared_task_is_empty() -> None:
    store = Store()
    export_state(store).save(EXPORT)
    assert export_state(store, max_tries=5).load(0.0) is None


def test_export_state_cleared_is_empty() -> None:
    store = Store()
    state = export_state(store)
    state.save(EXPORT)
    state.clear()
    assert state.load(0.0) is None


@pytest.mark.parametrize("kept", [7, "x", {}, {"query": 1}, {"query": "x", "end_time": "late"}])
def test_export_state_of_another_version_is_empty(kept: Any) -> None:
    assert export_state(Store(nexthink_export=json.dumps(kept))).load(0.0) is None


def test_export_state_without_a_store_is_empty() -> None:
    state = export_state(None)
    state.save(EXPORT)
    assert state.load(0.0) is None
    state.clear()


def test_export_state_of_a_broken_store_is_empty_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    state = export_state(store)
    state.save(EXPORT)
    store.broken = True
    state.save(EXPORT)
    assert state.load(0.0) is None
    state.clear()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "The export cannot be kept",
        "The export of an earlier try cannot be read",
        "The export cannot be cleared",
    ]
    assert "RuntimeError: the API server is away" in caplog.text
