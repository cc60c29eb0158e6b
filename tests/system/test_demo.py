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
    assert "Traceback" not in ran.stderr

    found = re.findall(r"(\d+) marked, (\d+) waiting.*, (\d+) released, (\d+) due, (\d+) deleted", ran.stdout)
    weeks = [tuple(map(int, week)) for week in found]
    chosen = weeks[0][0]
    gone = chosen - 3
    assert weeks[:3] == [(chosen, chosen, 0, 0, 0), (0, chosen, 0, 0, 0), (0, 0, 3, gone, 0)]
    assert weeks[3][2:] == (0, 0, gone)
    assert re.findall(r"deletion +(.*), \d+ requests", ran.stdout) == ["none", "none", f"{gone} SCHEDULED", "none"]

    looks = re.findall(r"(\d+) devices; of (\d+) deleted ones (\d+) are gone, 0 still .*, (\d+) returned", ran.stdout)
    assert [tuple(map(int, look)) for look in looks] == [
        (5000 - gone, gone, gone, 0),
        (5000 - gone + 2, gone, gone - 1, 1),
    ]
    assert re.findall(r"seats won +(\d+)", ran.stdout) == [str(gone), str(gone - 1)]

    report, history = ran.stdout.split("$ python -m airflow_provider_nexthink ledger ")[1:]
    assert re.search(rf"total +{gone} +{gone} +1 +{gone - 1}\n", report)
    assert re.search(r"SCHEDULED .*\n(.*\n)* +why +Weekly clean-up\n +gone on .*\n +back on ", history)
