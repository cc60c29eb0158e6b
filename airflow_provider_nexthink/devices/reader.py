"""Read a list of devices in any form into device rows: one uid and one name for each row.

Cells are kept as they came; the plan decides which rows can be sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from airflow_provider_nexthink.devices.columns import NAME_COLUMNS, UID_COLUMNS, find_uid_and_name, normalize_label
from airflow_provider_nexthink.devices.frames import is_table, loader_hint, table_columns, type_name
from airflow_provider_nexthink.devices.references import Reference, check_no_overlap
from airflow_provider_nexthink.devices.rows import (
    HINT,
    as_column,
    as_list,
    check_cells,
    check_fields,
    fields_of,
    is_container,
    mapping_cells,
    mapping_columns,
    not_a_list,
)
from airflow_provider_nexthink.devices.statuses import find_statuses, reason_columns, status_columns
from airflow_provider_nexthink.devices.text import Lines, is_path_object, read_reference, read_text_or_file
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Presence, Status

# The keys of to_dict("split") and to_dict("tight") of pandas.
_SPLIT_KEYS = frozenset({"index", "columns", "data", "index_names", "column_names"})
_UID = re.compile(r"[0-9a-f-]{32,36}", re.IGNORECASE)


@dataclass(frozen=True)
class DeviceRows:
    """The devices of a list, with their cells as they came.

    :param uids: one cell for each row.
    :param names: one cell for each row.
    :param uid_column: the name of the column with the uids; None for a list without rows.
    :param name_column: the name of the column with the names; None for a list without rows.
    :param statuses: if the list is an outcome table, the status of each row, None for a row without one; else None.
    :param reasons: likewise for the reasons, as they came.
    """

    uids: list[Any]
    names: list[Any]
    uid_column: str | None = None
    name_column: str | None = None
    statuses: list[Status | Presence | None] | None = None
    reasons: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.uids)


@dataclass(frozen=True)
class Columns:
    """Cells by column.

    :param labels: the names of the columns.
    :param length: how many rows there are.
    :param cells: returns the cells of the column at a position.
    """

    labels: list[Any]
    length: int
    cells: Callable[[int], list[Any]]


def read_devices(
    devices: object,
    *,
    columns: Sequence[str] | None = None,
    uid_column: str | None = None,
    name_column: str | None = None,
    open_file: Callable[[str], BinaryIO] | None = None,
) -> DeviceRows:
    """Read the devices of a list, one row for each of its rows, in its order.

    :param devices: a DataFrame (pandas, Modin, polars) or an Arrow table; a list of mappings, or of rows that name
        their fields (named tuples, DB-API Rows); a list of tuples or lists with ``columns``; one such row (one device);
        a mapping of columns to lists, or a frame as ``to_dict`` and ``to_json`` of pandas write it; JSON text of one of
        these, JSON Lines, or CSV text with a header; the path of a .csv, .parquet or .jsonl file, as text, ``Path`` or
        ``ObjectStoragePath``; a reference to rows of a Parquet file, ``{"path", "start", "stop"}``, or a manifest;
        or a list of such lists, as mapped tasks return them. Device rows are returned as they are.
    :param columns: the names of the columns, for rows that do not name them themselves.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :param open_file: opens a path for reading bytes; None to use fsspec.
    :return: the devices.
    :raises NexthinkInputError: if it is none of these, or the columns are missing or ambiguous.
    """
    if isinstance(devices, DeviceRows):
        return devices
    tables = tables_of(devices, columns=columns, uid_column=uid_column, name_column=name_column, open_file=open_file)
    return _joined([_pick(table, uid_column, name_column) for table in tables])


def tables_of(
    devices: object,
    *,
    columns: Sequence[str] | None = None,
    uid_column: str | None = None,
    name_column: str | None = None,
    open_file: Callable[[str], BinaryIO] | None = None,
) -> Iterator[Lines | Columns | DeviceRows]:
    """Read a list in any form into tables: one, or several if it is a list of lists. Each is to be read at once.

    :param devices: as ``read_devices`` takes it.
    :param columns: the names of the columns, for rows that do not name them themselves.
    :param uid_column: which column holds the uid, and tells columns from rows in a nested mapping; None to find it.
    :param name_column: likewise for the name.
    :param open_file: opens a path for reading bytes; None to use fsspec.
    :raises NexthinkInputError: if it is none of the forms.
    """
    if isinstance(devices, str) or is_path_object(devices):
        devices = read_text_or_file(devices, open_file)
    if (reference := Reference.of(devices)) is not None:
        devices = read_reference(reference, open_file)
    if isinstance(devices, Mapping):
        devices = unfold(devices, uid_column, name_column)
    elif fields_of(devices) is not None and not is_table(devices):
        devices = [devices]
    if columns is not None and (isinstance(devices, Columns | Lines) or is_table(devices)):
        raise NexthinkInputError("columns is for rows that are tuples: this list names its own columns.")
    if isinstance(devices, Columns | Lines | DeviceRows):
        yield devices
        return
    if is_table(devices):
        labels, cells = table_columns(devices)
        yield Columns(labels, len(devices), cells)
        return
    if (rows := as_list(devices)) is None:
        raise not_a_list(devices)
    if columns is not None and _is_one_row(rows, columns):
        rows = [rows]
    first = next((row for row in rows if row is not None), None)
    if not rows:
        return
    if is_whole_list(first):
        read = partial(tables_of, columns=columns, uid_column=uid_column, name_column=name_column, open_file=open_file)
        check_no_overlap(_references_in(rows))
        try:
            for part in rows:
                if part is not None:
                    yield from read(part)
        except RecursionError:
            raise NexthinkInputError(f"devices is lists within lists, nested too deeply. {HINT}") from None
    elif columns is not None:
        _check_tuples(rows, columns)
        yield Lines(columns, rows)
    elif (fields := fields_of(first)) is not None:
        check_fields(rows, fields)
        yield Lines(fields, rows)
    else:
        labels = mapping_columns(rows)
        if "path" in labels and any(Reference.of(row) is not None for row in rows):
            raise NexthinkInputError(f"devices has rows and files in one list: put the rows into a list. {HINT}")
        yield Columns(labels, len(rows), mapping_cells(rows, labels))


def _references_in(rows: Iterable[Any]) -> Iterator[Reference]:
    """Return the references in a list, or in lists in it, as those of several tasks come."""
    for each in rows:
        is_list_of_references = isinstance(each, list) and each and Reference.of(each[0]) is not None
        for part in each if is_list_of_references else [each]:
            if (reference := Reference.of(part)) is not None:
                yield reference


def pick_rows(
    labels: Sequence[Any], rows: Iterable[Sequence[Any]], uid_column: str | None, name_column: str | None
) -> DeviceRows:
    """Read device rows from rows of cells, keeping only the columns that matter.

    :param labels: the names of the columns.
    :param rows: the rows, each with its cells in that order.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if the columns are missing or ambiguous.
    """
    labels = list(labels)
    uid, name = find_uid_and_name(labels, uid_column, name_column)
    uids: list[Any] = []
    names: list[Any] = []
    others: dict[int, list[Any]] = {
        at: [] for at in (*status_columns(labels, uid, name), *reason_columns(labels, uid, name))
    }
    for row in rows:
        uids.append(row[uid])
        names.append(row[name])
        for at, cells in others.items():
            cells.append(row[at])
    if not uids:
        return DeviceRows([], [])
    check_cells(uids, names)
    statuses, reasons = find_statuses(labels, uid, name, others.__getitem__)
    return DeviceRows(uids, names, str(labels[uid]), str(labels[name]), statuses, reasons)


def unfold(mapping: Mapping[Any, Any], uid_column: str | None, name_column: str | None) -> list[Any] | Columns | Lines:
    """Read a mapping: one device, columns of cells, or a frame as ``to_dict`` and ``to_json`` write it.

    :param mapping: the mapping.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if it is none of these, or ambiguous.
    """
    values = list(mapping.values())
    if mapping.keys() >= {"columns", "data"} and mapping.keys() <= _SPLIT_KEYS and all(map(_is_list, values)):
        _check_tuples(mapping["data"], mapping["columns"])
        return Lines(mapping["columns"], mapping["data"]) if mapping["data"] else []
    if mapping.keys() == {"schema", "data"} and isinstance(mapping["schema"], Mapping) and _is_list(mapping["data"]):
        return list(mapping["data"])
    if not any(map(is_container, values)):
        return [dict(mapping)] if mapping else []
    if all(isinstance(each, Mapping) for each in values):
        return _unfold_nested(mapping, uid_column, name_column)
    columns = [as_column(cells, label) for label, cells in mapping.items()]
    if all(cells is None for cells in columns):  # one device, with an object among its values
        return [dict(mapping)]
    if len({-1 if cells is None else len(cells) for cells in columns}) > 1:
        raise NexthinkInputError(f"devices is a mapping of columns that are not all lists of the same length. {HINT}")
    return Columns(list(mapping), len(columns[0] or ()), [cells or [] for cells in columns].__getitem__)


def _unfold_nested(
    mapping: Mapping[Any, Mapping[Any, Any]], uid_column: str | None, name_column: str | None
) -> list[Any] | Columns:
    """Read ``{column: {row: cell}}`` or ``{row: {column: cell}}``; the labels of the columns decide which it is."""
    first = next(iter(mapping.values()))
    asked = (uid_column, name_column)

    def names_columns(labels: Iterable[Any]) -> bool:
        known = UID_COLUMNS | NAME_COLUMNS | {normalize_label(label) for label in asked if label}
        return any(label in asked or normalize_label(label) in known for label in labels if label is not None)

    if not names_columns(mapping):
        return list(mapping.values())
    if names_columns(first):
        raise NexthinkInputError(
            "devices is a mapping of mappings whose outer and inner keys both name a uid or a name: which "
            f"keys are the columns is ambiguous. Pass a list of mappings, such as to_dict('records') gives. {HINT}"
        )
    if any(cells.keys() != first.keys() for cells in mapping.values()):
        raise NexthinkInputError(f"devices is a mapping of columns whose rows differ. {HINT}")
    return Columns(list(mapping), len(first), [[cells[row] for row in first] for cells in mapping.values()].__getitem__)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_one_row(rows: list[Any], columns: Sequence[str]) -> bool:
    """Tell whether these are the cells of one row, and not a list of rows."""
    if len(rows) != len(columns) or not rows:
        return False
    if len(rows) > 1 and all(isinstance(cell, str) and _UID.fullmatch(cell) for cell in rows):
        return False  # a list of uids
    if any(isinstance(cell, str) and (cell.lstrip()[:1] in ("[", "{") or "\n" in cell) for cell in rows):
        return False  # texts that each hold a list
    return all(isinstance(cell, str) or not isinstance(cell, Iterable) for cell in rows) and any(
        cell is not None for cell in rows
    )


def is_whole_list(value: Any) -> bool:
    """Tell whether this is a list of rows, such as one of several mapped tasks returned, and not a row.

    :param value: an item of a list.
    """
    if is_table(value) or isinstance(value, DeviceRows) or is_path_object(value):
        return True
    if isinstance(value, Mapping):
        return Reference.of(value) is not None or (bool(value) and all(map(is_container, value.values())))
    if not isinstance(value, list) or fields_of(value) is not None:
        return False
    return not value or isinstance(value[0], Mapping | list | tuple) or fields_of(value[0]) is not None


def _joined(parts: list[DeviceRows]) -> DeviceRows:
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else DeviceRows([], [])
    labels = {normalize_label(part.uid_column): part.uid_column for part in parts}
    if len(labels) > 1:
        raise NexthinkInputError(
            f"The lists in devices hold the uid in {' and '.join(repr(label) for label in labels.values())}: these may "
            "be different kinds of uid. Set uid_column to the right one, and give every list that column."
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


def _check_tuples(rows: Sequence[Any], columns: Sequence[Any]) -> None:
    named = ", ".join(map(str, columns))
    for number, row in enumerate(rows):
        if not isinstance(row, tuple | list) and fields_of(row) is None:
            raise NexthinkInputError(
                f"Row {number} of devices is {type_name(row)}; columns is for rows that are tuples or lists."
                f"{loader_hint(row)} {HINT}"
            )
        if len(row) != len(columns):
            raise NexthinkInputError(
                f"Row {number} of devices has {len(row)} values for the {len(columns)} columns {named}."
            )


def _pick(table: Lines | Columns | DeviceRows, uid_column: str | None, name_column: str | None) -> DeviceRows:
    """Read device rows from a table."""
    if isinstance(table, DeviceRows):
        return table
    if isinstance(table, Lines):
        return pick_rows(table.labels, table.rows, uid_column, name_column)
    if not table.length:
        return DeviceRows([], [])
    labels, cells = table.labels, table.cells
    uid, name = find_uid_and_name(labels, uid_column, name_column)
    uids, names = cells(uid), cells(name)
    check_cells(uids, names)
    statuses, reasons = find_statuses(labels, uid, name, cells)
    return DeviceRows(uids, names, str(labels[uid]), str(labels[name]), statuses, reasons)
