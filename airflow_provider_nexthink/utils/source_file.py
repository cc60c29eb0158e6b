"""The rows of a query in a Parquet file, instead of in XCom: what another task reads as its devices."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Self

from airflow_provider_nexthink.devices.formats import redacted_path
from airflow_provider_nexthink.devices.parquet import ROWS_AT_ONCE, ParquetWriter
from airflow_provider_nexthink.exceptions import NexthinkResultsError
from airflow_provider_nexthink.utils.storage import check_results_path, publish


class SourceFile:
    """A Parquet file with the rows of a query, published once all of them have been read. Use it as a context manager.

    :param path: where to, local or on object storage.
    :raises NexthinkInputError: if nothing can be written there, as far as that shows.
    """

    def __init__(self, path: str) -> None:
        check_results_path(path)
        self._path = path
        self._made = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the context manager
        self._columns: list[str] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def write(self, columns: Sequence[str], batches: Iterable[Sequence[list[Any]]]) -> None:
        """Write all rows, in the place of those that an earlier attempt has written. Publishes nothing.

        :param columns: the names of the columns.
        :param batches: for each batch of rows the cells of each column: text, or None.
        """
        self._made.seek(0)
        self._made.truncate()
        self._columns = list(columns)
        with ParquetWriter(self._made, self._columns) as parquet:
            for cells in batches:
                parquet.write(cells)
        self._rows = parquet.rows

    def publish(self) -> dict[str, Any]:
        """Copy the file to where it belongs, in the place of one that is there.

        :return: the source manifest, which an operator takes as ``devices``.
        :raises NexthinkResultsError: if it cannot be written there.
        """
        try:
            stored = publish(self._path, self._made)
        except Exception as error:
            raise NexthinkResultsError(
                f"All {self._rows} rows were read, but {redacted_path(self._path)} could not be written: "
                f"{type(error).__name__}: {error}. A retry writes it."
            ) from error
        return {
            "path": self._path,
            "rows": self._rows,
            "columns": self._columns,
            "size": stored.size,
            "checksum": stored.checksum,
        }


def in_batches(rows: Iterator[Sequence[Any]], width: int) -> Iterator[list[list[Any]]]:
    """Read rows, a bounded number at a time.

    :param rows: the cells of each row.
    :param width: how many there are in each.
    :return: for each batch of rows the cells of each column.
    """
    while cells := list(chain.from_iterable(islice(rows, ROWS_AT_ONCE))):  # no row of them is kept: half the time
        yield [cells[at::width] for at in range(width)]
