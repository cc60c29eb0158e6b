"""The commands as processes: with a real Airflow, and a sandbox tenant over HTTP."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_nexthink.cli.definition import main
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.server import Sandbox

MODULE = [sys.executable, "-m", "airflow_provider_nexthink"]
AIRFLOW = [sys.executable, "-m", "airflow", "nexthink"]
HAS_COMMANDS = tuple(map(int, version("apache-airflow").split(".")[:2])) >= (3, 2)

commands = pytest.mark.parametrize(
    "command",
    [
        pytest.param(MODULE, id="python -m"),
        pytest.param(
            AIRFLOW,
            id="airflow nexthink",
            marks=pytest.mark.skipif(not HAS_COMMANDS, reason="Airflow 3.1 takes no commands from providers"),
        ),
    ],
)

UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(5)]
CSV = "\n".join(
    [
        "uid,name",
        f"{UIDS[0]},PC-0",
        f"{UIDS[1]},SRV-1",
        f"{UIDS[0]},PC-0",
        "nope,PC-2",
        f"{UIDS[3]},PC[red]3[/x]",
        f"{UIDS[4]},VIP-4",
    ]
)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """Return what runs a command, and checks what is true of all of them."""

    def run_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        ran = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False, timeout=300)
        everything = ran.stdout + ran.stderr
        assert "Traceback" not in everything, everything
        assert "\x1b" not in everything
        assert sandbox.client_secret not in everything
        return ran

    return run_it


@pytest.fixture
def devices(tmp_path: Path) -> str:
    path = tmp_path / "devices.csv"
    path.write_text(CSV)
    return str(path)


@pytest.fixture
def with_quota(set_extras: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with a ledger, of whose quota of three devices two are used."""
    ledger = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")})
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", ledger)
    set_extras(ledger_conn_id="ledger", quota_devices=3, quota_days=7, protected="VIP-*")
    with NexthinkHook() as hook:
        hook.delete_devices([{"uid": uid, "name": "PC"} for uid in UIDS[:2]])


def sent_devices(sandbox: Sandbox) -> int:
    return sum(request.path.endswith("/deletions") for request in sandbox.requests)


@commands
def test_check_of_a_good_connection_passes(command: list[str], run: Run, with_quota: None, sandbox: Sandbox) -> None:
    queued = list(sandbox.tenant.queued)
    ran = run(*command, "check", "nexthink_default", "-o", "json")
    assert ran.returncode == 0, ran.stdout
    checks = {row["check"]: row for row in json.loads(ran.stdout)}
    assert list(checks) == ["connection", "token", "NQL API", "Data management", "policy", "ledger", "quota"]
    assert {row["result"] for row in checks.values()} == {"ok"}
    assert checks["quota"]["detail"] == "1 devices left: 2 of 3 in 7 days are used"
    assert "at most 3 devices in 7 days" in checks["policy"]["detail"]
    assert sandbox.tenant.queued == queued


@commands
def test_plan_is_a_dry_run_row_by_row(
    command: list[str], run: Run, with_quota: None, sandbox: Sandbox, devices: str, tmp_path: Path
) -> None:
    sent = sent_devices(sandbox)
    ran = run(*command, "plan", devices, "--exclude", "SRV-*", "-e", UIDS[3], "-o", "json")
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)
    assert [(row["name"], row["status"], row["reason"]) for row in rows] == [
        ("PC-0", "PLANNED", None),
        ("SRV-1", "EXCLUDED", "excluded by 'SRV-*'"),
        ("PC-0", "DUPLICATE", "the same device is earlier in the list"),
        ("PC-2", "INVALID", "the uid is not a UUID (malformed text); not sent"),
        ("PC[red]3[/x]", "EXCLUDED", f"excluded by '{UIDS[3]}'"),
        ("VIP-4", "EXCLUDED", "excluded by 'VIP-*', which the connection protects"),
    ]
    assert "1 INVALID, 1 DUPLICATE, 3 EXCLUDED, 1 PLANNED. Nothing was sent." in ran.stderr
    assert "Limits: at most 1000 devices in a run (set by --max-devices)." in ran.stderr
    assert "at most 3 devices in 7 days over all runs" in ran.stderr
    assert sent_devices(sandbox) == sent

    planned = tmp_path / "planned.json"
    planned.write_text(ran.stdout)
    with NexthinkHook() as hook:
        again = hook.delete_devices(planned.read_text(), dry_run=True).table
    assert [(row["status"], row["reason"]) for row in again] == [(row["status"], row["reason"]) for row in rows]


@commands
def test_plan_that_a_limit_would_stop_says_which(
    command: list[str], run: Run, with_quota: None, sandbox: Sandbox, devices: str
) -> None:
    ran = run(*command, "plan", devices)
    assert ran.returncode == 1
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert rows[0] == ["uid", "name", "status", "reason"]
    assert [row[2] for row in rows[1:]] == ["NOT_SENT", "NOT_SENT", "DUPLICATE", "INVALID", "NOT_SENT", "EXCLUDED"]
    assert ran.stderr.splitlines()[-1].startswith(
        "A limit stops this run. The list would delete 3 devices, and 1 are left of the quota of the connection"
    )


@commands
def test_command_finds_a_connection_in_airflows_database(
    command: list[str], run: Run, sandbox: Sandbox, airflow_db: None
) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    fields = {**json.loads(sandbox.airflow_connection()), "conn_id": "in_the_database"}
    with create_session() as session:
        session.query(Connection).filter_by(conn_id="in_the_database").delete()
        session.add(Connection(**{**fields, "extra": json.dumps(fields["extra"])}))
    ran = run(*command, "check", "in_the_database", "-o", "yaml")
    assert ran.returncode == 0, ran.stderr
    assert "check: token\n  result: ok" in ran.stdout


@commands
def test_command_with_wrong_input_says_so_in_a_line(command: list[str], run: Run) -> None:
    ran = run(*command, "check", "no_such_connection")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].startswith("There is no connection 'no_such_connection' that can be read")
    ran = run(*command, "plan", "--no-such-option")
    assert ran.returncode == 2
    assert "usage" in (ran.stdout + ran.stderr).lower()


def test_check_on_a_terminal_is_a_colored_table(sandbox: Sandbox) -> None:
    parent, child = pty.openpty()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    env.pop("NO_COLOR", None)
    ran = subprocess.run([*MODULE, "check", "nexthink_default"], env=env, stdout=child, check=False, timeout=300)
    os.close(child)
    shown = os.read(parent, 100_000).decode()
    os.close(parent)
    assert ran.returncode == 0
    assert "\x1b[1mcheck" in shown
    assert "\x1b[32mok" in shown
    assert "=+=" in shown


def test_plan_whose_reader_has_enough_ends_quietly(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("uid,name\n" + "\n".join(f"{UIDS[0][:-6]}{number:06},PC-{number}" for number in range(20_000)))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [*MODULE, "plan", str(path), "-m", "20000"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "uid\tname\tstatus\treason\n"
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, "Traceback" in errors, "BrokenPipe" in errors) == (0, False, False)


def checks_of(capsys: pytest.CaptureFixture[str], expected: int = 1) -> dict[str, tuple[str, str]]:
    assert main(["check", "nexthink_default", "-o", "json"]) == expected
    return {row["check"]: (row["result"], row["detail"]) for row in json.loads(capsys.readouterr().out)}


def test_check_with_a_wrong_secret_fails(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads(sandbox.airflow_connection())
    fields["password"] = "a-secret-that-is-wrong"
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(fields))
    found = checks_of(capsys)
    assert found["token"][0] == "failed"
    assert found["NQL API"] == found["Data management"] == ("not tried", "")
    assert "a-secret-that-is-wrong" not in str(found)


def test_check_without_a_permission_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox(devices=1, stale=0, data_management=False) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        found = checks_of(capsys)
    assert found["NQL API"] == ("ok", "permitted")
    assert found["Data management"][0] == "failed"
    assert found["ledger"][0] == "not set"


@pytest.mark.parametrize(
    ("extras", "check", "says"),
    [
        ({"max_device": 5}, "connection", "max_device"),
        ({"quota_devices": 5}, "connection", "quota_days"),
        ({"ledger_conn_id": "nowhere", "quota_devices": 5, "quota_days": 7}, "ledger", "nowhere"),
    ],
)
def test_check_of_what_cannot_take_effect_fails(
    set_extras: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    extras: dict[str, Any],
    check: str,
    says: str,
) -> None:
    set_extras(**extras)
    result, detail = checks_of(capsys)[check]
    assert (result, says in detail) == ("failed", True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan", "{folder}/none.csv"], 2, "does not exist"),
        (["plan", "{folder}/devices.csv", "-n", "hostname"], 2, "hostname"),
        (["plan", "{folder}/devices.csv", "-c", "warehouse"], 2, "is of the type 'sqlite'"),
        (["plan", "{folder}/devices.csv", "-p", "{folder}/none.csv"], 2, "does not exist"),
        (["plan", "{folder}/devices.csv", "-m", "0"], 1, "max_devices=0"),
        (["ledger", "report", "nexthink_default"], 2, "has none"),
    ],
)
def test_command_that_cannot_be_run_has_an_exit_code(
    sandbox: Sandbox,
    devices: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": "warehouse.db"}))
    folder = str(Path(devices).parent)
    assert main([argument.format(folder=folder) for argument in arguments]) == code
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert sandbox.requests == []


def test_plan_where_deletions_are_off_is_stopped(
    set_extras: Callable[..., None], devices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_extras(deletions="off")
    assert main(["plan", devices]) == 1
    assert "Deletions are off" in capsys.readouterr().err


def test_plan_within_the_limit_of_the_connection_names_it(
    set_extras: Callable[..., None], devices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_extras(max_devices=3, deletions="dry_run_only")
    assert main(["plan", devices, "--exclude", "VIP-*", "-o", "table"]) == 0
    shown = capsys.readouterr()
    assert "at most 3 devices in a run (set by the connection)" in shown.err
    assert "deletions dry_run_only" in shown.err
    assert shown.out.splitlines()[2] == f"{UIDS[0]} | PC-0         | PLANNED   |"
