"""The benchmarks run, and write what they measure. How fast anything is, is not looked at here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import growth
from tests.benchmarks.__main__ import BEGIN, DOCS, END

ROOT = Path(__file__).parents[2]


def test_a_small_run_writes_every_table_and_the_chart(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    sizes = ["--devices", "300", "--rows", "100", "--repeats", "1", "--docs", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "tests.benchmarks", *sizes], check=True, cwd=ROOT)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert len([line for line in text.splitlines() if line.startswith("| this provider, ")]) == 4
    for written in ("| nexthink-api |", "| bare httpx loop |", "| 100 |", "| `records` |", "| file, `.parquet` |"):
        assert written in text
    bars = ElementTree.parse(tmp_path / "speed.svg").findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 3 * 6


@pytest.mark.parametrize(
    ("page", "begin", "end"), [("speed.md", BEGIN, END), ("scaling-out.md", growth.BEGIN, growth.END)]
)
def test_the_page_has_the_place_for_them(page: str, begin: str, end: str) -> None:
    text = (DOCS / page).read_text()
    assert text.index(begin) < text.index(end)
