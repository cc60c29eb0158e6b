"""What a command prints: a table for people, lines for other programs, JSON or YAML.

Airflow's own console would take square brackets in the name of a device for markup, and numbers for text.
"""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

TABLES = ("table", "plain")
"""The formats of ``print_rows`` that are not those of ``print_data``."""

_BOLD, _GREEN, _RED, _END = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m"
_COLORS = {"ok": _GREEN, "failed": _RED}
_LEAST_WIDTH = 30
"""The last column is not made narrower than this to fit the terminal."""


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str | None, out: TextIO) -> None:
    """Print a table.

    :param rows: the rows, plain JSON values.
    :param columns: which columns, in this order.
    :param output: ``table``, ``plain``, ``json`` or ``yaml``; None for a table on a terminal, and plain elsewhere.
    :param out: where to print.
    """
    if output not in (None, *TABLES):
        print_data([{column: row[column] for column in columns} for row in rows], str(output), out)
        return
    cells = [[_printable(_as_text(row[column])) for column in columns] for row in rows]
    if (output or ("table" if out.isatty() else "plain")) == "plain":
        lines: Iterable[str] = ("\t".join(line) for line in [list(columns), *cells])
    else:
        lines = _table(list(columns), cells, is_terminal=out.isatty())
    for line in lines:
        print(_encodable(line, out), file=out)


def print_data(data: Any, output: str, out: TextIO) -> None:
    """Print a value as JSON or YAML.

    :param data: plain JSON values, and times.
    :param output: ``json`` or ``yaml``.
    :param out: where to print.
    """
    text = json.dumps(data, default=_as_text)
    if output == "yaml":
        import yaml

        text = yaml.safe_dump(json.loads(text), sort_keys=False).rstrip("\n")
    print(text, file=out)


def print_text(text: str, out: TextIO) -> None:
    """Print text for people.

    :param text: its lines.
    :param out: where to print.
    """
    for line in text.splitlines():
        print(_encodable(_printable(line), out), file=out)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _printable(text: str) -> str:
    """Return text on one line, without anything that a terminal would obey: names of devices come from outside."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _encodable(text: str, out: TextIO) -> str:
    """Return text as this output can show it: a container may have an ASCII locale."""
    encoding = out.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _table(columns: list[str], rows: list[list[str]], *, is_terminal: bool) -> Iterator[str]:
    """Return the lines of a table, as Airflow's own commands draw it; on a terminal fitted to it, and colored."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    rest = sum(widths[:-1]) + 3 * (len(widths) - 1)
    if is_terminal:
        widths[-1] = min(widths[-1], max(shutil.get_terminal_size().columns - rest, _LEAST_WIDTH))
    is_colored = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(cells: Sequence[str], color: str = "") -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        if is_colored:
            colors = [color or _COLORS.get(cell, "") for cell in cells]
            padded = [f"{paint}{cell}{_END}" if paint else cell for paint, cell in zip(colors, padded, strict=True)]
        return " | ".join(padded).rstrip()

    yield line(columns, _BOLD)
    yield "=+=".join("=" * width for width in widths)
    for *first, last in rows:
        wrapped = textwrap.wrap(last, widths[-1]) or [""]
        yield line([*first, wrapped[0]])
        for more in wrapped[1:]:
            yield line([*[""] * len(first), more])
