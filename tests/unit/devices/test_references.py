"""References to rows of files: what they are, what they read, and that a file that has changed is found out."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from airflow_provider_nexthink.devices.parquet import ParquetRows
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.devices.references import Reference, write_chunks
from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkRetryableError
from airflow_provider_nexthink.utils.storage import file_of

ROWS = 25
UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012x}" for number in range(ROWS)]
NAMES = [f"PC-{number}" for number in range(ROWS)]
CHUNKS = [(0, 10), (10, 20), (20, 25)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file with three chunks."""
    made = io.BytesIO()
    chunks = [(UIDS[start:stop], NAMES[start:stop]) for start, stop in CHUNKS]
    sizes, ending = write_chunks(made, ["device.uid", "name"], chunks)
    assert sizes == [10, 10, 5]
    place = tmp_path / f"chunks{ending}"
    place.write_bytes(made.getvalue())
    return str(place)


def rewrite(path: str, change: Any) -> None:
    """Change the table in a file, as another program would: it keeps the metadata."""
    table = parquet.read_table(path)
    parquet.write_table(change(table), path, row_group_size=10)


@pytest.mark.parametrize(("start", "stop"), [*CHUNKS, (0, 25), (5, 12), (9, 10), (24, 25), (3, 3), (25, 25)])
def test_reference_reads_these_rows(path: str, start: int, stop: int) -> None:
    rows = read_devices({"path": path, "start": start, "stop": stop})
    assert (rows.uids, rows.names) == (UIDS[start:stop], NAMES[start:stop])
    assert rows.uid_column == ("device.uid" if stop > start else None)


@given(cuts=st.lists(st.integers(0, ROWS), min_size=2, max_size=2).map(sorted), rows_in_group=st.integers(1, ROWS + 1))
def test_reference_to_rows_of_any_file_reads_them(cuts: list[int], rows_in_group: int) -> None:
    made = io.BytesIO()
    parquet.write_table(pa.table({"uid": UIDS, "name": NAMES, "more": [1] * ROWS}), made, row_group_size=rows_in_group)
    start, stop = cuts
    rows = read_devices(
        {"path": "a.parquet", "start": start, "stop": stop}, open_file=lambda _: io.BytesIO(made.getvalue())
    )
    assert (rows.uids, rows.names) == (UIDS[start:stop], NAMES[start:stop])
    batches = list(ParquetRows(made, "The file").batches([1, 0], start, stop))
    assert [name for names, _ in batches for name in names] == NAMES[start:stop]


def test_list_of_references_is_one_list(path: str) -> None:
    parts = [{"path": path, "start": start, "stop": stop} for start, stop in reversed(CHUNKS)]
    assert read_devices(parts).uids == [*UIDS[20:], *UIDS[10:20], *UIDS[:10]]


def test_references_that_overlap_are_an_error(path: str) -> None:
    for start, stop in ((9, 12), (0, 25), (19, 20)):
        with pytest.raises(NexthinkInputError, match=r"has rows twice: .* overlap"):
            read_devices([{"path": path, "start": 10, "stop": 20}, {"path": path, "start": start, "stop": stop}])
    with pytest.raises(NexthinkInputError, match="overlap"):
        read_devices([{"path": path}, {"path": path, "start": 0, "stop": 1}])


def test_references_in_lists_of_lists_that_overlap_are_an_error(path: str) -> None:
    """As the XComs of several tasks come."""
    part = {"path": path, "start": 10, "stop": 20}
    with pytest.raises(NexthinkInputError, match="overlap"):
        read_devices([[part], None, [{"path": path, "start": 0, "stop": 11}]])
    assert len(read_devices([[part], [{"path": path, "start": 0, "stop": 10}]])) == 20


@pytest.mark.parametrize("is_first", [True, False])
def test_reference_in_a_list_of_devices_is_no_device(path: str, is_first: bool) -> None:
    part, device = {"path": path, "start": 0, "stop": 10}, {"device.uid": UIDS[20], "name": NAMES[20]}
    if is_first:
        assert len(read_devices([part, device])) == 11
    else:
        with pytest.raises(NexthinkInputError, match="rows and files in one list"):
            read_devices([device, part])


@pytest.mark.parametrize("known", [{"size": 1}, {"checksum": "0" * 32}])
def test_reference_to_rows_of_a_manifest_is_an_error_if_its_file_has_changed(
    tmp_path: Path, known: dict[str, Any]
) -> None:
    place = tmp_path / "list.parquet"
    parquet.write_table(pa.table({"uid": UIDS, "name": NAMES}), place)
    content = place.read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    part: dict[str, Any] = {"path": str(place), "start": 0, "stop": 10, "size": len(content), "checksum": digest}
    with file_of(Reference(**part)):
        assert len(read_devices(part)) == 10
    changed = part | known
    with pytest.raises(NexthinkInputError, match="has changed"):
        read_devices(changed)
    with pytest.raises(NexthinkInputError, match="has changed"), file_of(Reference(**changed)):
        pass


def test_reference_outside_the_file_is_an_error(path: str) -> None:
    with pytest.raises(NexthinkInputError, match="rows 20 to 26 of the file .* the file has 25 rows"):
        read_devices({"path": path, "start": 20, "stop": 26})


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 5), (5, 4), (0, None), (None, 5), (0, 2.0), ("0", "5"), (False, True)]
)
def test_reference_without_whole_rows_is_an_error(path: str, start: Any, stop: Any) -> None:
    with pytest.raises(NexthinkInputError, match="start and stop are whole numbers of rows"):
        read_devices({"path": path, "start": start, "stop": stop})


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_reference_to_rows_of_text_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("uid,name\n")
    with pytest.raises(NexthinkInputError, match="only Parquet says where its rows are"):
        read_devices({"path": str(tmp_path / name), "start": 0, "stop": 1})


def test_device_with_a_path_among_its_values_is_a_device() -> None:
    rows = read_devices({"uid": UIDS[0], "name": "PC", "path": "C:\\Windows"})
    assert rows.uids == UIDS[:1]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.set_column(0, "device.uid", pa.array([UIDS[1], UIDS[0], *UIDS[2:]])),
        lambda table: table.set_column(1, "name", pa.array(["PC-X", *NAMES[1:]])),
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.replace_schema_metadata({}),
        lambda table: table.rename_columns(["device.collector.uid", "name"]),
    ],
    ids=["uid", "name", "shorter", "longer", "without metadata", "kind of uid"],
)
def test_chunk_of_a_file_that_has_changed_is_an_error(path: str, change: Any) -> None:
    rewrite(path, change)
    with pytest.raises(NexthinkInputError, match=r"has changed since it was planned.*This try sent nothing|24 rows"):
        read_devices({"path": path, "start": 0, "stop": 10})


def test_chunk_of_a_file_with_other_digests_is_an_error(path: str) -> None:
    """Another file of chunks, put in its place."""
    made = io.BytesIO()
    write_chunks(made, ["device.uid", "name"], [(UIDS[:10], ["other"] * 10)])
    Path(path).write_bytes(made.getvalue())
    with pytest.raises(NexthinkInputError, match="has changed since it was planned"):
        read_devices({"path": path, "start": 0, "stop": 10})


def test_manifest_is_the_whole_file_if_it_is_unchanged(path: str) -> None:
    content = Path(path).read_bytes()
    manifest = {"path": path, "rows": ROWS, "size": len(content), "checksum": "", "columns": ["device.uid", "name"]}
    with pytest.raises(NexthinkInputError, match="has changed since it was planned"):
        read_devices(manifest)
    del manifest["checksum"]
    assert read_devices(manifest).uids == UIDS
    assert read_devices(json.dumps(manifest)).uids == UIDS
    Path(path).write_bytes(content + b"more")
    with pytest.raises(NexthinkInputError, match="has changed since it was planned"):
        read_devices(manifest)


def test_storage_that_fails_in_the_middle_is_not_a_damaged_file(path: str) -> None:
    content = Path(path).read_bytes()

    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 2:
                raise ConnectionResetError("the storage has gone")
            return super().read(size)

    with pytest.raises(NexthinkRetryableError, match="cannot be read just now: the storage has gone"):
        read_devices({"path": path, "start": 0, "stop": 10}, open_file=lambda _: Failing(content))
