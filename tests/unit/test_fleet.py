"""A look at the fleet: a query counts it or lists it; what says neither is an error, never a number."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.nql import NqlRows, NqlStream
from airflow_provider_nexthink.deletion.options import read_whole_number
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkExportError, NexthinkInputError
from airflow_provider_nexthink.fleet import FleetLook, count_fleet, read_fleet

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(9)]


def look(*rows: dict[str, str], columns: list[str] | None = None, truncated: bool = False) -> FleetLook:
    result = NqlRows(list(rows), columns or [*rows[0]], truncated)
    return read_fleet(result, query_id="#fleet", looked_at=NOW)


def count(*rows: dict[str, str], columns: list[str] | None = None) -> int:
    stream = NqlStream(columns or [*rows[0]], iter([list(row.values()) for row in rows]))
    return count_fleet(stream, "#fleet").devices("#fleet")


@pytest.mark.parametrize("number", ["5000", " 5000 ", "5000.0", "1"])
def test_read_fleet_one_number_is_the_count(number: str) -> None:
    assert look({"number_of_devices": number}) == FleetLook(int(float(number)), NOW)


def test_read_fleet_one_row_with_one_number_is_the_count() -> None:
    assert look({"tenant": "acme", "count": "12", "date": "2026-06-01", "note": ""}).count == 12


def test_read_fleet_list_of_devices_counts_each_uid_once() -> None:
    found = look(
        {"device.uid": UIDS[0], "device.days_since_last_seen": "3"},
        {"device.uid": UIDS[0].upper(), "device.days_since_last_seen": "3"},
        {"device.uid": UIDS[1], "device.days_since_last_seen": ""},
    )
    assert found == FleetLook(2, NOW, {UIDS[0]: 3.0, UIDS[1]: None}, "device")


def test_read_fleet_list_without_ages_and_with_times_is_read() -> None:
    assert look({"uid": UIDS[0]}) == FleetLook(1, NOW, {UIDS[0]: None}, None)
    found = look({"device.collector.uid": UIDS[0], "last_seen": "2026-05-30T00:00:00Z"})
    assert found == FleetLook(1, NOW, {UIDS[0]: 3.0}, "collector")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"count": "0"}, "counts 0 devices"),
        ({"count": "-5"}, "count=-5, which is no number of devices"),
        ({"count": "12.5"}, "count=12.5, which is no number of devices"),
        ({"count": "inf"}, "count=inf, which is no number of devices"),
        ({"count": "1e3"}, "count=1e3, which is no number of devices"),
        ({"count": "many"}, "gives no number, not one number"),
        ({"count": ""}, "gives no number"),
        ({"count": "nan"}, "gives no number"),
        ({"count": "5,000"}, "gives no number"),
        ({"windows": "5000", "macos": "300"}, "windows=5000, macos=300, not one number"),
        ({"uid": "no uid"}, "values that are no uid"),
        ({"device.uid": UIDS[0], "device.collector.uid": UIDS[1]}, "'device.uid' and 'device.collector.uid'"),
    ],
)
def test_read_fleet_result_that_says_neither_is_an_error(row: dict[str, str], says: str) -> None:
    for read in (look, count):
        with pytest.raises(NexthinkError, match=says):
            read(row)


def test_read_fleet_nothing_several_rows_or_a_part_is_an_error() -> None:
    for read in (look, count):
        for column in ("device.uid", "count"):
            with pytest.raises(NexthinkExportError, match="gives no rows, so the size of the fleet is not known"):
                read(columns=[column])
        with pytest.raises(NexthinkInputError, match="gives 2 rows without a uid"):
            read({"count": "12"}, {"count": "13"})
    with pytest.raises(NexthinkInputError, match="cut off"):
        look({"uid": UIDS[0]}, truncated=True)
    with pytest.raises(NexthinkInputError, match="cut off"):
        look({"count": "12"}, truncated=True)


def test_count_fleet_counts_as_read_fleet_does() -> None:
    for rows in (
        [{"count": "12"}],
        [{"tenant": "acme", "count": "12", "date": "2026-06-01", "note": ""}],
        [{"uid": uid, "name": "PC"} for uid in (UIDS[0], UIDS[0].upper(), UIDS[1], UIDS[1].replace("-", ""))],
    ):
        assert count(*rows) == look(*rows).count


@given(st.lists(st.uuids(), min_size=1))
def test_count_fleet_counts_each_uid_once(uids: list[UUID]) -> None:
    assert count(*({"uid": str(uid)} for uid in [*uids, *uids])) == len(set(uids))


def test_count_fleet_takes_16_bytes_for_each_device() -> None:
    devices = 200_000
    rng = random.Random(1)
    stream = NqlStream(["uid"], ([str(UUID(int=rng.getrandbits(128), version=4))] for _ in range(devices)))
    tracemalloc.start()
    try:
        assert count_fleet(stream, "#fleet").devices("#fleet") == devices
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * devices


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=12), min_size=1, max_size=3))
def test_read_fleet_any_row_is_a_count_of_one_or_more_or_an_error(row: dict[str, str]) -> None:
    try:
        found = look(row)
    except (NexthinkInputError, NexthinkExportError):
        return
    assert found.count >= 1
    assert found.days_unseen is not None or found.count in map(read_whole_number, row.values())
