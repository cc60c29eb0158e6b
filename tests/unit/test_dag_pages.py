"""The pages show the example Dags as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.dag_pages import ROOT, pages, with_dags


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_page_shows_the_dag_as_it_is(page: Path) -> None:
    assert page.read_text() == with_dags(page.read_text()), "run `make pages`"


def test_pages_show_every_dag_whole() -> None:
    shown = "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for dag in (ROOT / "dags").glob("*.py"):
        assert f"```python\n{dag.read_text()}```\n" in shown, dag.name


def test_with_dags_replaces_what_is_between_the_markers_only() -> None:
    begin, end = "<!-- dags/nexthink_lifecycle.py, written by make pages -->\n", "<!-- to here -->\n"
    made = with_dags(f"before\n{begin}old\n{end}after\n")
    dag = (ROOT / "dags" / "nexthink_lifecycle.py").read_text()
    assert made == f"before\n{begin}\n```python\n{dag}```\n\n{end}after\n"
