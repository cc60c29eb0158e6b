"""The seats that deletions have won: devices that went, less those that came back, over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import func, select

from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.ledger.statements import RETURNED
from airflow_provider_nexthink.status import Presence, Status

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Period = Literal["week", "month"]

_PERIODS: dict[Period, Callable[[date], str]] = {
    "week": lambda day: "{}-W{:02}".format(*day.isocalendar()),
    "month": lambda day: f"{day:%Y-%m}",
}


def seats_by_period(connection: Connection, period: Period) -> list[dict[str, Any]]:
    """Return how many devices were scheduled, went and came back in each week or month (UTC), in order.

    :param connection: of the ledger.
    :param period: ``week`` (ISO 8601, such as 2026-W48) or ``month`` (2026-11).
    :return: one ``{period: ..., "requested", "gone", "returned", "net"}`` for each period in which something happened.
    """
    table = schema.deletions
    counts: dict[str, Counter[str]] = {"requested": Counter(), "gone": Counter(), "returned": Counter()}
    name_of = _PERIODS[period]
    for what, column, condition in (
        ("requested", table.c.requested_at, table.c.status == Status.SCHEDULED.value),
        ("gone", table.c.gone_at, table.c.presence.in_((Presence.GONE.value, RETURNED))),
        ("returned", table.c.returned_at, table.c.presence == RETURNED),
    ):
        # A run has one time for all its devices, and so has a look: few groups, and no function of one database.
        found = select(column, func.count()).where(condition, table.c.superseded.is_(False)).group_by(column)
        time: datetime
        for time, count in connection.execute(found):
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
