"""The fleet as a saved query counts or lists it, just before a deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import isnan

from airflow_provider_nexthink.api.nql import NqlRows, NqlStream
from airflow_provider_nexthink.deletion.options import read_number, read_whole_number
from airflow_provider_nexthink.devices.columns import UID_COLUMNS, normalize_label
from airflow_provider_nexthink.devices.identity import canonical_uid
from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkInputError
from airflow_provider_nexthink.ledger.inventory import read_inventory

_HINT = (
    "fleet_query_id takes a query that gives one number, such as `devices | summarize devices_in_fleet = count()`, or "
    "that lists every device with its uid. This try sent nothing."
)


@dataclass(frozen=True)
class FleetLook:
    """What a look at the fleet has found.

    :param count: how many devices there are.
    :param looked_at: when the look began.
    :param days_unseen: by uid, for how many days each device has not been seen, rounded up, None where that is not
        known; None if the query gives only their number.
    :param uid_kind: which kind of uid these are, ``device`` or ``collector``; None where the query does not say.
    """

    count: int
    looked_at: datetime
    days_unseen: Mapping[str, float | None] | None = None
    uid_kind: str | None = None


def read_fleet(rows: NqlRows, *, query_id: str, looked_at: datetime) -> FleetLook:
    """Read the result of a query that counts or lists the fleet.

    :param rows: the whole result.
    :param query_id: the query.
    :param looked_at: when the query was started.
    :raises NexthinkExportError: if it gives no rows, or zero devices.
    :raises NexthinkInputError: if it gives neither a list of devices nor one number, or was cut off.
    """
    if rows.truncated:
        raise NexthinkInputError(f"The result of {query_id} was cut off, so it counts a part of the fleet. {_HINT}")
    uid = _uid_position(rows.columns, query_id)
    if uid is None or not rows:
        return FleetLook(FleetCount(len(rows), rows[0] if rows else {}).devices(query_id), looked_at)
    inventory = read_inventory(rows, query_id=query_id, uid_column=rows.columns[uid], now=looked_at)
    return FleetLook(len(inventory.days_unseen), looked_at, inventory.days_unseen, inventory.uid_kind)


def count_fleet(result: NqlStream, query_id: str) -> FleetCount:
    """Count the rows of a result as they arrive: 16 bytes of memory for each device.

    :param result: of a query that counts or lists the fleet.
    :param query_id: the query.
    :raises NexthinkInputError: if it lists no uids.
    """
    uid = _uid_position(result.columns, query_id)
    if uid is None:
        first = next(result.rows, [])
        count = sum(1 for _ in result.rows) + bool(first)
        return FleetCount(count, dict(zip(result.columns, first, strict=False)))
    uids = _DistinctUids()
    count = 0
    for count, cells in enumerate(result.rows, 1):
        if (canonical := canonical_uid(cells[uid])) is None:
            raise NexthinkInputError(
                f"The column {result.columns[uid]!r} of {query_id} has values that are no uid: {cells[uid][:80]!r} in "
                f"row {count}. {_HINT}"
            )
        uids.add(canonical)
    return FleetCount(count, uids=uids.count())


@dataclass(frozen=True)
class FleetCount:
    """What a result counts.

    :param rows: how many rows it has.
    :param first: the first of them, if they have no uid.
    :param uids: how many different uids they have; None if they have none.
    """

    rows: int
    first: Mapping[str, str] = field(default_factory=dict)
    uids: int | None = None

    def devices(self, query_id: str) -> int:
        """Return how many devices the fleet has.

        :param query_id: the query.
        :raises NexthinkExportError: if it gives no rows, or zero devices.
        :raises NexthinkInputError: if it gives neither a list of devices nor one number.
        """
        if not self.rows:
            raise NexthinkExportError(f"{query_id} gives no rows, so the size of the fleet is not known. {_HINT}")
        if self.uids is not None:
            return self.uids
        if self.rows > 1:
            raise NexthinkInputError(f"{query_id} gives {self.rows} rows without a uid. {_HINT}")
        return _number_in(self.first, query_id)


class _DistinctUids:
    """Counts uids, each once. They are sorted by their last byte into parts, of which one at a time is a set."""

    def __init__(self) -> None:
        self._parts = [bytearray() for _ in range(256)]

    def add(self, uid: str) -> None:
        packed = bytes.fromhex(uid.replace("-", ""))
        self._parts[packed[-1]] += packed

    def count(self) -> int:
        return sum(len({bytes(part[at : at + 16]) for at in range(0, len(part), 16)}) for part in self._parts)


def _uid_position(columns: list[str], query_id: str) -> int | None:
    """Return the position of the column with the uid; None if there is none."""
    found = [at for at, column in enumerate(columns) if normalize_label(column) in UID_COLUMNS]
    if len(found) > 1:
        raise NexthinkInputError(
            f"{query_id} has {' and '.join(repr(columns[at]) for at in found)}: list the uid that the devices are "
            f"deleted by, and no other. {_HINT}"
        )
    return found[0] if found else None


def _number_in(row: Mapping[str, str], query_id: str) -> int:
    """Return the one number of a row."""
    numbers = {column: cell for column, cell in row.items() if not isnan(read_number(cell))}
    if len(numbers) != 1:
        found = ", ".join(f"{column}={cell}" for column, cell in numbers.items()) or "no number"
        raise NexthinkInputError(f"{query_id} gives {found}, not one number. {_HINT}"[:1000])
    ((column, cell),) = numbers.items()
    count = read_whole_number(cell)
    if count is None or count < 0:
        raise NexthinkInputError(f"{query_id} gives {column}={cell}, which is no number of devices. {_HINT}")
    if count == 0:
        raise NexthinkExportError(f"{query_id} counts 0 devices, which cannot be the fleet. {_HINT}")
    return count
