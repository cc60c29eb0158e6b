"""The beginning of a run in the ledger: its devices are committed as REQUESTED, if all limits allow it.

Everything here happens in one transaction that holds the lock of the ledger: limits are exact also where runs overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import bindparam, case, cast, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from airflow_provider_nexthink.devices.identity import as_storable
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.growth import BLOCKED, check_growth, check_growth_of_plan
from airflow_provider_nexthink.ledger.proof import check_proof
from airflow_provider_nexthink.ledger.quota import Quota, check_quota
from airflow_provider_nexthink.ledger.schema import deletions, looks, runs
from airflow_provider_nexthink.ledger.statements import REQUESTED
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

RUNNING, FINISHED, LOST = "RUNNING", "FINISHED", "LOST"
"""The states of a run. A run is LOST if its process died without reporting: what it had not released was not sent."""

LOST_AFTER = timedelta(minutes=10)
"""A run without a heartbeat for this long is LOST."""

LOST_REASON = "the process of the run was lost before its turn"

_ROWS_AT_ONCE = 1_000  # MySQL limits the size of a statement
_CLOCK_RESOLUTION = timedelta(seconds=1)


class Columns(Protocol):
    """The outcome table, column by column."""

    uid: list[str | None]
    name: list[str | None]
    status: list[Status]
    reason: list[str | None]
    batch: list[int | None]
    request_id: list[str | None]
    trace_id: list[str | None]
    attempts: list[int]
    submitted_at: list[str | None]


@dataclass(frozen=True)
class InventoryLook:
    """A look at the inventory just before a run.

    :param query_id: the query that lists it.
    :param looked_at: when.
    :param days_unseen: for each uid in it, how many days the device had not been seen; None where that is not known.
    :param uid_kind: the kind of uid it lists; None if the query does not say.
    """

    query_id: str
    looked_at: datetime
    days_unseen: Mapping[str, float | None]
    uid_kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is about to do, for whom, and within which limits.

    :param origin: the task, the try and the person.
    :param reason: why, in the words of that person.
    :param provider_version: of this package.
    :param uid_column: where the uids were found.
    :param uid_kind: the kind of uid, ``device`` or ``collector``; None if the column does not say.
    :param name_column: where the names were found.
    :param limits: the limits and exclusions in force, for the record; plain JSON values.
    :param quota: the limit over all runs of the tenant.
    :param max_growth: how many times the median of the runs before is allowed.
    :param require_proof: whether more than a few devices need a proof that deletions remove devices.
    :param planned: how many devices the task would send, with those that earlier tries have settled or, of another
        list, may have sent.
    :param dry_run: check the limits, and reserve nothing.
    :param is_plan: whether this is the dry run of what other tasks of the Dag send.
    """

    origin: RunOrigin
    provider_version: str
    planned: int
    reason: str | None = None
    uid_column: str | None = None
    uid_kind: str | None = None
    name_column: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    quota: Quota | None = None
    max_growth: float | None = None
    require_proof: bool = False
    dry_run: bool = False
    is_plan: bool = False


@dataclass(frozen=True)
class Reservation:
    """A run in the ledger.

    :param run_id: its number; None where nothing was reserved.
    :param warnings: what to log.
    """

    run_id: int | None
    warnings: Sequence[str] = ()


def reserve(
    connection: Connection,
    now: datetime,
    request: RunRequest,
    columns: Columns,
    positions: Sequence[int],
    *,
    released: int,
    earlier: Columns | None = None,
    look: InventoryLook | None = None,
) -> Reservation:
    """Check the limits that need memory, and record each device as REQUESTED.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    :param request: what the run is about to do.
    :param columns: the outcome table.
    :param positions: the rows to send, in order.
    :param released: how many of them may be sent before the run has said that more may.
    :param earlier: what is known of earlier tries of the same task.
    :param look: a look at the inventory just before.
    :return: the reservation.
    :raises NexthinkGuardError: if a limit is exceeded; nothing is recorded.
    """
    close_lost(connection, now)
    close_earlier_tries(connection, now, request.origin.task_key, earlier)
    uids = [columns.uid[at] or "" for at in positions]
    _supersede(connection, request.origin.task_key, uids)
    warnings = check_limits(connection, now, request, len(uids))
    run_id = None
    if uids and not request.dry_run:
        if look is not None:
            _record_look(connection, look)
        run_id = _insert_run(connection, now, request, len(uids), released)
        _insert_devices(connection, run_id, now, uids, [columns.name[at] or "" for at in positions], look)
    return Reservation(run_id, warnings)


def check_limits(connection: Connection, now: datetime, request: RunRequest, devices: int) -> list[str]:
    """Check the limits that need memory.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    :param request: what the run is about to do.
    :param devices: how many devices it is about to send, without those that earlier tries have settled.
    :return: what to log.
    :raises NexthinkGuardError: if one is exceeded.
    """
    warnings: list[str | None] = []
    if request.quota:
        check_quota(connection, request.quota, now, devices)
    if request.max_growth is not None:
        check = check_growth_of_plan if request.is_plan else check_growth
        warnings.append(check(connection, request.origin, request.planned, request.max_growth))
    if request.require_proof:
        warnings.append(_check_proof(connection, request, devices))
    return [warning for warning in warnings if warning]


def _check_proof(connection: Connection, request: RunRequest, devices: int) -> str | None:
    """Abort if there is no proof and too many devices; of a dry run, which is how to see them, only say so.

    The plan of what other tasks send is no such dry run.
    """
    try:
        return check_proof(connection, request.uid_kind, _asked_in_dag_run(connection, request.origin) + devices)
    except NexthinkGuardError as error:
        if request.dry_run and not request.is_plan:
            return f"This is a dry run. For real: {error}"
        raise


def _record_look(connection: Connection, look: InventoryLook) -> None:
    connection.execute(
        insert(looks).values(
            looked_at=look.looked_at,
            query_id=look.query_id,
            uid_kind=look.uid_kind,
            devices=len(look.days_unseen),
            gone=0,
            still_present=0,
            returned=0,
        )
    )


def _asked_in_dag_run(connection: Connection, origin: RunOrigin) -> int:
    """Return how many devices a run of a Dag has asked for, with all of its tasks and tries."""
    if origin.dag_id is None:
        is_ours = [runs.c.task_key == origin.task_key]
    else:
        is_ours = [runs.c.dag_id == origin.dag_id, runs.c.dag_run_id == origin.dag_run_id]
    return int(connection.execute(select(func.sum(runs.c.charged)).where(*is_ours)).scalar() or 0)


def record_blocked(connection: Connection, now: datetime, request: RunRequest, error: str) -> None:
    """Record that a limit has stopped a run before it sent anything.

    :param connection: to the ledger.
    :param now: the time of the ledger.
    :param request: what it was about to do.
    :param error: which limit, in words.
    """
    values = _run_values(now, request, devices=0, released=0)
    connection.execute(insert(runs).values(**values | {"state": BLOCKED, "error": error, "finished_at": now}))


def _insert_run(connection: Connection, now: datetime, request: RunRequest, devices: int, released: int) -> int:
    result = connection.execute(insert(runs).values(**_run_values(now, request, devices=devices, released=released)))
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 - of a single row
    return int(key[0])


def _run_values(now: datetime, request: RunRequest, *, devices: int, released: int) -> dict[str, Any]:
    origin = request.origin
    return {
        "task_key": origin.task_key,
        "dag_id": origin.dag_id,
        "dag_run_id": origin.dag_run_id,
        "task_id": origin.task_id,
        "map_index": origin.map_index,
        "try_number": origin.try_number,
        "triggered_by": origin.triggered_by,
        "reason": request.reason,
        "provider_version": request.provider_version,
        "uid_column": request.uid_column,
        "uid_kind": request.uid_kind,
        "name_column": request.name_column,
        "limits": json.dumps(dict(request.limits)),
        "state": RUNNING,
        "planned": request.planned,
        "devices": devices,
        "released": min(released, devices),
        "charged": devices,
        "started_at": now,
        "heartbeat_at": now,
    }


def _insert_devices(
    connection: Connection,
    run_id: int,
    now: datetime,
    uids: Sequence[str],
    names: Sequence[str],
    look: InventoryLook | None,
) -> None:
    same = {"run_id": run_id, "requested_at": now, "status": REQUESTED, "attempts": 0, "superseded": False}
    cells: dict[str, Sequence[Any]] = {"seq": range(len(uids)), "uid": uids, "name": names}
    if look:
        seen = look.days_unseen
        cells["seen_at"] = [look.looked_at if uid in seen else None for uid in uids]
        cells["days_unseen"] = [seen.get(uid) for uid in uids]
    for start in range(0, len(uids), _ROWS_AT_ONCE):
        part = {column: list(values[start : start + _ROWS_AT_ONCE]) for column, values in cells.items()}
        if connection.dialect.name == "postgresql":
            _insert_from_arrays(connection, same, part)
        else:
            rows = [same | dict(zip(part, row, strict=True)) for row in zip(*part.values(), strict=True)]
            connection.execute(insert(deletions), rows)


def _insert_from_arrays(connection: Connection, same: Mapping[str, Any], part: Mapping[str, list[Any]]) -> None:
    """Insert rows as one array a column: with PostgreSQL, that takes a quarter of the time of single values."""
    values = [literal(value, deletions.c[column].type) for column, value in same.items()]
    types = [ARRAY(deletions.c[column].type) for column in part]
    arrays = [cast(literal(array, type_), type_) for array, type_ in zip(part.values(), types, strict=True)]
    rows = func.unnest(*arrays).table_valued(*part).render_derived()
    source = select(*values, *rows.c)
    connection.execute(insert(deletions).from_select([*same, *part], source))


def close_lost(connection: Connection, now: datetime) -> None:
    """Give back what runs without a heartbeat for ``LOST_AFTER`` have reserved and not sent.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    """
    silent = runs.c.state == RUNNING, runs.c.heartbeat_at < now - LOST_AFTER
    for run_id in connection.execute(select(runs.c.id).where(*silent)).scalars().all():
        close_run(connection, now, run_id)


def close_earlier_tries(connection: Connection, now: datetime, task_key: str, earlier: Columns | None) -> None:
    """Close the runs of earlier tries of a task, and record the outcomes that they could not record any more.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    :param task_key: of the task.
    :param earlier: what the checkpoint knows of their devices.
    """
    rows = connection.execute(
        select(runs.c.id, runs.c.state).where(runs.c.task_key == task_key).order_by(runs.c.id)
    ).all()
    for run_id, state in rows:
        if state == RUNNING:
            close_run(connection, now, run_id)
    if earlier is None or not len(earlier.uid):
        return
    known = {key: at for at, key in enumerate(zip(earlier.uid, earlier.name, strict=True))}
    # The earliest first: what a later run has not sent after all counts for an earlier one again, and what the
    # checkpoint says of it is not about that one.
    for run_id, state in rows:
        if state != BLOCKED:
            _record_known(connection, run_id, earlier, known)


def _record_known(
    connection: Connection, run_id: int, earlier: Columns, known: Mapping[tuple[str | None, str | None], int]
) -> None:
    open_rows = connection.execute(
        select(deletions.c.seq, deletions.c.uid, deletions.c.name).where(
            deletions.c.run_id == run_id, deletions.c.status == REQUESTED, deletions.c.superseded.is_(False)
        )
    ).all()
    started_at = connection.execute(select(runs.c.started_at).where(runs.c.id == run_id)).scalar_one()
    # A device stays REQUESTED unless the checkpoint has an outcome of a request of this very run.
    pairs = [
        (seq, at)
        for seq, uid, name in open_rows
        if (at := known.get((uid, name))) is not None
        and earlier.status[at] is not Status.NOT_SENT
        and earlier.attempts[at]
        and (sent := earlier.submitted_at[at]) is not None
        and datetime.fromisoformat(sent) >= started_at - _CLOCK_RESOLUTION
    ]
    if pairs:
        with _counting(connection, run_id):
            write_outcomes(connection, run_id, outcomes_of(earlier, pairs))


def keep_run(connection: Connection, now: datetime, run_id: int, outcomes: Iterable[Outcome], *, released: int) -> bool:
    """Record a heartbeat of a run, release more of its devices, and record outcomes.

    :param connection: to the ledger.
    :param now: the time.
    :param run_id: the run.
    :param outcomes: of its devices, none of them NOT_SENT.
    :param released: how many of its devices may be sent.
    :return: False if the run does not count as running any more: then nothing is released.
    """
    kept = connection.execute(
        update(runs).where(runs.c.id == run_id, runs.c.state == RUNNING).values(heartbeat_at=now, released=released)
    )
    write_outcomes(connection, run_id, outcomes)
    return kept.rowcount > 0


def finish_run(
    connection: Connection, now: datetime, run_id: int, outcomes: Iterable[Outcome], *, error: str | None
) -> None:
    """Record what became of the devices of a run, and that it has ended.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    :param run_id: the run.
    :param outcomes: of its devices.
    :param error: what ended it, if something did.
    """
    with _counting(connection, run_id):
        write_outcomes(connection, run_id, outcomes)
    connection.execute(update(runs).where(runs.c.id == run_id).values(state=FINISHED, finished_at=now, error=error))


def close_run(connection: Connection, now: datetime, run_id: int) -> None:
    """Close a run whose process is gone: what it had not released was not sent.

    :param connection: to the ledger, whose lock it holds.
    :param now: the time of the ledger.
    :param run_id: the run.
    """
    # First of all, so that its process, should it live, cannot release more.
    closed = connection.execute(update(runs).where(runs.c.id == run_id, runs.c.state == RUNNING).values(state=LOST))
    if not closed.rowcount:
        return
    released, heartbeat_at = connection.execute(
        select(runs.c.released, runs.c.heartbeat_at).where(runs.c.id == run_id)
    ).one()
    # It may have sent something until it was taken for lost, however late somebody notices.
    finished_at = min(now, heartbeat_at + LOST_AFTER)
    connection.execute(update(runs).where(runs.c.id == run_id).values(finished_at=finished_at))
    with _counting(connection, run_id):
        connection.execute(
            update(deletions)
            .where(deletions.c.run_id == run_id, deletions.c.seq >= released, deletions.c.status == REQUESTED)
            .values(status=Status.NOT_SENT.value, reason=LOST_REASON)
        )


def _supersede(connection: Connection, task_key: str, uids: Sequence[str]) -> None:
    """Mark devices that an earlier try of the task has asked for, and this one asks for again: they count once."""
    wanted = set(uids)
    run_ids = connection.execute(select(runs.c.id).where(runs.c.task_key == task_key, runs.c.charged > 0)).scalars()
    for run_id in run_ids.all():
        rows = connection.execute(
            select(deletions.c.seq, deletions.c.uid).where(
                deletions.c.run_id == run_id,
                deletions.c.superseded.is_(False),
                deletions.c.status != Status.NOT_SENT.value,
            )
        ).all()
        _set_superseded(connection, run_id, [seq for seq, uid in rows if uid in wanted], value=True)


@contextmanager
def _counting(connection: Connection, run_id: int) -> Iterator[None]:
    """Count a run again after its rows have changed.

    A device that it has not sent after all, but an earlier try of the task has, counts there again.
    """
    task_key = select(runs.c.task_key).where(runs.c.id == run_id).scalar_subquery()
    earlier_runs = (
        connection.execute(
            select(runs.c.id).where(runs.c.task_key == task_key, runs.c.id < run_id).order_by(runs.c.id.desc())
        )
        .scalars()
        .all()
    )
    for each in [*reversed(earlier_runs), run_id]:
        lock_run(connection, each)
    ours = select(deletions.c.uid).where(deletions.c.run_id == run_id, deletions.c.superseded.is_(False))
    requested = ours.where(deletions.c.status == REQUESTED)
    before = set(connection.execute(requested).scalars()) if earlier_runs else set()
    yield
    not_sent = ours.where(deletions.c.status == Status.NOT_SENT.value)
    given_back = before.intersection(connection.execute(not_sent).scalars()) if before else set()
    for earlier_id in earlier_runs:
        if not given_back:
            break
        rows = connection.execute(
            select(deletions.c.seq, deletions.c.uid).where(
                deletions.c.run_id == earlier_id,
                deletions.c.superseded.is_(True),
                deletions.c.status != Status.NOT_SENT.value,
            )
        ).all()
        found = {uid: seq for seq, uid in rows if uid in given_back}
        _set_superseded(connection, earlier_id, sorted(found.values()), value=False)
        given_back -= found.keys()
    count_run(connection, run_id)


def _set_superseded(connection: Connection, run_id: int, numbers: Sequence[int], *, value: bool) -> None:
    if not numbers:
        return
    lock_run(connection, run_id)
    connection.execute(
        update(deletions)
        .where(
            deletions.c.run_id == bindparam("in_run"),
            deletions.c.seq.between(bindparam("first"), bindparam("last")),
        )
        .values(superseded=value),
        [{"in_run": run_id, "first": first, "last": last} for first, last in spans_of(numbers)],
    )
    count_run(connection, run_id)


def lock_run(connection: Connection, run_id: int) -> None:
    """Lock the row of a run, before those of its devices, and earlier runs first: everybody takes them in this order.

    :param connection: to the ledger.
    :param run_id: the run.
    """
    connection.execute(update(runs).where(runs.c.id == run_id).values(state=runs.c.state))


def count_run(connection: Connection, run_id: int) -> None:
    """Count the devices of a run by status, and those that count in a quota.

    :param connection: to the ledger.
    :param run_id: the run.
    """
    counts: dict[str, int] = {}
    charged = 0
    rows = connection.execute(
        select(
            deletions.c.status,
            func.count(),
            func.sum(case((deletions.c.superseded.is_(False), 1), else_=0)),
        )
        .where(deletions.c.run_id == run_id)
        .group_by(deletions.c.status)
    )
    for status, count, counting in rows:
        counts[status] = count
        charged += 0 if status == Status.NOT_SENT.value else int(counting)
    columns = ("scheduled", "invalid", "failed", "rejected", "unknown", "not_sent")
    values = {column: counts.get(column.upper(), 0) for column in columns}
    connection.execute(update(runs).where(runs.c.id == run_id).values(charged=charged, **values))


@dataclass(frozen=True)
class Outcome:
    """What became of devices that had the same outcome.

    :param spans: the first and the last number of each unbroken row of them in the run.
    :param values: of the columns of ``nexthink_deletions``.
    """

    spans: list[tuple[int, int]]
    values: dict[str, Any]


def outcomes_of(columns: Columns, pairs: Iterable[tuple[int, int]]) -> list[Outcome]:
    """Return the outcomes of devices, those that are alike together.

    :param columns: the outcome table.
    :param pairs: of each device its number in the run and its position in the table.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for seq, at in pairs:
        key = (
            columns.status[at],
            columns.reason[at],
            columns.batch[at],
            columns.request_id[at],
            columns.trace_id[at],
            columns.attempts[at],
            columns.submitted_at[at],
        )
        alike.setdefault(key, []).append(seq)
    return [
        Outcome(
            spans_of(sorted(numbers)),
            {
                "status": status.value,
                "reason": reason and as_storable(reason),
                "batch": batch,
                "request_id": request_id,
                "trace_id": trace_id and as_storable(trace_id),
                "attempts": attempts,
                "submitted_at": datetime.fromisoformat(submitted_at) if submitted_at else None,
            },
        )
        for (status, reason, batch, request_id, trace_id, attempts, submitted_at), numbers in alike.items()
    ]


def write_outcomes(connection: Connection, run_id: int, outcomes: Iterable[Outcome]) -> None:
    """Record what became of devices; a row that has an outcome keeps it.

    :param connection: to the ledger.
    :param run_id: the run.
    :param outcomes: of its devices.
    """
    statement = (
        update(deletions)
        .where(
            deletions.c.run_id == bindparam("in_run"),
            deletions.c.seq.between(bindparam("first"), bindparam("last")),
            deletions.c.status == REQUESTED,
        )
        .values(
            **{
                column: bindparam(f"new_{column}")
                for column in ("status", "reason", "batch", "request_id", "trace_id", "attempts", "submitted_at")
            }
        )
    )
    parameters = [
        {"in_run": run_id, "first": first, "last": last}
        | {f"new_{column}": value for column, value in outcome.values.items()}
        for outcome in outcomes
        for first, last in outcome.spans
    ]
    if parameters:
        connection.execute(statement, parameters)


def spans_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each unbroken row of numbers.

    :param numbers: in ascending order.
    """
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], number
        else:
            spans.append((number, number))
    return spans
