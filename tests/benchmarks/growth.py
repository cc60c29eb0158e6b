"""Measure the example Dag for lists of any length on lists that grow, and write the table into docs/scaling-out.md.

``python -m tests.benchmarks.growth``: a real Airflow with the LocalExecutor, all of it on one machine, against a tenant
without latency. The memory of each task is what the operating system says of its process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_nexthink.devices.parquet import ParquetWriter
from tests.benchmarks.report import table
from tests.benchmarks.tenant import tenants
from tests.support.running_airflow import RunningAirflow, running_airflow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling-out.md"
BEGIN, END = "<!-- the figures below are written by make growth -->", "<!-- end of the figures -->"

DAG_ID = "nexthink_delete_at_scale"
TASKS = ("plan", "split", "delete_devices", "join")
SLOTS = os.cpu_count() or 1

# In the process of each task: what the operating system says of it, once it has done its work.
LISTENER = """
import json, os, resource
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

class Listener:
    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        used = resource.getrusage(resource.RUSAGE_SELF)
        line = {"run_id": task_instance.run_id, "task_id": task_instance.task_id, "peak": used.ru_maxrss * 1024,
                "cpu": used.ru_utime + used.ru_stime}
        with open(os.environ["GROWTH_USED"], "a") as file:
            file.write(json.dumps(line) + "\\n")

class Plugin(AirflowPlugin):
    name = "growth"
    listeners = [Listener()]
"""


@dataclass
class Growth:
    """What a run has cost.

    :param devices: how many devices it had.
    :param seconds: the whole run.
    :param of_task: for each task the seconds of each of its instances.
    :param peak: for each task the most memory that one of its processes had, in bytes.
    :param xcom: the bytes of all XComs of the run.
    :param read: the bytes of XCom that an instance of the mapped task reads before it starts.
    :param storage: the bytes in the folder, by the kind of file.
    """

    devices: int
    seconds: float = 0.0
    of_task: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    xcom: int = 0
    read: int = 0
    storage: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--chunk-size", type=int, default=50_000, help="devices in a task")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tenants([0.0]) as (url,):
        found = list(measure(Path(folder), url, options.devices, options.chunk_size))
    text = options.page.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    options.page.write_text("\n\n".join([before, described(found, options.chunk_size), after]))
    say(f"Written to {options.page}.")


def measure(folder: Path, url: str, sizes: Iterable[int], chunk_size: int) -> Iterable[Growth]:
    """Run the Dag once for each size."""
    home, dags = folder / "home", folder / "dags"
    for each in (home / "plugins", dags):
        each.mkdir(parents=True)
    (home / "plugins" / "growth.py").write_text(LISTENER)
    (dags / "dag.py").write_text((ROOT / "dags" / f"{DAG_ID}.py").read_text())
    connection = {"conn_type": "nexthink", "host": "made-up", "login": "made-up", "password": "made-up-secret"}
    environment = {
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": json.dumps(
            connection | {"extra": {"base_url": url, "login_url": f"{url}/oauth2/default/v1/token"}}
        ),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "GROWTH_USED": str(folder / "used.jsonl"),
    }
    with running_airflow(home, dags, environment) as airflow:
        airflow.post("pools", {"name": "nexthink", "slots": SLOTS})
        for size in sizes:
            say(f"{size:,} devices")
            files = folder / str(size)
            files.mkdir()
            write_list(files / "list.parquet", size)
            conf = {"devices": str(files / "list.parquet"), "folder": str(files), "chunk_size": chunk_size}
            start = time.perf_counter()
            run_id = airflow.start(DAG_ID, conf | {"dry_run": False, "max_devices": size})
            while (state := airflow.get(f"dags/{DAG_ID}/dagRuns/{run_id}")["state"]) not in ("success", "failed"):
                time.sleep(1)
            if state != "success":
                raise SystemExit(f"The run of {size:,} devices has failed: {airflow.states(DAG_ID, run_id)}")
            growth = Growth(size, time.perf_counter() - start)
            read_tasks(growth, airflow, run_id, folder / "used.jsonl")
            read_xcoms(growth, home / "airflow.db", run_id)
            read_storage(growth, files)
            check_counts(airflow.xcom(DAG_ID, run_id, "join"), size)
            say(f"  {growth.seconds:.0f} s, {max(growth.peak.values()) / 1e6:.0f} MB at most")
            yield growth


def write_list(path: Path, size: int) -> None:
    """Write a list of made-up devices."""
    rng = random.Random(size)
    with path.open("wb") as file, ParquetWriter(file, ["device.uid", "device.name"]) as writer:
        for start in range(0, size, 50_000):
            numbers = range(start, min(start + 50_000, size))
            digits = [f"{rng.getrandbits(128):032x}" for _ in numbers]
            uids = [f"{each[:8]}-{each[8:12]}-{each[12:16]}-{each[16:20]}-{each[20:]}" for each in digits]
            writer.write([uids, [f"LAPTOP-{number:08}" for number in numbers]])


def read_tasks(growth: Growth, airflow: RunningAirflow, run_id: str, used: Path) -> None:
    """Read how long each task took, by Airflow, and how much memory its process had, by the operating system."""
    seconds: dict[str, list[float]] = defaultdict(list)
    peak: dict[str, int] = defaultdict(int)
    offset = 0
    while True:
        page = airflow.get(f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances?limit=100&offset={offset}")
        for each in page["task_instances"]:
            begin, end = (datetime.fromisoformat(each[key]) for key in ("start_date", "end_date"))
            seconds[each["task_id"]].append((end - begin).total_seconds())
        offset += len(page["task_instances"])
        if offset >= page["total_entries"]:
            break
    for line in map(json.loads, used.read_text().splitlines()):
        if line["run_id"] == run_id:
            peak[line["task_id"]] = max(peak[line["task_id"]], line["peak"])
    growth.of_task, growth.peak = dict(seconds), {task_id: peak[task_id] for task_id in TASKS}


def read_xcoms(growth: Growth, database: Path, run_id: str) -> None:
    """Read how large the XComs are in the metadata database."""
    query = "SELECT task_id, length(CAST(value AS BLOB)) FROM xcom WHERE run_id = ? AND key != 'skipmixin_key'"
    with sqlite3.connect(database) as connection:
        rows = connection.execute(query, (run_id,)).fetchall()
    growth.xcom = sum(size for _, size in rows)
    growth.read = sum(size for task_id, size in rows if task_id == "split")


def read_storage(growth: Growth, folder: Path) -> None:
    """Read how large the files are, by what they hold."""
    sizes: dict[str, int] = defaultdict(int)
    for path in folder.iterdir():
        word = path.name.split(".")[1].split("~")[0]
        kind = "list" if path.name == "list.parquet" else "tables of the chunks" if word.isdigit() else word
        sizes[kind] += path.stat().st_size
    growth.storage = dict(sizes)


def check_counts(manifest: Mapping[str, Any], size: int) -> None:
    if manifest["counts"]["SCHEDULED"] != size:
        raise SystemExit(f"Of {size:,} devices, these became of them: {manifest['counts']}")


def described(found: list[Growth], chunk_size: int) -> str:
    """Return the figures for the page."""
    head = ["devices", "chunks", "whole run", *(f"{task_id}: s / MB" for task_id in TASKS)]
    rows = []
    for each in found:
        cells = [f"{each.devices:,}", f"{len(each.of_task['delete_devices']):,}", f"{each.seconds:,.0f} s"]
        for task_id in TASKS:
            seconds = sorted(each.of_task[task_id])
            cells.append(f"{seconds[len(seconds) // 2]:.1f} / {each.peak[task_id] / 1e6:.0f}")
        rows.append(cells)
    storage_head = ["devices", "all XComs", "read by each chunk", *found[0].storage, "all files"]
    storage = [
        [
            f"{each.devices:,}",
            f"{each.xcom / 1000:,.1f} kB",
            f"{each.read / 1000:,.1f} kB",
            *(f"{each.storage.get(kind, 0) / 1e6:,.1f} MB" for kind in found[0].storage),
            f"{sum(each.storage.values()) / 1e6:,.1f} MB",
        ]
        for each in found
    ]
    load = os.getloadavg()[0]
    return (
        f"Chunks of {chunk_size:,} devices, {SLOTS} at a time, on {os.cpu_count()} cores that also ran Airflow and the "
        f"tenant (load of the last minute at the end: {load:.1f}). Seconds are the median of the instances of a task, "
        f"memory the peak of the largest.\n\n{table(head, rows)}\n\n{table(storage_head, storage)}"
    )


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
