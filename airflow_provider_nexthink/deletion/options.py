"""Check the options of a deletion run.

Pure Python without heavy imports, because the operators check options while the Dag file is parsed. Options may be
text, from a Jinja template or from the form of a manual run, and numbers of any kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from math import inf, nan
from numbers import Real
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypedDict, Unpack

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Status

MAX_BATCH_SIZE = 100
"""The most devices that the API accepts in one request (Data Management API 1.0.0)."""

MAX_CONCURRENCY = 32

PLAN: Final = "plan"
"""A dry run whose planned devices other tasks send."""

_LARGEST = 10**18

MAX_REASON_CHARACTERS = 1000

EMPTY_PROTECT = (
    "protect is a list without devices: an empty protect list protects nothing. Check its source; for no list leave "
    "protect out. This try sent nothing."
)

RESULTS_SUFFIXES = (".csv", ".parquet", ".jsonl")


class DeletionOptionsDict(TypedDict, total=False):
    """The options of ``delete_devices``, as a Dag has them: numbers may be text. See ``DeletionOptions``."""

    uid_column: str | None
    name_column: str | None
    columns: Sequence[str] | None
    exclude: Sequence[str]
    protect: object
    max_devices: int | str | None
    max_share: float | str | None
    fleet_size: int | str | None
    fleet_query_id: str | None
    max_growth: float | str | None
    reason: str | None
    dry_run: bool | str
    batch_size: int | str
    max_concurrency: int | str
    requests_per_second: float | str | None


@dataclass(frozen=True, kw_only=True)
class DeletionOptions:
    """How to delete a list of devices. Create it with ``checked``.

    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :param columns: the names of the columns, for rows that do not name them.
    :param exclude: globs on the name, in any case, and uids; devices that match are never sent.
    :param protect: a list of devices that are never sent, by uid or by name, as ``read_protect_list`` takes it; None
        for none.
    :param max_devices: how many devices may be sent at most; None for no limit.
    :param max_share: the share of the fleet that may be sent at most, above 0 up to 1; None for no limit.
    :param fleet_size: how many devices the fleet has; ``max_share`` needs this or ``fleet_query_id``.
    :param fleet_query_id: the id of a saved query that counts or lists the fleet, run just before the first request;
        with a ledger also without ``max_share``.
    :param max_growth: how many times the median of the runs before may be sent at most, such as 3; needs a ledger; None
        for no limit.
    :param reason: why, such as a ticket or a sentence, for the summary, the log and the ledger; None for none.
    :param dry_run: plan only, send nothing; ``plan`` if other tasks send what is planned, so that the limits that need
        a ledger hold as for them: the proof, and ``max_growth`` against the runs of the Dag.
    :param batch_size: devices in one request, 1 to 100.
    :param max_concurrency: how many requests are in flight at most.
    :param requests_per_second: how many requests may start per second at most; None for no limit.
    """

    uid_column: str | None = None
    name_column: str | None = None
    columns: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    protect: object = field(default=None, repr=False, compare=False)
    max_devices: int | None = 1000
    max_share: float | None = None
    fleet_size: int | None = None
    fleet_query_id: str | None = None
    max_growth: float | None = None
    reason: str | None = None
    dry_run: bool | Literal["plan"] = False
    batch_size: int = MAX_BATCH_SIZE
    max_concurrency: int = 4
    requests_per_second: float | None = None

    @classmethod
    def checked(cls, **options: Unpack[DeletionOptionsDict]) -> DeletionOptions:
        """Return the options, if each of them can take effect.

        :param options: the fields of this class, as a Dag has them.
        :raises NexthinkInputError: if one of them cannot; says which, and what it takes.
        """
        given = cls(**options)  # type: ignore[arg-type] # checked in the next line; an unknown name is a TypeError
        checked = replace(given, **{name: check(getattr(given, name)) for name, check in CHECKS.items()})
        check_share_and_fleet(checked.max_share, checked.fleet_size, checked.fleet_query_id)
        return checked


def check_column(option: str, value: object) -> str | None:
    """Return the name of a column, or None to find it.

    :param option: its name, for the error.
    :param value: what was given.
    :raises NexthinkInputError: if it is neither text nor None.
    """
    if value is None or value == "None":
        return None
    if isinstance(value, str) and value.strip():
        return value
    raise NexthinkInputError(f"{option} is {value!r}: it takes the name of a column.")


def check_columns(value: object) -> tuple[str, ...] | None:
    """Return the names of all columns, or None if the rows name them.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a list of names.
    """
    if isinstance(value, set | frozenset):
        raise NexthinkInputError(f"columns is {value!r:.100}: a set has no order. It takes a list.")
    return None if value is None else _texts("columns", value, "the names of the columns")


def check_exclude(value: object) -> tuple[str, ...]:
    """Return the exclusions; an empty one is an error, since it could never match.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a list of text, or has a blank entry.
    """
    return _texts("exclude", value, "globs on the name and uids")


def check_protect(value: object) -> object:
    """Return the protect list unread; None for none. Refuses one that is empty, as far as that shows.

    :param value: what was given.
    :raises NexthinkInputError: if it has no rows.
    """
    if (isinstance(value, Sized) and not len(value)) or (isinstance(value, str) and not value.strip()):
        raise NexthinkInputError(EMPTY_PROTECT)
    return value


def check_fail_on(value: object) -> frozenset[Status]:
    """Return the statuses that fail a run.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a list of statuses.
    """
    words = _texts("fail_on", value, "statuses")
    unknown = [word for word in words if word not in Status.__members__]
    if unknown:
        raise NexthinkInputError(f"fail_on names {unknown[0]!r}: it takes {', '.join(Status)}.")
    return frozenset(Status(word) for word in words)


def check_max_devices(value: object) -> int | None:
    """Return the limit; None for no limit. The text "None" is an error: it is a template without a value.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a whole number, 0 or more.
    """
    if value is None:
        return None
    number = read_whole_number(value)
    if number is None or number < 0:
        raise NexthinkInputError(f"max_devices is {value!r}: it takes a whole number, or None for no limit.")
    return number


def check_max_share(value: object) -> float | None:
    """Return the share; None for no limit.

    :param value: what was given.
    :raises NexthinkInputError: if it is not above 0 and up to 1.
    """
    if value is None:
        return None
    share = read_number(value)
    if not 0 < share <= 1:
        raise NexthinkInputError(f"max_share is {value!r}: it takes a number above 0 up to 1, such as 0.05 for 5 %.")
    return share


def check_fleet_size(value: object) -> int | None:
    """Return the size of the fleet, or None.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a whole number, 1 or more.
    """
    if value is None:
        return None
    number = read_whole_number(value)
    if number is None or number < 1:
        raise NexthinkInputError(f"fleet_size is {value!r}: it takes the number of devices in the fleet, 1 or more.")
    return number


def check_fleet_query_id(value: object) -> str | None:
    """Return the id of a query, or None. Whether it is an id is checked where queries are run.

    :param value: what was given.
    :raises NexthinkInputError: if it is blank, or not text.
    """
    return None if value is None else check_text("fleet_query_id", value)


def check_max_growth(value: object) -> float | None:
    """Return how many times the median of the runs before may be sent; None for no limit.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a number, 1 or more.
    """
    if value is None:
        return None
    times = read_number(value)
    if not 1 <= times < inf:
        raise NexthinkInputError(
            f"max_growth is {value!r}: it takes a number, 1 or more, such as 3 for three times the usual size of a run."
        )
    return times


def check_share_and_fleet(max_share: object, fleet_size: object, fleet_query_id: object) -> None:
    """Refuse a share of an unknown or ambiguous number of devices, and a number without a share.

    ``fleet_query_id`` without a share may take effect: whether it does depends on the connection.

    :param max_share: the share, or None.
    :param fleet_size: the size of the fleet, or None.
    :param fleet_query_id: the query that counts it, or None.
    :raises NexthinkInputError: if one of them cannot take effect.
    """
    if fleet_size is not None and fleet_query_id is not None:
        raise NexthinkInputError("fleet_size and fleet_query_id both say how many devices there are: set one of them.")
    if max_share is not None and fleet_size is None and fleet_query_id is None:
        raise NexthinkInputError("max_share needs fleet_size or fleet_query_id: a share of how many devices?")
    if fleet_size is not None and max_share is None:
        raise NexthinkInputError("fleet_size alone does nothing: set max_share too, such as max_share=0.05.")


def check_reason(value: object) -> str | None:
    """Return why devices are deleted, in words; None for none, also from a template without a value.

    :param value: what was given.
    :raises NexthinkInputError: if it is no text, too long, or no database can store it.
    """
    if type(value) in (int, float):  # a ticket's number, from a template that renders natively
        value = str(value)
    if value is None or (isinstance(value, str) and value.strip() in ("", "None")):
        return None
    if not isinstance(value, str):
        raise NexthinkInputError(f"reason is {value!r:.100}: it takes text.")
    reason = value.strip()
    if len(reason) > MAX_REASON_CHARACTERS:
        raise NexthinkInputError(
            f"reason has {len(reason)} characters: it takes {MAX_REASON_CHARACTERS} at most, such as a ticket or a "
            "sentence."
        )
    try:
        reason.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        reason = "\0"
    if "\0" in reason:
        raise NexthinkInputError(f"reason is {value!r:.100}: it has characters that no database can store.")
    return reason


def check_requests_per_second(value: object) -> float | None:
    """Return how many requests may start per second; None for no limit.

    :param value: what was given.
    :raises NexthinkInputError: if it is not a number above 0.
    """
    if value is None:
        return None
    number = read_number(value)
    if not 0 < number < inf:
        raise NexthinkInputError(
            f"requests_per_second is {value!r}: it takes a number above 0, such as 2 or 0.5, or None for no limit."
        )
    return number


def check_results_path(value: object) -> str | None:
    """Return the path to write the outcome table to, or None.

    :param value: what was given.
    :raises NexthinkInputError: if it is not the path of a file of a known format.
    """
    if value is None:
        return None
    if isinstance(value, str) and PurePosixPath(value).suffix.lower() in RESULTS_SUFFIXES:
        return value
    raise NexthinkInputError(
        f"results_path is {value!r}: it takes the path of a file that ends in {' or '.join(RESULTS_SUFFIXES)}."
    )


def check_dry_run(value: object) -> bool | Literal["plan"]:
    """Return whether to plan only, or ``plan``. Text is read strictly: anything else is an error.

    :param value: what was given.
    :raises NexthinkInputError: if it is none of them.
    """
    if value == PLAN:
        return PLAN
    is_dry_run = read_boolean(value)
    if is_dry_run is None:
        raise NexthinkInputError(f"dry_run is {value!r}: it takes True, False or {PLAN!r}.")
    return is_dry_run


def check_number(option: str, value: object, maximum: int) -> int:
    """Return a whole number from 1 to ``maximum``.

    :param option: its name, for the error.
    :param value: what was given.
    :param maximum: the largest number allowed.
    :raises NexthinkInputError: if it is not such a number.
    """
    number = read_whole_number(value)
    if number is None or not 1 <= number <= maximum:
        raise NexthinkInputError(f"{option} is {value!r}: it takes a whole number from 1 to {maximum}.")
    return number


def check_text(option: str, value: object) -> str:
    """Return text that is not blank.

    :param option: its name, for the error.
    :param value: what was given.
    :raises NexthinkInputError: if it is blank, or not text.
    """
    if not isinstance(value, str) or not value.strip():
        raise NexthinkInputError(f"{option} is {value!r}: it takes text.")
    return value


def check_choice(option: str, value: object, choices: Sequence[str]) -> str:
    """Return one of a few words.

    :param option: its name, for the error.
    :param value: what was given.
    :param choices: the allowed words.
    :raises NexthinkInputError: if it is none of them.
    """
    if value not in choices:
        raise NexthinkInputError(f"{option} is {value!r}: it takes one of {', '.join(map(repr, choices))}.")
    return str(value)


CHECKS: dict[str, Callable[[object], Any]] = {
    "uid_column": partial(check_column, "uid_column"),
    "name_column": partial(check_column, "name_column"),
    "columns": check_columns,
    "exclude": check_exclude,
    "protect": check_protect,
    "max_devices": check_max_devices,
    "max_share": check_max_share,
    "fleet_size": check_fleet_size,
    "fleet_query_id": check_fleet_query_id,
    "max_growth": check_max_growth,
    "reason": check_reason,
    "dry_run": check_dry_run,
    "batch_size": partial(check_number, "batch_size", maximum=MAX_BATCH_SIZE),
    "max_concurrency": partial(check_number, "max_concurrency", maximum=MAX_CONCURRENCY),
    "requests_per_second": check_requests_per_second,
}
"""What checks each option of ``DeletionOptions``."""


def read_boolean(value: object) -> bool | None:
    """Return a boolean, also from text; None for anything but yes or no.

    :param value: what was given.
    """
    value = _unboxed(value)
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known.get(str(value).strip().lower()) if isinstance(value, str | int) else None


def read_number(value: object) -> float:
    """Return a number of any kind, also from text, as a float; NaN if it is not a number.

    :param value: what was given.
    """
    value = _unboxed(value)
    if isinstance(value, bool):
        return nan
    if isinstance(value, str | Real | Decimal):
        with suppress(ValueError, OverflowError):
            return float(value)
    return nan


def read_whole_number(value: object) -> int | None:
    """Return a whole number of any kind, also from text; None if it is not one.

    :param value: what was given.
    """
    value = _unboxed(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}(\.0+)?\s*", value, re.ASCII):
        return int(value.partition(".")[0])
    if isinstance(value, Real | Decimal):
        number: Any = value
        with suppress(ValueError, ArithmeticError):  # Decimal("sNaN") cannot even be compared
            if abs(number) < _LARGEST and number == int(number):
                return int(number)
    return None


def _unboxed(value: Any) -> Any:
    """Return a NumPy scalar as the Python value that it holds; anything else unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _texts(option: str, value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise NexthinkInputError(
            f"{option} is {value!r:.100}: it takes a list of {what}, such as {option}=['...', '...']."
        )
    texts = tuple(value)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise NexthinkInputError(f"{option} holds {text!r:.100}: each entry must be text, and not blank.")
    return texts
