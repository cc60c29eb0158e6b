"""The same devices in every shape give the same rows, with their names unchanged."""

from __future__ import annotations

import collections
import csv
import io
import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_nexthink.devices.formats import write_file
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS

UID = "0fbd5a5c-0000-4000-8000-000000000001"

ODD_NAMES = [
    "PC-1", "NA", "None", "null", "nan", "00123", "1E10", "True", "N/A", "-", "=1+1", "{{ 7*7 }}", "Büro-ä", "株式会社",
    "Kiosk-🖥️", 'The "big" one', "LAB;7", "Sales, Desk 4", "a\tb", " before", "after ", "two\nlines", "x\r\ny", "'",
    "\\", "\ufeffBOM", "sep=;", "[x]", "{x}", "a.csv",
]  # fmt: skip

Pairs = list[tuple[str, str]]
Row = collections.namedtuple("Row", ["uid", "name", "age"])


class SparkRow(tuple[Any, ...]):
    """A row as Spark and Databricks make them."""

    __fields__ = ("uid", "name")
    __slots__ = ()


class ListRow(list[Any]):
    """A row as some drivers make them: a list that has keys."""

    def keys(self) -> list[str]:
        return ["uid", "name"]


class CursorRow:
    """A row as pyodbc makes them."""

    cursor_description = (("uid", str), ("name", str))

    def __init__(self, *cells: str) -> None:
        self.cells = cells

    def __getitem__(self, at: int) -> str:
        return self.cells[at]


def as_sqlite_rows(rows: Pairs) -> Any:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    database.execute("CREATE TABLE d (at INTEGER PRIMARY KEY, uid TEXT, name TEXT)")
    database.executemany("INSERT INTO d (uid, name) VALUES (?, ?)", rows)
    try:
        return database.execute("SELECT name, uid FROM d ORDER BY at").fetchall()
    finally:
        database.close()


def as_sqlalchemy_rows(rows: Pairs) -> Any:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE d (at INTEGER PRIMARY KEY, uid TEXT, name TEXT)"))
        for uid, name in rows:
            connection.execute(sqlalchemy.text("INSERT INTO d (uid, name) VALUES (:u, :n)"), {"u": uid, "n": name})
        return connection.execute(sqlalchemy.text("SELECT uid, name FROM d ORDER BY at")).all()


def as_csv(rows: Pairs, delimiter: str = ",", header: tuple[str, str] = ("Device UID", "Name")) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([header, *rows])
    return text.getvalue()


def mappings(rows: Pairs) -> list[dict[str, str]]:
    return [{"uid": uid, "name": name} for uid, name in rows]


def halves(rows: Pairs) -> list[Pairs]:
    return [rows[: len(rows) // 2], [], rows[len(rows) // 2 :]]


SHAPES: dict[str, Callable[[Pairs], Any]] = {
    "mappings": mappings,
    "generator": lambda rows: (row for row in mappings(rows)),
    "columns of lists": lambda rows: {"uid": [row[0] for row in rows], "name": [row[1] for row in rows]},
    "columns of Series": lambda rows: dict(pd.DataFrame(mappings(rows), columns=["uid", "name"], dtype=object)),
    "columns of arrays": lambda rows: {
        "uid": np.array([row[0] for row in rows], dtype=object),
        "name": np.array([row[1] for row in rows], dtype=object),
    },
    "pandas object": lambda rows: pd.DataFrame(rows, columns=["device.uid", "device.name"], dtype=object),
    "pandas string": lambda rows: pd.DataFrame(rows, columns=["UID", "NAME"], dtype="string"),
    "pandas category": lambda rows: pd.DataFrame(rows, columns=["uid", "name"], dtype=object).astype("category"),
    "pandas, an index with duplicates": lambda rows: pd.DataFrame(
        rows, columns=["uid", "name"], index=[7] * len(rows), dtype=object
    ),
    "polars": lambda rows: pl.DataFrame(rows, schema={"uid": pl.String, "name": pl.String}, orient="row"),
    "polars categorical": lambda rows: pl.DataFrame(
        rows, schema={"uid": pl.String, "name": pl.Categorical}, orient="row"
    ),
    "arrow table": lambda rows: pa.Table.from_pylist(
        mappings(rows), schema=pa.schema({"uid": pa.string(), "name": pa.string()})
    ),
    "arrow batch": lambda rows: pa.record_batch(
        {"uid": pa.array([r[0] for r in rows], pa.large_string()), "name": pa.array([r[1] for r in rows], pa.string())}
    ),
    "arrow dictionary": lambda rows: pa.table(
        {
            "uid": pa.array([r[0] for r in rows], pa.string()),
            "name": pa.array([r[1] for r in rows], pa.string()).dictionary_encode(),
        }
    ),
    "named tuples": lambda rows: [Row(uid, name, 1) for uid, name in rows],
    "rows of Spark": lambda rows: [SparkRow(row) for row in rows],
    "rows of a list with keys": lambda rows: [ListRow(row) for row in rows],
    "rows with a cursor's description": lambda rows: [CursorRow(*row) for row in rows],
    "rows of sqlite3": as_sqlite_rows,
    "rows of SQLAlchemy": as_sqlalchemy_rows,
    "JSON": lambda rows: json.dumps(mappings(rows)),
    "JSON, many lines": lambda rows: json.dumps(mappings(rows), indent=1),
    "several lists": lambda rows: [mappings(part) for part in halves(rows)],
    "several lists, one of nothing": lambda rows: [None, *(mappings(part) for part in halves(rows))],
    "several DataFrames": lambda rows: [pd.DataFrame(mappings(part), dtype=object) for part in halves(rows)],
    "several column mappings": lambda rows: [
        {"uid": [row[0] for row in part], "name": [row[1] for row in part]} for part in halves(rows) if part
    ],
    "several Arrow tables": lambda rows: [pa.Table.from_pylist(mappings(part)) for part in halves(rows)],
}  # fmt: skip

TEXT_SHAPES: dict[str, Callable[[Pairs], str]] = {
    "commas": as_csv,
    "semicolons": lambda rows: as_csv(rows, ";"),
    "TABs": lambda rows: as_csv(rows, "\t"),
    "a byte order mark": lambda rows: "\ufeff" + as_csv(rows, ";"),
    "sep=;": lambda rows: "sep=;\r\n" + as_csv(rows, ";"),
    "blank lines around": lambda rows: "\n\n" + as_csv(rows) + "\r\n\r\n",
    "JSON Lines": lambda rows: "\n".join(json.dumps(row) for row in mappings(rows)),
}

# Surrogates cannot be encoded, and NUL is rejected by the plan.
NAMES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), st.sampled_from(ODD_NAMES)
)
PAIRS = st.lists(st.tuples(st.uuids().map(str), NAMES), max_size=6)


@pytest.mark.parametrize("shape", SHAPES)
@given(rows=PAIRS)
@example(rows=[(UID, name) for name in ODD_NAMES])
@example(rows=[(UID, "PC-1")])
def test_read_devices_same_devices_in_every_shape_give_the_same_rows(shape: str, rows: Pairs) -> None:
    read = read_devices(SHAPES[shape](rows))
    assert list(zip(read.uids, read.names, strict=True)) == rows


@pytest.mark.parametrize("shape", TEXT_SHAPES)
def test_read_devices_odd_names_in_text_are_kept(shape: str) -> None:
    rows = [(UID, name) for name in ODD_NAMES]
    read = read_devices(TEXT_SHAPES[shape](rows))
    assert read.names[: len(rows)] == ODD_NAMES
    assert set(read.uids) == {UID}


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".jsonl", ".parquet"])
@pytest.mark.parametrize("as_path", [str, Path])
@given(rows=PAIRS)
@example(rows=[(UID, name) for name in ODD_NAMES])
def test_read_devices_written_table_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, as_path: Callable[[str], Any], rows: Pairs
) -> None:
    path = tmp_path_factory.getbasetemp() / f"table{suffix}"
    columns: dict[str, list[Any]] = {column: [None] * len(rows) for column in COLUMNS}
    columns |= {"uid": [row[0] for row in rows], "name": [row[1] for row in rows], "attempts": [1] * len(rows)}
    with path.open("wb") as file:
        write_file(file, str(path), columns)
    read = read_devices(as_path(str(path)))
    assert list(zip(read.uids, read.names, strict=True)) == rows
    if rows:
        assert (read.uid_column, read.name_column) == ("uid", "name")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_devices_csv_of_an_investigation_is_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "Investigation 2026.csv"
    text = (
        '"Device name";"Entity";"Device UID"\r\n"Büro; 1";"Zurich, Sales";"' + UID.upper() + '"\r\n"00123";"";"x"\r\n'
    )
    path.write_bytes(text.encode(encoding))
    assert read_devices(f"  {path} ") == DeviceRows(
        [UID.upper(), "x"], ["Büro; 1", "00123"], "Device UID", "Device name"
    )


def test_read_devices_uuids_and_missing_cells_are_kept() -> None:
    value = uuid.UUID(UID)
    table = pa.table({"uid": pa.array([value.bytes, None], pa.uuid()), "name": pa.array(["a", None], pa.string())})
    for devices in (
        table,
        pl.DataFrame({"uid": [value, None], "name": ["a", None]}, schema_overrides={"uid": pl.Object}),
    ):
        read = read_devices(devices)
        assert read.uids == [value, None]
        assert read.names == ["a", None]


@pytest.mark.parametrize(
    "one",
    [
        {"uid": UID, "name": "PC"},
        Row(UID, "PC", 1),
        SparkRow((UID, "PC")),
        as_sqlite_rows([(UID, "PC")])[0],
        as_sqlalchemy_rows([(UID, "PC")])[0],
        CursorRow(UID, "PC"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_read_devices_one_row_is_one_device(one: Any) -> None:
    assert read_devices(one) == DeviceRows([UID], ["PC"], "uid", "name")
    assert read_devices([one]) == DeviceRows([UID], ["PC"], "uid", "name")


@pytest.mark.parametrize("one", [(UID, "PC"), [UID, "PC"], (uuid.UUID(UID), "PC"), (None, "PC")])
def test_read_devices_one_tuple_with_columns_is_one_device(one: Any) -> None:
    assert read_devices(one, columns=["uid", "name"]) == DeviceRows([one[0]], ["PC"], "uid", "name")
    assert read_devices([one], columns=["uid", "name"]) == DeviceRows([one[0]], ["PC"], "uid", "name")
    two = [(UID, "a"), (UID, "b")]
    assert read_devices(two, columns=["uid", "name"]).names == ["a", "b"]
    assert read_devices([two, [], [(UID, "c")]], columns=["uid", "name"]).names == ["a", "b", "c"]


def test_read_devices_columns_override_the_fields_of_named_tuples() -> None:
    rows = [Row("PC", UID, 1)]
    assert read_devices(rows, columns=["name", "uid", "x"]) == DeviceRows([UID], ["PC"], "uid", "name")


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (pl.LazyFrame({"uid": ["a"]}), r"LazyFrame.*\.collect\(\)"),
        (pd.Series([UID]), "Row 0 of devices is a str"),
        (
            [Row(UID, "a", 1), SparkRow((UID, "b"))],
            "Row 1 of devices is a row with the columns uid, name; the rows before",
        ),
        ([Row(UID, "a", 1), {"uid": UID, "name": "b"}], "Row 1 of devices is a dict; the rows before"),
        ([[{"uid": UID, "name": "a"}], [{"device.collector.uid": UID, "name": "b"}]], "different kinds of uid"),
        ([[{"uid": UID, "name": "a"}], UID], "text that is not JSON"),
        ("uid,name\nx", "Line 2 of the text in devices has 1 values for the 2 columns"),
        ("uid,name\nx,a,b", "has 3 values for the 2 columns of its header. A name that contains a separator"),
        ('uid,name\nx,"a', "is not valid CSV"),
        ("hostname,serial\nx,y", "no column for the uid. Its columns are 'hostname', 'serial'"),
        ("device.uid,device.collector.uid,name\na,b,c", "'device.uid' and 'device.collector.uid'"),
        ('{"uid": 1}\n{"uid":', "Line 2 of the text in devices is not a JSON object"),
        ("{}\n7", "Line 2 of the text in devices is not a JSON object"),
        ("/no/such/file.csv", "The file /no/such/file.csv does not exist"),
        ("/no/such/file.parquet", "does not exist"),
        (Path("/etc/hosts"), "the path /etc/hosts: its name must end in .csv or .parquet or .jsonl"),
        ("nosuch://bucket/a.csv", "cannot be opened.*needs its Airflow provider"),
        ("gs://user:secret@bucket/a.csv", r"gs://\*\*\*@bucket/a.csv cannot be opened"),
        ("list.xlsx", "text that is not JSON"),
    ],
)
def test_read_devices_ambiguous_or_malformed_list_is_an_error(devices: Any, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says) as error:
        read_devices(devices)
    assert "secret" not in str(error.value)


TWICE = '{"uid": "a", "name": "PC1", "uid": "b"}'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (TWICE, "uid"),
        (f"[{TWICE}]", "uid"),
        (f'[{{"uid": "a", "name": "b"}}, {TWICE}]', "uid"),
        (f"[[{TWICE}], []]", "uid"),
        ('{"uid": "a", "name": "PC1", "uid": "a"}', "uid"),
        ('{"uid": "a", "name": "PC1", "name": "PC2"}', "name"),
        ('{"uid": "a", "name": "PC1", "u\\u0069d": "b"}', "uid"),
        ('[{"uid": "a", "name": "PC1", "owner": 1, "owner": 2}]', "owner"),
        ('[{"uid": "a", "name": "PC1", "more": {"a": 1, "a": 2}}]', "a"),
        ('{"uid": ["a"], "name": ["PC1"], "uid": ["b"]}', "uid"),
        ('{"uid": ["a"], "name": ["PC1"], "status": ["EXCLUDED"], "status": ["PLANNED"]}', "status"),
        ('{\n "uid": "a",\n "name": "PC1",\n "uid": "b"\n}', "uid"),
        (f"{TWICE}\n{TWICE}", "uid"),
        (f'{{"uid": "a", "name": "b"}}\n{TWICE}\n', "uid"),
        ("\ufeff" + TWICE, "uid"),
    ],
)
def test_read_devices_json_with_a_repeated_key_is_an_error(text: str, key: str, tmp_path: Path) -> None:
    json.loads(text.removeprefix("\ufeff").splitlines()[-1] if "}\n{" in text else text.removeprefix("\ufeff"))
    with pytest.raises(NexthinkInputError, match=rf"names the key '{key}' twice: .*ambiguous"):
        read_devices(text)
    if "\n " not in text and not text.startswith("["):
        (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(NexthinkInputError, match=rf"Line \d of the file .*a.jsonl .*names the key '{key}' twice"):
            read_devices(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "devices",
    [
        {"uid": ["a"], "UID": ["b"], "name": ["PC1"]},
        [{"uid": "a", "device.uid": "b", "name": "PC1"}],
        '{"uid": ["a"], "Uid": ["b"], "name": ["PC1"]}',
        '{"uid": "a", "name": "PC1"}\n{"UID": "b", "name": "PC2"}',
        pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["PC1"])], names=["uid", "uid", "name"]),
        "uid,uid,name\na,b,PC1",
    ],
)
def test_read_devices_column_in_two_spellings_is_an_error(devices: Any) -> None:
    with pytest.raises(NexthinkInputError, match="set uid_column to the one"):
        read_devices(devices)


@pytest.mark.parametrize("depth", [5, 50, 200, 300, 400, 600, 900, 3000, 100_000])
@pytest.mark.parametrize("inner", ["", '{"uid": "a", "name": "b"}', '["a", "b"]', "1"])
def test_read_devices_deeply_nested_lists_are_rows_or_an_input_error(depth: int, inner: str) -> None:
    for columns in (None, ["uid", "name"]):
        with suppress(NexthinkInputError):
            assert len(read_devices("[" * depth + inner + "]" * depth, columns=columns)) <= 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "is empty: it does not even have a header"),
        ("a.csv", b"\r\n \r\n", "is empty"),
        ("a.csv", b"uid,name\nx,\xe4\n", "not UTF-8: save it as 'CSV UTF-8'"),
        ("a.csv", b"uid,name\nx,a\n\nx,b,c\n", "Line 4 of the file .*a.csv has 3 values"),
        ("a.csv", b"uid,name\nx," + b"y" * 200_000, "field larger than field limit"),
        ("a.parquet", b"PAR1 not really", "is not a Parquet file, or is damaged"),
        ("a.parquet", b"", "is not a Parquet file"),
        ("a.jsonl", b'{"uid": "x", "name": "y"}\n[1]\n', "Line 2 of the file .*a.jsonl is not a JSON object"),
    ],
)
def test_read_devices_malformed_file_is_an_error_with_its_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(str(path))


def test_read_devices_file_without_rows_is_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uid,name\n")
    (tmp_path / "a.jsonl").write_text("")
    assert read_devices("Device UID;Name") == read_devices("uid,name\n\n") == DeviceRows([], [])
    assert read_devices(tmp_path / "a.csv") == read_devices(tmp_path / "a.jsonl") == DeviceRows([], [])


UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(3)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"uid, name\n{UIDS[0]}, PC-1\n{UIDS[1]}, PC 2 \n", ["PC-1", "PC 2 "]),
        (f"uid,name\n{UIDS[0]}, PC-1\n", [" PC-1"]),
        (f"uid; name\r\n{UIDS[0]}; PC-1\r\n", ["PC-1"]),
        (f"uid,name\n{UIDS[0]},PC\u2028A\n{UIDS[1]},PC\x0bB\n", ["PC\u2028A", "PC\x0bB"]),
        (f'\ufeff[{{"uid": "{UIDS[0]}", "name": "PC-1"}}]', ["PC-1"]),
        (f'{{"uid": "{UIDS[0]}", "name": "PC\u2028A"}}\n{{"uid": "{UIDS[1]}", "name": "B"}}\n', ["PC\u2028A", "B"]),
    ],
)
def test_read_devices_text_is_split_only_at_line_ends(text: str, names: list[str]) -> None:
    rows = read_devices(text)
    assert rows.names == names
    assert rows.uids == UIDS[: len(names)]


def test_read_devices_list_of_uids_with_columns_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="columns is for rows that are tuples"):
        read_devices(UIDS[:2], columns=["uid", "name"])


def test_read_devices_struct_array_is_read_and_groupby_is_an_error() -> None:
    table = pa.table({"uid": UIDS, "name": ["a", "b", "c"]})
    assert read_devices(table.to_struct_array()).names == ["a", "b", "c"]
    with pytest.raises(NexthinkInputError, match="devices|Row"):
        read_devices(pd.DataFrame({"uid": UIDS, "name": ["a", "b", "c"]}).groupby("uid"))


def test_read_devices_one_device_with_a_nested_object_is_one_row() -> None:
    device = {"uid": UIDS[0], "name": "PC-1", "os": {"name": "x"}}
    for form in (device, json.dumps(device), [device]):
        assert read_devices(form).names == ["PC-1"]


def test_read_devices_texts_that_each_hold_a_list_are_not_one_row() -> None:
    texts = [json.dumps([{"uid": uid, "name": "a"}]) for uid in UIDS[:2]]
    with pytest.raises(NexthinkInputError, match="columns is for rows that are tuples"):
        read_devices(texts, columns=["uid", "name"])


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-16-le"])
def test_read_devices_file_with_nul_characters_is_an_error(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "devices.csv"
    path.write_bytes(f"uid,name\n{UIDS[0]},a".encode(encoding))
    with pytest.raises(NexthinkInputError, match="not UTF-8"):
        read_devices(str(path))


def test_read_devices_path_that_is_too_long_is_an_input_error() -> None:
    with pytest.raises(NexthinkInputError, match="cannot be read: File name too long"):
        read_devices("x" * 300 + ".csv")
