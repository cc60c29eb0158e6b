"""Devices in quarantine: marked, waiting, released, due; by the rules, in every database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkLedgerError
from airflow_provider_nexthink.ledger import Ledger, schema
from airflow_provider_nexthink.ledger.ledger import QuarantineResult
from airflow_provider_nexthink.ledger.reconcile import MAX_LISTED
from airflow_provider_nexthink.origin import RunOrigin
from tests.support.fake_time import FakeTime
from tests.support.ledgers import LEDGERS
from tests.support.recorded import add_run, new_ledger, uid_of

DAY = 86400.0


@dataclass
class Weekly:
    """A task that puts devices on a list, in runs of its Dag.

    :param time: virtual time.
    """

    ledger: Ledger
    time: FakeTime
    options: dict[str, Any] = field(default_factory=lambda: {"list_name": "stale"})

    def run(self, number: int, devices: Any, **options: Any) -> QuarantineResult:
        origin = RunOrigin(dag_id="weekly", dag_run_id=f"run {number}", task_id="quarantine")
        return self.ledger.quarantine(devices, **{"origin": origin, **self.options, **options})


@pytest.fixture(params=LEDGERS)
def weekly(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Weekly]:
    time = FakeTime()
    with new_ledger(request.param, tmp_path, time.clock()) as ledger:
        yield Weekly(ledger, time)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Weekly]:
    time = FakeTime()
    with new_ledger("sqlite", tmp_path, time.clock()) as ledger:
        yield Weekly(ledger, time)


def rows(*numbers: int) -> list[dict[str, str]]:
    return [{"uid": uid_of(number), "name": f"PC-{number}"} for number in numbers]


def counts(result: QuarantineResult) -> dict[str, int]:
    words = ("due", "waiting", "marked", "released", "deleted", "unmarked")
    return {word: result.summary[word] for word in words if result.summary[word]}


def test_quarantine_device_is_due_after_the_grace_and_the_sightings(weekly: Weekly) -> None:
    first = weekly.run(1, rows(1, 2))
    assert first.due == []
    assert counts(first) == {"waiting": 2, "marked": 2}
    assert first.waiting[0]["due_at"] == "2026-12-07T00:00:00+00:00"
    weekly.time.seconds = 7 * DAY
    second = weekly.run(2, rows(1, 2, 3))
    assert counts(second) == {"waiting": 3, "marked": 1}
    assert [row["sightings"] for row in second.waiting] == [2, 2, 1]
    weekly.time.seconds = 14 * DAY
    third = weekly.run(3, rows(1, 2, 3))
    assert third.due == rows(1, 2)
    assert counts(third) == {"due": 2, "waiting": 1}
    assert third.summary["next_due_at"] == "2026-12-14T00:00:00+00:00"
    assert third.summary["instance"] == weekly.ledger.database.instance
    assert second.summary["due_by_day"] == [
        {"day": "2026-12-07", "devices": 2},
        {"day": "2026-12-14", "devices": 1},
    ]
    assert third.summary["due_by_day"] == [{"day": "2026-12-14", "devices": 1}]


def test_quarantine_due_by_day_counts_all_waiting_devices_by_the_day_in_utc(on_sqlite: Weekly) -> None:
    listed = MAX_LISTED + 5
    on_sqlite.time.seconds = DAY - 1  # a second before midnight
    on_sqlite.run(1, rows(*range(listed)))
    on_sqlite.time.seconds = DAY
    result = on_sqlite.run(2, rows(*range(listed + 3)))
    assert len(result.waiting) == MAX_LISTED
    assert result.summary["due_by_day"] == [
        {"day": "2026-12-07", "devices": listed},
        {"day": "2026-12-08", "devices": 3},
    ]
    assert on_sqlite.run(3, []).summary["due_by_day"] == []


def test_quarantine_due_by_day_of_a_device_that_lacks_sightings_is_today(on_sqlite: Weekly) -> None:
    on_sqlite.run(1, rows(1), min_sightings=9)
    on_sqlite.time.seconds = 30 * DAY
    result = on_sqlite.run(2, rows(1), min_sightings=9)
    assert result.summary["due_by_day"] == [{"day": "2026-12-23", "devices": 1}]


def test_quarantine_due_by_day_has_the_first_sixty_days(on_sqlite: Weekly) -> None:
    for day in range(62):
        on_sqlite.time.seconds = day * DAY
        result = on_sqlite.run(day, rows(*range(day + 1)), grace=100)
    days = [row["day"] for row in result.summary["due_by_day"]]
    assert (len(days), days[0], days == sorted(days)) == (60, "2027-03-03", True)


def test_quarantine_grace_alone_is_not_enough(weekly: Weekly) -> None:
    weekly.run(1, rows(1))
    weekly.time.seconds = 100 * DAY
    assert counts(weekly.run(2, rows(1), min_sightings=3)) == {"waiting": 1}
    assert weekly.run(3, rows(1), min_sightings=3).due == rows(1)


def test_quarantine_device_that_is_missing_once_starts_afresh(weekly: Weekly) -> None:
    weekly.run(1, rows(1, 2))
    weekly.time.seconds = 7 * DAY
    assert counts(weekly.run(2, rows(2))) == {"waiting": 1, "released": 1}
    weekly.time.seconds = 21 * DAY
    back = weekly.run(3, rows(1, 2))
    assert back.due == rows(2)
    assert back.waiting[0]["uid"] == uid_of(1)
    assert back.waiting[0]["sightings"] == 1
    assert back.waiting[0]["marked_at"] == weekly.time.now().isoformat()


def test_quarantine_retry_counts_once_and_takes_the_list_of_the_last_try(weekly: Weekly) -> None:
    weekly.run(1, rows(1, 2))
    weekly.time.seconds = 20 * DAY
    retry = weekly.run(1, rows(2, 3))
    assert counts(retry) == {"waiting": 2, "marked": 1, "released": 1}
    assert not retry.summary["counted"]
    assert weekly.run(2, rows(2, 3)).due == rows(2)
    assert weekly.run(2, rows(2, 3)).due == rows(2)


def test_quarantine_retry_of_the_latest_run_days_later_makes_nothing_due(weekly: Weekly) -> None:
    weekly.run(1, rows(1))
    weekly.time.seconds = 7 * DAY
    weekly.run(2, rows(1))
    weekly.time.seconds = 15 * DAY
    assert counts(weekly.run(2, [{"uid": uid_of(1), "name": "pc-new"}])) == {"waiting": 1}
    cleared = weekly.run(1, rows(1))
    assert counts(cleared) == {"waiting": 1}
    assert cleared.waiting[0]["due_at"] == weekly.time.now().isoformat()  # by the next run
    assert weekly.run(3, rows(1)).due == rows(1)
    weekly.time.seconds = 30 * DAY
    assert weekly.run(3, rows(1)).due == rows(1)


def test_quarantine_without_grace_and_sightings_is_due_at_once_in_a_retry_too(on_sqlite: Weekly) -> None:
    on_sqlite.run(1, rows(1), grace=0, min_sightings=1)
    on_sqlite.time.seconds = DAY
    assert on_sqlite.run(1, rows(1, 2), grace=0, min_sightings=1).due == rows(1, 2)


def test_quarantine_cleared_earlier_run_changes_nothing(weekly: Weekly) -> None:
    weekly.run(1, rows(1, 2))
    weekly.time.seconds = 20 * DAY
    weekly.run(2, rows(1, 2))
    cleared = weekly.run(1, rows(2, 3))
    assert cleared.due == rows(2)
    assert counts(cleared) == {"due": 1, "unmarked": 1}
    assert weekly.run(2, rows(1, 2)).due == rows(1, 2)


def test_quarantine_list_of_another_task_is_an_error_that_names_both(weekly: Weekly) -> None:
    weekly.run(1, rows(1))
    for origin in (
        RunOrigin(dag_id="other", dag_run_id="1", task_id="quarantine"),
        RunOrigin(dag_id="weekly", dag_run_id="1", task_id="quarantine", map_index=3),
        RunOrigin(),
    ):
        with pytest.raises(NexthinkInputError, match=r"weekly\.quarantine.*another list_name") as caught:
            weekly.run(2, rows(1), origin=origin)
        assert (origin.dag_id or "outside Airflow") in str(caught.value)
    weekly.run(2, rows(7), list_name="another", origin=RunOrigin(dag_id="other", dag_run_id="1", task_id="x"))
    assert counts(weekly.run(2, rows(1))) == {"waiting": 1}


def test_quarantine_device_that_was_deleted_meanwhile_is_not_released(weekly: Weekly) -> None:
    database = weekly.ledger.database
    add_run(database, [uid_of(1)], weekly.time.now() - timedelta(days=1))  # of the time before its mark
    weekly.run(1, rows(*range(1, 8)))
    weekly.time.seconds = DAY
    add_run(
        database,
        [uid_of(n) for n in (2, 3, 4, 5)],
        weekly.time.now(),
        statuses=["SCHEDULED", "UNKNOWN", "REQUESTED", "FAILED"],
    )
    replaced = add_run(database, [uid_of(6)], weekly.time.now())
    with database.transaction() as connection:
        connection.execute(
            update(schema.deletions).where(schema.deletions.c.run_id == replaced).values(superseded=True)
        )
    assert counts(weekly.run(2, rows(7))) == {"waiting": 1, "released": 3, "deleted": 3}


def test_quarantine_empty_list_releases_all(weekly: Weekly) -> None:
    weekly.run(1, rows(1, 2))
    empty = weekly.run(2, [])
    assert empty.due == []
    assert counts(empty) == {"released": 2}


def test_quarantine_rows_without_a_uid_are_never_due_and_duplicates_count_once(weekly: Weekly) -> None:
    odd = [
        {"uid": uid_of(1).upper(), "name": "PC\0\ud800"},
        *rows(1),
        {"uid": "x", "name": "y"},
        {"uid": None, "name": "z"},
    ]
    result = weekly.run(1, odd, grace=0, min_sightings=1)
    assert result.due == odd[:2]
    assert (result.summary["devices"], result.summary["invalid"]) == (1, 2)


def test_quarantine_new_name_of_a_device_keeps_its_mark(weekly: Weekly) -> None:
    weekly.run(1, rows(1))
    renamed = [{"uid": uid_of(1), "name": "pc-new"}]
    weekly.time.seconds = 7 * DAY
    assert weekly.run(2, renamed).waiting[0] | {"uid": ""} == {
        "uid": "",
        "name": "pc-new",
        "marked_at": "2026-11-23T00:00:00+00:00",
        "sightings": 2,
        "due_at": "2026-12-07T00:00:00+00:00",
    }
    weekly.time.seconds = 14 * DAY
    assert weekly.run(3, renamed).due == renamed


def test_quarantine_clock_that_went_back_is_an_error(on_sqlite: Weekly) -> None:
    on_sqlite.time.seconds = DAY
    on_sqlite.run(1, rows(1))
    on_sqlite.time.seconds = 0
    with pytest.raises(NexthinkLedgerError, match="clock"):
        on_sqlite.run(2, rows(1))


def test_quarantine_of_many_devices_writes_few_statements(weekly: Weekly) -> None:
    many = rows(*range(20_000))
    weekly.run(1, many)
    result = weekly.run(2, many[:-600], grace=0)
    assert len(result.due) == 19_400
    assert counts(result) == {"due": 19_400, "released": 600}
    with weekly.ledger.database.transaction() as connection:
        table = schema.marks
        found = connection.execute(select(func.count(), func.min(table.c.sightings), func.max(table.c.last_number)))
        assert tuple(found.one()) == (19_400, 2, 2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grace", timedelta(seconds=-1)),
        ("grace", -1),
        ("grace", "soon"),
        ("grace", float("nan")),
        ("grace", True),
        ("grace", None),
        ("grace", timedelta.max),
        ("min_sightings", 0),
        ("min_sightings", 1.5),
        ("min_sightings", True),
        ("min_sightings", "two"),
        ("list_name", ""),
        ("list_name", None),
        ("list_name", "x" * 256),
    ],
)
def test_quarantine_option_that_cannot_take_effect_is_an_error(on_sqlite: Weekly, option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        on_sqlite.run(1, rows(1), **{option: value})


@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: rows,
        pd.DataFrame,
        pl.DataFrame,
        pa.Table.from_pylist,
        lambda rows: {key: [row[key] for row in rows] for key in rows[0]},
        lambda rows: [rows[:1], rows[1:]],
        lambda rows: [pd.DataFrame(rows[:2]), pd.DataFrame(rows[2:])],
    ],
    ids=["records", "pandas", "polars", "Arrow", "columns", "mapped", "mapped DataFrames"],
)
def test_quarantine_due_devices_come_in_the_form_of_the_list(on_sqlite: Weekly, shape: Any) -> None:
    given_rows = [{**row, "device.name": row["name"], "entity": "x"} for row in rows(1, 2, 3)]
    given_rows = [{key: row[key] for key in ("uid", "name", "entity")} for row in given_rows]
    on_sqlite.run(1, shape(given_rows))
    due = on_sqlite.run(2, shape([given_rows[0], {**given_rows[1], "uid": uid_of(9)}, given_rows[2]]), grace=0).due
    wanted = shape([given_rows[0], given_rows[2]])
    if isinstance(wanted, list) and isinstance(wanted[0], pd.DataFrame):
        assert [part.to_dict("records") for part in due] == [[given_rows[0]], [given_rows[2]]]
    elif isinstance(wanted, pd.DataFrame):
        assert due.to_dict("records") == wanted.to_dict("records")
    elif isinstance(wanted, pl.DataFrame | pa.Table):
        assert due.equals(wanted)
    else:
        assert due == wanted


def test_quarantine_due_devices_of_text_are_rows_with_all_columns(on_sqlite: Weekly, tmp_path: Path) -> None:
    text = "uid,name,status,request_id\n" + "".join(f"{uid_of(n)},PC-{n},EXCLUDED,\n" for n in (1, 2))
    path = tmp_path / "stale.csv"
    path.write_text(text)
    on_sqlite.run(1, text)
    due = on_sqlite.run(2, path, grace=0).due
    assert due == [{**row, "status": "EXCLUDED", "request_id": ""} for row in rows(1, 2)]


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_quarantine_of_a_year_follows_the_rules(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Weekly runs with devices that come and go, retries and cleared runs, against a plain model of the rules."""
    time = FakeTime()
    # The model: when each device was marked, how often it was seen, and when for the last time.
    marked: dict[int, tuple[float, int, float]] = {}
    known: list[int] = []
    grace, min_sightings = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 5))
    with new_ledger("sqlite", tmp_path_factory.mktemp("ledger"), time.clock()) as ledger:
        weekly = Weekly(ledger, time, {"list_name": "stale", "grace": grace, "min_sightings": min_sightings})
        for week in range(data.draw(st.integers(1, 52))):
            time.seconds = week * 7 * DAY + data.draw(st.integers(0, 5)) * DAY
            key = data.draw(st.sampled_from([week, week, week, *known[-2:]]))
            listed = data.draw(st.sets(st.integers(0, 6)))
            result = weekly.run(key, rows(*sorted(listed)))
            if key not in known or key == known[-1]:
                more = int(key not in known)
                new = (time.seconds, 1, time.seconds)
                if more:
                    marked = {key: (since, times + 1, time.seconds) for key, (since, times, _) in marked.items()}
                marked = {device: marked.get(device, new) for device in listed}
            if key not in known:
                known.append(key)
            due = {
                device
                for device in listed & marked.keys()
                if marked[device][1] >= min_sightings and marked[device][2] - marked[device][0] >= grace * DAY
            }
            assert result.due == rows(*sorted(due))
            assert {row["uid"] for row in result.waiting} == {uid_of(n) for n in listed & marked.keys() - due}
            assert len(listed) == sum(result.summary[word] for word in ("due", "waiting", "unmarked"))
