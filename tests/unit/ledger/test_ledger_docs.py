"""docs/ledger.md: its queries run on every database, and it describes every column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from airflow_provider_nexthink.exceptions import NexthinkLedgerError
from airflow_provider_nexthink.ledger import Ledger, schema
from airflow_provider_nexthink.ledger.quota import Quota, quota_used
from tests.support.fake_time import FakeTime
from tests.support.ledgers import LEDGERS
from tests.support.recorded import add_run, new_ledger, uid_of

PAGE = (Path(__file__).parents[3] / "docs" / "ledger.md").read_text()
SEATS, WHO, STILL_THERE, BACK, QUOTA, CURE = re.findall(r"^```sql\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
DAY = 86400.0


@pytest.fixture(params=LEDGERS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger of two months: four devices, of which one is gone, one gone twice, one back and one still there."""
    time = FakeTime()
    with new_ledger(request.param, tmp_path, time.clock()) as ledger:

        def delete(*numbers: int, **run: Any) -> None:
            add_run(ledger.database, [uid_of(number) for number in numbers], time.now(), **run)

        def look(*numbers: int) -> None:
            time.seconds += 3600
            ledger.reconcile([{"uid": uid_of(number)} for number in (*numbers, 999)], query_id="#all_devices")

        delete(1, 2, dag_id="weekly", dag_run_id="run 1", task_id="delete", triggered_by="schedule", reason="CHG-17")
        look(1)
        time.seconds = 10 * DAY  # December
        delete(3, 4, dag_id="weekly")
        look(2, 3)
        delete(2, dag_id="weekly")
        look(3)
        time.seconds = 11 * DAY
        look(3, 4)
        yield ledger


def run(ledger: Ledger, query: str) -> list[tuple[Any, ...]]:
    with ledger.database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_query_of_seats_by_month_agrees_with_the_report(ledger: Ledger) -> None:
    found = run(ledger, SEATS)
    assert [(month, int(gone), int(returned), int(net)) for month, gone, returned, net in found] == [
        ("2026-11", 1, 0, 1),
        ("2026-12", 3, 2, 1),
    ]
    assert [(row["month"], row["gone"], row["returned"], row["net"]) for row in ledger.report().seats] == [
        (month, gone, returned, net) for month, gone, returned, net in found
    ]


def test_query_of_who_deleted_a_device_says_why(ledger: Ledger) -> None:
    ((_, name, status, who, why, dag_id, dag_run_id, gone_at, returned_at),) = run(ledger, WHO)
    assert (name, status, who, why) == ("PC-0001", "SCHEDULED", "schedule", "CHG-17")
    assert (dag_id, dag_run_id) == ("weekly", "run 1")
    assert str(gone_at).startswith("2026-12-03 01:00")
    assert returned_at is None


def test_query_of_what_is_still_there_lists_it(ledger: Ledger) -> None:
    assert [row[0] for row in run(ledger, STILL_THERE)] == [uid_of(3)]


def test_query_of_what_came_back_lists_it(ledger: Ledger) -> None:
    assert {row[0] for row in run(ledger, BACK)} == {uid_of(2), uid_of(4)}


def test_query_of_the_quota_counts_what_was_charged(ledger: Ledger) -> None:
    assert [int(left) for (left,) in run(ledger, QUOTA)] == [995]
    assert [int(left) for (left,) in run(ledger, QUOTA.replace("2026-11-22", "2026-12-01"))] == [997]


@pytest.mark.parametrize("kind", LEDGERS)
def test_cure_of_a_clock_that_was_ahead_lets_right_clocks_in_again(kind: Any, tmp_path: Path) -> None:
    time = FakeTime(start=datetime(2026, 11, 29, 8, tzinfo=UTC))
    quota = Quota(1000, 7)
    with new_ledger(kind, tmp_path, time.clock()) as ledger:
        time.seconds = 400 * DAY
        with ledger.database.locked() as (_, ahead):
            pass
        add_run(ledger.database, [uid_of(1)], ahead)
        ledger.quarantine([{"uid": uid_of(2), "name": "PC-2"}], list_name="laptops", grace=1, min_sightings=1)
        time.seconds = 0.0
        with pytest.raises(NexthinkLedgerError, match="The clock of this machine"), ledger.database.locked():
            pass
        with ledger.database.transaction() as connection:
            for statement in CURE.split(";\n")[:-1]:
                connection.execute(text(statement))
        for days, used in ((6, 1), (8, 0)):
            time.seconds = days * DAY
            with ledger.database.locked() as (connection, now):
                assert quota_used(connection, quota, now) == used
        assert ledger.reconcile([{"uid": uid_of(9)}], query_id="#all_devices").summary["gone"] == 1
        found = ledger.quarantine([{"uid": uid_of(2), "name": "PC-2"}], list_name="laptops", grace=1, min_sightings=1)
        assert found.summary["due"] == 1


@pytest.mark.parametrize("table", schema.metadata.sorted_tables, ids=lambda table: str(table.name))
def test_docs_describe_every_column(table: Any) -> None:
    (section,) = [part for part in PAGE.split("\n### ") if table.name in part.partition("\n")[0]]
    assert [column.name for column in table.columns if f"`{column.name}`" not in section] == []
