"""Read devices from every kind of list that a Dag has."""

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
def test_read_devices_every_shape_gives_the_same_rows(devices: tuple[Any, dict[str, Any]]) -> None:
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
def test_read_devices_columns_in_any_case_and_with_any_separators_are_found(uid: str, name: str) -> None:
    rows = read_devices([{uid: UID, name: "PC-1", "device.entity": "x"}])
    assert rows == DeviceRows([UID], ["PC-1"], uid, name)


def test_read_devices_two_uid_columns_are_an_error() -> None:
    frame = pd.DataFrame({"device.uid": [UID], "device.collector.uid": ["x"], "device.name": ["PC-1"]})
    with pytest.raises(NexthinkInputError, match=r"'device.uid' and 'device.collector.uid'.*uid_column"):
        read_devices(frame)
    assert read_devices(frame, uid_column="device.collector.uid").uids == ["x"]


def test_read_devices_two_spellings_of_a_key_are_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="'uid' and 'UID'"):
        read_devices([{"uid": UID, "name": "a"}, {"UID": UID, "name": "b"}])


def test_read_devices_dataframe_with_a_duplicate_label_is_an_error_even_if_it_is_asked_for() -> None:
    frame = pd.DataFrame([[UID, UID, "PC-1"]], columns=["uid", "uid", "name"])
    with pytest.raises(NexthinkInputError, match="'uid' and 'uid'"):
        read_devices(frame, uid_column="uid")


def test_read_devices_exact_column_wins_over_another_spelling() -> None:
    rows = read_devices([{"uid": "1", "UID": "2", "name": "a"}], uid_column="UID")
    assert rows.uids == ["2"]


def test_read_devices_column_asked_for_in_another_spelling_is_found() -> None:
    assert read_devices([{"Serial No": UID, "name": "a"}], uid_column="serial_no").uid_column == "Serial No"


def test_read_devices_missing_column_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(NexthinkInputError, match=r"no column for the uid.*'serial', 'name'.*uid_column"):
        read_devices([{"serial": UID, "name": "a"}])
    with pytest.raises(NexthinkInputError, match=r"no column '-'"):
        read_devices(pd.DataFrame({0: [UID], "name": ["a"]}), uid_column="-")
    with pytest.raises(NexthinkInputError, match=r"no column 'guid' \(uid_column\).*'uid', 'name'"):
        read_devices([{"uid": UID, "name": "a"}], uid_column="guid")


def test_read_devices_same_column_for_uid_and_name_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="both 'uid'"):
        read_devices([{"uid": UID, "name": "a"}], name_column="uid")


def test_read_devices_row_without_a_key_keeps_its_position() -> None:
    rows = read_devices([{"uid": UID}, {"name": "b", "uid": UID}, {"name": "c"}])
    assert rows.uids == [UID, UID, None]
    assert rows.names == [None, "b", "c"]


@pytest.mark.parametrize(
    "devices",
    [[], (), pd.DataFrame(), pd.DataFrame({"uid": [], "name": []}), "[]", iter([])],
    ids=lambda it: type(it).__name__,
)
def test_read_devices_empty_list_has_no_rows_and_no_columns(devices: object) -> None:
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
def test_read_devices_anything_but_a_list_is_an_error_that_says_how_to_pass_one(devices: object, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says) as error:
        read_devices(devices)
    assert "Pass a DataFrame" in str(error.value)


def test_read_devices_tuples_that_do_not_match_columns_are_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="Row 1 of devices has 3 values for the 2 columns uid, name"):
        read_devices([("a", "b"), ("a", "b", "c")], columns=["uid", "name"])
    with pytest.raises(NexthinkInputError, match="columns is for rows that are tuples or lists"):
        read_devices([{"uid": "a", "name": "b"}], columns=["uid", "name"])
    with pytest.raises(NexthinkInputError, match="this list names its own"):
        read_devices(pd.DataFrame({"uid": ["a"], "name": ["b"]}), columns=["uid", "name"])


def test_read_devices_cells_are_kept_as_they_came() -> None:
    frame = pd.DataFrame({"uid": [np.nan, 1.5], "name": ["00123", None]}, dtype=object)
    rows = read_devices(frame)
    assert rows.names == ["00123", None]
    assert rows.uids[1] == 1.5


SINGLE_CELLS = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans())
CELLS = st.one_of(SINGLE_CELLS, st.lists(st.integers(), max_size=2))


@given(st.lists(st.fixed_dictionaries({"uid": SINGLE_CELLS, "name": CELLS})))
def test_read_devices_mappings_of_any_cells_give_one_row_each(devices: list[dict[str, Any]]) -> None:
    rows = read_devices(devices)
    assert len(rows) == len(rows.names) == len(devices)
    assert all(cell is row["uid"] for cell, row in zip(rows.uids, devices, strict=True))


@given(st.recursive(CELLS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_read_devices_any_object_ends_in_rows_or_an_input_error(devices: object) -> None:
    try:
        rows = read_devices(devices)
    except NexthinkInputError as error:
        assert "devices" in str(error) or "column" in str(error)
    else:
        assert len(rows.uids) == len(rows.names)
