"""The plan of a list of any length: from one Parquet file to another, in bounded memory.

What is decided on a row depends on the row itself and on the rows with the same uid, and on no others. So each part of
the list is planned by itself, and the rows whose uid occurs more than once, anywhere in the list, are planned together.
To find those takes 16 bytes a device.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from math import ceil
from typing import Any, BinaryIO

from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan, make_plan
from airflow_provider_nexthink.deletion.protect import ProtectList
from airflow_provider_nexthink.devices.columns import find_uid_and_name
from airflow_provider_nexthink.devices.identity import canonical_uid
from airflow_provider_nexthink.devices.parquet import ParquetRows, ParquetWriter
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.devices.rows import check_cells
from airflow_provider_nexthink.devices.statuses import StatusFinder
from airflow_provider_nexthink.status import ACTION_REQUIRED, COLUMNS, MAX_UNSCHEDULED, NUMBER_COLUMNS, Presence, Status

_CODES: tuple[Status | None, ...] = (None, *Status)  # None: to send
_UID_BYTES = 16
_BUCKETS = 256
_REPEATED_AT_ONCE = 500_000


class FilePlan:
    """The plan of the devices in a Parquet file.

    :param rows: the devices.
    :param start: the first row of the list, from 0.
    :param stop: the row after the last.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if the columns are missing or ambiguous.
    """

    def __init__(
        self,
        rows: ParquetRows,
        start: int,
        stop: int,
        *,
        uid_column: str | None = None,
        name_column: str | None = None,
    ) -> None:
        self._rows = rows
        self._start, self._stop = start, stop
        # A list without rows needs no columns, as in memory.
        self._uid, self._name = find_uid_and_name(rows.labels, uid_column, name_column) if len(self) else (0, 0)
        self._statuses = StatusFinder(rows.labels, self._uid, self._name)
        self._status_at: int | None = None
        self._reason_at: int | None = None
        self.uid_column: str | None = rows.labels[self._uid] if len(self) else None
        """The name of the column with the uids; None for a list without rows."""
        self.name_column: str | None = rows.labels[self._name] if len(self) else None
        """The name of the column with the names; None for a list without rows."""

    def __len__(self) -> int:
        return self._stop - self._start

    def write(
        self,
        table: BinaryIO,
        unscheduled: BinaryIO,
        exclude: Sequence[str] = (),
        protected: Sequence[str] = (),
        protect: ProtectList | None = None,
    ) -> FileOutcomes:
        """Decide on each row, and write the outcome table of a dry run.

        :param table: an open file, for the table, as Parquet.
        :param unscheduled: an open file, for its rows that need attention, likewise.
        :param exclude: globs on the name, and uids that are not to be sent.
        :param protected: the same of the connection.
        :param protect: devices that are not to be sent; None for none.
        :raises NexthinkInputError: if the file is damaged, or an outcome table whose statuses cannot be read.
        """
        repeated = self._scan()
        decided = self._decide(repeated, exclude, protected, protect) if repeated.rows else None
        planned = FileOutcomes()
        first = 0
        with (
            ParquetWriter(table, COLUMNS, NUMBER_COLUMNS) as all_rows,
            ParquetWriter(unscheduled, COLUMNS, NUMBER_COLUMNS) as open_rows,
        ):
            for rows in self._parts():
                plan = make_plan(rows, exclude, protected, protect)
                if decided is not None:
                    decided.apply(plan, first)
                outcomes = Outcomes(plan)
                for position in plan.to_send:
                    outcomes.status[position] = Status.PLANNED
                all_rows.write(list(outcomes.columns().values()))
                open_rows.write(list(planned.add(outcomes).columns().values()))
                first += len(rows)
        return planned

    def _scan(self) -> _Repeated:
        """Find the uids that occur in several rows, and whether the list is an outcome table."""
        columns = [self._uid, self._name, *self._statuses.columns]
        buckets = [bytearray() for _ in range(_BUCKETS)]
        first = 0
        for cells in self._rows.batches(columns, self._start, self._stop):
            of_column = dict(zip(columns, cells, strict=True))
            check_cells(of_column[self._uid], of_column[self._name], first)
            first += len(of_column[self._uid])
            self._statuses.add(of_column.__getitem__)
            for uid in map(_pack, of_column[self._uid]):
                if uid is not None:
                    buckets[hash(uid) % _BUCKETS] += uid
        if len(self):
            self._status_at, self._reason_at = self._statuses.choose()
        repeated = _Repeated()
        for bucket in buckets:
            repeated.add(bucket)
            bucket.clear()
        return repeated

    def _parts(self) -> Iterator[DeviceRows]:
        """Read the list part by part."""
        of_status = [at for at in (self._status_at, self._reason_at) if at is not None]
        for uids, names, *others in self._rows.batches([self._uid, self._name, *of_status], self._start, self._stop):
            statuses = reasons = None
            if self._status_at is not None:
                statuses = self._statuses.words(self._status_at, others[0])
                reasons = others[1] if self._reason_at is not None else None
            yield DeviceRows(uids, names, self.uid_column, self.name_column, statuses, reasons)

    def _decide(
        self, repeated: _Repeated, exclude: Sequence[str], protected: Sequence[str], protect: ProtectList | None
    ) -> _Decided:
        """Plan the rows whose uid occurs more than once; many of them in several passes, by their uid."""
        decided = _Decided(len(self))
        passes = ceil(repeated.rows / _REPEATED_AT_ONCE)
        for number in range(passes):
            positions: list[int] = []
            statuses: list[Status | Presence | None] = []
            reasons: list[Any] = []
            rows = DeviceRows([], [], statuses=statuses, reasons=reasons)
            first = 0
            for part in self._parts():
                for at, uid in enumerate(map(_pack, part.uids)):
                    if uid in repeated.uids and hash(uid) % passes == number:
                        positions.append(first + at)
                        rows.uids.append(part.uids[at])
                        rows.names.append(part.names[at])
                        statuses.append(part.statuses[at] if part.statuses else None)
                        reasons.append(part.reasons[at] if part.reasons else None)
                first += len(part)
            decided.add(positions, make_plan(rows, exclude, protected, protect))
        return decided


class FileOutcomes(Outcomes):
    """The outcomes of rows that are in a file: how many there are of each status, and the first that need attention."""

    def __init__(self) -> None:
        super().__init__(Plan([], [], [], [], []))
        self._counter: Counter[Status] = Counter()
        self._unscheduled: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self._counter.total()

    def counts(self) -> dict[str, int]:
        """Return how many rows have each status, every status named."""
        return {status.value: self._counter[status] for status in Status}

    @property
    def planned(self) -> int:
        """How many devices are to be sent."""
        return self._counter[Status.PLANNED]

    def rows_with(self, statuses: Collection[str], most: int | None = None) -> list[dict[str, Any]]:
        """Return the first of the rows that need attention and have one of these statuses."""
        return [row for row in self._unscheduled if row["status"] in statuses][:most]

    def add(self, part: Outcomes) -> Outcomes:
        """Count the next rows of the table, and return those of them that need attention.

        :param part: the rows.
        """
        self._counter.update(part.status)
        attention = part.only(ACTION_REQUIRED)
        self._unscheduled += attention.rows(range(min(len(attention), MAX_UNSCHEDULED - len(self._unscheduled))))
        return attention


class _Repeated:
    """The uids that occur more than once."""

    def __init__(self) -> None:
        self.uids: set[bytes] = set()
        self.rows = 0
        """How many rows have one of them."""

    def add(self, uids: bytearray) -> None:
        """Find those among uids; no other has one of these.

        :param uids: one after another.
        """
        seen: set[bytes] = set()
        for at in range(0, len(uids), _UID_BYTES):
            uid = bytes(uids[at : at + _UID_BYTES])
            if uid not in seen:
                seen.add(uid)
                continue
            self.rows += 1 if uid in self.uids else 2
            self.uids.add(uid)


class _Decided:
    """What was decided on some rows of a list: five bytes for each row of it.

    :param length: of the list.
    """

    def __init__(self, length: int) -> None:
        self._codes = bytearray(length)
        self._reason_of = array("I", bytes(length * array("I").itemsize))
        self._reasons: dict[str | None, int] = {}

    def add(self, positions: Sequence[int], plan: Plan) -> None:
        """Add what was decided.

        :param positions: of the rows in the list.
        :param plan: of these rows.
        """
        for position, status, reason in zip(positions, plan.statuses, plan.reasons, strict=True):
            self._codes[position] = 1 + _CODES.index(status)
            self._reason_of[position] = self._reasons.setdefault(reason, len(self._reasons))

    def apply(self, plan: Plan, first: int) -> None:
        """Put it in the place of what the plan of a part says of these rows.

        :param plan: of a part of the list.
        :param first: the position of its first row in the list.
        """
        codes = self._codes[first : first + len(plan.uids)]
        if not any(codes):
            return
        reasons = list(self._reasons)
        for at, code in enumerate(codes):
            if code:
                plan.statuses[at] = _CODES[code - 1]
                plan.reasons[at] = reasons[self._reason_of[first + at]]
        plan.to_send[:] = [at for at, status in enumerate(plan.statuses) if status is None]


def _pack(uid: object) -> bytes | None:
    """Return a uid as bytes; None for what is none."""
    canonical = canonical_uid(uid)
    return None if canonical is None else bytes.fromhex(canonical.replace("-", ""))
