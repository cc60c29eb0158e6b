"""The checkpoint: what earlier tries of a task have settled, kept where a retry of it finds it.

It holds the rows that are not to be sent again (SCHEDULED, INVALID) with all their columns, so that the table of the
retry is whole. It is bound to the plan by a fingerprint: for another list it does not count.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import uuid
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.deletion.words import Status

log = logging.getLogger(__name__)

SETTLED = frozenset({Status.SCHEDULED, Status.INVALID})

SAVE_EVERY_ANSWERS = 5
SAVE_EVERY_SECONDS = 1.0

# One key of the store holds this many answers, so that a save rewrites little and no value grows large.
_ANSWERS_IN_A_PART = 100
_VERSION = 1
_COLUMNS = ("status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")


class StateStore(Protocol):
    """Where a retry of the same task finds what an earlier try has kept, such as Airflow's task state store."""

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""

    def set(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""

    def delete(self, key: str) -> None:
        """Forget a key."""


def fingerprint(plan: Plan, tenant: str) -> str:
    """Return what tells this plan from any other: the tenant, and which devices stand where.

    :param plan: the plan.
    :param tenant: what tells the tenant and its credential from any other.
    """
    digest = hashlib.sha256(f"{_VERSION}\0{tenant}".encode())
    for position in plan.to_send:
        digest.update(f"\0{position}\0{plan.uids[position]}\0{plan.names[position]}".encode())
    return digest.hexdigest()


class Checkpoint:
    """Keeps the settled rows of a run, a few answers at a time.

    A store that fails costs a retry its memory, never the run: what goes wrong with it is logged.

    :param store: where to keep them.
    :param plan_fingerprint: of the plan of this run.
    :param outcomes: the table of this run.
    :param clock: time.
    """

    def __init__(self, store: StateStore, plan_fingerprint: str, outcomes: Outcomes, clock: Clock) -> None:
        self._store = store
        self._fingerprint = plan_fingerprint
        self._outcomes = outcomes
        self._clock = clock
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._run = str(uuid.uuid4())  # parts that another run has left behind do not have it
        self._part = 0
        self._answers: list[list[Any]] = []
        self._unsaved = 0
        self._saved_at = self._clock.monotonic()

    def restore(self) -> int:
        """Put what earlier tries have settled into the table: all of it, or nothing.

        :return: the number of the last batch that an earlier try has settled; 0 where there is none.
        """
        try:
            parts = self._read_parts()
        except Exception as error:  # noqa: BLE001 - sending again is harmless, not starting is not
            log.warning("What an earlier try has settled cannot be read (%s): its devices are sent again.", error)
            self.clear()
            return 0
        rows = [row for part in parts for answer in part for row in _rows_of(answer)]
        for position, *values in rows:
            for column, value in zip(_COLUMNS, values, strict=True):
                getattr(self._outcomes, column)[position] = Status(value) if column == "status" else value
        if parts:
            self._part, self._answers = len(parts) - 1, parts[-1]
        return max((row[3] for row in rows), default=0)

    def _read_parts(self) -> list[list[list[Any]]]:
        """Read the parts of the last run, if it had the same plan.

        :raises Exception: of any kind, if a part is not as this version writes it.
        """
        parts: list[list[list[Any]]] = []
        while (kept := self._store.get(_key(len(parts)))) is not None:
            if kept["plan"] != self._fingerprint:
                log.warning("An earlier try of this task had another list of devices: this one starts afresh.")
                self.clear()
                return []
            if parts and kept["run"] != self._run:
                break
            self._run = str(kept["run"])
            answers = json.loads(zlib.decompress(base64.b85decode(kept["answers"])))
            if not isinstance(answers, list) or not answers:
                raise ValueError("it has another form")
            for answer in answers:
                self._check(answer)
            parts.append(answers)
        return parts

    def _check(self, answer: list[Any]) -> None:
        """Check that an answer is about rows that are still open, and that its values are of the right kind."""
        spans, *columns = answer
        open_rows = self._outcomes.status
        if len(columns) != len(_COLUMNS) or any(first < 0 or first + count > len(open_rows) for first, count in spans):
            raise ValueError("it has another form")
        for position, status, reason, batch, request_id, trace_id, attempts, submitted_at in _rows_of(answer):
            texts = (reason, request_id, trace_id, submitted_at)
            if (
                open_rows[position] is not Status.NOT_SENT
                or status not in SETTLED
                or not all(isinstance(number, int) for number in (batch, attempts))
                or not all(text is None or isinstance(text, str) for text in texts)
            ):
                raise ValueError("it has values that it cannot have")

    def note(self, positions: Sequence[int]) -> None:
        """Keep those of these rows that are settled; saved with the next few.

        :param positions: rows that one answer was about.
        """
        status_of = self._outcomes.status
        settled = [position for position in positions if status_of[position] in SETTLED]
        if not settled:
            return
        if len(self._answers) >= _ANSWERS_IN_A_PART:
            self.save()
            self._part += 1
            self._answers = []
        columns = [_packed([getattr(self._outcomes, column)[at] for at in settled]) for column in _COLUMNS]
        self._answers.append([_spans(settled), *columns])
        self._unsaved += 1
        is_due = self._clock.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS
        if is_due or self._unsaved >= SAVE_EVERY_ANSWERS:
            self.save()

    def save(self) -> None:
        """Save what is not saved yet."""
        if not self._unsaved:
            return
        self._saved_at = self._clock.monotonic()
        answers = base64.b85encode(zlib.compress(json.dumps(self._answers, separators=(",", ":")).encode())).decode()
        try:
            self._store.set(_key(self._part), {"plan": self._fingerprint, "run": self._run, "answers": answers})
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("What is settled so far cannot be kept (%s): a retry may send it again.", error)
        else:
            self._unsaved = 0

    def clear(self) -> None:
        """Forget everything: a later run of the task sends its whole list."""
        try:
            parts = 0
            while self._store.get(_key(parts)) is not None:
                parts += 1
            for part in reversed(range(parts)):  # the first part last: without it, the others are not found
                self._store.delete(_key(part))
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The checkpoint cannot be cleared (%s).", error)
        self._start_afresh()


def _key(part: int) -> str:
    return f"nexthink_deletions_{part}"


def _spans(positions: Sequence[int]) -> list[list[int]]:
    """Return ascending runs of positions as ``[first, count]``."""
    spans: list[list[int]] = []
    for position in positions:
        if spans and position == sum(spans[-1]):
            spans[-1][1] += 1
        else:
            spans.append([position, 1])
    return spans


def _packed(values: list[Any]) -> Any:
    """Return one value where all are the same, else the list of them."""
    return values if any(value != values[0] for value in values) else values[0]


def _rows_of(answer: list[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of one answer: the position, then the columns."""
    spans, *columns = answer
    positions = [position for first, count in spans for position in range(first, first + count)]
    return list(zip(positions, *(_unpacked(column, len(positions)) for column in columns), strict=True))


def _unpacked(packed: Any, size: int) -> list[Any]:
    return packed if isinstance(packed, list) else [packed] * size
