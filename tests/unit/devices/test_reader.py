"""Reading devices from what a Dag has."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError

UID = "0fbd5a5c-0000-4000-8000-000000000001"

INPUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DataFrame": (pd.DataFrame({"name": ["PC-1"], "uid": [UID]}), {}),
    "list of mappings": ([{"name": "PC-1", "uid": UID}], {}),
    "list of tuples": ([("PC-1", UID)], {"columns": ["name", "uid"]}),
    "list of lists, as JSON leaves tuples": ([["PC-1", UID]], {"columns": ("name", "uid")}),
    "JSON text": (json.dumps([{"uid": UID, "name": "PC-1"}]), {}),
    "one mapping, one device": ({"name": "PC-1", "uid": UID}, {}),
    "columns of lists": ({"name": ["PC-1"], "uid": [UID]}, {}),
    "generator": (iter([{"name": "PC-1", "uid": UID}]), {}),
}


@pytest.mark.parametrize("devices", INPUTS.values(), ids=INPUTS.keys())
def test_every_shape_gives_the_same_rows(devices: tuple[Any, dict[str, Any]]) -> None:
    value, options = devices
    assert read_devices(value, **options) == DeviceRows([UID], ["PC-1"], "uid", "name")


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("uid", "name"),
        ("UID", "NAME"),
        ("device.uid", "device.name"),
        ("device_uid", "device_name"),
        ("Device UID", "Device name"),
        ("deviceUid", "deviceName"),
        ("device.collector.uid", "Name"),
    ],
)
def test_columns_are_found_whatever_their_case_and_separators(uid: str, name: str) -> None:
    rows = read_devices([{uid: UID, name: "PC-1", "device.entity": "x"}])
    assert rows == DeviceRows([UID], ["PC-1"], uid, name)


def test_two_uid_columns_are_never_guessed_between() -> None:
    frame = pd.DataFrame({"device.uid": [UID], "device.collector.uid": ["x"], "device.name": ["PC-1"]})
    with pytest.raises(NexthinkInputError, match=r"'device.uid' and 'device.collector.uid'.*uid_column"):
        read_devices(frame)
    assert read_devices(frame, uid_column="device.collector.uid").uids == ["x"]


def test_two_spellings_in_the_rows_of_one_list_are_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="'uid' and 'UID'"):
        read_devices([{"uid": UID, "name": "a"}, {"UID": UID, "name": "b"}])


def test_a_dataframe_with_one_label_twice_is_an_error_even_when_asked_for() -> None:
    frame = pd.DataFrame([[UID, UID, "PC-1"]], columns=["uid", "uid", "name"])
    with pytest.raises(NexthinkInputError, match="'uid' and 'uid'"):
        read_devices(frame, uid_column="uid")


def test_an_exact_column_wins_over_one_that_is_spelled_alike() -> None:
    rows = read_devices([{"uid": "1", "UID": "2", "name": "a"}], uid_column="UID")
    assert rows.uids == ["2"]


def test_a_column_asked_for_may_be_spelled_otherwise() -> None:
    assert read_devices([{"Serial No": UID, "name": "a"}], uid_column="serial_no").uid_column == "Serial No"


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(NexthinkInputError, match=r"no column for the uid.*'serial', 'name'.*uid_column"):
        read_devices([{"serial": UID, "name": "a"}])
    with pytest.raises(NexthinkInputError, match=r"no column '-'"):
        read_devices(pd.DataFrame({0: [UID], "name": ["a"]}), uid_column="-")
    with pytest.raises(NexthinkInputError, match=r"no column 'guid' \(uid_column\).*'uid', 'name'"):
        read_devices([{"uid": UID, "name": "a"}], uid_column="guid")


def test_one_column_cannot_be_both() -> None:
    with pytest.raises(NexthinkInputError, match="both 'uid'"):
        read_devices([{"uid": UID, "name": "a"}], name_column="uid")


def test_a_row_without_a_key_keeps_its_place() -> None:
    rows = read_devices([{"uid": UID}, {"name": "b", "uid": UID}, {"name": "c"}])
    assert rows.uids == [UID, UID, None]
    assert rows.names == [None, "b", "c"]


@pytest.mark.parametrize(
    "devices",
    [[], (), pd.DataFrame(), pd.DataFrame({"uid": [], "name": []}), "[]", iter([])],
    ids=lambda it: type(it).__name__,
)
def test_an_empty_list_has_no_rows_and_no_columns(devices: object) -> None:
    assert read_devices(devices) == DeviceRows([], [])


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (None, "None: the task before returned nothing"),
        (5, "an int"),
        (b"[]", "a bytes"),
        ({"uid": [UID], "name": []}, "not all lists of the same length"),
        ({"uid": [UID], "name": "a"}, "not all lists of the same length"),
        ("not json", "text that is not JSON"),
        ("[{'uid': 'x'}]", "looks like Python, not JSON"),
        ('"text"', "JSON that is only a string"),
        ("null", "None"),
        ("12", "an int"),
        ([UID], "Row 0 of devices is a str, not a mapping"),
        ([{"uid": UID, "name": "a"}, None], "Row 1 of devices is None"),
        ([(UID, "a")], r"columns=\['uid', 'name'\]"),
    ],
)
def test_what_is_no_list_of_devices_is_an_error_that_says_how_to_pass_one(devices: object, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says) as error:
        read_devices(devices)
    assert "Pass a DataFrame" in str(error.value)


def test_tuples_must_fit_their_columns() -> None:
    with pytest.raises(NexthinkInputError, match="Row 1 of devices has 3 values for the 2 columns uid, name"):
        read_devices([("a", "b"), ("a", "b", "c")], columns=["uid", "name"])
    with pytest.raises(NexthinkInputError, match="columns is for rows that are tuples or lists"):
        read_devices([{"uid": "a", "name": "b"}], columns=["uid", "name"])
    with pytest.raises(NexthinkInputError, match="this list names its own"):
        read_devices(pd.DataFrame({"uid": ["a"], "name": ["b"]}), columns=["uid", "name"])


def test_cells_stay_as_they_came() -> None:
    frame = pd.DataFrame({"uid": [np.nan, 1.5], "name": ["00123", None]}, dtype=object)
    rows = read_devices(frame)
    assert rows.names == ["00123", None]
    assert rows.uids[1] == 1.5


SINGLE_CELLS = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans())
CELLS = st.one_of(SINGLE_CELLS, st.lists(st.integers(), max_size=2))


@given(st.lists(st.fixed_dictionaries({"uid": SINGLE_CELLS, "name": CELLS})))
def test_mappings_of_anything_give_one_row_for_each(devices: list[dict[str, Any]]) -> None:
    rows = read_devices(devices)
    assert len(rows) == len(rows.names) == len(devices)
    assert all(cell is row["uid"] for cell, row in zip(rows.uids, devices, strict=True))


@given(st.recursive(CELLS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_anything_at_all_ends_in_rows_or_in_one_clear_error(devices: object) -> None:
    try:
        rows = read_devices(devices)
    except NexthinkInputError as error:
        assert "devices" in str(error) or "column" in str(error)
    else:
        assert len(rows.uids) == len(rows.names)
