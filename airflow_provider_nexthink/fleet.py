"""The fleet as a saved query counts or lists it, just before a deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isnan

from airflow_provider_nexthink.api.nql import NqlRows
from airflow_provider_nexthink.deletion.options import read_number, read_whole_number
from airflow_provider_nexthink.devices.columns import UID_COLUMNS, normalize_label
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
    if not rows:
        raise NexthinkExportError(f"{query_id} gives no rows, so the size of the fleet is not known. {_HINT}")
    uid_columns = [column for column in rows.columns if normalize_label(column) in UID_COLUMNS]
    if len(uid_columns) > 1:
        raise NexthinkInputError(
            f"{query_id} has {' and '.join(map(repr, uid_columns))}: list the uid that the devices are deleted by, and "
            f"no other. {_HINT}"
        )
    if uid_columns:
        inventory = read_inventory(rows, query_id=query_id, uid_column=uid_columns[0], now=looked_at)
        return FleetLook(len(inventory.days_unseen), looked_at, inventory.days_unseen, inventory.uid_kind)
    return FleetLook(_number_in(rows, query_id), looked_at)


def _number_in(rows: NqlRows, query_id: str) -> int:
    """Return the one number of a result."""
    if len(rows) > 1:
        raise NexthinkInputError(f"{query_id} gives {len(rows)} rows without a uid. {_HINT}")
    numbers = {column: cell for column, cell in rows[0].items() if not isnan(read_number(cell))}
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
