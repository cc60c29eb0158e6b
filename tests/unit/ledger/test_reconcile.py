"""The ledger and the inventory: what is gone, still present, back again, and what proves nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select, update

from airflow_provider_nexthink.api.nql import NqlRows
from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkInputError
from airflow_provider_nexthink.ledger import Ledger, reconcile, schema
from airflow_provider_nexthink.ledger.ledger import ReconcileResult
from airflow_provider_nexthink.ledger.quota import Quota
from tests.support.fake_time import FakeTime
from tests.support.ledgers import LEDGERS
from tests.support.recorded import add_run, deletions, new_ledger, uid_of

DAY = timedelta(days=1)


@dataclass
class Tenant:
    """A ledger, and an inventory that a test makes.

    :param time: virtual time.
    """

    ledger: Ledger
    time: FakeTime

    def delete(self, *numbers: int, **run: Any) -> int:
        self.time.seconds += 60
        options = {"uid_kind": "device", **run}
        return add_run(self.ledger.database, [uid_of(number) for number in numbers], self.time.now(), **options)

    def look(self, *numbers: int, days: Any = 3, uid: str = "device.uid", **options: Any) -> ReconcileResult:
        """Look at an inventory of these devices, and of one that nobody asked for."""
        self.time.seconds += 60
        listed = [
            {uid: uid_of(number), "device.name": f"PC-{number:04}", "device.days_since_last_seen": str(days)}
            for number in (*numbers, 999)
        ]
        return self.ledger.reconcile(listed, **{"query_id": "#all_devices", **options})

    def presence(self) -> list[str | None]:
        return [row["presence"] for row in deletions(self.ledger.database)]


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


def test_reconcile_summary_has_the_tenant_and_what_is_left_of_the_quota(tenant: Tenant) -> None:
    tenant.delete(1, 2, 3)
    assert tenant.look().summary["quota"] is None
    summary = tenant.look(quota=Quota(devices=10, days=7)).summary
    assert summary["instance"] == tenant.ledger.database.instance
    assert summary["quota"] == {"devices": 10, "days": 7, "used": 3, "left": 7}
    lowered = tenant.look(quota=Quota(devices=2, days=7)).summary
    assert lowered["quota"] == {"devices": 2, "days": 7, "used": 3, "left": 0}
    tenant.time.seconds += 8 * DAY.total_seconds()
    assert tenant.look(quota=Quota(devices=10, days=7)).summary["quota"]["used"] == 0


def counts(result: ReconcileResult) -> dict[str, int]:
    words = ("requested", "gone", "still_present", "returned", "set_up_anew", "not_compared")
    return {word: result.summary[word] for word in words if result.summary[word]}


def test_reconcile_devices_are_still_present_then_gone_then_back(tenant: Tenant) -> None:
    tenant.delete(1, 2, 3)
    first = tenant.look(1, 2)
    assert counts(first) == {"requested": 3, "gone": 1, "still_present": 2}
    assert first.summary["devices"] == 3
    assert [row["uid"] for row in first.still_present] == [uid_of(1), uid_of(2)]
    tenant.time.seconds += 7 * 86400
    assert counts(tenant.look(1)) == {"requested": 3, "gone": 2, "still_present": 1}
    gone_at = tenant.time.now()
    tenant.time.seconds += 7 * 86400
    third = tenant.look(1, 2)
    assert counts(third) == {"requested": 3, "gone": 1, "still_present": 1, "returned": 1}
    assert [(row["uid"], row["name"]) for row in third.returned] == [(uid_of(2), "PC-0002")]
    assert third.summary["by_week"] == [
        {"week": "2026-W48", "scheduled": 3, "gone": 1, "returned": 0, "net": 1},
        {"week": "2026-W49", "scheduled": 0, "gone": 1, "returned": 0, "net": 1},
        {"week": "2026-W50", "scheduled": 0, "gone": 0, "returned": 1, "net": -1},
    ]
    assert (third.summary["seats_won"], third.summary["seats_returned"], third.summary["net"]) == (2, 1, 1)
    assert third.summary["runs"] == 1
    assert third.summary["latest_run_at"] == "2026-11-23T00:01:00+00:00"
    assert tenant.presence() == ["STILL_PRESENT", "RETURNED", "GONE"]
    back = deletions(tenant.ledger.database)[1]
    assert (back["gone_at"], back["returned_at"]) == (gone_at, tenant.time.now())
    assert counts(tenant.look(1)) == {"requested": 3, "gone": 2, "still_present": 1}
    again = deletions(tenant.ledger.database)[1]
    assert (again["presence"], again["gone_at"], again["returned_at"]) == ("GONE", tenant.time.now(), None)


def test_reconcile_look_that_finds_a_device_keeps_its_age_until_it_is_gone(tenant: Tenant) -> None:
    tenant.delete(1)
    tenant.look(1, days=3)
    tenant.look(1, days=4.2)
    seen_at = tenant.time.now()
    tenant.look()
    tenant.look(1, days=0)
    (row,) = deletions(tenant.ledger.database)
    assert (row["presence"], row["seen_at"], row["days_unseen"]) == ("RETURNED", seen_at, 5.0)


@pytest.mark.parametrize("days", ["", "never", "999999", "-1"])
def test_reconcile_age_that_is_not_known_is_null(on_sqlite: Tenant, days: str) -> None:
    on_sqlite.delete(1)
    on_sqlite.look(1, days=days)
    (row,) = deletions(on_sqlite.ledger.database)
    assert (row["presence"], row["days_unseen"]) == ("STILL_PRESENT", None)


def test_reconcile_inventory_with_nothing_but_uids_is_compared(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1, 2, uid_kind=None)
    assert counts(on_sqlite.ledger.reconcile([{"uid": uid_of(1)}], query_id="#all")) == {
        "requested": 2,
        "gone": 1,
        "still_present": 1,
    }


def test_reconcile_only_devices_that_were_asked_for_are_compared(tenant: Tenant) -> None:
    statuses = ["SCHEDULED", "UNKNOWN", "REQUESTED", "INVALID", "FAILED", "REJECTED", "NOT_SENT"]
    tenant.delete(*range(1, 8), statuses=statuses)
    assert counts(tenant.look(2)) == {"requested": 3, "gone": 2, "still_present": 1}
    assert tenant.presence() == ["GONE", "STILL_PRESENT", "GONE", None, None, None, None]


def test_reconcile_device_that_was_set_up_anew_is_told_apart(tenant: Tenant) -> None:
    tenant.delete(1, 2)
    inventory = [{"device.uid": uid_of(8), "name": "PC-0001"}]
    result = tenant.ledger.reconcile(inventory, query_id="#all_devices")
    assert counts(result) == {"requested": 2, "gone": 2, "set_up_anew": 1}
    assert [row["uid"] for row in result.set_up_anew] == [uid_of(1)]
    assert tenant.presence() == ["GONE", "GONE"]


def test_reconcile_device_that_was_asked_for_again_counts_once(tenant: Tenant) -> None:
    tenant.delete(1, 2, 3)
    tenant.look(1, 2)  # 3 is gone
    tenant.look(1, 2, 3)  # and back
    tenant.delete(1, 3)
    assert counts(tenant.look(2, 3)) == {"requested": 3, "gone": 1, "still_present": 2}
    tenant.look()
    result = tenant.look()
    assert counts(result) == {"requested": 3, "gone": 3}
    assert (result.summary["seats_won"], result.summary["seats_returned"], result.summary["net"]) == (4, 1, 3)
    assert tenant.presence() == ["REPEATED", "GONE", "RETURNED", "GONE", "GONE"]
    assert not any(row["superseded"] for row in deletions(tenant.ledger.database))  # it would count in no quota


def test_reconcile_seats_of_a_past_month_stay_when_a_device_is_asked_for_again(tenant: Tenant) -> None:
    tenant.delete(1, 2, 3)
    november = tenant.look().summary["by_week"]
    tenant.time.seconds += 31 * 86400
    tenant.delete(1)  # a stale file
    tenant.delete(2)  # a cleared task
    with tenant.ledger.database.transaction() as connection:
        of_first_run = (schema.deletions.c.run_id == 1) & (schema.deletions.c.seq == 1)
        connection.execute(update(schema.deletions).where(of_first_run).values(superseded=True))
    assert seats_of(tenant.look()) == [("2026-W48", 3, 0), ("2026-W52", 0, 0)]
    back = tenant.look(1, 2, 3)
    assert seats_of(back) == [("2026-W48", 3, 0), ("2026-W52", 0, 3)]
    assert seats_of(tenant.look(1, 2)) == [("2026-W48", 3, 0), ("2026-W52", 1, 3)]
    assert tenant.look(1, 2).summary["by_week"][0] == november[0]


def test_reconcile_device_that_is_asked_for_again_and_back_before_a_look_takes_its_seat_once(tenant: Tenant) -> None:
    for uids in (None, [uid_of(1)]):
        tenant.delete(1)
        tenant.look(uids=uids)
        tenant.delete(1)
        tenant.look(1, uids=uids)
        assert tenant.look(uids=uids).summary["net"] == 1
    assert seats_of(tenant.look()) == [("2026-W48", 3, 2)]


def test_reconcile_pruned_device_that_holds_a_seat_takes_it_when_it_returns(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1)
    on_sqlite.look()
    on_sqlite.delete(1)
    on_sqlite.look()
    with on_sqlite.ledger.database.transaction() as connection:
        connection.execute(update(schema.deletions).where(schema.deletions.c.run_id == 1).values(uid="", name=""))
    assert on_sqlite.look(1).summary["net"] == 0
    assert seats_of(on_sqlite.look()) == [("2026-W48", 2, 1)]


@pytest.mark.parametrize("is_back", [False, True], ids=["gone", "back"])
def test_reconcile_two_looks_at_once_count_a_seat_once(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    tenant.delete(1, 2)
    if is_back:
        tenant.look()
    there = [1, 2] if is_back else []
    compare_page = reconcile._compare_page

    def look_meanwhile(database: Any, look: Any, page: Any, latest: Any) -> Any:
        monkeypatch.undo()
        found = look.changes

        def changes(rows: Any, latest: Any) -> Any:
            look.changes = found
            before = found(rows, latest)
            tenant.look(*there, uids=[uid_of(1)])
            return before

        look.changes = changes
        return compare_page(database, look, page, latest)

    monkeypatch.setattr(reconcile, "_compare_page", look_meanwhile)
    assert seats_of(tenant.look(*there)) == [("2026-W48", 2, 2 if is_back else 0)]


def seats_of(result: ReconcileResult) -> list[tuple[Any, ...]]:
    return [(week["week"], week["gone"], week["returned"]) for week in result.summary["by_week"]]


def test_reconcile_run_that_may_yet_give_devices_back_does_not_close_the_one_before(tenant: Tenant) -> None:
    tenant.delete(1)
    tenant.delete(1, 2, statuses=["REQUESTED", "SCHEDULED"], finished_at=None, state="RUNNING")
    assert counts(tenant.look(1)) == {"requested": 2, "gone": 1, "still_present": 1, "not_compared": 1}
    assert tenant.presence() == ["STILL_PRESENT", None, "GONE"]


def test_reconcile_closes_a_run_whose_process_is_lost(tenant: Tenant) -> None:
    tenant.delete(1, 2, statuses=["REQUESTED", "REQUESTED"], finished_at=None, state="RUNNING", released=1)
    tenant.time.seconds += 3600
    assert counts(tenant.look()) == {"requested": 1, "gone": 1}
    assert [(row["status"], row["presence"]) for row in deletions(tenant.ledger.database)] == [
        ("REQUESTED", "GONE"),
        ("NOT_SENT", None),
    ]


def test_reconcile_look_that_began_before_the_deletion_changes_nothing(tenant: Tenant) -> None:
    before = tenant.time.now()
    tenant.delete(1)
    assert counts(tenant.look(started_at=before)) == {"not_compared": 1}
    assert tenant.presence() == [None]


def test_reconcile_slow_look_does_not_overwrite_a_later_one(tenant: Tenant) -> None:
    tenant.delete(1, 2)
    slow = tenant.time.now()
    tenant.look()
    late = tenant.look(1, 2, started_at=slow)
    assert counts(late) == {"requested": 2, "gone": 2}
    assert tenant.presence() == ["GONE", "GONE"]


def test_reconcile_some_devices_leaves_the_others_alone(tenant: Tenant) -> None:
    tenant.delete(1, 2, 3)
    tenant.delete(2)
    assert counts(tenant.look(1, uids=[uid_of(1), uid_of(2), uid_of(7)])) == {
        "requested": 2,
        "gone": 1,
        "still_present": 1,
    }
    assert tenant.presence() == ["STILL_PRESENT", "REPEATED", None, "GONE"]


def test_reconcile_device_that_was_seen_to_go_is_a_proof(tenant: Tenant) -> None:
    tenant.delete(1, uid_kind="device")
    tenant.delete(2)  # not looked at before it was gone: proves nothing
    tenant.delete(3, uid_kind="collector")
    tenant.look(1, days=2)
    assert proofs(tenant) == []
    tenant.look()
    assert proofs(tenant) == [("device", "strong", uid_of(1), 2.0)]
    assert proofs(tenant) == [("device", "strong", uid_of(1), 2.0)]


@pytest.mark.parametrize(("days", "strength"), [(29, "strong"), (30, None), ("", "weak")])
def test_reconcile_proof_needs_a_young_device(on_sqlite: Tenant, days: Any, strength: str | None) -> None:
    on_sqlite.delete(1)
    on_sqlite.look(1, days=days)
    on_sqlite.look()
    assert [found[:2] for found in proofs(on_sqlite)] == ([("device", strength)] if strength else [])


def test_reconcile_proof_of_an_unknown_kind_of_uid_is_weak(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1, uid_kind=None)
    on_sqlite.look(1, days=2, uid="uid")
    on_sqlite.look(uid="uid")
    assert [found[:2] for found in proofs(on_sqlite)] == [("unknown", "weak")]


def test_reconcile_device_that_goes_again_without_a_deletion_proves_nothing(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1)
    on_sqlite.look()
    on_sqlite.look(1)
    on_sqlite.look()
    assert proofs(on_sqlite) == []


def proofs(tenant: Tenant) -> list[tuple[Any, ...]]:
    table = schema.proofs
    with tenant.ledger.database.transaction() as connection:
        rows = connection.execute(select(table.c.uid_kind, table.c.strength, table.c.uid, table.c.days_unseen))
        return [tuple(row) for row in rows]


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ([], NexthinkExportError, "no device at all"),
        ([{"uid": "x", "name": "y"}], NexthinkInputError, "no uid"),
        ([{"uid": uid_of(1)}, {"uid": ""}], NexthinkInputError, "no uid"),
        ([{"name": "y"}], NexthinkInputError, "no column for the uid"),
        ([{"device.uid": uid_of(1), "device.collector.uid": uid_of(2)}], NexthinkInputError, "uid_column"),
        (NqlRows([{"uid": uid_of(9)}], ["uid"], truncated=True), NexthinkInputError, "cut off"),
    ],
)
def test_reconcile_look_that_proves_nothing_changes_nothing(
    on_sqlite: Tenant, rows: Any, error: type[Exception], says: str
) -> None:
    on_sqlite.delete(1)
    with pytest.raises(error, match=says):
        on_sqlite.ledger.reconcile(rows, query_id="#all_devices")
    assert on_sqlite.presence() == [None]
    with on_sqlite.ledger.database.transaction() as connection:
        assert connection.execute(select(schema.looks)).all() == []


def test_reconcile_look_that_lists_less_than_half_of_the_latest_one_changes_nothing(tenant: Tenant) -> None:
    tenant.delete(1)
    tenant.look(*range(1, 12))  # with 999, 12 devices
    seen = deletions(tenant.ledger.database)
    with pytest.raises(NexthinkInputError, match="not the whole inventory") as caught:
        tenant.look(2, 3, 4, query_id="#stale_devices")
    assert "#stale_devices lists 4 devices, and the look of 2026-11-23 00:02 UTC (#all_devices) listed 12" in (
        str(caught.value)
    )
    with pytest.raises(NexthinkInputError, match="not the whole inventory"):
        tenant.look(2, 3, 4, uids=[uid_of(1)])  # nor does a sensor's
    assert deletions(tenant.ledger.database) == seen
    most = re.search(r"the rows of nexthink_looks with devices > (\d+)\.", str(caught.value))
    with tenant.ledger.database.transaction() as connection:
        assert len(connection.execute(select(schema.looks)).all()) == 1
        connection.execute(delete(schema.looks).where(schema.looks.c.devices > int(most[1] if most else -1)))
    assert counts(tenant.look(2, 3, 4)) == {"requested": 1, "gone": 1}


def test_reconcile_look_of_half_as_many_devices_is_compared(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1)
    on_sqlite.look(*range(1, 12))
    on_sqlite.look(*range(1, 6))  # 6 of 12


def test_reconcile_look_may_lack_the_devices_that_were_to_be_deleted(tenant: Tenant) -> None:
    tenant.delete(*range(4))
    tenant.delete(3, 4, statuses=["SCHEDULED", "FAILED"])
    tenant.delete(50, uid_kind="collector")
    tenant.look(*range(11))
    tenant.delete(5, 6)  # so six of the twelve may go, each once
    with pytest.raises(NexthinkInputError, match=r"listed 12, of which 6 were to be deleted"):
        tenant.look(7)
    assert counts(tenant.look(7, 8))["gone"] == 6


def test_reconcile_other_kind_of_uid_is_not_compared(tenant: Tenant) -> None:
    tenant.delete(1, uid_kind="collector")
    with pytest.raises(NexthinkInputError, match="lists the uid of the device, but 1 devices"):
        tenant.look()
    tenant.delete(2, uid_kind="device")
    assert counts(tenant.look()) == {"requested": 1, "gone": 1, "not_compared": 1}
    assert tenant.presence() == [None, "GONE"]


@pytest.mark.parametrize(("of_list", "of_query"), [(None, "device.uid"), ("device", "uid"), ("collector", "uid")])
def test_reconcile_kind_of_uid_that_is_perhaps_the_other_one_is_not_compared(
    tenant: Tenant, of_list: str | None, of_query: str, caplog: pytest.LogCaptureFixture
) -> None:
    tenant.delete(1, 2, uid_kind=of_list)
    assert counts(tenant.look(uid=of_query)) == {"not_compared": 2}
    assert "2 deletions were not compared: #all_devices, or the list" in caplog.text
    assert "Keep the name of the column in both: device.uid" in caplog.text
    caplog.clear()
    assert counts(tenant.look(uid=of_query, uids=[uid_of(1)])) == {"not_compared": 1}
    assert tenant.presence() == [None, None]
    assert counts(tenant.look(2, uid=of_query, uids=[uid_of(1)])) == {"requested": 1, "gone": 1}
    assert counts(tenant.look(2, uid=of_query)) == {"requested": 2, "gone": 1, "still_present": 1}


def test_reconcile_run_of_an_unknown_kind_of_uid_keeps_the_kind_of_a_look_that_finds_one(tenant: Tenant) -> None:
    tenant.delete(1, 2, uid_kind=None)
    tenant.delete(3, uid_kind=None)
    tenant.look(1, days=2)
    assert counts(tenant.look()) == {"requested": 2, "gone": 2, "not_compared": 1}
    assert proofs(tenant) == [("device", "strong", uid_of(1), 2.0)]
    with tenant.ledger.database.transaction() as connection:
        assert list(connection.execute(select(schema.runs.c.uid_kind).order_by(schema.runs.c.id)).scalars()) == [
            "device",
            None,
        ]
    with pytest.raises(NexthinkInputError, match="lists the uid of the collector, but 2 devices"):
        tenant.look(uid="device.collector.uid")


def test_reconcile_unknown_kind_of_uid_that_only_an_unknown_look_has_found_is_not_compared(on_sqlite: Tenant) -> None:
    on_sqlite.delete(1, 2, uid_kind=None)
    on_sqlite.look(1, uid="uid")
    assert counts(on_sqlite.look()) == {"not_compared": 2}


def test_reconcile_records_the_look(tenant: Tenant) -> None:
    tenant.delete(1, 2)
    tenant.look(1)
    with tenant.ledger.database.transaction() as connection:
        (look,) = connection.execute(select(schema.looks)).all()
    assert tuple(look)[1:] == (tenant.time.now(), "#all_devices", "device", 2, 1, 1, 0)


def test_reconcile_unchanged_rows_are_not_written(on_sqlite: Tenant) -> None:
    on_sqlite.delete(*range(100))
    on_sqlite.look(*range(10))
    written: list[str] = []
    event.listen(
        on_sqlite.ledger.database._engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: written.append(statement),
    )
    on_sqlite.look(*range(10))
    assert sum("nexthink_deletions SET" in statement for statement in written) == 1  # the ten that were seen again


def test_reconcile_in_pages_compares_every_row(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "_PAGE_ROWS", 3)
    tenant.delete(*range(7))
    tenant.delete(*range(7, 13))
    tenant.delete()
    assert counts(tenant.look(*range(0, 13, 2))) == {"requested": 13, "gone": 6, "still_present": 7}
    assert tenant.presence() == ["STILL_PRESENT", "GONE"] * 6 + ["STILL_PRESENT"]


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_reconcile_of_a_year_follows_the_rules(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Deletions, looks and devices that come back, against a plain model of the rules."""
    time = FakeTime()
    # The model: what became of the latest deletion of each device.
    state: dict[int, str] = {}
    seats: set[int] = set()  # the devices that hold one
    went = returned = 0
    past: list[dict[str, Any]] = []
    with new_ledger("sqlite", tmp_path_factory.mktemp("ledger"), time.clock()) as ledger:
        tenant = Tenant(ledger, time)
        for _ in range(data.draw(st.integers(1, 25))):
            if data.draw(st.booleans()):
                asked = data.draw(st.sets(st.integers(0, 5)))
                tenant.delete(*sorted(asked))
                state |= dict.fromkeys(asked, "OPEN")
                continue
            there = data.draw(st.sets(st.integers(0, 5)))
            result = tenant.look(*sorted(there), *range(900, 910))
            for number, was in state.items():
                if number in there:
                    state[number] = "RETURNED" if was in ("GONE", "RETURNED") else "OPEN"
                else:
                    state[number] = "GONE"
            went += len(state.keys() - there - seats)
            returned += len(seats & there)
            seats = state.keys() - there
            assert counts(result).get("gone", 0) == list(state.values()).count("GONE")
            assert counts(result).get("returned", 0) == list(state.values()).count("RETURNED")
            assert counts(result).get("requested", 0) == len(state)
            assert (result.summary["seats_won"], result.summary["seats_returned"]) == (went, returned)
            assert result.summary["net"] == len(seats)
            assert result.summary["by_week"][: len(past)] == past
            past = result.summary["by_week"]
            time.seconds += 7 * 86400
