"""Read and write Parquet part by part: tables of any length in bounded memory. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain
from typing import Any, BinaryIO, Self

from airflow_provider_nexthink.devices.formats import require_parquet
from airflow_provider_nexthink.devices.frames import arrow_cells
from airflow_provider_nexthink.exceptions import NexthinkInputError

ROWS_AT_ONCE = 50_000
"""So many rows of a long table are in memory at a time."""


class ParquetWriter:
    """Writes a table to an open file, one row group for each part. Use it as a context manager.

    :param file: open for writing bytes.
    :param labels: the names of the columns, in order.
    :param numbers: those of them that hold whole numbers; the others hold text.
    """

    def __init__(self, file: BinaryIO, labels: Sequence[str], numbers: Collection[str] = ()) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._schema = pa.schema([(label, pa.int64() if label in numbers else pa.string()) for label in labels])
        self._writer = parquet.ParquetWriter(file, self._schema, write_page_checksum=True)
        self.rows = 0
        """How many have been written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, cells: Sequence[list[Any]]) -> None:
        """Write a part as one row group; nothing if it has no rows.

        :param cells: of each column, in order.
        """
        import pyarrow as pa

        arrays = [pa.array(column, type=field.type) for column, field in zip(cells, self._schema, strict=True)]
        table = pa.table(arrays, schema=self._schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
            self.rows += table.num_rows

    def add_metadata(self, key: str, value: str) -> None:
        """Add to the metadata of the file.

        :param key: of the entry.
        :param value: of the entry.
        """
        self._writer.add_key_value_metadata({key: value})


class ParquetRows:
    """The rows of an open Parquet file.

    :param file: open for reading bytes, at any position.
    :param what: the name of the file, for errors, as the start of a sentence.
    :raises NexthinkInputError: if it is no Parquet file, or is damaged.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        require_parquet("A .parquet file")
        from pyarrow import parquet

        self._what = what
        self._source = _Source(file)
        with self._errors():
            self._file = parquet.ParquetFile(self._source, page_checksum_verification=True)
        self.labels: list[str] = list(self._file.schema_arrow.names)
        self.length: int = self._file.metadata.num_rows

    def metadata(self, key: str) -> str | None:
        """Return an entry of the metadata of the file; None if there is none.

        :param key: of the entry.
        """
        value = (self._file.metadata.metadata or {}).get(key.encode())
        return None if value is None else value.decode(errors="replace")

    def table(self, start: int, stop: int) -> Any:
        """Read some rows as an Arrow table; of the file only the row groups that they are in.

        :param start: the first row, from 0.
        :param stop: the row after the last.
        :raises NexthinkInputError: if the file is damaged.
        """
        groups = self.groups_of(start, stop)
        with self._errors():
            return self._file.read_row_groups(groups).slice(start - self._rows_before(groups), stop - start)

    @property
    def groups(self) -> int:
        """How many row groups there are."""
        return int(self._file.num_row_groups)

    def groups_of(self, start: int, stop: int) -> list[int]:
        """Return the row groups that rows are in.

        :param start: the first row, from 0.
        :param stop: the row after the last.
        """
        ends = list(accumulate(self._rows_in(number) for number in range(self.groups)))
        return [n for n, end in enumerate(ends) if end > start and end - self._rows_in(n) < stop]

    def group(self, number: int) -> list[list[Any]]:
        """Return the cells of each column of a row group.

        :param number: of the row group, from 0.
        :raises NexthinkInputError: if the file is damaged.
        """
        with self._errors():
            table = self._file.read_row_group(number)
        return [arrow_cells(table.column(at), f"The column {label!r}") for at, label in enumerate(self.labels)]

    def batches(self, columns: Sequence[int], start: int = 0, stop: int | None = None) -> Iterator[list[list[Any]]]:
        """Read rows, a bounded number at a time.

        :param columns: the positions of the columns to read.
        :param start: the first row, from 0.
        :param stop: the row after the last; None for all.
        :return: for each batch of rows the cells of each of these columns.
        :raises NexthinkInputError: if the file is damaged.
        """
        stop = self.length if stop is None else stop
        if start >= stop:
            return
        groups = self.groups_of(start, stop)
        at = self._rows_before(groups)
        labels = list({self.labels[position]: None for position in columns})
        # One row group at a time: asked for several, pyarrow keeps what it has read of all of them.
        batches = chain.from_iterable(
            self._file.iter_batches(ROWS_AT_ONCE, [group], labels, use_threads=False) for group in groups
        )
        while True:
            with self._errors():
                batch = next(batches, None)
            if batch is None:
                return
            first, at = at, at + len(batch)
            part = batch.slice(max(start - first, 0), max(0, min(stop, at) - max(start, first)))
            if len(part):
                yield [
                    arrow_cells(self._column(part, position), f"The column {self.labels[position]!r}")
                    for position in columns
                ]

    def _column(self, part: Any, position: int) -> Any:
        """Return a column of a batch, which has all columns of each name that was asked for: there may be several."""
        label = self.labels[position]
        same = [at for at, name in enumerate(part.schema.names) if name == label]
        return part.column(same[self.labels[:position].count(label)])

    def _rows_in(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).num_rows)

    def _rows_before(self, groups: list[int]) -> int:
        return sum(self._rows_in(number) for number in range(groups[0])) if groups else 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            if self._source.error is not None:  # of the storage, not of the file
                raise self._source.error from None
            if "crypt" in str(error):
                raise NexthinkInputError(f"{self._what} is encrypted: write it again without encryption.") from None
            raise NexthinkInputError(
                f"{self._what} is not a Parquet file, or is damaged: write or copy it again. pyarrow says: "
                f"{str(error)[:200]}"
            ) from None


class _Source:
    """An open file that remembers the error of a read: pyarrow raises the same for a damaged file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def read(self, *size: int) -> bytes:
        try:
            return self._file.read(*size)
        except BaseException as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
