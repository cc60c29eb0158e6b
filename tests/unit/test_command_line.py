"""What the commands print, and that the documentation shows commands that exist."""

from __future__ import annotations

import io
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_nexthink.cli.definition import NEXTHINK, Command, make_parser
from airflow_provider_nexthink.cli.output import print_rows, print_text

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS: list[dict[str, Any]] = [
    {"name": "PC[red]1[/x]", "result": "ok", "count": 3, "detail": None},
    {"name": "PC\x1b[2J\t2", "result": "failed", "count": 0, "detail": "two words " * 20},
]
COLUMNS = ("name", "result", "count", "detail")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed(output: str | None, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    print_rows(ROWS, COLUMNS, output, out)
    return out.getvalue()


def test_print_rows_json_and_yaml_keep_every_value() -> None:
    assert json.loads(printed("json")) == yaml.safe_load(printed("yaml")) == ROWS


def test_print_rows_elsewhere_is_a_line_a_row_with_tabs() -> None:
    lines = printed(None).splitlines()
    assert lines[:2] == ["name\tresult\tcount\tdetail", "PC[red]1[/x]\tok\t3\t"]
    assert [line.count("\t") for line in lines] == [3, 3, 3]
    assert printed("plain") == printed(None)


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml", None])
def test_print_rows_without_a_terminal_has_no_escape_codes(output: str | None) -> None:
    assert "\x1b" not in printed(output)


def test_print_rows_on_a_terminal_is_colored_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(None, Terminal())
    assert "\x1b[31mfailed\x1b[0m" in text
    shown = re.sub(r"\x1b\[\d*m", "", text)
    assert "\x1b" not in shown  # the name of a device clears no screen
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("two words") + shown.count("two\n") == 20


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_print_rows_on_a_terminal_without_colors_has_none(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in printed(None, Terminal())


def test_print_text_in_an_ascii_locale_is_not_an_error() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    print_text("Büro-PC\n\x1b[2J株式\n", out)
    out.flush()
    assert raw.getvalue().decode() == "B\\xfcro-PC\n\\x1b[2J\\u682a\\u5f0f\n"


def commands_in_docs() -> list[object]:
    """Return every command that the documentation shows, with its arguments."""
    found: dict[str, str] = {}
    for page in PAGES:
        pattern = r"(?:airflow nexthink|python -m airflow_provider_nexthink) ([^`|>#\n]+)"
        for match in re.finditer(pattern, page.read_text().replace("\\\n", " ")):
            found.setdefault(match[1].strip(), page.name)
    return [pytest.param(line, id=f"{page}:{line}") for line, page in found.items()]


@pytest.mark.parametrize("line", commands_in_docs())
def test_docs_commands_exist(line: str) -> None:
    words = shlex.split(line)
    if words[-1] in ("check", "plan", "ledger"):  # in prose the name of a command stands alone
        words.append("--help")
    try:
        make_parser().parse_args(words)
    except SystemExit as stopped:
        assert (stopped.code, words[-1]) == (0, "--help")


def test_docs_modules_that_are_run_exist() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m (airflow_provider_nexthink[.\w]*)", page.read_text()):
            spec = find_spec(module)
            assert spec is not None, (page.name, module)
            if spec.submodule_search_locations:
                assert find_spec(f"{module}.__main__"), (page.name, module)


def paths_of(command: Command) -> list[str]:
    return [command.run] if command.run else [path for each in command.commands for path in paths_of(each)]


@pytest.mark.parametrize("path", paths_of(NEXTHINK))
def test_definition_names_a_function_that_exists(path: str) -> None:
    module, _, name = path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
