"""An outcome table is a safe next list, in every form: its decided rows keep their statuses."""

from __future__ import annotations

import collections
import csv
import enum
import io
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan, check_guards, make_plan
from airflow_provider_nexthink.devices.formats import write_file
from airflow_provider_nexthink.devices.reader import DeviceRows, pick_rows, read_devices
from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS, KEPT, Status

Table = dict[str, list[Any]]

A, B, C, D = (f"0fbd5a5c-0000-4000-8000-00000000000{letter}" for letter in "abcd")
EXCLUDED, DUPLICATE, REJECTED, INVALID = Status.EXCLUDED, Status.DUPLICATE, Status.REJECTED, Status.INVALID


def records(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


def as_csv(table: Table, delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


def as_sqlite_rows(table: Table) -> Any:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    columns = ", ".join(f'"{column}"' for column in table)
    database.execute(f"CREATE TABLE d ({columns})")
    marks = ", ".join("?" * len(table))
    database.executemany(f"INSERT INTO d VALUES ({marks})", zip(*table.values(), strict=True))
    try:
        return database.execute(f"SELECT {columns} FROM d ORDER BY rowid").fetchall()
    finally:
        database.close()


def as_named_tuples(table: Table) -> Any:
    row = collections.namedtuple("row", [f"c{at}" for at in range(len(table))])  # type: ignore[misc]
    row._fields = tuple(table)  # type: ignore[assignment]  # drivers allow names that are not Python identifiers
    return [row(*cells) for cells in zip(*table.values(), strict=True)]


def halves(table: Table) -> list[Table]:
    middle = len(next(iter(table.values()))) // 2
    parts = ({name: cells[part] for name, cells in table.items()} for part in (slice(middle), slice(middle, None)))
    return [part for part in parts if part[next(iter(table))]]


def in_file(suffix: str) -> Callable[[Table, Path], Any]:
    def write(table: Table, folder: Path) -> Any:
        path = folder / f"table{suffix}"
        if suffix == ".csv":
            path.write_text(as_csv(table), encoding="utf-8", newline="")
        elif suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, records(table))), encoding="utf-8")
        else:
            parquet.write_table(pa.table(table), path)
        return str(path)

    return write


FORMS: dict[str, Callable[[Table, Path], DeviceRows]] = {
    name: lambda table, folder, form=form: read_devices(form(table, folder))
    for name, form in {
        "records": lambda table, _: records(table),
        "generator": lambda table, _: iter(records(table)),
        "columns": lambda table, _: table,
        "columns of Series": lambda table, _: {name: pd.Series(cells, dtype=object) for name, cells in table.items()},
        "pandas": lambda table, _: pd.DataFrame(table, dtype=object),
        "pandas, inferred": lambda table, _: pd.DataFrame(table),
        "pandas category": lambda table, _: pd.DataFrame(table, dtype=object).astype("category"),
        "polars": lambda table, _: pl.DataFrame(table, strict=False),
        "arrow": lambda table, _: pa.table(table),
        "arrow structs": lambda table, _: pa.table(table).to_struct_array(),
        "named tuples": lambda table, _: as_named_tuples(table),
        "rows of sqlite3": lambda table, _: as_sqlite_rows(table),
        "JSON": lambda table, _: json.dumps(records(table)),
        "JSON of columns": lambda table, _: json.dumps(table, ensure_ascii=False),
        "JSON Lines": lambda table, _: "\n".join(map(json.dumps, records(table))),
        "CSV": lambda table, _: as_csv(table),
        "CSV with TABs": lambda table, _: as_csv(table, "\t"),
        "several lists": lambda table, _: [records(part) for part in halves(table)],
        "several DataFrames": lambda table, _: [pd.DataFrame(part, dtype=object) for part in halves(table)],
        "several column mappings": lambda table, _: halves(table),
        ".csv": in_file(".csv"),
        ".jsonl": in_file(".jsonl"),
        ".parquet": in_file(".parquet"),
    }.items()
} | {
    "tuples": lambda table, _: read_devices(list(zip(*table.values(), strict=True)), columns=list(table)),
    "cursor": lambda table, _: pick_rows(list(table), zip(*table.values(), strict=True), None, None),
}

SPELLINGS = ["status", "Status", "STATUS", " status ", "device.status", "Device Status", "sTaTuS_"]
COLUMN_SETS = {
    "whole": COLUMNS,
    "with reasons": ("uid", "name", "status", "reason"),
    "without reasons": ("name", "uid", "status"),
    "with request ids": ("request_id", "status", "name", "uid"),
}
UIDS = st.one_of(st.sampled_from([A, B, C, D, A.upper(), "x", "", None]), st.uuids().map(str))
NAMES = st.one_of(
    st.sampled_from(["PC-1", "VIP-1", "VIP-2", "", None, "PC\0", "00123"]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
PAIRS = st.lists(st.tuples(UIDS, NAMES), min_size=1, max_size=8)
AFRESH = st.sampled_from(["PLANNED", "PLANNED", "FAILED", "UNKNOWN", "NOT_SENT", "SCHEDULED", "GONE", "STILL_PRESENT"])


def plan_and_table(rows: list[tuple[Any, Any]], word: Callable[[], str] = lambda: "PLANNED") -> tuple[Plan, Table]:
    """Return a plan that excludes VIPs, and the outcome table of its dry run."""
    plan = make_plan(DeviceRows([row[0] for row in rows], [row[1] for row in rows], "uid", "name"), ["VIP-*", D])
    outcomes = Outcomes(plan)
    table = outcomes.columns()
    for position in plan.to_send:
        table["status"][position] = word()
        table["request_id"][position] = f"request-{position}"
    return plan, table


@pytest.mark.parametrize("form", FORMS)
@given(
    rows=PAIRS,
    data=st.data(),
    spelling=st.sampled_from(SPELLINGS),
    columns=st.sampled_from(sorted(COLUMN_SETS)),
    case=st.sampled_from([str, str.lower, str.title, lambda word: f" {word} "]),
)
def test_next_list_outcome_table_keeps_its_decided_rows(
    tmp_path_factory: pytest.TempPathFactory,
    form: str,
    rows: list[tuple[Any, Any]],
    data: st.DataObject,
    spelling: str,
    columns: str,
    case: Callable[[str], str],
) -> None:
    first, table = plan_and_table(rows, lambda: data.draw(AFRESH))
    chosen = {column: table[column] for column in COLUMN_SETS[columns]}
    chosen = {spelling if column == "status" else column: cells for column, cells in chosen.items()}
    chosen[spelling] = list(map(case, chosen[spelling]))
    again = make_plan(FORMS[form](chosen, tmp_path_factory.getbasetemp()))
    has_reasons = "reason" in COLUMN_SETS[columns]
    assert set(again.to_send) <= set(first.to_send)
    for position, status in enumerate(first.statuses):
        if status is not None:
            assert again.statuses[position] is status
            assert again.reasons[position] == (
                first.reasons[position] if has_reasons else f"the list has it as {status}"
            )
        elif has_reasons:
            assert again.statuses[position] is None
            assert (again.uids[position], again.names[position]) == (first.uids[position], first.names[position])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@given(rows=PAIRS)
def test_next_list_results_file_keeps_its_decided_rows(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[tuple[Any, Any]]
) -> None:
    first, table = plan_and_table(rows)
    path = tmp_path_factory.getbasetemp() / f"results{suffix}"
    with path.open("wb") as file:
        write_file(file, str(path), {**table, "status": [str(word) for word in table["status"]]})
    again = make_plan(read_devices(path))
    assert again.to_send == first.to_send
    assert (again.statuses, again.reasons) == (first.statuses, first.reasons)


def row(uid: str | None, name: str | None, status: Any, reason: str | None = None) -> dict[str, Any]:
    return {"uid": uid, "name": name, "status": status, "reason": reason, "request_id": None}


def test_check_guards_count_only_rows_planned_afresh() -> None:
    plan = make_plan(read_devices([row(A, "PC-1", "PLANNED"), row(B, "VIP-1", "EXCLUDED"), row(C, "PC-3", "FAILED")]))
    check_guards(len(plan.to_send), max_devices=2)
    with pytest.raises(NexthinkGuardError, match="2 devices"):
        check_guards(len(plan.to_send), max_devices=1)


def test_make_plan_rows_planned_afresh_meet_the_current_exclusions() -> None:
    plan = make_plan(read_devices([row(A, "PC-1", "PLANNED"), row(B, "VIP-1", "EXCLUDED")]), ["PC-*"])
    assert plan.statuses == [EXCLUDED, EXCLUDED]


def test_make_plan_duplicate_without_its_first_row_is_not_sent() -> None:
    plan = make_plan(read_devices([row(A, "PC-1", "DUPLICATE", "the same device"), row(B, "PC-2", "PLANNED")]))
    assert plan.statuses == [DUPLICATE, None]
    assert plan.reasons[0] == "the same device"


@pytest.mark.parametrize("word", ["EXCLUDED", "REJECTED", "INVALID"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("other", [row(A, "VIP-1", "PLANNED"), row(A, "other", "FAILED"), row(A, "VIP-1", None)])
def test_make_plan_device_kept_back_by_one_row_is_not_sent_by_another(
    word: str, is_first: bool, other: dict[str, Any]
) -> None:
    kept = row(A.upper(), "VIP-1", word, "because")
    rows = [kept, other] if is_first else [other, kept]
    plan = make_plan(read_devices([*rows, row(B, "PC-2", "PLANNED"), {**other, "status": "PLANNED"}]))
    assert plan.to_send == [2]
    assert plan.statuses[0] is plan.statuses[1] is Status(word)
    assert plan.statuses[3] is DUPLICATE
    assert plan.reasons[rows.index(kept)] == "because"
    assert plan.reasons[rows.index(other)] == f"another row of the list has this device as {word}: because"


def test_make_plan_device_kept_back_by_one_list_is_not_sent_by_another() -> None:
    lists = [[row(A, "PC-1", "EXCLUDED", "VIP")], [{"uid": A, "name": "PC-1"}, {"uid": B, "name": "PC-2"}]]
    for joined in (lists, lists[::-1]):
        plan = make_plan(read_devices(joined))
        assert [plan.uids[at] for at in plan.to_send] == [B]


def test_make_plan_duplicate_with_another_name_is_rejected() -> None:
    plan = make_plan(read_devices([row(A, "PC-1", "PLANNED"), row(A, "PC-2", "DUPLICATE")]))
    assert plan.statuses == [REJECTED, DUPLICATE]


def test_make_plan_row_with_a_refused_name_keeps_no_other_row_back() -> None:
    first, table = plan_and_table([(A, None), (A, "PC-1"), (B, "PC\0"), (B, "PC-2")])
    assert first.to_send == [1, 3]
    assert make_plan(read_devices(table)).to_send == [1, 3]


WORDS = ["DELETED", "active", "EXCLUDED?no", "EXCLUDE", "EXCLUDED, REJECTED", "-", 0, True, ["EXCLUDED"], b"EXCLUDED"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_read_devices_unknown_status_in_an_outcome_table_is_an_error(word: Any, spelling: str) -> None:
    rows = [row(A, "PC-1", "PLANNED"), row(B, "PC-2", word)]
    rows = [{spelling if key == "status" else key: value for key, value in each.items()} for each in rows]
    with pytest.raises(
        NexthinkInputError, match=r"Row 1 of devices has .*not a status of an outcome table.*EXCLUDED"
    ) as it:
        read_devices(rows)
    assert repr(spelling) in str(it.value)
    if isinstance(word, str):
        with pytest.raises(NexthinkInputError, match="not a status of an outcome table"):
            read_devices(as_csv({key: [each[key] for each in rows] for key in rows[0]}))


@pytest.mark.parametrize("blank", [None, "", "  ", float("nan"), pd.NA, pd.NaT])
def test_make_plan_row_without_a_status_is_planned_afresh(blank: Any) -> None:
    plan = make_plan(read_devices([row(A, "PC-1", blank), row(B, "VIP-1", "EXCLUDED")]))
    assert plan.statuses == [None, EXCLUDED]
    assert make_plan(read_devices([row(A, "PC-1", blank)])).to_send == [0]


@pytest.mark.parametrize(
    "words",
    [["active", "retired"], ["UNKNOWN", ["x"]], [1, 2], ["Planned for 2027", "PLANNED"], ["invalidated", "excludes"]],
)
@pytest.mark.parametrize("spelling", ["status", "Status", "Device Status", "hr_status"])
def test_read_devices_status_with_another_meaning_is_ignored(words: list[Any], spelling: str) -> None:
    rows = [{"uid": uid, "name": uid, spelling: word} for uid, word in zip([A, B], words, strict=True)]
    read = read_devices(rows)
    assert read.statuses is read.reasons is None
    assert make_plan(read).to_send == [0, 1]


class Lifecycle(enum.Enum):
    """A status of an unrelated program."""

    EXCLUDED = 1


KEPT_BACK = [
    *(write(word) for word in sorted(KEPT) for write in (str, str.lower, " {} ".format, "{} (VIP)".format, str.encode)),
    "Status.EXCLUDED",
    "<Status.EXCLUDED: 'EXCLUDED'>",
    "excluded by the owner",
    "DO_NOT_SEND/REJECTED",
    "invalid2",
    "\uff25\uff38\uff23\uff2c\uff35\uff24\uff25\uff24",
    bytearray(b"EXCLUDED"),
    memoryview(bytearray(b"EXCLUDED")),
    ["EXCLUDED"],
    Lifecycle.EXCLUDED,
    *sorted(KEPT),
]


@pytest.mark.parametrize("kept_back", KEPT_BACK, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("spelling", [*SPELLINGS, "deletion_status", "status_x", "Status.right"])
@pytest.mark.parametrize("others", [["PLANNED", "PLANED"], ["in use", None]])
def test_read_devices_kept_status_beside_an_unknown_one_is_an_error(
    kept_back: Any, spelling: str, others: list[Any]
) -> None:
    table: Table = {"uid": [A, B, C], "name": ["a", "b", "c"], spelling: [kept_back, *others]}
    with pytest.raises(NexthinkInputError, match=r"Row [012] of devices .*not a status of an outcome table.*drop it"):
        read_devices(table)
    with pytest.raises(NexthinkInputError, match="not a status of an outcome table"):
        pick_rows([*table, "reason"], zip(*table.values(), [None] * 3, strict=True), None, None)
    if isinstance(kept_back, str):
        with pytest.raises(NexthinkInputError, match="not a status of an outcome table"):
            read_devices(as_csv(table))


def test_read_devices_unknown_status_error_names_the_row_kept_back() -> None:
    with pytest.raises(NexthinkInputError, match=r"Row 0 of devices has 'active'.* Row 1 has 'EXCLUDED'.*Fix row 0"):
        read_devices({"uid": [A, B], "name": ["a", "b"], "status": ["active", "EXCLUDED"]})


@given(
    word=st.sampled_from(sorted(KEPT)),
    before=st.text(st.characters(exclude_categories=["L", "M", "Cs"]), max_size=5),
    after=st.text(st.characters(exclude_categories=["L", "M", "Cs"]), max_size=5),
)
@example(word="DUPLICATE", before="", after="\N{CUNEIFORM NUMERIC SIGN TWO ASH}")
def test_read_devices_kept_status_within_other_text_is_an_error(word: str, before: str, after: str) -> None:
    rows = {"uid": [A, B], "name": ["a", "b"], "status": [before + word + after, "PLANED"]}
    with pytest.raises(NexthinkInputError, match="not a status of an outcome table"):
        read_devices(rows)


@pytest.mark.parametrize(
    ("one", "other", "request_id"),
    [
        (["EXCLUDED", "PLANNED"], ["PLANNED", "PLANNED"], False),
        (["EXCLUDED", "PLANNED"], ["PLANNED", "active"], False),
        (["EXCLUDED", "x"], ["PLANNED", "active"], True),
    ],
)
def test_read_devices_two_status_columns_are_an_error(one: list[str], other: list[str], request_id: bool) -> None:
    table: Table = {"uid": [A, B], "name": ["PC-1", "PC-2"], "status": one, "Device Status": other}
    if request_id:
        table["Request ID"] = ["a", "b"]
    with pytest.raises(NexthinkInputError, match="'status' and 'Device Status', which both"):
        read_devices(table)
    with pytest.raises(NexthinkInputError, match="'status' and 'status', which both"):
        read_devices(as_csv(table).replace("Device Status", "status"))


def test_read_devices_unrelated_status_beside_an_outcome_status_is_ignored() -> None:
    table: Table = {
        "uid": [A, B],
        "name": ["a", "b"],
        "status": ["EXCLUDED", "PLANNED"],
        "Device status": ["in use"] * 2,
    }
    assert make_plan(read_devices(table)).to_send == [1]
    assert make_plan(read_devices({**table, "request_id": [None, None]})).to_send == [1]


LOST_STATUS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "dropped": lambda frame: frame.drop(columns="status"),
    "in the index": lambda frame: frame.set_index("status"),
    "some columns": lambda frame: frame[["uid", "name", "reason", "request_id", "attempts"]],
    "renamed past recognition": lambda frame: frame.rename(columns={"status": "state"}),
    "a status of another origin": lambda frame: frame.drop(columns="status").assign(hr_status="active"),
    "reason only": lambda frame: frame[["uid", "name", "reason"]],
    "reason, with a suffix": lambda frame: frame[["uid", "name", "reason"]].rename(columns={"reason": "reason_x"}),
    "reason, beside another status": lambda frame: frame[["uid", "name", "reason"]].assign(status="active"),
    **{
        f"{label} only": partial(lambda label, frame: frame[["uid", "name"]].assign(**{label: None}), label)
        for label in (
            "request_id",
            "trace_id",
            "submitted_at",
            "Request ID",
            "traceId",
            "submitted_at_y",
            "request_id.1",
        )
    },
}


@pytest.mark.parametrize("word", ["in use", "Unknown", "planned", "Failed", "Scheduled"])
@pytest.mark.parametrize(
    "table",
    [
        {"status_plan": ["EXCLUDED", "PLANNED", "-"]},
        {"plan_status": ["EXCLUDED (VIP)", "PLANNED", None]},
        {"reason": ["excluded by 'VIP-*'", None, None]},
        {"trace_id": [None, None, None]},
        {"submitted_at": [None, None, None], "trace_id": [None, None, None]},
        {"request_id": [None, None, None], "reason": ["excluded by 'VIP-*'", None, None]},
    ],
)
def test_read_devices_status_of_another_origin_hides_no_outcome_table(table: Table, word: str) -> None:
    """Also where some of its words happen to be those of an outcome."""
    merged = {"uid": [A, B, C], "name": ["VIP-1", "PC-1", "PC-2"], "status": ["in use", word, "in stock"], **table}
    for form in (merged, records(merged), pd.DataFrame(merged), as_csv(merged)):
        with pytest.raises(NexthinkInputError, match="outcome table"):
            read_devices(form)


def test_read_devices_status_of_another_origin_with_such_a_word_is_ignored() -> None:
    form = {"uid": [A, B], "name": ["a", "b"], "status": ["approved", "Unknown"], "reason": ["", "lost"]}
    assert make_plan(read_devices(form)).to_send == [0, 1]
    assert make_plan(read_devices({**form, "submitted_at": ["2026-11-30", "2026-11-29"]})).to_send == [0, 1]


@pytest.mark.parametrize("lost", LOST_STATUS)
def test_read_devices_outcome_table_without_its_status_is_an_error(lost: str) -> None:
    _, table = plan_and_table([(A, "PC-1"), (B, "VIP-1")])
    frame = LOST_STATUS[lost](pd.DataFrame(table))
    for form in (frame, frame.to_dict("records"), frame.to_csv(index=False)):
        with pytest.raises(NexthinkInputError, match="looks like an outcome table, but has no column 'status'"):
            read_devices(form)
    with pytest.raises(NexthinkInputError, match="looks like an outcome table, but has no column 'status'"):
        pick_rows(list(frame.columns), frame.itertuples(index=False), None, None)
    assert len(read_devices(frame[["uid", "name"]])) == 2


@pytest.mark.parametrize(
    "reason",
    [
        "excluded by 'VIP-*'",
        "the list has it as EXCLUDED",
        f"another row of the list has this device as EXCLUDED: excluded by {D!r}",
        "the same device is earlier in the list",
        "the list gives this uid two names: which device is meant is ambiguous",
    ],
)
def test_read_devices_reasons_of_an_outcome_table_without_status_are_an_error(reason: str) -> None:
    with pytest.raises(NexthinkInputError, match="looks like an outcome table, but has no column 'status'"):
        read_devices({"uid": [A, B], "name": ["a", "b"], "Reason": [None, reason]})


def test_read_devices_unrelated_reason_is_ignored() -> None:
    read = read_devices({"uid": [A, B], "name": ["a", "b"], "reason": ["lease is over", "not excluded by anyone"]})
    assert make_plan(read).to_send == [0, 1]


@pytest.mark.parametrize(
    "join",
    [
        lambda frame: frame.merge(frame, on=["uid", "name"]),
        lambda frame: frame.merge(frame, on=["uid", "name"], suffixes=("_left", "_right")),
        lambda frame: frame.merge(frame, on=["uid", "name"], suffixes=(None, "_y")),
        lambda frame: frame.merge(frame, on=["uid", "name"], suffixes=("_old", "_new"))[
            ["uid", "name", "status_old", "status_new"]
        ],
        lambda frame: pl.DataFrame(frame).join(pl.DataFrame(frame), on=["uid", "name"]),
        lambda frame: frame.assign(deletion_status=frame["status"]),
    ],
)
def test_read_devices_two_merged_outcome_tables_are_an_error(join: Callable[[pd.DataFrame], Any]) -> None:
    _, table = plan_and_table([(A, "PC-1"), (B, "VIP-1")])
    with pytest.raises(NexthinkInputError, match="which both hold statuses of an outcome table"):
        read_devices(join(pd.DataFrame({key: list(map(str, cells)) for key, cells in table.items()})))


@pytest.mark.parametrize(
    "label", ["status_x", "status_right", "Status.1", "status_y_x", "deletion_status", "planStatus"]
)
@pytest.mark.parametrize("columns", sorted(COLUMN_SETS))
def test_read_devices_status_column_with_a_suffix_is_kept(label: str, columns: str) -> None:
    first, table = plan_and_table([(A, "PC-1"), (B, "VIP-1"), (A, "PC-1"), (C, ""), ("x", "PC-2")])
    frame = pd.DataFrame({column: table[column] for column in COLUMN_SETS[columns]})
    again = make_plan(read_devices(frame.rename(columns={"status": label, "reason": "reason_x"})))
    assert again.statuses == first.statuses
    if "reason" in frame:
        assert again.reasons == first.reasons


@pytest.mark.parametrize("label", ["ｓｔａｔｕｓ", b"status", ("status", ""), ("plan", "status")])
def test_read_devices_status_column_with_an_odd_label_is_kept(label: Any) -> None:
    frame = pd.DataFrame([[A, "VIP-1", "EXCLUDED"], [B, "PC-1", "PLANNED"]])
    frame.columns = pd.Index(["uid", "name", label], tupleize_cols=False)
    assert make_plan(read_devices(frame)).to_send == [1]


def test_read_devices_other_column_ending_in_status_is_ignored() -> None:
    table: Table = {
        "uid": [A, B],
        "name": ["a", "b"],
        "status": ["EXCLUDED", "PLANNED"],
        "certificate_status": ["INVALID", "valid"],
    }
    assert make_plan(read_devices(table)).to_send == [1]
    assert make_plan(read_devices({**table, "request_id": [None, None]})).to_send == [1]


def test_make_plan_long_or_odd_reason_is_kept_as_far_as_a_database_takes_it() -> None:
    reasons: list[Any] = ["Ünïcode: " + "x" * 500, "y" * 5000, "a\0b\ud800", 7, None, "", float("nan")]
    rows = [row(f"{at:032x}", f"VIP-{at}", "EXCLUDED", reason) for at, reason in enumerate(reasons)]
    kept = make_plan(read_devices(rows)).reasons
    assert kept == [
        reasons[0],
        "y" * 1000 + "…",
        r"a\x00b\ud800",
        "7",
        *["the list has it as EXCLUDED"] * 3,
    ]


def test_outcomes_kept_rows_have_their_status_in_the_next_table() -> None:
    assert {EXCLUDED, REJECTED, INVALID, DUPLICATE} == KEPT
    rows = [row(A, "a", word, "why") for word in sorted(KEPT)]
    table = Outcomes(make_plan(read_devices(rows))).rows()
    assert [(each["status"], each["reason"]) for each in table] == [(word, "why") for word in sorted(KEPT)]


@pytest.mark.parametrize("suffixes", [("_plan", "_cmdb"), ("_dryrun", ""), (" (plan)", " (cmdb)"), ("_nx", "_sn")])
def test_next_list_merged_under_any_suffix_keeps_its_decided_rows(suffixes: tuple[str, str]) -> None:
    ours, theirs = suffixes
    rows: list[dict[str, Any]] = [
        {"uid": A, "name": "VIP-1", f"status{ours}": "EXCLUDED", f"reason{ours}": "excluded by 'VIP-*'"},
        {"uid": B, "name": "PC-1", f"status{ours}": "PLANNED", f"reason{ours}": None},
    ]
    plan = make_plan(read_devices([{**row, f"status{theirs}": "in use", f"reason{theirs}": "lease"} for row in rows]))
    assert plan.to_send == [1]


@pytest.mark.parametrize("word", ["EXCLUDED", "REJECTED"])
def test_next_list_reason_that_begins_like_that_of_a_name_holds_the_device_back(word: str) -> None:
    rows = [
        {"uid": A, "name": "a", "status": word, "reason": "the name is on the VIP list"},
        {"uid": A, "name": "a", "status": "PLANNED", "reason": None},
    ]
    assert make_plan(read_devices(rows)).to_send == []
