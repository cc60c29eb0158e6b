"""Device rows: whatever a Dag has becomes two lists of the same length, the uids and the names.

Nothing is judged here: cells stay as they came. What can be sent is decided in the plan.
"""

from __future__ import annotations

import io
import os
import re
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple, TypeGuard

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
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import KEPT, Presence, Status
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

HINT = (
    "Pass a DataFrame (pandas, polars), an Arrow table, a list of mappings such as [{'uid': ..., 'name': ...}], a list "
    "of tuples together with columns=[...], JSON text of one of these, CSV text with a header, the path of a "
    f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or the XCom (task.output) of a task that returns one."
)

# Compared without case and separators: `device.uid`, `Device UID` and `DEVICE_UID` are one name.
UID_COLUMNS = frozenset({"uid", "deviceuid", "collectoruid", "devicecollectoruid"})
NAME_COLUMNS = frozenset({"name", "devicename"})
STATUS_COLUMNS = frozenset({"status", "devicestatus"})

_REQUEST_ID = "requestid"
_ONLY_OF_AN_OUTCOME = frozenset({_REQUEST_ID, "traceid", "submittedat"})
# How a merge or a join names a column that both sides have: `status_x`, `status_right`, `status.1`.
_SUFFIX = re.compile(r"(?:[\W_]+(?:x|y|l|r|left|right|old|new|\d+))+[\W_]*$", re.IGNORECASE)
_REASONS_OF_KEPT = (
    "excluded by ",
    "the list has it as ",
    "another row of the list has this device as ",
    "the same device stands earlier in the list",
    "the list gives this uid two names",
)

_MODULES = ("pandas", "polars", "pyarrow")
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
    if _is_table(devices):
        if columns is not None:
            raise NexthinkInputError("columns is for rows that are tuples: a DataFrame names its own columns.")
        labels, cells = _table_columns(devices)
        return _pick(labels, len(devices), cells, uid_column, name_column)
    if _library_of(devices, "StructArray", "ChunkedArray"):
        devices = _as_list(devices)
    if isinstance(devices, _Lines):
        return pick_rows(devices.labels, devices.rows, uid_column, name_column)
    if isinstance(devices, Mapping):
        devices = _rows_of_mapping(devices)
    elif _fields_of(devices) is not None:
        devices = [devices]
    if isinstance(devices, bytes) or not isinstance(devices, Iterable):
        raise NexthinkInputError(f"devices is {_type_name(devices)}. {HINT}")
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
    if (fields := _fields_of(first)) is not None:
        _check_fields(rows, fields)
        return pick_rows(fields, rows, uid_column, name_column)
    labels = _mapping_columns(rows)
    return _pick(labels, len(rows), _mapping_cells(rows, labels), uid_column, name_column)


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
    uid, name = _find_both(labels, uid_column, name_column)
    uids: list[Any] = []
    names: list[Any] = []
    others: dict[int, list[Any]] = {at: [] for at in _status_columns(labels, uid, name)}
    if (reason := _reason_column(labels, uid, name)) is not None:
        others[reason] = []
    for row in rows:
        uids.append(row[uid])
        names.append(row[name])
        for at, cells in others.items():
            cells.append(row[at])
    if not uids:
        return DeviceRows([], [])
    statuses, reasons = _find_statuses(labels, uid, name, others.__getitem__)
    return DeviceRows(uids, names, str(labels[uid]), str(labels[name]), statuses, reasons)


class Column(NamedTuple):
    """One column of a list.

    :param label: its name; None in a list of single values, which have none.
    :param cells: its cells, as they came.
    """

    label: str | None
    cells: list[Any]


def find_column(rows: Any, what: str, column: str | None, known: Collection[str]) -> Column:
    """Find one column of a list.

    :param rows: a DataFrame (pandas, polars) or an Arrow table; a list of mappings, or of rows that name their fields;
        a list of rows with one value each; or a collection of single values.
    :param what: what the column holds, for the error.
    :param column: the name of the column; None to find it.
    :param known: the names it may have, in lower case and without separators.
    :raises NexthinkInputError: if it is not there or not clear, or this is no such list.
    """
    if _is_table(rows):
        labels, cells = _table_columns(rows)
        return _column(labels, cells, what, column, known) if labels else Column(None, [])
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise NexthinkInputError(
            f"This is {_type_name(rows)}, where a list is needed: a DataFrame, a list of mappings, or a list "
            f"of {what}s."
        )
    columns = list(getattr(rows, "columns", []))  # of a result without rows, which names them all the same
    rows = list(rows)
    first = next((row for row in rows if row is not None), None)
    if isinstance(first, Mapping) or (columns and first is None):
        labels = _mapping_columns(rows) or columns
        return _column(labels, _mapping_cells(rows, labels), what, column, known)
    if (fields := _fields_of(first)) is not None:
        _check_fields(rows, fields)
        return _column(list(fields), lambda at: [row[at] for row in rows], what, column, known)
    if isinstance(first, tuple | list):
        if any(not isinstance(row, tuple | list) or len(row) != 1 for row in rows):
            raise NexthinkInputError(
                f"The rows of this list have several values and no names: which one is the {what}? Pass one value a "
                "row, or mappings."
            )
        rows = [row[0] for row in rows]
    return Column(None, rows)


def _column(
    labels: list[Any], cells: Callable[[int], list[Any]], what: str, column: str | None, known: Collection[str]
) -> Column:
    position = _find(labels, what, column, known)
    return Column(str(labels[position]), cells(position))


def uid_kind(label: str | None) -> str | None:
    """Return which kind of uid a column says it holds, the device's or the Collector's; None if it does not say.

    :param label: the name of the column.
    """
    bare = _bare(label)
    return "collector" if "collector" in bare else "device" if bare == "deviceuid" else None


def dataframe_library(devices: object) -> str | None:
    """Return of which library a DataFrame is, without importing that; None if it is none.

    :param devices: anything.
    """
    return _library_of(devices, "DataFrame")


def _library_of(value: object, *names: str) -> str | None:
    """Return which library's class of one of these names a value is, without importing that library."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if kind.__name__ in names and library in _MODULES:
            return library
    return None


def _is_table(devices: object) -> TypeGuard[Any]:
    if _library_of(devices, "LazyFrame"):
        raise NexthinkInputError("devices is a polars LazyFrame, which has no rows yet: pass its .collect().")
    return _library_of(devices, "DataFrame", "Table", "RecordBatch") is not None


def _table_columns(table: Any) -> tuple[list[Any], Callable[[int], list[Any]]]:
    """Return the names of a table's columns, and what gives the cells of one."""
    library = _library_of(table, "DataFrame", "Table", "RecordBatch")
    if library == "pandas":
        return list(table.columns), lambda at: list(table.iloc[:, at].tolist())
    if library == "polars":
        return list(table.columns), lambda at: list(table.to_series(at).to_list())
    return list(table.schema.names), lambda at: list(table.column(at).to_pylist())


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
        _find_both(read_csv([line], "the text in devices")[0], None, None)
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
    columns = [_as_list(cells) for cells in mapping.values()]
    if all(cells is None for cells in columns):
        return [dict(mapping)]
    if len({-1 if cells is None else len(cells) for cells in columns}) > 1:
        raise NexthinkInputError(f"devices is a mapping of columns that are not all lists of one length. {HINT}")
    return [dict(zip(mapping, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _as_list(cells: Any) -> Sequence[Any] | None:
    """Return a column (a list, a Series, an array) as a list, or None if it is a single cell."""
    if isinstance(cells, list | tuple):
        return cells
    if isinstance(cells, str | bytes | Mapping) or not hasattr(cells, "__len__"):
        return None
    read = next((getattr(cells, how) for how in ("to_pylist", "to_list", "tolist") if hasattr(cells, how)), None)
    return read() if read else None


def _fields_of(row: Any) -> tuple[Any, ...] | None:
    """Return the columns of a row that names them itself (a named tuple, a DB-API Row), or None."""
    if isinstance(row, str | bytes | Mapping):
        return None
    for attribute in ("_fields", "__fields__"):  # named tuples and SQLAlchemy; Spark and Databricks
        if isinstance(fields := getattr(row, attribute, None), tuple | list):
            return tuple(fields)
    if hasattr(row, "cursor_description"):  # pyodbc
        return tuple(column[0] for column in row.cursor_description)
    if callable(getattr(row, "keys", None)) and hasattr(row, "__getitem__") and not _library_of(row, "Series"):
        return tuple(row.keys())  # sqlite3, psycopg2
    return None


def _check_fields(rows: list[Any], fields: tuple[Any, ...]) -> None:
    for number, row in enumerate(rows):
        if (its := _fields_of(row)) != fields:
            what = _type_name(row) if its is None else f"a row with the columns {', '.join(map(str, its))}"
            raise NexthinkInputError(
                f"Row {number} of devices is {what}; the rows before have {', '.join(map(str, fields))}. {HINT}"
            )


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
    if _is_table(value) or isinstance(value, DeviceRows):
        return True
    if isinstance(value, Mapping):
        return bool(value) and all(_as_list(cells) is not None for cells in value.values())
    if not isinstance(value, list) or _fields_of(value) is not None:
        return False
    return not value or isinstance(value[0], Mapping | list | tuple) or _fields_of(value[0]) is not None


def _joined(parts: list[DeviceRows]) -> DeviceRows:
    parts = [part for part in parts if len(part)]
    if not parts:
        return DeviceRows([], [])
    labels = {_bare(part.uid_column): part.uid_column for part in parts}
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


def _mapping_columns(rows: list[Any]) -> list[Any]:
    """Return every key that occurs, in the order of its first row."""
    labels: dict[Any, None] = {}
    seen: Any = None
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            hint = " For rows that are tuples, say columns=['uid', 'name']." * isinstance(row, tuple | list)
            raise NexthinkInputError(f"Row {number} of devices is {_type_name(row)}, not a mapping.{hint} {HINT}")
        keys = row.keys()
        if keys != seen:  # rows mostly repeat the keys of the row before
            labels.update(dict.fromkeys(keys))
            seen = keys
    return list(labels)


def _mapping_cells(rows: list[Any], labels: list[Any]) -> Callable[[int], list[Any]]:
    def cells(position: int) -> list[Any]:
        label = labels[position]
        return [row.get(label) for row in rows]

    return cells


def _check_tuples(rows: list[Any], columns: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, tuple | list) and _fields_of(row) is None:
            raise NexthinkInputError(
                f"Row {number} of devices is {_type_name(row)}; columns is for rows that are tuples or lists. {HINT}"
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
    uid, name = _find_both(labels, uid_column, name_column)
    statuses, reasons = _find_statuses(labels, uid, name, cells)
    return DeviceRows(cells(uid), cells(name), str(labels[uid]), str(labels[name]), statuses, reasons)


def _find_both(labels: list[Any], uid_column: str | None, name_column: str | None) -> tuple[int, int]:
    uid = _find(labels, "uid", uid_column, UID_COLUMNS)
    name = _find(labels, "name", name_column, NAME_COLUMNS)
    if uid == name:
        raise NexthinkInputError(f"uid_column and name_column are both {labels[uid]!r}.")
    return uid, name


def is_missing(cell: Any) -> bool:
    """Tell None, NaN and what pandas has in their place, without importing pandas.

    :param cell: a cell of a table.
    """
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


def _status_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the columns that may hold the status of an outcome table."""
    return [at for at, label in enumerate(labels) if _stem(label).endswith("status") and at not in (uid, name)]


def _reason_column(labels: list[Any], uid: int, name: int) -> int | None:
    found = [at for at, label in enumerate(labels) if _stem(label) == "reason" and at not in (uid, name)]
    return min(found, key=lambda at: _bare(labels[at]) != "reason", default=None)


def _find_statuses(
    labels: list[Any], uid: int, name: int, cells: Callable[[int], list[Any]]
) -> tuple[list[Status | Presence | None] | None, list[Any] | None]:
    """Return the statuses and the reasons of an outcome table, or None for a list that is no such table.

    A ``status`` may mean something else in a list of another origin. A list is an outcome table if it has a request id
    too, if no other words are in its column than those of an outcome, or if one of them is a word that keeps a device
    from being sent. In doubt it is one: what an outcome table excluded would be sent otherwise.
    """
    found = {_stem(label) for label in labels}
    has_request_id = _REQUEST_ID in found
    columns = {at: _Statuses(cells(at)) for at in _status_columns(labels, uid, name)}
    named = [at for at in columns if _stem(labels[at]) in STATUS_COLUMNS]
    telling = [at for at in named if columns[at].known or columns[at].kept is not None]
    # Another column that ends in "status" (`deletion_status`, but also `certificate_status`) counts by its words only.
    telling += [
        at
        for at, column in columns.items()
        if at not in named
        and (column.is_whole or (not telling and (column.kept is not None or (column.known and has_request_id))))
    ]
    reason = _reason_column(labels, uid, name)
    reasons = None if reason is None else cells(reason)
    if not telling and (
        (not named and found & _ONLY_OF_AN_OUTCOME)
        or any(_text_of(cell).startswith(_REASONS_OF_KEPT) for cell in reasons or ())
    ):
        raise NexthinkInputError(
            "devices looks like an outcome table, but has no column 'status' with the words of one: which of its "
            f"devices are not to be sent is not known. Its columns are {', '.join(map(repr, labels[:20]))}. Give it "
            "the status again; or, to plan all its rows afresh, pass their uid and name only."
        )
    is_outcome = has_request_id or any(columns[at].is_whole or columns[at].kept is not None for at in telling)
    if not is_outcome:
        return None, None
    if len(telling) > 1:
        raise NexthinkInputError(
            f"devices has {' and '.join(repr(labels[at]) for at in telling)}, which both hold words of an outcome "
            "table: which one is the status is ambiguous. Leave the other one out."
        )
    chosen = telling[0] if telling else next((at for at in named if columns[at].unknown is not None), None)
    if chosen is None:  # nothing but blank cells
        return None, None
    statuses = columns[chosen]
    if (row := statuses.unknown) is not None:
        kept = statuses.kept
        why = "" if kept in (None, row) else f" Row {kept} has {_shorten(statuses.cells[kept])}, and is not to be sent."
        raise NexthinkInputError(
            f"Row {row} of devices has {_shorten(statuses.cells[row])} in its column {labels[chosen]!r}: that "
            f"is no status of an outcome table, which takes {', '.join((*Status, *Presence))}.{why} Mend row {row}; "
            "or, if the column means something else, leave it out."
        )
    return statuses.words, reasons


def _shorten(cell: Any) -> str:
    return reprlib.repr(cell)[:60]


class _Statuses:
    """The cells of a column that may hold the status.

    :param cells: the cells.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.cells = cells
        self.words: list[Status | Presence | None] = []
        self.known = False  # whether any of them is a status
        self.unknown: int | None = None  # the first row whose cell is none
        self.kept: int | None = None  # the first row with a word that keeps a device from being sent
        read: dict[Any, Status | Presence | None] = {}
        for row, cell in enumerate(cells):
            try:
                word = read[cell]
            except KeyError:
                word = read[cell] = self._read(row, cell)
            except (TypeError, ValueError):  # not hashable
                word = self._read(row, cell)
            self.words.append(word)

    def _read(self, row: int, cell: Any) -> Status | Presence | None:
        """Return the word that a cell is, at its first row."""
        word = _STATUSES.get(_bare(cell))
        if word is not None:
            self.known = True
        elif self.unknown is None and not _is_blank(cell):
            self.unknown = row
        if self.kept is None and (word in KEPT or (word is None and _KEPT_WORD.search(_text_of(cell)))):
            self.kept = row
        return word

    @property
    def is_whole(self) -> bool:
        """Whether there are words of an outcome, and no others."""
        return self.known and self.unknown is None


def _is_blank(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def _text_of(cell: Any) -> str:
    """Return a cell as text, as far as it has any: databases give bytes, enums have their name in it."""
    if isinstance(cell, bytes | bytearray | memoryview):
        cell = bytes(cell).decode(errors="replace")
    return unicodedata.normalize("NFKC", str(cell))


def _find(labels: list[Any], what: str, asked: str | None, known: Collection[str]) -> int:
    """Return the position of the one column that holds the uid, or the name."""
    if asked is None:
        found = [position for position, label in enumerate(labels) if _bare(label) in known]
    else:
        found = [position for position, label in enumerate(labels) if label == asked]
        found = found or [at for at, label in enumerate(labels) if _bare(asked) and _bare(label) == _bare(asked)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(repr(str(label)) for label in labels[:20]) or "none"
    if not found and asked is None:
        raise NexthinkInputError(
            f"devices has no column for the {what}. Its columns are {there}: name the right one with {what}_column."
        )
    if not found:
        raise NexthinkInputError(f"devices has no column {asked!r} ({what}_column). Its columns are {there}.")
    both = " and ".join(repr(str(labels[position])) for position in found)
    more = (
        " The uid of a device and the uid of its Collector are not the same: the docs say how to find out which one "
        "your tenant deletes by."
        if what == "uid"
        else ""
    )
    raise NexthinkInputError(f"devices has {both}: say with {what}_column which one holds the {what}.{more}")


def _bare(label: object) -> str:
    return re.sub(r"[\W_]+", "", label).casefold() if isinstance(label, str) else ""


def _stem(label: object) -> str:
    """Return a label as ``_bare`` does, without what a merge has put behind it."""
    return _bare(_SUFFIX.sub("", label)) if isinstance(label, str) else ""


_STATUSES: dict[str, Status | Presence] = {_bare(word): word for word in (*Status, *Presence)}
# A word of its own, wherever it is: `EXCLUDED (VIP)`, `Status.EXCLUDED`, `rejected_by_owner`.
_KEPT_WORD = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(sorted(KEPT))})(?![^\W\d_])", re.IGNORECASE)


def _type_name(value: object) -> str:
    if value is None:
        return "None: the task before returned nothing"
    return f"a {type(value).__name__}"
