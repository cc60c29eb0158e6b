"""Whether a look at the inventory has the whole of it: with a query for some devices, all others would seem gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger.schema import deletions, looks, runs
from airflow_provider_nexthink.ledger.statements import ASKED_FOR, PRUNED, REPEATED
from airflow_provider_nexthink.status import Presence

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from airflow_provider_nexthink.ledger.inventory import Inventory


def check_is_whole(connection: Connection, inventory: Inventory) -> None:
    """Refuse an inventory with less than half as many devices as the latest look, those to be deleted aside.

    :param connection: to the ledger.
    :param inventory: the inventory.
    :raises NexthinkInputError: if it has.
    """
    before = connection.execute(select(looks).order_by(looks.c.looked_at.desc(), looks.c.id.desc()).limit(1)).first()
    listed = len(inventory.days_unseen)
    if before is None or 2 * listed >= before.devices:
        return
    leaving = _count_leaving(connection, inventory.uid_kind)
    most = 2 * listed + leaving
    if before.devices <= most:
        return
    raise NexthinkInputError(
        f"{inventory.query_id} lists {listed} devices, and the look of {before.looked_at:%Y-%m-%d %H:%M} UTC "
        f"({before.query_id}) listed {before.devices}, of which {leaving} were to be deleted: that is not the whole "
        "inventory, and nothing was recorded. Name a query that lists every device. If so many devices have really "
        f"left, remove the looks before: the rows of {looks.name} with devices > {most}."
    )


def _count_leaving(connection: Connection, uid_kind: str | None) -> int:
    """Return how many devices were to be deleted, by this kind of uid or perhaps, and are not known to be gone."""
    wanted = [
        deletions.c.status.in_(ASKED_FOR),
        deletions.c.superseded.is_(False),
        deletions.c.uid != PRUNED,
        or_(deletions.c.presence.is_(None), deletions.c.presence.not_in((Presence.GONE.value, REPEATED))),
    ]
    if uid_kind:
        wanted.append(or_(runs.c.uid_kind.is_(None), runs.c.uid_kind == uid_kind))
    return int(
        connection.execute(
            select(func.count(deletions.c.uid.distinct()))
            .select_from(deletions.join(runs, runs.c.id == deletions.c.run_id))
            .where(*wanted)
        ).scalar_one()
    )
