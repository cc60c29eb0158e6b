"""What the statements of the ledger share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from airflow_provider_nexthink.status import Status

REQUESTED = "REQUESTED"
"""The status of a device from before the first request of its run until its outcome is known."""

ASKED_FOR = (Status.SCHEDULED.value, Status.UNKNOWN.value, REQUESTED)
"""The statuses of devices whose deletion was requested, or may have been."""

RETURNED = "RETURNED"
"""The presence of a device that was gone, and is in the inventory again."""

REPEATED = "REPEATED"
"""The presence of a device that a later run has asked for again: what becomes of it is recorded there."""

PRUNED = ""
"""The uid and the name of a device that are not kept any more."""

IN_CHUNK = 500
"""How many values an ``IN (...)`` has: old versions of SQLite take 999 parameters."""

_Item = TypeVar("_Item")


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Return the items in chunks.

    :param items: the items.
    :param size: how many a chunk has at most.
    """
    return (items[start : start + size] for start in range(0, len(items), size))
