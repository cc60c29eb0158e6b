"""Split a plan into chunks that many workers can delete in parallel, and join their outcome tables again.

A dry run decides on every row and checks the safety limits against the whole list. Its planned devices are then written
to one Parquet file, a row group for each chunk; what tasks pass on is references to rows of files. The outcome of each
chunk is written back to the rows of the plan. All of that in bounded memory, whatever the length of the list. ::

    from airflow_provider_nexthink.chunks import join_tables, split_plan

    chunks = split_plan(plan, 10_000, path)  # plan: the manifest of a dry run
    manifest = join_tables(plan, chunks, tables, path)  # tables: one manifest for each chunk
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

from airflow_provider_nexthink.deletion.options import read_whole_number
from airflow_provider_nexthink.devices.formats import redacted_path, suffix_of
from airflow_provider_nexthink.devices.parquet import ParquetRows, ParquetWriter
from airflow_provider_nexthink.devices.references import Reference, write_chunks
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import COLUMNS, NUMBER_COLUMNS, RETRYABLE, Status
from airflow_provider_nexthink.utils.results import publish_results, unfinished_path
from airflow_provider_nexthink.utils.storage import exists, file_of, publish
from airflow_provider_nexthink.version_compat import max_map_length

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.outcome import Outcomes

log = logging.getLogger(__name__)

NO_TABLE = "its task left no outcome table, so what was sent is unknown: see the log of that task"

Row = tuple[Any, ...]


def split_plan(
    plan: Mapping[str, Any], chunk_size: int | str, path: str, *, max_chunks: int | str | None = None
) -> list[dict[str, Any]]:
    """Write the planned devices to a file, in chunks of about the same size, in order.

    Rows with any other status are left out, since they are decided. No device is in two chunks.

    :param plan: the manifest of a dry run whose ``results_path`` is a .parquet file.
    :param chunk_size: how many devices a chunk has at most, unless that would need more than ``max_chunks``.
    :param path: the file to write, .parquet; a digest of the devices is added to its name, so that no later file takes
        the place of one that tasks are still reading.
    :param max_chunks: how many chunks there are at most; beyond that, chunks become larger. None for the most that
        Airflow maps a task over (``[core] max_map_length``).
    :return: a reference for each chunk, ``{"path", "start", "stop"}``; an empty list if nothing is planned.
    :raises NexthinkInputError: if the plan is no such manifest, its file has changed, or a size is below 1.
    """
    _check_parquet("path", path)
    most = max_map_length() if max_chunks is None else max_chunks
    size, count = read_whole_number(chunk_size), read_whole_number(most)
    if size is None or count is None or size < 1 or count < 1:
        raise NexthinkInputError(
            f"chunk_size is {chunk_size!r} and max_chunks is {most!r}: each takes a whole number, 1 or more."
        )
    with _opened_plan(plan) as rows:
        planned = plan["counts"][Status.PLANNED]
        count = min(ceil(planned / size), count)
        if not count:
            return []
        cuts = [planned * number // count for number in range(count + 1)]
        labels = (plan.get("uid_column") or "uid", "name")  # which says the kind of uid, as in the list
        with tempfile.TemporaryFile() as made:
            sizes, ending = write_chunks(made, labels, _cut(_planned_devices(rows), cuts))
            if sizes != [stop - start for start, stop in pairwise(cuts)]:
                raise NexthinkInputError(f"The plan has {sum(sizes)} devices to send, and its manifest says {planned}.")
            place = path.removesuffix(".parquet") + ending
            publish(place, made)
    log.info("%d devices in %d chunks are in %s.", planned, count, redacted_path(place))
    return [{"path": place, "start": start, "stop": stop} for start, stop in pairwise(cuts)]


def join_tables(
    plan: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]], tables: Iterable[Any], path: str
) -> dict[str, Any]:
    """Write the outcome of each planned device to its row of the plan.

    A planned device that is in no table becomes UNKNOWN: its task left no table, but may have sent it.

    :param plan: the manifest of the dry run that was split into chunks.
    :param chunks: what ``split_plan`` returned.
    :param tables: for each chunk the manifest of its outcome table; or the table by columns; or the path of its
        file if the task was lost, in whose place may be what it has left, and whose devices that are not settled are
        UNKNOWN; or None. Read one at a time.
    :param path: where to write the outcome table, a .parquet file: one row for every row of the list, in its order.
    :return: its manifest, as that of the plan.
    :raises NexthinkInputError: if the plan is no manifest of such a dry run, its file has changed, or the chunks are
        not of this plan.
    """
    from airflow_provider_nexthink.deletion.file_plan import FileOutcomes

    _check_parquet("path", path)
    found = _TablesOfChunks(chunks, tables)
    outcomes = FileOutcomes()
    with (
        _opened_plan(plan) as rows,
        tempfile.TemporaryFile() as table,
        tempfile.TemporaryFile() as unscheduled,
    ):
        with (
            ParquetWriter(table, COLUMNS, NUMBER_COLUMNS) as all_rows,
            ParquetWriter(unscheduled, COLUMNS, NUMBER_COLUMNS) as open_rows,
        ):
            for cells in _batches(rows):
                part = _as_outcomes(cells)
                for at, status in enumerate(part.status):
                    if status is Status.PLANNED:
                        _write_row(part, at, found.outcome_of(cells[0][at]))
                all_rows.write(list(part.columns().values()))
                open_rows.write(list(outcomes.add(part).columns().values()))
        found.check_end()
        return publish_results(path, outcomes, table, unscheduled, plan.get("uid_column"))


class _TablesOfChunks:
    """The outcome tables of the chunks, of which one is in memory at a time.

    :param chunks: the references of the chunks, in order.
    :param tables: a table for each of them.
    """

    def __init__(self, chunks: Sequence[Mapping[str, Any]], tables: Iterable[Any]) -> None:
        self._chunks = iter(enumerate(chunks))
        self._tables = iter(tables)
        self._number = -1
        self._left = 0
        self._rows: dict[Any, Row] = {}

    def outcome_of(self, uid: str) -> Row | None:
        """Return the row of the next device; None if there is none.

        :param uid: of the device.
        :raises NexthinkInputError: if there are more devices than the chunks have.
        """
        while not self._left:
            self._log_others()
            self._number, chunk = next(self._chunks, (-1, None))
            if chunk is None:
                raise _other_plan()
            self._left = int(chunk["stop"]) - int(chunk["start"])
            self._rows = _rows_of(self._number, next(self._tables, None))
        self._left -= 1
        return self._rows.pop(uid, None)

    def check_end(self) -> None:
        """Check that the chunks have no more devices.

        :raises NexthinkInputError: if they have.
        """
        self._log_others()
        if self._left or next(self._chunks, None) is not None:
            raise _other_plan()

    def _log_others(self) -> None:
        if self._rows:  # the task was cleared with another list, and failed before it could read it
            log.error(
                "Chunk %d has a table of other devices, too, %d rows: %s. It may be that of earlier tries with another "
                "list. See its XComs, and its log.",
                self._number,
                len(self._rows),
                dict(Counter(row[2] for row in self._rows.values())),
            )


def _rows_of(number: int, table: Any) -> dict[Any, Row]:
    """Return the rows of the table of a chunk by uid; none if there is no table."""
    if table is None:
        return {}
    reference = Reference(table) if isinstance(table, str) else Reference.of(table)
    if reference is not None:
        return _rows_in_files(number, reference, is_lost=isinstance(table, str))
    if isinstance(table, Mapping) and table.keys() >= set(COLUMNS):
        return {row[0]: row for row in zip(*(table[column] for column in COLUMNS), strict=True)}
    raise NexthinkInputError(
        f"The table of chunk {number} is a {type(table).__name__}, and neither a manifest nor a table by columns: "
        "set return_format='manifest' on the operator that made it."
    )


def _rows_in_files(number: int, reference: Reference, *, is_lost: bool) -> dict[Any, Row]:
    """Return the rows of the table of a chunk, and of the one that a try has left that was lost after it was written.

    The file of a task that was lost may be that of an earlier try: what is not settled there, it may have sent since.
    """
    unfinished = Reference(unfinished_path(reference.path))
    rows: dict[Any, Row] = {}
    for found in (reference, unfinished):
        if (is_lost or found is unfinished) and not exists(found.path):
            continue
        for row in _rows_in_file(number, found):
            before = rows.get(row[0])
            if before is None or before[2] in RETRYABLE or row[2] not in RETRYABLE:
                rows[row[0]] = row
    if is_lost:
        return {uid: row for uid, row in rows.items() if row[2] not in RETRYABLE or row[2] == Status.UNKNOWN}
    return rows


def _rows_in_file(number: int, reference: Reference) -> list[Row]:
    try:
        with file_of(reference) as file:
            parquet = ParquetRows(file, f"The file {redacted_path(reference.path)}")
            return [row for cells in _batches(parquet) for row in zip(*cells, strict=True)]
    except NexthinkInputError as error:
        log.error("The table of chunk %d cannot be read, so its devices are UNKNOWN: %s", number, error)  # noqa: TRY400
        return []


def _write_row(part: Outcomes, at: int, row: Row | None) -> None:
    if row is None:
        part.status[at], part.reason[at] = Status.UNKNOWN, NO_TABLE
        return
    for column, value in zip(COLUMNS, row, strict=True):
        getattr(part, column)[at] = Status(value) if column == "status" else value


@contextmanager
def _opened_plan(plan: Mapping[str, Any]) -> Iterator[ParquetRows]:
    """Open the file of a plan, if it is still the one that was written."""
    reference = Reference.of(plan)
    if reference is None or "counts" not in plan or suffix_of(reference.path) != ".parquet":
        raise NexthinkInputError(
            f"The plan is a {type(plan).__name__}, and not the manifest of an outcome table in a .parquet file. Set "
            "return_format='manifest' and such a results_path on the operator that made it."
        )
    with file_of(reference) as file:
        yield ParquetRows(file, f"The file {redacted_path(reference.path)}")


def _batches(rows: ParquetRows) -> Iterator[list[list[Any]]]:
    """Read an outcome table, a bounded number of rows at a time: the cells of each column."""
    if missing := [column for column in COLUMNS if column not in rows.labels]:
        raise NexthinkInputError(f"This is no outcome table: it has no column {missing[0]!r}.")
    yield from rows.batches([rows.labels.index(column) for column in COLUMNS])


def _planned_devices(rows: ParquetRows) -> Iterator[tuple[list[str], list[str]]]:
    for uids, names, statuses, *_ in _batches(rows):
        planned = [at for at, status in enumerate(statuses) if status == Status.PLANNED]
        yield [uids[at] for at in planned], [names[at] for at in planned]


def _cut(parts: Iterable[tuple[list[str], list[str]]], cuts: Sequence[int]) -> Iterator[tuple[list[str], list[str]]]:
    """Cut devices that come in parts of any size at these positions."""
    uids: list[str] = []
    names: list[str] = []
    sizes = [stop - start for start, stop in pairwise(cuts)]
    for part_uids, part_names in parts:
        uids += part_uids
        names += part_names
        while sizes and len(uids) >= sizes[0]:
            size = sizes.pop(0)
            yield uids[:size], names[:size]
            del uids[:size], names[:size]
    if uids:
        yield uids, names


def _as_outcomes(cells: list[list[Any]]) -> Outcomes:
    from airflow_provider_nexthink.deletion.outcome import Outcomes

    part = Outcomes.empty()
    for column, values in zip(COLUMNS, cells, strict=True):
        getattr(part, column).extend(map(Status, values) if column == "status" else values)
    return part


def _check_parquet(option: str, path: str) -> None:
    if suffix_of(path) != ".parquet":
        raise NexthinkInputError(f"{option} is {redacted_path(path)}: it takes the path of a .parquet file.")


def _other_plan() -> NexthinkInputError:
    return NexthinkInputError("The chunks do not have as many devices as the plan: are they of the same run?")
