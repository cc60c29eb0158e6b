"""Select rows from a list of devices in any form, so that the result can be read as the list itself can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import compress, islice
from typing import Any, BinaryIO

from airflow_provider_nexthink.devices.frames import filter_table, is_table
from airflow_provider_nexthink.devices.reader import Columns, is_whole_list, unfold
from airflow_provider_nexthink.devices.rows import as_list, fields_of, not_a_list
from airflow_provider_nexthink.devices.text import Lines, is_path_object, read_text_or_file
from airflow_provider_nexthink.exceptions import NexthinkInputError


def load_devices(
    devices: object,
    *,
    uid_column: str | None = None,
    name_column: str | None = None,
    open_file: Callable[[str], BinaryIO] | None = None,
) -> Any:
    """Return a list of devices in a form that can be read more than once, with all its columns.

    Tables, lists of rows and mappings of columns keep their form; the rows of text and of a file become mappings, or
    an Arrow table.

    :param devices: as ``read_devices`` takes it, but for tuples with ``columns``.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :param open_file: opens a path for reading bytes; None to use fsspec.
    :return: a table, a list of rows, a mapping of columns, or a list of these.
    :raises NexthinkInputError: if it is none of these.
    """
    if isinstance(devices, str) or is_path_object(devices):
        devices = read_text_or_file(devices, open_file)
    if isinstance(devices, Mapping):
        devices = unfold(devices, uid_column, name_column)
    elif fields_of(devices) is not None and not is_table(devices):
        devices = [devices]
    if isinstance(devices, Columns):
        return {label: devices.cells(at) for at, label in enumerate(devices.labels)}
    if isinstance(devices, Lines):
        return _as_mappings(devices)
    if is_table(devices):
        return devices
    if (rows := as_list(devices)) is None:
        raise not_a_list(devices)
    if not is_whole_list(next((row for row in rows if row is not None), None)):
        return rows
    return [
        load_devices(part, uid_column=uid_column, name_column=name_column, open_file=open_file)
        for part in rows
        if part is not None
    ]


def select_rows(devices: Any, keep: Iterable[bool]) -> Any:
    """Return the rows that are to be kept, in the form of the list.

    :param devices: what ``load_devices`` returned.
    :param keep: one entry for each row, in the order in which ``read_devices`` reads them.
    """
    return _select(devices, iter(keep))


def _select(devices: Any, keep: Iterator[bool]) -> Any:
    if is_table(devices):
        return filter_table(devices, list(islice(keep, len(devices))))
    if isinstance(devices, Mapping):
        mask = list(islice(keep, len(next(iter(devices.values())))))
        return {label: list(compress(cells, mask)) for label, cells in devices.items()}
    if devices and is_whole_list(devices[0]):
        return [_select(part, keep) for part in devices]
    return list(compress(devices, islice(keep, len(devices))))


def _as_mappings(lines: Lines) -> list[dict[Any, Any]]:
    labels = list(lines.labels)
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise NexthinkInputError(f"devices has the column {twice!r} twice: which one counts is ambiguous. Rename one.")
    return [dict(zip(labels, row, strict=True)) for row in lines.rows]
