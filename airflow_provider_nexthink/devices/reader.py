"""Device rows: whatever a Dag has becomes two lists of the same length, the uids and the names.

Nothing is judged here: cells stay as they came. What can be sent is decided in the plan.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from airflow_provider_nexthink.devices.columns import find_uid_and_name, normalize_label
from airflow_provider_nexthink.devices.formats import (
    STORAGE_HINT,
    SUFFIXES,
    is_path,
    read_csv,
    read_file,
    read_json_lines,
    redacted_path,
    repeated_key,
    suffix_of,
)
from airflow_provider_nexthink.devices.frames import is_table, library_of, table_columns
from airflow_provider_nexthink.devices.rows import (
    HINT,
    as_list,
    check_fields,
    fields_of,
    mapping_cells,
    mapping_columns,
    type_name,
)
from airflow_provider_nexthink.devices.statuses import find_statuses, reason_column, status_columns
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Presence, Status
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

_UID = re.compile(r"[0-9a-f-]{32,36}", re.IGNORECASE)


@dataclass(frozen=True)
class DeviceRows:
    """The devices of a list, cell by cell as they came.

    :param uids: one cell for each row.
    :param names: one cell for each row.
    :param uid_column: where the uids were found; None for a list without rows.
    :param name_column: where the names were found; None for a list without rows.
    :param statuses: of a list that is an outcome table, one for each row, None for a row without one; else None.
    :param reasons: the same for the reasons, as they came.
    """

    uids: list[Any]
    names: list[Any]
    uid_column: str | None = None
    name_column: str | None = None
    statuses: list[Status | Presence | None] | None = None
    reasons: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.uids)


class _Lines(NamedTuple):
    """Rows whose columns are named once for all of them."""

    labels: Sequence[Any]
    rows: Iterable[Sequence[Any]]


def read_devices(
    devices: object,
    *,
    columns: Sequence[str] | None = None,
    uid_column: str | None = None,
    name_column: str | None = None,
    open_file: Callable[[str], BinaryIO] | None = None,
) -> DeviceRows:
    """Read the devices of a list, one row for each of its rows, in its order.

    :param devices: a pandas or polars DataFrame or an Arrow table; a list of mappings, or of rows that name their
        fields (named tuples, DB-API Rows); a list of tuples or lists with ``columns``; one such row (one device); a
        mapping of columns to lists; JSON text of one of these, JSON Lines, or CSV text with a header; the path of a
        .csv, .parquet or .jsonl file; or a list of such lists, as mapped tasks return them. Device rows are taken as
        they are.
    :param columns: the names of the columns, for rows that do not name them themselves.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :param open_file: opens a path for reading bytes; by default fsspec does.
    :raises NexthinkInputError: if this is no such list, or the columns are not there or not clear.
    """
    if isinstance(devices, DeviceRows):
        return devices
    if isinstance(devices, str | os.PathLike):
        devices = _read_text_or_file(devices, open_file or _open_with_fsspec)
    if is_table(devices):
        if columns is not None:
            raise NexthinkInputError("columns is for rows that are tuples: a DataFrame names its own columns.")
        labels, cells = table_columns(devices)
        return _pick(labels, len(devices), cells, uid_column, name_column)
    if library_of(devices, "StructArray", "ChunkedArray"):
        devices = as_list(devices)
    if isinstance(devices, _Lines):
        return pick_rows(devices.labels, devices.rows, uid_column, name_column)
    if isinstance(devices, Mapping):
        devices = _rows_of_mapping(devices)
    elif fields_of(devices) is not None:
        devices = [devices]
    if isinstance(devices, bytes) or not isinstance(devices, Iterable):
        raise NexthinkInputError(f"devices is {type_name(devices)}. {HINT}")
    rows = list(devices)
    if columns is not None and _is_one_row(rows, columns):
        rows = [rows]
    first = next((row for row in rows if row is not None), None)
    if not rows:
        return DeviceRows([], [])
    if _is_whole_list(first):
        read = partial(
            read_devices, columns=columns, uid_column=uid_column, name_column=name_column, open_file=open_file
        )
        try:
            return _joined([read(part) for part in rows if part is not None])
        except RecursionError:
            raise NexthinkInputError(f"devices is lists within lists, too deep to read. {HINT}") from None
    if columns is not None:
        _check_tuples(rows, columns)
        return pick_rows(columns, rows, uid_column, name_column)
    if (fields := fields_of(first)) is not None:
        check_fields(rows, fields)
        return pick_rows(fields, rows, uid_column, name_column)
    labels = mapping_columns(rows)
    return _pick(labels, len(rows), mapping_cells(rows, labels), uid_column, name_column)


def pick_rows(
    labels: Sequence[Any], rows: Iterable[Sequence[Any]], uid_column: str | None, name_column: str | None
) -> DeviceRows:
    """Take the columns that matter from rows as they come.

    :param labels: the names of the columns.
    :param rows: their cells, by position.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if the columns are not there or not clear.
    """
    labels = list(labels)
    uid, name = find_uid_and_name(labels, uid_column, name_column)
    uids: list[Any] = []
    names: list[Any] = []
    others: dict[int, list[Any]] = {at: [] for at in status_columns(labels, uid, name)}
    if (reason := reason_column(labels, uid, name)) is not None:
        others[reason] = []
    for row in rows:
        uids.append(row[uid])
        names.append(row[name])
        for at, cells in others.items():
            cells.append(row[at])
    if not uids:
        return DeviceRows([], [])
    statuses, reasons = find_statuses(labels, uid, name, others.__getitem__)
    return DeviceRows(uids, names, str(labels[uid]), str(labels[name]), statuses, reasons)


def _read_text_or_file(devices: str | os.PathLike[str], open_file: Callable[[str], BinaryIO]) -> object:
    if not isinstance(devices, str):
        opened = getattr(devices, "open", None)  # a path that knows its own file system
        return _read_file(str(devices), (lambda _: opened("rb")) if opened else open_file)
    devices = devices.removeprefix("\ufeff")
    text = devices.strip()
    if is_path(text):
        return _read_file(text, open_file)
    lines = list(io.StringIO(text, newline=""))  # not splitlines(), which also cuts at what may stand in a name
    if len(lines) > 1 and text.startswith("{") and not _is_json(text):
        return read_json_lines(lines, "The text in devices")
    if not text.startswith(("[", "{")) and (len(lines) > 1 or _is_header(text)):
        # Not the stripped text: a blank may belong to a name, a TAB may end an empty cell.
        return _Lines(*read_csv(io.StringIO(devices, newline=""), "The text in devices"))
    return _parse_json(text)


def _read_file(path: str, open_file: Callable[[str], BinaryIO]) -> object:
    shown = redacted_path(path)
    if not suffix_of(path):
        raise NexthinkInputError(f"devices is the path {shown}: its name must end in {' or '.join(SUFFIXES)}.")
    try:
        try:
            opened = open_file(path)
        except (ImportError, ValueError) as error:  # of a protocol that is not known, or lacks its library
            raise NexthinkInputError(f"The file {shown} cannot be opened: {error}. {STORAGE_HINT}") from None
        with opened as file:
            table = read_file(file, path)
    except (FileNotFoundError, NotADirectoryError):
        raise NexthinkInputError(f"The file {shown} is not there.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise NexthinkInputError(f"The file {shown} cannot be read: {error.strerror}.") from None
    return _Lines(*table) if isinstance(table, tuple) else table


def _open_with_fsspec(path: str) -> BinaryIO:
    import fsspec

    file: BinaryIO = fsspec.open(path, "rb").open()
    return file


def _is_header(line: str) -> bool:
    """Tell the header of a CSV without rows from other text of one line."""
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
        raise NexthinkInputError(f"devices is JSON text of a text. {HINT}")
    return value


def _rows_of_mapping(mapping: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """Read one device, or a mapping of columns to lists of cells, as the operators return it."""
    columns = [as_list(cells) for cells in mapping.values()]
    if all(cells is None for cells in columns):
        return [dict(mapping)]
    if len({-1 if cells is None else len(cells) for cells in columns}) > 1:
        raise NexthinkInputError(f"devices is a mapping of columns that are not all lists of one length. {HINT}")
    return [dict(zip(mapping, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _is_one_row(rows: list[Any], columns: Sequence[str]) -> bool:
    """Tell one row of cells from a list of rows."""
    if len(rows) != len(columns) or not rows:
        return False
    if len(rows) > 1 and all(isinstance(cell, str) and _UID.fullmatch(cell) for cell in rows):
        return False  # a list of uids
    return all(isinstance(cell, str) or not isinstance(cell, Iterable) for cell in rows) and any(
        cell is not None for cell in rows
    )


def _is_whole_list(value: Any) -> bool:
    """Tell a list of rows, which one of several mapped tasks returned, from a row."""
    if is_table(value) or isinstance(value, DeviceRows):
        return True
    if isinstance(value, Mapping):
        return bool(value) and all(as_list(cells) is not None for cells in value.values())
    if not isinstance(value, list) or fields_of(value) is not None:
        return False
    return not value or isinstance(value[0], Mapping | list | tuple) or fields_of(value[0]) is not None


def _joined(parts: list[DeviceRows]) -> DeviceRows:
    parts = [part for part in parts if len(part)]
    if not parts:
        return DeviceRows([], [])
    labels = {normalize_label(part.uid_column): part.uid_column for part in parts}
    if len(labels) > 1:
        raise NexthinkInputError(
            f"The lists in devices hold the uid in {' and '.join(repr(label) for label in labels.values())}: these may "
            "be different kinds of uid. Say with uid_column which one is meant, and give every list that column."
        )
    are_outcomes = any(part.statuses for part in parts)
    return DeviceRows(
        [uid for part in parts for uid in part.uids],
        [name for part in parts for name in part.names],
        parts[0].uid_column,
        parts[0].name_column,
        [status for part in parts for status in part.statuses or [None] * len(part)] if are_outcomes else None,
        [reason for part in parts for reason in part.reasons or [None] * len(part)] if are_outcomes else None,
    )


def _check_tuples(rows: list[Any], columns: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, tuple | list) and fields_of(row) is None:
            raise NexthinkInputError(
                f"Row {number} of devices is {type_name(row)}; columns is for rows that are tuples or lists. {HINT}"
            )
        if len(row) != len(columns):
            raise NexthinkInputError(
                f"Row {number} of devices has {len(row)} values for the {len(columns)} columns {', '.join(columns)}."
            )


def _pick(
    labels: list[Any],
    length: int,
    cells: Callable[[int], list[Any]],
    uid_column: str | None,
    name_column: str | None,
) -> DeviceRows:
    """Take the columns that matter."""
    if not length:
        return DeviceRows([], [])
    uid, name = find_uid_and_name(labels, uid_column, name_column)
    statuses, reasons = find_statuses(labels, uid, name, cells)
    return DeviceRows(cells(uid), cells(name), str(labels[uid]), str(labels[name]), statuses, reasons)
