"""References: a file with devices, or some of its rows, in the place of the devices themselves.

A reference is ``{"path": ..., "start": ..., "stop": ...}``, the rows of a Parquet file from ``start`` up to but not
including ``stop``; or a manifest, ``{"path": ..., "rows": ..., "size": ..., "checksum": ...}``, a whole file as it was
written. A file that has changed since is an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO, Self, TypeGuard

from airflow_provider_nexthink.devices.formats import read_file, redacted_path, suffix_of
from airflow_provider_nexthink.devices.parquet import ParquetRows, ParquetWriter
from airflow_provider_nexthink.exceptions import NexthinkInputError

_KEYS = frozenset(
    {"path", "start", "stop", "rows", "columns", "counts", "size", "checksum", "uid_column", "unscheduled"}
)
_DIGESTS = "nexthink_chunks"
_PIECE_BYTES = 1024 * 1024
_NAME = re.compile(r"~([0-9a-f]{8})\.parquet$")


@dataclass(frozen=True)
class Reference:
    """A file with devices, or some of its rows.

    :param path: of the file, local or on object storage.
    :param start: the first row, from 0; None for the whole file.
    :param stop: the row after the last; None for the whole file.
    :param size: of the file in bytes; None if it is not known.
    :param checksum: BLAKE2b of its bytes, 128 bits, in hexadecimal digits; None if it is not known.
    """

    path: str
    start: int | None = None
    stop: int | None = None
    size: int | None = None
    checksum: str | None = None

    @classmethod
    def of(cls, value: object) -> Self | None:
        """Return the reference that a mapping is; None for anything else, such as a device.

        :param value: anything.
        :raises NexthinkInputError: if it is a reference that cannot be right.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("path"), str) or not value.keys() <= _KEYS:
            return None
        reference = cls(value["path"], *map(value.get, ("start", "stop", "size", "checksum")))
        start, stop = reference.start, reference.stop
        if start is None and stop is None:
            return reference
        if not _is_row(start) or not _is_row(stop) or start > stop:
            raise NexthinkInputError(
                f"{reference} cannot be: start and stop are whole numbers of rows, 0 or more, and start is not after "
                "stop."
            )
        return reference

    def __str__(self) -> str:
        file = f"the file {redacted_path(self.path)}"
        return file if self.start is None and self.stop is None else f"rows {self.start} to {self.stop} of {file}"

    @property
    def is_checked(self) -> bool:
        """Whether it says what the whole file is to be, so that all of it has to be read, also for some of its rows."""
        return self.size is not None or self.checksum is not None

    def read(self, file: BinaryIO) -> Any:
        """Read the rows.

        :param file: the file, open for reading bytes, at any position.
        :return: for CSV the header and the rows; for JSON Lines a list of mappings; for Parquet an Arrow table.
        :raises NexthinkInputError: if it has changed, has no such rows, or cannot be read.
        """
        if self.start is None or self.stop is None:
            content = file.read()
            self.check_unchanged(len(content), hashlib.blake2b(content, digest_size=16).hexdigest())
            return read_file(io.BytesIO(content), self.path)
        if suffix_of(self.path) != ".parquet":
            raise NexthinkInputError(
                f"{self} cannot be read: only Parquet says where its rows are. Write the list as .parquet (split_plan "
                "of airflow_provider_nexthink.chunks does), or pass the whole file."
            )
        if self.is_checked:
            digest, size = hashlib.blake2b(digest_size=16), 0
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
            self.check_unchanged(size, digest.hexdigest())
        rows = ParquetRows(file, f"The file {redacted_path(self.path)}")
        return rows.table(*self.rows_in(rows))

    def rows_in(self, rows: ParquetRows) -> tuple[int, int]:
        """Return the first row, from 0, and the row after the last.

        :param rows: the file.
        :raises NexthinkInputError: if it has no such rows, or they are not those that ``write_chunks`` has written.
        """
        if self.start is None or self.stop is None:
            return 0, rows.length
        if self.stop > rows.length:
            raise NexthinkInputError(f"{self} cannot be read: the file has {rows.length} rows.")
        self._check_digests(rows, self.start, self.stop)
        return self.start, self.stop

    def check_unchanged(self, size: int, checksum: str) -> None:
        """Check that a file is the one that was referred to.

        :param size: of the file, in bytes.
        :param checksum: of the file.
        :raises NexthinkInputError: if it is not.
        """
        if self.size not in (None, size) or self.checksum not in (None, checksum):
            raise self._changed()

    def _check_digests(self, rows: ParquetRows, start: int, stop: int) -> None:
        """Check rows that ``write_chunks`` has written, without reading the others."""
        named = _NAME.search(self.path)
        written = rows.metadata(_DIGESTS)
        if named is None:
            return
        digests = json.loads(written) if written and _digest_of(written)[:8] == named[1] else None
        if digests is None or len(digests) != rows.groups:
            raise self._changed()
        for number in rows.groups_of(start, stop):
            if _digest_of_cells(rows.group(number)) != digests[number]:
                raise self._changed()

    def _changed(self) -> NexthinkInputError:
        return NexthinkInputError(
            f"The file {redacted_path(self.path)} has changed since it was planned: it is not the file that this task "
            "was given. This try sent nothing. Plan again: clear the run from its plan on."
        )


def check_no_overlap(references: Iterable[Reference]) -> None:
    """Check that no row is in two references.

    :param references: of one list.
    :raises NexthinkInputError: if one is.
    """
    by_path: dict[str, list[Reference]] = {}
    for reference in references:
        by_path.setdefault(reference.path, []).append(reference)
    for parts in by_path.values():
        if len(parts) > 1:
            parts.sort(key=lambda part: (part.start or 0, part.stop or 0))
            for first, second in pairwise(parts):
                if first.stop is None or second.start is None or second.start < first.stop:
                    raise NexthinkInputError(f"devices has rows twice: {first} and {second} overlap.")


def write_chunks(file: BinaryIO, labels: Sequence[str], chunks: Iterable[Sequence[list[Any]]]) -> tuple[list[int], str]:
    """Write chunks to a Parquet file, one row group each, so that ``Reference`` finds out if they change.

    :param file: open for writing bytes.
    :param labels: the names of the columns, in order.
    :param chunks: of each chunk the cells of each column, in order; read one at a time.
    :return: how many rows each chunk has; and what is to follow the stem of the file's name.
    """
    sizes, digests = [], []
    with ParquetWriter(file, labels) as writer:
        for cells in chunks:
            before = writer.rows
            writer.write(cells)
            sizes.append(writer.rows - before)
            digests.append(_digest_of_cells(cells))
        written = json.dumps(digests)
        writer.add_metadata(_DIGESTS, written)
    return sizes, f"~{_digest_of(written)[:8]}.parquet"


def _digest_of_cells(cells: Sequence[list[Any]]) -> str:
    return _digest_of(json.dumps(list(cells)))


def _digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _is_row(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
