"""How long a device has not been seen: found in a list by the name of its column, as days or as a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

from airflow_provider_nexthink.devices.columns import MissingColumnError, find_column
from airflow_provider_nexthink.devices.identity import is_missing
from airflow_provider_nexthink.exceptions import NexthinkInputError

DAYS_COLUMNS = ("dayssincelastseen", "devicedayssincelastseen")
"""The column with an age in days: NQL's ``device.days_since_last_seen``, which needs no time zone."""

TIME_COLUMNS = ("lastseen", "devicelastseen")
"""The column, if there is none with an age, with the time at which a device was last seen."""

PLACEHOLDER_AGE = timedelta(days=50 * 365)
"""Ages from here on are placeholders for a missing age: 1970-01-01, 0001-01-01, 999999 days."""


def read_ages(devices: Any, age_column: str | None) -> list[timedelta | datetime | None]:
    """Return how long ago, or when, each device was last seen; None if that is unknown.

    :param devices: a DataFrame, an Arrow table, or a list of mappings.
    :param age_column: the column with days or times; None to find it by its name.
    :raises NexthinkInputError: if the column is missing, has a time without a time zone, or has both days and times,
        which could not be compared.
    """
    try:
        column, has_days = find_column(devices, "age", age_column, DAYS_COLUMNS), True
    except MissingColumnError:
        column, has_days = find_column(devices, "age", age_column, TIME_COLUMNS), False
    ages = [_read_age(cell, has_days) for cell in column.cells]
    if {type(age) for age in ages} >= {timedelta, datetime}:
        raise NexthinkInputError(f"The column {column.label!r} has both days and times: use only one of them.")
    return ages


def _read_age(cell: Any, may_be_days: bool) -> timedelta | datetime | None:
    if is_missing(cell) or isinstance(cell, bool):
        return None
    if isinstance(cell, str):
        cell = _number_or_time(cell.strip())
    if isinstance(cell, datetime):
        if cell.tzinfo is None:
            raise NexthinkInputError(
                f"{cell} has no time zone: how long ago that was is ambiguous. Use device.days_since_last_seen, or add "
                "the time zone first."
            )
        return cell
    if isinstance(cell, date):
        raise NexthinkInputError(f"{cell} is a date without a time and a time zone: use device.days_since_last_seen.")
    try:
        days = float(cell)
        return timedelta(days=days) if days >= 0 and may_be_days else None
    except (TypeError, ValueError, OverflowError):
        return None


def _number_or_time(text: str) -> float | datetime | None:
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return None


def count_back(ages: Iterable[timedelta | datetime | None], now: datetime | None) -> list[timedelta | None]:
    """Turn times into ages, and placeholders into unknown ages.

    :param ages: what ``read_ages`` returned.
    :param now: the time to count back from; needed only if there are times.
    :raises NexthinkInputError: if there are times but no ``now`` with its time zone.
    """
    counted = []
    for age in ages:
        if isinstance(age, datetime):
            if now is None or now.tzinfo is None:
                raise NexthinkInputError(
                    "Ages that are times need now=..., a time with its time zone, to count back from."
                )
            age = now - age
        counted.append(age if age is not None and age < PLACEHOLDER_AGE else None)
    return counted
