"""The file with the result of an export: CSV, plain or compressed. Every value is text, as it is in Nexthink.

The file comes from the network: it is decompressed piece by piece and parsed row by row, in time that is linear in its
size, and refused once it exceeds the limits. No part of it may be lost without an error: a device that is missing from
the result is taken for gone.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkResultLimitError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_ZSTD_RLE_BLOCK = 1

_PIECE_BYTES = 8192
_UNPACKED_PIECE_BYTES = 128 * 1024

# The beginning of a web page, of XML and of JSON. No column of NQL is named like that.
_MARKUP = re.compile(r"<(!doctype|!--|\?xml|[a-z][\w:.-]*(\s|/|>|$))", re.IGNORECASE)
_JSON = re.compile(r"""\{\s*("|\}|$)|\[\s*(["{\[\]]|-?\d|$)""")


@dataclass(frozen=True)
class ResultLimits:
    """How large a result file may be. A larger one is an error: it is not what a query of devices gives.

    :param rows: how many rows it may have; blank lines count.
    :param row_characters: how long a row may be.
    :param cells: how many cells all its rows may have: each takes memory, an empty one too.
    :param unpacked_bytes: how large it may be once decompressed.
    """

    rows: int = 3_000_000
    row_characters: int = 1024 * 1024
    cells: int = 100_000_000
    unpacked_bytes: int = 4 * 1024**3


STREAM_LIMITS = ResultLimits(rows=100_000_000, cells=1_000_000_000, unpacked_bytes=64 * 1024**3)
"""The default for a result that is read row by row, and takes no memory."""


def read_csv(
    chunks: Iterable[bytes], limits: ResultLimits | None = None, *, ends_with_line: bool = False
) -> tuple[list[str], Iterator[list[str]]]:
    """Read a result file as it arrives: plain, gzip or zstd by its first bytes, UTF-8 with or without BOM.

    Only the last row shows that the file is complete: a reader that stops before has read nothing it can rely on.

    :param chunks: the bytes of the file.
    :param limits: how large it may be; by default as ``ResultLimits`` says.
    :param ends_with_line: whether an uncompressed file must end with a line end, because nothing else shows that it is
        complete.
    :return: the columns, and an iterator over the rows; every value is text. The iterator raises the same errors.
    :raises NexthinkResultLimitError: if it exceeds a limit.
    :raises NexthinkExportError: if it is cut off, damaged, or no CSV table with a header.
    """
    limits = limits or ResultLimits()
    file = _Chunks(iter(chunks))
    unpacked = _Chunks(_limited(_unpacked(file), limits.unpacked_bytes))
    text = io.TextIOWrapper(io.BufferedReader(unpacked, _UNPACKED_PIECE_BYTES), encoding="utf-8-sig", newline="")
    lines = _Lines(text, limits.row_characters)
    reader = csv.reader(lines, strict=True)
    with _parse_errors():
        columns = _header(reader, lines)

    def rows() -> Iterator[list[str]]:
        has_rows = False
        with _parse_errors():
            for cells in _rows(reader, lines, len(columns), limits):
                has_rows = True
                yield cells
        has_line_end = lines.last.endswith(("\r", "\n"))
        if not has_rows and not (has_line_end and _is_header(columns)):
            raise _not_a_table(", ".join(columns))
        if ends_with_line and not has_line_end and not file.is_compressed:
            raise NexthinkExportError("The result file ends within a line: it may be cut off.")

    return columns, rows()


@contextmanager
def _parse_errors() -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise NexthinkExportError(f"The result file cannot be read: {type(error).__name__}: {error}.") from None


def _header(reader: Iterator[list[str]], lines: _Lines) -> list[str]:
    columns = next(reader, [])
    if not columns or _MARKUP.match(columns[0].lstrip()) or _JSON.match(columns[0].lstrip()):
        raise _not_a_table(lines.last)
    if len(set(columns)) != len(columns):
        raise NexthinkExportError(f"The result file has a column twice: {_shortened(', '.join(columns))}.")
    return columns


def _rows(reader: Any, lines: _Lines, width: int, limits: ResultLimits) -> Iterator[list[str]]:
    max_rows = min(limits.rows, limits.cells // width)
    lines.begin_row()
    for number, cells in enumerate(reader, 1):
        lines.begin_row()
        if number > max_rows:
            raise NexthinkResultLimitError(
                f"The result file has more than {max_rows:,} rows of {width:,} columns (limits: {limits.rows:,} rows, "
                f"{limits.cells:,} cells). Narrow the query, or raise the limit."
            )
        if not cells:  # a blank line
            continue
        if len(cells) != width:
            raise NexthinkExportError(
                f"Line {reader.line_num} of the result file has {len(cells)} values for {width} columns."
            )
        yield cells


def _is_header(columns: list[str]) -> bool:
    """Tell the header of a table without rows from a line of text, such as the message of a gateway.

    A single word is a header only if it looks like a field of NQL: ``device.uid``, ``days_unseen``.
    """
    if len(columns) == 1:
        return re.fullmatch(r"[^\W\d]\w*([._]\w+)+", columns[0]) is not None
    return all(re.fullmatch(r"[^\W\d]([\w .#/()%-]*[\w)%])?", column) for column in columns)


def _not_a_table(beginning: str) -> NexthinkExportError:
    return NexthinkExportError(
        f"The result file is not a CSV table with a header; it begins with {_shortened(beginning)!r}. Something else "
        "than the store of the results may have responded."
    )


def _shortened(text: str) -> str:
    return text.strip()[:80]


class _Lines:
    """The lines of a text. Those of one row may be only so long together: a value may contain line ends."""

    def __init__(self, text: io.TextIOBase, max_characters: int) -> None:
        self._text = text
        self._max_characters = max_characters
        self.last = ""
        self.begin_row()

    def begin_row(self) -> None:
        self._left = self._max_characters

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        if not line:
            raise StopIteration
        self._left -= len(line)
        if self._left < 0:
            raise NexthinkResultLimitError(
                f"The result file has a row of more than {self._max_characters:,} characters: it is not a table of "
                "devices, or the limit is too low."
            )
        self.last = line
        return line


class _Chunks(io.RawIOBase):
    """Bytes that come in chunks, as a file. Each is copied once, however little of it is read at a time."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.is_compressed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _limited(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise NexthinkResultLimitError(
                f"The result file is larger than {max_bytes:,} bytes unpacked. Narrow the query, or raise the limit."
            )
        yield piece


def _unpacked(raw: _Chunks) -> Iterator[bytes]:
    """Decompress what its first bytes say is compressed, in small pieces."""
    file = io.BufferedReader(raw, _PIECE_BYTES)
    start = file.read(len(_ZSTD))
    if start and any(magic.startswith(start) and magic != start for magic in (_GZIP, _ZSTD)):
        raise _cut_off()
    pieces = itertools.chain([start], iter(lambda: file.read1(_PIECE_BYTES), b""))
    if start.startswith(_GZIP):
        raw.is_compressed = True
        return _gunzipped(pieces)
    if start == _ZSTD or start in _ZSTD_SKIPPABLE:
        raw.is_compressed = True
        return _unzstd(start, file)
    return pieces


def _gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip: any number of members; zeros after a member are padding."""
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        rest, unpacked = piece, b""
        # zlib may hold back more than it was allowed to give, also after it has taken all of its input.
        while rest or len(unpacked) == _UNPACKED_PIECE_BYTES:
            if decoder.eof:
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            try:
                unpacked = decoder.decompress(rest, _UNPACKED_PIECE_BYTES)
            except zlib.error as error:
                raise _damaged(error) from None
            yield unpacked
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    if not decoder.eof:
        raise _cut_off()


def _unzstd(magic: bytes, file: IO[bytes]) -> Iterator[bytes]:
    """Decompress zstd (RFC 8878), one block at a time: a block gives at most 128 KiB, however little it takes.

    Handed a larger piece, the decoder would unpack all of it at once: 64 KiB may unpack to 2 GiB.
    """
    try:
        import zstandard
    except ImportError:
        raise NexthinkExportError(
            "The result file is compressed with zstd: install airflow-provider-nexthink[zstd], or choose "
            "compression='GZIP'."
        ) from None

    def take(size: int) -> bytes:
        taken = file.read(size)
        if len(taken) != size:
            raise _cut_off()
        return taken

    while magic:
        if magic in _ZSTD_SKIPPABLE:
            left = int.from_bytes(take(4), "little")
            while left:
                left -= len(take(min(left, _UNPACKED_PIECE_BYTES)))
        elif magic == _ZSTD:
            decoder = zstandard.ZstdDecompressor().decompressobj()
            descriptor = take(1)
            flags = descriptor[0]
            is_single_segment = bool(flags & 0x20)
            header = (not is_single_segment) + (0, 1, 2, 4)[flags & 3] + (is_single_segment, 2, 4, 8)[flags >> 6]
            try:
                yield decoder.decompress(magic + descriptor + take(header))
                is_last = 0
                while not is_last:
                    head = take(3)
                    word = int.from_bytes(head, "little")
                    is_last, kind, size = word & 1, word >> 1 & 3, word >> 3
                    yield decoder.decompress(head + take(1 if kind == _ZSTD_RLE_BLOCK else size))
                if flags & 4:  # a checksum
                    yield decoder.decompress(take(4))
            except zstandard.ZstdError as error:
                raise _damaged(error) from None
            if not decoder.eof:
                raise _damaged("its blocks do not end where its frame does")
        else:
            raise _damaged("something else follows a frame")
        magic = file.read(len(_ZSTD))
        if 0 < len(magic) < len(_ZSTD):
            raise _cut_off()


def _cut_off() -> NexthinkExportError:
    return NexthinkExportError("The result file cannot be read: it ends too early.")


def _damaged(reason: object) -> NexthinkExportError:
    return NexthinkExportError(f"The result file cannot be read: it is damaged ({reason}).")
