"""Any input ends in an outcome table or in an input error, never in a half-sent run."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from tests.support.fake_time import FakeTime
from tests.support.runs import Tenant, new_run

UID = "0fbd5a5c-0000-4000-8000-000000000001"


class Rude:
    """An object whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


TEXTS = st.one_of(
    st.text(),
    st.text(st.characters(codec=None), max_size=5),  # half surrogates and control characters too
    st.sampled_from(["", " ", "\0", "\ud800", "NA", "None", "00123", "1E10", "{{ 7 * 7 }}", "x" * 100_000, UID]),
    st.uuids().map(str),
)
SCALARS = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.uuids(),
    st.decimals(),
    st.binary(max_size=5),
    st.dates(),
    st.builds(Rude),
    st.sampled_from([pd.NA, pd.NaT, float("nan")]),
)
CELLS = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(), SCALARS, max_size=1))
PAIRS = st.lists(st.tuples(SCALARS, CELLS), max_size=12)

SHAPES: dict[str, Callable[[list[tuple[Any, Any]]], tuple[Any, dict[str, Any]]]] = {
    "mappings": lambda rows: ([{"uid": uid, "name": name} for uid, name in rows], {}),
    "tuples": lambda rows: (rows, {"columns": ["uid", "name"]}),
    "lists": lambda rows: ([list(row) for row in rows], {"columns": ["uid", "name"]}),
    "generator": lambda rows: (({"device.uid": uid, "device.name": name} for uid, name in rows), {}),
    "DataFrame": lambda rows: (pd.DataFrame(rows, columns=["UID", "Name"], dtype=object), {}),
    "columns of lists": lambda rows: ({"uid": [uid for uid, _ in rows], "name": [name for _, name in rows]}, {}),
}


def delete(devices: Any, batch_size: int = 5, **options: Any) -> tuple[DeletionResult, Tenant]:
    tenant, clock = Tenant(), FakeTime().clock()
    rows = read_devices(devices, **options)
    plan = make_plan(rows)
    outcomes = Outcomes(plan)
    run = new_run(outcomes, plan.to_send, tenant.send, batch_size, 2, clock=clock)
    error = run.run()
    now = clock.now()
    return DeletionResult(
        outcomes, error, run.scheduler.counters, False, rows.uid_column, rows.name_column, "acme", now, now
    ), tenant


@pytest.mark.parametrize("shape", SHAPES)
@given(rows=PAIRS)
def test_run_any_cell_in_any_shape_gets_a_row_that_every_database_takes(
    shape: str, rows: list[tuple[Any, Any]]
) -> None:
    devices, options = SHAPES[shape](rows)
    result, tenant = delete(devices, **options)
    assert result.error is None
    assert len(result.table) == len(rows)
    stored = json.dumps(result.table, allow_nan=False, ensure_ascii=False).encode()
    assert b"\\u0000" not in stored
    assert len(stored) < 1000 * len(rows) + sum(len(name) * 6 for _, name in rows if isinstance(name, str)) + 3
    for row, (_, name) in zip(result.table, rows, strict=True):
        if row["status"] == "SCHEDULED":
            assert row["name"] == name
        assert row["status"] in ("SCHEDULED", "INVALID", "REJECTED", "DUPLICATE")
    assert set(tenant.queued) == {row["uid"] for row in result.table if row["status"] == "SCHEDULED"}
    assert set(tenant.queued.values()) <= {1}


ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(
            st.one_of(st.text(), st.sampled_from(["uid", "name", "UID"]), st.integers()), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(devices=ANYTHING, columns=st.one_of(st.none(), st.just(["uid", "name"]), st.just(["name"])))
def test_run_any_object_ends_in_a_table_or_an_input_error(devices: Any, columns: list[str] | None) -> None:
    try:
        result, tenant = delete(devices, columns=columns)
    except NexthinkInputError as error:
        assert 10 < len(str(error)) < 3000
    else:
        assert result.error is None
        assert set(tenant.queued) == {row["uid"] for row in result.table if row["status"] == "SCHEDULED"}


@given(text=st.one_of(st.text(), ANYTHING.map(lambda value: json.dumps(value, default=lambda _: "x", skipkeys=True))))
def test_run_any_text_ends_in_a_table_or_an_input_error(text: str) -> None:
    try:
        result, _ = delete(text)
    except NexthinkInputError as error:
        assert len(str(error)) < 3000
    else:
        assert result.error is None


def test_read_devices_deeply_nested_json_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="not JSON"):
        read_devices("[" * 100_000)


@pytest.mark.slow
def test_run_a_million_rows_gets_a_status_for_each() -> None:
    rows = [(str(uuid.UUID(int=number, version=4)), f"PC-{number}") for number in range(1_000_000)]
    rows[17] = ("no-uid", "PC-17")
    result, tenant = delete(rows, batch_size=100, columns=["uid", "name"])
    assert len(result.outcomes) == 1_000_000
    assert Counter(result.outcomes.status) == {"SCHEDULED": 999_999, "INVALID": 1}
    assert len(tenant.queued) == 999_999


def test_run_number_as_name_is_rejected_with_a_hint() -> None:
    result, _ = delete([{"uid": UID, "name": Decimal(5)}])
    assert "read that column as text" in result.table[0]["reason"]
