"""Filters: the same result for DataFrames and records; if in doubt, a device is kept."""

from __future__ import annotations

import copy
import math
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for, still_stale

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
UIDS = [f"0fbd5a5c-0000-4000-8000-{number:012}" for number in range(9)]


def fleet(*devices: tuple[str, Any]) -> list[dict[str, Any]]:
    """Devices of (name, days unseen), with uids in order."""
    return [
        {"device.uid": uid, "device.name": name, "device.days_since_last_seen": days}
        for uid, (name, days) in zip(UIDS, devices, strict=False)
    ]


def aged(*ages: Any, column: str = "days_since_last_seen") -> list[dict[str, Any]]:
    return [{"uid": UIDS[0], "name": "PC", column: age} for age in ages]


def ages_of(rows: list[dict[str, Any]], column: str = "days_since_last_seen") -> list[Any]:
    return [row[column] for row in rows]


def test_not_seen_for_age_at_or_above_the_limit_is_stale() -> None:
    age = not_seen_for(aged("89", 90, "90.0", 91.5, 0, Decimal(400), np.int64(90)), 90)
    assert ages_of(age.stale) == [90, "90.0", 91.5, Decimal(400), np.int64(90)]
    assert ages_of(age.recent) == ["89", 0]
    assert age.unknown == []


@pytest.mark.parametrize("days", [90, 90.0, Decimal(90), np.int64(90), np.float32(90)])
def test_not_seen_for_days_of_every_kind_of_number_are_read(days: Any) -> None:
    assert ages_of(not_seen_for(aged(89, 90), days).stale) == [90]


@pytest.mark.parametrize(
    "unknown",
    [
        None,
        "",
        " ",
        "never",
        math.nan,
        math.inf,
        "inf",
        -1,
        "-1",
        True,
        pd.NA,
        pd.NaT,
        [],
        20260101,
        1764000000,
        "1764000000",
    ],
)
def test_not_seen_for_unreadable_age_is_unknown_and_never_stale(unknown: Any) -> None:
    age = not_seen_for(aged(unknown, 100), 90)
    assert age.unknown == aged(unknown)
    assert age.stale == aged(100)
    assert age.recent == []


def test_not_seen_for_times_count_back_from_now() -> None:
    column = "Last Seen"
    times = [
        (NOW - timedelta(days=90)).isoformat(),
        NOW - timedelta(days=90, seconds=-1),
        pd.Timestamp(NOW - timedelta(days=200)).tz_convert("Asia/Tokyo"),
        "2026-06-02T12:00:00Z",  # the clock of the server is ahead
        "1970-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:00",
        None,
    ]
    age = not_seen_for(aged(*times, column=column), 90, now=NOW)
    assert ages_of(age.stale, column) == [times[0], times[2]]
    assert ages_of(age.recent, column) == [times[1], times[3]]
    assert ages_of(age.unknown, column) == [times[4], times[5], times[6]]


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        (aged("2026-01-01T00:00:00", column="last_seen"), {"now": NOW}, "has no time zone"),
        (aged("2026-01-01", column="last_seen"), {"now": NOW}, "has no time zone"),
        (aged(NOW.date(), column="last_seen"), {"now": NOW}, "a date without a time"),
        (aged(NOW, column="last_seen"), {}, "need now="),
        (aged(NOW, column="last_seen"), {"now": datetime(2026, 1, 1)}, "need now="),  # noqa: DTZ001
        (aged(1, column="age"), {}, "no column for the age.*'uid', 'name', 'age'.*age_column"),
        (aged(1), {"age_column": "seen"}, "no column 'seen'"),
        (aged(1), {"days": -1}, "days is -1"),
        (aged(1), {"days": True}, "days is True"),
        (aged(1), {"days": "90"}, "days is '90'"),
        (aged(1), {"days": math.nan}, "days is nan"),
        (aged(1), {"days": Decimal("sNaN")}, "days is Decimal"),
        (aged(1), {"days": Decimal(-1)}, "days is Decimal"),
        (aged(1), {"days": 1e12}, "days is 1000000000000.0"),
    ],
)
def test_not_seen_for_ambiguous_age_is_an_error(rows: list[dict[str, Any]], options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        not_seen_for(rows, **{"days": 90, **options})


def test_not_seen_for_days_take_precedence_over_times_unless_a_column_is_named() -> None:
    rows = [{**row, "last_seen": "2020-01-01T00:00:00", "seen": 1} for row in aged(100)]
    assert not_seen_for(rows, 90).stale == rows
    assert not_seen_for(rows, 90, age_column="SEEN").recent == rows


PLATFORM = "device.operating_system.platform"


def fleet_of_kinds(*devices: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Devices of (kind, days unseen)."""
    return [{"uid": UIDS[0], "name": "PC", PLATFORM: kind, "days_since_last_seen": days} for kind, days in devices]


def kinds_of(rows: Any) -> list[tuple[Any, Any]]:
    return [(row[PLATFORM], row["days_since_last_seen"]) for row in rows]


def test_not_seen_for_days_by_kind_hold_each_for_their_kind() -> None:
    rows = fleet_of_kinds(
        (" WINDOWS ", 90), ("Windows", 89), ("macOS", 119), ("macOS", "120"), ("Linux", 179), ("", 180)
    )
    age = not_seen_for(rows, {"windows": 90, "macos": 120, "*": 180}, by=PLATFORM)
    assert kinds_of(age.stale) == [(" WINDOWS ", 90), ("macOS", "120"), ("", 180)]
    assert kinds_of(age.recent) == [("Windows", 89), ("macOS", 119), ("Linux", 179)]
    assert age.unknown == []


def test_not_seen_for_kind_that_is_not_listed_is_unknown_without_the_others() -> None:
    rows = fleet_of_kinds(("Linux", 400), ("windows", 400), (None, 400), ("windows", None))
    age = not_seen_for(rows, {"Windows": 90}, by=PLATFORM)
    assert kinds_of(age.stale) == [("windows", 400)]
    assert kinds_of(age.unknown) == [("Linux", 400), (None, 400), ("windows", None)]


@pytest.mark.parametrize("missing", [None, "", " ", math.nan, pd.NA, 7, ["windows"]])
def test_not_seen_for_kind_that_is_missing_is_stale_only_at_the_largest_number(missing: Any) -> None:
    rows = fleet_of_kinds((missing, 364), (missing, 365), ("Linux", 180))
    age = not_seen_for(rows, {"server": 365, "*": 180}, by=PLATFORM)
    assert age.stale == rows[1:]
    assert age.recent == rows[:1]


@pytest.mark.parametrize("form", [list, iter, pd.DataFrame, pl.DataFrame, pa.Table.from_pylist])
def test_not_seen_for_days_by_kind_are_found_in_every_form(form: Any) -> None:
    rows = fleet_of_kinds(("Windows", 100), ("macOS", 100), ("ChromeOS", 100), (None, None))
    age = not_seen_for(form(rows), {"windows": 90, "macos": 120}, by="Device operating_system PLATFORM")
    assert [len(part) for part in age] == [1, 1, 2]


@pytest.mark.parametrize(
    ("days", "by", "says"),
    [
        ({}, PLATFORM, "an empty mapping"),
        ({"windows": 90}, None, "which column has the kind.*Set by"),
        (90, PLATFORM, "days is one number"),
        ({"windows": -1}, PLATFORM, r"days\['windows'\] is -1"),
        ({"windows": "90"}, PLATFORM, r"days\['windows'\] is '90'"),
        ({"windows": None}, PLATFORM, r"days\['windows'\] is None"),
        ({"windows": True}, PLATFORM, r"days\['windows'\] is True"),
        ({"*": math.nan}, PLATFORM, r"days\['\*'\] is nan"),
        ({"windows": 90, " Windows": 120}, PLATFORM, "the kind ' Windows' twice"),
        ({"*": 90, " * ": 120}, PLATFORM, "twice"),
        ({"": 90}, PLATFORM, "'' as a kind"),
        ({None: 90}, PLATFORM, "None as a kind"),
        ({"windows": 90}, "os", r"no column 'os' \(by\)"),
        ({"windows": 90}, " ", "by is ' '"),
        ({"windows": 90}, 5, "by is 5"),
    ],
)
def test_not_seen_for_days_by_kind_that_cannot_take_effect_are_an_error(days: Any, by: Any, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        not_seen_for(fleet_of_kinds(("windows", 100)), days, by=by)


def test_not_seen_for_days_by_kind_in_a_list_without_columns_are_an_error() -> None:
    numbers: Any = [100, 200]
    with pytest.raises(NexthinkInputError, match="list of single values"):
        not_seen_for(numbers, {"windows": 90}, by="platform")
    assert not_seen_for([], {"windows": 90}, by="platform").stale == []


kind_names = st.sampled_from(["windows", "Windows ", "MACOS", "macos", "linux", "", " ", None, 7])


@given(
    st.lists(st.tuples(kind_names, st.one_of(st.none(), st.integers(-2, 30))), max_size=12),
    st.dictionaries(st.sampled_from(["Windows", " macOS", "*"]), st.integers(0, 25), min_size=1),
)
def test_not_seen_for_days_by_kind_are_those_of_a_plain_model(
    devices: list[tuple[Any, Any]], days: dict[str, int]
) -> None:
    plain = {kind.strip().lower(): number for kind, number in days.items()}

    def model(kind: Any, age: int | None) -> str:
        if age is None or age < 0:
            return "unknown"
        if isinstance(kind, str) and kind.strip():
            number = plain.get(kind.strip().lower(), plain.get("*"))
        else:
            number = max(plain.values()) if "*" in plain else None
        if number is None:
            return "unknown"
        return "stale" if age >= number else "recent"

    rows = [{**row, "at": at} for at, row in enumerate(fleet_of_kinds(*devices))]
    expected = [model(*device) for device in devices]
    for form in (rows, pd.DataFrame(rows, dtype=object) if rows else rows):
        age: Any = not_seen_for(form, days, by=PLATFORM)
        for group in age._fields:
            part = getattr(age, group)
            places = [row["at"] for row in part] if isinstance(part, list) else [int(at) for at in part["at"]]
            assert places == [at for at, each in enumerate(expected) if each == group]


def test_newest_of_each_name_splits_newest_older_and_single() -> None:
    rows = fleet(("twin", "300"), ("twin", "100"), ("single", "500"), ("twin", "200"), ("Twin", "400"))
    names = newest_of_each_name(rows)
    assert names.newest == [rows[1]]
    assert names.older == [rows[0], rows[3]]
    assert names.single == [rows[2], rows[4]]


def test_newest_of_each_name_equal_or_unknown_ages_are_never_older() -> None:
    rows = fleet(("tie", 100), ("tie", 100), ("half", None), ("half", 200), ("", 1), ("", 2), (None, 3), (7, 4), (7, 5))  # type: ignore[arg-type]
    names = newest_of_each_name(rows)
    assert names.older == []
    assert names.newest == rows[:4]
    assert names.single == rows[4:]


def test_newest_of_each_name_times_are_compared_across_time_zones() -> None:
    times = ["2026-01-01T00:00:00Z", "2026-01-01T00:30:00+01:00", "0001-01-01T00:00:00Z"]
    rows = aged(*times, column="last_seen")
    assert newest_of_each_name(rows).older == [rows[1]]
    assert newest_of_each_name(rows).newest == [rows[0], rows[2]]


def test_anti_join_by_uid_and_by_name_subtracts_matches() -> None:
    rows = fleet(("PC-1", 1), ("pc-2", 1), ("Büro", 1), (None, 1))  # type: ignore[arg-type]
    assert anti_join(rows, [UIDS[0].upper().replace("-", ""), UUID(UIDS[2]), None, ""]) == [rows[1], rows[3]]
    assert anti_join(rows, [{"UID": UIDS[1]}, {"UID": None}]) == [rows[0], rows[2], rows[3]]
    assert anti_join(rows, {"PC-2 ", "BÜRO"}, on="name") == [rows[0], rows[3]]
    assert anti_join(rows, pd.DataFrame({"Device Name": ["pc-1", None]}), on="name") == rows[1:]
    assert anti_join(rows, ["\ufeffＰＣ\u20111"], on="name") == rows[1:]
    assert anti_join(rows, []) == rows
    assert anti_join([], rows) == []


@pytest.mark.parametrize("others", [None, 7, "PC-1", b"PC-1", {"uid": ["a"]}])
def test_filters_other_list_that_is_not_a_list_is_an_error(others: object) -> None:
    with pytest.raises(NexthinkInputError, match="where a list is needed"):
        anti_join(fleet(("PC", 1)), others)
    with pytest.raises(NexthinkInputError, match="where a list is needed"):
        still_stale(fleet(("PC", 1)), others)


class Asset(NamedTuple):
    uid: str
    owner: str


def sqlite_rows(uids: list[str]) -> Any:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    database.execute("CREATE TABLE assets (device_uid TEXT, owner TEXT)")
    database.executemany("INSERT INTO assets VALUES (?, 'x')", [(uid,) for uid in uids])
    return database.execute("SELECT * FROM assets").fetchall()


@pytest.mark.parametrize(
    "shape",
    [
        list,
        set,
        tuple,
        lambda uids: [(uid,) for uid in uids],
        lambda uids: [[uid] for uid in uids],
        lambda uids: [{"uid": uid, "status": "in use"} for uid in uids],
        lambda uids: [Asset(uid, "x") for uid in uids],
        sqlite_rows,
        lambda uids: pd.DataFrame({"Device UID": uids}),
        lambda uids: pl.DataFrame({"device.uid": uids, "name": uids}),
        lambda uids: pa.table({"uid": uids}),
        lambda uids: (uid for uid in uids),
    ],
)
def test_anti_join_other_list_in_every_form_is_subtracted(shape: Any) -> None:
    rows = fleet(("A", 1), ("B", 1), ("C", 1))
    assert anti_join(rows, shape([UIDS[0].upper(), UIDS[2]])) == [rows[1]]


@pytest.mark.parametrize(
    ("others", "on", "says"),
    [
        (["no uid"], "uid", "which is not a uid"),
        ([f"{{{UIDS[0]}}}"], "uid", "which is not a uid"),
        ([UIDS[0].encode()], "uid", "which is not a uid"),
        ([123], "name", "which is not a name"),
        ([(UIDS[0], "PC-1")], "uid", "have several values and no names"),
        ([{"device.collector.uid": UIDS[0]}], "uid", "'device.uid' and in 'device.collector.uid'"),
        (pd.DataFrame({"serial": ["x"]}), "uid", "no column for the uid"),
    ],
)
def test_anti_join_values_that_cannot_be_compared_are_an_error(others: object, on: Any, says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        anti_join(fleet(("PC-1", 1)), others, on=on)


@pytest.mark.parametrize("others", [[None], ["", None], [{"uid": None}], pd.DataFrame({"uid": [None, None]})])
def test_anti_join_rows_without_any_uid_are_an_error(others: object) -> None:
    with pytest.raises(NexthinkInputError, match="no uid in any of them"):
        anti_join(fleet(("PC-1", 1)), others)


def test_still_stale_two_kinds_of_uid_are_an_error() -> None:
    look = [{"device.collector.uid": UIDS[0], "name": "PC"}]
    with pytest.raises(NexthinkInputError, match="different kinds of uid"):
        still_stale(fleet(("PC", 1)), look)
    # An outcome table does not say which kind it has; the Dag has to know.
    assert still_stale([{"uid": UIDS[0], "name": "PC"}], look) == [{"uid": UIDS[0], "name": "PC"}]


def test_filters_polars_frame_stays_a_polars_frame() -> None:
    frame = pl.DataFrame(fleet(("A", 200), ("A", 100), ("C", 1)))
    assert not_seen_for(frame, 90).stale.equals(frame[:2])
    assert newest_of_each_name(frame).older.equals(frame[:1])
    assert anti_join(frame, [UIDS[0]]).equals(frame[1:])
    assert still_stale(frame, frame[2:]).equals(frame[2:])


def test_not_seen_for_empty_frame_keeps_its_columns() -> None:
    frames: list[Any] = [pd.DataFrame(fleet(("A", 1)))[:0], pl.DataFrame(fleet(("A", 1)))[:0]]
    for frame in frames:
        stale = not_seen_for(frame, 90).stale
        assert list(stale.columns) == list(frame.columns)
    assert len(not_seen_for(pd.DataFrame(), 90).stale) == 0


def test_filters_days_and_times_in_one_column_are_an_error() -> None:
    rows: list[dict[str, Any]] = [{"name": "A", "last_seen": "2026"}, {"name": "B", "last_seen": 1_700_000_000}]
    assert not_seen_for(rows, 90, now=NOW).unknown == rows
    mixed: list[dict[str, Any]] = [{"name": "A", "age": "2026-01-01T00:00:00+00:00"}, {"name": "A", "age": "5"}]
    with pytest.raises(NexthinkInputError, match="both days and times"):
        not_seen_for(mixed, 90, age_column="age", now=NOW)
    with pytest.raises(NexthinkInputError, match="both days and times"):
        newest_of_each_name(mixed, age_column="age")


def test_still_stale_keeps_devices_found_again_with_the_same_name() -> None:
    approved = fleet(("PC-1", 1), ("PC-2", 1), ("PC-3", 1), (None, 1))  # type: ignore[arg-type]
    look = [
        {"uid": UIDS[3], "name": None},
        {"uid": UIDS[2], "name": "PC-3-renamed"},
        {"uid": UIDS[0].upper(), "name": "PC-1"},
        {"uid": UIDS[8], "name": "PC-2"},
    ]
    assert still_stale(approved, look) == approved[:1]
    assert still_stale(approved, pd.DataFrame(look)) == approved[:1]
    assert still_stale(approved, []) == []


names = st.sampled_from(["A", "B", "b", "NA", "", "00123", None])
ages = st.one_of(st.none(), st.integers(-5, 400), st.sampled_from(["", "90", "1E2", "x"]))
devices = st.lists(
    st.fixed_dictionaries({"uid": st.sampled_from([*UIDS, "x", None]), "name": names, "days_since_last_seen": ages}),
    max_size=12,
)


@given(devices, st.lists(st.fixed_dictionaries({"uid": st.sampled_from([*UIDS, "", None]), "name": names}), max_size=9))
def test_filters_records_and_dataframes_give_the_same_rows_and_lose_none(
    rows: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    numbered = [{**row, "at": at} for at, row in enumerate(rows)]
    others = [*others, {"uid": UIDS[0], "name": "B"}]  # one that can be compared, or subtracting is an error
    before = copy.deepcopy((numbered, others))
    frame = pd.DataFrame(numbered, index=[0] * len(rows), dtype=object)

    def places(found: Any) -> list[int]:
        return [int(at) for at in found["at"]] if len(found) else []

    for split, of_frame in (
        (not_seen_for(numbered, 90), not_seen_for(frame, 90)),
        (newest_of_each_name(numbered), newest_of_each_name(frame)),
    ):
        parts = [[row["at"] for row in part] for part in split]
        assert sorted(at for part in parts for at in part) == list(range(len(rows)))
        assert all(part == sorted(part) for part in parts)
        assert [places(part) for part in of_frame] == parts
    for kept, kept_of_frame in (
        (anti_join(numbered, others), anti_join(frame, others)),
        (anti_join(numbered, others, on="name"), anti_join(frame, others, on="name")),
        (still_stale(numbered, others), still_stale(frame, others)),
    ):
        assert places(kept_of_frame) == [row["at"] for row in kept]
    assert (numbered, others) == before


def test_not_seen_for_two_columns_of_days_are_an_error() -> None:
    row = {"uid": UIDS[0], "name": "PC", "days_since_last_seen": "1", "device.days_since_last_seen": "200"}
    with pytest.raises(NexthinkInputError, match="age_column"):
        not_seen_for([{**row, "last_seen": "2020-01-01T00:00:00Z"}], 90, now=NOW)


def test_anti_join_of_uids_by_name_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="uids, not names"):
        anti_join(fleet(("PC-1", 1)), [UIDS[0], UIDS[1].upper()], on="name")


def test_anti_join_on_another_word_is_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="'uid' or 'name'"):
        anti_join(fleet(("PC-1", 1)), [], on="Name")  # type: ignore[arg-type]
