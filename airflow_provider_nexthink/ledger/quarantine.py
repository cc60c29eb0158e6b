"""The quarantine: a device is due once it was on a list in several runs, for some time, without a gap.

``mark_devices`` is the rule, a pure function. ``update_list`` applies it to the marks in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, func, insert, select, update

from airflow_provider_nexthink.devices.identity import as_storable
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.statements import ASKED_FOR, IN_CHUNK, chunks

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from airflow_provider_nexthink.ledger.database import Database
    from airflow_provider_nexthink.origin import RunOrigin

_INSERT_CHUNK = 10_000
_NAME_CHARACTERS = 1000


class Mark(NamedTuple):
    """A device on a list, without a gap since it was marked.

    :param name: its name, for people.
    :param marked_at: when it was on the list for the first time.
    :param sightings: in how many runs it was on the list since then.
    :param last_seen_at: when the latest of these runs was. Its retries count as of the same time.
    """

    name: str
    marked_at: datetime
    sightings: int
    last_seen_at: datetime


class RunKind(Enum):
    """Which run of a list puts devices on it."""

    NEW = "a run that the list has not had before"
    LATEST = "another try of the latest run: it counts once"
    EARLIER = "another try of a run before the latest: it changes nothing"


class Marking(NamedTuple):
    """What a run makes of the marks of a list.

    :param marks: the marks after it, by uid.
    :param marked: the uids that are on the list for the first time.
    :param left: the uids that are no longer on it.
    """

    marks: dict[str, Mark]
    marked: list[str]
    left: list[str]


def mark_devices(marks: Mapping[str, Mark], devices: Mapping[str, str], kind: RunKind, now: datetime) -> Marking:
    """Return the marks of a list after a run.

    :param marks: the marks before it, by uid.
    :param devices: the names of the devices that the run has put on the list, by uid.
    :param kind: which run it is.
    :param now: the time.
    """
    if kind is RunKind.EARLIER:
        return Marking(dict(marks), [], [])
    is_new = kind is RunKind.NEW
    after: dict[str, Mark] = {}
    marked = []
    for uid, name in devices.items():
        before = marks.get(uid)
        if before is None:
            marked.append(uid)
            after[uid] = Mark(name, now, 1, now)
        else:
            last_seen_at = now if is_new else before.last_seen_at
            after[uid] = Mark(name, before.marked_at, before.sightings + is_new, last_seen_at)
    return Marking(after, marked, [uid for uid in marks if uid not in after])


def is_due(mark: Mark, *, grace: timedelta, min_sightings: int) -> bool:
    """Return whether a device has been on the list for long enough, and in enough runs.

    The time ends with the latest run: a retry days later does not prove that the device has stayed on the list.

    :param mark: the device.
    :param grace: for how long at least.
    :param min_sightings: in how many runs at least.
    """
    return mark.sightings >= min_sightings and mark.last_seen_at - mark.marked_at >= grace


@dataclass(frozen=True)
class ListUpdate:
    """What a run has made of a list in quarantine.

    :param now: the time of the ledger.
    :param kind: which run it was.
    :param marks: the marks of the list after it, by uid.
    :param due: the uids of the devices on the list of this run that are due.
    :param marked: how many devices are on the list for the first time.
    :param released: how many are no longer on it, and were not deleted meanwhile.
    :param deleted: how many are no longer on it since their deletion was requested.
    """

    now: datetime
    kind: RunKind
    marks: dict[str, Mark]
    due: set[str]
    marked: int
    released: int
    deleted: int


def update_list(
    database: Database,
    devices: Mapping[str, str],
    *,
    list_name: str,
    origin: RunOrigin,
    grace: timedelta,
    min_sightings: int,
) -> ListUpdate:
    """Put the devices of a run on a list in quarantine.

    :param database: of the ledger.
    :param devices: the names of the devices, by uid.
    :param list_name: the list. It belongs to the task that has used it first.
    :param origin: the run. All tries of a task in one run of its Dag count once.
    :param grace: for how long a device is at least on the list before it is due.
    :param min_sightings: in how many runs it is at least on the list before it is due.
    :raises NexthinkInputError: if the list belongs to another task.
    :raises NexthinkLedgerError: if the ledger cannot be used now.
    """
    names = {uid: _storable(name) for uid, name in devices.items()}
    with database.locked() as (connection, now):
        _check_owner(connection, list_name, origin, now)
        number, kind = _count_run(connection, list_name, origin.task_key, len(names), now)
        before = _load_marks(connection, list_name)
        marking = mark_devices(before, names, kind, now)
        released = len(marking.left) - (deleted := _count_deleted(connection, marking.left, before))
        if kind is not RunKind.EARLIER:
            _save(connection, list_name, number, before, marking, kind, now)
    due = {
        uid
        for uid in names
        if (mark := marking.marks.get(uid)) and is_due(mark, grace=grace, min_sightings=min_sightings)
    }
    return ListUpdate(now, kind, marking.marks, due, len(marking.marked), released, deleted)


def _check_owner(connection: Connection, list_name: str, origin: RunOrigin, now: datetime) -> None:
    """Refuse a list that another task uses: each of the two would release the devices of the other."""
    owner = {"dag_id": origin.dag_id, "task_id": origin.task_id, "map_index": origin.map_index}
    found = connection.execute(select(schema.lists).where(schema.lists.c.list_name == list_name)).first()
    if found is None:
        connection.execute(insert(schema.lists).values(list_name=list_name, created_at=now, **owner))
    elif (found.dag_id, found.task_id, found.map_index) != tuple(owner.values()):
        raise NexthinkInputError(
            f"The list {list_name!r} in quarantine belongs to {_task(found)}, and {_task(origin)} cannot use it too: "
            "each would release the devices of the other. Give one of them another list_name."
        )


def _task(owner: object) -> str:
    dag_id, task_id = getattr(owner, "dag_id", None), getattr(owner, "task_id", None)
    if dag_id is None:
        return "a program outside Airflow"
    index = getattr(owner, "map_index", -1)
    return f"the task {dag_id}.{task_id}" + (f" (map index {index})" if index >= 0 else "")


def _count_run(
    connection: Connection, list_name: str, run_key: str, devices: int, now: datetime
) -> tuple[int, RunKind]:
    """Return the number of the run, and which it is; a new one is added to the runs of the list."""
    table = schema.list_runs
    latest = connection.execute(select(func.max(table.c.number)).where(table.c.list_name == list_name)).scalar() or 0
    known = connection.execute(
        select(table.c.number).where(table.c.list_name == list_name, table.c.run_key == run_key)
    ).scalar()
    if known is None:
        connection.execute(
            insert(table).values(list_name=list_name, number=latest + 1, run_key=run_key, seen_at=now, devices=devices)
        )
        return latest + 1, RunKind.NEW
    if known < latest:
        return known, RunKind.EARLIER
    connection.execute(
        update(table).where(table.c.list_name == list_name, table.c.number == known).values(devices=devices)
    )
    return known, RunKind.LATEST


def _load_marks(connection: Connection, list_name: str) -> dict[str, Mark]:
    table = schema.marks
    rows = connection.execute(
        select(table.c.uid, table.c.name, table.c.marked_at, table.c.sightings, table.c.last_seen_at).where(
            table.c.list_name == list_name
        )
    )
    return {uid: Mark(*mark) for uid, *mark in rows}


def _count_deleted(connection: Connection, uids: Sequence[str], marks: Mapping[str, Mark]) -> int:
    """Return how many devices may have been deleted since they were marked."""
    table = schema.deletions
    deleted: set[str] = set()
    for chunk in chunks(uids, IN_CHUNK):
        rows = connection.execute(
            select(table.c.uid, table.c.requested_at).where(
                table.c.uid.in_(chunk), table.c.status.in_(ASKED_FOR), table.c.superseded.is_(False)
            )
        )
        deleted.update(uid for uid, requested_at in rows if requested_at >= marks[uid].marked_at)
    return len(deleted)


def _save(
    connection: Connection,
    list_name: str,
    number: int,
    before: Mapping[str, Mark],
    marking: Marking,
    kind: RunKind,
    now: datetime,
) -> None:
    """Write the marks in a few large statements: most devices only get one sighting more."""
    table = schema.marks
    renamed = [uid for uid, mark in marking.marks.items() if uid in before and before[uid].name != mark.name]
    for chunk in chunks([*marking.left, *renamed], IN_CHUNK):
        connection.execute(delete(table).where(table.c.list_name == list_name, table.c.uid.in_(chunk)))
    if kind is RunKind.NEW:
        connection.execute(
            update(table)
            .where(table.c.list_name == list_name)
            .values(sightings=table.c.sightings + 1, last_number=number, last_seen_at=now)
        )
    for chunk in chunks([*marking.marked, *renamed], _INSERT_CHUNK):
        connection.execute(
            insert(table),
            [
                {"list_name": list_name, "uid": uid, "last_number": number, **marking.marks[uid]._asdict()}
                for uid in chunk
            ],
        )


def _storable(name: str) -> str:
    """Return a name as every database can keep it; it is for people only."""
    return as_storable(name)[:_NAME_CHARACTERS]
