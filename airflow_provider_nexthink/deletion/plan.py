"""The plan: for each row of the list, whether it is to be sent, or why not; and the guard on the whole."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from math import floor
from typing import Any
from uuid import UUID

from airflow_provider_nexthink.deletion.rows import DeviceRows
from airflow_provider_nexthink.deletion.words import Status
from airflow_provider_nexthink.exceptions import NexthinkGuardError

_CANONICAL_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BARE_UID = re.compile(r"[0-9a-f]{32}")
_SHOWN_CHARACTERS = 200

_DUPLICATE = (Status.DUPLICATE, "the same device stands earlier in the list")
_TWO_NAMES = (Status.REJECTED, "the list gives this uid two names: which device is meant is not clear")


@dataclass(frozen=True)
class Plan:
    """What is to be done with each row; all lists have the length of the input.

    :param uids: canonical where the uid is one, else as it came, as text; None where it is missing.
    :param names: as they came, as text; None where missing.
    :param statuses: why a row is not to be sent; None for a row that is.
    :param reasons: the same in words.
    :param to_send: the positions of the rows to send, in order.
    """

    uids: list[str | None]
    names: list[str | None]
    statuses: list[Status | None]
    reasons: list[str | None]
    to_send: list[int]


def make_plan(rows: DeviceRows, exclude: Sequence[str] = ()) -> Plan:
    """Decide about each row by itself, then about rows that speak of the same device.

    :param rows: the devices of the list.
    :param exclude: globs on the name, whatever its case, and uids that are not to be sent.
    """
    uids, names = list(rows.uids), list(rows.names)
    statuses: list[Status | None] = [None] * len(rows)
    reasons: list[str | None] = [None] * len(rows)
    to_send: list[int] = []
    plan = Plan(uids, names, statuses, reasons, to_send)
    excluded = _matcher(exclude) if exclude else None
    first_of: dict[str, int] = {}
    two_names: set[str] = set()

    is_canonical = _CANONICAL_UID.fullmatch
    # One pass, in which the usual row takes the shortest way: there may be a million of them.
    for position, (uid, name) in enumerate(zip(rows.uids, rows.names, strict=True)):
        if not (
            type(uid) is str
            and is_canonical(uid)
            and type(name) is str
            and name.isascii()
            and name.isprintable()
            and name.strip()
        ):
            uid_cell, name_cell = uid, name
            uid, name_problem = canonical_uid(uid_cell), _name_problem(name_cell)
            uids[position] = uid or _shown(uid_cell)
            names[position] = name = _shown(name_cell) if name_problem else _plain(name_cell)
            if uid is None or name_problem:
                statuses[position], reasons[position] = _refusal(uid, uid_cell, name_problem)
                continue
        first = first_of.setdefault(uid, position)
        if first != position:
            statuses[position], reasons[position] = _DUPLICATE
            if names[first] != name:
                two_names.add(uid)
        elif excluded and (pattern := excluded(uid, name)):
            statuses[position], reasons[position] = Status.EXCLUDED, f"excluded by {pattern!r}"
        else:
            to_send.append(position)
    if two_names:
        _reject_two_names(plan, two_names)
    return plan


def _reject_two_names(plan: Plan, two_names: set[str]) -> None:
    """Take back what was decided of rows whose uid the list gives two names."""
    for position, uid in enumerate(plan.uids):
        if uid in two_names and plan.statuses[position] in (None, Status.DUPLICATE, Status.EXCLUDED):
            plan.statuses[position], plan.reasons[position] = _TWO_NAMES
    plan.to_send[:] = [position for position in plan.to_send if plan.statuses[position] is None]


def check_guards(
    plan: Plan,
    *,
    max_devices: int | None,
    max_share: float | None = None,
    fleet_size: int | None = None,
    sent_before: int = 0,
) -> None:
    """Abort if the plan exceeds a safety limit.

    A limit holds for a task over all its tries: what earlier tries have sent counts, each device once.

    :param plan: the whole plan.
    :param max_devices: how many devices may be sent at most; None for no limit.
    :param max_share: which share of the fleet may be sent at most, above 0 to 1; None for no limit.
    :param fleet_size: how many devices the fleet has; counts where ``max_share`` is given.
    :param sent_before: how many devices that are not to be sent now earlier tries have sent, or may have sent.
    :raises NexthinkGuardError: if a limit is exceeded; nothing was sent by this try.
    """
    planned = len(plan.to_send)
    total = planned + sent_before
    nothing = "Nothing was sent."
    told = f"{total} devices"
    if sent_before:
        nothing = "This try sent nothing."
        told = f"{total} devices ({planned} now, {sent_before} others sent or maybe sent by earlier tries of this task)"
    if max_devices is not None and total > max_devices:
        raise NexthinkGuardError(
            f"The list would delete {told}, more than max_devices={max_devices} allows. {nothing} "
            "If that many are meant, raise max_devices; there is no undo.",
            planned=total,
            limit=max_devices,
        )
    if max_share is None or fleet_size is None:
        return
    limit = floor(max_share * fleet_size + 1e-9)  # 0.29 x 100 is 28.999... to a computer
    if total > limit:
        told = told.replace(" devices", f" of {fleet_size} devices", 1)
        raise NexthinkGuardError(
            f"The list would delete {told} ({total / fleet_size:.1%}), more than "
            f"max_share={max_share} ({max_share:.1%}) allows. {nothing} If that many are meant, "
            "raise max_share; there is no undo.",
            planned=total,
            limit=limit,
        )


def canonical_uid(cell: object) -> str | None:
    """Return the uid in lower case with hyphens, or None if it is none.

    :param cell: text (hyphenated or not, in any case, blanks around it are cut off) or a ``uuid.UUID``.
    """
    if isinstance(cell, UUID):
        return str(cell)
    if not isinstance(cell, str):
        return None
    if _CANONICAL_UID.fullmatch(cell):
        return _plain(cell)
    text = cell.strip().lower()
    if _BARE_UID.fullmatch(text):
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return text if _CANONICAL_UID.fullmatch(text) else None


def _refusal(uid: str | None, uid_cell: object, name_problem: str | None) -> tuple[Status, str]:
    """Say why a row cannot be sent."""
    if uid is not None:
        return Status.REJECTED, f"the name {name_problem}"
    if is_missing(uid_cell) or (isinstance(uid_cell, str) and not uid_cell.strip()):
        missing = "missing" if is_missing(uid_cell) else "blank"
        return Status.REJECTED, f"the uid is {missing}"
    return Status.INVALID, f"the uid is not a UUID ({_kind(uid_cell)}); not sent"


def _name_problem(cell: Any) -> str | None:
    """Say what keeps a name from being sent to the letter, or None."""
    if not isinstance(cell, str):
        if is_missing(cell):
            return "is missing"
        return f"is not text but {_kind(cell)}: read that column as text, or another device may be meant"
    if not cell.strip():
        return "is blank"
    if not _is_storable(cell):
        return "holds characters that no answer and no database can give back"
    return None


def is_missing(cell: Any) -> bool:
    """Tell None, NaN and what pandas has in their place, without importing pandas.

    :param cell: a cell of a table.
    """
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text


def _plain(text: str) -> str:
    """Return the characters of text of any subclass, such as numpy's, to the letter."""
    return str.__str__(text)


def _kind(cell: object) -> str:
    return "malformed text" if isinstance(cell, str) else f"of type {type(cell).__name__}"


def _shown(cell: Any) -> str | None:
    """Return a cell that is not sent as text for the table: short, and safe in JSON and databases."""
    if is_missing(cell):
        return None
    text = cell if isinstance(cell, str) else reprlib.repr(cell)
    text = text[:_SHOWN_CHARACTERS] + "…" * (len(text) > _SHOWN_CHARACTERS)
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _matcher(exclude: Sequence[str]) -> Callable[[str, str], str | None]:
    """Return what tells which exclusion, if any, matches a uid and a name. In doubt it matches."""
    uids = {uid: entry for entry in exclude if (uid := _uid_of_exclusion(entry))}
    names = {folded_name(entry): entry for entry in exclude}
    globs = [(entry, translate(folded_name(entry))) for entry in exclude]
    any_glob = re.compile("|".join(f"(?:{glob})" for _, glob in globs))

    def match(uid: str, name: str) -> str | None:
        if not globs:
            return None
        folded = folded_name(name)
        found = uids.get(uid) or names.get(folded)
        if found is None and any_glob.match(folded):
            found = next(entry for entry, glob in globs if re.match(glob, folded))
        return found

    return match


def folded_name(name: str) -> str:
    """Return a name without what two spellings of it may differ in: case, blanks around it, composed letters.

    :param name: the name as it came.
    """
    return unicodedata.normalize("NFC", name).casefold().strip()


def _uid_of_exclusion(entry: str) -> str | None:
    """Read a uid in any form, with braces and as a URN too."""
    return canonical_uid(entry.strip().lower().removeprefix("urn:uuid:").strip("{}"))
