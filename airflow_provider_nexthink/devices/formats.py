"""Tables in files: CSV, JSON Lines and Parquet, read and written. Every cell stays what it is.

Where a file lies is not known here: what is read and written is an open file.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

SUFFIXES = (".csv", ".parquet", ".jsonl")

STORAGE_HINT = (
    "Object storage needs the Airflow provider that knows it, such as apache-airflow-providers-amazon[s3fs] for s3."
)

_DELIMITERS = (",", ";", "\t")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NUMBERS = ("batch", "attempts")


def suffix_of(path: str) -> str | None:
    """Return the suffix that says which of the formats a file has, or None if it has none of them.

    :param path: a path, or an address of object storage.
    """
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in SUFFIXES else None


def is_path(text: str) -> bool:
    """Tell the path of a file from text that holds the devices itself.

    :param text: what was given, without blanks around it.
    """
    one_line = "\n" not in text and "\r" not in text
    return one_line and not text.startswith(("[", "{")) and suffix_of(text) is not None


def redacted_path(path: str) -> str:
    """Return a path for an error: without a password.

    :param path: a path, or an address of object storage.
    """
    return re.sub(r"://[^/@]*:[^/@]*@", "://***@", path)


def require_parquet(purpose: str) -> None:
    """Check that pyarrow is there.

    :param purpose: what it is needed for, as the begin of a sentence.
    :raises NexthinkInputError: if it is not; says what to install.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise NexthinkInputError(
            f"{purpose} needs pyarrow: install airflow-provider-nexthink[dataframe]. This try sent nothing."
        )


def read_csv(text: Iterable[str], what: str) -> tuple[list[str], Iterator[list[str]]]:
    """Read CSV as Nexthink's Investigations and spreadsheets write it: commas, semicolons or TABs.

    :param text: its lines, with their ends.
    :param what: which text it is, for errors.
    :return: the header, and the rows as they are asked for.
    :raises NexthinkInputError: if there is no header, or (while the rows are read) a row does not fit it.
    """
    lines = iter(text)
    first, before = next(((line, at) for at, line in enumerate(lines, 1) if line.strip()), ("", 0))
    first = first.removeprefix("\ufeff")
    if told := re.fullmatch(r"sep=(.)\s*", first):  # spreadsheets write that for each other
        first, before = next(lines, ""), before + 1
    if not first.strip():
        raise NexthinkInputError(f"{what} is empty: it has not even a header.")
    delimiter = told[1] if told else max(_DELIMITERS, key=lambda each: len(_cells(first, each)))
    # "uid, name": who writes a blank behind the separator in the header does so in the rows.
    has_blanks = all(cell[:1] == " " for cell in _cells(first, delimiter)[1:])
    header = _cells(first, delimiter, has_blanks)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=has_blanks, strict=True)
    return header, _fitting(rows, len(header), before, what)


def read_file(file: BinaryIO, path: str) -> Any:
    """Read a table from an open file, in the format that the path's suffix says.

    :param file: open for reading bytes.
    :param path: where it lies.
    :return: for CSV the header and the rows; for JSON Lines a list of mappings; for Parquet an Arrow table.
    :raises NexthinkInputError: if it is no such file; for CSV also while the rows are read.
    """
    suffix, what = suffix_of(path), f"The file {redacted_path(path)}"
    if suffix == ".parquet":
        return _read_parquet(file, what)
    start = file.read(2)
    rest = io.BytesIO(start + file.read())
    text = io.TextIOWrapper(rest, encoding="utf-16" if start in _UTF_16 else "utf-8-sig", newline="")
    return read_csv(_decoded(text, what), what) if suffix == ".csv" else read_json_lines(_decoded(text, what), what)


def read_json_lines(text: Iterable[str], what: str) -> list[dict[str, Any]]:
    """Read JSON Lines: one object for each line.

    :param text: its lines.
    :param what: which text it is, for errors.
    :raises NexthinkInputError: if a line is no JSON object, or one that names a key twice.
    """
    rows = []
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except RepeatedKeyError as error:
            raise NexthinkInputError(f"Line {number} of {_small(what)} {repeated_key(error)}") from None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise NexthinkInputError(f"Line {number} of {_small(what)} is no JSON object.")
        rows.append(row)
    return rows


def repeated_key(error: RepeatedKeyError) -> str:
    """Say what is wrong with JSON that names a key twice, as the end of a sentence.

    :param error: of ``read_json``.
    """
    return (
        f"has a JSON object that names the key {error.key[:60]!r} twice: {error.preview[:300]}. Which value is meant "
        "is ambiguous: name each key once."
    )


def write_file(file: BinaryIO, path: str, columns: Mapping[str, list[Any]]) -> None:
    """Write an outcome table to an open file, in the format that the path's suffix says.

    :param file: open for writing bytes.
    :param path: where it lies.
    :param columns: the table, column by column: text, whole numbers, None.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        _write_parquet(file, columns)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    rows = zip(*columns.values(), strict=True)
    if suffix == ".csv":
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        text.writelines(f"{json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)}\n" for row in rows)
    text.flush()
    text.detach()


def _cells(line: str, delimiter: str, skipinitialspace: bool = False) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=skipinitialspace, strict=True))
    except csv.Error:
        return []


def _fitting(rows: Any, width: int, before: int, what: str) -> Iterator[list[str]]:
    """Give the rows of a CSV reader as long as they fit the header.

    :param before: how many lines were read before it.
    """
    try:
        for cells in rows:
            if not cells:  # a blank line
                continue
            if len(cells) != width:
                raise NexthinkInputError(
                    f"Line {before + rows.line_num} of {_small(what)} has {len(cells)} values for the {width} columns "
                    "of its header. A name with a separator in it must stand in quotes."
                )
            yield cells
    except csv.Error as error:
        raise NexthinkInputError(f"Line {before + rows.line_num} of {_small(what)} is no CSV: {error}.") from None


def _decoded(text: io.TextIOWrapper, what: str) -> Iterator[str]:
    try:
        yield from text
    except UnicodeError:
        raise NexthinkInputError(f"{what} is not UTF-8: save it as 'CSV UTF-8'.") from None


def _read_parquet(file: BinaryIO, what: str) -> Any:
    require_parquet("A .parquet file")
    import pyarrow as pa
    from pyarrow import parquet

    content = io.BytesIO(file.read())  # an error of the storage, not of the file, is raised here
    try:
        return parquet.ParquetFile(content, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if "crypt" in str(error):
            raise NexthinkInputError(f"{what} is encrypted: write it again without encryption.") from None
        raise NexthinkInputError(
            f"{what} is no Parquet file, or is damaged: write or copy it again. pyarrow says: {str(error)[:200]}"
        ) from None


def _write_parquet(file: BinaryIO, columns: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {
        name: pa.array(cells, type=pa.int64() if name in _NUMBERS else pa.string()) for name, cells in columns.items()
    }
    parquet.write_table(pa.table(arrays), file, write_page_checksum=True)


def _small(what: str) -> str:
    return what[0].lower() + what[1:]
