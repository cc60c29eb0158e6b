"""Split a plan into chunks and join their tables: every row once, in order, whatever the list and the outcomes."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.chunks import NO_TABLE, join_tables, split_by_plan, split_plan
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS, Status

Table = dict[str, list[Any]]

# Few uids and names, so that lists have duplicates, and uids with two names.
UIDS = st.integers(0, 40).map(lambda number: f"0fbd5a5c-0000-4000-8000-{number:012}") | st.sampled_from(["", "x", None])
NAMES = st.sampled_from(["PC-1", "PC-2", "SRV-1", "", "ü", None])
LISTS = st.lists(st.fixed_dictionaries({"uid": UIDS, "name": NAMES}), max_size=120)


def outcome(devices: object, decided: Status, exclude: tuple[str, ...] = ()) -> Table:
    """Return the outcome table of a run in which every device that is sent gets the same status."""
    plan = make_plan(read_devices(devices), exclude)
    outcomes = Outcomes(plan)
    for at in plan.to_send:
        outcomes.status[at] = decided
    return outcomes.columns()


def column(table: Table, name: str, status: Status) -> list[Any]:
    return [value for value, its in zip(table[name], table["status"], strict=True) if its == status]


@given(rows=LISTS, chunk_size=st.integers(1, 50), max_chunks=st.integers(1, 10))
def test_split_plan_each_planned_device_is_in_one_chunk_of_even_size(
    rows: list[dict[str, Any]], chunk_size: int, max_chunks: int
) -> None:
    plan = outcome(rows, Status.PLANNED, ("SRV-*",))
    chunks = split_plan(plan, chunk_size, max_chunks=max_chunks)
    assert [uid for chunk in chunks for uid in chunk["uid"]] == column(plan, "uid", Status.PLANNED)
    assert [name for chunk in chunks for name in chunk["name"]] == column(plan, "name", Status.PLANNED)
    sizes = [len(chunk["uid"]) for chunk in chunks]
    assert len(chunks) <= max_chunks
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert not sizes or max(sizes) <= chunk_size or len(chunks) == max_chunks
    for chunk in chunks:  # decided rows stay out: the task that sends a chunk sends all of it
        assert set(outcome(chunk, Status.SCHEDULED)["status"]) == {"SCHEDULED"}


@given(rows=LISTS, chunk_size=st.integers(1, 50), seed=st.randoms(use_true_random=False))
def test_join_tables_every_row_keeps_its_position(
    rows: list[dict[str, Any]], chunk_size: int, seed: random.Random
) -> None:
    plan = outcome(rows, Status.PLANNED, ("SRV-*",))
    tables = [
        outcome(chunk, seed.choice([Status.SCHEDULED, Status.FAILED]))
        for chunk in split_plan(plan, chunk_size, max_chunks=1000)
    ]
    lost = [tables.pop(seed.randrange(len(tables)))] if tables and seed.random() < 0.5 else []
    became = {uid: its for table in tables for uid, its in zip(table["uid"], table["status"], strict=True)}
    seed.shuffle(tables)
    joined = join_tables(plan, iter(tables))
    assert list(joined) == list(COLUMNS)
    assert joined["uid"] == plan["uid"]
    assert joined["name"] == plan["name"]
    for at, (uid, status) in enumerate(zip(plan["uid"], plan["status"], strict=True)):
        if status != Status.PLANNED:
            assert [joined[name][at] for name in COLUMNS] == [plan[name][at] for name in COLUMNS]
        else:
            assert joined["status"][at] == became.get(uid, "UNKNOWN")
    assert column(joined, "uid", Status.UNKNOWN) == [uid for table in lost for uid in table["uid"]]
    assert set(column(joined, "reason", Status.UNKNOWN)) <= {NO_TABLE}


ROWS = [{"uid": f"0fbd5a5c-0000-4000-8000-{number:012}", "name": "PC"} for number in range(5)]


def test_join_tables_plan_is_not_modified() -> None:
    plan = outcome(ROWS, Status.PLANNED)
    join_tables(plan, [outcome(ROWS, Status.SCHEDULED)])
    assert plan == outcome(ROWS, Status.PLANNED)


def test_split_plan_max_map_length_limits_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = outcome(ROWS, Status.PLANNED)
    assert len(split_plan(plan, 1)) == 5
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    assert [len(chunk["uid"]) for chunk in split_plan(plan, 1)] == [2, 3]


def test_join_tables_tables_of_other_runs_are_an_error() -> None:
    plan = outcome(ROWS, Status.PLANNED)
    table = outcome(ROWS, Status.SCHEDULED)
    with pytest.raises(NexthinkInputError, match="000000000000 more than once"):
        join_tables(plan, [table, table])
    with pytest.raises(NexthinkInputError, match="of the same run"):
        join_tables(outcome(ROWS[:4], Status.PLANNED), [table])


@pytest.mark.parametrize("table", [None, [], [{"uid": "x"}], {"uid": [], "name": []}])
def test_chunks_table_in_another_form_is_an_error_with_a_hint(table: Any) -> None:
    with pytest.raises(NexthinkInputError, match=r"The plan is a .*return_format='columns'"):
        split_plan(table, 10)
    with pytest.raises(NexthinkInputError, match=r"The table of a chunk is a .*return_format='columns'"):
        join_tables(outcome(ROWS, Status.PLANNED), [table])


@pytest.mark.parametrize(
    ("chunk_size", "max_chunks"), [(0, 1), (1, 0), (-1, 5), (1.5, 1), ("many", 1), (1, True), (None, 1)]
)
def test_split_plan_size_below_one_is_an_error(chunk_size: Any, max_chunks: Any) -> None:
    with pytest.raises(NexthinkInputError, match="each takes a whole number, 1 or more"):
        split_plan(outcome(ROWS, Status.PLANNED), chunk_size, max_chunks=max_chunks)


@pytest.mark.parametrize("size", [2.0, Decimal(2), "2", "2.0", np.int64(2), np.float32(2)])
def test_split_plan_size_of_every_kind_of_number_is_read(size: Any) -> None:
    plan = outcome(ROWS, Status.PLANNED)
    assert [len(chunk["uid"]) for chunk in split_plan(plan, size)] == [1, 2, 2]
    assert [len(chunk["uid"]) for chunk in split_plan(plan, 1, max_chunks=size)] == [2, 3]


@pytest.mark.parametrize(
    "columns",
    [
        lambda cells: dict(enumerate(cells)),
        iter,
        set,
        lambda cells: cells[1:],
        lambda cells: "".join(map(str, cells)),
    ],
)
@pytest.mark.parametrize("column", ["uid", "status"])
def test_chunks_columns_that_are_not_lists_of_one_length_are_an_error(columns: Any, column: str) -> None:
    plan = outcome(ROWS, Status.PLANNED)
    broken = {**plan, column: columns(plan[column])}
    for call in (
        lambda: split_plan(broken, 10),
        lambda: join_tables(broken, []),
        lambda: join_tables(plan, [broken]),
        lambda: split_by_plan(plan, broken),
    ):
        with pytest.raises(NexthinkInputError, match=r"return_format='columns'"):
            call()


def test_split_by_plan_separates_planned_devices_from_others() -> None:
    plan: dict[str, list[Any]] = {column: [None, None, None] for column in COLUMNS}
    plan |= {"uid": ["a", "b", "c"], "status": ["PLANNED", "EXCLUDED", "PLANNED"]}
    table: dict[str, list[Any]] = {column: [None, None, None] for column in COLUMNS}
    table |= {"uid": ["c", "x", "b"], "status": ["SCHEDULED", "SCHEDULED", "UNKNOWN"]}
    planned, others = split_by_plan(plan, table)
    assert (planned["uid"], planned["status"]) == (["c"], ["SCHEDULED"])
    assert (others["uid"], others["status"]) == (["x", "b"], ["SCHEDULED", "UNKNOWN"])
    assert {len(cells) for cells in planned.values()} == {1}
    with pytest.raises(NexthinkInputError, match="outcome table by columns"):
        split_by_plan(plan, {"uid": []})
