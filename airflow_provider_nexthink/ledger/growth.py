"""The guard against growth: a run may not be many times as large as the runs before it."""

from __future__ import annotations

from collections import defaultdict
from math import floor
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import select

from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError
from airflow_provider_nexthink.ledger.schema import runs

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from airflow_provider_nexthink.origin import RunOrigin

RUNS_COMPARED = 10
"""So many of the latest runs are compared."""

MIN_RUNS = 3
"""With fewer runs there is no median to speak of."""

BLOCKED = "BLOCKED"

_ROWS_READ = 5_000


def planned_by_dag_run(connection: Connection, origin: RunOrigin, planned: int) -> dict[str | None, int]:
    """Return how many devices each run of a Dag was to send with this task, all of its mapped tasks together.

    :param connection: to the ledger.
    :param origin: the task, whose own run of the Dag comes first.
    :param planned: how many devices it is to send.
    """
    latest: dict[tuple[str | None, int | None], int] = {(origin.dag_run_id, origin.map_index): planned}
    if origin.dag_id is not None:
        rows = connection.execute(
            select(runs.c.dag_run_id, runs.c.map_index, runs.c.planned)
            .where(runs.c.dag_id == origin.dag_id, runs.c.task_id == origin.task_id, runs.c.state != BLOCKED)
            .order_by(runs.c.id.desc())
            .limit(_ROWS_READ)
        )
        for dag_run_id, map_index, size in rows:  # the latest try of each comes first
            latest.setdefault((dag_run_id, map_index), size)
    totals: defaultdict[str | None, int] = defaultdict(int)
    for (dag_run_id, _), size in latest.items():
        totals[dag_run_id] += size
    return totals


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
    if origin.dag_id is None:
        raise NexthinkInputError("max_growth compares the runs of a task: it takes effect in a Dag only.")
    totals = planned_by_dag_run(connection, origin, planned)
    total = totals.pop(origin.dag_run_id)
    before = [size for size in totals.values() if size][:RUNS_COMPARED]
    if len(before) < MIN_RUNS:
        return (
            f"max_growth={max_growth:g} has no effect yet: it compares with at least {MIN_RUNS} runs of this task, and "
            f"the ledger has {len(before)}."
        )
    usual = median(before)
    limit = floor(usual * max_growth + 1e-9)
    if total > limit:
        raise NexthinkGuardError(
            f"The list would delete {total} devices, more than max_growth={max_growth:g} allows: the median of the "
            f"last {len(before)} runs of this task is {usual:g}, and {limit} the most. This try sent nothing. If that "
            "many are meant, raise max_growth for this run; there is no undo.",
            planned=total,
            limit=limit,
        )
    return None
