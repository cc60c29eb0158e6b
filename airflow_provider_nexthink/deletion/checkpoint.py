"""The checkpoint: what earlier tries of a task have settled, kept where a retry of it finds it.

It holds the rows that are not to be sent again (SCHEDULED, INVALID, REJECTED) with all their columns, so that the
table of the retry is whole. It is bound to the plan by a fingerprint: for another list it does not count.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.deletion.words import Status

log = logging.getLogger(__name__)

SETTLED = frozenset({Status.SCHEDULED, Status.INVALID, Status.REJECTED})

SAVE_EVERY_ANSWERS = 5
SAVE_EVERY_SECONDS = 1.0

# One key of the store holds this many answers, so that a save rewrites little and no value grows large.
_ANSWERS_IN_A_PART = 100
_COLUMNS = ("status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")


class StateStore(Protocol):
    """Where a retry of the same task finds what an earlier try has kept, such as Airflow's task state store."""

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""

    def set(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""

    def delete(self, key: str) -> None:
        """Forget a key."""


def fingerprint(plan: Plan, base_url: str) -> str:
    """Return what tells this plan from any other: the tenant, and which devices stand where.

    :param plan: the plan.
    :param base_url: the API host of the tenant.
    """
    digest = hashlib.sha256(base_url.encode())
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
        self._part = 0
        self._answers: list[list[Any]] = []
        self._unsaved = 0
        self._clock = clock
        self._saved_at = clock.monotonic()

    def restore(self) -> int:
        """Put what earlier tries have settled into the table.

        :return: the number of the last batch that an earlier try has settled; 0 where there is none.
        """
        last_batch = 0
        try:
            while (kept := self._store.get(_key(self._part))) is not None:
                if kept["plan"] != self._fingerprint:
                    log.warning("An earlier try of this task had another list of devices: this one starts afresh.")
                    self.clear()
                    return 0
                self._answers = json.loads(zlib.decompress(base64.b85decode(kept["answers"])))
                for spans, *columns in self._answers:
                    positions = [position for first, count in spans for position in range(first, first + count)]
                    self._put(positions, columns)
                    last_batch = max(last_batch, *_unpacked(columns[2], len(positions)))
                self._part += 1
        except Exception as error:  # noqa: BLE001 - sending again is harmless, not starting is not
            log.warning("What an earlier try has settled cannot be read (%s): its devices are sent again.", error)
        if self._part:
            self._part -= 1  # the last part goes on
        return last_batch

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
        self._unsaved, self._saved_at = 0, self._clock.monotonic()
        answers = base64.b85encode(zlib.compress(json.dumps(self._answers, separators=(",", ":")).encode())).decode()
        try:
            self._store.set(_key(self._part), {"plan": self._fingerprint, "answers": answers})
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("What is settled so far cannot be kept (%s): a retry may send it again.", error)

    def clear(self) -> None:
        """Forget everything: a later run of the task sends its whole list."""
        try:
            part = 0
            while self._store.get(_key(part)) is not None:
                self._store.delete(_key(part))
                part += 1
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The checkpoint cannot be cleared (%s).", error)
        self._part, self._answers, self._unsaved = 0, [], 0

    def _put(self, positions: list[int], columns: list[Any]) -> None:
        for column, packed in zip(_COLUMNS, columns, strict=True):
            values = getattr(self._outcomes, column)
            for position, value in zip(positions, _unpacked(packed, len(positions)), strict=True):
                values[position] = Status(value) if column == "status" else value


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


def _unpacked(packed: Any, size: int) -> list[Any]:
    return packed if isinstance(packed, list) else [packed] * size
