"""Rows and collections of them: mappings, rows that name their fields, sequences, iterators, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from inspect import getattr_static
from types import NoneType
from typing import Any
from uuid import UUID

from airflow_provider_nexthink.devices.formats import SUFFIXES
from airflow_provider_nexthink.devices.frames import array_values, is_array, loader_hint, type_name
from airflow_provider_nexthink.exceptions import NexthinkInputError

HINT = (
    "Pass a DataFrame (pandas, polars), an Arrow table, a list of mappings such as [{'uid': ..., 'name': ...}], a list "
    "of tuples together with columns=[...], JSON text of one of these, CSV text with a header, the path of a "
    f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or the XCom (task.output) of a task that returns one."
)

_TEXT = str | bytes | bytearray | memoryview
_COLLECTIONS = (Sequence, Set, Iterator, ValuesView)
_SINGLE = {str, NoneType, UUID, int, float}


def as_list(values: Any) -> list[Any] | None:
    """Return the items of a collection as a list; None for anything else, such as a frame of another library.

    :param values: a sequence, a set, an iterator (which this reads to its end), a Series or an array.
    """
    if isinstance(values, list):
        return values
    if isinstance(values, _TEXT | Mapping):
        return None
    return list(values) if isinstance(values, _COLLECTIONS) else array_values(values)


def as_column(cells: Any, label: Any) -> list[Any] | None:
    """Return the cells of a column as a list; None for a single cell.

    :param cells: a collection that has an order, or anything else.
    :param label: the name of the column, for the error.
    :raises NexthinkInputError: if it is a set, or a frame of another library.
    """
    if isinstance(cells, Set) and not isinstance(cells, KeysView):
        raise NexthinkInputError(
            f"devices is a mapping whose column {label!r} is {type_name(cells)}, which has no order: which uid belongs "
            f"to which name is ambiguous. {HINT}"
        )
    if (read := as_list(cells)) is None and is_container(cells) and not isinstance(cells, Mapping):
        raise NexthinkInputError(
            f"devices is a mapping whose column {label!r} is {type_name(cells)}.{loader_hint(cells)} {HINT}"
        )
    return read


def is_container(cell: object) -> bool:
    """Tell whether a cell holds several values, or may hold them, rather than one.

    :param cell: a cell of a table.
    """
    return (isinstance(cell, Iterable) or bool(loader_hint(cell))) and not isinstance(cell, _TEXT)


def check_single_values(cells: list[Any], what: str, owner: str = "devices", first: int = 0) -> None:
    """Check that a column has one value in each row: a list in one cell would count as a single device.

    :param cells: the cells of the column.
    :param what: what the column holds, for the error.
    :param owner: the name of the list, for the error.
    :param first: the number of the first of these rows, for the error.
    :raises NexthinkInputError: if a row has a list, a mapping, an array, a frame or the like.
    """
    if set(map(type, cells)) <= _SINGLE:
        return
    for number, cell in enumerate(cells, first):
        if is_container(cell):
            raise NexthinkInputError(
                f"Row {number} of {owner} has {type_name(cell)} as its {what}, and not one value.{loader_hint(cell)} "
                f"Give each device a row of its own. {HINT}"
            )


def check_cells(uids: list[Any], names: list[Any], first: int = 0) -> None:
    """Check that each row has one uid, and that no cell is an XCom: only Airflow can resolve it.

    :param uids: the cells of the column with the uid.
    :param names: the cells of the column with the name.
    :param first: the number of the first of these rows, for the error.
    :raises NexthinkInputError: if they are not so.
    """
    check_single_values(uids, "uid", first=first)
    if any(hasattr(kind, "iter_references") for kind in {*map(type, uids), *map(type, names)}):
        raise NexthinkInputError(
            "devices has an XCom as a uid or a name that Airflow has not resolved: it finds those in lists, tuples and "
            "mappings only. Pass one of these, or build the list in a task."
        )


def not_a_list(value: object) -> NexthinkInputError:
    """Return the error for what cannot be read as a list of devices.

    :param value: what was given.
    """
    return NexthinkInputError(f"devices is {type_name(value)}.{loader_hint(value)} {HINT}")


def fields_of(row: Any) -> tuple[Any, ...] | None:
    """Return the columns of a row that names them itself (a named tuple, a DB-API Row), or None.

    :param row: anything.
    """
    if isinstance(row, str | bytes | Mapping):
        return None
    for attribute in ("_fields", "__fields__"):  # named tuples and SQLAlchemy; Spark and Databricks
        if isinstance(fields := getattr(row, attribute, None), tuple | list):
            return tuple(fields)
    if _is_frame(row):  # frames have keys too, and lazy objects may have any attribute
        return None
    if hasattr(row, "cursor_description"):  # pyodbc
        return tuple(column[0] for column in row.cursor_description)
    if callable(getattr(row, "keys", None)) and hasattr(row, "__getitem__"):
        return tuple(row.keys())  # sqlite3, psycopg2
    return None


def _is_frame(row: Any) -> bool:
    """Tell frames and Series from rows."""
    return (
        is_array(row)
        or bool(loader_hint(row))
        or any(getattr_static(row, name, None) is not None for name in ("columns", "dtypes", "schema"))
    )


def check_fields(rows: list[Any], fields: tuple[Any, ...]) -> None:
    """Check that every row names the same fields.

    :param rows: the rows.
    :param fields: the fields of the first row.
    :raises NexthinkInputError: if a row names others, or none.
    """
    for number, row in enumerate(rows):
        if (its := fields_of(row)) != fields:
            what = type_name(row) if its is None else f"a row with the columns {', '.join(map(str, its))}"
            raise NexthinkInputError(
                f"Row {number} of devices is {what}; the rows before have {', '.join(map(str, fields))}. {HINT}"
            )


def mapping_columns(rows: list[Any]) -> list[Any]:
    """Return every key that occurs, in the order of first occurrence."""
    labels: dict[Any, None] = {}
    seen: Any = None
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            hint = " For rows that are tuples, say columns=['uid', 'name']." * isinstance(
                row, tuple | list
            ) or loader_hint(row)
            raise NexthinkInputError(f"Row {number} of devices is {type_name(row)}, not a mapping.{hint} {HINT}")
        keys = row.keys()
        if keys != seen:  # rows mostly repeat the keys of the row before
            labels.update(dict.fromkeys(keys))
            seen = keys
    return list(labels)


def mapping_cells(rows: list[Any], labels: list[Any]) -> Callable[[int], list[Any]]:
    """Return a function that gives the cells of one column of mappings, None where a row lacks its key.

    :param rows: the mappings.
    :param labels: the names of the columns.
    """

    def cells(position: int) -> list[Any]:
        label = labels[position]
        return [row.get(label) for row in rows]

    return cells
