"""The checkpoint: what the tries of one task were about to send, and what became of each device.

It is a journal in a key-value store that all tries of a task share. Before its first request a try records the devices
that it is about to send (its intent), then the rows as they are settled, and at its end the rest. A later try replays
the journal: a device with a recorded outcome has that outcome; a device that was only intended may have been sent.
"""

from __future__ import annotations

import json
import logging
import uuid
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.journal import (
    DEVICES_IN_AN_ENTRY,
    INDICES_IN_AN_ENTRY,
    RESULT_COLUMNS,
    SAVED,
    EarlierTries,
    Entry,
    fingerprint,
    pack,
    pack_column,
    pack_devices,
    replay,
    slices,
    spans_of,
)
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.exceptions import (
    NexthinkInputError,
    NexthinkLedgerError,
    NexthinkLedgerMismatchError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.status import RESUMABLE, Status

log = logging.getLogger(__name__)

SAVE_EVERY_RESPONSES = 5
SAVE_EVERY_SECONDS = 1.0

_TRY_KEY = "nexthink_try"
_DONE_KEY = "nexthink_deletions_done"


class StateStore(Protocol):
    """A key-value store that all tries of a task share, such as Airflow's task state store."""

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""

    def set(self, key: str, value: Any) -> None:
        """Store a JSON value under a key."""

    def delete(self, key: str) -> None:
        """Delete a key."""


class Checkpoint:
    """Records the intent and the outcomes of a run, and reads those of earlier tries of the same task.

    If the store is slow or down, a warning is logged and the run continues without it. Only an error that says that
    this try is over (``NexthinkTryOverError``) gets through, once: it ends the run.

    :param store: where to keep the journal.
    :param clock: time.
    :param try_number: the number of this try, from 1 on; None if tries are not counted.
    :param max_tries: the number that Airflow raises when a person clears the task; None where it is not known.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Clock | None = None,
        *,
        try_number: int | None = None,
        max_tries: int | None = None,
    ) -> None:
        self._store = store
        self._clock = clock or Clock()
        self._try_number = try_number
        self._max_tries = max_tries
        self.earlier = EarlierTries()
        self.cleared = EarlierTries()
        """The tries of a task that had succeeded before it was cleared: only reported, since all is sent again."""
        self.is_over = False
        """Whether the store has said that this try is over."""
        self.is_earlier_known = True
        """False if there were earlier tries, or may have been, whose records are not there or could not be read."""
        self._is_loaded = False
        self._is_marked_unsent = False  # the journal alone is no proof: a try may have sent what it could not record
        self._is_writable = True
        self._outcomes = Outcomes.empty()
        self._index_of = array("q")  # a row's position in the table -> its device's index in the journal
        self._is_open = bytearray()  # for each row of the table: sent by this run, and not recorded since
        self._earlier_row_of: dict[int, int] = {}
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._journal = str(uuid.uuid4())  # values that an older journal has left behind do not have it
        self._first = 0  # the number of the first entry of this try
        self._entries: list[Entry] = []
        self._saved = 0  # so many of them are saved, and full
        self._unsaved_responses = 0
        self._saved_at = self._clock.monotonic()

    # Reading

    def load(self) -> EarlierTries:
        """Read what earlier tries have recorded: all of it, or nothing. Later calls return the same.

        :return: the devices of earlier tries; none if there are none, or if they cannot be read.
        :raises NexthinkTryOverError: if this try is over.
        :raises NexthinkLedgerError: if the store is in a ledger that cannot be read.
        :raises NexthinkLedgerMismatchError: if the store is in a ledger that is not this tenant's, or cannot be one.
        """
        if self._is_loaded:
            return self.earlier
        try:
            values = self._read_values()
            done = self._store.get(_DONE_KEY) if values else None
            self._is_marked_unsent = self._try_number in (None, 1) or self._is_known_to_have_sent_nothing()
            if not values:
                self.is_earlier_known = self._is_marked_unsent
        except NexthinkTryOverError:
            self.is_over = True
            raise
        except (NexthinkLedgerError, NexthinkLedgerMismatchError):  # without the ledger nothing is to be sent
            raise
        except Exception as error:  # noqa: BLE001 - of any kind of store
            # What is in the store may be whole: it must not be overwritten by this try.
            self.is_earlier_known = self._is_writable = False
            self._log_unreadable(error, "this try records nothing for a later one")
        else:
            try:
                earlier = replay(values)
            except Exception as error:  # noqa: BLE001 - a value may hold anything
                self.is_earlier_known = False
                self._log_unreadable(error, "they are discarded")
            else:
                if values:
                    self._take_up(values, earlier, done)
        self._is_loaded = True
        return self.earlier

    def _take_up(self, values: Sequence[Any], earlier: EarlierTries, done: Any) -> None:
        """Resume a journal; or, where a person has cleared a task that had succeeded, start another one."""
        if _journal_of(done) != _journal_of(values[0]):
            self.earlier = earlier
        elif self._max_tries is None or done.get("max_tries") != self._max_tries:
            self.cleared = earlier
            log.info("This task had succeeded, and was cleared since: its whole list is sent again.")
            return
        else:  # Airflow's own retry: something failed once the devices were handled
            self.earlier = earlier
            self._call(lambda: self._store.delete(_DONE_KEY), "The mark that this task had succeeded cannot be deleted")
        self._journal, self._first = str(values[0]["journal"]), len(values)

    @property
    def may_have_sent_before(self) -> bool:
        """Whether earlier tries of the task have sent a request, or may have."""
        if not self._is_loaded:
            return self._try_number != 1
        is_known = self.is_earlier_known and self._is_marked_unsent
        return not is_known or self.earlier.may_have_sent or self.cleared.may_have_sent

    def _is_known_to_have_sent_nothing(self) -> bool:
        """Tell whether the previous try has recorded that no try so far has sent anything."""
        return bool(self._store.get(_TRY_KEY) == {"try": (self._try_number or 0) - 1, "has_sent_nothing": True})

    def _read_values(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._store.get(_key(len(values)))) is not None:
            if values and _journal_of(value) != _journal_of(values[0]):
                break
            values.append(value)
        return values

    @staticmethod
    def _log_unreadable(error: Exception, follows: str) -> None:
        log.warning(
            "The records of earlier tries of this task cannot be read (%s: %s); %s. If there were earlier tries, what "
            "was sent is not known here: see their logs, and Nexthink's inventory. Limits hold for this try alone, and "
            "devices may be sent again.",
            type(error).__name__,
            error,
            follows,
        )

    # A run

    def resume(self, outcomes: Outcomes, to_send: Sequence[int], tenant: str) -> int:
        """Find the devices of a run among those of earlier tries, and restore the rows that are settled.

        A device is the same if tenant, uid and name are.

        :param outcomes: the table of this run.
        :param to_send: the positions of its rows to send; each uid is there once.
        :param tenant: what tells the tenant from any other.
        :return: how many devices earlier tries have sent, or may have sent, beyond those in ``to_send``.
        :raises NexthinkInputError: if this checkpoint has recorded another run: it is good for one.
        """
        if self._entries:
            raise NexthinkInputError(
                "This checkpoint has recorded another run already: make a new Checkpoint over the same store for each."
            )
        earlier = self.load()
        self._outcomes = outcomes
        self._index_of = array("q", [-1]) * len(outcomes)
        self._is_open = bytearray(len(outcomes))
        self._earlier_row_of = {}
        position_of = {outcomes.uid[position]: position for position in to_send} if earlier else {}
        digest = fingerprint(tenant)
        others: list[int] = []
        sent_elsewhere: set[tuple[str, str | None]] = set()
        known = earlier.outcomes
        for at, (uid, name, status) in enumerate(zip(known.uid, known.name, known.status, strict=True)):
            position = position_of.get(uid) if earlier.tenants[at] == digest else None
            if position is None or outcomes.name[position] != name:
                others.append(at)
                if position is None and status is not Status.NOT_SENT:
                    sent_elsewhere.add((earlier.tenants[at], uid))
                continue
            self._index_of[position] = at
            if status in RESUMABLE:
                self._restore(position, at)
            elif status is not Status.NOT_SENT:
                self._earlier_row_of[position] = at
        earlier.others = others
        return len(sent_elsewhere)

    def _restore(self, position: int, at: int) -> None:
        for column in reversed(RESULT_COLUMNS):  # the status last: until then, the row counts as not restored
            getattr(self._outcomes, column)[position] = getattr(self.earlier.outcomes, column)[at]

    @property
    def last_batch(self) -> int:
        """The number of the last batch of earlier tries; 0 if there is none."""
        return max((batch for batch in self.earlier.outcomes.batch if batch is not None), default=0)

    def begin(
        self,
        positions: Sequence[int],
        *,
        tenant: str,
        instance: str,
        uid_column: str | None = None,
        name_column: str | None = None,
    ) -> None:
        """Record which devices this run is about to send. Call it after ``resume``, before the first request.

        :param positions: the positions of the rows to send now.
        :param tenant: what tells the tenant from any other.
        :param instance: the tenant.
        :param uid_column: where the uids were found.
        :param name_column: where the names were found.
        :raises NexthinkTryOverError: if this try is over.
        """
        origin = {
            "tenant": fingerprint(tenant),
            "instance": instance,
            "uid_column": uid_column,
            "name_column": name_column,
            "started_at": self._clock.now().isoformat(),
        }
        known = [self._index_of[position] for position in positions if self._index_of[position] >= 0]
        new = [position for position in positions if self._index_of[position] < 0]
        entries = [
            Entry({**origin, "known": pack(spans_of(part))}) for part in slices(sorted(known), INDICES_IN_AN_ENTRY)
        ]
        for part in slices(new, DEVICES_IN_AN_ENTRY):
            entries += [Entry({**origin, **devices}) for devices in self._packed(part)]
        index_of, is_open = self._index_of[:], self._is_open[:]
        for index, position in enumerate(new, len(self.earlier)):
            index_of[position] = index
        for position in positions:
            is_open[position] = 1
        # All at once: a timeout may come at any line, and no row may be recorded whose intent is not.
        self._entries, self._index_of, self._is_open = [*self._entries, *entries], index_of, is_open
        self.save()

    def _packed(self, positions: Sequence[int]) -> Iterator[dict[str, str]]:
        return pack_devices(
            [self._outcomes.uid[at] or "" for at in positions], [self._outcomes.name[at] for at in positions]
        )

    def record(self, positions: Sequence[int]) -> None:
        """Record those of these rows that have a final status; they are saved with the next few.

        :param positions: the rows of one response.
        :raises NexthinkTryOverError: if this try is over.
        """
        status_of = self._outcomes.status
        settled = [position for position in positions if status_of[position] in RESUMABLE]
        if not settled:
            return
        self._append(settled)
        is_due = self._clock.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS
        if is_due or self._unsaved_responses >= SAVE_EVERY_RESPONSES:
            self.save()

    def _append(self, positions: Sequence[int]) -> None:
        columns = [pack_column([getattr(self._outcomes, column)[at] for at in positions]) for column in RESULT_COLUMNS]
        response = [spans_of([self._index_of[at] for at in positions]), *columns]
        characters = len(json.dumps(response))
        if self._entries and self._entries[-1].has_room():
            entry = self._entries[-1]
            entry.is_saved = False
            entry.responses.append(response)
            entry.characters += characters
        else:  # never an entry without rows: a timeout may come before the next line
            self._entries.append(Entry(responses=[response], characters=characters))
        self._unsaved_responses += 1
        for position in positions:
            self._is_open[position] = 0

    def finish(self) -> None:
        """Record what is not recorded yet, once the run has ended; it may be called again.

        A row that this run did not get to keeps what earlier tries know of it.

        :raises NexthinkTryOverError: if this try is over.
        """
        status_of = self._outcomes.status
        for position, at in self._earlier_row_of.items():
            if status_of[position] is Status.NOT_SENT:
                self._restore(position, at)
        alike: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        columns = [getattr(self._outcomes, column) for column in RESULT_COLUMNS]
        for position, is_open in enumerate(self._is_open):
            if is_open:
                alike[tuple(column[position] for column in columns)].append(position)
        for positions in alike.values():
            for part in slices(positions, INDICES_IN_AN_ENTRY):
                self._append(part)
        self.save()

    # Writing

    def save(self) -> None:
        """Write what is not written yet.

        :raises NexthinkTryOverError: the first time that the store says that this try is over.
        """
        if not self._is_writable or self.is_over:
            return
        self._saved_at = self._clock.monotonic()
        try:
            for number in range(self._saved, len(self._entries)):
                entry = self._entries[number]
                if not entry.is_saved:
                    self._store.set(_key(self._first + number), {"journal": self._journal, **entry.value()})
                    entry.is_saved = True
                if number < len(self._entries) - 1:
                    self._saved = number + 1
                    self._entries[number] = SAVED  # its devices are needed no more
        except NexthinkTryOverError:
            self.is_over = True
            raise
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning(
                "What this try sends cannot be recorded just now (%s: %s). If it stays so, a retry does not know it, "
                "and may send it again.",
                type(error).__name__,
                error,
            )
        else:
            self._unsaved_responses = 0

    def claim(self, *, is_end: bool = True) -> None:
        """Write the number of this try, so that the store can say if another one has taken its place.

        Call it before writing what no other check guards, such as XComs.

        :param is_end: whether this try sends nothing more.
        :raises NexthinkTryOverError: if this try is over.
        """
        if self._try_number is None or self.is_over:
            return
        has_sent = any(self._outcomes.attempts) or self.may_have_sent_before
        mark = {"try": self._try_number, "has_sent_nothing": is_end and not has_sent}
        self._call(lambda: self._store.set(_TRY_KEY, mark), "The number of this try cannot be recorded")

    def mark_done(self) -> None:
        """Record that the work is done: a retry resumes, and a task that a person clears sends its whole list again.

        :raises NexthinkTryOverError: if this try is over.
        """
        if self.is_over or not self._is_writable or not (self._first or self._entries):
            return
        done = {"journal": self._journal, "max_tries": self._max_tries}
        self._call(
            lambda: self._store.set(_DONE_KEY, done),
            "That this task has succeeded cannot be recorded; if it is cleared, it sends only what is not settled",
        )

    def _call(self, call: Callable[[], None], warning: str) -> None:
        try:
            call()
        except NexthinkTryOverError:
            self.is_over = True
            raise
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("%s (%s: %s).", warning, type(error).__name__, error)

    def clear(self) -> None:
        """Delete everything: a later run of the task sends its whole list."""
        if not self._is_writable or self.is_over:
            return
        try:
            for number in reversed(range(self._first + len(self._entries))):  # without the first, none is found
                self._store.delete(_key(number))
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The checkpoint cannot be cleared (%s: %s).", type(error).__name__, error)
        self.earlier = EarlierTries()
        self._start_afresh()


def _key(number: int) -> str:
    return f"nexthink_deletions_{number}"


def _journal_of(value: Any) -> Any:
    return value.get("journal") if isinstance(value, dict) else None
