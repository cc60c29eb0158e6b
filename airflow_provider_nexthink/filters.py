"""Pure functions that select devices from a DataFrame, an Arrow table or a list of mappings.

The result has the form of the input, with its rows unchanged and in order; an iterator becomes a list. Columns are
found by name, as for a deletion. If in doubt, a device is *not* among those that may be deleted. ::

    from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for

    age = not_seen_for(rows, days=90)
    names = newest_of_each_name(age.stale)
    may_go = anti_join(age.stale, names.newest)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

from airflow_provider_nexthink.deletion.options import check_column, read_number
from airflow_provider_nexthink.devices.ages import PLACEHOLDER_AGE, count_back, read_ages
from airflow_provider_nexthink.devices.columns import NAME_COLUMNS, UID_COLUMNS, Column, find_column, uid_kind
from airflow_provider_nexthink.devices.frames import filter_table, is_arrow, is_table, load_reader
from airflow_provider_nexthink.devices.identity import canonical_uid, fold_case, is_missing, normal_forms
from airflow_provider_nexthink.devices.rows import check_single_values
from airflow_provider_nexthink.exceptions import NexthinkInputError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = [
    "PLACEHOLDER_AGE",
    "ByAge",
    "ByName",
    "Devices",
    "anti_join",
    "newest_of_each_name",
    "not_seen_for",
    "still_stale",
]

Devices = TypeVar("Devices", "pd.DataFrame", "pl.DataFrame", "list[dict[str, Any]]")
"""Devices as a DataFrame (pandas, Modin, polars), or as a list of mappings. Arrow data works as well."""

_OTHER_KINDS = "*"


class ByAge(NamedTuple, Generic[Devices]):
    """Devices by when they were last seen."""

    stale: Devices
    """Not seen for that long, or longer."""
    recent: Devices
    """Seen more recently."""
    unknown: Devices
    """The age is missing or unreadable."""


class ByName(NamedTuple, Generic[Devices]):
    """Devices by whether other devices have the same name."""

    newest: Devices
    """Of several devices with one name, the one last seen; every device that is not certainly older than another."""
    older: Devices
    """Of several devices with one name, those certainly last seen before another."""
    single: Devices
    """Devices whose name is unique, and devices without a name."""


def not_seen_for(
    devices: Devices,
    days: float | Decimal | Mapping[str, float | Decimal],
    *,
    by: str | None = None,
    age_column: str | None = None,
    now: datetime | None = None,
) -> ByAge[Devices]:
    """Split devices into those not seen for a number of days, those seen more recently, and those of unknown age.

    With one number of days for each kind of device, a device is ``unknown`` as well if its kind is not listed and
    there is no ``"*"``. A device whose kind is missing, blank or not text may be of any kind: with ``"*"`` the largest
    of all numbers holds for it, so that none is stale that its own kind would keep; without ``"*"`` it is ``unknown``.

    :param devices: a DataFrame, an Arrow table, or a list of mappings.
    :param days: the age, in days, from which a device is stale; or one for each kind of device, ``"*"`` for every other
        kind: ``{"windows": 90, "macos": 120, "*": 180}``. Kinds are compared whatever their case and surrounding
        blanks.
    :param by: the column with the kind, such as ``device.operating_system.platform``; required for ``days`` by kind.
    :param age_column: the column with the age (days, as a number or text), or with the time when the device was last
        seen (``datetime``, or ISO 8601 text); None for ``days_since_last_seen``, else ``last_seen``.
    :param now: the time to count back from, with its time zone; needed only if the column has times.
    :return: the devices, ``stale``, ``recent`` and ``unknown``.
    :raises NexthinkInputError: if a column is missing, ``days`` has something other than a number of days, names no
        kind or one of them twice, is by kind without ``by`` or the reverse, a time has no time zone, or there are
        times but no ``now``.
    """
    limits: Iterable[timedelta | None]
    if isinstance(days, Mapping):
        days_of_kind = _read_days_by_kind(days, by)
        devices = _reread(devices)
        limits = _limits_by_kind(_kinds(devices, by), days_of_kind)
    else:
        if by is not None:
            raise NexthinkInputError(
                f"by is {by!r}, but days is one number: by is for days by kind, such as "
                "days={'windows': 90, 'macos': 120, '*': 180}."
            )
        limits = repeat(_read_days("days", days))
        devices = _reread(devices)
    groups = [
        "unknown" if age is None or limit is None else "stale" if age >= limit else "recent"
        for age, limit in zip(
            count_back(read_ages(devices, age_column), now), limits, strict=False
        )  # repeat() is endless
    ]
    return ByAge(*_split(devices, groups, ByAge._fields))


def newest_of_each_name(
    devices: Devices, *, name_column: str | None = None, age_column: str | None = None
) -> ByName[Devices]:
    """Split devices that share a name into the newest and the older ones.

    Names are the same only if they are equal, including their case. Which device is newest is certain only if the ages
    are known and differ: a device without an age is never ``older``, and of two with the same age neither is.

    :param devices: a DataFrame, an Arrow table, or a list of mappings.
    :param name_column: the column with the name; None to find it.
    :param age_column: the column with the age, as for ``not_seen_for``.
    :return: the devices, ``newest``, ``older`` and ``single``.
    :raises NexthinkInputError: if a column is missing, or a time has no time zone.
    """
    devices = _reread(devices)
    names = [_text(cell) for cell in _find(devices, "name", name_column).cells]
    read = read_ages(devices, age_column)
    # Only the order of the ages counts, so any time will do to count back from.
    ages = count_back(read, max((age for age in read if isinstance(age, datetime)), default=None))
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
    """Return the devices that are not in another list.

    Names are compared as exclusions compare them: ignoring case, surrounding blanks, invisible characters, and the
    variants of letters, digits and hyphens.

    :param devices: a DataFrame, an Arrow table, or a list of mappings.
    :param others: the devices to subtract: a DataFrame, an Arrow table, a list of mappings, of tuples with one value
        each (as a SQL hook returns them), or a collection of uids or names. If it has no rows, all devices are
        returned: check first whether it may be empty. An iterator without rows is an error, since it may have been
        read before.
    :param on: compare by ``uid`` or by ``name``.
    :return: those of ``devices``, in their form and order.
    :raises NexthinkInputError: if the column is missing, ``others`` is none of these, has something other than a uid
        (or a name) or only rows without one, or the two lists have different kinds of uid.
    """
    if on not in _KEYS:
        raise NexthinkInputError(f"on is {on!r}: it takes 'uid' or 'name'.")
    devices = _reread(devices)
    keys, _ = _KEYS[on]
    mine, theirs = _find(devices, on), _find(others, on)
    if isinstance(others, Iterator) and not theirs.cells:
        raise NexthinkInputError(
            "The other list is an iterator that gives no rows. If it was read before, nothing would be "
            "subtracted. Pass a list."
        )
    _check_one_kind(on, mine, theirs)
    cells = [cell for cell in theirs.cells if not is_missing(cell) and cell != ""]
    there = {key for cell in cells for key in _keys_of(cell, on, keys)}
    if theirs.cells and not there:
        raise NexthinkInputError(
            f"The other list has {len(theirs.cells)} rows, but no {on} in any of them: nothing would be subtracted. "
            f"Give it the {on} of each device."
        )
    if on == "name" and there and all(map(canonical_uid, there)):
        raise NexthinkInputError("The other list has uids, not names: nothing would be subtracted. Use on='uid'.")
    return _where(devices, [there.isdisjoint(keys(cell)) for cell in mine.cells])


def still_stale(devices: Devices, look: object) -> Devices:
    """Return the devices that a new result of the same query has too: the same uid with the same name.

    :param devices: a DataFrame, an Arrow table, or a list of mappings, selected or approved some time ago.
    :param look: the current result of the query, in any of these forms.
    :return: those of ``devices``, in their form and order.
    :raises NexthinkInputError: if a column is missing, ``look`` is none of these, or the two lists have different kinds
        of uid.
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
    """Return devices in a form that can be read more than once: an iterator becomes a list, a reader a table."""
    devices = load_reader(devices)
    return list(devices) if isinstance(devices, Iterator) else devices


def _find(devices: object, what: Literal["uid", "name"], column: str | None = None) -> Column:
    """Find the column with the uid or the name, which must have one value in each row."""
    found = find_column(devices, what, column, _KEYS[what][1])
    check_single_values(found.cells, what, "the list")
    return found


def _check_one_kind(on: str, mine: Column, theirs: Column) -> None:
    """Refuse to compare uids of devices with uids of Collectors: none would match."""
    kinds = {uid_kind(column.label): column.label for column in (mine, theirs) if on == "uid"}
    kinds.pop(None, None)
    if len(kinds) > 1:
        raise NexthinkInputError(
            f"The uid is in {' and in '.join(repr(label) for label in kinds.values())}: these are different kinds of "
            "uid, and none would match. Use the same kind in both lists."
        )


def _keys_of(cell: object, what: str, keys: Callable[[object], Collection[str]]) -> Collection[str]:
    if not (found := keys(cell)):
        raise NexthinkInputError(
            f"The other list has {cell!r:.60}, which is not a {what}, so it cannot be compared. Fix the list, or drop "
            "that row."
        )
    return found


def _text(cell: object) -> str | None:
    return str.__str__(cell) if isinstance(cell, str) else None


def _uids(cell: object) -> Collection[str]:
    return () if (uid := canonical_uid(cell)) is None else (uid,)


def _names(cell: object) -> Collection[str]:
    return normal_forms(cell) if isinstance(cell, str) else ()


_KEYS: dict[str, tuple[Callable[[object], Collection[str]], Collection[str]]] = {
    "uid": (_uids, UID_COLUMNS),
    "name": (_names, NAME_COLUMNS),
}


def _read_days(option: str, value: object) -> timedelta:
    """Return a number of days as a time span.

    :param option: its name, for the error.
    :param value: what was given.
    :raises NexthinkInputError: if it is not a number of days, 0 or more.
    """
    number = math.nan if isinstance(value, str) else read_number(value)
    if not 0 <= number <= timedelta.max.days:
        raise NexthinkInputError(f"{option} is {value!r}: it takes a number of days, 0 or more.")
    return timedelta(days=number)


def _read_days_by_kind(days: Mapping[str, float | Decimal], by: str | None) -> dict[str, timedelta]:
    """Return the age from which each kind of device is stale.

    :param days: as ``not_seen_for`` takes it.
    :param by: the column with the kind.
    :raises NexthinkInputError: if one of them cannot take effect.
    """
    if by is None:
        raise NexthinkInputError(
            "days is by kind, but which column has the kind? Set by, such as by='device.operating_system.platform'."
        )
    check_column("by", by)
    if not days:
        raise NexthinkInputError("days is an empty mapping: name a kind, or '*' for every kind.")
    read: dict[str, timedelta] = {}
    for kind, value in days.items():
        if not isinstance(kind, str) or not kind.strip():
            raise NexthinkInputError(f"days has {kind!r} as a kind: it takes text, or '*' for every other kind.")
        if (folded := fold_case(kind)) in read:
            raise NexthinkInputError(f"days names the kind {kind!r} twice (case does not matter): which days count?")
        read[folded] = _read_days(f"days[{kind!r}]", value)
    return read


def _kinds(devices: Any, by: str | None) -> list[str | None]:
    """Return the kind of each device, folded; None where it is missing, blank or not text."""
    column = find_column(devices, "kind", by, ())
    if column.label is None and column.cells:
        raise NexthinkInputError(f"devices is a list of single values, without a column {by!r} (by).")
    return [fold_case(cell) or None if isinstance(cell, str) else None for cell in column.cells]


def _limits_by_kind(kinds: Iterable[str | None], days: dict[str, timedelta]) -> list[timedelta | None]:
    """Return the age from which each device is stale; None where that is not known."""
    others = days.get(_OTHER_KINDS)
    of_unknown_kind = None if others is None else max(days.values())
    return [of_unknown_kind if kind is None else days.get(kind, others) for kind in kinds]


def _split(devices: Any, groups: list[str], names: Iterable[str]) -> list[Any]:
    """Return the devices of each group, in the order of the names."""
    return [_where(devices, [group == name for group in groups]) for name in names]


def _where(devices: Devices, mask: list[bool]) -> Devices:
    """Return the rows that the mask selects, in the form of the devices."""
    anything: Any = devices
    if is_table(devices) or is_arrow(devices):
        rows: Any = filter_table(devices, mask)
    else:
        rows = [row for row, is_in in zip(anything, mask, strict=True) if is_in]
    return cast("Devices", rows)
