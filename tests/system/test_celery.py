"""Many machines: CeleryExecutor, PostgreSQL, Redis, XComs in object storage, two workers; and one of them is lost.

The settings are those that the documentation shows, with the addresses of this machine; and what waits for minutes
there waits for seconds here.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, text

from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import DAGS, meant_to_go
from tests.support.running_airflow import (
    RunningAirflow,
    is_running,
    kill_session,
    parent_of,
    processes_of,
    running_airflow,
    until,
)
from tests.support.services import REDIS, postgres_database, redis_keys
from tests.support.tables import read_table

pytestmark = pytest.mark.service

DAG_ID = "nexthink_delete_at_scale"
VERIFY_DAG_ID = "nexthink_delete_and_verify"
CHANGES = {
    DAG_ID: {"timedelta(minutes=1)": "timedelta(seconds=1)"},
    VERIFY_DAG_ID: {'schedule="@weekly"': "schedule=None", "timedelta(minutes=10)": "timedelta(seconds=1)"},
}
SETTINGS = DAGS.parent / "docs" / "celery.env"
WORKERS = ("worker-1", "worker-2")
SLOTS = 3  # of the pool: more than one worker has, fewer than both
CHUNKS, CHUNK_SIZE, BATCH, CONCURRENCY = 6, 2000, 100, 4
PLANNED = CHUNKS * CHUNK_SIZE

Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=2 * PLANNED, stale=1000, removal_delay=5.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, tenant: Sandbox) -> Iterator[RunningAirflow]:
    root = tmp_path_factory.mktemp("celery")
    dags = root / "dags"
    dags.mkdir()
    for dag_id, changes in CHANGES.items():
        dag = (DAGS / f"{dag_id}.py").read_text()
        for documented, here in changes.items():
            assert documented in dag
            dag = dag.replace(documented, here)
        (dags / f"{dag_id}.py").write_text(dag)
    with postgres_database() as database, redis_keys() as prefix:
        environment = documented_settings() | {
            "AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection(),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.render_as_string(hide_password=False),
            "AIRFLOW__CELERY__BROKER_URL": REDIS,
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__GLOBAL_KEYPREFIX": prefix,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": (root / "xcom").as_uri(),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }
        with running_airflow(root / "home", dags, environment, workers=WORKERS) as airflow:
            airflow.post("pools", {"name": "nexthink", "slots": SLOTS})
            yield airflow
        assert [pid for process in airflow.processes.values() for pid in processes_of(process.pid)] == []


def documented_settings() -> dict[str, str]:
    """Return the settings of the documentation, but for what the running Airflow of the tests has of its own."""
    lines = [line for line in SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    for own in ("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "AIRFLOW__API_AUTH__JWT_SECRET"):
        del settings[own]
    return settings


@pytest.fixture(scope="module")
def rows(tenant: Sandbox) -> Rows:
    """A list with the chosen number of devices to send, shuffled among rows that are not to be sent."""
    devices = [(each.uid, each.name) for each in tenant.tenant.devices() if not kept(each.name)]
    chosen, spare, others = devices[:PLANNED], devices[PLANNED : PLANNED + 100], devices[PLANNED + 100 :]
    rows = [
        *chosen,
        *[(uid.upper(), name) for uid, name in chosen[:50]],  # DUPLICATE, wherever they land
        *[(uid, name) for uid, name in spare],  # REJECTED: the same uids come with another name
        *[(uid, f"{name}-2") for uid, name in spare],
        *[(uid, f"SRV-{number}") for number, (uid, _) in enumerate(others[:50])],  # EXCLUDED
        *[("not-a-uid", f"PC-{number}") for number in range(10)],  # INVALID
    ]
    random.Random(1).shuffle(rows)
    return rows


def options(path: str) -> dict[str, Any]:
    """Return the options of a run, whose files are beside the list."""
    folder = str(Path(path).parent)
    return {"devices": path, "folder": folder, "dry_run": False, "max_devices": PLANNED, "chunk_size": CHUNK_SIZE}


def chunks_of(airflow: RunningAirflow, run_id: str) -> list[list[str]]:
    """Return the uids of each chunk."""
    return [read_devices(reference).uids for reference in airflow.xcom(DAG_ID, run_id, "split") or ()]


def kept(name: str) -> bool:
    return name.upper().startswith(("SRV-", "VIP-"))


@pytest.fixture
def path(tmp_path: Path, rows: Rows) -> str:
    with (tmp_path / "devices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("device.uid", "device.name"), *rows])
    return str(tmp_path / "devices.csv")


def test_celery_guard_counts_the_whole_list_before_it_is_split(
    airflow: RunningAirflow, tenant: Sandbox, path: str
) -> None:
    conf = options(path) | {"max_devices": PLANNED - 1}
    run_id = airflow.start(DAG_ID, conf)
    assert airflow.wait(DAG_ID, run_id) == "failed"
    states = airflow.states(DAG_ID, run_id)
    assert states == {
        "plan": "failed",
        "split": "upstream_failed",
        "delete_devices": "upstream_failed",
        "join": "success",
        "joined": "success",
    }
    said = f"The list would delete {PLANNED} devices, more than max_devices={PLANNED - 1}"
    assert said in airflow.log(DAG_ID, run_id, "plan", try_number=1, until=said)
    assert tenant.requests == []


def test_celery_runs_a_dag_for_one_machine_unchanged(airflow: RunningAirflow, tenant: Sandbox) -> None:
    expected = meant_to_go(tenant.tenant.devices(), 90)
    run_id = airflow.start(VERIFY_DAG_ID, {"dry_run": False, "max_devices": 1000})
    assert airflow.wait(VERIFY_DAG_ID, run_id) == "success"
    assert Counter(tenant.tenant.queued) == Counter(expected)
    table = stored(airflow, VERIFY_DAG_ID, run_id, "delete_devices")
    assert {row["uid"] for row in table if row["status"] == "SCHEDULED"} == expected
    assert airflow.xcom(VERIFY_DAG_ID, run_id, "report") == {"seats_freed": len(expected), "still_present": 0}
    assert list(airflow.home.rglob("task_id=wait_until_gone/*.trigger.*"))  # it waited in the triggerer


def test_celery_worker_lost_retry_resumes(airflow: RunningAirflow, tenant: Sandbox, path: str, rows: Rows) -> None:
    tenant.tenant.queued.clear()
    tenant.faults.add(Fault(path="deletions", kind="slow", seconds=2.0, times=-1))
    run_id = airflow.start(DAG_ID, options(path))
    chunks = until(lambda: chunks_of(airflow, run_id), "the chunks")
    assert list(map(len, chunks)) == [CHUNK_SIZE] * CHUNKS

    worker = until(
        lambda: busy_worker(airflow, run_id, tenant, chunks, CHUNK_SIZE // 2), "a worker in the middle of its work"
    )
    lost = running_on(airflow, run_id)[worker]
    kill_session(airflow.processes[worker].pid)
    accepted_before = set(tenant.tenant.queued)
    requests_before = {request.headers.get("x-request-id") for request in tenant.requests}
    assert airflow.wait(DAG_ID, run_id) == "success"

    table = read_table(airflow.xcom(DAG_ID, run_id, "join"))
    queued = Counter(tenant.tenant.queued)
    scheduled = {uid for uid, status in zip(table["uid"], table["status"], strict=True) if status == "SCHEDULED"}
    # Every row of the list, once, in its order.
    assert list(zip(table["uid"], table["name"], strict=True)) == [(uid.lower(), name) for uid, name in rows]
    assert Counter(table["status"]) == {
        "SCHEDULED": PLANNED, "DUPLICATE": 50, "REJECTED": 200, "EXCLUDED": 50, "INVALID": 10,
    }  # fmt: skip
    # Nothing unasked, nothing over the guard, and what is SCHEDULED is queued.
    assert set(queued) == scheduled
    assert len(scheduled) == PLANNED
    # Sent twice are only devices in flight, or not saved yet, when the worker was lost.
    again = {uid for uid, times in queued.items() if times > 1}
    assert max(queued.values()) <= 2
    assert again <= {uid for index in lost for uid in chunks[index]}
    assert len(again) <= len(lost) * (3 * CONCURRENCY + 4) * BATCH
    # The retry resumes: devices accepted and saved are not sent again, and have their first request in the table.
    request_of = dict(zip(table["uid"], table["request_id"], strict=True))
    logs = [airflow.log(DAG_ID, run_id, "delete_devices", 2, index, until="Outcome, ") for index in lost]
    settled = [settled_before(log) for log in logs]
    assert max(settled) >= BATCH
    for index, count in zip(lost, settled, strict=True):
        once = [uid for uid in chunks[index] if uid in accepted_before and queued[uid] == 1]
        assert len([uid for uid in once if request_of[uid] in requests_before]) >= count
    # No more chunks at once than the pool has slots, and so many that both workers had to take part.
    assert most_at_once(airflow, run_id) == SLOTS


def test_celery_worker_main_process_killed_stops_its_tasks_and_the_retry_resumes(
    airflow: RunningAirflow, tenant: Sandbox, tmp_path: Path
) -> None:
    """The supervisors are processes of its pool, and are killed with it; the task processes are not."""
    for worker in WORKERS:
        if airflow.processes[worker].poll() is not None:
            airflow.start_component(worker)
    devices = [(each.uid, each.name) for each in tenant.tenant.devices() if not kept(each.name)][:PLANNED]
    with (tmp_path / "devices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("device.uid", "device.name"), *devices])
    tenant.tenant.queued.clear()
    tenant.requests.clear()
    tenant.faults.clear()
    tenant.faults.add(Fault(path="deletions", kind="slow", seconds=2.0, times=-1))
    run_id = airflow.start(DAG_ID, options(str(tmp_path / "devices.csv")))
    chunks = until(lambda: chunks_of(airflow, run_id), "the chunks")

    worker = until(lambda: busy_worker(airflow, run_id, tenant, chunks, BATCH), "a worker that has begun")
    lost = running_on(airflow, run_id)[worker]
    tasks = [pid for pid in processes_of(airflow.processes[worker].pid) if pid in task_pids(airflow, run_id)]
    assert len(tasks) == len(lost) > 0
    supervisors = [parent_of(pid) for pid in tasks]
    airflow.processes[worker].kill()
    until(lambda: not any(map(is_running, supervisors)), "the end of the supervisors")
    tokens = tokens_of(tenant, {uid for index in lost for uid in chunks[index]})
    sent = requests_with(tenant, tokens)
    until(lambda: not any(map(is_running, tasks)), "the end of the task processes")
    assert requests_with(tenant, tokens) - sent <= len(lost) * CONCURRENCY  # these were leaving at that moment
    tenant.faults.clear()
    assert airflow.wait(DAG_ID, run_id) == "success"

    queued = Counter(tenant.tenant.queued)
    again = {uid for uid, times in queued.items() if times > 1}
    assert max(queued.values()) <= 2
    assert again <= {uid for index in lost for uid in chunks[index]}
    assert len(again) <= len(lost) * (3 * CONCURRENCY + 4) * BATCH
    table = read_table(airflow.xcom(DAG_ID, run_id, "join"))
    assert list(zip(table["uid"], table["name"], strict=True)) == devices
    assert set(table["status"]) == {"SCHEDULED"}
    # Nothing large is in XCom: for this Dag the metadata database would do, without object storage.
    xcoms = xcoms_in_database(airflow, run_id)
    assert {"plan", "split", "delete_devices", "join"} <= {task_id for task_id, _ in xcoms}
    assert max(len(value) for _, value in xcoms) < 2000
    folder = urlsplit(airflow.environment["AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH"]).path
    assert not [task_id for task_id, value in xcoms if folder in value]


def xcoms_in_database(airflow: RunningAirflow, run_id: str) -> list[tuple[str, str]]:
    """Return the task and the text of each XCom of a run; of one in object storage, the text is its path."""
    engine = create_engine(airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    query = "SELECT task_id, value::text FROM xcom WHERE dag_id = :dag_id AND run_id = :run_id"
    with engine.connect() as connection:
        found = connection.execute(text(query), {"dag_id": DAG_ID, "run_id": run_id})
        return [(row[0], row[1]) for row in found]


def task_pids(airflow: RunningAirflow, run_id: str) -> set[int]:
    """Return the task processes that Airflow takes to be running."""
    return {each["pid"] for each in airflow.instances(DAG_ID, run_id) if each["state"] == "running"}


def tokens_of(tenant: Sandbox, uids: set[str]) -> set[str]:
    """Return the tokens of the tries that asked for these devices: each task process has fetched one of its own."""
    return {
        request.headers["authorization"]
        for request in tenant.requests
        if request.path.endswith("/deletions") and json.loads(request.body)["devices"][0]["uid"] in uids
    }


def requests_with(tenant: Sandbox, tokens: set[str]) -> int:
    return sum(request.headers.get("authorization") in tokens for request in tenant.requests)


def stored(airflow: RunningAirflow, dag_id: str, run_id: str, task_id: str) -> Any:
    """Return an XCom that lies in object storage."""
    return json.loads(Path(urlsplit(airflow.xcom(dag_id, run_id, task_id)).path).read_text())


def running_on(airflow: RunningAirflow, run_id: str) -> dict[str, list[int]]:
    """Return which chunks each worker is at."""
    found: dict[str, list[int]] = {worker: [] for worker in WORKERS}
    for instance in airflow.instances(DAG_ID, run_id):
        if instance["task_id"] != "delete_devices" or instance["state"] != "running" or not instance["pid"]:
            continue
        with suppress(ProcessLookupError):
            session = os.getsid(instance["pid"])
            for worker in WORKERS:
                if airflow.processes[worker].pid == session:
                    found[worker].append(instance["map_index"])
    return found


def busy_worker(
    airflow: RunningAirflow, run_id: str, tenant: Sandbox, chunks: list[list[str]], accepted: int
) -> str | None:
    """Return a worker that has so many devices of a chunk accepted, and not all, while the other one works too.

    Every slot is in use then: no chunk is on its way to a worker, and lost with it until Redis delivers it again.
    """
    at = running_on(airflow, run_id)
    if not all(at.values()) or sum(map(len, at.values())) != SLOTS:
        return None
    queued = set(tenant.tenant.queued)
    for worker, indexes in at.items():
        if any(accepted <= len(queued.intersection(chunks[index])) < CHUNK_SIZE for index in indexes):
            return worker
    return None


def settled_before(log: str) -> int:
    """Return how many devices of its chunk a retry found settled."""
    found = re.search(rf"An earlier try of this task has settled (\d+) of the {CHUNK_SIZE} devices", log)
    return int(found[1]) if found else 0


def most_at_once(airflow: RunningAirflow, run_id: str) -> int:
    """Return how many tries of the mapped task were running at the same time, at the most."""
    changes = []
    for index in range(CHUNKS):
        tries = airflow.get(f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/delete_devices/{index}/tries")
        for each in tries["task_instances"]:
            changes += [(each["start_date"], 1), (each["end_date"], -1)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
