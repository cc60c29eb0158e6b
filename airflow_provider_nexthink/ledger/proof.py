"""The proof that a deletion removes something on this tenant: a device that was seen to go.

A device that has not been seen for a month or more may leave the inventory by itself (Nexthink keeps devices for about
30 to 90 days), and proves nothing. So a proof is a device that a look at the inventory found just before its deletion,
young enough to stay, and that a later look did not find. Where its age or its kind of uid is not known, the proof is
weak.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.schema import proofs
from airflow_provider_nexthink.ledger.statements import PRUNED

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

UNPROVEN_DEVICES = 5
"""The most devices that a run may send without a proof."""

STAYS_DAYS = 30.0
"""A device that has been unseen for less than this does not leave by itself (Nexthink's shortest retention)."""

JUST_BEFORE = timedelta(days=1)
"""The most time between the look that found a device and the request for its deletion."""

STRONG, WEAK = "strong", "weak"


def strength_of(
    *, seen_at: datetime | None, days_unseen: float | None, requested_at: datetime, gone_at: datetime | None
) -> str | None:
    """Return what a device proves that is gone: ``strong``, ``weak`` where its age is not known, or None for nothing.

    :param seen_at: the latest look that found it.
    :param days_unseen: how many days it had not been seen then.
    :param requested_at: when its deletion was requested.
    :param gone_at: the first look that did not find it.
    """
    if seen_at is None or gone_at is None or requested_at - seen_at > JUST_BEFORE or gone_at <= seen_at:
        return None
    if gone_at <= requested_at:
        return None
    if days_unseen is None:
        return WEAK
    return STRONG if days_unseen + (gone_at - seen_at) / timedelta(days=1) < STAYS_DAYS else None


def record_proof(
    connection: Connection,
    strength: str,
    *,
    uid_kind: str | None,
    uid: str,
    name: str,
    seen_at: datetime,
    days_unseen: float | None,
    requested_at: datetime,
    gone_at: datetime,
) -> None:
    """Record a proof, if there is none of its kind and strength yet.

    :param connection: to the ledger, whose lock it holds.
    :param strength: what ``strength_of`` returned.
    :param uid_kind: the kind of uid by which it was deleted; None if the column did not say.
    :param uid: of the device.
    :param name: of the device.
    :param seen_at: the latest look that found it.
    :param days_unseen: how many days it had not been seen then.
    :param requested_at: when its deletion was requested.
    :param gone_at: the first look that did not find it.
    """
    kind = uid_kind or "unknown"
    is_there = select(proofs.c.uid).where(proofs.c.uid_kind == kind, proofs.c.strength == strength)
    if connection.execute(is_there).first() is None:
        connection.execute(
            insert(proofs).values(
                uid_kind=kind,
                strength=strength,
                uid=uid,
                name=name,
                seen_at=seen_at,
                days_unseen=days_unseen,
                requested_at=requested_at,
                gone_at=gone_at,
            )
        )


def check_proof(connection: Connection, uid_kind: str | None, planned: int) -> str | None:
    """Abort if more than a few devices are to be sent before one of this kind of uid has been seen to go.

    :param connection: to the ledger.
    :param uid_kind: the kind of uid; None if the column does not say.
    :param planned: how many devices the run of the Dag would send.
    :return: a warning if the proof is weak.
    :raises NexthinkGuardError: if there is no proof; nothing was sent by this try.
    """
    kind = uid_kind or "unknown"
    found = {row.strength: row for row in connection.execute(select(proofs).where(proofs.c.uid_kind == kind))}
    if planned <= UNPROVEN_DEVICES or STRONG in found:
        return None
    if (weak := found.get(WEAK)) is not None:
        device = "a device that is pruned by now" if weak.uid == PRUNED else f"{weak.name} ({weak.uid})"
        why = (
            "how long it had not been seen is not known: it may have left by itself. Add device.days_since_last_seen "
            "to the query."
            if weak.days_unseen is None
            else "the kind of its uid is not known. Keep the name of the column, device.uid."
        )
        return (
            f"That deletions remove devices here is proven weakly only: {device} was there at "
            f"{weak.seen_at:%Y-%m-%d %H:%M} UTC and gone at {weak.gone_at:%Y-%m-%d %H:%M} UTC, but {why}"
        )
    column = {"device": "device.uid", "collector": "device.collector.uid"}.get(kind, "this column")
    raise NexthinkGuardError(
        f"The list would delete {planned} devices, and no device that was deleted by the uid of {column} has been seen "
        f"to go (require_proof of the connection). Until then a run sends at most {UNPROVEN_DEVICES}. This try sent "
        "nothing. Delete one device that is not stale and can be spared, with fleet_query_id set, and wait until it is "
        "gone (NexthinkDevicesGoneSensor or NexthinkReconcileOperator): the Dag nexthink_delete_canary_first does.",
        planned=planned,
        limit=UNPROVEN_DEVICES,
    )
