"""Frames of every library are read, or refused with the call that loads them; never read as a list of labels."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import dataset

from airflow_provider_nexthink.devices.columns import UID_COLUMNS, find_column
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for, still_stale

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(2)]
COLUMNS: dict[str, list[Any]] = {"uid": UIDS, "name": ["PC-1", "PC-2"], "days_since_last_seen": [100, 1]}
ROWS = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*COLUMNS.values(), strict=True)]


def frame_class(module: str, name: str, *loaders: str, **attributes: Any) -> Any:
    """Return an object that iterates over its labels, as frames do, with the loaders of its library's class."""

    def iterate(self: Any) -> Iterator[str]:
        return iter(COLUMNS)

    def load(self: Any) -> Any:
        raise AssertionError("this would run the query")

    members = {
        "__module__": module,
        "__iter__": iterate,
        "__len__": lambda self: len(UIDS),
        "__getitem__": lambda self, key: COLUMNS[key],
        "keys": lambda self: list(COLUMNS),
        "columns": list(COLUMNS),
        **dict.fromkeys(loaders, load),
        **attributes,
    }
    return type(name, (), members)()


# Module, class and methods as the libraries have them. What is installed here is tested with the library itself.
OTHER_LIBRARIES: dict[str, tuple[Any, str]] = {
    "dask": (frame_class("dask.dataframe.dask_expr._collection", "DataFrame", "compute"), "dask DataFrame.*compute()"),
    "dask series": (frame_class("dask.dataframe.dask_expr._collection", "Series", "compute"), "dask Series.*compute()"),
    "cuDF": (frame_class("cudf.core.dataframe", "DataFrame", "to_pandas"), "cudf DataFrame.*to_pandas()"),
    "pandas on Spark": (frame_class("pyspark.pandas.frame", "DataFrame", "to_pandas"), "pyspark.*to_pandas()"),
    "Spark": (frame_class("pyspark.sql.classic.dataframe", "DataFrame", "toPandas", "collect"), r"toPandas()"),
    "Snowpark": (frame_class("snowflake.snowpark.dataframe", "DataFrame", "collect", "to_pandas"), r"to_pandas()"),
    "BigQuery": (frame_class("bigframes.dataframe", "DataFrame", "to_pandas"), r"bigframes DataFrame.*to_pandas()"),
    "ibis": (frame_class("ibis.expr.types.relations", "Table", "to_pandas", "execute"), r"ibis Table.*to_pandas()"),
    "daft": (frame_class("daft.dataframe.dataframe", "DataFrame", "collect", "to_pandas"), r"to_pandas()"),
    "vaex": (frame_class("vaex.dataframe", "DataFrame", "to_pandas_df"), r"to_pandas_df()"),
    "a library of tomorrow": (frame_class("tomorrow", "Grid"), "tomorrow Grid"),
    "another, with a schema": (frame_class("tomorrow", "Grid", schema={"uid": str}), "tomorrow Grid"),
    "DuckDB": (duckdb.sql("SELECT 'a' AS uid, 'b' AS name"), r"duckdb DuckDBPyRelation.*\.df\(\)"),
    "polars, lazy": (pl.LazyFrame(COLUMNS), r"polars LazyFrame.*\.collect\(\)"),
    "an Arrow dataset": (dataset.dataset(pa.table(COLUMNS)), r"\.to_table\(\)"),
    "groups": (pd.DataFrame(COLUMNS).groupby("uid"), "pandas DataFrameGroupBy"),
    "groups of polars": (pl.DataFrame(COLUMNS).group_by("uid"), "polars GroupBy"),
}  # fmt: skip


@pytest.fixture(params=OTHER_LIBRARIES)
def other_frame(request: pytest.FixtureRequest) -> tuple[Any, str]:
    frame, says = OTHER_LIBRARIES[request.param]
    return frame, says.replace("()", r"\(\)") if r"\(" not in says else says


def test_read_devices_frame_of_another_library_is_refused_with_its_loader(other_frame: tuple[Any, str]) -> None:
    frame, says = other_frame
    for devices in (frame, [frame], [frame, frame], (each for each in [frame]), {"uid": frame, "name": frame}):
        with pytest.raises(NexthinkInputError, match=says):
            read_devices(devices)
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(frame, columns=["uid", "name", "days_since_last_seen"])


def test_filters_frame_of_another_library_is_refused_on_either_side(other_frame: tuple[Any, str]) -> None:
    frame, says = other_frame
    calls: list[Callable[[], Any]] = [
        lambda: anti_join(ROWS, frame),
        lambda: anti_join(ROWS, frame, on="name"),
        lambda: anti_join(frame, ROWS),
        lambda: still_stale(ROWS, frame),
        lambda: still_stale(frame, ROWS),
        lambda: not_seen_for(frame, 90),
        lambda: newest_of_each_name(frame),
        lambda: find_column(frame, "uid", None, UID_COLUMNS),
        lambda: anti_join(ROWS, [frame]),
        lambda: anti_join(ROWS, iter([frame, frame]), on="name"),
        lambda: anti_join(frame, [frame]),
    ]
    for call in calls:
        with pytest.raises(NexthinkInputError, match=says):
            call()


def test_read_devices_iterable_of_unknown_type_is_refused() -> None:
    class Labels:
        def __iter__(self) -> Iterator[str]:
            return iter(["uid", "name"])

    with pytest.raises(NexthinkInputError, match="Labels"):
        read_devices(Labels())
    with pytest.raises(NexthinkInputError, match="Labels"):
        anti_join(ROWS, Labels(), on="name")


class ModinLike:
    """The part of pandas' interface that is used, under the module of Modin, which needs an older pandas."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    columns = property(lambda self: self._frame.columns)
    iloc = property(lambda self: self._frame.iloc)
    loc = property(lambda self: self._frame.loc)

    def __len__(self) -> int:
        return len(self._frame)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._frame)


ModinLike.__name__, ModinLike.__module__ = "DataFrame", "modin.pandas.dataframe"


def test_modin_frame_is_read_and_filtered() -> None:
    frame: Any = ModinLike(pd.DataFrame(COLUMNS))
    assert read_devices(frame) == DeviceRows(UIDS, COLUMNS["name"], "uid", "name")
    assert anti_join(ROWS, frame) == []
    assert list(anti_join(frame, UIDS[:1])["uid"]) == UIDS[1:]


ARROW: dict[str, Callable[[], Any]] = {
    "table": lambda: pa.table(COLUMNS),
    "record batch": lambda: pa.record_batch(COLUMNS),
    "struct array": lambda: pa.table(COLUMNS).to_struct_array(),
    "reader": lambda: pa.table(COLUMNS).to_reader(max_chunksize=1),
}


@pytest.mark.parametrize("form", ARROW)
def test_filters_arrow_data_keeps_rows_and_form(form: str) -> None:
    def rows(data: Any) -> Any:
        return data.to_pylist()

    new = ARROW[form]
    assert rows(not_seen_for(new(), 90).stale) == ROWS[:1]
    assert rows(not_seen_for(new(), 90).recent) == ROWS[1:]
    assert rows(newest_of_each_name(new()).single) == ROWS
    assert rows(anti_join(new(), [UIDS[0]])) == ROWS[1:]
    assert rows(still_stale(new(), ROWS[:1])) == ROWS[:1]
    assert rows(anti_join(new(), new())) == []
    assert anti_join(ROWS, new()) == []
    assert still_stale(ROWS, new()) == ROWS
    assert read_devices(new()) == DeviceRows(UIDS, COLUMNS["name"], "uid", "name")


def test_filters_arrow_table_as_wide_as_it_is_long_is_filtered_by_row() -> None:
    table = pa.table({"uid": UIDS, "name": ["a", "b"]})
    assert anti_join(table, [UIDS[0]]).to_pylist() == [{"uid": UIDS[1], "name": "b"}]


@pytest.mark.parametrize(
    "shape",
    [
        iter,
        lambda rows: (row for row in rows),
        collections.deque,
        collections.UserList,
        tuple,
        lambda rows: dict(enumerate(rows)).values(),
        lambda rows: np.array(rows, dtype=object),
        lambda rows: pd.Series(rows),
        lambda rows: pl.Series(rows),
    ],
)
def test_filters_iterators_and_collections_are_read_once_and_keep_every_row(shape: Callable[[Any], Any]) -> None:
    assert list(not_seen_for(shape(ROWS), 90).stale) == ROWS[:1]
    assert list(not_seen_for(shape(ROWS), 90).recent) == ROWS[1:]
    assert list(newest_of_each_name(shape(ROWS)).single) == ROWS
    assert list(anti_join(shape(ROWS), shape(ROWS[:1]))) == ROWS[1:]
    assert list(still_stale(shape(ROWS), shape(ROWS[:1]))) == ROWS[:1]
    assert read_devices(shape(ROWS)) == DeviceRows(UIDS, COLUMNS["name"], "uid", "name")


@pytest.mark.parametrize(
    "values",
    [
        np.array,
        pd.Series,
        pd.Index,
        pl.Series,
        pa.array,
        lambda uids: pa.chunked_array([uids]),
        collections.deque,
        iter,
    ],
)
def test_anti_join_array_of_uids_is_subtracted(values: Callable[[Any], Any]) -> None:
    assert anti_join(ROWS, values(UIDS[:1])) == ROWS[1:]
    assert anti_join(ROWS, values(["pc-1"]), on="name") == ROWS[1:]


@pytest.mark.parametrize("used_up", [iter([]), map(str, []), pa.table(COLUMNS)[:0].to_reader()])
def test_anti_join_iterator_without_rows_is_an_error(used_up: Any) -> None:
    with pytest.raises(NexthinkInputError, match="iterator.*no rows.*Pass a list"):
        anti_join(ROWS, used_up)


def test_anti_join_frame_with_rows_but_no_columns_is_an_error() -> None:
    for others in (pd.DataFrame(COLUMNS).set_index("uid")[[]], pa.table(COLUMNS).select([])):
        with pytest.raises(NexthinkInputError, match="no column for the uid"):
            anti_join(ROWS, others)


def test_filters_list_in_a_cell_of_the_other_list_is_an_error_that_names_it() -> None:
    with pytest.raises(NexthinkInputError, match="Row 1 of the list has a list as its uid"):
        anti_join(ROWS, [{"uid": UIDS[0]}, {"uid": UIDS}])


WHOLE_LISTS: dict[str, Any] = {
    "columns": [COLUMNS],
    "columns, twice": [COLUMNS, COLUMNS],
    "lists": [ROWS[:1], ROWS[1:]],
    "frames": [pd.DataFrame(COLUMNS)],
    "frames of polars": [pl.DataFrame(COLUMNS), pl.DataFrame(COLUMNS)],
    "a chunked CSV": lambda: iter([pd.DataFrame(COLUMNS)]),
    "Arrow tables": [pa.table(COLUMNS)],
    "to_dict()": [pd.DataFrame(COLUMNS).to_dict()],
}


@pytest.mark.parametrize("form", WHOLE_LISTS)
def test_filters_lists_within_a_list_are_refused_and_never_kept_whole(form: str) -> None:
    def new() -> Any:
        return WHOLE_LISTS[form]() if callable(WHOLE_LISTS[form]) else WHOLE_LISTS[form]

    calls: list[Callable[[], Any]] = [
        lambda: anti_join(new(), ROWS),
        lambda: anti_join(new(), ROWS, on="name"),
        lambda: anti_join(ROWS, new()),
        lambda: still_stale(new(), ROWS),
        lambda: still_stale(ROWS, new()),
        lambda: newest_of_each_name(new()),
    ]
    for call in calls:
        with pytest.raises(NexthinkInputError):
            call()
