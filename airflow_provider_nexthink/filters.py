"""Small functions that choose among devices: pure, on DataFrames (pandas, polars) and on lists of mappings alike.

What goes in comes out in the same form, rows unchanged and in their order; columns are found by name as the
deletion finds them. In doubt a device is *not* among those that may go. ::

    from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for

    age = not_seen_for(rows, days=90)
    names = newest_of_each_name(age.stale)
    may_go = anti_join(age.stale, names.newest)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

from airflow_provider_nexthink.devices.columns import NAME_COLUMNS, UID_COLUMNS, Column, find_column, uid_kind
from airflow_provider_nexthink.devices.frames import filter_table, is_arrow, is_table, load_reader
from airflow_provider_nexthink.devices.identity import canonical_uid, is_missing, normalize_name
from airflow_provider_nexthink.devices.rows import check_single_values
from airflow_provider_nexthink.exceptions import NexthinkInputError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Devices = TypeVar("Devices", "pd.DataFrame", "pl.DataFrame", "list[dict[str, Any]]")
"""Devices as a DataFrame, or as a list of mappings."""

DAYS_COLUMNS = ("dayssincelastseen", "devicedayssincelastseen")
"""Where an age in days is found: NQL's ``device.days_since_last_seen``, which knows no time zone."""

TIME_COLUMNS = ("lastseen", "devicelastseen")
"""Where, if there is no such column, the time is found at which a device was last seen."""

PLACEHOLDER_AGE = timedelta(days=50 * 365)
"""What is older is no age but stands for none: 1970-01-01, 0001-01-01, 999999 days."""


class ByAge(NamedTuple, Generic[Devices]):
    """Devices by when they were last seen."""

    stale: Devices
    """Not seen for as long as was asked, or longer."""
    recent: Devices
    """Seen since."""
    unknown: Devices
    """The age is missing or unreadable: nobody can say."""


class ByName(NamedTuple, Generic[Devices]):
    """Devices by whether others have the same name."""

    newest: Devices
    """Of several with one name, the one last seen; all that are not certainly older than another."""
    older: Devices
    """Of several with one name, those last seen before another."""
    single: Devices
    """The only one with its name, or without a name."""


def not_seen_for(
    devices: Devices, days: float, *, age_column: str | None = None, now: datetime | None = None
) -> ByAge[Devices]:
    """Tell devices that were not seen for so many days from the others.

    :param devices: a DataFrame, or a list of mappings.
    :param days: so many days, or more, are stale.
    :param age_column: the column with the age, in days as number or text, or with the time when the device was last
        seen (``datetime``, or ISO 8601 text); None for ``days_since_last_seen``, else ``last_seen``.
    :param now: the moment that times count back from, with its zone; needed for times only.
    :return: the devices, ``stale``, ``recent`` and ``unknown``.
    :raises NexthinkInputError: if the column is not there, ``days`` is no number of days, a time has no zone, or
        there are times and no ``now``.
    """
    if isinstance(days, bool) or not isinstance(days, Real) or not 0 <= float(days) < math.inf:
        raise NexthinkInputError(f"days is {days!r}: it takes a number of days, 0 or more.")

    devices = _reread(devices)
    limit = timedelta(days=float(days))
    groups = [
        "unknown" if age is None else "stale" if age >= limit else "recent"
        for age in _count_back(_ages(devices, age_column), now)
    ]
    return ByAge(*_split(devices, groups, ByAge._fields))


def newest_of_each_name(
    devices: Devices, *, name_column: str | None = None, age_column: str | None = None
) -> ByName[Devices]:
    """Tell, of several devices with the same name, the newest from the older ones.

    Names are the same if they are to the letter. Who is newest is certain only where the ages are known and differ:
    a device without an age is never ``older``, and of two with the same age neither is.

    :param devices: a DataFrame, or a list of mappings.
    :param name_column: the column with the name; None to find it.
    :param age_column: the column with the age, as for ``not_seen_for``.
    :return: the devices, ``newest``, ``older`` and ``single``.
    :raises NexthinkInputError: if a column is not there, or a time has no zone.
    """
    devices = _reread(devices)
    names = [_text(cell) for cell in _find(devices, "name", name_column).cells]
    read = _ages(devices, age_column)
    # Only the order of the ages counts, so any moment will do to count back from.
    ages = _count_back(read, max((age for age in read if isinstance(age, datetime)), default=None))
    least: dict[str, timedelta] = {}
    count: dict[str, int] = {}
    for name, age in zip(names, ages, strict=True):
        if name:
            count[name] = count.get(name, 0) + 1
            if age is not None:
                least[name] = min(age, least.get(name, age))

    def group(name: str | None, age: timedelta | None) -> str:
        if not name or count[name] == 1:
            return "single"
        return "older" if age is not None and age > least[name] else "newest"

    return ByName(*_split(devices, list(map(group, names, ages)), ByName._fields))


def anti_join(devices: Devices, others: object, *, on: Literal["uid", "name"] = "uid") -> Devices:
    """Return the devices that do not stand in another list.

    Names are compared as exclusions compare them: without regard to case, blanks around them, invisible characters, and
    how letters, digits and hyphens are written.

    :param devices: a DataFrame, or a list of mappings.
    :param others: what stays out: a DataFrame, a list of mappings, of tuples with one value each (as a SQL hook gives
        them), or a plain collection of uids or names. Where it has no rows, all devices are returned: look first
        whether it is really meant to be empty.
    :param on: compare ``uid`` or ``name``.
    :raises NexthinkInputError: if the column is not there, ``others`` is no such list or holds something that is no
        uid (or no name), or the two lists hold different kinds of uid.
    """
    devices = _reread(devices)
    key, _ = _KEYS[on]
    mine, theirs = _find(devices, on), _find(others, on)
    if isinstance(others, Iterator) and not theirs.cells:
        raise NexthinkInputError(
            "The other list is an iterator that gives no rows. One that was read before looks the same, and nothing "
            "would be subtracted: Pass a list."
        )
    _check_one_kind(on, mine, theirs)
    there = {_key_of(cell, on, key) for cell in theirs.cells if not is_missing(cell) and cell != ""}
    return _where(devices, [key(cell) not in there for cell in mine.cells])


def still_stale(devices: Devices, look: object) -> Devices:
    """Return the devices that a fresh look finds too: the same uid under the same name.

    :param devices: a DataFrame, or a list of mappings: what was chosen, or approved, some time ago.
    :param look: the same query's result of now, a DataFrame or a list of mappings.
    :raises NexthinkInputError: if a column is not there, ``look`` is no list, or the two hold different kinds of uid.
    """
    devices = _reread(devices)
    uids, names = _find(devices, "uid"), _find(devices, "name")
    look = _reread(look)
    uids_now, names_now = _find(look, "uid"), _find(look, "name")
    _check_one_kind("uid", uids, uids_now)
    now = set(zip(map(canonical_uid, uids_now.cells), map(_text, names_now.cells), strict=True))
    pairs = zip(map(canonical_uid, uids.cells), map(_text, names.cells), strict=True)
    return _where(devices, [None not in pair and pair in now for pair in pairs])


def _reread(devices: Any) -> Any:
    """Return devices that can be read more than once: what gives its rows only once becomes a list or a table."""
    devices = load_reader(devices)
    return list(devices) if isinstance(devices, Iterator) else devices


def _find(devices: object, what: Literal["uid", "name"], column: str | None = None) -> Column:
    """Find the column with the uid or the name, one value in each row."""
    found = find_column(devices, what, column, _KEYS[what][1])
    check_single_values(found.cells, what)
    return found


def _check_one_kind(on: str, mine: Column, theirs: Column) -> None:
    """Refuse to compare the uids of devices with those of their Collectors: no device would be found."""
    kinds = {uid_kind(column.label): column.label for column in (mine, theirs) if on == "uid"}
    kinds.pop(None, None)
    if len(kinds) > 1:
        raise NexthinkInputError(
            f"The uid is in {' and in '.join(repr(label) for label in kinds.values())}: these are different kinds of "
            "uid, and comparing them would find nothing. Give both lists the same one."
        )


def _key_of(cell: object, what: str, key: Callable[[Any], str | None]) -> str:
    if (found := key(cell)) is None:
        raise NexthinkInputError(
            f"The other list holds {cell!r:.60}, which is no {what}: nothing can be compared with that. Mend the list, "
            "or leave that row out."
        )
    return found


def _text(cell: object) -> str | None:
    return str.__str__(cell) if isinstance(cell, str) else None


def _normalized(cell: object) -> str | None:
    return normalize_name(cell) if isinstance(cell, str) else None


_KEYS: dict[str, tuple[Callable[[Any], str | None], Collection[str]]] = {
    "uid": (canonical_uid, UID_COLUMNS),
    "name": (_normalized, NAME_COLUMNS),
}


def _ages(devices: Any, age_column: str | None) -> list[timedelta | datetime | None]:
    """Read how long ago, or when, each device was last seen; None where that is not known.

    :raises NexthinkInputError: also if a column holds both: which is newer could not be told.
    """
    try:
        column, has_days = find_column(devices, "age", age_column, DAYS_COLUMNS), True
    except NexthinkInputError:
        column, has_days = find_column(devices, "age", age_column, TIME_COLUMNS), False
    ages = [_read_age(cell, has_days) for cell in column.cells]
    if {type(age) for age in ages} >= {timedelta, datetime}:
        raise NexthinkInputError(f"The column {column.label!r} has both days and times: give it one of the two.")
    return ages


def _read_age(cell: Any, may_be_days: bool) -> timedelta | datetime | None:
    if is_missing(cell) or isinstance(cell, bool):
        return None
    if isinstance(cell, str):
        cell = _number_or_time(cell.strip())
    if isinstance(cell, datetime):
        if cell.tzinfo is None:
            raise NexthinkInputError(
                f"{cell} has no time zone: how long ago that was is not clear. Use device.days_since_last_seen, or "
                "give the times their zone first."
            )
        return cell
    if isinstance(cell, date):
        raise NexthinkInputError(f"{cell} is a day without a time and a zone: use device.days_since_last_seen.")
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


def _count_back(ages: Iterable[timedelta | datetime | None], now: datetime | None) -> list[timedelta | None]:
    """Turn times into ages, and what is too old to be true into what is not known."""
    counted = []
    for age in ages:
        if isinstance(age, datetime):
            if now is None or now.tzinfo is None:
                raise NexthinkInputError("Ages that are times need now=..., a time with its zone, to count back from.")
            age = now - age
        counted.append(age if age is not None and age < PLACEHOLDER_AGE else None)
    return counted


def _split(devices: Any, groups: list[str], names: Iterable[str]) -> list[Any]:
    """Return the devices of each group."""
    return [_where(devices, [group == name for group in groups]) for name in names]


def _where(devices: Devices, mask: list[bool]) -> Devices:
    """Return the rows that the mask names, in the form that the devices have."""
    anything: Any = devices
    if is_table(devices) or is_arrow(devices):
        rows: Any = filter_table(devices, mask)
    else:
        rows = [row for row, is_in in zip(anything, mask, strict=True) if is_in]
    return cast("Devices", rows)
