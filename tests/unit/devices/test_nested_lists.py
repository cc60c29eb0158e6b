"""``to_dict()``, ``to_json()`` and columns of any collection give all their devices or an error, never one row."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(3)]
NAMES = ["PC-1", "00123", "PC-3"]
FRAME = pd.DataFrame({"uid": UIDS, "name": NAMES, "days": [1, 2, 3]})
EXPECTED = DeviceRows(UIDS, NAMES, "uid", "name")

TO_DICT = ["dict", "list", "series", "split", "tight", "records", "index"]
TO_JSON = ["columns", "split", "records", "index", "table"]


@pytest.mark.parametrize("index", [None, [7, 9, 8], ["x", "y", "z"], UIDS])
@pytest.mark.parametrize("orient", TO_DICT)
def test_read_devices_to_dict_in_every_orientation_gives_every_row(orient: Any, index: list[Any] | None) -> None:
    frame = FRAME if index is None else FRAME.set_axis(index)
    assert read_devices(frame.to_dict(orient=orient)) == EXPECTED
    assert read_devices([frame.to_dict(orient=orient)]) == EXPECTED
    assert read_devices([frame[:2].to_dict(orient=orient), frame[2:].to_dict(orient=orient)]) == EXPECTED
    with_columns = frame.to_dict(orient=orient)
    with pytest.raises(NexthinkInputError, match="columns"):
        read_devices(with_columns, columns=["uid", "name", "days"])


@pytest.mark.parametrize("index", [None, [7, 9, 8], ["x", "y", "z"], UIDS])
@pytest.mark.parametrize("orient", TO_JSON)
def test_read_devices_to_json_in_every_orientation_gives_every_row(orient: Any, index: list[Any] | None) -> None:
    frame = FRAME if index is None else FRAME.set_axis(index)
    text = frame.to_json(orient=orient)
    assert read_devices(text) == EXPECTED
    assert read_devices(json.loads(text)) == EXPECTED
    assert read_devices([json.loads(text), json.loads(text)]).uids == UIDS * 2


def test_read_devices_to_json_of_values_needs_columns() -> None:
    text = FRAME.to_json(orient="values")
    assert read_devices(text, columns=["uid", "name", "days"]) == EXPECTED
    with pytest.raises(NexthinkInputError, match="columns="):
        read_devices(text)


def test_read_devices_to_json_lines_and_other_libraries_give_every_row() -> None:
    assert read_devices(FRAME.to_json(orient="records", lines=True)) == EXPECTED
    assert read_devices(pl.DataFrame(FRAME.to_dict("list")).to_dict()) == EXPECTED
    assert read_devices(pl.DataFrame(FRAME.to_dict("list")).write_json()) == EXPECTED
    assert read_devices(pa.table(FRAME.to_dict("list")).to_pydict()) == EXPECTED


@pytest.mark.parametrize("orient", TO_DICT)
def test_read_devices_to_dict_of_a_frame_without_rows_is_an_empty_list(orient: Any) -> None:
    assert read_devices(FRAME[:0].to_dict(orient=orient)) == DeviceRows([], [])
    assert read_devices(pd.DataFrame().to_dict(orient=orient)) == DeviceRows([], [])


@pytest.mark.parametrize("orient", TO_JSON)
def test_read_devices_to_json_of_a_frame_without_rows_is_an_empty_list(orient: Any) -> None:
    assert read_devices(FRAME[:0].to_json(orient=orient)) == DeviceRows([], [])


@pytest.mark.parametrize("orient", ["dict", "list", "series", "split", "records", "index"])
def test_read_devices_to_dict_of_an_outcome_table_keeps_its_statuses(orient: Any) -> None:
    frame = FRAME.assign(status=["EXCLUDED", "PLANNED", "PLANNED"])
    assert make_plan(read_devices(frame.to_dict(orient=orient))).to_send == [1, 2]


@pytest.mark.parametrize("orient", ["dict", "index", "split"])
def test_read_devices_to_dict_whose_index_holds_the_uid_is_an_error(orient: Any) -> None:
    with pytest.raises(NexthinkInputError, match="no column for the uid"):
        read_devices(FRAME.set_index("uid").to_dict(orient=orient))


def test_read_devices_nested_mapping_with_named_columns_is_read_in_both_orientations() -> None:
    frame = FRAME.rename(columns={"uid": "serial", "name": "host"})
    for orient in ("dict", "index"):
        nested = frame.to_dict(orient=orient)
        assert read_devices(nested, uid_column="serial", name_column="host").uids == UIDS
        with pytest.raises(NexthinkInputError, match=r"no column for the uid|names a uid or a name"):
            read_devices(nested)


@pytest.mark.parametrize(
    ("nested", "says"),
    [
        ({"uid": {"uid": "a", "name": "b"}, "name": {"uid": "c", "name": "d"}}, "ambiguous"),
        ({"uid": {0: "a", 1: "b"}, "name": {0: "x"}}, "whose rows differ"),
        ({"uid": {0: "a"}, "name": {1: "x"}}, "whose rows differ"),
        ({"uid": {0: "a"}, "name": ["x"]}, "the same length"),
        ({"columns": ["uid", "name"], "data": [["a", "b"], ["c"]]}, "Row 1 of devices has 1 values"),
        ({"uid": {"a", "b"}, "name": {"x", "y"}}, "set, which has no order"),
        ({"uid": frozenset(UIDS), "name": NAMES}, "set, which has no order"),
        ({"uid": ["a"], "name": {"x"}}, "set, which has no order"),
        ({"uid": iter(UIDS), "name": iter(NAMES[:1])}, "the same length"),
        ({"uid": "a", "name": ["x"]}, "the same length"),
        ({"uid": (uid for uid in UIDS), "name": "x"}, "the same length"),
        ([{"uid": "a", "name": "x"}, {"uid": ["b"], "name": ["y"]}], "Row 1 of devices has a list as its uid"),
        ([{"uid": ["b", "c"], "name": "x"}], "Row 0 of devices has a list as its uid"),
        ([{"uid": {0: "b"}, "name": "x"}], "Row 0 of devices has a dict as its uid"),
        ([{"uid": {"b"}, "name": "x"}], "Row 0 of devices has a set as its uid"),
        ([{"uid": iter("b"), "name": "x"}], "Row 0 of devices has a str_ascii_iterator as its uid|Row 0 .* as its uid"),
        ([{"uid": np.array(["b"]), "name": "x"}], "Row 0 of devices has a numpy ndarray as its uid"),
        ([(["b"], "x")], "columns="),
        (pd.DataFrame({"uid": [["a", "b"]], "name": ["x"]}), "Row 0 of devices has a list as its uid"),
        (pl.DataFrame({"uid": [["a", "b"]], "name": ["x"]}), "Row 0 of devices has a list as its uid"),
        (pa.table({"uid": [{"a": 1}], "name": ["x"]}), "Row 0 of devices has a dict as its uid"),
    ],
)  # fmt: skip
def test_read_devices_lists_that_cannot_be_paired_are_an_error(nested: Any, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(nested)


def test_read_devices_tuples_with_a_list_as_uid_are_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="Row 0 of devices has a list as its uid"):
        read_devices([(UIDS, NAMES), (UIDS, NAMES)], columns=["uid", "name"])


ORDERED: list[Callable[[list[str]], Any]] = [
    list,
    tuple,
    collections.deque,
    collections.UserList,
    iter,
    lambda cells: (cell for cell in cells),
    lambda cells: map(str, cells),
    lambda cells: dict.fromkeys(cells).keys(),
    lambda cells: dict(enumerate(cells)).values(),
    lambda cells: np.array(cells),
    lambda cells: np.array(cells, dtype=object),
    pd.Series,
    pd.Index,
    pd.Categorical,
    lambda cells: pd.array(cells, dtype="string"),
    pl.Series,
    pa.array,
    lambda cells: pa.chunked_array([cells]),
]


@pytest.mark.parametrize("collection", ORDERED)
def test_read_devices_columns_of_every_ordered_collection_give_every_row(collection: Any) -> None:
    for other in (list, iter, pd.Series, collection):
        assert read_devices({"uid": collection(UIDS), "name": other(NAMES)}) == EXPECTED
        assert read_devices([{"uid": other(UIDS), "name": collection(NAMES)}]) == EXPECTED


CONTAINERS = st.sampled_from(
    [
        list,
        tuple,
        set,
        frozenset,
        collections.deque,
        iter,
        np.array,
        pd.Series,
        pl.Series,
        lambda it: dict(enumerate(it)),
    ]
)


@given(
    container=CONTAINERS, other=CONTAINERS, size=st.integers(1, 3), form=st.sampled_from(["alone", "listed", "late"])
)
def test_read_devices_containers_give_all_their_devices_or_an_error(
    container: Callable[[Any], Any], other: Callable[[Any], Any], size: int, form: str
) -> None:
    columns = {"uid": container(UIDS[:size]), "name": other(NAMES[:size])}
    devices: Any = {"alone": columns, "listed": [columns], "late": [{"uid": "x", "name": "y"}, columns]}[form]
    try:
        rows = read_devices(devices)
    except NexthinkInputError:
        return
    assert rows.uids == UIDS[:size]
    assert rows.names == NAMES[:size]
