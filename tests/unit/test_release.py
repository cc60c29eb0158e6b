"""The dry release, and the files of the forge that it hands over to."""

from __future__ import annotations

import re
import subprocess
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from airflow_provider_nexthink import __version__
from tests.tools.release import address_problems, changelog_problems, tag_problems, tree_problems

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_address_problems_placeholder_is_found() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    real = re.sub(r"https://forge\.invalid/", "https://forge.example/acme/", pyproject)
    assert address_problems(real) == []
    (problem,) = address_problems(real.replace("forge.example", "forge.invalid", 1))
    assert problem.startswith("1 addresses in pyproject.toml are placeholders")


def test_address_placeholder_is_in_one_file_only() -> None:
    here = {"pyproject.toml", "tests/unit/test_release.py", "tests/tools/release.py"}
    files = [path for pattern in ("*.md", "docs/*.md", ".github/**/*", "mkdocs.yml") for path in ROOT.glob(pattern)]
    found = {
        str(path.relative_to(ROOT)) for path in files if path.is_file() and "forge.invalid" in path.read_text()
    } - here
    assert found == set()


@pytest.mark.parametrize(
    ("heading", "ready"),
    [
        ("1.2.3 - 2027-01-31", True),
        ("1.2.3 - unreleased", False),
        ("1.2.2 - 2027-01-31", False),
        ("1.2.34 - 2027-01-31", False),
    ],
)
def test_changelog_problems_heading_of_that_version_with_a_date_is_ready(heading: str, ready: bool) -> None:
    changelog = f"# Changelog\n\n## {heading}\n\n- New.\n\n## 1.2.3 - 2026-01-01\n"
    assert (changelog_problems(changelog, "1.2.3") == []) is ready


def test_changelog_begins_with_the_version_of_the_package() -> None:
    newest = re.search(r"^## (\S+) - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == __version__


@pytest.mark.parametrize(
    ("environment", "ready"),
    [
        ({}, True),
        ({"GITHUB_REF_TYPE": "branch", "GITHUB_REF_NAME": "main"}, True),
        ({"GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v1.2.3"}, True),
        ({"GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v1.2.4"}, False),
    ],
)
def test_tag_problems_tag_of_another_version_is_found(environment: dict[str, str], ready: bool) -> None:
    assert (tag_problems(environment, "1.2.3") == []) is ready


def test_tree_problems_change_is_found(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert tree_problems(tmp_path) == []
    (tmp_path / "new.txt").touch()
    assert tree_problems(tmp_path) == ["1 files are not committed: new.txt."]


def test_registry_lists_the_public_classes_under_the_addresses_of_the_project() -> None:
    registry = load(ROOT / ".airflow-registry.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert registry["package-name"] == project["name"]
    assert registry["description"] == project["description"]
    assert [registry["docs-url"], registry["source-url"]] == [
        project["urls"][key] for key in ("Documentation", "Source")
    ]
    names = (ROOT / "tests" / "public_names.txt").read_text().splitlines()
    public = [name for name in names if name.startswith("airflow_provider_nexthink.")]
    for section in ("operators", "transfers", "sensors", "triggers", "hooks"):
        assert [each["module"] for each in registry[section]] == [
            name for name in public if name.split(".")[1] == section
        ]
    assert {each["module"] for each in registry["other"]} <= set(public)


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_no_more_than_commands_that_are_here(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(load(path)):
        command = step.get("run", "")
        if command.startswith("make "):
            assert command.removeprefix("make ").strip() in targets
        elif command.startswith(".ci/"):
            assert (ROOT / command.strip()).is_file()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_actions_have_a_full_version_and_no_write_permission_but_that_of_publishing(path: Path) -> None:
    workflow = load(path)
    for step in steps(workflow):
        assert re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", step.get("uses", "x@v1.2.3"))
    assert set(workflow["permissions"].values()) <= {"read"}
    writes = {
        (name, permission)
        for name, job in workflow["jobs"].items()
        for permission, access in job.get("permissions", {}).items()
        if access != "read"
    }
    assert writes <= {("publish", "id-token")}


def test_workflow_publish_builds_once_and_only_publishes_what_was_built() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "publish.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"ci", "build"}
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == ["make release"]


def test_constraints_are_lines_that_dependency_updates_understand() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            (specifier,) = Requirement(line).specifier
            assert specifier.operator == "=="


def test_constraints_can_be_installed_on_the_first_release_of_the_oldest_python() -> None:
    """Debian 12 has 3.11.2: one pin of what needs 3.11.5 and its ``make demo`` does not get as far as the demo."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for pin in pins:
        with suppress(PackageNotFoundError):
            (needed,) = metadata(Requirement(pin).name).get_all("Requires-Python", [">=3"])
            assert SpecifierSet(needed).contains("3.11.0"), pin
