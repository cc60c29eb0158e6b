"""The result file: every text survives it, and what is damaged or cut off is refused."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.result_file import ResultLimits, read_csv
from airflow_provider_nexthink.exceptions import NexthinkExportError, NexthinkResultLimitError

ODD_NAMES = [
    "NA",
    "None",
    "null",
    "nan",
    "00123",
    "1E10",
    "-0",
    "TRUE",
    "",
    " ",
    'q"u,o"te',
    "l1\nl2",
    "c\r\nd",
    "Zoë 🖥",
]


def read_whole(
    chunks: Iterable[bytes], limits: ResultLimits | None = None, *, ends_with_line: bool = False
) -> tuple[list[str], list[dict[str, str]]]:
    columns, rows = read_csv(chunks, limits, ends_with_line=ends_with_line)
    return columns, [dict(zip(columns, cells, strict=True)) for cells in rows]


def written(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def halves(compress: Callable[[bytes], bytes], content: bytes) -> bytes:
    middle = len(content) // 2
    return compress(content[:middle]) + compress(content[middle:])


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def last_bit_flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def zstd_of_unknown_size(content: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(content) + stream.flush()


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "bom": lambda content: b"\xef\xbb\xbf" + content,
    "gzip": gzip.compress,
    "gzip of bom": lambda content: gzip.compress(b"\xef\xbb\xbf" + content),
    "gzip in two members": lambda content: halves(gzip.compress, content),
    "zstd": zstd,
    "zstd of unknown size": zstd_of_unknown_size,
    "zstd of bom": lambda content: zstd(b"\xef\xbb\xbf" + content),
    "zstd in two frames": lambda content: halves(zstd, content),
}


def in_chunks(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


cells = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(ODD_NAMES)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    # A first column whose name begins with the BOM character cannot be told from a BOM. One that begins like a web page
    # or JSON is taken for an error message; so is a header without rows that does not look like one.
    names = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff<{["), max_size=20)
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    rows = draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=8))
    return [columns, *rows]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(table=tables(), size=st.integers(1, 300))
def test_read_csv_every_text_survives(wrapper: str, table: list[list[str]], size: int) -> None:
    columns, rows = read_whole(in_chunks(WRAPPERS[wrapper](written(table)), size))

    assert columns == table[0]
    assert [list(row.values()) for row in rows] == table[1:]
    assert all(list(row) == columns for row in rows)


@pytest.mark.parametrize(
    "wrapper", ["gzip", "gzip in two members", "zstd", "zstd of unknown size", "zstd in two frames"]
)
@given(table=tables(), size=st.integers(1, 300), data=st.data())
def test_read_csv_compressed_file_cut_off_is_refused(
    wrapper: str, table: list[list[str]], size: int, data: st.DataObject
) -> None:
    content = WRAPPERS[wrapper](written(table))
    first_member = len(WRAPPERS[wrapper.split()[0]](written(table)[: len(written(table)) // 2]))
    # A whole first member looks like a whole file.
    cut = data.draw(st.integers(1, len(content) - 1).filter(lambda cut: "two" not in wrapper or cut != first_member))
    with pytest.raises(NexthinkExportError):
        read_whole(in_chunks(content[:cut], size))


@pytest.mark.slow
def test_read_csv_large_file_in_chunks() -> None:
    table = [
        ["device.uid", "device.name"],
        *([f"u{number}", ODD_NAMES[number % len(ODD_NAMES)]] for number in range(20_000)),
    ]
    for wrapper in WRAPPERS.values():
        columns, rows = read_whole(in_chunks(wrapper(written(table)), 65_536))
        assert [columns, *(list(row.values()) for row in rows)] == table


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_read_csv_empty_chunks_change_nothing(wrapper: str) -> None:
    content = WRAPPERS[wrapper](b"a,b\r\n1,2\r\n")
    chunks = [piece for chunk in in_chunks(content, 3) for piece in (b"", chunk, b"")]

    assert read_whole(iter(chunks)) == (["a", "b"], [{"a": "1", "b": "2"}])


def read(content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    return read_whole(iter([content]))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_read_csv_header_only_has_no_rows(wrapper: str) -> None:
    assert read(WRAPPERS[wrapper](b"a,b\r\n")) == (["a", "b"], [])


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"a,b\r1,2\r", b"a,b\r\n1,2", b'"a","b"\n"1","2"\n', b"a,b\n\n1,2\n\r\n\n"]
)
def test_read_csv_line_ends_quotes_and_blank_lines_change_nothing(content: bytes) -> None:
    assert read(content) == (["a", "b"], [{"a": "1", "b": "2"}])


def test_read_csv_empty_value_of_the_only_column_is_a_row() -> None:
    assert read(b'a\r\n""\r\n') == (["a"], [{"a": ""}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,a\r\n1,2,3\r\n", "has a column twice: a, b, a"),
        (b"a,b\r\n1,2\r\n1\r\n", "Line 3 of the result file has 1 values for 2 columns"),
        (b"a,b\r\n1,2,3\r\n", "Line 2 of the result file has 3 values for 2 columns"),
        (b'a,b\r\n1,"2\r\n', "cannot be read: Error"),
        (b'a,b\r\n1,"2"x\r\n', "cannot be read: Error"),
        (b"a,b\r\n1,\xe9\r\n", "cannot be read: UnicodeDecodeError"),
        (b"a,b\r\n1,\xc3", "cannot be read: UnicodeDecodeError"),
        (b"\x1f\x8b but no gzip", "it is damaged"),
        (gzip.compress(b"a\r\n1\r\n", mtime=0)[:-8] + b"\x00" * 8, "it is damaged"),
        (gzip.compress(b"a\r\n1\r\n", mtime=0) + b"trailing", "it is damaged"),
        (last_bit_flipped(gzip.compress(b"a\r\n1\r\n", mtime=0)), "it is damaged"),
        (last_bit_flipped(zstd(b"a,b\r\n" + b"1,2\r\n" * 1000)), "it is damaged"),
        (zstd(b"a\r\n1\r\n") + b"trailing", "it is damaged"),
        (b"\x28\xb5\x2f\xfd but no zstd", "it ends too early"),
        *(
            (magic[:size], "it ends too early")
            for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
            for size in (1, len(magic))
        ),
    ],
)
def test_read_csv_damaged_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(NexthinkExportError, match=message):
        read(content)


def test_read_csv_value_beyond_128_kib_is_refused() -> None:
    assert read(b"a,b\r\n" + b"x" * 131_072 + b",2\r\n") == (["a", "b"], [{"a": "x" * 131_072, "b": "2"}])

    with pytest.raises(NexthinkExportError, match=r"cannot be read: Error: field larger than field limit"):
        read(b"a,b\r\n" + b"x" * 131_073 + b",2\r\n")


def test_read_csv_streams() -> None:
    given_out: list[int] = []

    def chunks() -> Iterator[bytes]:
        yield b"a,a\r\n"
        for number in range(100):
            given_out.append(number)
            yield b"1,2\r\n" * 10_000

    with pytest.raises(NexthinkExportError, match="a column twice"):
        read_whole(chunks())
    assert len(given_out) < 10


# --- what is no table


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\n\n\n",
        b"<!DOCTYPE html><html><body>Access, denied</body></html>",
        b"\n  <html>\n<head>\n</head>\n</html>\n",
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n',
        b"<Error><Code>AccessDenied</Code></Error>",
        b"<h1>502 Bad Gateway</h1>\n",
        b'{"message": "Access denied"}',
        b'{"message": "Access denied"}\n',
        b'{"code": 500, "message": "x"}\n{"code": 500, "message": "x"}\n',
        b'{\n  "message": "x"\n}\n',
        b"{}\n",
        b'[\n{"a": 1}\n]\n',
        b"[]\n",
        b"[1,2]\n[3,4]\n",
        b"Access Denied\n",
        b"upstream connect error or disconnect/reset before headers\r\n",
        b"error",
        b"device.uid,device.na",
    ],
)
def test_read_csv_error_page_is_not_a_table(wrapper: str, content: bytes) -> None:
    with pytest.raises(NexthinkExportError, match="not a CSV table"):
        read(WRAPPERS[wrapper](content))


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
def test_read_csv_no_bytes_is_not_a_table(chunks: list[bytes]) -> None:
    with pytest.raises(NexthinkExportError, match="not a CSV table"):
        read_whole(chunks)


# --- what was cut off


@pytest.mark.parametrize("wrapper", ["plain", "bom"])
@pytest.mark.parametrize("cut", [b"a,b\r\n1,2\r\n3", b'a,b\r\n1,2\r\n3,"4', b"a,b\r\n1,2\r\n3,h\xc3"])
def test_read_csv_cut_off_within_a_row_is_refused(wrapper: str, cut: bytes) -> None:
    with pytest.raises(NexthinkExportError, match="result file"):
        read(WRAPPERS[wrapper](cut))


def test_read_csv_length_unknown_requires_a_line_end() -> None:
    half_a_name = b"uid,name\r\n1,PC-1\r\n2,PC"
    with pytest.raises(NexthinkExportError, match="may be cut off"):
        read_whole([half_a_name], ends_with_line=True)
    assert read_whole([half_a_name + b"-2\n"], ends_with_line=True)[1][1]["name"] == "PC-2"
    assert read_whole([gzip.compress(half_a_name + b"-2")], ends_with_line=True)[1][1]["name"] == "PC-2"


# --- the formats that compressed files may have


MAGIC = (b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd")


def skippable(size: int, low: int = 0x50) -> bytes:
    return bytes([low]) + b"\x2a\x4d\x18" + size.to_bytes(4, "little") + b"x" * size


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"a\r\n1\r\n", mtime=0) + b"\0" * 100_000,
        gzip.compress(b"a\r\n", mtime=0) + b"\0" * 7 + gzip.compress(b"1\r\n", mtime=0) + b"\0",
        gzip.compress(b"", mtime=0) + gzip.compress(b"a\r\n1\r\n", mtime=0),
        skippable(0) + zstd(b"a\r\n1\r\n"),
        skippable(300_000, 0x5F) + skippable(3) + zstd(b"a\r\n") + skippable(9) + zstd(b"1\r\n") + skippable(1),
        zstd(b"") + zstd(b"a\r\n1\r\n"),
    ],
)
def test_read_csv_padding_and_skippable_frames_change_nothing(content: bytes, size: int) -> None:
    assert read_whole(in_chunks(content, size)) == (["a"], [{"a": "1"}])


@pytest.mark.parametrize("cut", [1, 4, 6, 10])
def test_read_csv_cut_off_in_a_skippable_frame_is_refused(cut: int) -> None:
    with pytest.raises(NexthinkExportError, match="ends too early"):
        read(zstd(b"a\r\n1\r\n") + skippable(50)[:cut])


@given(
    content=st.binary(max_size=300), magic=st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", skippable(3)])
)
def test_read_csv_arbitrary_bytes_are_read_or_refused(content: bytes, magic: bytes) -> None:
    with contextlib.suppress(NexthinkExportError):
        columns, rows = read(magic + content)
        assert columns
        assert all(len(row) == len(columns) for row in rows)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_read_csv_flipped_bit_is_read_or_refused(wrapper: str, at: int, bit: int) -> None:
    content = bytearray(WRAPPERS[wrapper](b"a,b\r\n" + b"1,2\r\n" * 20))
    content[at % len(content)] ^= 1 << bit
    with contextlib.suppress(NexthinkExportError):
        read(bytes(content))


# --- limits

BOMB_BYTES = 256 * 1024**2


def pieces_of(compress: Any, piece: bytes, size: int, start: bytes = b"") -> Iterator[bytes]:
    yield compress.compress(start)
    for _ in range(size // len(piece)):
        yield compress.compress(piece)
    yield compress.flush()


def bomb(kind: str, piece: bytes) -> bytes:
    compress = zlib.compressobj(9, wbits=31) if kind == "gzip" else zstandard.ZstdCompressor().compressobj()
    return b"".join(pieces_of(compress, piece * (1024**2 // len(piece)), BOMB_BYTES, b"a,b\r\n"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (b"x", "more than 1,048,576 characters"),
        (b"\0", "more than 1,048,576 characters"),
        (b'"\n",', "more than 1,048,576 characters"),
        (b"\n", "more than 100,000 rows"),
    ],
)
def test_read_csv_bomb_is_refused_in_bounded_memory(kind: str, piece: bytes, message: str) -> None:
    content = bomb(kind, piece)
    tracemalloc.start()
    try:
        with pytest.raises(NexthinkResultLimitError, match=message):
            read_whole([content], ResultLimits(rows=100_000))
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024**2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_read_csv_limits_are_exact(kind: str) -> None:
    table = b"a,b\r\n1,2\r\n3,4\r\n"
    whole = WRAPPERS[kind](table)
    exact = ResultLimits(rows=2, row_characters=5, cells=4, unpacked_bytes=len(table))
    assert len(read_whole([whole], exact)[1]) == 2
    for limit in ("rows", "row_characters", "cells", "unpacked_bytes"):
        with pytest.raises(NexthinkResultLimitError):
            read_whole([whole], dataclasses.replace(exact, **{limit: getattr(exact, limit) - 1}))


def test_read_csv_default_limits_admit_a_fleet_of_a_million() -> None:
    # A million devices with 50 columns of 40 characters.
    limits = ResultLimits()
    assert limits.rows >= 1_000_000
    assert limits.cells >= 50 * 1_000_000
    assert limits.unpacked_bytes >= 50 * 41 * 1_000_000
    assert limits.row_characters >= 50 * 41


@pytest.mark.parametrize(
    "header",
    [
        "device.uid",
        "days_unseen",
        "device.uid,device.name",
        "Device UID,Name (last seen),Größe %",
        "uid,name",
        "_a,b-c",
    ],
)
def test_read_csv_header_without_rows_is_an_empty_table(header: str) -> None:
    columns, rows = read_whole(iter([f"{header}\r\n".encode()]))
    assert (columns, rows) == (header.split(","), [])


@pytest.mark.parametrize(
    "text",
    [
        "Forbidden",
        "null",
        "%PDF-1.4",
        "403 Forbidden, access denied",
        "Error, the service is not available.",
        "Code: AccessDenied, Message: expired",
        "AccessDenied",
        "upstream connect error, reset!",
        "{uid,name",
    ],
)
def test_read_csv_message_of_a_gateway_is_never_an_empty_table(text: str) -> None:
    with pytest.raises(NexthinkExportError, match="not a CSV table"):
        read_whole(iter([f"{text}\n".encode()]))
