"""What the ledger tells people: reports, the history of a device, and what is left once it is pruned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from airflow_provider_nexthink.cli.definition import main
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger import Ledger, schema
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.report import render_history, render_report
from airflow_provider_nexthink.ledger.seats import seats_by_period
from tests.support.fake_time import FakeTime
from tests.support.ledgers import LEDGERS
from tests.support.recorded import add_run, deletions, new_ledger, uid_of

DAY = 86400.0


@dataclass
class Tenant:
    """A ledger in virtual time."""

    ledger: Ledger
    time: FakeTime

    def delete(self, *numbers: int, **run: Any) -> int:
        options = {"uid_kind": "device", **run}
        return add_run(self.ledger.database, [uid_of(number) for number in numbers], self.time.now(), **options)

    def look(self, *numbers: int) -> None:
        self.time.seconds += 3600
        listed = [{"device.uid": uid_of(number)} for number in (*numbers, 999)]
        self.ledger.reconcile(listed, query_id="#all_devices")

    def month(self) -> list[dict[str, Any]]:
        with self.ledger.database.transaction() as connection:
            return seats_by_period(connection, "month")


@pytest.fixture(params=LEDGERS)
def tenant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tenant]:
    time = FakeTime()
    with new_ledger(request.param, tmp_path, time.clock()) as ledger:
        yield Tenant(ledger, time)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Tenant]:
    time = FakeTime()
    with new_ledger("sqlite", tmp_path, time.clock()) as ledger:
        yield Tenant(ledger, time)


def a_year(tenant: Tenant) -> None:
    """Delete four devices: one is gone, one returned, one still present, one not looked at."""
    tenant.delete(1, 2, 3, dag_id="weekly", task_id="delete", triggered_by="the schedule", reason="CHG-17: {}")
    tenant.look(3)
    tenant.time.seconds += 30 * DAY
    tenant.look(2, 3)
    tenant.delete(4)
    tenant.ledger.quarantine([{"uid": uid_of(7), "name": "PC-7"}], list_name="stale laptops")


def test_report_shows_what_the_ledger_knows(tenant: Tenant) -> None:
    a_year(tenant)
    text = render_report(tenant.ledger.report(Quota(10, 7)))
    assert (
        text
        == f"""\
Ledger of acme, 2026-12-23 02:00 UTC
  runs                2, the latest of 2026-12-23 02:00 UTC
  latest look         2026-12-23 02:00 UTC
  quota               10 devices in 7 days: 1 used, 9 left

Seats won
  month    scheduled     gone  returned      net
  2026-11          3        2         0        2
  2026-12          1        0         1       -1
  total            4        2         1        1

Still present: 1
  {uid_of(3)}  2026-11-23 00:00 UTC  PC-0003

Back again: 1
  {uid_of(2)}  2026-12-23 02:00 UTC  PC-0002

Not looked at yet: 1

In quarantine
  stale laptops: 1 devices, the first since 2026-12-23 02:00 UTC; latest run 2026-12-23 02:00 UTC
"""
    )


def test_report_of_an_empty_ledger_has_its_headings(tenant: Tenant) -> None:
    text = render_report(tenant.ledger.report())
    assert "runs                0\n" in text
    assert "latest look         never" in text
    assert "In quarantine: none" in text
    assert "quota" not in text


def test_history_says_who_and_why(tenant: Tenant) -> None:
    a_year(tenant)
    tenant.delete(2, statuses=["FAILED"])
    found = tenant.ledger.history(uid_of(2).upper())
    assert tenant.ledger.history("PC-0002") == found
    text = render_history("PC-0002", found, [])
    assert (
        text
        == f"""\
PC-0002: 2 deletions in the ledger
2026-11-23 00:00 UTC  SCHEDULED  PC-0002 ({uid_of(2)})
  by   the schedule, weekly.delete, run 1
  why  CHG-17: {{}}
  gone on 2026-11-23 01:00 UTC
  back on 2026-12-23 02:00 UTC
2026-12-23 02:00 UTC  FAILED  PC-0002 ({uid_of(2)})
  by   unknown, a program outside Airflow, run 3
  why  no reason given
"""
    )
    assert tenant.ledger.history("pc-0002 ") == []
    assert "stale laptops" in render_history("PC-7", [], tenant.ledger.marks("PC-7"))


def test_prune_removes_names_and_keeps_all_counts(tenant: Tenant) -> None:
    a_year(tenant)
    tenant.time.seconds += 100 * DAY
    tenant.delete(5)
    seats, report = tenant.month(), tenant.ledger.report(Quota(10, 400))
    pruned = tenant.ledger.prune(timedelta(days=90))
    assert (pruned.devices, pruned.kept, pruned.marks) == (2, 2, 1)
    found = deletions(tenant.ledger.database)
    assert [(row["uid"], row["name"]) for row in found] == [
        ("", ""),
        ("", ""),
        (uid_of(3), "PC-0003"),  # still present
        (uid_of(4), "PC-0004"),  # not looked at
        (uid_of(5), "PC-0005"),  # not old
    ]
    assert tenant.month() == seats
    assert tenant.ledger.report(Quota(10, 400)).quota_used == report.quota_used == 5
    tenant.look(1, 3)
    assert tenant.month()[0] == seats[0]
    assert [row["presence"] for row in deletions(tenant.ledger.database)] == [
        "GONE",
        "RETURNED",
        "STILL_PRESENT",
        "GONE",
        "GONE",
    ]
    assert tenant.ledger.prune(timedelta(days=90)).devices == 1  # 4 is gone now


def test_prune_keeps_what_is_in_quarantine_or_has_not_ended(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1, 2)
    on_sqlite.look()
    on_sqlite.delete(3, finished_at=None, state="RUNNING")
    on_sqlite.time.seconds += 100 * DAY
    on_sqlite.ledger.quarantine([{"uid": uid_of(1), "name": "PC-0001"}], list_name="stale")
    assert on_sqlite.ledger.prune(timedelta(days=30)).devices == 1
    assert [row["uid"] for row in deletions(on_sqlite.ledger.database)] == [uid_of(1), "", uid_of(3)]


def test_prune_removes_names_wherever_they_are(on_sqlite: Tenant) -> None:
    database = on_sqlite.ledger.database
    on_sqlite.delete(1, error="NexthinkDevicesError: PC-0001 is FAILED", uid_kind="device", reason="CHG-17")
    on_sqlite.ledger.reconcile([{"device.uid": uid_of(1), "device.days_since_last_seen": "1"}], query_id="#all_devices")
    on_sqlite.look()
    with database.transaction() as connection:
        connection.execute(update(schema.deletions).values(reason="about PC-0001"))
        connection.execute(
            insert(schema.task_state).values(
                task_key="x", state_key="journal", value=f"[{uid_of(1)!r}]", updated_at=on_sqlite.time.now()
            )
        )
    on_sqlite.time.seconds += 100 * DAY
    on_sqlite.ledger.prune(timedelta(days=30))
    with database.transaction() as connection:
        rows = [row for table in schema.metadata.tables.values() for row in connection.execute(select(table)).all()]
        (run,) = connection.execute(select(schema.runs)).all()
    assert "PC-0001" not in str(rows)
    assert uid_of(1) not in str(rows)
    assert (run.reason, run.error, run.scheduled) == ("CHG-17", "NexthinkDevicesError", 1)
    assert run.pruned_at == on_sqlite.time.now()


def test_prune_of_the_last_names_ends_the_comparison_of_a_run(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1, 2)
    on_sqlite.look()
    assert on_sqlite.ledger.prune(timedelta(0)).devices == 2
    assert on_sqlite.ledger.reconcile([{"device.uid": uid_of(1)}], query_id="#all").summary["requested"] == 0


@pytest.mark.parametrize("older_than", [timedelta(days=-1), 30, None])
def test_prune_of_no_time_is_an_error(on_sqlite: Tenant, older_than: Any) -> None:
    with pytest.raises(NexthinkInputError, match="older_than"):
        on_sqlite.ledger.prune(older_than)


def test_command_line_reports_and_prunes(on_sqlite: Tenant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    a_year(on_sqlite)
    assert main(["ledger", "history", url, "PC-0001"]) == 0
    assert "1 deletions in the ledger" in capsys.readouterr().out
    on_sqlite.ledger.prune(timedelta(0))
    assert main(["ledger", "history", url, "PC-0001"]) == 0
    assert "0 deletions in the ledger" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["report"], ["history", "PC-1"], ["prune", "--older-than-days", "9"]])
@pytest.mark.parametrize("url", ["sqlite:///{path}", "sqlite:///file:{path}?uri=true"])
def test_command_line_of_a_mistyped_path_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], url: str
) -> None:
    path = tmp_path / "mistyped.db"
    assert main(["ledger", command[0], url.format(path=path), *command[1:]]) == 2
    assert "no file" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["report", "sqlite:///{folder}/empty.db"], "no ledger in this database"),
        (["report", "oracle9://x"], "URL of the ledger cannot be used"),
        (["report", "no_such_connection"], "no_such_connection"),
    ],
)
def test_command_line_of_what_cannot_be_says_so(
    on_sqlite: Tenant, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    on_sqlite.ledger.open()
    (tmp_path / "empty.db").touch()
    assert main(["ledger", *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("days", ["-1", "nan", "many"])
def test_command_line_of_no_number_of_days_shows_how(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["ledger", "prune", "sqlite:///ledger.db", "--older-than-days", days])
    assert stopped.value.code == 2
    assert "must be a number of days" in capsys.readouterr().err


def test_command_line_as_json_has_what_the_text_has(
    on_sqlite: Tenant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    a_year(on_sqlite)

    def run(*arguments: str) -> Any:
        assert main(["ledger", *arguments, "-o", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    report = run("report", url)
    assert (report["instance"], report["runs"], report["not_looked_at"], report["quota"]) == ("acme", 2, 1, None)
    assert report["seats"] == on_sqlite.month()
    assert [device["name"] for device in report["still_present"]["first"]] == ["PC-0003"]
    assert report["lists"][0]["list_name"] == "stale laptops"
    history = run("history", url, "PC-0002")
    assert [row["why"] for row in history["deletions"]] == ["CHG-17: {}"]
    assert history["deletions"][0]["returned_at"].startswith("2026-12-23T02:00")
    assert run("history", url, "PC-7")["marks"][0]["list_name"] == "stale laptops"
    assert main(["ledger", "history", url, "PC-0002", "-o", "plain"]) == 0
    assert "\tSCHEDULED\t" in capsys.readouterr().out
    assert main(["ledger", "report", url, "-o", "table"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "2026-11 | 3         | 2    | 0        | 2"


def test_command_line_with_a_url_needs_no_airflow(on_sqlite: Tenant, tmp_path: Path) -> None:
    on_sqlite.ledger.open()
    code = (
        "import sys; from airflow_provider_nexthink.cli.definition import main; "
        f"main(['ledger', 'report', 'sqlite:///{tmp_path / 'ledger.db'}']); print('airflow' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.startswith("Ledger of acme")
    assert output.endswith("False\n")
