"""A dry release, ``make release``: checks everything, builds, and says what is left to do. It publishes nothing.

The workflow ``publish.yml`` runs it too, and publishes what it has built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from airflow_provider_nexthink import __version__

ROOT = Path(__file__).parents[2]
PLACEHOLDER = ".invalid"
STEPS = """
To release {version}:
    1. merge this to main, and wait for CI;
    2. git tag --annotate v{version} --message "{version}" && git push origin v{version}

The tag starts .github/workflows/publish.yml. It runs CI and this check again, builds once, waits for the approval of
the environment "release", and publishes what it built, with attestations. Afterwards: write the notes of the release on
the forge, from CHANGELOG.md, and begin the next version.
"""


def main() -> int:
    """Check, build, and print what is left to do; return 1 if the release would fail."""
    problems = [
        *address_problems((ROOT / "pyproject.toml").read_text()),
        *changelog_problems((ROOT / "CHANGELOG.md").read_text(), __version__),
        *tag_problems(os.environ, __version__),
        *tree_problems(ROOT),
    ]
    built = build(ROOT, ROOT / "dist")
    print(f"Built, and checked with twine: {', '.join(path.name for path in built)}")
    for problem in problems:
        print(f"NOT READY: {problem}")
    if problems:
        return 1
    print(STEPS.format(version=__version__))
    return 0


def address_problems(pyproject: str) -> list[str]:
    """Return what is wrong with the addresses of the project.

    :param pyproject: the text of ``pyproject.toml``.
    """
    urls = tomllib.loads(pyproject)["project"]["urls"]
    count = pyproject.count(PLACEHOLDER + "/")
    if not count:
        return []
    return [f"{count} addresses in pyproject.toml are placeholders, such as {urls['Source']}: replace them all."]


def changelog_problems(changelog: str, version: str) -> list[str]:
    """Return what is wrong with the newest heading of the changelog.

    :param changelog: the text of ``CHANGELOG.md``.
    :param version: the version of the package.
    """
    newest = re.search(r"^## (.*)$", changelog, re.MULTILINE)
    heading = newest[1] if newest else "nothing"
    if re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d{{2}}-\d{{2}}", heading):
        return []
    return [f"CHANGELOG.md begins with '{heading}', not with '{version} - ' and the date."]


def tag_problems(environment: Mapping[str, str], version: str) -> list[str]:
    """Return whether a workflow runs for the tag of another version.

    :param environment: the environment variables; those of a workflow say what started it.
    :param version: the version of the package.
    """
    tag = environment.get("GITHUB_REF_NAME", "")
    if environment.get("GITHUB_REF_TYPE") != "tag" or tag == f"v{version}":
        return []
    return [f"The tag is {tag}, but the version in airflow_provider_nexthink/__init__.py is {version}."]


def tree_problems(root: Path) -> list[str]:
    """Return which files differ from the last commit.

    :param root: the checkout.
    """
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    changed = [line[3:] for line in status.splitlines()]
    if not changed:
        return []
    return [f"{len(changed)} files are not committed: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}."]


def build(root: Path, dist: Path) -> list[Path]:
    """Build the source distribution, and the wheel from it; check both with twine.

    :param root: the checkout.
    :param dist: where they are written; what was there is removed.
    :return: their paths.
    :raises subprocess.CalledProcessError: if that fails; its output was printed.
    """
    shutil.rmtree(dist, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(root)], check=True)
    built = sorted(dist.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], check=True)
    return built


if __name__ == "__main__":
    sys.exit(main())
