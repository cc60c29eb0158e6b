"""Recognize an outcome table that is passed as the next list, and read its statuses."""

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
_REQUEST_COLUMNS = frozenset({"requestid", "traceid"})
_OUTCOME_ONLY_COLUMNS = _REQUEST_COLUMNS | {"submittedat"}  # which the export of a form may have, beside its own status
# How a merge or a join names a column that both sides have: `status_x`, `status_right`, `status.1`.
_SUFFIX = re.compile(r"(?:[\W_]+(?:x|y|l|r|left|right|old|new|\d+))+[\W_]*$", re.IGNORECASE)
_REMEMBERED = 10_000  # different cells of a column; statuses are few
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

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    :param cells: returns the cells of the column at a position.
    :raises NexthinkInputError: if it is an outcome table whose statuses are missing, ambiguous or unknown.
    """
    finder = StatusFinder(labels, uid, name)
    finder.add(cells)
    status, reason = finder.choose()
    if status is None:
        return None, None
    return finder.words(status, cells(status)), None if reason is None else cells(reason)


class StatusFinder:
    """Finds out whether a list is an outcome table, and where its statuses and reasons are. It may come in parts.

    In other lists, ``status`` may mean something else. A list is an outcome table if it has request ids or trace ids as
    well, if all statuses in the column are those of an outcome, or if one of them keeps a device
    from being sent. If in doubt, it is treated as one: otherwise, devices that were excluded would be sent.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    """

    def __init__(self, labels: list[Any], uid: int, name: int) -> None:
        self._labels = labels
        self._statuses = {at: _Statuses() for at in status_columns(labels, uid, name)}
        self._reasons = reason_columns(labels, uid, name)
        self._has_kept_reason = False

    @property
    def columns(self) -> list[int]:
        """The positions of the columns whose cells count."""
        return [*self._statuses, *self._reasons]

    def add(self, cells: Callable[[int], list[Any]]) -> None:
        """Look at a part of the list.

        :param cells: returns the cells of the column at a position.
        """
        for at, column in self._statuses.items():
            column.read(cells(at))
        self._has_kept_reason = self._has_kept_reason or any(
            _as_text(cell).startswith(_KEPT_REASONS) for at in self._reasons for cell in cells(at)
        )

    def choose(self) -> tuple[int | None, int | None]:
        """Return the positions of the statuses and the reasons; None and None unless it is an outcome table.

        :raises NexthinkInputError: if it is one whose statuses are missing, ambiguous or unknown.
        """
        labels, columns = self._labels, self._statuses
        found = {_label_stem(label) for label in labels}
        has_requests = bool(found & _REQUEST_COLUMNS)
        named = [at for at in columns if _label_stem(labels[at]) in STATUS_COLUMNS]
        others = [at for at in columns if at not in named]
        candidates = [at for at in named if columns[at].known or columns[at].kept is not None]
        # Others with "status" in their name (`status_plan`, but also `certificate_status`) count only by their cells.
        candidates += [at for at in others if columns[at].only_statuses]
        if not any(columns[at].is_certain for at in candidates):  # a CMDB, too, may have the status "Unknown"
            candidates += [at for at in others if columns[at].kept is not None or (columns[at].known and has_requests)]
        is_certain = any(columns[at].is_certain for at in candidates)
        if not is_certain and (self._has_kept_reason or (found & _OUTCOME_ONLY_COLUMNS and not (named or candidates))):
            raise NexthinkInputError(
                "devices looks like an outcome table, but has no column 'status' that says which of its devices must "
                f"not be sent. Its columns are {', '.join(map(repr, labels[:20]))}. Put the status back; or, to plan "
                "all its rows afresh, pass only their uid and name."
            )
        if not (is_certain or has_requests):
            return None, None
        if len(candidates) > 1:
            raise NexthinkInputError(
                f"devices has {' and '.join(repr(labels[at]) for at in candidates)}, which both hold statuses of an "
                "outcome table: which one counts is ambiguous. Drop the other one."
            )
        chosen = candidates[0] if candidates else next((at for at in named if columns[at].unknown is not None), None)
        if chosen is None:  # only blank cells
            return None, None
        self._check_known(chosen)
        return chosen, self._reasons[0] if self._reasons else None

    def _check_known(self, position: int) -> None:
        """Check that each cell of a column is a status, or blank."""
        label, column = self._labels[position], self._statuses[position]
        if column.unknown is None:
            return
        (row, cell), kept = column.unknown, ""
        if column.kept not in (None, column.unknown):
            kept = f" Row {column.kept[0]} has {_shorten(column.kept[1])}, and must not be sent."
        raise NexthinkInputError(
            f"Row {row} of devices has {_shorten(cell)} in its column {label!r}: that is not a status of an outcome "
            f"table, which has {', '.join((*Status, *Presence))}.{kept} Fix row {row}; or, if the column means "
            "something else, drop it."
        )

    def words(self, position: int, cells: list[Any]) -> list[Status | Presence | None]:
        """Return the statuses in cells that this has looked at; None where there is none.

        :param position: of the column.
        :param cells: of the column.
        """
        return self._statuses[position].words(cells)


def status_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the positions of the columns that may hold the status of an outcome table.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    """
    return [at for at, label in enumerate(labels) if "status" in normalize_label(str(label)) and at not in (uid, name)]


def reason_columns(labels: list[Any], uid: int, name: int) -> list[int]:
    """Return the positions of the columns that may hold the reasons of an outcome table, the likeliest first.

    :param labels: the names of the columns.
    :param uid: the position of the column with the uid.
    :param name: the position of the column with the name.
    """
    found = [at for at, label in enumerate(labels) if "reason" in normalize_label(str(label)) and at not in (uid, name)]
    return sorted(found, key=lambda at: (normalize_label(labels[at]) != "reason", _label_stem(labels[at]) != "reason"))


class _Statuses:
    """The cells of a column that may hold the status, which may come in parts."""

    def __init__(self) -> None:
        self.known = False  # whether any cell is a status
        self.unknown: tuple[int, Any] | None = None  # the first row whose cell is not a status, and the cell
        self.kept: tuple[int, Any] | None = None  # the first row whose cell keeps a device from being sent, likewise
        self._rows = 0
        self._words: dict[Any, Status | Presence | None] = {}

    def read(self, cells: list[Any]) -> None:
        """Look at a part of the column.

        :param cells: the next ones.
        """
        for row, cell in enumerate(cells, self._rows):
            try:
                if cell in self._words:
                    continue
                if len(self._words) < _REMEMBERED:
                    self._words[cell] = self._read(row, cell)
                    continue
            except (TypeError, ValueError):  # not hashable
                pass
            self._read(row, cell)
        self._rows += len(cells)

    def words(self, cells: list[Any]) -> list[Status | Presence | None]:
        """Return the status in each cell; None where there is none.

        :param cells: of which each has been read.
        """
        found: list[Status | Presence | None] = []
        for cell in cells:
            try:
                found.append(self._words[cell])
            except (KeyError, TypeError, ValueError):
                found.append(_STATUSES.get(normalize_label(cell)))
        return found

    def _read(self, row: int, cell: Any) -> Status | Presence | None:
        """Return the status in a cell, which first occurs in this row; None if there is none."""
        word = _STATUSES.get(normalize_label(cell))
        if word is not None:
            self.known = True
        elif self.unknown is None and not _is_blank(cell):
            self.unknown = row, cell
        if self.kept is None and (word in KEPT or (word is None and _names_kept_status(_as_text(cell)))):
            self.kept = row, cell
        return word

    @property
    def only_statuses(self) -> bool:
        """Whether all cells that are not blank hold a status, and there are some."""
        return self.known and self.unknown is None

    @property
    def is_certain(self) -> bool:
        """Whether the column can only be that of an outcome table."""
        return self.only_statuses or self.kept is not None


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
