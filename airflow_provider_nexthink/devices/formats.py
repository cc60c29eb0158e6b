"""Read and write tables as CSV, JSON Lines and Parquet. Cells keep their values.

These functions take open files; where a file is stored is up to the caller.
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
from airflow_provider_nexthink.status import NUMBER_COLUMNS
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

SUFFIXES = (".csv", ".parquet", ".jsonl")

STORAGE_HINT = "Object storage needs its Airflow provider, such as apache-airflow-providers-amazon[s3fs] for s3."

_DELIMITERS = (",", ";", "\t")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def suffix_of(path: str) -> str | None:
    """Return the suffix that names the format of a file, or None if it is not a known one.

    :param path: a path, or a URL of object storage.
    """
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in SUFFIXES else None


def is_path(text: str) -> bool:
    """Tell whether text is the path of a file, and not the devices themselves.

    :param text: the text, without surrounding blanks.
    """
    one_line = "\n" not in text and "\r" not in text
    return one_line and not text.startswith(("[", "{")) and suffix_of(text) is not None


def redacted_path(path: str) -> str:
    """Return a path without its password, for errors and logs.

    :param path: a path, or a URL of object storage.
    """
    return re.sub(r"://[^/@]*:[^/@]*@", "://***@", path)


def require_parquet(purpose: str) -> None:
    """Check that pyarrow is installed.

    :param purpose: what needs it, as the start of a sentence.
    :raises NexthinkInputError: if it is not installed.
    """
    _require("pyarrow", purpose)


def require_dataframe(purpose: str) -> None:
    """Check that pandas is installed, and pyarrow, without which no DataFrame gets into XCom.

    :param purpose: what needs them, as the start of a sentence.
    :raises NexthinkInputError: if one of them is not installed.
    """
    _require("pandas", purpose)
    _require("pyarrow", purpose)


def _require(package: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NexthinkInputError(
            f"{purpose} needs {package}: install airflow-provider-nexthink[dataframe]. This try sent nothing."
        )


def read_csv(text: Iterable[str], what: str) -> tuple[list[str], Iterator[list[str]]]:
    """Read CSV as Nexthink's Investigations and spreadsheets write it: separated by commas, semicolons or tabs.

    :param text: its lines, with their line ends.
    :param what: the name of the text, for errors.
    :return: the header, and an iterator over the rows.
    :raises NexthinkInputError: if there is no header, or (while the rows are read) a row has more or fewer cells.
    """
    lines = iter(text)
    first, before = next(((line, at) for at, line in enumerate(lines, 1) if line.strip()), ("", 0))
    first = first.removeprefix("\ufeff")
    if separator := re.fullmatch(r"sep=(.)\s*", first):  # a hint for spreadsheets, which write it too
        first, before = next(lines, ""), before + 1
    if not first.strip():
        raise NexthinkInputError(f"{what} is empty: it does not even have a header.")
    delimiter = separator[1] if separator else max(_DELIMITERS, key=lambda each: len(_cells(first, each)))
    # "uid, name": if each separator in the header is followed by a blank, so it is in the rows.
    has_blanks = all(cell[:1] == " " for cell in _cells(first, delimiter)[1:])
    header = _cells(first, delimiter, has_blanks)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=has_blanks, strict=True)
    return header, _checked_rows(rows, len(header), before, what)


def read_file(file: BinaryIO, path: str) -> Any:
    """Read a table from an open file, in the format that the suffix of its path names.

    :param file: a file open for reading bytes.
    :param path: its path.
    :return: for CSV the header and the rows; for JSON Lines a list of mappings; for Parquet an Arrow table.
    :raises NexthinkInputError: if it is not such a file, or is damaged; for CSV also while the rows are read.
    """
    suffix, what = suffix_of(path), f"The file {redacted_path(path)}"
    if suffix == ".parquet":
        from airflow_provider_nexthink.devices.parquet import ParquetRows

        rows = ParquetRows(io.BytesIO(file.read()), what)
        return rows.table(0, rows.length)
    start = file.read(2)
    rest = io.BytesIO(start + file.read())
    text = io.TextIOWrapper(rest, encoding="utf-16" if start in _UTF_16 else "utf-8-sig", newline="")
    return read_csv(_decoded(text, what), what) if suffix == ".csv" else read_json_lines(_decoded(text, what), what)


def read_json_lines(text: Iterable[str], what: str) -> list[dict[str, Any]]:
    """Read JSON Lines: one object for each line.

    :param text: its lines.
    :param what: the name of the text, for errors.
    :raises NexthinkInputError: if a line is not a JSON object, or repeats a key.
    """
    rows = []
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except RepeatedKeyError as error:
            raise NexthinkInputError(f"Line {number} of {_lower_first(what)} {repeated_key(error)}") from None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise NexthinkInputError(f"Line {number} of {_lower_first(what)} is not a JSON object.")
        rows.append(row)
    return rows


def repeated_key(error: RepeatedKeyError) -> str:
    """Return the end of a sentence about JSON that repeats a key.

    :param error: of ``read_json``.
    """
    return (
        f"has a JSON object that names the key {error.key[:60]!r} twice: {error.preview[:300]}. Which value is meant "
        "is ambiguous: name each key once."
    )


def write_file(file: BinaryIO, path: str, columns: Mapping[str, list[Any]]) -> None:
    """Write an outcome table to an open file, in the format that the suffix of its path names.

    :param file: a file open for writing bytes.
    :param path: its path.
    :param columns: the table, column by column: text, whole numbers, None.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        from airflow_provider_nexthink.devices.parquet import ROWS_AT_ONCE, ParquetWriter

        cells = list(columns.values())
        with ParquetWriter(file, list(columns), NUMBER_COLUMNS) as parquet:
            for start in range(0, len(cells[0]), ROWS_AT_ONCE):
                parquet.write([column[start : start + ROWS_AT_ONCE] for column in cells])
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


def _checked_rows(rows: Any, width: int, before: int, what: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV reader that have as many cells as the header.

    :param before: how many lines precede the rows.
    :raises NexthinkInputError: at the first row that has not.
    """
    try:
        for cells in rows:
            if not cells:  # a blank line
                continue
            if len(cells) != width:
                raise NexthinkInputError(
                    f"Line {before + rows.line_num} of {_lower_first(what)} has {len(cells)} values for the {width} "
                    "columns of its header. A name that contains a separator must be quoted."
                )
            yield cells
    except csv.Error as error:
        raise NexthinkInputError(
            f"Line {before + rows.line_num} of {_lower_first(what)} is not valid CSV: {error}."
        ) from None


def _decoded(text: io.TextIOWrapper, what: str) -> Iterator[str]:
    try:
        for line in text:
            if "\0" in line:  # UTF-16 or UTF-32 without its mark
                raise UnicodeError
            yield line
    except UnicodeError:
        raise NexthinkInputError(f"{what} is not UTF-8: save it as 'CSV UTF-8'.") from None


def _lower_first(what: str) -> str:
    return what[0].lower() + what[1:]
