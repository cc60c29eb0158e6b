"""Find a column of a list by its name."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from airflow_provider_nexthink.devices.frames import is_table, load_reader, loader_hint, table_columns, type_name
from airflow_provider_nexthink.devices.rows import as_list, check_fields, fields_of, mapping_cells, mapping_columns
from airflow_provider_nexthink.exceptions import NexthinkInputError

# Compared without case and separators: `device.uid`, `Device UID` and `DEVICE_UID` are the same.
UID_COLUMNS = frozenset({"uid", "deviceuid", "collectoruid", "devicecollectoruid"})
NAME_COLUMNS = frozenset({"name", "devicename"})

# What is no header, as in a damaged file, may be of any length.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


class MissingColumnError(NexthinkInputError):
    """A list has no column for what is sought."""


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
    :raises NexthinkInputError: if the column is missing or ambiguous, or ``rows`` is none of these.
    """
    rows = load_reader(rows)
    if is_table(rows):
        labels, cells = table_columns(rows)
        return _column(labels, cells, what, column, known) if labels or len(rows) else Column(None, [])
    if (values := as_list(rows)) is None:
        raise NexthinkInputError(
            f"This is {type_name(rows)}, where a list is needed: a DataFrame, a list of mappings, or a list "
            f"of {what}s.{loader_hint(rows)}"
        )
    columns = list(getattr(rows, "columns", []))  # an NQL result names its columns even if it has no rows
    rows = values
    first = next((row for row in rows if row is not None), None)
    if isinstance(first, Mapping) or (columns and first is None):
        labels = mapping_columns(rows) or columns
        return _column(labels, mapping_cells(rows, labels), what, column, known)
    if (fields := fields_of(first)) is not None:
        check_fields(rows, fields)
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
    position = find_position(labels, what, column, known)
    return Column(str(labels[position]), cells(position))


def uid_kind(label: str | None) -> str | None:
    """Return which kind of uid a column says it holds, the device's or the Collector's; None if it does not say.

    :param label: the name of the column.
    """
    bare = normalize_label(label)
    return "collector" if "collector" in bare else "device" if bare == "deviceuid" else None


def find_uid_and_name(labels: list[Any], uid_column: str | None, name_column: str | None) -> tuple[int, int]:
    """Return the positions of the column with the uid and of the one with the name.

    :param labels: the names of the columns.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if one of them is missing or ambiguous, or both are the same column.
    """
    uid = find_position(labels, "uid", uid_column, UID_COLUMNS)
    name = find_position(labels, "name", name_column, NAME_COLUMNS)
    if uid == name:
        raise NexthinkInputError(f"uid_column and name_column are both {labels[uid]!r}.")
    return uid, name


def find_position(labels: list[Any], what: str, asked: str | None, known: Collection[str]) -> int:
    """Return the position of the one column that holds the uid, or the name.

    :param labels: the names of the columns.
    :param what: what the column holds, for the error.
    :param asked: the name of the column; None to find it.
    :param known: the names it may have, normalized.
    :raises NexthinkInputError: if there is no such column, or more than one.
    """
    option = "by" if what == "kind" else f"{what}_column"  # days by kind: see filters.not_seen_for
    if asked is None:
        found = [position for position, label in enumerate(labels) if normalize_label(label) in known]
    else:
        found = [position for position, label in enumerate(labels) if label == asked]
        normal = normalize_label(asked)
        found = found or [at for at, label in enumerate(labels) if normal and normalize_label(label) == normal]
    if len(found) == 1:
        return found[0]
    there = ", ".join(_SHORT.repr(str(label)) for label in labels[:20]) or "none"
    if not found and asked is None:
        raise MissingColumnError(
            f"devices has no column for the {what}. Its columns are {there}: set {option} to the right one."
        )
    if not found:
        raise MissingColumnError(f"devices has no column {asked!r} ({option}). Its columns are {there}.")
    both = " and ".join(repr(str(labels[position])) for position in found)
    more = (
        " The uid of a device and the uid of its Collector differ: the docs say how to find out which one "
        "your tenant deletes by."
        if what == "uid"
        else ""
    )
    raise NexthinkInputError(f"devices has {both}: set {option} to the one that holds the {what}.{more}")


def normalize_label(label: object) -> str:
    """Return the name of a column without case, separators and width (NFKC); empty for one that is not text.

    :param label: the name.
    """
    if not isinstance(label, str):
        return ""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", label)).casefold()
