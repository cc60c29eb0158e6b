"""Does Airflow still know of this process? Real ones are started and killed here, as an OOM killer kills."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from airflow_provider_nexthink.utils.supervisor import supervisor_check

DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
BLOCKED = "airflow-db-not-allowed:///"

# The task process: it replies to each byte with whether its supervisor is there.
TASK = """
import os, sys
from airflow_provider_nexthink.utils.supervisor import supervisor_check

requests, replies = map(int, sys.argv[1:])
is_there = supervisor_check()
os.write(replies, b"!")
while os.read(requests, 1):
    os.write(replies, b"y" if is_there() else b"n")
"""

# Its supervisor: starts it with one end of a socket pair as its standard input, as Airflow does.
SUPERVISOR = """
import socket, subprocess, sys

code, layout, *descriptors = sys.argv[1:]
task_end, own_end = socket.socketpair()
task = [sys.executable, "-c", code, *descriptors]
if layout == "sudo":
    task = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:], close_fds=False)", *task]
if layout == "unread":
    own_end.sendall(b"a message that the task has not read")
process = subprocess.Popen(
    task,
    stdin=subprocess.DEVNULL if layout == "devnull" else task_end,
    pass_fds=[int(descriptor) for descriptor in descriptors] + [own_end.fileno()] * (layout == "leaked"),
)
task_end.close()
process.wait()
"""


@dataclass
class Task:
    """A task process, and the process that started it."""

    supervisor: subprocess.Popen[bytes]
    requests: int
    replies: int

    def sees_its_supervisor(self) -> bool:
        os.write(self.requests, b"?")
        return {b"y": True, b"n": False}[os.read(self.replies, 1)]

    def lose_its_supervisor(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Task]]:
    with ExitStack() as stack:

        def start(layout: str, *, database: str = BLOCKED) -> Task:
            (their_requests, requests), (replies, their_replies) = os.pipe(), os.pipe()
            supervisor = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, TASK, layout, str(their_requests), str(their_replies)],
                env={**os.environ, DATABASE: database},
                pass_fds=[their_requests, their_replies],
            )
            stack.callback(supervisor.wait)
            stack.callback(supervisor.kill)
            for end in (requests, replies):
                stack.callback(os.close, end)  # the task process ends with it
            for end in (their_requests, their_replies):
                os.close(end)
            assert os.read(replies, 1) == b"!"
            return Task(supervisor, requests, replies)

        yield start


@pytest.mark.parametrize("layout", ["forked", "sudo", "unread", "leaked"])
def test_supervisor_killed_is_seen_at_once(start: Callable[..., Task], layout: str) -> None:
    """Also with a sudo in between, with a message left unread, and with the supervisor's socket held by another."""
    task = start(layout)
    assert [task.sees_its_supervisor() for _ in range(3)] == [True] * 3
    task.lose_its_supervisor()
    assert [task.sees_its_supervisor() for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("layout", ["forked", "sudo", "devnull"])
@pytest.mark.parametrize("database", ["", "sqlite:////tmp/airflow.db"])
def test_script_outlives_what_started_it(start: Callable[..., Task], layout: str, database: str) -> None:
    """Of ``dag.test()``, a script or a notebook: sshd and IDEs start them with a socket as standard input, too."""
    task = start(layout, database=database)
    task.lose_its_supervisor()
    assert task.sees_its_supervisor()


def test_script_of_a_task_with_a_standard_input_of_its_own_outlives_the_task(start: Callable[..., Task]) -> None:
    task = start("devnull")
    task.lose_its_supervisor()
    assert task.sees_its_supervisor()


def test_without_standard_input_there_is_no_supervisor() -> None:
    run_supervised("""
import os
from airflow_provider_nexthink.utils.supervisor import supervisor_check

os.close(0)
assert supervisor_check()()
""")


def test_outside_of_airflow_any_thread_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATABASE, raising=False)
    is_there = supervisor_check()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: is_there(), range(100)))


def test_supervised_threads_may_ask_at_once() -> None:
    run_supervised("""
import os, socket, sys
from concurrent.futures import ThreadPoolExecutor
from airflow_provider_nexthink.utils.supervisor import supervisor_check

kept, stdin = socket.socketpair()
os.dup2(stdin.fileno(), 0)
stdin.close()
is_there = supervisor_check()
sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as threads:
    assert all(threads.map(lambda _: is_there(), range(5000)))
    kept.close()
    assert not any(threads.map(lambda _: is_there(), range(5000)))
""")


def run_supervised(code: str) -> None:
    env = {**os.environ, DATABASE: BLOCKED}
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
