"""The plan of a file decides on each row as the plan of the same list in memory does, whatever its parts."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from airflow_provider_nexthink.deletion import file_plan
from airflow_provider_nexthink.deletion.file_plan import FileOutcomes, FilePlan
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.deletion.protect import read_protect_list
from airflow_provider_nexthink.devices import parquet as our_parquet
from airflow_provider_nexthink.devices.parquet import ParquetRows
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import ACTION_REQUIRED, COLUMNS, MAX_UNSCHEDULED

Table = dict[str, list[Any]]

# Few uids and names, so that lists have duplicates, and uids with two names, far from each other.
NUMBERS = st.integers(0, 12).map(lambda number: f"0fbd5a5c-0000-4000-8000-{number:012x}")
UIDS = (
    NUMBERS | NUMBERS.map(str.upper) | NUMBERS.map(lambda uid: uid.replace("-", "")) | st.sampled_from(["", "x", None])
)
NAMES = st.sampled_from(["PC-1", "PC-2", "SRV-1", "VIP-7", "", "ü", None])
STATUSES = st.sampled_from(["PLANNED", "EXCLUDED", "REJECTED", "INVALID", "DUPLICATE", "SCHEDULED", "UNKNOWN", None])
ROWS = st.lists(
    st.tuples(UIDS, NAMES, STATUSES, st.sampled_from(["excluded by 'VIP-*'", "a reason", None])), max_size=40
)
EXCLUDE = ("SRV-*", "0fbd5a5c-0000-4000-8000-000000000003")
PROTECT = [{"name": "vip-7"}]


def file_of(table: Table, rows_in_group: int = 1000) -> io.BytesIO:
    made = io.BytesIO()
    schema = pa.schema([(label, pa.string()) for label in table])
    parquet.write_table(pa.table(table, schema=schema), made, row_group_size=rows_in_group)
    return made


def planned(
    made: io.BytesIO, start: int = 0, stop: int | None = None, **options: Any
) -> tuple[FileOutcomes, Table, list[dict[str, Any]]]:
    """Plan a file; return the counts, the table, and its rows that need attention."""
    rows, table, unscheduled = ParquetRows(made, "The file"), io.BytesIO(), io.BytesIO()
    outcomes = FilePlan(rows, start, rows.length if stop is None else stop).write(table, unscheduled, **options)
    columns: Table = parquet.read_table(table).to_pydict()
    return outcomes, columns, parquet.read_table(unscheduled).to_pylist()


def planned_in_memory(table: Table, **options: Any) -> Outcomes:
    plan = make_plan(read_devices(table), **options)
    outcomes = Outcomes(plan)
    for at in plan.to_send:
        outcomes.status[at] = outcomes.status[at].PLANNED
    return outcomes


@settings(deadline=None)
@given(
    rows=ROWS,
    is_outcome=st.booleans(),
    rows_in_group=st.integers(1, 15),
    rows_at_once=st.integers(1, 15),
    repeated_at_once=st.integers(1, 40),
)
def test_file_plan_decides_as_the_plan_in_memory(
    rows: list[tuple[Any, ...]], is_outcome: bool, rows_in_group: int, rows_at_once: int, repeated_at_once: int
) -> None:
    columns = ("device.uid", "device.name", "status", "reason") if is_outcome else ("device.uid", "device.name")
    table = {column: [row[at] for row in rows] for at, column in enumerate(columns)}
    options: dict[str, Any] = {"exclude": EXCLUDE, "protected": ("*-2",), "protect": read_protect_list(PROTECT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_parquet, "ROWS_AT_ONCE", rows_at_once)
        patch.setattr(file_plan, "_REPEATED_AT_ONCE", repeated_at_once)
        try:
            expected = planned_in_memory(table, **options)
        except NexthinkInputError as error:
            with pytest.raises(NexthinkInputError) as raised:
                planned(file_of(table, rows_in_group), **options)
            assert str(raised.value) == str(error)
            return
        outcomes, written, unscheduled = planned(file_of(table, rows_in_group), **options)
    assert written == expected.columns()
    assert list(written) == list(COLUMNS)
    assert outcomes.counts() == expected.counts()
    assert len(outcomes) == len(rows)
    assert outcomes.planned == written["status"].count("PLANNED")
    assert unscheduled == expected.rows_with(ACTION_REQUIRED)
    assert outcomes.rows_with(ACTION_REQUIRED) == expected.rows_with(ACTION_REQUIRED)


@given(rows=ROWS, cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_file_plan_of_some_rows_is_that_of_a_list_of_them(rows: list[tuple[Any, ...]], cuts: tuple[int, int]) -> None:
    start, stop = sorted(min(cut, len(rows)) for cut in cuts)
    table = {"uid": [row[0] for row in rows], "name": [row[1] for row in rows]}
    _, written, _ = planned(file_of(table, 7), start, stop)
    part = {column: cells[start:stop] for column, cells in table.items()}
    assert written == planned_in_memory(part).columns()


def test_file_plan_keeps_only_the_first_rows_that_need_attention() -> None:
    size = MAX_UNSCHEDULED + 5
    outcomes, _, unscheduled = planned(file_of({"uid": ["x"] * size, "name": [str(at) for at in range(size)]}))
    kept = outcomes.rows_with(ACTION_REQUIRED)
    assert len(kept) == MAX_UNSCHEDULED
    assert [row["name"] for row in kept] == [str(at) for at in range(MAX_UNSCHEDULED)]
    assert len(unscheduled) == size


@pytest.mark.parametrize("at", [0, 30])
def test_file_plan_status_that_is_none_is_an_error_wherever_it_is(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a part that has no other status: by itself it would not be the table of an outcome."""
    words = ["PLANNED"] * 31
    words[15], words[at] = "EXCLUDED", "postponed"
    table = {"uid": [f"0fbd5a5c-0000-4000-8000-{n:012x}" for n in range(31)], "name": ["PC"] * 31, "status": words}
    monkeypatch.setattr(our_parquet, "ROWS_AT_ONCE", 5)
    with pytest.raises(NexthinkInputError, match=f"Row {at} .* Row 15 "):
        planned(file_of(table, 5))


def test_file_plan_without_its_columns_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="no column for the uid"):
        planned(file_of({"serial": ["1"], "name": ["PC"]}))


@pytest.mark.parametrize("table", [{}, {"serial": []}, {"uid": [], "name": [], "request_id": []}])
def test_file_plan_without_rows_needs_no_columns(table: Table) -> None:
    outcomes, written, _ = planned(file_of(table))
    assert (len(outcomes), written) == (0, planned_in_memory(table).columns())


@pytest.mark.parametrize("first", ["active", None, "PLANNED"])
def test_file_plan_of_two_columns_with_one_name_reads_both(first: str | None) -> None:
    """Else a device that the second one holds back would be sent."""
    uids = [f"0fbd5a5c-0000-4000-8000-{n:012x}" for n in range(2)]
    cells = [uids, ["PC", "PC"], [first, first], ["EXCLUDED", "PLANNED"]]
    made = io.BytesIO()
    columns = [pa.array(column, pa.string()) for column in cells]
    parquet.write_table(pa.Table.from_arrays(columns, ["uid", "name", "status", "status"]), made)
    if first == "PLANNED":
        with pytest.raises(NexthinkInputError, match="'status' and 'status', which both hold statuses"):
            planned(made)
    else:
        assert planned(made)[1]["status"] == ["EXCLUDED", "PLANNED"]


def test_file_plan_names_the_row_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_parquet, "ROWS_AT_ONCE", 2)
    made = io.BytesIO()
    parquet.write_table(pa.table({"uid": [None] * 5 + [["x"]], "name": ["PC"] * 6}), made)
    with pytest.raises(NexthinkInputError, match="Row 5 of devices has a list as its uid"):
        planned(made)


def test_file_plan_repeated_devices_are_found_over_the_whole_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_parquet, "ROWS_AT_ONCE", 100)
    uids = [f"0fbd5a5c-0000-4000-8000-{n:012x}" for n in range(1000)]
    table = {"uid": [*uids, *uids[:10], uids[500]], "name": [*["PC"] * 1010, "other"]}
    _, written, _ = planned(file_of(table, 100))
    assert Counter(written["status"]) == {"PLANNED": 999, "DUPLICATE": 10, "REJECTED": 2}
    assert [written["status"][at] for at in (0, 500, 1000, 1010)] == ["PLANNED", "REJECTED", "DUPLICATE", "REJECTED"]
