"""A protect list in any form keeps its devices from being sent, by uid or by name; one that cannot is an error."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.deletion.protect import PROTECTED, read_protect_list
from airflow_provider_nexthink.devices.formats import write_file
from airflow_provider_nexthink.devices.identity import normalize_name
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Status

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(9)]
ROWS = [{"uid": UIDS[0], "name": "PC-0"}, {"uid": UIDS[1], "name": "PC-1"}]
FLEET = DeviceRows(list(UIDS), [f"PC-{number}" for number in range(9)], "uid", "name")
Pair = namedtuple("Pair", ["uid", "name"])


def protected(protect: object, **options: Any) -> list[int]:
    """Return which devices of FLEET a list protects."""
    plan = make_plan(FLEET, protect=read_protect_list(protect, **options))
    kept = [at for at, status in enumerate(plan.statuses) if status is Status.EXCLUDED]
    assert plan.to_send == [at for at in range(9) if at not in kept]
    assert {plan.reasons[at] for at in kept} <= {PROTECTED}
    return kept


def sqlite_rows() -> list[Any]:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    database.execute("CREATE TABLE vip (device_uid TEXT, name TEXT, owner TEXT)")
    database.executemany("INSERT INTO vip VALUES (?, ?, 'x')", [tuple(row.values()) for row in ROWS])
    return database.execute("SELECT * FROM vip").fetchall()


def file_of(tmp_path: Path, suffix: str) -> str:
    path = tmp_path / f"vip{suffix}"
    with path.open("wb") as file:
        write_file(file, path.name, {"uid": UIDS[:2], "name": ["PC-0", "PC-1"]})
    return str(path)


FORMS: dict[str, Any] = {
    "mappings": ROWS,
    "tuple of mappings": tuple(ROWS),
    "one mapping": {"uid": [UIDS[0], UIDS[1]], "name": ["PC-0", "PC-1"]},
    "named tuples": [Pair(*row.values()) for row in ROWS],
    "Rows of a database": sqlite_rows(),
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "Arrow": pa.Table.from_pylist(ROWS),
    "Arrow reader": pa.Table.from_pylist(ROWS).to_reader(),
    "to_dict()": pd.DataFrame(ROWS).to_dict(),
    "to_json(orient='split')": pd.DataFrame(ROWS).to_json(orient="split"),
    "device rows": read_devices(ROWS),
    "JSON": json.dumps(ROWS),
    "JSON Lines": "\n".join(map(json.dumps, ROWS)),
    "CSV": f"Device UID;Device name\n{UIDS[0]};PC-0\n{UIDS[1]};PC-1\n",
    "lists of mapped tasks": [ROWS[:1], ROWS[1:]],
    "frames": [pd.DataFrame(ROWS[:1]), ROWS[1:]],
    "an iterator": iter(ROWS),
    "an outcome table": [{**row, "status": "REJECTED", "reason": "x", "request_id": None} for row in ROWS],
    "statuses that are none": [{**row, "status": "SCHEDULED", "request_id": "?"} | {"status": "odd"} for row in ROWS],
    "only uids": [{"uid": UIDS[0].upper()}, {"uid": UIDS[1].replace("-", "")}],
    "only names": [{"name": "pc-0"}, {"name": " PC\u20111 "}],
    "only names in a frame": pd.DataFrame({"Device Name": ["PC-0", "PC-1"], "owner": ["x", "y"]}),
    "only names in CSV": "name,owner\nPC-0,x\nPC-1,y\n",
    "a single row": [Pair(UIDS[0], None), Pair(None, "PC-1")],
    "a uid, then a name": [{"uid": UIDS[0], "name": None}, {"uid": None, "name": "PC-1"}],
    "missing as pandas has it": pd.DataFrame({"uid": [UIDS[0], np.nan], "name": [None, "PC-1"]}),
    "lists with different columns": [[{"uid": UIDS[0]}], [{"name": "PC-1"}]],
    "names in tuples": [("PC-0",), ("PC-1",)],
    "names in lists": [["PC-0"], ["PC-1"]],
    "plain uids and names": [UIDS[0], "PC-1"],
    "plain uids": {uuid.UUID(UIDS[0]), uuid.UUID(UIDS[1])},
    "uids as people write them": [f"{{{UIDS[0]}}}", f"urn:uuid:{UIDS[1]}"],
    "Series": pd.Series(["PC-0", "PC-1"]),
    "array": np.array(["PC-0", "PC-1"]),
    "plain JSON": json.dumps(["PC-0", UIDS[1]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_protect_in_every_form_keeps_its_devices_from_being_sent(form: str) -> None:
    assert protected(FORMS[form]) == [0, 1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_protect_from_a_file_is_read(tmp_path: Path, suffix: str) -> None:
    assert protected(file_of(tmp_path, suffix)) == [0, 1]
    assert protected(Path(file_of(tmp_path, suffix))) == [0, 1]


@pytest.mark.parametrize(
    "rows",
    [
        [(UIDS[0], "PC-0"), (UIDS[1], "PC-1")],
        [[UIDS[0], "PC-0"], [None, "PC-1"]],
        [[(UIDS[0], "PC-0")], [(UIDS[1], None)]],
        iter([(UIDS[0], "PC-0"), (UIDS[1], "PC-1")]),
        json.dumps([[UIDS[0], "PC-0"], [UIDS[1], "PC-1"]]),
        # These name their columns, or need none, whatever the devices do.
        ROWS,
        [ROWS[:1], ROWS[1:]],
        pd.DataFrame(ROWS),
        [("PC-0",), ("PC-1",)],
        [Pair(*row.values()) for row in ROWS],
        "name\nPC-0\nPC-1\n",
    ],
)
def test_protect_rows_without_names_have_those_of_the_option_columns(rows: object) -> None:
    assert protected(rows, columns=("uid", "name")) == [0, 1]


@pytest.mark.parametrize(
    ("protect", "says"),
    [
        ([], "an empty protect list protects nothing"),
        ((), "an empty protect list"),
        ("", "text that is not JSON"),
        ({}, "an empty protect list"),
        (pd.DataFrame({"uid": []}), "an empty protect list"),
        (pl.DataFrame(), "an empty protect list"),
        (iter(()), "an empty protect list"),
        ("uid,name\n", "an empty protect list"),
        ("[]", "an empty protect list"),
        ([[], []], "an empty protect list"),
        ({"uid": [], "name": []}, "an empty protect list"),
        (7, "an int"),
        (True, "a bool"),
        (b"PC-0", "a bytes"),
        ("PC-0", "text that is not JSON"),
        ("/nowhere/vip.csv", "does not exist"),
        ([None], "None"),
        ([None, None], "None"),
        ([None, ROWS], "A part of it is None"),
        ([ROWS, None], "A part of it is None"),
        ([[ROWS, None], [ROWS]], "A part of it is None"),
        ((ROWS, pd.DataFrame(ROWS), None), "A part of it is None"),
        ([{"uid": None}], "Row 0 has neither a uid nor a name"),
        ([{"name": "PC-0"}, {"name": " "}], "Row 1 has neither a uid nor a name"),
        ([{"name": "\u200b"}], "Row 0 has neither"),
        (pd.DataFrame({"uid": [np.nan]}), "Row 0 has neither"),
        ([("PC-0",), (None,)], "Row 1 has neither"),
        (["PC-0", None], "Row 1 has neither"),
        (["PC-0", ""], "Row 1 has neither"),
        ([{"uid": "n/a", "name": "PC-0"}], "Row 0 has 'n/a' as its uid"),
        ([{"uid": 7}], "Row 0 has 7 as its uid"),
        ([{"uid": UIDS[0], "name": 123}], "Row 0 has 123 as its name, which is not text"),
        (["PC-0", 7], "Row 1 has 7 as its name"),
        ([{"uid": UIDS[:2], "name": "PC-0"}], "a list as its uid"),
        ([{"serial": "x"}], "no column for the uid or the name. Its columns are 'serial'"),
        ("serial,owner\nx,y", "no column for the uid or the name"),
        ([(UIDS[0], "PC-0")], "say columns="),
        ([{"uid": UIDS[0], "device.uid": UIDS[1]}], "'uid' and 'device.uid'"),
        ([{"name": "PC-0"}, None], "None"),
        (["VIP-*"], "Globs belong in exclude"),
        (["vip.csv"], "a path is passed by itself"),
        ('[{"uid": "x", "uid": "y"}]', "names the key 'uid' twice"),
        (pl.DataFrame(ROWS).lazy(), "collect"),
    ],
)
def test_protect_that_protects_nothing_or_is_unreadable_is_an_error(protect: object, says: str) -> None:
    with pytest.raises(NexthinkInputError) as raised:
        read_protect_list(protect)
    assert says in str(raised.value)
    assert "This try sent nothing." in str(raised.value)


@pytest.mark.parametrize("protect", [[], (), "", " ", {}, pd.DataFrame(), np.array([])])
def test_options_protect_without_rows_is_an_error(protect: object) -> None:
    with pytest.raises(NexthinkInputError, match="an empty protect list protects nothing"):
        DeletionOptions.checked(protect=protect)


def test_options_protect_is_not_in_the_repr() -> None:
    assert "PC-0" not in repr(DeletionOptions.checked(protect=ROWS))


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("srv-1", "SRV\u20111"),
        ("SRV\u00ad-1", "SRV-1"),
        ("A\u00adB", "A-B"),
        ("A-B", "A\u00adB"),
        ("İX", "ix"),
        ("ＳＲＶ", "srv "),
    ],
)
def test_protect_name_is_compared_as_exclusions_compare_names(entry: str, name: str) -> None:
    rows = DeviceRows(UIDS[:1], [name], "uid", "name")
    assert make_plan(rows, protect=read_protect_list([{"name": entry}])).statuses == [Status.EXCLUDED]
    assert make_plan(rows, [entry]).statuses == [Status.EXCLUDED]


def test_protect_name_is_no_glob() -> None:
    rows = DeviceRows(UIDS[:2], ["LAB1", "LAB[1]"], "uid", "name")
    assert make_plan(rows, protect=read_protect_list([{"name": "LAB[1]"}])).statuses == [None, Status.EXCLUDED]


@pytest.mark.parametrize(
    ("devices", "protect"), [("device.uid", "device.collector.uid"), ("Collector UID", "Device UID")]
)
def test_protect_other_kind_of_uid_is_an_error(devices: str, protect: str) -> None:
    listed = read_protect_list([{protect: UIDS[0], "name": "PC-0"}])
    with pytest.raises(NexthinkInputError, match="different kinds of uid.*This try sent nothing"):
        listed.check_kind(devices)
    for same in (protect, "uid", None):
        listed.check_kind(same)
    read_protect_list([{"name": "PC-0"}]).check_kind(devices)


def test_protect_reason_is_known_where_a_status_was_dropped() -> None:
    with pytest.raises(NexthinkInputError, match="looks like an outcome table"):
        read_devices([{**ROWS[0], "reason": PROTECTED}])
    kept = read_devices([{**ROWS[0], "status": "EXCLUDED", "reason": PROTECTED}])
    assert make_plan(kept).reasons == [PROTECTED]


names = st.sampled_from(["PC-1", "pc-1 ", "PC\u20111", "İ", "i", "A\u00adB", "A-B", "AB", "", None])
uids = st.sampled_from([*UIDS[:3], UIDS[0].upper(), None])


@given(st.lists(st.tuples(uids, names), max_size=8), st.lists(st.tuples(uids, names), min_size=1, max_size=5))
def test_protect_sends_what_a_plain_model_sends(
    devices: list[tuple[str | None, str | None]], listed: list[tuple[str | None, str | None]]
) -> None:
    def looks(name: str | None) -> set[str]:
        return {normalize_name(name), normalize_name(name.replace("\u00ad", "-"))} if name else set()

    rows = [{"uid": uid, "name": name} for uid, name in listed if uid or name]
    if not rows:
        return
    protect = read_protect_list(rows)
    cells = DeviceRows([uid for uid, _ in devices], [name for _, name in devices], "uid", "name")
    without = make_plan(cells)
    plan = make_plan(cells, protect=protect)
    kept_uids = {str(uid).lower() for uid, _ in listed if uid}
    kept_names = set().union(*(looks(name) for _, name in listed))
    expected = [
        at for at in without.to_send if without.uids[at] not in kept_uids and not looks(without.names[at]) & kept_names
    ]
    assert plan.to_send == expected
    assert [status for status in plan.statuses if status is not Status.EXCLUDED] == [
        status for at, status in enumerate(without.statuses) if status is not None or at in expected
    ]
