"""The demo, as ``make demo`` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from airflow_provider_nexthink.sandbox import demo


def test_demo_marks_waits_releases_deletes_and_finds_what_came_back(tmp_path: Path) -> None:
    command = [sys.executable, "-m", demo.__name__]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "error" not in ran.stdout.lower() + ran.stderr.lower()

    marked = re.findall(r"(\d+) marked, (\d+) waiting.*, (\d+) released, (\d+) due", ran.stdout)
    chosen = int(marked[0][0])
    assert [tuple(map(int, week)) for week in marked] == [
        (chosen, chosen, 0, 0),
        (0, chosen, 0, 0),
        (0, 0, 3, chosen - 3),
    ]
    assert re.findall(r"deletion +(.*), \d+ requests", ran.stdout) == ["none", "none", f"{chosen - 3} SCHEDULED"]

    looks = re.findall(r"(\d+) devices; of (\d+) deleted ones (\d+) are gone, 0 still .*, (\d+) returned", ran.stdout)
    gone = chosen - 3
    assert [tuple(map(int, look)) for look in looks] == [
        (5000 - gone, gone, gone, 0),
        (5000 - gone + 2, gone, gone - 1, 1),
    ]
    assert re.findall(r"seats won +(\d+)", ran.stdout) == [str(gone), str(gone - 1)]
    assert (tmp_path / ".demo" / "ledger.db").is_file()
