"""The statuses of an outcome table that comes in as the next list."""

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
_ONLY_OF_AN_OUTCOME = frozenset({_REQUEST_ID, "traceid", "submittedat"})
# How a merge or a join names a column that both sides have: `status_x`, `status_right`, `status.1`.
_SUFFIX = re.compile(r"(?:[\W_]+(?:x|y|l|r|left|right|old|new|\d+))+[\W_]*$", re.IGNORECASE)
_REASONS_OF_KEPT = (
    "excluded by ",
    "the list has it as ",
    "another row of the list has this device as ",
    "the same device is earlier in the list",
    "the list gives this uid two names",
)


def find_statuses(
    labels: list[Any], uid: int, name: int, cells: Callable[[int], list[Any]]
) -> tuple[list[Status | Presence | None] | None, list[Any] | None]:
    """Return the statuses and the reasons of an outcome table, or None for a list that is no such table.

    A ``status`` may mean something else in a list of another origin. A list is an outcome table if it has a request id
    too, if no other words are in its column than those of an outcome, or if one of them is a word that keeps a device
    from being sent. In doubt it is one: what an outcome table excluded would be sent otherwise.
    """
    found = {_label_stem(label) for label in labels}
    has_request_id = _REQUEST_ID in found
    columns = {at: _Statuses(cells(at)) for at in status_columns(labels, uid, name)}
    named = [at for at in columns if _label_stem(labels[at]) in STATUS_COLUMNS]
    telling = [at for at in named if columns[at].known or columns[at].kept is not None]
    # Another column that ends in "status" (`deletion_status`, but also `certificate_status`) counts by its words only.
    telling += [
        at
        for at, column in columns.items()
        if at not in named
        and (column.is_whole or (not telling and (column.kept is not None or (column.known and has_request_id))))
    ]
    reason = reason_column(labels, uid, name)
    reasons = None if reason is None else cells(reason)
    if not telling and (
        (not named and found & _ONLY_OF_AN_OUTCOME)
        or any(_text_of(cell).startswith(_REASONS_OF_KEPT) for cell in reasons or ())
    ):
        raise NexthinkInputError(
            "devices looks like an outcome table, but has no column 'status' with the words of one: which of its "
            f"devices are not to be sent is not known. Its columns are {', '.join(map(repr, labels[:20]))}. Give it "
            "the status again; or, to plan all its rows afresh, pass their uid and name only."
        )
    is_outcome = has_request_id or any(columns[at].is_whole or columns[at].kept is not None for at in telling)
    if not is_outcome:
        return None, None
    if len(telling) > 1:
        raise NexthinkInputError(
            f"devices has {' and '.join(repr(labels[at]) for at in telling)}, which both hold words of an outcome "
            "table: which one is the status is ambiguous. Leave the other one out."
        )
    chosen = telling[0] if telling else next((at for at in named if columns[at].unknown is not None), None)
    if chosen is None:  # nothing but blank cells
        return None, None
    statuses = columns[chosen]
    if (row := statuses.unknown) is not None:
        kept = statuses.kept
        why = "" if kept in (None, row) else f" Row {kept} has {_shorten(statuses.cells[kept])}, and is not to be sent."
        raise NexthinkInputError(
            f"Row {row} of devices has {_shorten(statuses.cells[row])} in its column {labels[chosen]!r}: that "
            f"is no status of an outcome table, which takes {', '.join((*Status, *Presence))}.{why} Mend row {row}; "
            "or, if the column means something else, leave it out."
        )
    return statuses.words, reasons


def status_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the columns that may hold the status of an outcome table."""
    return [at for at, label in enumerate(labels) if _label_stem(label).endswith("status") and at not in (uid, name)]


def reason_column(labels: list[Any], uid: int, name: int) -> int | None:
    """Return the column that holds the reasons of an outcome table, or None.

    :param labels: the names of the columns.
    :param uid: the column with the uid.
    :param name: the column with the name.
    """
    found = [at for at, label in enumerate(labels) if _label_stem(label) == "reason" and at not in (uid, name)]
    return min(found, key=lambda at: normalize_label(labels[at]) != "reason", default=None)


class _Statuses:
    """The cells of a column that may hold the status.

    :param cells: the cells.
    """

    def __init__(self, cells: list[Any]) -> None:
        self.cells = cells
        self.words: list[Status | Presence | None] = []
        self.known = False  # whether any of them is a status
        self.unknown: int | None = None  # the first row whose cell is none
        self.kept: int | None = None  # the first row with a word that keeps a device from being sent
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
        """Return the word that a cell is, at its first row."""
        word = _STATUSES.get(normalize_label(cell))
        if word is not None:
            self.known = True
        elif self.unknown is None and not _is_blank(cell):
            self.unknown = row
        if self.kept is None and (word in KEPT or (word is None and _names_kept_status(_text_of(cell)))):
            self.kept = row
        return word

    @property
    def is_whole(self) -> bool:
        """Whether there are words of an outcome, and no others."""
        return self.known and self.unknown is None


def _shorten(cell: Any) -> str:
    return reprlib.repr(cell)[:60]


def _is_blank(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and not cell.strip())


def _text_of(cell: Any) -> str:
    """Return a cell as text, as far as it has any: databases give bytes, enums have their name in it."""
    if isinstance(cell, bytes | bytearray | memoryview):
        cell = bytes(cell).decode(errors="replace")
    return unicodedata.normalize("NFKC", str(cell))


def _label_stem(label: object) -> str:
    """Return a label as ``normalize_label`` does, without what a merge has put behind it."""
    return normalize_label(_SUFFIX.sub("", label)) if isinstance(label, str) else ""


_STATUSES: dict[str, Status | Presence] = {normalize_label(word): word for word in (*Status, *Presence)}
_KEPT_WORD = re.compile("|".join(sorted(KEPT)), re.IGNORECASE)


def _names_kept_status(text: str) -> bool:
    """Tell whether a kept status is in a text as a word of its own: `EXCLUDED (VIP)`, `Status.EXCLUDED`, `invalid2`."""
    return any(
        not text[: found.start()][-1:].isalpha() and not text[found.end() :][:1].isalpha()
        for found in _KEPT_WORD.finditer(text)
    )
