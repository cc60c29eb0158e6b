"""The result file: every text survives it, and what is damaged or cut off is refused."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.result_file import read_csv
from airflow_provider_nexthink.exceptions import NexthinkExportError

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
    # A first column whose name begins with the BOM character cannot be told from a BOM.
    names = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=20)
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return [columns, *draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=8))]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@given(table=tables(), size=st.integers(1, 300))
def test_every_text_survives_the_file(wrapper: str, table: list[list[str]], size: int) -> None:
    columns, rows = read_csv(in_chunks(WRAPPERS[wrapper](written(table)), size))

    assert columns == table[0]
    assert [list(row.values()) for row in rows] == table[1:]
    assert all(list(row) == columns for row in rows)


@pytest.mark.parametrize(
    "wrapper", ["gzip", "gzip in two members", "zstd", "zstd of unknown size", "zstd in two frames"]
)
@given(table=tables(), size=st.integers(1, 300), data=st.data())
def test_a_compressed_file_that_is_cut_off_is_refused(
    wrapper: str, table: list[list[str]], size: int, data: st.DataObject
) -> None:
    content = WRAPPERS[wrapper](written(table))
    first_member = len(WRAPPERS[wrapper.split()[0]](written(table)[: len(written(table)) // 2]))
    # A whole first member looks like a whole file.
    cut = data.draw(st.integers(1, len(content) - 1).filter(lambda cut: "two" not in wrapper or cut != first_member))
    with pytest.raises(NexthinkExportError):
        read_csv(in_chunks(content[:cut], size))


def test_a_large_file_in_pieces() -> None:
    table = [
        ["device.uid", "device.name"],
        *([f"u{number}", ODD_NAMES[number % len(ODD_NAMES)]] for number in range(20_000)),
    ]
    for wrapper in WRAPPERS.values():
        columns, rows = read_csv(in_chunks(wrapper(written(table)), 65_536))
        assert [columns, *(list(row.values()) for row in rows)] == table


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pieces_of_no_bytes_change_nothing(wrapper: str) -> None:
    content = WRAPPERS[wrapper](b"a,b\r\n1,2\r\n")
    chunks = [piece for chunk in in_chunks(content, 3) for piece in (b"", chunk, b"")]

    assert read_csv(iter(chunks)) == (["a", "b"], [{"a": "1", "b": "2"}])
    assert read_csv(iter([b"", b""])) == ([], [])


def read(content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    return read_csv(iter([content]))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_without_rows(wrapper: str) -> None:
    assert read(WRAPPERS[wrapper](b"")) == ([], [])
    assert read(WRAPPERS[wrapper](b"a,b\r\n")) == (["a", "b"], [])
    assert read_csv(iter([])) == ([], [])


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"a,b\r1,2\r", b"a,b\r\n1,2", b'"a","b"\n"1","2"\n', b"a,b\n\n1,2\n\r\n\n"]
)
def test_line_ends_quotes_and_blank_lines_change_nothing(content: bytes) -> None:
    assert read(content) == (["a", "b"], [{"a": "1", "b": "2"}])


def test_an_empty_value_of_the_only_column_is_a_row() -> None:
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
        (b"\x28\xb5\x2f\xfd but no zstd", "it is damaged"),
        *(
            (magic[:size], "it ends too early")
            for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
            for size in (1, len(magic))
        ),
    ],
)
def test_a_damaged_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(NexthinkExportError, match=message):
        read(content)


def test_a_value_beyond_128_kib_is_refused() -> None:
    assert read(b"a,b\r\n" + b"x" * 131_072 + b",2\r\n") == (["a", "b"], [{"a": "x" * 131_072, "b": "2"}])

    with pytest.raises(NexthinkExportError, match=r"cannot be read: Error: field larger than field limit"):
        read(b"a,b\r\n" + b"x" * 131_073 + b",2\r\n")


def test_a_file_is_read_as_it_comes() -> None:
    given_out: list[int] = []

    def chunks() -> Iterator[bytes]:
        yield b"a,a\r\n"
        for number in range(100):
            given_out.append(number)
            yield b"1,2\r\n" * 10_000

    with pytest.raises(NexthinkExportError, match="a column twice"):
        read_csv(chunks())
    assert len(given_out) < 10
