"""The wheel, installed alone beside Airflow."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def beside_airflow(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with Airflow from this one's site-packages, but not with this checkout."""
    home = tmp_path_factory.mktemp("beside")
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    # A path in a .pth file is searched, but its own .pth files, such as that of an editable install, are not read.
    (packages / "airflow.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return home


def run(beside_airflow: Path, *arguments: str) -> str:
    environment = {**os.environ, "AIRFLOW_HOME": str(beside_airflow / "airflow"), "COLUMNS": "400"}
    environment.pop("PYTHONPATH", None)  # which may lead to the checkout
    command = [str(beside_airflow / "bin" / "python"), *arguments]
    return subprocess.run(
        command, env=environment, cwd=beside_airflow, check=True, capture_output=True, text=True
    ).stdout


def test_wheel_holds_the_example_dags_and_only_its_own_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    dags = {path.name for path in (ROOT / "dags").glob("*.py")}
    assert {f"airflow_provider_nexthink/example_dags/{name}" for name in dags} <= names
    assert "airflow_provider_nexthink/py.typed" in names
    static = ROOT / "airflow_provider_nexthink" / "plugins" / "static"
    assert {f"airflow_provider_nexthink/plugins/static/{path.name}" for path in static.iterdir()} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"airflow_provider_nexthink"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_is_listed_by_airflow_with_hook_operators_and_connection_type(beside_airflow: Path) -> None:
    name = "airflow-provider-nexthink"
    shown = run(beside_airflow, "-m", "airflow", "providers", "get", name, "--full", "-o", "json")
    for part in (
        "airflow_provider_nexthink.hooks.nexthink.NexthinkHook",
        "airflow_provider_nexthink.operators.data_management",
        "airflow_provider_nexthink.operators.nql",
        "connection-type",
    ):
        assert part in shown
    assert name in run(beside_airflow, "-m", "airflow", "providers", "list")
    hooks = run(beside_airflow, "-m", "airflow", "providers", "hooks", "-o", "json")
    assert '"connection_type": "nexthink"' in hooks


def test_wheel_plugin_is_listed_by_airflow(beside_airflow: Path) -> None:
    shown = run(beside_airflow, "-m", "airflow", "plugins", "-o", "json")
    assert "nexthink_deletions" in shown
    assert "nexthink-deletions" in shown  # the page's route


def test_wheel_is_imported_instead_of_the_checkout(beside_airflow: Path) -> None:
    code = "import airflow_provider_nexthink.operators.nql as it; print(it.__file__)"
    assert str(beside_airflow) in run(beside_airflow, "-c", code)


def test_wheel_example_dags_load(beside_airflow: Path) -> None:
    code = (
        "from pathlib import Path; import airflow_provider_nexthink as it\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        "bag = DagBag(str(Path(it.__file__).parent / 'example_dags'))\n"
        "print(bag.import_errors, sorted({Path(dag.fileloc).stem for dag in bag.dags.values()}))"
    )
    dags = sorted(path.stem for path in (ROOT / "dags").glob("*.py"))
    assert run(beside_airflow, "-c", code).splitlines()[-1] == f"{{}} {dags}"
