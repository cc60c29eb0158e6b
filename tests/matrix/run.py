"""The main job on every version that the provider promises: ``make matrix``, or ``make matrix-ci`` for two of them.

Each cell is an environment of its own in ``.matrix/``, made anew: the newest release of one Airflow, one Python, one
pandas, and the built wheel. In it the demo runs, and a selection of the tests, copied away from this checkout. What
ran is written into ``README.md`` and ``docs/versions.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".matrix"
SHOWN = ("apache-airflow", "python", "pandas", "pydantic", "sqlalchemy")
WHEEL = "airflow-provider-nexthink[dataframe,zstd]"
TOOLS = ("apache-airflow-providers-sqlite", "hypothesis", "jsonschema", "polars", "pytest", "pytest-timeout")

# What leans on the version of Python or pandas.
DEVICES = ("tests/unit/test_filters.py", "tests/unit/devices/test_reader.py", "tests/unit/devices/test_shapes.py")
# What leans on the version of SQLAlchemy.
LEDGER = (
    "tests/unit/ledger/test_quarantine.py",
    "tests/unit/ledger/test_reconcile.py",
    "tests/unit/ledger/test_report.py",
    "tests/unit/ledger/test_reservation.py",
    "tests/unit/ledger/test_task_state.py",
)
# What leans on the version of Airflow. On 3.1 each task of a `dag.test()` takes seconds: few of them.
AIRFLOW = (
    "tests/unit/test_operators.py",
    "tests/unit/test_provider_info.py",
    "tests/unit/test_triggers.py",
    "tests/system/test_command_line.py::test_check_of_a_good_connection_passes",
    "tests/system/test_command_line.py::test_command_finds_a_connection_in_airflows_database",
    "tests/system/test_command_line.py::test_plan_is_a_dry_run_row_by_row",
    "tests/system/test_dag_serialization.py",
    "tests/system/test_decorator.py::test_decorator_without_parentheses_passes_arguments_and_context",
    "tests/system/test_decorator.py::test_decorator_table_argument_is_not_in_the_rendered_view",
    "tests/system/test_ledger_in_airflow.py::test_deletion_is_recorded_with_who_why_and_within_what",
    "tests/system/test_ledger_operators.py::test_reconcile_operator_exports_the_inventory",
    "tests/system/test_ledger_tries.py",
    "tests/system/test_sql.py::test_sql_deletes_the_devices_that_the_query_finds",
    "tests/system/test_stale_dag.py::test_stale_dag_for_real_deletes_only_the_chosen_devices",
)
# Four weeks of the lifecycle Dag: minutes on 3.1, so not in CI.
DEMO = ("tests/system/test_demo.py",)
# API server, scheduler, Dag processor and triggerer: once for each Airflow.
RUNNING = ("tests/system/test_running_airflow.py",)
# `airflow standalone`, as the page says it: once for each Airflow.
STANDALONE = ("tests/system/test_see_it.py",)
NOT_THESE = "not duckdb and not postgres and not mariadb and not triggerer_lost"


@dataclass(frozen=True)
class Cell:
    """A combination of versions: minor versions of Airflow and Python, the major one of pandas.

    :param tests: what it runs.
    :param in_ci: what of it CI runs.
    """

    airflow: str
    python: str
    pandas: str
    tests: tuple[str, ...] = DEVICES + LEDGER + AIRFLOW + DEMO
    in_ci: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"Airflow {self.airflow}, Python {self.python}, pandas {self.pandas}"

    @property
    def home(self) -> Path:
        return HOME / f"airflow-{self.airflow}-python-{self.python}"

    @property
    def record(self) -> Path:
        return HOME / f"{self.home.name}.json"


WHOLE = DEVICES + LEDGER + AIRFLOW + DEMO + RUNNING + STANDALONE

CELLS = (
    Cell("3.1", "3.11", "2", WHOLE, in_ci=DEVICES + LEDGER + AIRFLOW),
    Cell("3.1", "3.12", "3"),
    Cell("3.1", "3.13", "2"),
    Cell("3.2", "3.11", "3", WHOLE),
    Cell("3.2", "3.12", "2"),
    Cell("3.2", "3.13", "3"),
    Cell("3.3", "3.11", "2"),
    Cell("3.3", "3.12", "3"),
    # CI runs the rest on this Airflow, with this SQLAlchemy, anyway.
    Cell("3.3", "3.13", "3", WHOLE, in_ci=DEVICES + STANDALONE),
)


@dataclass(frozen=True)
class Result:
    """What became of a cell.

    :param cell: the cell.
    :param versions: what was installed, by distribution; and ``python``.
    :param passed: how many tests passed; None where the cell did not get as far.
    :param skipped: how many tests do not apply to its versions.
    :param problem: why it did not run, or failed; empty where all is well.
    :param ran: whether it ran at all.
    """

    cell: Cell
    versions: dict[str, str]
    passed: int | None = None
    skipped: int = 0
    problem: str = ""
    ran: bool = True


class CellError(Exception):
    """A step of a cell has failed."""


def main() -> int:
    """Run the cells one after the other; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ci", action="store_true", help="the oldest and the newest only, and less of them")
    parser.add_argument(
        "--only", metavar="AIRFLOW/PYTHON", help="one cell, such as 3.1/3.11, and its row of the tables"
    )
    options = parser.parse_args()
    cells = [
        replace(cell, tests=cell.in_ci if options.ci else cell.tests)
        for cell in CELLS
        if (cell.in_ci or not options.ci) and options.only in (None, f"{cell.airflow}/{cell.python}")
    ]
    wheel = build_wheel()
    results = []
    # One after the other where some start a running Airflow: two of them would ask for the same ports.
    with ThreadPoolExecutor(len(cells) if options.ci else 1) as pool:
        for result in pool.map(lambda cell: run_cell(cell, wheel), cells):
            results.append(result)
            print(in_one_line(result), flush=True)
    failed = [result for result in results if result.problem and (result.ran or os.environ.get("CI"))]
    if not failed and not options.ci:
        for result in results:
            keep(result)
        known = [kept(cell) for cell in CELLS]
        write_between_markers(ROOT / "README.md", short_table(known))
        write_between_markers(ROOT / "docs" / "versions.md", full_table(known))
    passed = sum(not result.problem for result in results)
    print(f"{passed} passed, {len(failed)} failed, {len(results) - passed - len(failed)} skipped")
    return 1 if failed or not passed else 0


def keep(result: Result) -> None:
    """Keep what became of a cell: a run of another one writes its row again."""
    result.cell.record.write_text(json.dumps(asdict(result)))


def kept(cell: Cell) -> Result:
    """Return what became of a cell in its last run here that went well."""
    try:
        told = json.loads(cell.record.read_text())
    except FileNotFoundError:
        return Result(cell, {}, problem="not on this machine", ran=False)
    return Result(**{**told, "cell": cell})


def run_cell(cell: Cell, wheel: Path) -> Result:
    """Make the environment of a cell and run everything in it."""
    python = find_python(cell.python)
    if python is None:
        return Result(cell, {}, problem=f"no python{cell.python} on this machine", ran=False)
    shutil.rmtree(cell.home, ignore_errors=True)
    cell.home.mkdir(parents=True)
    versions: dict[str, str] = {}
    start = time.monotonic()
    try:
        install(cell, python, wheel)
        versions = look_at(cell)
        installed = time.monotonic()
        passed, skipped = run_tests(cell)
        print(f"  environment {installed - start:.0f} s, tests {time.monotonic() - installed:.0f} s", flush=True)
    except CellError as error:
        return Result(cell, versions, problem=f"{error}, see {cell.home.relative_to(ROOT)}/log.txt")
    return Result(cell, versions, passed, skipped)


def find_python(version: str) -> str | None:
    """Return the interpreter of a version: the first on PATH, or of pyenv, that starts."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin"))
    for folder in folders:
        command = [str(folder / f"python{version}"), "-c", "import sys; print(sys.executable)"]
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # not there; or pyenv's shim of a version that is not chosen
            continue
    return None


def build_wheel() -> Path:
    """Build the wheel; return its path."""
    out = HOME / "dist"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (wheel,) = out.glob("*.whl")
    return wheel


def install(cell: Cell, python: str, wheel: Path) -> None:
    """Make the environment: the newest release of this Airflow, whatever else there is."""
    env = str(cell.home / "env")
    uv = str(Path(sys.executable).with_name("uv"))
    step(cell, [uv, "venv", "--no-python-downloads", "--python", python, env])
    pip_install = [uv, "pip", "install", "--python", env]
    step(cell, [*pip_install, "--no-deps", f"apache-airflow=={cell.airflow}.*"])
    airflow = look_at(cell)["apache-airflow"]
    held_back = ROOT / "tests" / "matrix" / f"airflow-{cell.airflow}.txt"
    constraints = ["--constraint", str(held_back)] if held_back.exists() else []
    wanted = [f"apache-airflow=={airflow}", f"pandas=={cell.pandas}.*", f"{WHEEL} @ {wheel.as_uri()}", *TOOLS]
    step(cell, [*pip_install, *constraints, *wanted])


def look_at(cell: Cell) -> dict[str, str]:
    """Return the versions of what is in the environment."""
    code = (
        "import json, platform, importlib.metadata as m\n"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()} | "
        "{'python': platform.python_version()}))"
    )
    return dict(json.loads(step(cell, [str(cell.home / "env" / "bin" / "python"), "-c", code])))


def run_tests(cell: Cell) -> tuple[int, int]:
    """Run the tests away from the checkout, so that they meet the wheel; return how many passed and were skipped."""
    work = cell.home / "work"
    for folder in ("tests", "dags", "docs"):
        shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    python = str(cell.home / "env" / "bin" / "python")
    where = step(cell, [python, "-c", "import airflow_provider_nexthink as it; print(it.__file__)"], cwd=work)
    if not where.startswith(str(cell.home / "env")):
        raise CellError(f"what is imported is not the wheel but {where.strip()}")
    if "airflow-provider-nexthink" not in step(cell, [python, "-m", "airflow", "providers", "list"], cwd=work):
        raise CellError("airflow providers list does not show it")
    report = cell.home / "junit.xml"
    options = ["-q", "--hypothesis-profile=ci", f"--junitxml={report}", "-k", NOT_THESE, *cell.tests]
    step(cell, [python, "-m", "pytest", *options], cwd=work)
    counts = next(ET.parse(report).getroot().iter("testsuite")).attrib
    skipped = int(counts["skipped"])
    return int(counts["tests"]) - skipped, skipped


def step(cell: Cell, command: Sequence[str], cwd: Path = ROOT) -> str:
    """Run a command for a cell; return what it printed.

    :raises CellError: if it fails.
    """
    home = cell.home / "airflow"
    env = {**os.environ, "AIRFLOW_HOME": str(home), "COLUMNS": "400", "VIRTUAL_ENV": ""}
    with (cell.home / "log.txt").open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        ran = subprocess.run(command, cwd=cwd, env=env, check=False, stdout=subprocess.PIPE, stderr=log, text=True)
        log.write(ran.stdout)
    if ran.returncode:
        raise CellError(f"{' '.join(Path(part).name for part in command[:4])} ended with {ran.returncode}")
    return ran.stdout


def in_one_line(result: Result) -> str:
    """Return the outcome of a cell as it is printed."""
    if result.problem:
        return f"{result.cell}: {'FAILED' if result.ran else 'not run'}: {result.problem}"
    versions = ", ".join(f"{name} {result.versions[name]}" for name in SHOWN)
    return f"{result.cell}: ok, {result.passed} tests passed, {result.skipped} skipped ({versions})"


def short_table(results: Sequence[Result]) -> list[str]:
    """Return the table of the README: a row for each Airflow, a column for each Python."""
    pythons = sorted({result.cell.python for result in results})
    lines = [f"| | {' | '.join(f'Python {python}' for python in pythons)} |", "|" + "---|" * (len(pythons) + 1)]
    for airflow in sorted({result.cell.airflow for result in results}):
        row = [result for result in results if result.cell.airflow == airflow]
        newest = next((result.versions["apache-airflow"] for result in row if result.ran), airflow)
        cells = [f"pandas {result.versions['pandas']}" if result.ran else "not run" for result in row]
        lines.append(f"| Airflow {newest} | {' | '.join(cells)} |")
    return lines


def full_table(results: Sequence[Result]) -> list[str]:
    """Return the table of the documentation: a row for each cell."""
    lines = ["| Airflow | Python | pandas | pydantic | SQLAlchemy | tests passed | skipped |", "|" + "---|" * 7]
    for result in results:
        if result.ran:
            versions = [result.versions[name] for name in SHOWN]
            lines.append(f"| {' | '.join([*versions, str(result.passed), str(result.skipped)])} |")
        else:
            lines.append(f"| {result.cell.airflow} | {result.cell.python} | | | | not run: {result.problem} | |")
    return lines


def write_between_markers(path: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the markers of a page."""
    begin, end = "<!-- written by make matrix -->\n", "<!-- to here -->\n"
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)


if __name__ == "__main__":
    sys.exit(main())
