"""Recognise an outcome table that is passed as the next list, and read its statuses."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Callable
from typing import Any

from airflow_provider_nexthink.devices.columns import normalize_label
from airflow_provider_nexthink.devices.identity import is_missing
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import KEPT, Presence, Status

STATUS_COLUMNS = frozenset({"status", "devicestatus"})
_REQUEST_ID = "requestid"
_OUTCOME_ONLY_COLUMNS = frozenset({_REQUEST_ID, "traceid", "submittedat"})
# How a merge or a join names a column that both sides have: `status_x`, `status_right`, `status.1`.
_SUFFIX = re.compile(r"(?:[\W_]+(?:x|y|l|r|left|right|old|new|\d+))+[\W_]*$", re.IGNORECASE)
_KEPT_REASONS = (
    "excluded by ",
    "protected by the protect list",
    "the list has it as ",
    "another row of the list has this device as ",
    "the same device is earlier in the list",
    "the list gives this uid two names",
)


def find_statuses(
    labels: list[Any], uid: int, name: int, cells: Callable[[int], list[Any]]
) -> tuple[list[Status | Presence | None] | None, list[Any] | None]:
    """Return the statuses and the reasons of an outcome table; None and None for any other list.

    In other lists, ``status`` may mean something else. A list is an outcome table if it has request ids as well, if
    all statuses in the column are those of an outcome, or if one of them keeps a device from being sent. If in doubt,
    it is treated as one: otherwise, devices that were excluded would be sent.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    :param cells: returns the cells of the column at a position.
    :raises NexthinkInputError: if it is an outcome table whose statuses are missing, ambiguous or unknown.
    """
    found = {_label_stem(label) for label in labels}
    has_request_id = _REQUEST_ID in found
    columns = {at: _Statuses(cells(at)) for at in status_columns(labels, uid, name)}
    named = [at for at in columns if _label_stem(labels[at]) in STATUS_COLUMNS]
    candidates = [at for at in named if columns[at].known or columns[at].kept is not None]
    # Others with "status" in their name (`status_plan`, but also `certificate_status`) count only by their cells.
    candidates += [
        at
        for at, column in columns.items()
        if at not in named
        and (
            column.only_statuses or (not candidates and (column.kept is not None or (column.known and has_request_id)))
        )
    ]
    all_reasons = [cells(at) for at in reason_columns(labels, uid, name)]
    reasons = all_reasons[0] if all_reasons else None
    if not candidates and (
        (not named and found & _OUTCOME_ONLY_COLUMNS)
        or any(_as_text(cell).startswith(_KEPT_REASONS) for column in all_reasons for cell in column)
    ):
        raise NexthinkInputError(
            "devices looks like an outcome table, but has no column 'status' that says which of its devices must not "
            f"be sent. Its columns are {', '.join(map(repr, labels[:20]))}. Put the status back; or, to plan all its "
            "rows afresh, pass only their uid and name."
        )
    is_outcome = has_request_id or any(columns[at].only_statuses or columns[at].kept is not None for at in candidates)
    if not is_outcome:
        return None, None
    if len(candidates) > 1:
        raise NexthinkInputError(
            f"devices has {' and '.join(repr(labels[at]) for at in candidates)}, which both hold statuses of an "
            "outcome table: which one counts is ambiguous. Drop the other one."
        )
    chosen = candidates[0] if candidates else next((at for at in named if columns[at].unknown is not None), None)
    if chosen is None:  # only blank cells
        return None, None
    statuses = columns[chosen]
    if (row := statuses.unknown) is not None:
        kept = statuses.kept
        why = "" if kept in (None, row) else f" Row {kept} has {_shorten(statuses.cells[kept])}, and must not be sent."
        raise NexthinkInputError(
            f"Row {row} of devices has {_shorten(statuses.cells[row])} in its column {labels[chosen]!r}: that "
            f"is not a status of an outcome table, which has {', '.join((*Status, *Presence))}.{why} Fix row {row}; "
            "or, if the column means something else, drop it."
        )
    return statuses.words, reasons


def status_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the positions of the columns that may hold the status of an outcome table.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    """
    return [at for at, label in enumerate(labels) if "status" in normalize_label(label) and at not in (uid, name)]


def reason_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the positions of the columns that may hold the reasons of an outcome table, the likeliest first.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    """
    found = [at for at, label in enumerate(labels) if "reason" in normalize_label(label) and at not in (uid, name)]
    return sorted(found, key=lambda at: (normalize_label(labels[at]) != "reason", _label_stem(labels[at]) != "reason"))


class _Statuses:
    """The cells of a column that may hold the status.

    :param cells: the cells.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.cells = cells
        self.words: list[Status | Presence | None] = []
        self.known = False  # whether any cell is a status
        self.unknown: int | None = None  # the first row whose cell is not a status
        self.kept: int | None = None  # the first row whose cell keeps a device from being sent
        read: dict[Any, Status | Presence | None] = {}
        for row, cell in enumerate(cells):
            try:
                word = read[cell]
            except KeyError:
                word = read[cell] = self._read(row, cell)
            except (TypeError, ValueError):  # not hashable
                word = self._read(row, cell)
            self.words.append(word)

    def _read(self, row: int, cell: Any) -> Status | Presence | None:
        """Return the status in a cell, which first occurs in this row; None if there is none."""
        word = _STATUSES.get(normalize_label(cell))
        if word is not None:
            self.known = True
        elif self.unknown is None and not _is_blank(cell):
            self.unknown = row
        if self.kept is None and (word in KEPT or (word is None and _names_kept_status(_as_text(cell)))):
            self.kept = row
        return word

    @property
    def only_statuses(self) -> bool:
        """Whether all cells that are not blank hold a status, and there are some."""
        return self.known and self.unknown is None


def _shorten(cell: Any) -> str:
    return reprlib.repr(cell)[:60]


def _is_blank(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def _as_text(cell: Any) -> str:
    """Return a cell as text: databases return bytes, and the text of an enum member has its name."""
    if isinstance(cell, bytes | bytearray | memoryview):
        cell = bytes(cell).decode(errors="replace")
    return unicodedata.normalize("NFKC", str(cell))


def _label_stem(label: object) -> str:
    """Return the normalized label without the suffix that a merge has added."""
    return normalize_label(_SUFFIX.sub("", label)) if isinstance(label, str) else ""


_STATUSES: dict[str, Status | Presence] = {normalize_label(word): word for word in (*Status, *Presence)}
_KEPT_WORD = re.compile("|".join(sorted(KEPT)), re.IGNORECASE)


def _names_kept_status(text: str) -> bool:
    """Tell whether a kept status is in a text as a word of its own: `EXCLUDED (VIP)`, `Status.EXCLUDED`, `invalid2`."""
    return any(
        not text[: found.start()][-1:].isalpha() and not text[found.end() :][:1].isalpha()
        for found in _KEPT_WORD.finditer(text)
    )
