"""Measure a ledger: a run is reserved and settled, in an empty ledger and in a large one.

Run it with ``python -m tests.benchmarks.ledger``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import Engine

from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.run import LedgerRun
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.status import Status
from tests.benchmarks.report import seconds, table
from tests.support.ledgers import database_of, engine_of, fill, ledger_database, request_of

BATCH_SIZE = 100
NAMES = {"postgres": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


@dataclass
class Spent:
    """Seconds on the wall clock, and of this process's processor time."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def spending(spent: Spent) -> Iterator[None]:
    """Add what is spent within."""
    usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    spent.wall += time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent.cpu += after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime


def outcomes_of(count: int) -> Outcomes:
    """Return the table of devices with uids as real ones: in no order."""
    names = [f"LAPTOP-{number:06d}" for number in range(count)]
    return Outcomes(make_plan(DeviceRows([str(uuid.uuid4()) for _ in names], list(names), "uid", "name")))


def settle(outcomes: Outcomes, batch: range) -> None:
    """Set the outcome of a batch, as the scheduler does."""
    request_id, trace_id = str(uuid.uuid4()), uuid.uuid4().hex
    for at in batch:
        outcomes.status[at], outcomes.batch[at], outcomes.attempts[at] = Status.SCHEDULED, batch.start, 1
        outcomes.request_id[at], outcomes.trace_id[at] = request_id, trace_id
        outcomes.submitted_at[at] = "2026-11-23T00:00:00.123+00:00"


def measure(engine: Engine, count: int) -> tuple[Spent, Spent]:
    """Reserve a run and settle it; return what each of the two cost. All responses come at once: the worst case."""
    outcomes = outcomes_of(count)
    run = LedgerRun(database_of(engine), ahead=4 * 4 * BATCH_SIZE)
    request = request_of(count, RunOrigin(), quota=Quota(10**9, 30))
    reserving, settling = Spent(), Spent()
    with spending(reserving):
        run.reserve(request, outcomes, range(count), check=lambda: None)
    batches = [range(start, min(start + BATCH_SIZE, count)) for start in range(0, count, BATCH_SIZE)]
    for batch in batches:
        settle(outcomes, batch)
    with spending(settling):
        for batch in batches:
            run.record(batch)
        error = run.finish(None, is_stopped=lambda: False)
    if error is not None:
        raise error
    return reserving, settling


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000, help="of the run")
    parser.add_argument("--rows", type=int, default=5_000_000, help="of the large ledger; 0 for none")
    parser.add_argument("--on", nargs="+", choices=NAMES, default=list(NAMES), help="which databases")
    parser.add_argument("--repeats", type=int, default=3, help="how often each; the quickest counts")
    arguments = parser.parse_args()
    lines = []
    for kind in arguments.on:
        for rows in (0, arguments.rows) if arguments.rows else (0,):
            with (
                tempfile.TemporaryDirectory() as folder,
                ledger_database(kind, Path(folder)) as url,
                engine_of(url) as engine,
            ):
                if rows:
                    fill(engine, rows)
                measure(engine, 1)
                found = [measure(engine, arguments.devices) for _ in range(arguments.repeats)]
                reserving, settling = min(found, key=lambda spent: spent[0].wall + spent[1].wall)
            total = Spent(reserving.wall + settling.wall, reserving.cpu + settling.cpu)
            walls = [reserving.wall, settling.wall, total.wall, total.cpu]
            lines.append([NAMES[kind], f"{rows:,}", *map(seconds, walls)])
            print(lines[-1], flush=True)  # noqa: T201
    print(f"\n{arguments.devices:,} devices, in seconds:\n")  # noqa: T201
    print(table(["Database", "Rows before", "Reserve", "Settle", "Both", "Processor"], lines))  # noqa: T201


if __name__ == "__main__":
    main()
