"""The ledger of a tenant in plain Python. ::

from sqlalchemy import create_engine

from airflow_provider_nexthink.ledger import Ledger

ledger = Ledger(create_engine("sqlite:////data/ledger.db"), tenant=client.tenant, instance=client.settings.instance)
found = ledger.quarantine(rows, list_name="stale laptops")
client.delete_devices(found.due)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from sqlalchemy import func, select

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.devices.identity import canonical_uid
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.devices.selection import load_devices, select_rows
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.inventory import read_inventory
from airflow_provider_nexthink.ledger.options import check_grace, check_list_name, check_min_sightings
from airflow_provider_nexthink.ledger.prune import Pruning, prune
from airflow_provider_nexthink.ledger.quarantine import ListUpdate, RunKind, update_list
from airflow_provider_nexthink.ledger.quota import Quota, quota_used
from airflow_provider_nexthink.ledger.reconcile import MAX_LISTED, reconcile
from airflow_provider_nexthink.ledger.report import LedgerReport, history_of, make_report, marks_of
from airflow_provider_nexthink.ledger.seats import seats_by_period
from airflow_provider_nexthink.origin import RunOrigin

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_MAX_DAYS = 60


@dataclass(frozen=True)
class QuarantineResult:
    """What the quarantine makes of a list of devices.

    :param due: the rows of the devices that are due, in the form of the list.
    :param waiting: the first devices that are not due yet, ``{"uid", "name", "marked_at", "sightings", "due_at"}``;
        ``due_at`` is the earliest time at which they can be.
    :param summary: how many devices are due, waiting, marked, released...
    """

    due: Any
    waiting: list[dict[str, Any]]
    summary: dict[str, Any]


@dataclass(frozen=True)
class ReconcileResult:
    """What a look at the inventory has found.

    :param summary: the look in numbers, and the seats won by week.
    :param still_present: the first devices that are still there.
    :param returned: the first devices that were gone, and are there again.
    :param set_up_anew: the first devices that are gone while another device has their name: set up anew, or a namesake
        that was there before.
    """

    summary: dict[str, Any]
    still_present: list[dict[str, Any]]
    returned: list[dict[str, Any]]
    set_up_anew: list[dict[str, Any]]


class Ledger:
    """What a tenant was asked to delete, by whom, why, and what became of it.

    :param engine: of SQLAlchemy, to PostgreSQL, MySQL, MariaDB or a file of SQLite. Its tables are made on first use.
    :param tenant: what tells the tenant from any other (``NexthinkClient.tenant``).
    :param instance: the tenant's name, for people.
    :param clock: the time.
    """

    def __init__(self, engine: Engine, *, tenant: str, instance: str, clock: Clock | None = None) -> None:
        self.database = Database(engine, tenant=tenant, instance=instance, clock=clock)

    @classmethod
    def of(cls, database: Database) -> Self:
        """Return the ledger in a database.

        :param database: the database.
        """
        ledger = cls.__new__(cls)
        ledger.database = database
        return ledger

    @classmethod
    def existing(cls, engine: Engine, *, clock: Clock | None = None) -> Self:
        """Return the ledger that is in a database, whosever it is.

        :param engine: of SQLAlchemy.
        :param clock: the time.
        :raises NexthinkLedgerMismatchError: if there is none.
        :raises NexthinkLedgerError: if the database does not respond.
        """
        return cls.of(Database.existing(engine, clock=clock))

    def open(self) -> None:
        """Make the tables, or bring them to this version; check whose ledger it is. Later calls do nothing.

        :raises NexthinkLedgerError: if the database does not respond.
        :raises NexthinkLedgerMismatchError: if it is another tenant's ledger, or cannot be one.
        """
        self.database.open()

    def quarantine(
        self,
        devices: object,
        *,
        list_name: str,
        grace: timedelta | float | str = timedelta(days=14),
        min_sightings: int | str = 2,
        uid_column: str | None = None,
        name_column: str | None = None,
        origin: RunOrigin | None = None,
        open_file: Callable[[str], BinaryIO] | None = None,
    ) -> QuarantineResult:
        """Put devices on a list in quarantine, and return those that are due.

        A device is due once it was on the list in at least ``min_sightings`` runs, for at least ``grace``, without a
        gap: a device that is missing from the list once is released, and starts afresh. Nothing is deleted here.

        :param devices: a DataFrame or Arrow table, a list of mappings or of rows that name their fields, JSON or CSV
            text, or the path of a file.
        :param list_name: the list. It belongs to the task that has used it first.
        :param grace: for how long a device is at least on the list; a ``timedelta``, or days.
        :param min_sightings: in how many runs it is at least on the list.
        :param uid_column: which column holds the uid; None to find it by its name.
        :param name_column: which column holds the name; None to find it by its name.
        :param origin: the run: all its tries count once. None in plain Python, where each call is a run, and two
            programs with one list cannot be told apart.
        :param open_file: opens a path for reading bytes; None to use fsspec.
        :return: the devices that are due, and those that wait.
        :raises NexthinkInputError: if an option or the list is wrong, or the list belongs to another task.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        """
        list_name, grace, min_sightings = (
            check_list_name(list_name),
            check_grace(grace),
            check_min_sightings(min_sightings),
        )
        loaded = load_devices(devices, uid_column=uid_column, name_column=name_column, open_file=open_file)
        rows = read_devices(loaded, uid_column=uid_column, name_column=name_column)
        uids = [canonical_uid(cell) for cell in rows.uids]
        named = {
            uid: name if isinstance(name, str) else ""
            for uid, name in zip(reversed(uids), reversed(rows.names), strict=True)  # so the first name of a uid counts
            if uid
        }
        updated = update_list(
            self.database,
            named,
            list_name=list_name,
            origin=origin or RunOrigin(),
            grace=grace,
            min_sightings=min_sightings,
        )
        waiting = _waiting(updated, named, grace)
        return QuarantineResult(
            due=select_rows(loaded, [uid in updated.due for uid in uids]),
            waiting=waiting[:MAX_LISTED],
            summary={
                "instance": self.database.instance,
                "list_name": list_name,
                "devices": len(named),
                "due": len(updated.due),
                "waiting": len(waiting),
                "marked": updated.marked,
                "released": updated.released,
                "deleted": updated.deleted,
                "invalid": uids.count(None),
                "unmarked": len(named) - len(updated.due) - len(waiting),
                "counted": updated.kind is RunKind.NEW,
                "next_due_at": waiting[0]["due_at"] if waiting else None,
                "due_by_day": _due_by_day(waiting),
                "grace_days": grace / timedelta(days=1),
                "min_sightings": min_sightings,
                "run_at": updated.now.isoformat(),
            },
        )

    def reconcile(
        self,
        rows: object,
        *,
        query_id: str,
        uid_column: str | None = None,
        started_at: datetime | None = None,
        uids: Sequence[str] | None = None,
        quota: Quota | None = None,
    ) -> ReconcileResult:
        """Compare the deletions with the inventory of the tenant, and record what became of each device.

        :param rows: the result of a query that lists **every** device, such as ``client.export_nql`` returns it.
        :param query_id: the query.
        :param uid_column: the column with the uid under which the devices were deleted; None to find it by its name.
        :param started_at: when the export was started; None for now.
        :param uids: compare only these devices; None for all.
        :param quota: the quota of the connection: the summary says how much of it is used now.
        :raises NexthinkExportError: if there are no rows, which proves nothing.
        :raises NexthinkInputError: if the result was cut off, has no uids or another kind of them, or less than half as
            many devices as at the latest look.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        """
        inventory = read_inventory(rows, query_id=query_id, uid_column=uid_column, now=self.database.clock.now())
        found = reconcile(self.database, inventory, started_at=started_at, uids=uids)
        with self.database.transaction() as connection:
            by_week = seats_by_period(connection, "week")
            runs, latest = connection.execute(select(func.count(), func.max(schema.runs.c.started_at))).one()
            used = quota_used(connection, quota, self.database.clock.now()) if quota else 0
        gone, returned = (sum(week[what] for week in by_week) for what in ("gone", "returned"))
        return ReconcileResult(
            summary={
                "instance": self.database.instance,
                "looked_at": found.looked_at.isoformat(),
                "query_id": query_id,
                "devices": found.devices,
                "requested": found.requested,
                "gone": found.gone,
                "still_present": found.still_present,
                "returned": found.returned,
                "set_up_anew": found.set_up_anew,
                "not_compared": found.not_compared,
                "seats_won": gone,
                "seats_returned": returned,
                "net": gone - returned,
                "by_week": by_week,
                "runs": runs,
                "latest_run_at": latest.isoformat() if latest else None,
                "quota": quota.as_dict(used) if quota else None,
            },
            still_present=found.present_rows,
            returned=found.returned_rows,
            set_up_anew=found.anew_rows,
        )

    def report(self, quota: Quota | None = None) -> LedgerReport:
        """Return what the ledger knows: seats won, what is still there, what came back, quarantine, quota.

        :param quota: the quota of the connection.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        :raises NexthinkLedgerMismatchError: if the database is another tenant's ledger, or cannot be one.
        """
        with self.database.transaction() as connection:
            return make_report(connection, instance=self.database.instance, now=self.database.clock.now(), quota=quota)

    def history(self, device: str) -> list[dict[str, Any]]:
        """Return every deletion of a device that was asked for, and by whom, the first at the top.

        :param device: its uid, or its name to the letter.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        :raises NexthinkLedgerMismatchError: if the database is another tenant's ledger, or cannot be one.
        """
        with self.database.transaction() as connection:
            return history_of(connection, device)

    def marks(self, device: str) -> list[dict[str, Any]]:
        """Return the lists in quarantine that a device is on.

        :param device: its uid, or its name to the letter.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        :raises NexthinkLedgerMismatchError: if the database is another tenant's ledger, or cannot be one.
        """
        with self.database.transaction() as connection:
            return marks_of(connection, device)

    def prune(self, older_than: timedelta) -> Pruning:
        """Remove the uid, the name and the reason of devices from runs that ended some time ago. All counts stay.

        :param older_than: how long ago a run has ended at least.
        :raises NexthinkInputError: if that is not a time, 0 or more.
        :raises NexthinkLedgerError: if the ledger cannot be used now.
        :raises NexthinkLedgerMismatchError: if the database is another tenant's ledger, or cannot be one.
        """
        return prune(self.database, older_than)


def _due_by_day(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many of the waiting devices can be due on each day (UTC), the first days only."""
    days = Counter(str(row["due_at"])[:10] for row in waiting)
    return [{"day": day, "devices": count} for day, count in sorted(days.items())[:_MAX_DAYS]]


def _waiting(updated: ListUpdate, devices: dict[str, str], grace: timedelta) -> list[dict[str, Any]]:
    """Return the devices on the list that are not due yet, those that may be due first at the top."""
    waiting = [
        (max(updated.now, mark.marked_at + grace), uid, mark)
        for uid in devices
        if uid not in updated.due and (mark := updated.marks.get(uid))
    ]
    return [
        {
            "uid": uid,
            "name": mark.name,
            "marked_at": mark.marked_at.isoformat(),
            "sightings": mark.sightings,
            "due_at": due_at.isoformat(),
        }
        for due_at, uid, mark in sorted(waiting)
    ]
