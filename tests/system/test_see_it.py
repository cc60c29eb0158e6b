"""The page *See it in your own Airflow*: its commands, as they stand there, in an environment with the wheel alone.

``make matrix`` and ``make matrix-ci`` run it in the environments that they have made anew.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.running_airflow import free_ports, kill_session, until

PAGE = Path(__file__).parents[2] / "docs" / "see-it.md"
WEEKLY = ("nexthink_lifecycle", "nexthink_delete_stale_devices")
_ORIGIN = importlib.metadata.distribution("airflow-provider-nexthink").read_text("direct_url.json")
FROM_A_WHEEL = not json.loads(_ORIGIN or "{}").get("dir_info", {}).get("editable")


def commands() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_page_has_six_commands_and_installs_what_they_need() -> None:
    assert len(commands()) == 6
    assert commands()[0].split()[:3] == ["pip", "install", "airflow-provider-nexthink"]


class Terminal:
    """A shell that a person types into: settings and background jobs stay."""

    def __init__(self, folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
        self.api_port, self.sandbox_port, worker_logs, trigger_logs = free_ports(4)
        environment |= {
            # The machine may be busy with much else.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            # The usual ports may be taken.
            "AIRFLOW__API__PORT": str(self.api_port),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{self.api_port}/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        }
        self.folder = folder
        self._ended = 0
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def succeeds(self, command: str) -> bool:
        """Run a command as a person types it; tell whether its exit code is 0."""
        assert self._shell.stdin
        self._ended += 1
        code = self.folder / f"{self._ended}.code"
        self._shell.stdin.write(f"{command.replace('8765', str(self.sandbox_port))}\necho $? > {code}\n")
        self._shell.stdin.flush()
        return until(lambda: code.read_text().strip() if code.exists() else "", f"the end of {command}") == "0"

    def has_said(self, text: str, log: str) -> bool:
        path = self.folder / log
        return path.exists() and text in path.read_text()

    def close(self) -> None:
        assert self._shell.stdin
        self._shell.stdin.close()
        kill_session(self._shell.pid)
        self._shell.wait()


@contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    opened = Terminal(folder)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.skipif(not FROM_A_WHEEL, reason="runs where the wheel is installed: make matrix-ci")
def test_six_commands_lead_to_two_runs_on_the_page(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        _, sandbox, settings, standalone, *unpause = commands()  # pip has run: this is the wheel's environment
        for command in (sandbox, settings, standalone):
            assert shell.succeeds(command)
        until(lambda: shell.has_said(" at http://", "sandbox.log"), "the sandbox")
        until(lambda: shell.has_said("is ready", "airflow.log"), "Airflow")
        for command in unpause:
            until(partial(shell.succeeds, command), command)
        with signed_in(tmp_path, shell.api_port) as http:
            lifecycle, stale = (ended_run(http, dag_id) for dag_id in WEEKLY)
            assert summary_of(http, lifecycle, "quarantine")["marked"] == 323
            nothing, planned = (summary_of(http, run, "delete_devices") for run in (lifecycle, stale))
            assert (nothing["requested"], nothing["dry_run"]) == (0, True)
            assert (planned["PLANNED"], planned["dry_run"], planned["requests"]) == (323, True, 0)
            assert "Nexthink deletions" in http.get("/nexthink/").raise_for_status().text
        assert "323 planned" in PAGE.read_text()
        assert "marks 323" in PAGE.read_text()


@contextmanager
def signed_in(folder: Path, port: int) -> Iterator[httpx.Client]:
    """Sign in with the password from the file that the page names."""
    (path,) = re.findall(r"`(\S+\.generated)`", PAGE.read_text())
    passwords = json.loads((folder / path).read_text())
    with httpx.Client(base_url=f"http://localhost:{port}", timeout=30) as http:
        answer = http.post("/auth/token", json={"username": "admin", "password": passwords["admin"]})
        http.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
        yield http


def ended_run(http: httpx.Client, dag_id: str) -> str:
    """Wait for the end of the only run of a Dag; return where its API is."""

    def ended() -> dict[str, Any] | None:
        (run,) = http.get(f"/api/v2/dags/{dag_id}/dagRuns").raise_for_status().json()["dag_runs"]
        return run if run["state"] in ("success", "failed") else None

    run = until(ended, f"the end of {dag_id}")
    assert run["state"] == "success"
    return f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}"


def summary_of(http: httpx.Client, run: str, task_id: str) -> dict[str, Any]:
    path = f"{run}/taskInstances/{task_id}/xcomEntries/summary?stringify=false"
    return dict(http.get(path).raise_for_status().json()["value"])
