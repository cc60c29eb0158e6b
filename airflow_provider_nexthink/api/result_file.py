"""The file with the result of an export: CSV, plain or compressed. Every value is text, as it is in Nexthink."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_nexthink.exceptions import NexthinkExportError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def read_csv(chunks: Iterator[bytes]) -> tuple[list[str], list[dict[str, str]]]:
    """Read a result file as it comes: plain, gzip or zstd by its first bytes, UTF-8 with or without BOM.

    :param chunks: the bytes of the file.
    :return: the columns and the rows, every value as text. A file of no bytes has neither.
    :raises NexthinkExportError: if it is cut off, damaged or no such file.
    """
    try:
        file = io.BufferedReader(_Stream(_decompressed(chunks)))
        lines = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
        columns = next(lines, [])
        if len(set(columns)) != len(columns):
            raise NexthinkExportError(f"The result file has a column twice: {', '.join(columns)}.")
        rows = []
        for cells in lines:
            if not cells:  # a blank line
                continue
            if len(cells) != len(columns):
                raise NexthinkExportError(
                    f"Line {lines.line_num} of the result file has {len(cells)} values for {len(columns)} columns."
                )
            rows.append(dict(zip(columns, cells, strict=True)))
    except OSError as error:
        raise NexthinkExportError(f"The result file cannot be read: {error}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise NexthinkExportError(f"The result file cannot be read: {type(error).__name__}: {error}.") from None
    return columns, rows


class _Stream(io.RawIOBase):
    """Bytes that come in pieces, as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress what its first bytes say is compressed; a file that ends too early is an error."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= len(_ZSTD):
            break
    if start and any(magic.startswith(start) and magic != start for magic in (_GZIP, _ZSTD)):
        raise OSError("it ends too early")
    everything = itertools.chain([start], chunks)
    if start.startswith(_GZIP):
        new_decoder: Callable[[], Any] = functools.partial(zlib.decompressobj, wbits=zlib.MAX_WBITS | 16)
    elif start.startswith(_ZSTD):
        new_decoder = _zstd_decoder
    else:
        yield from everything
        return
    decoder = new_decoder()
    for chunk in everything:
        rest = chunk
        while rest:
            if decoder.eof:  # what follows is another frame of the same file
                decoder = new_decoder()
            try:
                yield decoder.decompress(rest)
            except Exception as error:  # noqa: BLE001 - zlib's error, or zstandard's, which may not be installed
                raise OSError(f"it is damaged ({error})") from None
            rest = decoder.unused_data
    if not decoder.eof:
        raise OSError("it ends too early")


def _zstd_decoder() -> Any:
    try:
        import zstandard
    except ImportError:
        raise NexthinkExportError(
            "The result file is compressed with zstd: install airflow-provider-nexthink[zstd], or choose "
            "compression='GZIP'."
        ) from None
    return zstandard.ZstdDecompressor().decompressobj()
