"""The protect list: devices that are never sent, by uid or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO
from uuid import UUID

from airflow_provider_nexthink.deletion.options import EMPTY_PROTECT
from airflow_provider_nexthink.devices.columns import (
    NAME_COLUMNS,
    UID_COLUMNS,
    MissingColumnError,
    find_position,
    uid_kind,
)
from airflow_provider_nexthink.devices.formats import is_path
from airflow_provider_nexthink.devices.frames import is_table, load_reader
from airflow_provider_nexthink.devices.identity import is_missing, lenient_uid, normal_forms
from airflow_provider_nexthink.devices.reader import Columns, DeviceRows, is_whole_list, tables_of
from airflow_provider_nexthink.devices.rows import as_list, check_cells, fields_of
from airflow_provider_nexthink.devices.text import Lines
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.strict_json import read_json

PROTECTED = "protected by the protect list"
"""The reason of a row that the list protects."""


class ProtectList:
    """Devices that are never sent. Make one with ``read_protect_list``."""

    def __init__(self) -> None:
        self.uids: set[str] = set()
        """The canonical uids."""
        self.names: set[str] = set()
        """The names, in each form in which names are compared."""
        self.uid_column: str | None = None
        """The name of a column with uids that says their kind; None if there is none."""

    def covers(self, uid: str, name: str) -> bool:
        """Return whether a device is on the list.

        :param uid: its canonical uid.
        :param name: its name.
        """
        return uid in self.uids or (bool(self.names) and not self.names.isdisjoint(normal_forms(name)))

    def check_kind(self, uid_column: str | None) -> None:
        """Check that the uids of the list can match those of the devices.

        :param uid_column: the name of the column with the uids of the devices.
        :raises NexthinkInputError: if these are uids of Collectors and those of devices, or the reverse.
        """
        kinds = {uid_kind(self.uid_column), uid_kind(uid_column)} - {None}
        if len(kinds) > 1:
            raise NexthinkInputError(
                f"The uid is in {uid_column!r} of devices and in {self.uid_column!r} of protect: these are different "
                "kinds of uid, and none would match. Give protect the same kind, or only names. This try sent nothing."
            )

    def add(self, uids: Iterable[Any], names: Iterable[Any]) -> None:
        """Add rows.

        :param uids: one cell for each row; missing or blank where a row has only a name.
        :param names: likewise.
        :raises NexthinkInputError: if a row has neither, or has one that could not match.
        """
        for row, (uid, name) in enumerate(zip(uids, names, strict=True)):
            has_uid = not is_missing(uid) and uid != ""
            if has_uid:
                if (found := lenient_uid(uid)) is None:
                    raise NexthinkInputError(f"Row {row} has {uid!r:.60} as its uid, which is not a uid.")
                self.uids.add(found)
            if not isinstance(name, str) and not is_missing(name):
                raise NexthinkInputError(
                    f"Row {row} has {name!r:.60} as its name, which is not text and could not match. Read that column "
                    "as text."
                )
            forms = [form for form in normal_forms(name) if form] if isinstance(name, str) else []
            self.names.update(forms)
            if not has_uid and not forms:
                raise NexthinkInputError(f"Row {row} has neither a uid nor a name: it protects nothing.")


def read_protect_list(
    protect: object, *, columns: Sequence[str] | None = None, open_file: Callable[[str], BinaryIO] | None = None
) -> ProtectList:
    """Read a protect list.

    :param protect: devices in any form that ``read_devices`` takes, also with only uids or only names; or a list with
        one uid or name in each row. Columns are found by name. A status in it has no effect: every row protects.
    :param columns: the names of the columns, for rows of several values that do not name them themselves.
    :param open_file: opens a path for reading bytes; None to use fsspec.
    :raises NexthinkInputError: if it has no rows, cannot be read, or has a row that protects nothing.
    """
    listed = ProtectList()
    try:
        protect = _reread(protect)
        if (values := _single_values(protect)) is not None:
            _add_values(listed, values)
        else:
            if _has_missing_part(protect):
                raise NexthinkInputError("A part of it is None: perhaps of a task that was skipped.")
            of_tuples = columns if _has_unnamed_rows(protect) else None
            for table in tables_of(protect, columns=of_tuples, open_file=open_file):
                _add_table(listed, table)
    except NexthinkInputError as error:
        raise NexthinkInputError(
            f"The protect list cannot be used: {error} It is read as devices are, but a uid or a name is enough; "
            "uid_column and name_column do not apply to it. This try sent nothing."
        ) from None
    if not listed.uids and not listed.names:
        raise NexthinkInputError(EMPTY_PROTECT)
    return listed


def _add_table(listed: ProtectList, table: Lines | Columns | DeviceRows) -> None:
    if isinstance(table, DeviceRows):
        table = Columns([table.uid_column, table.name_column], len(table), [table.uids, table.names].__getitem__)
    if isinstance(table, Lines):
        rows = list(table.rows)
        table = Columns(list(table.labels), len(rows), lambda at: [row[at] for row in rows])
    if not table.length:
        return
    uid = _position(table.labels, "uid")
    name = _position(table.labels, "name")
    if uid is None and name is None:
        labels = ", ".join(repr(str(label)) for label in table.labels[:20])
        raise NexthinkInputError(f"It has no column for the uid or the name. Its columns are {labels}.")
    nothing = [None] * table.length
    uids, names = (nothing if at is None else table.cells(at) for at in (uid, name))
    check_cells(uids, names)
    listed.add(uids, names)
    if uid is not None and uid_kind(table.labels[uid]):
        listed.uid_column = table.labels[uid]


def _position(labels: list[Any], what: str) -> int | None:
    with suppress(MissingColumnError):
        return find_position(labels, what, None, UID_COLUMNS if what == "uid" else NAME_COLUMNS)
    return None


def _reread(protect: Any) -> Any:
    """Return the list in a form that can be looked at twice: an iterator becomes a list, and so does JSON of one."""
    if isinstance(protect, str) and protect.lstrip().startswith("["):
        with suppress(ValueError):  # tables_of says what is wrong with it
            return read_json(protect)
    return list(protect) if isinstance(protect, Iterator) else load_reader(protect)


def _has_unnamed_rows(protect: Any) -> bool:
    """Return whether this is a list, also within lists, of rows that do not name their columns."""
    first = protect
    while isinstance(first, list | tuple) and fields_of(first) is None:
        first = next((cell for cell in first if cell is not None), None)
    return first is not protect and (first is None or isinstance(first, str | bytes | UUID | int | float))


def _has_missing_part(protect: object) -> bool:
    """Return whether one of several lists is missing."""
    if not isinstance(protect, list | tuple) or not is_whole_list(next(filter(_is_there, protect), None)):
        return False
    return any(part is None or _has_missing_part(part) for part in protect)


def _is_there(part: object) -> bool:
    return part is not None


def _single_values(protect: Any) -> list[Any] | None:
    """Return the values of a list that has one uid or name in each row, and no columns; None for any other list."""
    if is_table(protect) or fields_of(protect) is not None or (rows := as_list(protect)) is None:
        return None
    values = [row[0] if type(row) in (tuple, list) and len(row) == 1 else row for row in rows]
    first = next((value for value in values if value is not None), None)
    return values if isinstance(first, str | UUID) else None


def _add_values(listed: ProtectList, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, str) and ("*" in value or is_path(value.strip())):
            raise NexthinkInputError(
                f"It is a list of uids and names, and {value!r:.60} would be the name of a device. Globs belong in "
                "exclude; a path is passed by itself."
            )
    uids = [lenient_uid(value) for value in values]
    listed.add(uids, [None if uid else value for uid, value in zip(uids, values, strict=True)])
