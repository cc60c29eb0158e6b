"""The export of a task, kept for a retry of it: for the same query only, and not for long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_nexthink.operators._export import Export, ExportState
from tests.support.store import Store

QUERY: dict[str, Any] = {"tenant": "acme", "query_id": "#q", "parameters": {"a": "1"}, "clears": 2}
EXPORT = Export("e-1", 1000.0)


def test_a_retry_finds_the_export_until_its_time_is_over() -> None:
    store = Store()
    ExportState(store, QUERY).save(EXPORT)
    assert ExportState(store, dict(QUERY)).load(999.0) == EXPORT
    assert ExportState(store, QUERY).load(1000.0) is None


@pytest.mark.parametrize("change", [{"tenant": "other"}, {"query_id": "#p"}, {"parameters": None}, {"clears": 5}])
def test_another_query_or_a_cleared_task_starts_afresh(change: dict[str, Any]) -> None:
    store = Store()
    ExportState(store, QUERY).save(EXPORT)
    assert ExportState(store, {**QUERY, **change}).load(0.0) is None


def test_what_is_forgotten_is_not_found() -> None:
    store = Store()
    memory = ExportState(store, QUERY)
    memory.save(EXPORT)
    memory.clear()
    assert memory.load(0.0) is None


@pytest.mark.parametrize("kept", [7, "x", {}, {"query": 1}, {"query": "x", "end_time": "late"}])
def test_what_another_version_kept_is_no_error(kept: Any) -> None:
    assert ExportState(Store(nexthink_export=json.dumps(kept)), QUERY).load(0.0) is None


def test_without_a_store_or_with_a_broken_one_the_task_goes_on() -> None:
    broken = Store()
    broken.broken = True
    for store in (None, broken):
        memory = ExportState(store, QUERY)
        memory.save(EXPORT)
        assert memory.load(0.0) is None
        memory.clear()
