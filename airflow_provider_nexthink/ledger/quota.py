"""The quota: how many devices all runs together may send in any window of so many days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from sqlalchemy import func, or_, select

from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.schema import runs

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class Quota:
    """A limit over all runs of a tenant.

    :param devices: the most devices that all runs together may send.
    :param days: in any window of so many days.
    """

    devices: int
    days: int

    @classmethod
    def of(cls, devices: int | None, days: int | None) -> Self | None:
        """Return the quota of a connection; None if it has none.

        :param devices: its extra ``quota_devices``.
        :param days: its extra ``quota_days``.
        """
        return None if devices is None or days is None else cls(devices, days)

    def as_dict(self, used: int) -> dict[str, int]:
        """Return the quota as plain JSON values.

        :param used: how many devices count against it now.
        """
        return {"devices": self.devices, "days": self.days, "used": used, "left": max(0, self.devices - used)}


def quota_used(connection: Connection, quota: Quota, now: datetime) -> int:
    """Return how many devices count against a quota now.

    A run counts from its reservation until ``quota.days`` after its end, so that no window holds more than the quota
    whatever the length of the run. What a run has not sent counts no more once it has ended.

    :param connection: to the ledger.
    :param quota: the limit.
    :param now: the time.
    """
    used = connection.execute(
        select(func.sum(runs.c.charged)).where(
            or_(runs.c.finished_at.is_(None), runs.c.finished_at > now - timedelta(days=quota.days))
        )
    ).scalar()
    return int(used or 0)


def check_quota(connection: Connection, quota: Quota, now: datetime, wanted: int) -> None:
    """Abort if these devices would exceed the quota.

    :param connection: to the ledger, whose lock it holds.
    :param quota: the limit.
    :param now: the time.
    :param wanted: how many devices are about to be sent.
    :raises NexthinkGuardError: if that is more than is left; says how much is left, and when there is more.
    """
    used = quota_used(connection, quota, now)
    left = max(0, quota.devices - used)
    if wanted <= left:
        return
    raise NexthinkGuardError(
        f"The list would delete {wanted} devices, and {left} are left of the quota of the connection: quota_devices="
        f"{quota.devices} in quota_days={quota.days} for all runs of this tenant, {used} of them used. "
        f"{_when_there_is_more(connection, quota, now, wanted)} This try sent nothing. Shorten the list, wait, or have "
        "the quota raised on the connection; there is no undo.",
        planned=wanted,
        limit=left,
    )


def _when_there_is_more(connection: Connection, quota: Quota, now: datetime, wanted: int) -> str:
    if wanted > quota.devices:
        return "The list alone is larger than the whole quota."
    rows = connection.execute(
        select(runs.c.finished_at, runs.c.charged)
        .where(runs.c.finished_at > now - timedelta(days=quota.days), runs.c.charged > 0)
        .order_by(runs.c.finished_at)
    )
    needed = wanted + quota_used(connection, quota, now) - quota.devices
    for finished_at, charged in rows:
        needed -= charged
        if needed <= 0:
            return f"From {finished_at + timedelta(days=quota.days):%Y-%m-%d %H:%M} UTC on there is room for it."
    return "Runs that have not ended hold the rest."
