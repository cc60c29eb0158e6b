"""What is measured, each in a process of its own that was forked off one which has everything imported.

That is how Airflow starts a task too. Processor time and memory are the operating system's own figures.
"""

from __future__ import annotations

import gc
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import airflow.sdk.execution_time.task_runner  # noqa: F401 - imported, with the two below, before
import nexthink_api  # noqa: F401 - the processes are forked off
import pandas as pd
import pyarrow.parquet  # noqa: F401
from airflow.sdk.serde import deserialize, serialize

from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes, RunCounters
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.deletion.run import DeletionRun
from airflow_provider_nexthink.deletion.scheduler import Response, Scheduler
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.utils.storage import write_table
from tests.benchmarks.clients import BATCH_SIZE, CLIENTS, made_devices

XCOM_FORMS = ("records", "columns", "dataframe")
FILE_FORMS = (".parquet", ".csv", ".jsonl")

_OPERATORS = (
    "airflow_provider_nexthink.operators.data_management",
    "airflow_provider_nexthink.operators.nql",
    "airflow_provider_nexthink.transfers.sql_to_nexthink",
    "airflow_provider_nexthink.transfers.sql_to_parquet",
    "airflow_provider_nexthink.decorators.nexthink_delete_devices",
    "airflow_provider_nexthink.sensors.data_management",
)


@dataclass(frozen=True)
class Cost:
    """What a piece of work cost.

    :param seconds: on the wall clock.
    :param cpu: seconds of the processor, user and system.
    :param memory: bytes that the process held at its peak beyond what it held before.
    """

    seconds: float
    cpu: float
    memory: float


def cost_of(work: Callable[[], object]) -> Cost:
    """Do a piece of work and return what it cost.

    :param work: what to do; what it returns is held until the end.
    """
    gc.collect()
    gc.freeze()  # or the collector would copy the pages that this process shares with the one it comes from
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far counts no more (proc_pid_clear_refs(5))
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    del result
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, cpu, (after.ru_maxrss - before.ru_maxrss) * 1024)


def sending(client: str, count: int, url: str, concurrency: int) -> Cost:
    """Measure a client: from a DataFrame to what became of each device.

    :param client: which of ``CLIENTS``.
    :param count: how many devices.
    :param url: the tenant.
    :param concurrency: requests in flight.
    """
    send = CLIENTS[client]
    send(made_devices(1), url, concurrency)  # what is loaded with the first request only counts for none
    devices = made_devices(count)
    return cost_of(lambda: send(devices, url, concurrency))


def planning(count: int) -> Cost:
    """Measure what happens before the first request: rows, plan, batches."""
    devices = made_devices(count)
    return cost_of(lambda: _batched(make_plan(read_devices(devices)).to_send))


def plain_loop(count: int) -> Cost:
    """Measure the least that can be done: check the form of the uid, leave out duplicates, cut into batches."""
    devices = made_devices(count)
    is_uid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch

    def loop() -> object:
        seen, rows = set(), []
        for uid, name in zip(devices["device.uid"].tolist(), devices["device.name"].tolist(), strict=True):
            if is_uid(uid) and uid not in seen:
                seen.add(uid)
                rows.append((uid, name))
        return _batched(rows)

    return cost_of(loop)


def _batched(rows: Sequence[Any]) -> list[Sequence[Any]]:
    return [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]


def running(count: int) -> Cost:
    """Measure rows, plan, run and table, with a tenant that responds at once: what is ours alone."""
    devices = made_devices(count)
    return cost_of(lambda: _settled(devices).rows())


def passing(form: str, count: int) -> tuple[Cost, Cost, int]:
    """Measure an outcome table on its way through XCom, as Airflow writes and reads it, or through a file.

    :return: the way out, the way back, and its size in bytes. A file is not read back.
    """
    outcomes = _settled(made_devices(count))
    if form in FILE_FORMS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"table{form}")
            out = cost_of(lambda: write_table(str(path), outcomes.columns()))
            return out, Cost(0, 0, 0), path.stat().st_size
    written: list[str] = []

    forms: dict[str, Callable[[], object]] = {
        "records": outcomes.rows,
        "columns": outcomes.columns,
        "dataframe": lambda: _frame(outcomes),
    }

    def write() -> None:
        written.append(json.dumps(serialize(forms[form]())))

    out = cost_of(write)
    back = cost_of(lambda: deserialize(json.loads(written[0])))
    return out, back, len(written[0])


def _frame(outcomes: Outcomes) -> pd.DataFrame:
    now = datetime.now(UTC)
    return DeletionResult(outcomes, None, RunCounters(), False, "uid", "name", "acme", now, now).to_pandas()


def _settled(devices: pd.DataFrame) -> Outcomes:
    """Return the outcome of a run against a tenant that takes no time."""

    class Accepted:
        trace_id = "0af7651916cd43dd8448eb211c80319c"

        def __init__(self, size: int) -> None:
            self.statuses = ["SCHEDULED"] * size

    def send(devices: Sequence[dict[str, str]], request_id: str, depart: Callable[[], None]) -> Response:
        depart()
        return Accepted(len(devices))

    plan = make_plan(read_devices(devices))
    outcomes = Outcomes(plan)
    scheduler = Scheduler(outcomes, plan.to_send, batch_size=BATCH_SIZE, max_concurrency=4, rng=random.Random(0))
    assert DeletionRun(scheduler, send, 4).run() is None
    return outcomes


def importing() -> tuple[float, float]:
    """Return how many seconds of the processor ``airflow.sdk`` takes to import, and every operator of ours on top."""
    program = f"""
import importlib, time
start = time.process_time()
import airflow.sdk.bases.decorator, airflow.sdk.exceptions
from airflow.sdk import BaseOperator, BaseSensorOperator, Context, XComArg
between = time.process_time()
for name in {_OPERATORS!r}:
    importlib.import_module(name)
print(between - start, time.process_time() - between)
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    airflow_seconds, ours = output.split()[-2:]
    return float(airflow_seconds), float(ours)
