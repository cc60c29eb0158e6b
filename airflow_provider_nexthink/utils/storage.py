"""Files of a Dag, local or on object storage, by the connections that Airflow has for them."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from airflow.sdk import ObjectStoragePath

from airflow_provider_nexthink.devices.formats import (
    STORAGE_HINT,
    redacted_path,
    require_parquet,
    suffix_of,
    write_file,
)
from airflow_provider_nexthink.devices.references import Reference
from airflow_provider_nexthink.devices.text import opened
from airflow_provider_nexthink.exceptions import NexthinkInputError

_LOCAL = ("", "file", "local")
_PIECE_BYTES = 1024 * 1024
# A task reads the rows of its chunk, and s3fs 50 MB beyond them unless told otherwise.
_READ_AHEAD_BYTES = 256 * 1024
_WHOLE_FILE_READ_AHEAD_BYTES = 8 * 1024 * 1024


def open_file(path: str, read_ahead: int = _READ_AHEAD_BYTES) -> BinaryIO:
    """Open a file for reading bytes.

    :param path: local, or an address such as ``s3://connection@bucket/key``.
    :param read_ahead: how many bytes more than asked for are read from object storage at once.
    :raises OSError: if it cannot be opened; others as the object storage's library has them.
    """
    file: BinaryIO = _place(path).open("rb", block_size=read_ahead)  # type: ignore[no-untyped-call]
    return file


@contextmanager
def file_of(reference: Reference) -> Iterator[BinaryIO]:
    """Give the file of a reference, open for reading bytes, to be read several times.

    :param reference: the file, which is copied to this machine first if it is on object storage; or some of its rows,
        for which it is not, unless it says what the whole file is to be.
    :raises NexthinkInputError: if it cannot be read, or has changed.
    """
    if reference.start is not None and not reference.is_checked:
        with opened(reference.path, open_file) as file:
            pass
        with open_file(reference.path) as file:
            yield file
        return
    with _local_copy(reference.path) as (file, stored):
        reference.check_unchanged(stored.size, stored.checksum)
        yield file


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


class StoredFile(NamedTuple):
    """A file that was written, or read: how to recognize it again.

    :param size: in bytes.
    :param checksum: BLAKE2b of its bytes, 128 bits, in hexadecimal digits.
    """

    size: int
    checksum: str


def write_table(path: str, columns: Mapping[str, list[Any]]) -> StoredFile:
    """Write an outcome table, all of it or nothing, in the place of one that is there.

    :param path: where to; its suffix says in which format.
    :param columns: the table, column by column.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    return store(path, lambda made: write_file(made, path, columns))


def store(path: str, write: Callable[[BinaryIO], object]) -> StoredFile:
    """Write a file, all of it or nothing, in the place of one that is there.

    :param path: where to, local or on object storage.
    :param write: writes it to an open file.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    with tempfile.TemporaryFile() as made:
        write(made)
        return publish(path, made)


def publish(path: str, made: BinaryIO) -> StoredFile:
    """Copy a file that is complete to where it belongs, in the place of one that is there.

    :param path: where to, local or on object storage.
    :param made: an open file; all of it is copied.
    :raises OSError: if it cannot be written; others as the object storage's library has them.
    """
    target = _place(path)
    made.seek(0)
    if target.protocol not in _LOCAL:
        with target.open("wb") as file:  # type: ignore[no-untyped-call]
            return _copied(made, file)
    place = Path(target.path).absolute()
    part = place.with_name(f".{uuid.uuid4().hex}.part")  # of its own: two tasks may write to one place
    try:
        with part.open("xb") as file:
            stored = _copied(made, file)
        part.replace(place)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return stored


def exists(path: str) -> bool:
    """Return whether a file is there.

    :param path: local or on object storage.
    """
    return bool(_place(path).exists())


def remove(path: str) -> None:
    """Delete a file if it is there. Errors are ignored.

    :param path: local or on object storage.
    """
    with suppress(Exception):
        _place(path).unlink(missing_ok=True)


@contextmanager
def _local_copy(path: str) -> Iterator[tuple[BinaryIO, StoredFile]]:
    """Give a file, open for reading bytes; one on object storage is copied to this machine first."""
    with tempfile.TemporaryFile() as made:
        with opened(path, partial(open_file, read_ahead=_WHOLE_FILE_READ_AHEAD_BYTES)) as file:
            is_local = _place(path).protocol in _LOCAL
            stored = _copied(file, None if is_local else made)
        if not is_local:
            made.seek(0)
            yield made, stored
            return
    with open_file(path) as file:
        yield file, stored


def _copied(source: BinaryIO, target: BinaryIO | None) -> StoredFile:
    digest, size = hashlib.blake2b(digest_size=16), 0
    while piece := source.read(_PIECE_BYTES):
        if target is not None:
            target.write(piece)
        digest.update(piece)
        size += len(piece)
    return StoredFile(size, digest.hexdigest())


def _place(path: str) -> ObjectStoragePath:
    return ObjectStoragePath(os.path.expanduser(path))  # noqa: PTH111 - a Path would take an address apart
