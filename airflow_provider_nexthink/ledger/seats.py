"""The seats that deletions have won: devices that went, less those that came back, over time.

A device holds at most one seat, whatever number of runs has asked for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import and_, func, insert, select

from airflow_provider_nexthink.ledger.schema import deletions, runs, seats
from airflow_provider_nexthink.ledger.statements import IN_CHUNK, chunks
from airflow_provider_nexthink.status import Presence

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

Period = Literal["week", "month"]

_PERIODS: dict[Period, Callable[[date], str]] = {
    "week": lambda day: "{}-W{:02}".format(*day.isocalendar()),
    "month": lambda day: f"{day:%Y-%m}",
}
_ROWS_AT_ONCE = 1_000  # MySQL limits the size of a statement


def record_seats(connection: Connection, looked_at: datetime, moves: Sequence[tuple[Row[Any], str]]) -> None:
    """Record the seats that were won, and those that are taken again.

    :param connection: to the ledger, whose lock it holds.
    :param looked_at: when the look began.
    :param moves: deletions whose devices have moved, as they were before, and the new presence of each.
    """
    holders = _holders(connection, [row.uid for row, _ in moves])
    changes = []
    for row, presence in sorted(moves, key=lambda move: int(move[0].run_id)):
        own = (row.run_id, row.seq)
        holder = holders.pop(row.uid, None)
        if presence == Presence.GONE:
            if holder is None:  # else it was gone already when it was asked for again
                changes.append((own, 1))
        elif holder is not None or row.presence == Presence.GONE:  # the deletion that holds the seat may be pruned
            changes.append((holder or own, -1))
    rows = [
        {"looked_at": looked_at, "run_id": run_id, "seq": seq, "seats": change} for (run_id, seq), change in changes
    ]
    for chunk in chunks(rows, _ROWS_AT_ONCE):
        connection.execute(insert(seats), list(chunk))


def _holders(connection: Connection, uids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the deletion of each device that has won a seat which was not taken again."""
    holders: dict[str, tuple[int, int]] = {}
    of_seat = and_(deletions.c.run_id == seats.c.run_id, deletions.c.seq == seats.c.seq)
    columns = (deletions.c.uid, seats.c.run_id, seats.c.seq)
    for chunk in chunks(uids, IN_CHUNK):
        found = connection.execute(
            select(*columns)
            .select_from(deletions.join(seats, of_seat))
            .where(deletions.c.uid.in_(chunk))
            .group_by(*columns)
            .having(func.sum(seats.c.seats) > 0)
        )
        holders |= {uid: (run_id, seq) for uid, run_id, seq in found}
    return holders


def seats_by_period(connection: Connection, period: Period) -> list[dict[str, Any]]:
    """Return how many deletions were scheduled, and devices went and came back, in each week or month (UTC), in order.

    :param connection: of the ledger.
    :param period: ``week`` (ISO 8601, such as 2026-W48) or ``month`` (2026-11).
    :return: one ``{period: ..., "scheduled", "gone", "returned", "net"}`` for each period in which something happened.
        A device that two runs have asked for is scheduled twice; it goes once.
    """
    counts: dict[str, Counter[str]] = {"scheduled": Counter(), "gone": Counter(), "returned": Counter()}
    name_of = _PERIODS[period]
    # A look has one time for all its devices: few groups, and no function of one database.
    scheduled = select(runs.c.started_at, runs.c.scheduled).where(runs.c.scheduled > 0)
    gone = select(seats.c.looked_at, func.count()).where(seats.c.seats > 0).group_by(seats.c.looked_at)
    returned = select(seats.c.looked_at, func.count()).where(seats.c.seats < 0).group_by(seats.c.looked_at)
    time: datetime
    for what, query in (("scheduled", scheduled), ("gone", gone), ("returned", returned)):
        for time, count in connection.execute(query):
            counts[what][name_of(time.date())] += count
    periods = sorted(set().union(*counts.values()))
    return [
        {
            period: name,
            **{what: counter[name] for what, counter in counts.items()},
            "net": counts["gone"][name] - counts["returned"][name],
        }
        for name in periods
    ]
