"""Recognize and read DataFrames, Arrow data and arrays without importing their libraries.

Only the libraries named here are read. Iterating over a frame of any other library would give its column labels, so
those are refused; the error names the call that loads their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, TypeGuard, cast

from airflow_provider_nexthink.exceptions import NexthinkInputError

_LIKE_PANDAS = ("pandas", "modin")
_LIBRARIES = (*_LIKE_PANDAS, "polars", "pyarrow")

# Methods that load the rows of a frame, most common first. `df` precedes `to_table`, which in DuckDB creates a table.
_LOADERS = (
    "to_pandas",
    "toPandas",
    "compute",
    "collect",
    "df",
    "to_table",
    "read_all",
    "to_pandas_df",
    "as_data_frame",
    "to_dataframe",
    "execute",
)


def dataframe_library(devices: object) -> str | None:
    """Return the library of a DataFrame, without importing it; None for anything else.

    :param devices: anything.
    """
    return _library_of(devices, "DataFrame")


def is_table(devices: object) -> TypeGuard[Any]:
    """Tell whether this is a DataFrame or an Arrow table that can be read.

    :param devices: anything.
    """
    return _library_of(devices, "DataFrame", "Table", "RecordBatch") is not None


def is_arrow(devices: object) -> bool:
    """Tell whether this is Arrow data: a table, a record batch or an array.

    :param devices: anything.
    """
    return _library_of(devices, "Table", "RecordBatch", "Array", "ChunkedArray") == "pyarrow"


def load_reader(devices: Any) -> Any:
    """Return the table of an Arrow reader, which can be read only once; anything else as it is.

    :param devices: anything.
    """
    return devices.read_all() if _library_of(devices, "RecordBatchReader") else devices


def table_columns(table: Any) -> tuple[list[Any], Callable[[int], list[Any]]]:
    """Return the names of a table's columns, and a function that gives the cells of one of them.

    :param table: a DataFrame or an Arrow table, as ``is_table`` recognizes it.
    """
    library = _library_of(table, "DataFrame", "Table", "RecordBatch")
    if library in _LIKE_PANDAS:
        return list(table.columns), lambda at: list(table.iloc[:, at].tolist())
    if library == "polars":
        return list(table.columns), lambda at: list(table.to_series(at).to_list())
    labels = list(table.schema.names)
    return labels, lambda at: arrow_cells(table.column(at), f"The column {labels[at]!r} of devices")


def filter_table(table: Any, mask: list[bool]) -> Any:
    """Return the rows of a table that the mask selects, in the same form.

    :param table: a DataFrame or Arrow data.
    :param mask: one entry for each row.
    """
    if is_arrow(table):
        import pyarrow as pa

        return table.filter(pa.array(mask, pa.bool_()))
    return table.filter(mask) if dataframe_library(table) == "polars" else table.loc[mask]


def array_values(values: Any) -> list[Any] | None:
    """Return the values of a Series, an index or an array as a list; None for anything else.

    :param values: anything.
    """
    if not is_array(values):
        return None
    if hasattr(values, "to_pylist"):
        return arrow_cells(values, "The array")
    read: Any = values.tolist() if hasattr(values, "tolist") else values.to_list()
    return read if isinstance(read, list) else None  # NumPy scalars have that method too


def is_array(values: object) -> bool:
    """Tell whether this is a Series, an index or an array.

    :param values: anything.
    """
    known = any(_root(kind) in (*_LIBRARIES, "numpy") for kind in type(values).__mro__)
    methods = ("to_pylist", "tolist", "to_list")
    return known and hasattr(type(values), "__iter__") and any(hasattr(values, method) for method in methods)


def loader_hint(value: Any) -> str:
    """Return a sentence that says how to load the rows of an object of another library; empty if it has no such method.

    :param value: anything.
    """
    loader = _loader(cast("Hashable", type(value)))
    return f" It may be a frame that has not loaded its rows yet: pass its .{loader}() instead." if loader else ""


def type_name(value: object) -> str:
    """Return the type of a value, with the library it is from, for an error.

    :param value: anything.
    """
    if value is None:
        return "None: the task before returned nothing"
    root = _root(type(value)).lstrip("_")
    name = type(value).__name__ if root in ("builtins", "main__") else f"{root} {type(value).__name__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


@cache
def _loader(kind: Hashable) -> str | None:
    return next((each for each in _LOADERS if callable(getattr(kind, each, None))), None)


def arrow_cells(array: Any, what: str) -> list[Any]:
    """Return the values of Arrow data.

    :param array: an array of any kind.
    :param what: its name, for errors.
    :raises NexthinkInputError: if Python cannot hold them.
    """
    import pyarrow as pa

    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        raise NexthinkInputError(f"{what} has text that is not UTF-8: save it as UTF-8.") from None
    except (pa.ArrowException, ValueError, OverflowError) as error:  # such as a time before the year 1
        raise NexthinkInputError(f"{what} has values that Python cannot hold: {error}.") from None


def _library_of(value: object, *names: str) -> str | None:
    """Return the library of a value whose class, or a base class, has one of these names."""
    for kind in type(value).__mro__:
        if kind.__name__ in names and _root(kind) in _LIBRARIES:
            return _root(kind)
    return None


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]
