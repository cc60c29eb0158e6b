"""The demo, as ``make demo`` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from airflow_provider_nexthink.sandbox import demo


def test_demo_plans_then_deletes_and_shows_both(tmp_path: Path) -> None:
    command = [sys.executable, "-m", demo.__name__]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    before, dry, after = re.findall(r"(\d+) devices, \d+ of them stale", ran.stdout)
    assert before == dry == "5000"
    planned, scheduled = (int(n) for n in re.findall(r"devices went in .*: (\d+) (?:PLANNED|SCHEDULED);", ran.stdout))
    assert planned == scheduled == int(before) - int(after) > 0
    assert ran.stdout.count("delete_devices       success") == 2
    assert "Traceback" not in ran.stderr
