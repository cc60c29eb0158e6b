"""Are the devices gone? Every row keeps its place, and only a device that is not there is GONE."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.removal import RemovalCheck
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Status


def uid_of(number: int) -> str:
    return f"0fbd5a5c-0000-4000-8000-{number:012}"


def row(number: int, status: str | None = None) -> dict[str, Any]:
    """Return a row of a plain list; with a status, of an outcome table."""
    plain = {"uid": uid_of(number), "name": f"PC-{number}"}
    return plain if status is None else {**plain, "status": status, "request_id": None}


def check(rows: Any) -> RemovalCheck:
    return RemovalCheck(read_devices(rows))


def statuses(of: RemovalCheck) -> list[str]:
    return [each["status"] for each in of.table()]


def test_removal_check_scheduled_devices_are_gone_or_present_and_others_keep_their_status() -> None:
    words = ["SCHEDULED", "SCHEDULED", "EXCLUDED", "INVALID", "FAILED", "NOT_SENT", "PLANNED", "DUPLICATE", "REJECTED"]
    of = check([row(number, word) for number, word in enumerate(words)])
    assert of.expected == 2
    assert not of.update({uid_of(1), uid_of(2)})
    assert statuses(of) == ["GONE", "STILL_PRESENT", *words[2:]]
    assert of.describe() == f"1 of 2 devices are still in Nexthink: PC-1 ({uid_of(1)})."
    assert of.update({uid_of(2)})
    assert statuses(of)[:3] == ["GONE", "GONE", "EXCLUDED"]


def test_removal_check_unknown_devices_are_checked_but_not_awaited() -> None:
    of = check([row(1, "SCHEDULED"), row(2, "UNKNOWN"), row(3, "UNKNOWN")])
    assert of.expected == 1
    assert of.update({uid_of(2)})
    assert statuses(of) == ["GONE", "STILL_PRESENT", "GONE"]


def test_removal_check_plain_list_expects_the_devices_that_could_be_sent() -> None:
    rows = [row(1), {"uid": uid_of(2).upper(), "name": "PC-2"}, row(1), {"uid": "x", "name": "y"}, {"uid": None}]
    of = check(rows)
    assert of.expected == 2
    assert not of.update({uid_of(2)})
    assert statuses(of) == ["GONE", "STILL_PRESENT", "DUPLICATE", "INVALID", "REJECTED"]


def test_removal_check_takes_its_own_table_again() -> None:
    first = check([row(1, "SCHEDULED"), row(2, "SCHEDULED"), row(3, "SCHEDULED")])
    first.update({uid_of(1), uid_of(3)})
    of = check(first.table())
    assert of.expected == 3
    assert of.update(set())
    assert statuses(of) == ["GONE"] * 3


def test_removal_check_table_keeps_devices_that_are_not_awaited() -> None:
    first = check([row(1, "SCHEDULED"), row(2, "EXCLUDED"), row(3, "DUPLICATE"), row(4, "FAILED")])
    first.update({uid_of(1), uid_of(2)})
    of = check(first.table())
    assert of.expected == 1
    assert of.update({uid_of(2)})
    assert statuses(of) == ["GONE", "EXCLUDED", "DUPLICATE", "FAILED"]


@pytest.mark.parametrize("word", ["DELETED", 7, ["SCHEDULED"]])
def test_removal_check_unknown_status_is_an_error(word: Any) -> None:
    with pytest.raises(NexthinkInputError, match="not a status of an outcome table"):
        check([row(1, "SCHEDULED"), {**row(2, "SCHEDULED"), "status": word}])


def test_describe_many_present_gives_their_number_and_the_first_names() -> None:
    of = check([row(number, "SCHEDULED") for number in range(8)])
    of.update({uid_of(number) for number in range(8)})
    assert of.describe().startswith("8 of 8 devices are still in Nexthink: PC-0 (")
    assert of.describe().endswith("PC-4 (0fbd5a5c-0000-4000-8000-000000000004) and 3 more.")
    assert of.counts() == {"STILL_PRESENT": 8}


def test_gone_with_name_present_counts_devices_of_the_same_name() -> None:
    of = check([row(1, "SCHEDULED"), row(2, "SCHEDULED"), row(3, "EXCLUDED")])
    of.update({uid_of(2)})
    assert of.gone_with_name_present({"PC-1", "PC-2", "PC-3"}) == 1


@pytest.mark.parametrize(
    "shape",
    [
        lambda rows: rows,
        pd.DataFrame,
        lambda rows: {key: [each[key] for each in rows] for key in rows[0]},
        lambda rows: [rows[:1], rows[1:]],
        lambda rows: "uid,name,status,request_id\n" + "".join(f"{r['uid']},{r['name']},{r['status']},\n" for r in rows),
    ],
    ids=["records", "DataFrame", "columns", "mapped", "CSV text"],
)
def test_removal_check_takes_an_outcome_table_in_every_form(shape: Any) -> None:
    of = check(shape([row(1, "SCHEDULED"), row(2, "EXCLUDED"), row(3, "SCHEDULED")]))
    assert not of.update({uid_of(3), uid_of(2)})
    assert statuses(of) == ["GONE", "EXCLUDED", "STILL_PRESENT"]


def test_removal_check_status_of_another_table_is_not_an_outcome() -> None:
    cmdb = [{**row(1), "status": "UNKNOWN"}, {**row(2), "status": "in use"}, {**row(3), "status": ["x"]}]
    of = check(cmdb)
    assert of.expected == 3


def test_removal_check_takes_lists_with_and_without_a_status_together() -> None:
    of = check([[row(1, "EXCLUDED")], [row(2)]])
    assert of.update(set())
    assert statuses(of) == ["EXCLUDED", "GONE"]


CELLS = st.sampled_from([*Status, "GONE", "STILL_PRESENT", "excluded", " Not sent", None, "", float("nan")])


@given(
    st.lists(st.tuples(st.integers(0, 9), CELLS), max_size=20),
    st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=3),
)
def test_removal_check_keeps_every_row_and_only_absent_devices_are_gone(
    rows: list[tuple[int, Any]], looks: list[set[int]]
) -> None:
    of = check([{**row(number), "status": cell, "request_id": None} for number, cell in rows])
    for present in looks:
        are_gone = of.update({uid_of(number) for number in present})
    table = of.table()
    assert [(each["uid"], each["name"]) for each in table] == [(uid_of(n), f"PC-{n}") for n, _ in rows]
    for (number, _), each in zip(rows, table, strict=True):
        assert each["status"] != ("GONE" if number in present else "STILL_PRESENT")
    assert sum(of.counts().values()) == len(rows)
    if rows:
        assert are_gone == (not of.remaining)
