"""Check the options of the quarantine. Light: the operators check them while the Dag file is parsed."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from numbers import Real

from airflow_provider_nexthink.exceptions import NexthinkInputError

_LIST_NAME_CHARACTERS = 255
_MAX_GRACE = timedelta(days=3650)


def check_grace(value: object) -> timedelta:
    """Return the time for which a device is at least on the list before it is due.

    :param value: a ``timedelta``, or a number of days, which may be text.
    :raises NexthinkInputError: if it is neither, or negative.
    """
    grace = value
    if type(value) is not bool and isinstance(value, str | Real | Decimal):
        with suppress(ValueError, ArithmeticError):
            grace = timedelta(days=float(value))
    if isinstance(grace, timedelta) and timedelta(0) <= grace <= _MAX_GRACE:
        return grace
    raise NexthinkInputError(
        f"grace is {value!r}: it takes a timedelta, or a number of days, from 0 to {_MAX_GRACE.days}."
    )


def check_min_sightings(value: object) -> int:
    """Return how many runs a device is at least on the list before it is due.

    :param value: a whole number, which may be text.
    :raises NexthinkInputError: if it is not one, or below 1.
    """
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool) and number >= 1:
        return number
    raise NexthinkInputError(f"min_sightings is {value!r}: it takes a whole number, 1 or more.")


def check_list_name(value: object) -> str:
    """Return the name of a list in quarantine.

    :param value: text.
    :raises NexthinkInputError: if it is not text, blank, or too long for the ledger.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > _LIST_NAME_CHARACTERS or "\0" in value:
        raise NexthinkInputError(
            f"list_name is {value!r:.300}: it takes a name of 1 to {_LIST_NAME_CHARACTERS} characters."
        )
    return value.strip()
