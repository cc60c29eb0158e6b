"""The pure functions of the page *Nexthink deletions*, with node's own test runner. Without node they are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from airflow_provider_nexthink.plugins import deletions

TESTS = Path(__file__).parents[1] / "js"
STATIC = Path(deletions.__file__).parent / "static"


@pytest.mark.parametrize("name", sorted(path.name for path in TESTS.glob("*.test.js")))
def test_javascript(name: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("CI"), "node is not there"
        pytest.skip("node is not there")
    # Node takes a file for a module if a package.json says so, which the page's own folder does not need.
    static = tmp_path / "static"
    shutil.copytree(STATIC, static)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    code = (TESTS / name).read_text().replace("../../airflow_provider_nexthink/plugins/static/", "./static/")
    (tmp_path / name).write_text(code)
    run = subprocess.run([node, "--test", name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
