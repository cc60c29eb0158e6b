"""Rows one by one: mappings, rows that name their fields, columns of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_provider_nexthink.devices.formats import SUFFIXES
from airflow_provider_nexthink.devices.frames import library_of
from airflow_provider_nexthink.exceptions import NexthinkInputError

HINT = (
    "Pass a DataFrame (pandas, polars), an Arrow table, a list of mappings such as [{'uid': ..., 'name': ...}], a list "
    "of tuples together with columns=[...], JSON text of one of these, CSV text with a header, the path of a "
    f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or the XCom (task.output) of a task that returns one."
)


def as_list(cells: Any) -> Sequence[Any] | None:
    """Return a column (a list, a Series, an array) as a list, or None if it is a single cell."""
    if isinstance(cells, list | tuple):
        return cells
    if isinstance(cells, str | bytes | Mapping) or not hasattr(cells, "__len__"):
        return None
    read = next((getattr(cells, how) for how in ("to_pylist", "to_list", "tolist") if hasattr(cells, how)), None)
    return read() if read else None


def fields_of(row: Any) -> tuple[Any, ...] | None:
    """Return the columns of a row that names them itself (a named tuple, a DB-API Row), or None."""
    if isinstance(row, str | bytes | Mapping):
        return None
    for attribute in ("_fields", "__fields__"):  # named tuples and SQLAlchemy; Spark and Databricks
        if isinstance(fields := getattr(row, attribute, None), tuple | list):
            return tuple(fields)
    if hasattr(row, "cursor_description"):  # pyodbc
        return tuple(column[0] for column in row.cursor_description)
    if callable(getattr(row, "keys", None)) and hasattr(row, "__getitem__") and not library_of(row, "Series"):
        return tuple(row.keys())  # sqlite3, psycopg2
    return None


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
    """Return every key that occurs, in the order of its first row."""
    labels: dict[Any, None] = {}
    seen: Any = None
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            hint = " For rows that are tuples, say columns=['uid', 'name']." * isinstance(row, tuple | list)
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


def type_name(value: object) -> str:
    """Return the type of a value, for an error.

    :param value: anything.
    """
    if value is None:
        return "None: the task before returned nothing"
    return f"a {type(value).__name__}"
