"""The plan: for each row of the list, whether it is to be sent, or why not; and the guards on the whole."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from math import floor
from typing import Any

from airflow_provider_nexthink.deletion.protect import PROTECTED, ProtectList
from airflow_provider_nexthink.devices.identity import (
    CANONICAL_UID,
    as_storable,
    as_str,
    canonical_uid,
    fold_case,
    is_missing,
    lenient_uid,
    lower_case,
    normal_forms,
    normalize_name,
)
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.status import KEPT, Status

_PREVIEW_CHARACTERS = 200
_REASON_CHARACTERS = 1000
_NAME_MISSING = "the name is missing"
_NAME_BLANK = "the name is blank"
_NAME_NOT_TEXT = "the name is not text but "
_NAME_NOT_STORABLE = "the name holds characters that no response and no database can give back"

_DUPLICATE = (Status.DUPLICATE, "the same device is earlier in the list")
_PROTECTED = (Status.EXCLUDED, PROTECTED)
_TWO_NAMES = (Status.REJECTED, "the list gives this uid two names: which device is meant is ambiguous")


@dataclass(frozen=True)
class Plan:
    """What is to be done with each row; all lists have the length of the input.

    :param uids: canonical where the uid is one, else as it came, as text; None where it is missing.
    :param names: as they came, as text; None where missing.
    :param statuses: why a row is not to be sent; None for a row that is.
    :param reasons: why, in words.
    :param to_send: the positions of the rows to send, in order.
    """

    uids: list[str | None]
    names: list[str | None]
    statuses: list[Status | None]
    reasons: list[str | None]
    to_send: list[int]


def make_plan(
    rows: DeviceRows, exclude: Sequence[str] = (), protected: Sequence[str] = (), protect: ProtectList | None = None
) -> Plan:
    """Decide on each row by itself, then on rows of the same device.

    In a list that is an outcome table, a row that is EXCLUDED, REJECTED, INVALID or DUPLICATE keeps its status and its
    reason; the others are planned afresh.

    :param rows: the devices of the list.
    :param exclude: globs on the name, whatever its case, and uids that are not to be sent.
    :param protected: the same of the connection.
    :param protect: devices that are not to be sent, however they came to be in the list; None for none.
    """
    uids, names = list(rows.uids), list(rows.names)
    statuses: list[Status | None] = [None] * len(rows)
    reasons: list[str | None] = [None] * len(rows)
    to_send: list[int] = []
    plan = Plan(uids, names, statuses, reasons, to_send)
    excluded = _exclusions(exclude, protected)
    first_of: dict[str, int] = {}
    two_names: set[str] = set()
    kept = [] if rows.statuses is None else _keep_decided(plan, rows)
    todo: Iterable[tuple[int, tuple[Any, Any]]] = enumerate(zip(rows.uids, rows.names, strict=True))
    if kept:
        todo = (each for each in todo if statuses[each[0]] is None)

    is_canonical = CANONICAL_UID.fullmatch
    # One pass, in which the usual row takes the shortest way: there may be a million of them.
    for position, (uid, name) in todo:
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
            uids[position] = uid or _preview(uid_cell)
            names[position] = name = _preview(name_cell) if name_problem else as_str(name_cell)
            if uid is None or name_problem:
                statuses[position], reasons[position] = _refusal(uid, uid_cell, name_problem)
                continue
        first = first_of.setdefault(uid, position)
        if first != position:
            statuses[position], reasons[position] = _DUPLICATE
            if names[first] != name:
                two_names.add(uid)
        elif excluded and (reason := excluded(uid, name)):
            statuses[position], reasons[position] = Status.EXCLUDED, reason
        elif protect is not None and protect.covers(uid, name):
            statuses[position], reasons[position] = _PROTECTED
        else:
            to_send.append(position)
    if kept:
        two_names |= _hold_back(plan, kept, first_of)
    if two_names:
        _reject_two_names(plan, two_names, frozenset(kept))
    return plan


def _keep_decided(plan: Plan, rows: DeviceRows) -> list[int]:
    """Keep the statuses of rows that are not to be sent; return their positions."""
    kept = []
    for position, status in enumerate(rows.statuses or ()):
        if status not in KEPT:
            continue
        kept.append(position)
        uid, name = rows.uids[position], rows.names[position]
        reason = rows.reasons[position] if rows.reasons else None
        plan.uids[position] = canonical_uid(uid) or _preview(uid)
        plan.names[position] = _preview(name) if _name_problem(name) else as_str(name)
        plan.statuses[position] = Status(status)
        plan.reasons[position] = _preview(reason, _REASON_CHARACTERS) or f"the list has it as {status}"
    return kept


def _hold_back(plan: Plan, kept: list[int], first_of: dict[str, int]) -> set[str]:
    """Keep a device from being sent by one row where another row is kept back; in doubt it is not sent.

    Tables that were joined, or edited, have such rows, and so has a plan in which a name was missing.

    :return: the uids that have two names.
    """
    two_names: set[str] = set()
    for position in kept:
        uid, reason = plan.uids[position] or "", plan.reasons[position] or ""
        first = first_of.get(uid)
        status = plan.statuses[position]
        is_of_its_name = status is Status.REJECTED and _is_of_a_name(reason)
        if first is None or plan.statuses[first] is not None or is_of_its_name:
            continue
        if status is not Status.DUPLICATE:
            plan.statuses[first] = status
            plan.reasons[first] = f"another row of the list has this device as {status}: {reason}"[:_REASON_CHARACTERS]
        elif plan.names[position] != plan.names[first]:
            two_names.add(uid)
    plan.to_send[:] = [position for position in plan.to_send if plan.statuses[position] is None]
    return two_names


def _reject_two_names(plan: Plan, two_names: set[str], kept: frozenset[int]) -> None:
    """Reject every row of a uid that has two names."""
    for position, uid in enumerate(plan.uids):
        is_open = plan.statuses[position] in (None, Status.DUPLICATE, Status.EXCLUDED) and position not in kept
        if uid in two_names and is_open:
            plan.statuses[position], plan.reasons[position] = _TWO_NAMES
    plan.to_send[:] = [position for position in plan.to_send if plan.statuses[position] is None]


def check_guards(
    planned: int,
    *,
    max_devices: int | None,
    max_devices_set_by: str | None = "task",
    max_share: float | None = None,
    fleet_size: int | None = None,
    fleet_query_id: str | None = None,
    sent_before: int = 0,
) -> None:
    """Abort if the plan exceeds a safety limit.

    A limit holds for a task over all its tries: what earlier tries have sent counts, each device once.

    :param planned: how many devices the whole plan would send.
    :param max_devices: how many devices may be sent at most; None for no limit.
    :param max_devices_set_by: who says so, the ``task`` or the ``connection``.
    :param max_share: which share of the fleet may be sent at most, above 0 to 1; None for no limit.
    :param fleet_size: how many devices the fleet has; counts where ``max_share`` is given.
    :param fleet_query_id: the query that has counted them; None if the task says so.
    :param sent_before: how many devices that are not to be sent now earlier tries have sent, or may have sent.
    :raises NexthinkGuardError: if a limit is exceeded; nothing was sent by this try.
    """
    total = planned + sent_before
    described = f"{total} devices"
    if sent_before:
        described = (
            f"{total} devices ({planned} now, {sent_before} others sent or maybe sent by earlier tries of this task)"
        )
    if max_devices is not None and total > max_devices:
        raise NexthinkGuardError(
            f"The list would delete {described}, more than max_devices={max_devices} of the {max_devices_set_by} "
            f"allows. This try sent nothing. If that many are meant, raise max_devices of the {max_devices_set_by}; "
            "there is no undo.",
            planned=total,
            limit=max_devices,
        )
    if max_share is None or fleet_size is None:
        return
    limit = floor(max_share * fleet_size + 1e-9)  # 0.29 x 100 is 28.999... to a computer
    if total > limit:
        described = described.replace(" devices", f" of {fleet_size} devices", 1)
        source = f"fleet_size={fleet_size} is the task's."
        if fleet_query_id:
            source = f"The {fleet_size} devices are what {fleet_query_id} (fleet_query_id) has counted just now."
        raise NexthinkGuardError(
            f"The list would delete {described} ({total / fleet_size:.1%}), more than "
            f"max_share={max_share} ({max_share:.1%}) of the task allows. {source} This try sent nothing. If that "
            "many are meant, raise max_share; there is no undo.",
            planned=total,
            limit=limit,
        )


def _refusal(uid: str | None, uid_cell: object, name_problem: str | None) -> tuple[Status, str]:
    """Say why a row cannot be sent."""
    if uid is not None:
        return Status.REJECTED, str(name_problem)
    if is_missing(uid_cell) or (isinstance(uid_cell, str) and not uid_cell.strip()):
        missing = "missing" if is_missing(uid_cell) else "blank"
        return Status.REJECTED, f"the uid is {missing}"
    return Status.INVALID, f"the uid is not a UUID ({_type_name(uid_cell)}); not sent"


def _name_problem(cell: Any) -> str | None:
    """Say what keeps a name from being sent to the letter, or None."""
    if not isinstance(cell, str):
        if is_missing(cell):
            return _NAME_MISSING
        return f"{_NAME_NOT_TEXT}{_type_name(cell)}: read that column as text, or another device may be meant"
    if not cell.strip():
        return _NAME_BLANK
    return None if _is_storable(cell) else _NAME_NOT_STORABLE


def _is_of_a_name(reason: str) -> bool:
    """Tell whether a reason, of this plan or an earlier one, is that of the name of a single row."""
    return reason in (_NAME_MISSING, _NAME_BLANK, _NAME_NOT_STORABLE) or reason.startswith(_NAME_NOT_TEXT)


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text


def _type_name(cell: object) -> str:
    return "malformed text" if isinstance(cell, str) else f"of type {type(cell).__name__}"


def _preview(cell: Any, characters: int = _PREVIEW_CHARACTERS) -> str | None:
    """Return a cell that is not sent as text for the table: short, and safe in JSON and databases."""
    if is_missing(cell):
        return None
    text = cell if isinstance(cell, str) else reprlib.repr(cell)
    text = text[:characters] + "…" * (len(text) > characters)
    return as_storable(text)


def _exclusions(exclude: Sequence[str], protected: Sequence[str]) -> Callable[[str, str], str | None] | None:
    """Return what says why a uid and a name are excluded, or None; None itself if nothing can be."""
    # Each reason begins as the reader of outcome tables knows it: see devices/statuses.py.
    wordings = ((protected, "excluded by {!r}, which the connection protects"), (exclude, "excluded by {!r}"))
    matchers = [(_matcher(entries), wording) for entries, wording in wordings if entries]

    def reason(uid: str, name: str) -> str | None:
        for match, wording in matchers:
            if entry := match(uid, name):
                return wording.format(entry)
        return None

    return reason if matchers else None


def _matcher(exclude: Sequence[str]) -> Callable[[str, str], str | None]:
    """Return what tells which exclusion, if any, matches a uid and a name. In doubt it matches."""
    uids = {uid: entry for entry in exclude if (uid := lenient_uid(entry))}
    # An entry is read in several ways, in which its brackets and hyphens may mean different things: `[–.]`.
    forms = [(entry, form) for entry in exclude for form in _forms(entry)]
    names = {form: entry for entry, form in reversed(forms)}
    globs = [(entry, translate(form)) for entry, form in forms]
    any_glob = re.compile("|".join(f"(?:{glob})" for _, glob in globs))

    def match_name(name: str) -> str | None:
        found = names.get(name)
        if found is None and any_glob.match(name):
            found = next(entry for entry, glob in globs if re.match(glob, name))
        return found

    def match(uid: str, name: str) -> str | None:
        if found := uids.get(uid):
            return found
        if name.isascii() and name.isprintable():
            return match_name(normalize_name(name))
        return next((found for form in _forms(name) if (found := match_name(form))), None)

    return match


def _forms(text: str) -> tuple[str, ...]:
    """Return a name, or an entry, in all forms in which they are compared."""
    return tuple(dict.fromkeys((*normal_forms(text), fold_case(text), lower_case(text))))
