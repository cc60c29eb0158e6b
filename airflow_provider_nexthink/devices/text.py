"""Read devices from text (JSON, JSON Lines, CSV) and from the file that a path names."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

from airflow_provider_nexthink.devices.columns import find_uid_and_name
from airflow_provider_nexthink.devices.formats import (
    STORAGE_HINT,
    SUFFIXES,
    is_path,
    read_csv,
    read_json_lines,
    redacted_path,
    repeated_key,
    suffix_of,
)
from airflow_provider_nexthink.devices.references import Reference
from airflow_provider_nexthink.devices.rows import HINT
from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkRetryableError
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

_ADDRESS = re.compile(r"[a-z][a-z0-9]*://\S+")
_LASTING_ERRORS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
_FOLDER_HINT = "Of a folder, pass the files in it: devices=[{'path': ...}, ...]."


@dataclass(frozen=True)
class Lines:
    """Rows of cells in the order of their labels."""

    labels: Sequence[Any]
    rows: Iterable[Sequence[Any]]


def is_path_object(value: object) -> TypeGuard[os.PathLike[str]]:
    """Tell whether this is a path: a ``Path``, or one that knows its file system, such as ``ObjectStoragePath``.

    :param value: anything.
    """
    # On Airflow 3.3, ObjectStoragePath is no longer an os.PathLike.
    is_like_path = all(callable(getattr(type(value), name, None)) for name in ("open", "read_bytes"))
    return isinstance(value, os.PathLike) or is_like_path


def read_text_or_file(devices: str | os.PathLike[str], open_file: Callable[[str], BinaryIO] | None) -> object:
    """Read the devices that text holds, or those of the file that a path names.

    :param devices: JSON, JSON Lines, CSV, the path of a file as text, or a path object.
    :param open_file: opens a path for reading bytes; None for fsspec.
    :return: the lines of a CSV, an Arrow table, or what the JSON holds.
    :raises NexthinkInputError: if it is none of these, or the file cannot be read.
    """
    if not isinstance(devices, str):
        opened = getattr(devices, "open", None)  # a path that opens itself
        return read_reference(Reference(str(devices)), (lambda _: opened("rb")) if opened else open_file)
    devices = devices.removeprefix("\ufeff")
    text = devices.strip()
    if is_path(text) or _ADDRESS.fullmatch(text):
        return read_reference(Reference(text), open_file)
    lines = list(io.StringIO(text, newline=""))  # splitlines() would also split at characters that a name may have
    if len(lines) > 1 and text.startswith("{") and not _is_json(text):
        return read_json_lines(lines, "The text in devices")
    if not text.startswith(("[", "{")) and (len(lines) > 1 or _is_header(text)):
        # Not the stripped text: a blank may belong to a name, and a tab may precede an empty cell.
        return Lines(*read_csv(io.StringIO(devices, newline=""), "The text in devices"))
    return _parse_json(text)


def read_reference(reference: Reference, open_file: Callable[[str], BinaryIO] | None) -> object:
    """Read the devices of a file, or some of its rows.

    :param reference: the file.
    :param open_file: opens a path for reading bytes; None for fsspec.
    :return: the lines of a CSV, an Arrow table, or a list of mappings.
    :raises NexthinkInputError: if it cannot be read, or is not the file that was meant.
    """
    with opened(reference.path, open_file or _open_with_fsspec) as file:
        table = reference.read(file)
    return Lines(*table) if isinstance(table, tuple) else table


@contextmanager
def opened(path: str, open_file: Callable[[str], BinaryIO]) -> Iterator[BinaryIO]:
    """Open a file with devices.

    :param path: of the file.
    :param open_file: opens a path for reading bytes.
    :raises NexthinkInputError: if it cannot be opened or read, and will not be.
    :raises NexthinkRetryableError: if its storage may be back later. Object storage has other errors, too.
    """
    shown = redacted_path(path)
    if not suffix_of(path):
        raise NexthinkInputError(
            f"devices is the path {shown}: its name must end in {' or '.join(SUFFIXES)}. {_FOLDER_HINT}"
        )
    try:
        try:
            file = open_file(path)
        except (ImportError, ValueError) as error:  # an unknown protocol, or its library is not installed
            raise NexthinkInputError(f"The file {shown} cannot be opened: {error}. {STORAGE_HINT}") from None
        with file:
            if _is_folder(file):
                raise IsADirectoryError
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise NexthinkInputError(f"The file {shown} does not exist.") from None
    except IsADirectoryError:
        raise NexthinkInputError(f"{shown} is a folder. {_FOLDER_HINT}") from None
    except OSError as error:
        if error.errno in _LASTING_ERRORS:
            raise NexthinkInputError(f"The file {shown:.200} cannot be read: {error.strerror}.") from None
        # Object storage refuses without a number, and not for good: a token has expired, a clock is wrong.
        raise NexthinkRetryableError(
            f"The file {shown} cannot be read just now: {str(error) or type(error).__name__}. A retry reads it "
            "again; if this stays, check the connection and the storage."
        ) from error


def _is_folder(file: BinaryIO) -> bool:
    """Tell whether this is a folder on object storage, which reads as an empty file."""
    details = getattr(file, "details", None)
    return isinstance(details, dict) and details.get("type") == "directory"


def _open_with_fsspec(path: str) -> BinaryIO:
    import fsspec

    file: BinaryIO = fsspec.open(path, "rb").open()
    return file


def _is_header(line: str) -> bool:
    """Tell whether a single line of text is the header of a CSV without rows."""
    try:
        find_uid_and_name(read_csv([line], "the text in devices")[0], None, None)
    except NexthinkInputError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except RepeatedKeyError as error:
        raise NexthinkInputError(f"The text in devices {repeated_key(error)}") from None
    except ValueError:
        return False
    return True


def _parse_json(text: str) -> object:
    try:
        value = read_json(text)
    except RepeatedKeyError as error:
        raise NexthinkInputError(f"The text in devices {repeated_key(error)}") from None
    except ValueError:
        hint = " It looks like Python, not JSON: pass the task's .output instead of a template." * (
            "'" in text[:200] and text.lstrip().startswith(("[", "{"))
        )
        raise NexthinkInputError(f"devices is text that is not JSON ({text[:60]!r}...).{hint} {HINT}") from None
    if isinstance(value, str):
        raise NexthinkInputError(f"devices is JSON that is only a string. {HINT}")
    return value
