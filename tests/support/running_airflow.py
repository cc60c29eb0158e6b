"""A running Airflow: API server, scheduler with its workers, Dag processor and triggerer, as processes of their own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.metadata import empty_database

COMPONENTS = ("api-server", "dag-processor", "scheduler", "triggerer")

PATIENCE = 400.0
"""So many seconds a test waits for what takes a few: a machine may be busy with much else."""

# Below those that the system gives to outgoing connections, which might take one before Airflow listens there.
_PORTS = range(20_000, 32_000)

# Sockets named after the ports that are taken, until this process ends.
_RESERVATIONS: list[socket.socket] = []

_PASSWORD = "made-up-for-the-tests"

_Value = TypeVar("_Value")


@dataclass
class RunningAirflow:
    """What a test asks of it, through its REST API.

    :param home: its folder, with its database and its logs.
    :param http: a client with a token of its API.
    :param processes: the process of each component, by its name.
    :param start_component: starts one of them.
    :param environment: its settings and connections, as each process has them.
    """

    home: Path
    http: httpx.Client
    processes: Mapping[str, subprocess.Popen[bytes]]
    start_component: Callable[..., None]
    environment: Mapping[str, str]

    @contextmanager
    def signed_in(self, user: str) -> Iterator[RunningAirflow]:
        """Give the same Airflow for another of its users; see ``running_airflow``."""
        with _client(str(self.http.base_url), user) as http:
            yield replace(self, http=http)

    def lose(self, component: str, **settings: str) -> None:
        """Kill a component and all that it has started, and start another one in its place, with these settings."""
        kill_session(self.processes[component].pid)
        self.processes[component].wait()
        self.start_component(component, **settings)

    def run(self, dag_id: str) -> str:
        """Run a Dag and wait for its end; return the id of the run."""
        run_id = self.start(dag_id)
        self.wait(dag_id, run_id)
        return run_id

    def start(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a Dag, with these params; return the id of the run."""
        path = f"/api/v2/dags/{dag_id}"
        until(lambda: self.http.patch(path, json={"is_paused": False}).is_success, f"the Dag {dag_id}")
        return str(self.post(f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait for the end of a run; return its state."""

        def state() -> str:
            return str(self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

        until(lambda: state() in ("success", "failed"), f"the end of {dag_id} {run_id}")
        return state()

    def wait_until_parked(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Wait until a task waits for a person, and the scheduler has noted that its process has ended.

        A task that is resumed before that, as no person would be so quick, is taken for one that was lost, and fails.
        """
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        until(lambda: self.get(path)["state"] in ("awaiting_input", "deferred"), f"the wait of {task_id}")
        key = f"TaskInstanceKey(dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}'"
        noted = f"Received executor event with state success for task instance {key}"
        log = self.home / "processes.log"
        until(lambda: noted in log.read_text(errors="replace"), f"the end of the process of {task_id}")

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1, *, until: str) -> str:
        """Return the log of a try, as its worker wrote it.

        :param until: what to wait for: the last lines may be written after the task has its final state.
        """
        mapped = f"/map_index={map_index}" * (map_index >= 0)
        path = f"dag_id={dag_id}/run_id={run_id}/task_id={task_id}{mapped}/attempt={try_number}.log"
        file = self.home / "logs" / path
        end = time.monotonic() + 60
        while until not in (text := file.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        return text

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        return {instance["task_id"]: instance["state"] for instance in self.instances(dag_id, run_id)}

    def instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, each instance of a mapped task by itself."""
        return list(self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?stringify=false"
        return self.get(path)["value"]

    def rendered(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        return dict(self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")["rendered_fields"])

    def get(self, path: str) -> Any:
        return self.http.get(f"/api/v2/{path}").raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._change("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._change("PATCH", path, body)

    def clear(self, dag_id: str, body: Mapping[str, Any]) -> Any:
        return self.post(f"dags/{dag_id}/clearTaskInstances", body)

    def _change(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Send a change, again after a server error: on SQLite, a busy Airflow may find its database locked."""

        def answer() -> httpx.Response | None:
            response = self.http.request(method, f"/api/v2/{path}", json=body)
            return None if response.is_server_error else response

        return until(answer, f"{method} {path}").raise_for_status().json()

    def last_words(self) -> str:
        """Return the ends of the logs that were written last, for whoever reads why a test failed."""
        logs = sorted(self.home.rglob("*.log"), key=lambda path: path.stat().st_mtime)[-4:]
        return "\n".join(f"{log.relative_to(self.home)}:\n{log.read_text(errors='replace')[-5_000:]}" for log in logs)

    def everything_written(self) -> bytes:
        """Return all that is in its folder: the database, the logs of the tasks and of its own processes."""
        return b"\n".join(path.read_bytes() for path in sorted(self.home.rglob("*")) if path.is_file())


def until(what: Callable[[], _Value | None], name: str) -> _Value:
    """Wait until something is so, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := what():
                return value
        except (httpx.HTTPError, KeyError):
            pass
        select_nothing(0.5)
    raise TimeoutError(f"{name}: not within {PATIENCE:.0f} s")


def select_nothing(seconds: float) -> None:
    """Let other processes work: what is waited for here are real ones, which no injected clock moves."""
    signal.sigtimedwait([], seconds)


def free_ports(count: int) -> list[int]:
    """Return ports that are free, reserved among the test processes: several Airflows may start at once."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        reservation = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            reservation.bind(f"\0nexthink-tests-port-{port}")
            _RESERVATIONS.append(reservation)
            found.append(port)
    return found


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that still live; a component and all that it starts are one session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, its_session = _stat(int(entry.name))
            if int(its_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Tell whether a process still lives. A killed process that was not waited for does not."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    """Return the parent of a process; that of a task process is its supervisor."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Return state, parent, group and session of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]


def kill_session(session: int) -> None:
    """Kill a component and all that it has started, as a machine that is lost does."""
    while pids := processes_of(session):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        select_nothing(0.05)


def _client(url: str, user: str | None = None) -> httpx.Client:
    if user is None:
        response = httpx.get(f"{url}/auth/token")
    else:
        response = httpx.post(f"{url}/auth/token", json={"username": user, "password": _PASSWORD})
    token = response.raise_for_status().json()["access_token"]
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120)


@contextmanager
def running_airflow(
    home: Path,
    dags: Path,
    environment: Mapping[str, str],
    *,
    workers: Sequence[str] = (),
    users: Sequence[str] = (),
) -> Iterator[RunningAirflow]:
    """Start Airflow; all of it is gone afterwards.

    :param home: its folder.
    :param dags: the folder of its Dags.
    :param environment: its settings and connections; without any it is on SQLite, with the LocalExecutor.
    :param workers: the names of the Celery workers to start besides.
    :param users: its users, all of them administrators; the first one is signed in. Without any, nobody needs to be.
    """
    port, worker_logs, trigger_logs = free_ports(3)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        # SQLite waits so many seconds for another writer; 5 where nothing is said.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": "made-up-for-the-tests",
        "AIRFLOW__API_AUTH__JWT_SECRET": "made-up-for-the-tests-and-long-enough-to-sign",
        # So long the scheduler sleeps where nothing is to do; 1 second where nothing is said.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        # Dag files stay as they are: the next look at each after so many seconds, 30 where nothing is said. To read one
        # takes a second or two, 30 and more where the machine is busy.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        # As late a supervisor may notice that its task process has ended; 5 seconds where nothing is said.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # After so many seconds the triggers of a triggerer that is lost are given to another one; by default 30.
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
    }
    if users:
        settings |= {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:admin" for user in users),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        }
    env = {**os.environ, **settings, **environment}
    airflow = [sys.executable, "-m", "airflow"]
    home.mkdir(parents=True, exist_ok=True)
    (home / "passwords.json").write_text(json.dumps(dict.fromkeys(users, _PASSWORD)))
    commands = {component: [component] for component in COMPONENTS}
    for worker in workers:
        pid_file = str(home / f"{worker}.pid")
        commands[worker] = ["celery", "worker", "--celery-hostname", worker, "--pid", pid_file, "--skip-serve-logs"]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with (home / "processes.log").open("wb") as log:
        if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in environment:
            subprocess.run([*airflow, "db", "migrate"], env=env, stdout=log, stderr=log, check=True)
        else:
            shutil.copy(empty_database(), home / "airflow.db")

        def start_component(name: str, **settings: str) -> None:
            processes[name] = subprocess.Popen(
                [*airflow, *commands[name]], env=env | settings, stdout=log, stderr=log, start_new_session=True
            )

        try:
            for name in commands:
                start_component(name)
            until(lambda: httpx.get(f"{url}/api/v2/monitor/health").is_success, "the API server")
            with _client(url, *users[:1]) as http:
                yield RunningAirflow(home, http, processes, start_component, env)
        finally:
            for process in processes.values():  # asked to end by themselves, they take 10 seconds
                kill_session(process.pid)
                process.wait()
