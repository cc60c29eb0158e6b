"""Split a plan into chunks that many workers can delete in parallel, and join their outcome tables again.

A dry run decides on every row and checks the safety limits against the whole list. Its planned devices are then split
into chunks, and the outcome of each chunk is written back to the rows of the plan. Pure functions. ::

    from airflow_provider_nexthink.chunks import join_tables, split_plan

    chunks = split_plan(plan, 10_000)  # plan: the table of a dry run, by columns
    table = join_tables(plan, tables)  # tables: one for each chunk, by columns
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import ceil
from typing import Any

from airflow_provider_nexthink.deletion.options import read_whole_number
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS, Status
from airflow_provider_nexthink.version_compat import max_map_length

NO_TABLE = "its task left no outcome table, so what was sent is unknown: see the log of that task"


def split_plan(
    plan: Mapping[str, list[Any]], chunk_size: int | str, *, max_chunks: int | str | None = None
) -> list[dict[str, list[str]]]:
    """Split the planned devices into chunks of about the same size, in order.

    Rows with any other status are left out, since they are decided. No device is in two chunks.

    :param plan: the outcome table of a dry run, by columns (``return_format="columns"``).
    :param chunk_size: how many devices a chunk has at most, unless that would need more than ``max_chunks``.
    :param max_chunks: how many chunks there are at most; beyond that, chunks become larger. None for the most that
        Airflow maps a task over (``[core] max_map_length``).
    :return: the chunks, each ``{"uid": [...], "name": [...]}``; an empty list if nothing is planned.
    :raises NexthinkInputError: if the plan is not an outcome table by columns, or one of the sizes is below 1.
    """
    _check_table("The plan", plan)
    most = max_map_length() if max_chunks is None else max_chunks
    size, count = read_whole_number(chunk_size), read_whole_number(most)
    if size is None or count is None or size < 1 or count < 1:
        raise NexthinkInputError(
            f"chunk_size is {chunk_size!r} and max_chunks is {most!r}: each takes a whole number, 1 or more."
        )
    planned = [at for at, status in enumerate(plan["status"]) if status == Status.PLANNED]
    count = min(ceil(len(planned) / size), count)
    cuts = [len(planned) * number // count for number in range(count + 1)] if count else []
    return [
        {column: [plan[column][at] for at in planned[start:end]] for column in ("uid", "name")}
        for start, end in pairwise(cuts)
    ]


def join_tables(plan: Mapping[str, list[Any]], tables: Iterable[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """Write the outcome of each planned device to its row of the plan.

    A planned device that is in none of the tables becomes UNKNOWN: its task left no table, but may have sent it.

    :param plan: the outcome table of the dry run that was split into chunks, by columns.
    :param tables: the outcome tables of the chunks, by columns, in any order; read one at a time.
    :return: the outcome table, by columns: one row for every row of the list, in its order.
    :raises NexthinkInputError: if one of them is not an outcome table by columns, or a device was not planned or
        occurs twice.
    """
    _check_table("The plan", plan)
    joined = {column: list(plan[column]) for column in COLUMNS}
    open_rows = {
        uid: at
        for at, (uid, status) in enumerate(zip(plan["uid"], plan["status"], strict=True))
        if status == Status.PLANNED
    }
    for table in tables:
        _check_table("The table of a chunk", table)
        for row in zip(*(table[column] for column in COLUMNS), strict=True):
            at = open_rows.pop(row[0], None)
            if at is None:
                raise NexthinkInputError(
                    f"The tables of the chunks have the device {row[0]} more than once, or the plan does not have it: "
                    "are they of the same run?"
                )
            for column, value in zip(COLUMNS, row, strict=True):
                joined[column][at] = value
    for at in open_rows.values():
        joined["status"][at], joined["reason"][at] = Status.UNKNOWN.value, NO_TABLE
    return joined


def split_by_plan(
    plan: Mapping[str, list[Any]], table: Mapping[str, list[Any]]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Split the outcome table of a chunk into rows of planned devices and others.

    There are others if a task was cleared with a different list, and failed before it read that: its table is then
    that of its earlier tries.

    :param plan: the outcome table of the dry run that was split into chunks, by columns.
    :param table: the outcome table of a chunk, by columns.
    :return: the rows of devices that are PLANNED in the plan, and the others; both by columns.
    :raises NexthinkInputError: if one of them is not an outcome table by columns.
    """
    _check_table("The plan", plan)
    _check_table("The table of a chunk", table)
    planned = {uid for uid, status in zip(plan["uid"], plan["status"], strict=True) if status == Status.PLANNED}
    are_planned = [uid in planned for uid in table["uid"]]
    columns = {column: table[column] for column in COLUMNS}
    return (
        {
            column: [cell for cell, is_planned in zip(cells, are_planned, strict=True) if is_planned]
            for column, cells in columns.items()
        },
        {
            column: [cell for cell, is_planned in zip(cells, are_planned, strict=True) if not is_planned]
            for column, cells in columns.items()
        },
    )


def _check_table(what: str, table: object) -> None:
    if isinstance(table, Mapping) and table.keys() >= set(COLUMNS):
        columns = [table[column] for column in COLUMNS]
        if all(isinstance(cells, list) for cells in columns) and len(set(map(len, columns))) == 1:
            return
    raise NexthinkInputError(
        f"{what} is a {type(table).__name__}, and not an outcome table by columns, lists of the same length. Set "
        "return_format='columns' on the operator that made it."
    )
