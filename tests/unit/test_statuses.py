"""The statuses and columns, held against the page *Nexthink deletions* and the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_nexthink.plugins import deletions
from airflow_provider_nexthink.status import ACTION_REQUIRED, COLUMNS, DEFAULT_FAIL_ON, KEPT, Status

ROOT = Path(__file__).parents[2]
STATIC = Path(deletions.__file__).parent / "static"


def javascript(name: str) -> Any:
    """Return a constant of ``statuses.js``, whose values are JSON."""
    match = re.search(
        rf"^export const {name} = (.*?);$", (STATIC / "statuses.js").read_text(), re.DOTALL | re.MULTILINE
    )
    assert match, name
    return json.loads(match[1])


def first_column(page: str, heading: str) -> list[str]:
    """Return the code in the first column of the first table below a heading."""
    section = (ROOT / page).read_text().split(f"\n{heading}\n", 1)[1]
    (table, *_) = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_statuses_of_the_page_are_those_of_python() -> None:
    assert sorted(javascript("STATUSES")) == sorted(Status)


def test_action_required_of_the_page_is_that_of_python() -> None:
    assert sorted(javascript("ACTION_REQUIRED")) == sorted(ACTION_REQUIRED)


def test_columns_of_the_page_are_those_of_python() -> None:
    assert javascript("COLUMNS") == list(COLUMNS)


def test_groups_of_the_page_have_each_status_once_and_a_color() -> None:
    groups = javascript("GROUPS")
    assert sorted(status for group in groups for status in group["statuses"]) == sorted(Status)
    css = (STATIC / "page.css").read_text()
    for group in groups:
        for kind in ("fill", "text"):
            assert re.search(rf"^\.{kind}-{group['id']} ", css, re.MULTILINE), group
    # One line of the table for each group that has statuses, in the same order.
    section = (ROOT / "docs" / "ui.md").read_text().split("| group | statuses |\n", 1)[1].split("\n\n")[0]
    documented = [
        (label.strip(), re.findall(r"`([A-Z_]+)`", statuses))
        for _, label, statuses, _ in (line.split("|") for line in section.splitlines()[1:])
    ]
    assert documented == [(group["label"], group["statuses"]) for group in groups]


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "## What comes out"), ("docs/delete-devices.md", "### Status")]
)
def test_documented_statuses_are_those_of_python(page: str, heading: str) -> None:
    assert sorted(first_column(page, heading)) == sorted(Status)


def test_documented_columns_are_those_of_python() -> None:
    assert first_column("docs/delete-devices.md", "### The outcome table") == list(COLUMNS)


def test_documented_sets_of_statuses_are_those_of_python() -> None:
    page = (ROOT / "docs" / "delete-devices.md").read_text()
    assert first_column("docs/delete-devices.md", "### A list that already has statuses")[: len(KEPT)] == [
        status for status in ("EXCLUDED", "REJECTED", "INVALID", "DUPLICATE") if status in KEPT
    ]
    (attention,) = re.findall(r"^XCom `unscheduled`: (.*)$", page, re.MULTILINE)
    assert sorted(re.findall(r"`([A-Z_]+)`", attention)) == sorted(ACTION_REQUIRED)
    (fail_on,) = re.findall(r"^\| `fail_on` \| (.*?) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"`([A-Z_]+)`", fail_on)) == sorted(DEFAULT_FAIL_ON)
