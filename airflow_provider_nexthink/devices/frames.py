"""DataFrames and Arrow tables, told and read without importing their libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from airflow_provider_nexthink.exceptions import NexthinkInputError

_MODULES = ("pandas", "polars", "pyarrow")


def dataframe_library(devices: object) -> str | None:
    """Return of which library a DataFrame is, without importing that; None if it is none.

    :param devices: anything.
    """
    return library_of(devices, "DataFrame")


def library_of(value: object, *names: str) -> str | None:
    """Return which library's class of one of these names a value is, without importing that library."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if kind.__name__ in names and library in _MODULES:
            return library
    return None


def is_table(devices: object) -> TypeGuard[Any]:
    """Tell whether this is a DataFrame or an Arrow table.

    :param devices: anything.
    :raises NexthinkInputError: if it is a frame without rows yet.
    """
    if library_of(devices, "LazyFrame"):
        raise NexthinkInputError("devices is a polars LazyFrame, which has no rows yet: pass its .collect().")
    return library_of(devices, "DataFrame", "Table", "RecordBatch") is not None


def table_columns(table: Any) -> tuple[list[Any], Callable[[int], list[Any]]]:
    """Return the names of a table's columns, and what gives the cells of one."""
    library = library_of(table, "DataFrame", "Table", "RecordBatch")
    if library == "pandas":
        return list(table.columns), lambda at: list(table.iloc[:, at].tolist())
    if library == "polars":
        return list(table.columns), lambda at: list(table.to_series(at).to_list())
    return list(table.schema.names), lambda at: list(table.column(at).to_pylist())
