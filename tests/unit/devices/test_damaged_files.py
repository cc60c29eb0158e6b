"""Damaged files: rows or an input error, never an error of the library that reads them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from pyarrow.parquet import encryption

from airflow_provider_nexthink.devices.formats import write_file
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkRetryableError
from airflow_provider_nexthink.filters import anti_join
from airflow_provider_nexthink.status import COLUMNS

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(30)]
ROWS = [{"uid": uid, "name": f"PC-{uid[-2:]}-ä"} for uid in UIDS]


def parquet_bytes(table: Any, **options: Any) -> bytes:
    made = io.BytesIO()
    parquet.write_table(table, made, **options)
    return made.getvalue()


def csv_bytes(encoding: str = "utf-8") -> bytes:
    return "".join(f"{uid},{name}\r\n" for uid, name in [("uid", "name"), *(row.values() for row in ROWS)]).encode(
        encoding
    )


TABLE = pa.Table.from_pylist(ROWS)
FILES: dict[str, tuple[str, bytes]] = {
    "parquet": (".parquet", parquet_bytes(TABLE)),
    "parquet, not compressed": (".parquet", parquet_bytes(TABLE, compression="none", use_dictionary=False)),
    "parquet, zstd": (".parquet", parquet_bytes(TABLE, compression="zstd", data_page_version="2.0")),
    "parquet, delta": (
        ".parquet",
        parquet_bytes(TABLE, use_dictionary=False, column_encoding={"uid": "DELTA_BYTE_ARRAY", "name": "PLAIN"}),
    ),
    "CSV": (".csv", csv_bytes()),
    "CSV, UTF-16": (".csv", csv_bytes("utf-16")),
    "JSON Lines": (".jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
}


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the content with bytes changed, truncated, dropped or inserted."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["flip", "set", "cut", "drop", "insert", "zero"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[at:]
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            end = min(at + draw(st.integers(1, 40)), len(data))
            data[at:end] = bytes(end - at)
    return bytes(data)


@pytest.mark.parametrize("kind", FILES)
@given(data=st.data())
def test_read_devices_damaged_file_is_rows_or_an_input_error(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    suffix, content = FILES[kind]
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(content)))
    try:
        rows = read_devices(path)
    except NexthinkInputError as error:
        assert 10 < len(str(error)) < 3000
    else:
        assert len(rows.uids) == len(rows.names)


@pytest.mark.parametrize("kind", FILES)
def test_read_devices_file_truncated_at_any_byte_is_rows_or_an_input_error(kind: str, tmp_path: Path) -> None:
    suffix, content = FILES[kind]
    path = tmp_path / f"cut{suffix}"
    for end in range(0, len(content), 1 if suffix == ".parquet" else 13):
        path.write_bytes(content[:end])
        if suffix == ".parquet":
            with pytest.raises(NexthinkInputError, match="not a Parquet file, or is damaged"):
                read_devices(path)
        else:
            try:
                read_devices(path)
            except NexthinkInputError as error:
                assert "cut" in str(error)


def encrypted(*, footer: bool) -> bytes:
    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return key_bytes.hex().encode()

        def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
            return bytes.fromhex(wrapped_key.decode())

    settings = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"columns": ["uid", "name"]}, plaintext_footer=not footer
    )
    factory = encryption.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    return parquet_bytes(TABLE, encryption_properties=properties)


def without_utf8(column: str) -> Any:
    arrays = {name: TABLE[name].cast(pa.binary()).combine_chunks() for name in ("uid", "name")}
    arrays[column] = pa.array([b"B\xfcro"] * len(ROWS), pa.binary())
    return pa.table(
        {
            name: pa.Array.from_buffers(pa.string(), len(array), array.buffers(), array.null_count)
            for name, array in arrays.items()
        }
    )


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (lambda: encrypted(footer=True), "is encrypted"),
    "encrypted columns": (lambda: encrypted(footer=False), "is encrypted"),
    "a name that is not UTF-8": (lambda: parquet_bytes(without_utf8("name")), "'name'.*not UTF-8"),
    "a uid that is not UTF-8": (lambda: parquet_bytes(without_utf8("uid")), "'uid'.*not UTF-8"),
    "another schema in the metadata": (
        lambda: parquet_bytes(TABLE).replace(b"ARROW:schema", b"ARROW:schemX"),
        "",
    ),
    "a schema that is none": (
        lambda: parquet_bytes(TABLE).replace(b"/////", b"AAAAA"),
        "not a Parquet file, or is damaged",
    ),
    "pandas metadata that is not JSON": (
        lambda: parquet_bytes(TABLE.replace_schema_metadata({"pandas": "{no JSON"})),
        "",
    ),
    "a time that Python does not know": (
        lambda: parquet_bytes(
            pa.table({"uid": UIDS, "name": pa.array([2**62] * len(UIDS), pa.timestamp("us"))})
        ),
        "'name' of devices has values that Python cannot hold",
    ),
    "text": (lambda: b"<html>not found</html>", "not a Parquet file, or is damaged"),
    "nothing": (lambda: b"", "not a Parquet file, or is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_read_devices_hostile_parquet_is_rows_or_an_error_that_says_why(kind: str, tmp_path: Path) -> None:
    make, says = HOSTILE[kind]
    path = tmp_path / "a.parquet"
    path.write_bytes(make())
    if not says:
        assert read_devices(path) == DeviceRows(UIDS, [row["name"] for row in ROWS], "uid", "name")
        return
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(path)


def test_read_devices_arrow_table_that_is_not_utf8_is_an_error() -> None:
    for column in ("uid", "name"):
        with pytest.raises(NexthinkInputError, match="not UTF-8"):
            read_devices(without_utf8(column))
        with pytest.raises(NexthinkInputError, match="not UTF-8"):
            anti_join(ROWS, without_utf8(column), on=column)
        with pytest.raises(NexthinkInputError, match="not UTF-8"):
            read_devices({"uid": UIDS, "name": without_utf8("name")["name"]})


def test_read_devices_results_file_with_a_flipped_bit_fails_its_checksum(tmp_path: Path) -> None:
    made = io.BytesIO()
    columns: dict[str, list[Any]] = {column: [None] * len(UIDS) for column in COLUMNS}
    write_file(made, "a.parquet", {**columns, "uid": UIDS, "name": ["PC"] * len(UIDS)})
    content = bytearray(made.getvalue())
    content[content.index(b"PC")] ^= 1
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(NexthinkInputError, match="damaged"):
        read_devices(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(made.getvalue())
    assert read_devices(tmp_path / "a.parquet").uids == UIDS


class BrokenStorage(io.BytesIO):
    """A file whose storage fails while it is read."""

    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError("connection to the storage lost")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_read_devices_storage_failure_is_not_an_input_error(suffix: str) -> None:
    with pytest.raises(NexthinkRetryableError, match=f"The file a{suffix} cannot be read just now: connection to the"):
        read_devices(f"a{suffix}", open_file=lambda _: BrokenStorage())


def test_read_devices_missing_column_names_long_columns_in_short() -> None:
    with pytest.raises(NexthinkInputError) as raised:
        read_devices({"\u3000" * 5000: ["1"], "name": ["PC-1"]})
    assert "'name'" in str(raised.value)
    assert len(str(raised.value)) < 300
