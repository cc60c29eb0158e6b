"""The guard against growth: a run may not be many times as large as the runs before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import floor
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select

from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError
from airflow_provider_nexthink.ledger.schema import runs

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection

    from airflow_provider_nexthink.origin import RunOrigin

RUNS_COMPARED = 10
"""So many of the latest runs are compared."""

MIN_RUNS = 3
"""With fewer runs there is no median to speak of."""

BLOCKED = "BLOCKED"


def planned_in_dag_run(connection: Connection, origin: RunOrigin, planned: int) -> int:
    """Return how many devices a run of a Dag is to send with this task, all of its mapped tasks together.

    :param connection: to the ledger.
    :param origin: the task.
    :param planned: how many devices it is to send.
    """
    if origin.dag_id is None:
        return planned
    others = _planned_by_task(connection, _of_task(origin), [origin.dag_run_id])
    return planned + sum(size for (*_, map_index), size in others.items() if map_index != origin.map_index)


def _planned_by_task(
    connection: Connection, compared: ColumnElement[bool], dag_run_ids: Sequence[str | None]
) -> dict[tuple[str | None, str | None, int | None], int]:
    """Return how many devices each task, mapped or not, was to send in these runs of the Dag, by its latest try."""
    rows = connection.execute(
        select(runs.c.dag_run_id, runs.c.task_id, runs.c.map_index, runs.c.planned)
        .where(compared, runs.c.dag_run_id.in_(dag_run_ids))
        .order_by(runs.c.id)
    )
    return {(dag_run_id, task_id, map_index): size for dag_run_id, task_id, map_index, size in rows}


def _of_dag(origin: RunOrigin) -> ColumnElement[bool]:
    return and_(runs.c.dag_id == origin.dag_id, runs.c.state != BLOCKED)


def _of_task(origin: RunOrigin) -> ColumnElement[bool]:
    return and_(_of_dag(origin), runs.c.task_id == origin.task_id)


def _sizes_before(connection: Connection, origin: RunOrigin, compared: ColumnElement[bool]) -> list[int]:
    """Return the sizes of the latest runs of the Dag that had something to send, without this one."""
    latest = connection.execute(
        select(runs.c.dag_run_id)
        .where(compared, runs.c.dag_run_id != origin.dag_run_id, runs.c.planned > 0)
        .group_by(runs.c.dag_run_id)
        .order_by(func.max(runs.c.id).desc())
        .limit(RUNS_COMPARED)
    )
    dag_run_ids = latest.scalars().all()
    totals: Counter[str | None] = Counter()
    for (dag_run_id, *_), size in _planned_by_task(connection, compared, dag_run_ids).items():
        totals[dag_run_id] += size
    return [size for size in totals.values() if size]


def check_growth(connection: Connection, origin: RunOrigin, planned: int, max_growth: float) -> str | None:
    """Abort if a run of the Dag is larger than ``max_growth`` times the median of the runs before it.

    Runs that had nothing to send do not count: any list is infinitely larger than an empty one.

    :param connection: to the ledger.
    :param origin: the task.
    :param planned: how many devices it is to send.
    :param max_growth: how many times the median is allowed.
    :return: what to log if there are too few runs to compare with.
    :raises NexthinkGuardError: if it is larger; nothing was sent by this try.
    :raises NexthinkInputError: if this is no task, which alone has runs before it.
    """
    _check_in_dag(origin)
    total = planned_in_dag_run(connection, origin, planned)
    return _compare(total, _sizes_before(connection, origin, _of_task(origin)), max_growth, "task")


def check_growth_of_plan(connection: Connection, origin: RunOrigin, planned: int, max_growth: float) -> str | None:
    """Abort if a plan is larger than ``max_growth`` times the median of what the runs of its Dag were to send.

    The task that plans sends nothing itself, so all tasks of the Dag are compared.

    :param connection: to the ledger.
    :param origin: the task that plans.
    :param planned: how many devices the others are to send.
    :param max_growth: how many times the median is allowed.
    :return: what to log if there are too few runs to compare with.
    :raises NexthinkGuardError: if it is larger; nothing was sent by this try.
    :raises NexthinkInputError: if this is no task, which alone has runs before it.
    """
    _check_in_dag(origin)
    return _compare(planned, _sizes_before(connection, origin, _of_dag(origin)), max_growth, "Dag")


def _check_in_dag(origin: RunOrigin) -> None:
    if origin.dag_id is None:
        raise NexthinkInputError("max_growth compares the runs of a task: it takes effect in a Dag only.")


def _compare(total: int, before: list[int], max_growth: float, whose: str) -> str | None:
    if len(before) < MIN_RUNS:
        return (
            f"max_growth={max_growth:g} has no effect yet: it compares with at least {MIN_RUNS} runs of this {whose}, "
            f"and the ledger has {len(before)}."
        )
    usual = median(before)
    limit = floor(usual * max_growth + 1e-9)
    if total > limit:
        raise NexthinkGuardError(
            f"The run would delete {total} devices, more than max_growth={max_growth:g} allows: the median of the "
            f"last {len(before)} runs of this {whose} is {usual:g}, and {limit} the most. This try sent nothing. If "
            "that many are meant, raise max_growth for this run; there is no undo.",
            planned=total,
            limit=limit,
        )
    return None
