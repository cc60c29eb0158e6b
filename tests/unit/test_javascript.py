"""The unit tests of the page's JavaScript (``tests/js``), run by node.

Without node they skip; where ``CI`` is set they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "js").glob("*.test.js"))
# Makes a module of a .js file without a package.json: that would be shipped with the page. The default from 20.19 on.
DETECT_MODULE = "--experimental-detect-module"


@pytest.fixture(scope="module")
def node() -> str:
    """Return the path of a node that knows ``DETECT_MODULE``."""
    path = shutil.which("node")
    if path is None:
        reason = "node is not there (install node 20.10 or later)"
    elif subprocess.run([path, DETECT_MODULE, "--version"], capture_output=True, check=False).returncode:
        reason = f"{path} is too old (install node 20.10 or later)"
    else:
        return path
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_javascript_has_tests() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_javascript(node: str, file: Path) -> None:
    command = [node, DETECT_MODULE, "--test", "--test-reporter=spec", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if run.returncode:
        pytest.fail(f"{run.stdout}{run.stderr}", pytrace=False)
