"""Compare the deletions in the ledger with the inventory of the tenant: what is gone, still present, and back again.

Each row of ``nexthink_deletions`` is changed only by a look that began after its deletion was requested, and after the
look that has changed it last. So an inventory that is read slowly overwrites nothing newer.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, or_, select, update

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.looks import check_is_whole
from airflow_provider_nexthink.ledger.proof import WEAK, record_proof, strength_of
from airflow_provider_nexthink.ledger.reservation import close_lost, lock_run
from airflow_provider_nexthink.ledger.seats import record_seats
from airflow_provider_nexthink.ledger.statements import (
    ASKED_FOR,
    IN_CHUNK,
    PRUNED,
    REPEATED,
    REQUESTED,
    RETURNED,
    chunks,
)
from airflow_provider_nexthink.status import Presence, Status

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

    from airflow_provider_nexthink.ledger.database import Database
    from airflow_provider_nexthink.ledger.inventory import Inventory

MAX_LISTED = 10_000
"""How many devices each list of a result has at most; the counts are always whole."""

_PAGE_ROWS = 5_000

log = logging.getLogger(__name__)


@dataclass
class Comparison:
    """What a look has found. Each device counts once, by its latest deletion.

    :param looked_at: when the look began.
    :param devices: how many devices the inventory has.
    :param requested: how many devices were compared.
    :param gone: how many of them are not in the inventory.
    :param still_present: how many are in it, and have not been gone yet.
    :param returned: how many are in it again.
    :param set_up_anew: how many are gone while another device has their name: set up anew, or a namesake that was there
        before.
    :param not_compared: how many rows could not be compared: the inventory has the other kind of uid, or may have; it
        is older; or their run has not ended.
    :param present_rows: the first of those that are still present.
    :param returned_rows: the first of those that have returned.
    :param anew_rows: the first of those that were set up anew.
    """

    looked_at: datetime
    devices: int
    requested: int = 0
    gone: int = 0
    still_present: int = 0
    returned: int = 0
    set_up_anew: int = 0
    not_compared: int = 0
    present_rows: list[dict[str, Any]] = field(default_factory=list)
    returned_rows: list[dict[str, Any]] = field(default_factory=list)
    anew_rows: list[dict[str, Any]] = field(default_factory=list)


def reconcile(
    database: Database,
    inventory: Inventory,
    *,
    started_at: datetime | None = None,
    uids: Sequence[str] | None = None,
) -> Comparison:
    """Compare the deletions with the inventory, and record what became of each device.

    :param database: of the ledger.
    :param inventory: every device of the tenant.
    :param started_at: when the look began, which is when the export of the inventory was started; None for now.
    :param uids: compare only these devices; None for all.
    :raises NexthinkInputError: if the inventory has another kind of uid than all deletions, or less than half as many
        devices as at the latest look: nothing is changed.
    :raises NexthinkLedgerError: if the ledger cannot be used now. What was recorded until then is right as it is.
    """
    with database.locked() as (connection, now):
        looked_at = now if started_at is None else min(now, started_at)
        check_is_whole(connection, inventory)
        close_lost(connection, now)
        table = schema.runs
        runs = connection.execute(
            select(table.c.id, table.c.uid_kind, table.c.finished_at).where(table.c.pruned_at.is_(None))
        ).all()
    look = _Look(
        inventory,
        looked_at,
        kinds={row.id: row.uid_kind for row in runs},
        running={row.id for row in runs if row.finished_at is None},
    )
    # Pages have transactions of their own, so that no deletion has to wait: a part of a look is as true as the whole.
    if uids is None:
        _compare_all(database, look)
    else:
        _compare_some(database, look, uids)
    result = look.result
    if (others := look.obstacles[_Obstacle.OTHER_KIND]) and not result.requested:
        raise NexthinkInputError(
            f"{inventory.query_id} lists the uid of the {inventory.uid_kind}, but {others} devices were deleted "
            "by the other kind of uid: that proves nothing. List that one, or name its column with uid_column."
        )
    if unknown := look.obstacles[_Obstacle.PERHAPS_OTHER_KIND]:
        log.warning(
            "%d deletions were not compared: %s, or the list that they were deleted by, does not say which kind of uid "
            "it has, and the inventory has none of their devices. With the other kind of uid, all of them would seem "
            "to be gone. Keep the name of the column in both: device.uid.",
            unknown,
            inventory.query_id,
        )
    with database.locked() as (connection, _):
        for proof in look.proofs.values():
            record_proof(connection, **proof)
        connection.execute(
            insert(schema.looks).values(
                looked_at=looked_at,
                query_id=inventory.query_id,
                uid_kind=inventory.uid_kind,
                devices=result.devices,
                gone=result.gone,
                still_present=result.still_present,
                returned=result.returned,
            )
        )
    return result


def _compare_all(database: Database, look: _Look) -> None:
    """Compare the devices of one run after the other, in pages that are found by the primary key."""
    table = schema.deletions
    with database.transaction() as connection:
        # Read from the index alone: most devices are asked for once.
        several = select(table.c.uid).where(table.c.uid != PRUNED).group_by(table.c.uid).having(func.count() > 1)
        repeated = list(connection.execute(several).scalars())
        latest = _latest_runs(connection, repeated)
    for run_id in sorted(look.kinds):
        _compare_kinds(database, look, [run_id])
        rows: Sequence[Row[Any]] = ()
        last = -1
        while last < 0 or len(rows) == _PAGE_ROWS:
            page = _deletions().where(table.c.run_id == run_id, table.c.seq > last)
            rows = _compare_page(database, look, page.order_by(table.c.seq).limit(_PAGE_ROWS), latest)
            last = rows[-1].seq if rows else 0


def _compare_some(database: Database, look: _Look, uids: Sequence[str]) -> None:
    for chunk in chunks(uids, IN_CHUNK):
        of_chunk = schema.deletions.c.uid.in_(chunk)
        with database.transaction() as connection:
            run_ids = connection.execute(select(schema.deletions.c.run_id).where(of_chunk).distinct()).scalars().all()
            latest = _latest_runs(connection, chunk)
        _compare_kinds(database, look, [run_id for run_id in run_ids if run_id in look.kinds])
        _compare_page(database, look, _deletions().where(of_chunk), latest)


def _compare_page(database: Database, look: _Look, page: Any, latest: Mapping[str, int]) -> Sequence[Row[Any]]:
    """Compare the deletions that a query lists, record what has changed, and return them.

    :param database: of the ledger.
    :param look: the look.
    :param page: the query.
    :param latest: the latest run that has asked for a device, for those that several have asked for.
    """
    with database.transaction() as connection:
        rows = connection.execute(page).all()
    changes = look.changes(rows, latest)
    if any(changes):
        with database.locked() as (connection, _):
            # Once more, now that no other look can be at the same devices: a seat counts once.
            rows = connection.execute(page).all()
            latest = _latest_runs(connection, [row.uid for row in rows])
            changes = look.changes(rows, latest)
            _write(connection, rows, changes)
            record_seats(connection, look.result.looked_at, _moves(rows, changes))
    look.count(rows, changes, latest)
    return rows


def _write(connection: Connection, rows: Sequence[Row[Any]], changes: Sequence[dict[str, Any]]) -> None:
    """Write the changes of rows, those that are alike together."""
    table = schema.deletions
    found: defaultdict[int, defaultdict[tuple[Any, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, change in zip(rows, changes, strict=True):
        if change:
            found[row.run_id][tuple(change.items())].append(row.seq)
    for run_id, alike in sorted(found.items()):
        lock_run(connection, run_id)
        for values, seqs in alike.items():
            for chunk in chunks(seqs, IN_CHUNK):
                rows_of_chunk = and_(table.c.run_id == run_id, table.c.seq.in_(chunk))
                connection.execute(update(table).where(rows_of_chunk).values(**dict(values)))


def _moves(rows: Sequence[Row[Any]], changes: Sequence[dict[str, Any]]) -> list[tuple[Row[Any], str]]:
    """Return the deletions whose devices went, came back, or were found for the first time; and where they are now."""
    moves = [(row, change["presence"]) for row, change in zip(rows, changes, strict=True) if change]
    return [(row, presence) for row, presence in moves if presence not in (row.presence, REPEATED)]


def _compare_kinds(database: Database, look: _Look, run_ids: Sequence[int]) -> None:
    """Look for a device of each run in the inventory, where only one of the two says which kind of uid it has.

    A run whose kind is known by that keeps it.
    """
    deletions, runs = schema.deletions, schema.runs
    for run_id in run_ids:
        if run_id in look.has_kind or (look.kinds[run_id] is None) == (look.inventory.uid_kind is None):
            continue
        with database.transaction() as connection:
            uids = connection.execute(select(deletions.c.uid).where(deletions.c.run_id == run_id)).scalars().all()
            look.has_kind[run_id] = any(uid in look.inventory.days_unseen for uid in uids)
            if look.has_kind[run_id] and look.kinds[run_id] is None:
                look.kinds[run_id] = look.inventory.uid_kind
                learned = {"uid_kind": look.inventory.uid_kind}
                connection.execute(update(runs).where(runs.c.id == run_id).values(**learned))


def _deletions() -> Any:
    """Return the query for the rows that are compared: devices that were asked for, or may have been."""
    table = schema.deletions
    return select(
        table.c.run_id,
        table.c.seq,
        table.c.uid,
        table.c.name,
        table.c.requested_at,
        table.c.status,
        table.c.presence,
        table.c.looked_at,
        table.c.gone_at,
        table.c.seen_at,
        table.c.days_unseen,
    ).where(table.c.status.in_(ASKED_FOR), table.c.superseded.is_(False), table.c.uid != PRUNED)


def _latest_runs(connection: Connection, uids: Sequence[str]) -> dict[str, int]:
    """Return the latest run that has asked for each device. One that may yet give devices back does not count."""
    table = schema.deletions
    latest: dict[str, int] = {}
    is_certain = or_(table.c.status != REQUESTED, schema.runs.c.finished_at.is_not(None))
    for chunk in chunks(uids, IN_CHUNK):
        found = (
            select(table.c.uid, func.max(table.c.run_id))
            .select_from(table.join(schema.runs, schema.runs.c.id == table.c.run_id))
            .where(table.c.uid.in_(chunk), table.c.status.in_(ASKED_FOR), table.c.superseded.is_(False), is_certain)
            .group_by(table.c.uid)
        )
        latest.update((uid, run_id) for uid, run_id in connection.execute(found))
    return latest


def _is_earlier(row: Row[Any], latest: Mapping[str, int]) -> bool:
    """Return whether a later run has asked for the device again."""
    return bool(row.run_id < latest.get(row.uid, row.run_id))


class _Obstacle(Enum):
    """Why a deletion cannot be compared."""

    RUNNING = "its run has not ended: it may not be sent after all"
    OTHER_KIND = "it is of the other kind of uid"
    PERHAPS_OTHER_KIND = "only one of its run and the inventory says which kind of uid it has"
    NEWER = "it was requested after the look began"


class _Look:
    """A look at the inventory, compared with the deletions page by page."""

    def __init__(
        self, inventory: Inventory, looked_at: datetime, *, kinds: dict[int, str | None], running: Set[int]
    ) -> None:
        self.result = Comparison(looked_at, len(inventory.days_unseen))
        self.inventory = inventory
        self.kinds = kinds
        """The kind of uid of each run."""
        self.has_kind: dict[int, bool] = {}
        """Whether the inventory has the kind of uid of a run, where only one of the two says which it is."""
        self._running = running
        self.obstacles: Counter[_Obstacle] = Counter()
        """Why rows were not compared."""
        self.proofs: dict[tuple[str | None, str], dict[str, Any]] = {}
        """What proves that deletions remove devices, by kind of uid and strength."""

    def changes(self, rows: Sequence[Row[Any]], latest: Mapping[str, int]) -> list[dict[str, Any]]:
        """Return what changes of each deletion.

        :param rows: the deletions.
        :param latest: the latest run that has asked for a device, for those that several have asked for.
        """
        return [
            {}
            if self._obstacle_of(row)
            else self._change_of_earlier(row)
            if _is_earlier(row, latest)
            else self._change_of(row)
            for row in rows
        ]

    def count(self, rows: Sequence[Row[Any]], changes: Sequence[dict[str, Any]], latest: Mapping[str, int]) -> None:
        """Count a page of deletions that was compared.

        :param rows: the deletions.
        :param changes: what has changed of each.
        :param latest: the latest run that has asked for a device, for those that several have asked for.
        """
        for row, change in zip(rows, changes, strict=True):
            if (obstacle := self._obstacle_of(row)) is not None:
                self.obstacles[obstacle] += 1
                self.result.not_compared += 1
            elif not _is_earlier(row, latest):
                presence = change.get("presence", row.presence)
                if change and presence == Presence.GONE and row.gone_at is None:
                    self._add_proof(row)
                self._count(row, presence)

    def _obstacle_of(self, row: Row[Any]) -> _Obstacle | None:
        """Return why a deletion cannot be compared; None if it can."""
        if row.run_id not in self.kinds or (row.status == REQUESTED and row.run_id in self._running):
            return _Obstacle.RUNNING
        kind = self.kinds[row.run_id]
        if kind and self.inventory.uid_kind and kind != self.inventory.uid_kind:
            return _Obstacle.OTHER_KIND
        if not self.has_kind.get(row.run_id, True):
            return _Obstacle.PERHAPS_OTHER_KIND
        return None if row.requested_at <= self.result.looked_at else _Obstacle.NEWER

    def _change_of(self, row: Row[Any]) -> dict[str, Any]:
        now = self.result.looked_at
        if row.looked_at is not None and row.looked_at > now:
            return {}  # a look that began later has been here
        was_gone = row.presence in (Presence.GONE, RETURNED)
        if row.uid not in self.inventory.days_unseen:
            if row.presence == Presence.GONE:
                return {}
            return {"presence": Presence.GONE.value, "looked_at": now, "gone_at": now, "returned_at": None}
        if not was_gone:
            days = self.inventory.days_unseen[row.uid]
            return {"presence": Presence.STILL_PRESENT.value, "looked_at": now, "seen_at": now, "days_unseen": days}
        return {} if row.presence == RETURNED else {"presence": RETURNED, "looked_at": now, "returned_at": now}

    def _change_of_earlier(self, row: Row[Any]) -> dict[str, Any]:
        """Close a deletion whose device a later run has asked for again: that one counts from now on."""
        if row.presence in (RETURNED, REPEATED):
            return {}
        if row.presence == Presence.GONE and row.uid in self.inventory.days_unseen:
            return self._change_of(row)
        return {"presence": REPEATED, "looked_at": self.result.looked_at}

    def _add_proof(self, row: Row[Any]) -> None:
        if row.status != Status.SCHEDULED.value:
            return  # it may not have been sent
        device = {
            "seen_at": row.seen_at,
            "days_unseen": row.days_unseen,
            "requested_at": row.requested_at,
            "gone_at": self.result.looked_at,
        }
        strength = strength_of(**device)
        if strength is not None:
            kind = self.kinds.get(row.run_id)
            if kind is None:
                strength = WEAK  # the other kind of uid would seem to be gone, too
            proof = {"strength": strength, "uid_kind": kind, "uid": row.uid, "name": row.name, **device}
            self.proofs.setdefault((kind, strength), proof)

    def _count(self, row: Row[Any], presence: str | None) -> None:
        result = self.result
        result.requested += 1
        device = {
            "uid": row.uid,
            "name": row.name,
            "status": row.status,
            "requested_at": row.requested_at.isoformat(),
        }
        if presence == Presence.GONE:
            result.gone += 1
            if row.uid not in self.inventory.days_unseen and row.name in self.inventory.names:
                result.set_up_anew += 1
                _list(result.anew_rows, device)
        elif presence == RETURNED:
            result.returned += 1
            _list(result.returned_rows, device)
        else:
            result.still_present += 1
            _list(result.present_rows, device)


def _list(rows: list[dict[str, Any]], device: dict[str, Any]) -> None:
    if len(rows) < MAX_LISTED:
        rows.append(device)
