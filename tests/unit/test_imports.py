"""What test modules share is in ``tests/support``, so that each can be run, moved and read by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("test_*.py")) + sorted(TESTS.rglob("conftest.py")) + sorted(TESTS.glob("support/*.py"))


def imported(path: Path) -> set[str]:
    """Return the modules, and the names in them, that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    return found


def breaks_the_rule(name: str) -> bool:
    parts = name.lstrip(".").split(".")
    return (parts[0] == "tests" or name.startswith(".")) and any(
        part == "conftest" or part.startswith("test_") for part in parts
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_test_module_imports_no_other_test_module(path: Path) -> None:
    assert [name for name in sorted(imported(path)) if breaks_the_rule(name)] == []


@pytest.mark.parametrize("name", ["tests.system.conftest.Run", "tests.system.test_tries", ".test_tries.fleet"])
def test_breaks_the_rule_import_of_a_test_module_is_found(name: str) -> None:
    assert breaks_the_rule(name)
    assert not breaks_the_rule("tests.support.store.Store")
