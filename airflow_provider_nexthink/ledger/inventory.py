"""The inventory of a tenant at one time, as a query lists it: what the deletions in the ledger are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_nexthink.devices.ages import count_back, read_ages
from airflow_provider_nexthink.devices.columns import NAME_COLUMNS, UID_COLUMNS, find_column, uid_kind
from airflow_provider_nexthink.devices.identity import as_str, canonical_uid
from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkInputError


@dataclass(frozen=True)
class Inventory:
    """Every device of a tenant.

    :param query_id: the query that lists them.
    :param days_unseen: by uid, for how many days each has not been seen, rounded up; None where that is not known.
    :param names: the names of all of them.
    :param uid_kind: which kind of uid it is, ``device`` or ``collector``; None where the query does not say.
    """

    query_id: str
    days_unseen: Mapping[str, float | None]
    names: Set[str]
    uid_kind: str | None


def read_inventory(rows: Any, *, query_id: str, uid_column: str | None = None, now: datetime) -> Inventory:
    """Read the result of a query that lists every device. A result that proves nothing is an error.

    :param rows: the rows of the result; a DataFrame, an Arrow table, or a list of mappings.
    :param query_id: the query.
    :param uid_column: the column with the uid; None to find it by its name.
    :param now: the time to count back from, for a column with times.
    :raises NexthinkExportError: if there are no rows.
    :raises NexthinkInputError: if the result was cut off, or its uids are none.
    """
    if getattr(rows, "truncated", False):
        raise NexthinkInputError(
            f"The result of {query_id} was cut off: it proves that no device is gone. Export the whole list of devices."
        )
    if not len(rows):
        raise NexthinkExportError(f"{query_id} lists no device at all: that proves nothing.")
    column = find_column(rows, "uid", uid_column, UID_COLUMNS)
    uids = [canonical_uid(cell) for cell in column.cells]
    if None in uids:
        raise NexthinkInputError(
            f"The column {column.label!r} of {query_id} has values that are no uid: that proves nothing. List the uid "
            "that the devices were deleted by, or name its column with uid_column."
        )
    names: list[Any] = []
    with suppress(NexthinkInputError):  # a result without names is fine
        names = find_column(rows, "name", None, NAME_COLUMNS).cells
    days: list[float | None] = [None] * len(uids)
    with suppress(NexthinkInputError):  # and so is one without ages
        ages = count_back(read_ages(rows, None), now)
        days = [None if age is None else float(math.ceil(age.total_seconds() / 86400)) for age in ages]
    return Inventory(
        query_id,
        {uid: unseen for uid, unseen in zip(uids, days, strict=True) if uid},
        {as_str(name) for name in names if isinstance(name, str)},
        uid_kind(column.label),
    )
