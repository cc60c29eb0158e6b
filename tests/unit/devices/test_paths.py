"""Read devices from a ``Path`` and from an ``ObjectStoragePath`` of any scheme, also after a trip through XCom."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from airflow.sdk.serde import deserialize, serialize
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.utils.storage import open_file

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(2)]
EXPECTED = DeviceRows(UIDS, ["PC-1", "00123"], "uid", "name")
ROWS = [{"uid": uid, "name": name} for uid, name in zip(EXPECTED.uids, EXPECTED.names, strict=True)]


@pytest.fixture
def stores() -> None:
    """Attach an in-memory file system to each scheme; the rest is Airflow's own code."""
    for protocol, conn_id in (("memory", None), ("s3", None), ("s3", "aws_default"), ("gs", "gcp"), ("abfs", "wasb")):
        file_system = MemoryFileSystem(skip_instance_cache=True)
        file_system.store, file_system.pseudo_dirs = {}, [""]
        attach(protocol, conn_id=conn_id, fs=file_system)


def write(path: Any) -> None:
    with path.open("wb") as file:
        if path.suffix == ".parquet":
            made = pa.BufferOutputStream()
            parquet.write_table(pa.Table.from_pylist(ROWS), made)
            file.write(made.getvalue().to_pybytes())
        elif path.suffix == ".csv":
            lines = ["uid,name", *(f"{row['uid']},{row['name']}" for row in ROWS)]
            file.write("\n".join(lines).encode())
        else:
            file.write("\n".join(map(json.dumps, ROWS)).encode())


ADDRESSES = ["memory://bucket/a{}", "s3://bucket/b/a{}", "s3://aws_default@bucket/a{}", "gs://gcp@bucket/a{}",
             "abfs://wasb@container/a b{}", "file://{folder}/a{}", "{folder}/a{}"]  # fmt: skip


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".jsonl", ".parquet"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_read_devices_object_storage_path_with_any_scheme_is_read(address: str, suffix: str, tmp_path: Path) -> None:
    path: Any = ObjectStoragePath(address.replace("{folder}", str(tmp_path)).replace("{}", suffix.lower()))
    write(path)
    if suffix.isupper():
        with path.open("rb") as file:
            content = file.read()
        path = path.parent / f"{path.stem}.CSV"
        with path.open("wb") as file:
            file.write(content)
    assert read_devices(path) == EXPECTED
    assert read_devices(path, open_file=open_file) == EXPECTED
    out_of_xcom: Any = deserialize(json.loads(json.dumps(serialize(path))))
    assert isinstance(out_of_xcom, ObjectStoragePath)
    assert read_devices(out_of_xcom, open_file=open_file) == EXPECTED
    assert read_devices(str(path), open_file=open_file) == EXPECTED
    assert read_devices([path, out_of_xcom], open_file=open_file).uids == UIDS * 2


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("memory://bucket/none.csv", "The file memory://bucket/none.csv does not exist"),
        ("memory://bucket/a.xlsx", "its name must end in .csv"),
        ("s3://bucket/", "its name must end in"),
    ],
)
def test_read_devices_object_storage_path_that_cannot_be_read_is_an_error(address: str, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(ObjectStoragePath(address), open_file=open_file)


def test_read_devices_object_storage_path_without_a_file_system_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match=r"memory://bucket/a.csv cannot be opened.*Airflow provider"):
        read_devices(ObjectStoragePath("memory://bucket/a.csv"), open_file=open_file)


PATHS: dict[str, Callable[[Path], Any]] = {
    "pathlib": lambda path: path,
    "text": str,
    "a list of paths": lambda path: [path],
}


@pytest.mark.parametrize("form", PATHS)
def test_read_devices_path_of_pathlib_is_read(form: str, tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    assert read_devices(PATHS[form](tmp_path / "a.csv")) == EXPECTED


def test_read_devices_path_in_an_archive_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.csv", "lists/a.csv")
    assert read_devices(zipfile.Path(tmp_path / "a.zip", "lists/a.csv")) == EXPECTED
