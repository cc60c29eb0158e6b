"""Split a plan into chunks and join their tables: every row once, in order, whatever the list and the outcomes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from airflow_provider_nexthink.chunks import NO_TABLE, join_tables, split_plan
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices import parquet as our_parquet
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS, Status
from airflow_provider_nexthink.utils import results
from airflow_provider_nexthink.utils.results import ResultsKeeper, store_results, unfinished_path
from airflow_provider_nexthink.utils.storage import file_of, write_table
from tests.support.tables import read_table

Table = dict[str, list[Any]]
Manifest = dict[str, Any]

# Few uids and names, so that lists have duplicates, and uids with two names.
UIDS = st.integers(0, 40).map(lambda number: f"0fbd5a5c-0000-4000-8000-{number:012}") | st.sampled_from(["", "x", None])
NAMES = st.sampled_from(["PC-1", "PC-2", "SRV-1", "", "ü", None])
LISTS = st.lists(st.fixed_dictionaries({"uid": UIDS, "name": NAMES}), max_size=120)
ROWS = [{"uid": f"0fbd5a5c-0000-4000-8000-{number:012}", "name": "PC"} for number in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def outcomes_of(devices: object, decided: Status, exclude: tuple[str, ...] = ()) -> Outcomes:
    """Return the outcomes of a run in which every device that is sent gets the same status."""
    plan = make_plan(read_devices(devices), exclude)
    outcomes = Outcomes(plan)
    for at in plan.to_send:
        outcomes.status[at] = decided
        outcomes.batch[at] = 1
    return outcomes


def stored(folder: str, name: str, outcomes: Outcomes) -> Manifest:
    return store_results(f"{folder}/{name}.parquet", outcomes, "device.uid")


def plan_of(folder: str, devices: object, exclude: tuple[str, ...] = ()) -> Manifest:
    return stored(folder, "plan", outcomes_of(devices, Status.PLANNED, exclude))


def split(folder: str, plan: Manifest, size: Any, **options: Any) -> list[dict[str, Any]]:
    return split_plan(plan, size, f"{folder}/chunks.parquet", **options)


def join(folder: str, plan: Manifest, chunks: list[dict[str, Any]], tables: Any) -> Table:
    return read_table(join_tables(plan, chunks, tables, f"{folder}/joined.parquet"))


def sizes(chunks: Sequence[Mapping[str, Any]]) -> list[int]:
    return [chunk["stop"] - chunk["start"] for chunk in chunks]


def column(table: Table, name: str, status: Status) -> list[Any]:
    return [value for value, its in zip(table[name], table["status"], strict=True) if its == status]


@settings(deadline=None)
@given(rows=LISTS, chunk_size=st.integers(1, 50), max_chunks=st.integers(1, 10), rows_at_once=st.integers(1, 40))
def test_split_plan_each_planned_device_is_in_one_chunk_of_even_size(
    rows: list[dict[str, Any]], chunk_size: int, max_chunks: int, rows_at_once: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_parquet, "ROWS_AT_ONCE", rows_at_once)
        plan = plan_of(folder, rows, ("SRV-*",))
        chunks = split(folder, plan, chunk_size, max_chunks=max_chunks)
        table = read_table(plan)
        lists = [read_devices(chunk) for chunk in chunks]
        assert [uid for each in lists for uid in each.uids] == column(table, "uid", Status.PLANNED)
        assert [name for each in lists for name in each.names] == column(table, "name", Status.PLANNED)
        assert {each.uid_column for each in lists} <= {"device.uid"}
        found = sizes(chunks)
        assert len(chunks) <= max_chunks
        assert not found or max(found) - min(found) <= 1
        assert not found or max(found) <= chunk_size or len(chunks) == max_chunks
        if chunks:  # one row group each, so that a task reads no other chunk
            metadata = parquet.ParquetFile(chunks[0]["path"]).metadata
            assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == found


@settings(deadline=None)
@given(
    rows=LISTS,
    chunk_size=st.integers(1, 50),
    seed=st.randoms(use_true_random=False),
    rows_at_once=st.integers(1, 40),
)
def test_join_tables_every_row_keeps_its_position(
    rows: list[dict[str, Any]], chunk_size: int, seed: random.Random, rows_at_once: int
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(our_parquet, "ROWS_AT_ONCE", rows_at_once)
        plan = plan_of(folder, rows, ("SRV-*",))
        chunks = split(folder, plan, chunk_size, max_chunks=1000)
        became: dict[str, str] = {}

        def tables() -> Iterator[Any]:
            """Give the table of each chunk, in any of its forms; one in four is missing."""
            for number, chunk in enumerate(chunks):
                outcomes = outcomes_of(chunk, seed.choice([Status.SCHEDULED, Status.FAILED]))
                manifest = stored(folder, str(number), outcomes)
                form = seed.choice(["manifest", "columns", "path", "missing"])
                is_lost = form == "path" and Status.FAILED in outcomes.status  # a later try may have sent them
                if form != "missing" and not is_lost:
                    became.update(zip(outcomes.uid, outcomes.status, strict=True))  # type: ignore[arg-type]
                yield {
                    "manifest": manifest,
                    "columns": outcomes.columns(),
                    "path": manifest["path"],
                    "missing": seed.choice([None, f"{folder}/lost.parquet"]),
                }[form]

        joined, planned = join(folder, plan, chunks, tables()), read_table(plan)
    assert list(joined) == list(COLUMNS)
    assert joined["uid"] == planned["uid"]
    assert joined["name"] == planned["name"]
    for at, (uid, status) in enumerate(zip(planned["uid"], planned["status"], strict=True)):
        if status != Status.PLANNED:
            assert [joined[name][at] for name in COLUMNS] == [planned[name][at] for name in COLUMNS]
        else:
            assert joined["status"][at] == became.get(uid, "UNKNOWN")
            assert joined["batch"][at] == 1
    assert set(column(joined, "reason", Status.UNKNOWN)) <= {NO_TABLE}


def test_thousand_references_are_small(folder: str) -> None:
    devices = [{"uid": f"0fbd5a5c-0000-4000-8000-{number:012}", "name": "PC"} for number in range(10_000)]
    chunks = split(folder, plan_of(folder, devices), 10)
    assert len(chunks) == 1000
    # A path that leaves the folder to the user, with what this package adds to it.
    path = "s3://aws_default@bucket/0123abcd.chunks~0123abcd.parquet"
    assert len(json.dumps([{**chunk, "path": path} for chunk in chunks])) <= 105_000
    assert len(Path(chunks[0]["path"]).name) == len("chunks~0123abcd.parquet")


def test_split_plan_of_another_list_leaves_the_file_that_tasks_are_reading(folder: str) -> None:
    first = split(folder, plan_of(folder, ROWS[:3]), 2)
    second = split(folder, plan_of(folder, ROWS[1:]), 2)
    assert first[0]["path"] != second[0]["path"]
    assert read_devices(first).uids == [row["uid"] for row in ROWS[:3]]
    assert split(folder, plan_of(folder, ROWS[:3]), 2) == first


def test_split_plan_max_map_length_limits_the_chunks(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(folder, ROWS)
    assert len(split(folder, plan, 1)) == 5
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
    assert sizes(split(folder, plan, 1)) == [2, 3]


@pytest.mark.parametrize(
    "call", [lambda folder, plan: split(folder, plan, 2), lambda folder, plan: join(folder, plan, [], [])]
)
def test_plan_whose_file_has_changed_is_an_error(folder: str, call: Any) -> None:
    plan = plan_of(folder, ROWS)
    table = parquet.read_table(plan["path"])
    parquet.write_table(table.set_column(1, "name", pa.array(["PC-X"] * len(ROWS))), plan["path"])
    with pytest.raises(NexthinkInputError, match="has changed since it was planned"):
        call(folder, plan)


def test_join_tables_chunks_of_another_plan_are_an_error(folder: str) -> None:
    plan = plan_of(folder, ROWS)
    chunks = split(folder, plan, 2)
    for wrong in (chunks[:-1], [*chunks, chunks[0]]):
        with pytest.raises(NexthinkInputError, match="are they of the same run"):
            join(folder, plan, wrong, [None] * 9)


def test_join_tables_table_of_another_list_gives_the_planned_devices_and_is_logged(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(folder, ROWS)
    chunks = split(folder, plan, 5)
    other = outcomes_of([*ROWS[3:], {"uid": "0fbd5a5c-0000-4000-8000-999999999999", "name": "PC"}], Status.SCHEDULED)
    joined = join(folder, plan, chunks, [stored(folder, "0", other)])
    assert joined["status"] == ["UNKNOWN"] * 3 + ["SCHEDULED"] * 2
    assert "Chunk 0 has a table of other devices, too, 1 rows: {'SCHEDULED': 1}" in caplog.text


def test_join_tables_takes_what_a_lost_task_has_left(folder: str) -> None:
    plan = plan_of(folder, ROWS)
    chunks = split(folder, plan, 5)
    left = outcomes_of(ROWS, Status.SCHEDULED)
    left.status[4] = Status.UNKNOWN
    write_table(unfinished_path(f"{folder}/0.parquet"), left.columns())
    joined = join(folder, plan, chunks, [f"{folder}/0.parquet"])
    assert joined["status"] == ["SCHEDULED"] * 4 + ["UNKNOWN"]


def test_join_tables_what_an_earlier_try_has_not_settled_is_unknown_if_its_retry_was_lost(folder: str) -> None:
    """The file is that of the earlier try: the retry, whose XComs are not there, may have sent these devices."""
    plan = plan_of(folder, ROWS)
    earlier = outcomes_of(ROWS, Status.SCHEDULED)
    earlier.status[2:] = [Status.FAILED, Status.NOT_SENT, Status.REJECTED]
    place = stored(folder, "0", earlier)["path"]
    joined = join(folder, plan, split(folder, plan, 5), [place])
    assert joined["status"] == ["SCHEDULED", "SCHEDULED", "UNKNOWN", "UNKNOWN", "REJECTED"]


@pytest.mark.parametrize("has_xcom", [True, False])
def test_join_tables_what_a_lost_retry_has_left_is_newer_than_the_table_of_earlier_tries(
    folder: str, has_xcom: bool
) -> None:
    """A retry pushes the table of earlier tries when it begins; its own is in the other file until it ends."""
    plan = plan_of(folder, ROWS)
    earlier = outcomes_of(ROWS, Status.SCHEDULED)
    earlier.status[1:] = [Status.FAILED, Status.NOT_SENT, Status.UNKNOWN, Status.SCHEDULED]
    table = stored(folder, "0", earlier)
    left = outcomes_of(ROWS, Status.SCHEDULED)
    left.status[3:] = [Status.UNKNOWN, Status.UNKNOWN]
    write_table(unfinished_path(table["path"]), left.columns())
    joined = join(folder, plan, split(folder, plan, 5), [table if has_xcom else table["path"]])
    assert joined["status"] == ["SCHEDULED", "SCHEDULED", "SCHEDULED", "UNKNOWN", "SCHEDULED"]


def test_results_keeper_that_is_still_writing_when_the_run_has_ended_leaves_nothing(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_write = threading.Event(), threading.Event()

    def hanging(*written: Any) -> None:
        is_writing.set()
        assert may_write.wait(30)
        write_table(*written)

    monkeypatch.setattr(results, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(results, "write_table", hanging)
    keeper = ResultsKeeper(f"{folder}/0.parquet")
    keeper.keep(lambda: outcomes_of(ROWS, Status.UNKNOWN))
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "nexthink-results"]
    assert is_writing.wait(30)
    stored(folder, "0", outcomes_of(ROWS, Status.SCHEDULED))
    keeper.close()
    may_write.set()
    writer.join()
    assert not Path(unfinished_path(f"{folder}/0.parquet")).exists()
    keeper.keep(lambda: pytest.fail("it is closed"))


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content + b"x", lambda _: b""])
def test_join_tables_damaged_table_leaves_its_devices_unknown(
    folder: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(folder, ROWS)
    chunks = split(folder, plan, 3)
    tables = [stored(folder, str(at), outcomes_of(chunk, Status.SCHEDULED)) for at, chunk in enumerate(chunks)]
    place = Path(tables[0]["path"])
    place.write_bytes(damage(place.read_bytes()))
    joined = join(folder, plan, chunks, tables)
    assert joined["status"] == ["UNKNOWN"] * 2 + ["SCHEDULED"] * 3
    assert "The table of chunk 0 cannot be read, so its devices are UNKNOWN" in caplog.text


def test_join_tables_storage_that_fails_is_an_error_that_a_retry_may_solve(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(folder, ROWS)
    chunks = split(folder, plan, 5)
    table = stored(folder, "0", outcomes_of(ROWS, Status.SCHEDULED))

    def failing(reference: Any) -> Any:
        if reference.path == table["path"]:
            raise ConnectionResetError("the storage has gone")
        return file_of(reference)

    monkeypatch.setattr("airflow_provider_nexthink.chunks.file_of", failing)
    with pytest.raises(ConnectionResetError):
        join(folder, plan, chunks, [table])
    assert not Path(f"{folder}/joined.parquet").exists()


@pytest.mark.parametrize(
    "plan", [None, [], {"uid": [], "name": []}, {"path": "a.parquet"}, {"path": "a.csv", "counts": {}}]
)
def test_plan_that_is_no_manifest_is_an_error_with_a_hint(folder: str, plan: Any) -> None:
    for call in (lambda: split(folder, plan, 10), lambda: join(folder, plan, [], [])):
        with pytest.raises(NexthinkInputError, match=r"return_format='manifest' and such a results_path"):
            call()


def test_join_tables_table_in_another_form_is_an_error_with_a_hint(folder: str) -> None:
    plan = plan_of(folder, ROWS)
    with pytest.raises(NexthinkInputError, match=r"table of chunk 0 is a list.*return_format='manifest'"):
        join(folder, plan, split(folder, plan, 5), [outcomes_of(ROWS, Status.SCHEDULED).rows()])


def test_path_that_is_no_parquet_is_an_error(folder: str) -> None:
    plan = plan_of(folder, ROWS)
    with pytest.raises(NexthinkInputError, match="it takes the path of a .parquet file"):
        split_plan(plan, 10, f"{folder}/chunks.csv")
    with pytest.raises(NexthinkInputError, match="it takes the path of a .parquet file"):
        join_tables(plan, [], [], f"{folder}/joined.jsonl")


@pytest.mark.parametrize(
    ("chunk_size", "max_chunks"), [(0, 1), (1, 0), (-1, 5), (1.5, 1), ("many", 1), (1, True), (None, 1)]
)
def test_split_plan_size_below_one_is_an_error(folder: str, chunk_size: Any, max_chunks: Any) -> None:
    with pytest.raises(NexthinkInputError, match="each takes a whole number, 1 or more"):
        split(folder, plan_of(folder, ROWS), chunk_size, max_chunks=max_chunks)


@pytest.mark.parametrize("size", [2.0, Decimal(2), "2", "2.0", np.int64(2), np.float32(2)])
def test_split_plan_size_of_every_kind_of_number_is_read(folder: str, size: Any) -> None:
    plan = plan_of(folder, ROWS)
    assert sizes(split(folder, plan, size)) == [1, 2, 2]
    assert sizes(split(folder, plan, 1, max_chunks=size)) == [2, 3]
