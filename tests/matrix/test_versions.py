"""The tables that ``make matrix`` writes, as they are in the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.matrix.run import (
    AIRFLOW,
    CELLS,
    DEMO,
    DEVICES,
    LEDGER,
    ROOT,
    RUNNING,
    STANDALONE,
    WHOLE,
    Cell,
    Result,
    in_one_line,
    short_table,
    write_between_markers,
)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_each_cell_stands_in_the_pages(cell: Cell) -> None:
    page = (ROOT / "docs" / "versions.md").read_text()
    row = rf"\| ({re.escape(cell.airflow)}\.\d+) \| {re.escape(cell.python)}\.\d+ \| ({cell.pandas}\.\d+\.\d+) \|"
    found = re.search(row, page)
    assert found, f"no row of {cell}: run make matrix"
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if f"| Airflow {found[1]} |" in line]
    assert f"pandas {found[2]}" in line


@pytest.mark.parametrize("test", WHOLE)
def test_selection_for_the_cells_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}" in (ROOT / path).read_text()


def test_oldest_and_newest_run_in_ci_and_each_pandas_on_the_oldest_and_the_newest_airflow() -> None:
    assert [cell for cell in CELLS if cell.in_ci] == [CELLS[0], CELLS[-1]]
    for airflow in ("3.1", "3.3"):
        assert {cell.pandas for cell in CELLS if cell.airflow == airflow} == {"2", "3"}
    assert {cell.airflow for cell in CELLS if cell.tests == WHOLE} == {"3.1", "3.2", "3.3"}


def test_ci_runs_all_but_the_demo_and_the_running_airflow() -> None:
    in_ci = {test for cell in CELLS for test in cell.in_ci}
    assert in_ci == {*DEVICES, *LEDGER, *AIRFLOW, *STANDALONE} == {*WHOLE} - {*DEMO, *RUNNING}


def test_a_cell_that_did_not_run_is_not_shown_as_one_that_did(tmp_path: Path) -> None:
    ran = Result(CELLS[0], {"apache-airflow": "3.1.9", "python": "3.11.1", "pandas": "2.9.9"}, passed=7)
    missing = Result(CELLS[1], {}, problem="no python3.12 on this machine", ran=False)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- written by make matrix -->\nold\n<!-- to here -->\nafter\n")
    write_between_markers(page, short_table([ran, missing]))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| Airflow 3.1.9 | pandas 2.9.9 | not run |" in text
    assert "old" not in text
    assert in_one_line(missing).endswith("not run: no python3.12 on this machine")
