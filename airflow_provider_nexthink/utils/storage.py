"""Files of a Dag, local or on object storage, by the connections that Airflow has for them."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from airflow.sdk import ObjectStoragePath

from airflow_provider_nexthink.devices.formats import (
    STORAGE_HINT,
    redacted_path,
    require_parquet,
    suffix_of,
    write_file,
)
from airflow_provider_nexthink.exceptions import NexthinkInputError

_LOCAL = ("", "file", "local")


def open_file(path: str) -> BinaryIO:
    """Open a file for reading bytes.

    :param path: local, or an address such as ``s3://connection@bucket/key``.
    """
    file: BinaryIO = _place(path).open("rb")  # type: ignore[no-untyped-call]
    return file


def check_results_path(path: str) -> None:
    """Find out before anything is sent whether the table can be written there later, as far as that shows.

    :param path: where the outcome table is to be written.
    :raises NexthinkInputError: if it cannot.
    """
    if suffix_of(path) == ".parquet":
        require_parquet("A .parquet file in results_path")
    try:
        target = _place(path)
        is_local = target.protocol in _LOCAL
        target.fs  # noqa: B018 - loads the library and the connection that it needs
    except (ImportError, ValueError) as error:
        raise NexthinkInputError(
            f"results_path is {redacted_path(path)}, which cannot be opened: {error}. {STORAGE_HINT} "
            "This try sent nothing."
        ) from None
    if not is_local:
        return
    place = Path(target.path).absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
        if place.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise NexthinkInputError(
            f"results_path is {path}, but nothing can be written there: {error.strerror}. This try sent nothing."
        ) from None


def write_table(path: str, columns: Mapping[str, list[Any]]) -> None:
    """Write an outcome table, all of it or nothing, in the place of one that is there.

    :param path: where to; its suffix says in which format.
    :param columns: the table, column by column.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    target = _place(path)
    with tempfile.TemporaryFile() as made:
        write_file(made, path, columns)
        made.seek(0)
        if target.protocol not in _LOCAL:
            with target.open("wb") as file:  # type: ignore[no-untyped-call]
                shutil.copyfileobj(made, file)
            return
        place = Path(target.path).absolute()
        part = place.with_name(f".{uuid.uuid4().hex}.part")  # of its own: two tasks may write to one place
        try:
            with part.open("xb") as file:
                shutil.copyfileobj(made, file)
            part.replace(place)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def _place(path: str) -> ObjectStoragePath:
    return ObjectStoragePath(os.path.expanduser(path))  # noqa: PTH111 - a Path would take an address apart
