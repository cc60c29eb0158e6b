"""The outcome: a table with one row for every row of the input, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.exceptions import (
    NexthinkDevicesError,
    NexthinkDevicesRefusedError,
    NexthinkDevicesRetryableError,
    NexthinkError,
    NexthinkGuardError,
)
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import (
    ACTION_REQUIRED,
    COLUMNS,
    DEFAULT_FAIL_ON,
    NUMBER_COLUMNS,
    RETRYABLE,
    Status,
)

if TYPE_CHECKING:
    import pandas as pd

    from airflow_provider_nexthink.deletion.journal import EarlierTries

_PREVIEW_ROWS = 5

T = TypeVar("T")

_word_of = attrgetter("_value_")  # of a status; ``value`` is the same, and many times as slow


class Outcomes:
    """What became of each row so far, column by column.

    A row starts with the status of the plan, or as NOT_SENT, until a run settles it.

    :param plan: the plan of the run.
    """

    def __init__(self, plan: Plan) -> None:
        size = len(plan.uids)
        self.uid = plan.uids
        self.name = plan.names
        self.status: list[Status] = [status or Status.NOT_SENT for status in plan.statuses]
        self.reason = list(plan.reasons)
        self.batch: list[int | None] = [None] * size
        self.request_id: list[str | None] = [None] * size
        self.trace_id: list[str | None] = [None] * size
        self.attempts = [0] * size
        self.submitted_at: list[str | None] = [None] * size

    @classmethod
    def empty(cls) -> Outcomes:
        """Return a table without rows."""
        return Outcomes(Plan([], [], [], [], []))

    def __len__(self) -> int:
        return len(self.uid)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each status, every status named."""
        counter = Counter(self.status)
        return {status.value: counter[status] for status in Status}

    def columns(self) -> dict[str, list[Any]]:
        """Return the table as ``{column: values}``, plain JSON values only."""
        columns = {column: getattr(self, column) for column in COLUMNS}
        return {**columns, "status": list(map(_word_of, self.status))}

    def copy(self) -> Outcomes:
        """Return a copy of the table."""
        made = Outcomes.empty()
        for column in COLUMNS:
            getattr(made, column).extend(getattr(self, column))
        return made

    def only(self, statuses: Collection[str]) -> Outcomes:
        """Return the rows with one of these statuses, as a table of their own.

        :param statuses: the statuses.
        """
        positions = self._positions(statuses)
        part = Outcomes.empty()
        for column in COLUMNS:
            getattr(part, column).extend(read_cells(getattr(self, column), positions))
        return part

    def rows_with(self, statuses: Collection[str], most: int | None = None) -> list[dict[str, Any]]:
        """Return the rows with one of these statuses, as ``[{column: value}, ...]``.

        :param statuses: the statuses.
        :param most: how many rows at most, the first ones; None for all.
        """
        return self.rows(self._positions(statuses)[:most])

    def _positions(self, statuses: Collection[str]) -> list[int]:
        return [position for position, status in enumerate(self.status) if status in statuses]

    def rows(self, positions: Collection[int] | None = None) -> list[dict[str, Any]]:
        """Return the table, or these rows of it, as ``[{column: value}, ...]``.

        :param positions: which rows; None for all.
        """
        columns = self.columns().values()
        rows: Iterable[Any] = zip(*columns, strict=True)
        if positions is not None:
            rows = ([cells[at] for cells in columns] for at in positions)
        # Spelled out, in the order of COLUMNS: there may be a million of them, and nothing is quicker.
        return [
            {
                "uid": uid,
                "name": name,
                "status": status,
                "reason": reason,
                "batch": batch,
                "request_id": request_id,
                "trace_id": trace_id,
                "attempts": attempts,
                "submitted_at": submitted_at,
            }
            for uid, name, status, reason, batch, request_id, trace_id, attempts, submitted_at in rows
        ]


def as_range(positions: list[int]) -> Sequence[int]:
    """Return positions without a gap, as most batches have, as a range: columns are then read and written by slices.

    :param positions: ascending, one or more.
    """
    span = range(positions[0], positions[-1] + 1)
    return span if len(span) == len(positions) and list(span) == positions else positions


def read_cells(column: list[T], positions: Sequence[int]) -> list[T]:
    """Return the cells of a column at these positions.

    :param column: the column.
    :param positions: of the rows.
    """
    if isinstance(positions, range):
        return column[positions.start : positions.stop]
    return [column[at] for at in positions]


def write_cells(column: list[T], positions: Sequence[int], cells: list[T]) -> None:
    """Write cells into a column, at these positions.

    :param column: the column.
    :param positions: of the rows.
    :param cells: one for each of them.
    """
    if isinstance(positions, range) and len(cells) == len(positions):  # or the column would change its length
        column[positions.start : positions.stop] = cells
        return
    for at, cell in zip(positions, cells, strict=True):
        column[at] = cell


@dataclass
class RunCounters:
    """The counters of a run."""

    batches: int = 0
    requests: int = 0
    retries: int = 0


@dataclass(frozen=True)
class DeletionResult:
    """What became of each device of a list.

    :param outcomes: the outcome of every row, in the order of the input.
    :param error: what ended the run early, or None.
    :param counters: how many batches and requests it took.
    :param dry_run: whether nothing was to be sent.
    :param uid_column: where the uids were found; None for an empty list.
    :param name_column: where the names were found; None for an empty list.
    :param instance: the tenant.
    :param started_at: when the run began.
    :param finished_at: when it ended.
    :param duration_seconds: how long it took.
    :param origin: who started it, and in which task.
    :param reason: why, in words; None for none.
    :param limits: what limits it, and who says so, as ``DeletionPolicy.limits_in_force`` returns it; None where the
        list was not read.
    :param earlier: what is known of earlier tries of the same task; None where no records are kept.
    :param is_earlier_known: False if there were earlier tries, or may have been, whose records are not there.
    :param may_have_sent_before: whether earlier tries of the task have sent a request, or may have.
    :param clear_checkpoint: deletes what is stored for a later try; call it once there will be none.
    """

    outcomes: Outcomes
    error: BaseException | None
    counters: RunCounters
    dry_run: bool
    uid_column: str | None
    name_column: str | None
    instance: str
    started_at: datetime
    finished_at: datetime
    duration_seconds: float = 0.0
    origin: RunOrigin = field(default_factory=RunOrigin)
    reason: str | None = None
    limits: dict[str, Any] | None = None
    earlier: EarlierTries | None = None
    is_earlier_known: bool = True
    may_have_sent_before: bool = False
    clear_checkpoint: Callable[[], None] | None = None

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """The outcome table: one ``{column: value}`` for every row of the input, in its order."""
        return self.outcomes.rows()

    @cached_property
    def unscheduled(self) -> list[dict[str, Any]]:
        """The rows of the table that need attention: INVALID, REJECTED, FAILED, UNKNOWN, NOT_SENT."""
        return self.outcomes.rows_with(ACTION_REQUIRED)

    @cached_property
    def earlier_tries(self) -> list[dict[str, Any]]:
        """The rows of devices that earlier tries of this task were about to send and that are not in this list."""
        return self.earlier.rows() if self.earlier else []

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows ended with each status, every status named."""
        return self.outcomes.counts()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run in numbers; plain JSON values. Durations are seconds, times ISO 8601 in UTC."""
        return {
            "requested": len(self.outcomes),
            **self.counts,
            "batches": self.counters.batches,
            "requests": self.counters.requests,
            "retries": self.counters.retries,
            "duration_seconds": round(self.duration_seconds, 3),
            "dry_run": self.dry_run,
            "uid_column": self.uid_column,
            "name_column": self.name_column,
            "instance": self.instance,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "triggered_by": self.origin.triggered_by,
            "reason": self.reason,
            "dag_id": self.origin.dag_id,
            "dag_run_id": self.origin.dag_run_id,
            "task_id": self.origin.task_id,
            "map_index": self.origin.map_index,
            "try_number": self.origin.try_number,
            "provider_version": __version__,
            "limits": self.limits,
            **earlier_in_summary(self.earlier, is_known=self.is_earlier_known),
            **error_in_summary(self.error, sent_nothing=not (self.counters.requests or self.may_have_sent_before)),
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the outcome table as a DataFrame; missing values are NA, text stays text.

        :raises ImportError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_pandas() needs pandas: install airflow-provider-nexthink[dataframe].") from None

        return pd.DataFrame(
            {
                column: pd.array(values, dtype="Int64" if column in NUMBER_COLUMNS else "string")
                for column, values in self.outcomes.columns().items()
            }
        )

    def raise_for_status(self, fail_on: Collection[str] = DEFAULT_FAIL_ON) -> None:
        """Raise what ended the run; or an error if rows have one of these statuses.

        :param fail_on: the statuses that are not acceptable.
        :raises NexthinkDevicesRetryableError: if a retry may schedule some of them.
        :raises NexthinkDevicesRefusedError: if they cannot be sent as they stand.
        """
        if self.error is not None:
            raise self.error
        counts = {status: count for status, count in self.counts.items() if count and status in fail_on}
        if counts:
            raise self._failure(counts)

    def _failure(self, counts: dict[str, int]) -> NexthinkDevicesError:
        count = sum(counts.values())
        numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
        rows = self.outcomes.rows_with(counts, _PREVIEW_ROWS)  # none where only a file has rows with these statuses
        first = "; ".join(
            f"{row['name']} ({row['uid']}): {row['status']}{f', {reason}' if (reason := row['reason']) else ''}"
            for row in rows
        )
        more = f"; and {count - len(rows)} more" if count > len(rows) else ""
        message = f"{numbers} of {len(self.outcomes)} devices.{f' {first}{more}.' if rows else ''}"
        if RETRYABLE.intersection(counts):
            return NexthinkDevicesRetryableError(f"{message} A retry is harmless and may schedule them.", counts=counts)
        return NexthinkDevicesRefusedError(f"{message} A retry changes nothing: correct the list.", counts=counts)


def earlier_in_summary(earlier: EarlierTries | None, *, is_known: bool) -> dict[str, Any]:
    """Return ``earlier_tries`` for a summary: counts by status, None where they are not known; nothing for none.

    :param earlier: what is known of earlier tries.
    :param is_known: whether all of it is.
    """
    if not is_known:
        return {"earlier_tries": None}
    return {"earlier_tries": earlier.counts()} if earlier and earlier.others else {}


def error_in_summary(error: BaseException | None, *, sent_nothing: bool) -> dict[str, Any]:
    """Return ``error`` for a summary; nothing for none.

    :param error: what kept a run from sending, or ended it.
    :param sent_nothing: whether it is known that no try of the task has sent a request.
    """
    if error is None:
        return {}
    # The text of an error of anything else may hold what belongs in no XCom; the log masks secrets.
    message = str(error) if isinstance(error, NexthinkError) else "See the log of this try."
    facts = {"type": type(error).__name__, "message": message, "sent_nothing": sent_nothing}
    if isinstance(error, NexthinkGuardError):
        facts |= {"planned": error.planned, "limit": error.limit}
    return {"error": facts}
