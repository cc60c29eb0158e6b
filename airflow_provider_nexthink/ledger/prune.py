"""Remove what is known of single devices once it is old: names of devices are personal data. All counts stay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, or_, select, update

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.reservation import RUNNING, lock_run
from airflow_provider_nexthink.ledger.statements import ASKED_FOR, PRUNED
from airflow_provider_nexthink.status import Presence

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from airflow_provider_nexthink.ledger.database import Database


@dataclass(frozen=True)
class Pruning:
    """What was removed.

    :param before: the end of the time of which it was removed.
    :param devices: how many rows of ``nexthink_deletions`` have lost their uid, name and reason.
    :param kept: how many rows of that time keep them: they are still needed.
    :param marks: how many devices were released from lists that no run has used since.
    """

    before: datetime
    devices: int
    kept: int
    marks: int


def prune(database: Database, older_than: timedelta) -> Pruning:
    """Remove the uid, the name and the reason of devices from runs that ended some time ago.

    The rows stay, without them: so no count, no quota and no seat changes. A device keeps its row as it is while that
    may still be needed: as long as it is not known to be gone, and while it is on a list in quarantine. A device that
    was pruned is not found again if it comes back.

    Lists in quarantine that no run has used for that long are emptied, too, and the state of old tasks is removed.

    :param database: of the ledger.
    :param older_than: how long ago a run has ended at least.
    :raises NexthinkInputError: if that is not a time, 0 or more.
    :raises NexthinkLedgerError: if the ledger cannot be used now. What was pruned until then is pruned.
    """
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise NexthinkInputError(f"older_than is {older_than!r}: it takes a timedelta, 0 or more.")
    runs = schema.runs
    with database.locked() as (connection, now):
        before = now - older_than
        marks = _release_abandoned(connection, before)
        _remove_task_state(connection, before)
        _remove_proofs(connection, before)
        ended = select(runs.c.id).where(runs.c.finished_at < before, runs.c.pruned_at.is_(None)).order_by(runs.c.id)
        run_ids = connection.execute(ended).scalars().all()
    devices = kept = 0
    for run_id in run_ids:  # one transaction for each run: no deletion has to wait for this
        with database.transaction() as connection:
            pruned, left = _prune_run(connection, run_id, now)
        devices += pruned
        kept += left
    return Pruning(before, devices, kept, marks)


def _prune_run(connection: Connection, run_id: int, now: datetime) -> tuple[int, int]:
    """Prune one run; return how many of its devices were pruned, and how many are left."""
    table, runs = schema.deletions, schema.runs
    lock_run(connection, run_id)
    of_run = and_(table.c.run_id == run_id, table.c.uid != PRUNED)
    is_open = and_(
        table.c.status.in_(ASKED_FOR),
        table.c.superseded.is_(False),
        or_(table.c.presence.is_(None), table.c.presence == Presence.STILL_PRESENT.value),
    )
    in_quarantine = table.c.uid.in_(select(schema.marks.c.uid))
    pruned = connection.execute(
        update(table).where(of_run, ~is_open, ~in_quarantine).values(uid=PRUNED, name=PRUNED, reason=None)
    ).rowcount
    left = int(connection.execute(select(func.count()).select_from(table).where(of_run)).scalar_one())
    error = connection.execute(select(runs.c.error).where(runs.c.id == run_id)).scalar_one()
    connection.execute(
        update(runs)
        .where(runs.c.id == run_id)
        .values(
            error=error and error.partition(":")[0],  # the rest may name devices
            pruned_at=None if left else now,
        )
    )
    return pruned, left


def _release_abandoned(connection: Connection, before: datetime) -> int:
    marks, list_runs = schema.marks, schema.list_runs
    latest = (
        select(list_runs.c.list_name).group_by(list_runs.c.list_name).having(func.max(list_runs.c.seen_at) < before)
    )
    names = connection.execute(latest).scalars().all()
    return sum(connection.execute(delete(marks).where(marks.c.list_name == name)).rowcount for name in names)


def _remove_task_state(connection: Connection, before: datetime) -> None:
    state, runs = schema.task_state, schema.runs
    running = select(runs.c.task_key).where(runs.c.state == RUNNING)
    connection.execute(delete(state).where(state.c.updated_at < before, state.c.task_key.not_in(running)))


def _remove_proofs(connection: Connection, before: datetime) -> None:
    """Remove the names from proofs; what they prove stays."""
    table = schema.proofs
    connection.execute(update(table).where(table.c.gone_at < before).values(uid=PRUNED, name=PRUNED))
