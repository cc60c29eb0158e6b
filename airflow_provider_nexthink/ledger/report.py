"""What the ledger knows, for people: the history of a device, and a report as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select

from airflow_provider_nexthink.devices.identity import canonical_uid
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.quota import Quota, quota_used
from airflow_provider_nexthink.ledger.seats import seats_by_period
from airflow_provider_nexthink.ledger.statements import ASKED_FOR, RETURNED
from airflow_provider_nexthink.status import Presence

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_LISTED = 10


@dataclass(frozen=True)
class LedgerReport:
    """What the ledger knows at one time.

    :param instance: the tenant.
    :param now: the time.
    :param runs: how many runs there are, and the start of the latest; None if there is none.
    :param looked_at: the latest look at the inventory; None if there was none.
    :param seats: the seats won by month, as ``seats_by_period`` returns them.
    :param quota: the quota; None if there is none.
    :param quota_used: how many devices count against it now.
    :param unseen: how many devices no look has been compared with yet.
    :param still_present: how many devices are still there, and the first that were asked for.
    :param returned: how many devices are there again, and the latest of them.
    :param lists: the lists in quarantine: name, devices, the first mark and the latest run.
    """

    instance: str
    now: datetime
    runs: tuple[int, datetime | None]
    looked_at: datetime | None
    seats: list[dict[str, Any]]
    quota: Quota | None
    quota_used: int
    unseen: int
    still_present: tuple[int, list[Any]]
    returned: tuple[int, list[Any]]
    lists: list[Any]


def make_report(connection: Connection, *, instance: str, now: datetime, quota: Quota | None = None) -> LedgerReport:
    """Return what the ledger knows.

    :param connection: of the ledger.
    :param instance: the tenant.
    :param now: the time.
    :param quota: the quota of the connection.
    """
    runs, looks, table = schema.runs, schema.looks, schema.deletions
    count, latest = connection.execute(select(func.count(), func.max(runs.c.started_at))).one()
    counting = and_(table.c.status.in_(ASKED_FOR), table.c.superseded.is_(False))
    presences = select(table.c.presence, func.count().label("devices")).where(counting).group_by(table.c.presence)
    counts = {row.presence: row.devices for row in connection.execute(presences)}

    def first(presence: str, order: Any) -> list[Any]:
        found = select(table.c.uid, table.c.name, table.c.requested_at, table.c.returned_at)
        return list(
            connection.execute(found.where(counting, table.c.presence == presence).order_by(order).limit(_LISTED))
        )

    return LedgerReport(
        instance=instance,
        now=now,
        runs=(count, latest),
        looked_at=connection.execute(select(func.max(looks.c.looked_at))).scalar(),
        seats=seats_by_period(connection, "month"),
        quota=quota,
        quota_used=quota_used(connection, quota, now) if quota else 0,
        unseen=counts.get(None, 0),
        still_present=(
            counts.get(Presence.STILL_PRESENT.value, 0),
            first(Presence.STILL_PRESENT.value, table.c.requested_at),
        ),
        returned=(counts.get(RETURNED, 0), first(RETURNED, table.c.returned_at.desc())),
        lists=_lists(connection),
    )


def _lists(connection: Connection) -> list[Any]:
    marks, list_runs = schema.marks, schema.list_runs
    runs = select(list_runs.c.list_name, func.max(list_runs.c.seen_at).label("latest")).group_by(list_runs.c.list_name)
    latest = {row.list_name: row.latest for row in connection.execute(runs)}
    found = connection.execute(
        select(marks.c.list_name, func.count(), func.min(marks.c.marked_at)).group_by(marks.c.list_name)
    )
    marked = {name: (count, first) for name, count, first in found}
    return [(name, *marked.get(name, (0, None)), latest[name]) for name in sorted(latest)]


def history_of(connection: Connection, device: str) -> list[dict[str, Any]]:
    """Return every deletion of a device that was asked for, and by whom, the first at the top.

    :param connection: of the ledger.
    :param device: its uid, or its name to the letter.
    """
    table, runs = schema.deletions, schema.runs
    uid = canonical_uid(device)
    # Names are compared here again: MySQL ignores their case.
    found = (
        select(table, runs.c.dag_id, runs.c.dag_run_id, runs.c.task_id, runs.c.triggered_by, runs.c.reason.label("why"))
        .select_from(table.join(runs, runs.c.id == table.c.run_id))
        .where(table.c.uid == uid if uid else table.c.name == device)
        .order_by(table.c.requested_at, table.c.run_id)
    )
    return [dict(row._mapping) for row in connection.execute(found) if uid or row.name == device]


def marks_of(connection: Connection, device: str) -> list[dict[str, Any]]:
    """Return the lists in quarantine that a device is on.

    :param connection: of the ledger.
    :param device: its uid, or its name to the letter.
    """
    marks = schema.marks
    uid = canonical_uid(device)
    found = select(marks).where(marks.c.uid == uid if uid else marks.c.name == device).order_by(marks.c.list_name)
    return [dict(row._mapping) for row in connection.execute(found) if uid or row.name == device]


def as_data(report: LedgerReport) -> dict[str, Any]:
    """Return a report for other programs: plain JSON values, and times.

    :param report: the report.
    """

    def devices(found: tuple[int, list[Any]]) -> dict[str, Any]:
        return {"devices": found[0], "first": [dict(row._mapping) for row in found[1]]}

    return {
        "instance": report.instance,
        "now": report.now,
        "runs": report.runs[0],
        "latest_run_at": report.runs[1],
        "looked_at": report.looked_at,
        "quota": report.quota.as_dict(report.quota_used) if report.quota else None,
        "seats": report.seats,
        "still_present": devices(report.still_present),
        "returned": devices(report.returned),
        "not_looked_at": report.unseen,
        "lists": [
            {"list_name": name, "devices": count, "first_marked_at": first, "latest_run_at": latest}
            for name, count, first, latest in report.lists
        ],
    }


def render_report(report: LedgerReport) -> str:
    """Return a report as text for a terminal.

    :param report: the report.
    """
    return "\n".join(_report_lines(report)) + "\n"


def _report_lines(report: LedgerReport) -> Iterator[str]:
    count, latest = report.runs
    yield f"Ledger of {report.instance}, {_time(report.now)}"
    yield f"  runs                {count}" + (f", the latest of {_time(latest)}" if latest else "")
    yield f"  latest look         {_time(report.looked_at)}"
    if report.quota:
        quota = "{devices} devices in {days} days: {used} used, {left} left"
        yield f"  quota               {quota.format(**report.quota.as_dict(report.quota_used))}"
    yield ""
    yield "Seats won"
    yield "  month    scheduled     gone  returned      net"
    totals = {word: sum(row[word] for row in report.seats) for word in ("scheduled", "gone", "returned", "net")}
    for row in [*report.seats, {"month": "total", **totals}]:
        yield f"  {row['month']:7}{row['scheduled']:>11}{row['gone']:>9}{row['returned']:>10}{row['net']:>9}"
    for title, (number, devices), column in (
        ("Still present", report.still_present, "requested_at"),
        ("Back again", report.returned, "returned_at"),
    ):
        yield ""
        yield f"{title}: {number}"
        for device in devices:
            yield f"  {device.uid}  {_time(getattr(device, column))}  {device.name}"
        if number > len(devices):
            yield f"  and {number - len(devices)} more"
    yield ""
    yield f"Not looked at yet: {report.unseen}"
    yield ""
    yield "In quarantine" if report.lists else "In quarantine: none"
    for name, devices, first, seen_at in report.lists:
        since = f", the first since {_time(first)}" if first else ""
        yield f"  {name}: {devices} devices{since}; latest run {_time(seen_at)}"


def render_history(device: str, deletions: list[dict[str, Any]], marks: list[dict[str, Any]]) -> str:
    """Return the history of a device as text for a terminal.

    :param device: its uid or its name.
    :param deletions: what ``history_of`` returned.
    :param marks: what ``marks_of`` returned.
    """
    lines = [f"{device}: {len(deletions)} deletions in the ledger"]
    for row in deletions:
        where = ".".join(filter(None, (row["dag_id"], row["task_id"]))) or "a program outside Airflow"
        lines += [
            f"{_time(row['requested_at'])}  {row['status']}  {row['name']} ({row['uid']})",
            f"  by   {row['triggered_by'] or 'unknown'}, {where}, run {row['dag_run_id'] or row['run_id']}",
            f"  why  {row['why'] or 'no reason given'}",
        ]
        if row["reason"]:
            lines.append(f"  said {row['reason']}")
        if row["superseded"]:
            lines.append("  then asked for again by a later try of the task")
        if row["gone_at"]:
            lines.append(f"  gone on {_time(row['gone_at'])}")
        if row["returned_at"]:
            lines.append(f"  back on {_time(row['returned_at'])}")
        if row["presence"] == Presence.STILL_PRESENT:
            lines.append(f"  still present on {_time(row['looked_at'])}")
    lines += [
        f"In quarantine on the list {mark['list_name']} since {_time(mark['marked_at'])}, {mark['sightings']} sightings"
        for mark in marks
    ]
    return "\n".join(lines) + "\n"


def _time(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"
