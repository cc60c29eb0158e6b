"""The wheel: what it holds, what the package index shows of it, and how it works installed alone beside Airflow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from readme_renderer.markdown import render

from airflow_provider_nexthink import __version__

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


@pytest.fixture(scope="module")
def without_pandas(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, Airflow and everything else of this one, but without pandas and pyarrow."""
    home = tmp_path_factory.mktemp("without_pandas")
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    missing = ("pandas", "pyarrow", "airflow_provider_nexthink", "_airflow_provider_nexthink")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(missing):
            (packages / entry.name).symlink_to(entry)
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return home


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


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


def test_wheel_metadata_has_the_version_and_the_addresses_of_the_project(metadata: Message) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Version"] == __version__
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(addresses) == {"Documentation", "Source", "Changelog", "Issues"}
    assert addresses == project["urls"]
    # One address: pyproject.toml cannot define it once and use it in all of these, so none may be forgotten.
    assert all(address.startswith(addresses["Source"]) for address in addresses.values())


def test_wheel_readme_renders_with_links_and_pictures_that_lead_into_the_repository(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    html = render(str(metadata.get_payload()))
    assert html is not None
    source = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))["Source"]
    found = re.findall(r'<(a|img)\b[^>]*? (?:href|src)="([^"]*)"', html)
    for _, address in found:
        assert urlsplit(address).scheme == "https" or address.startswith("#"), address
    kinds = {"a": f"{source}/blob/v{__version__}/", "img": f"{source}/raw/v{__version__}/"}
    for kind, start in kinds.items():
        paths = [address.removeprefix(start) for tag, address in found if tag == kind and address.startswith(source)]
        assert paths
        assert [path for path in paths if not (ROOT / path.partition("#")[0]).is_file()] == []


def test_wheel_readme_shows_both_commands_on_its_first_screen() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)


def test_wheel_needs_no_pandas(metadata: Message) -> None:
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in needed if line.startswith(("pandas", "pyarrow", "numpy"))]


WITHOUT_PANDAS = """
import os
import polars
from airflow.sdk.exceptions import AirflowException
from airflow_provider_nexthink.filters import newest_of_each_name, not_seen_for
from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sandbox.server import Sandbox

with Sandbox(devices=40, stale=10) as sandbox:
    os.environ["AIRFLOW_CONN_NEXTHINK_DEFAULT"] = sandbox.airflow_connection()
    with NexthinkHook() as hook:
        rows = hook.export_nql("#stale_devices", {"min_days_unseen": "90"})
        stale = newest_of_each_name(not_seen_for(list(rows), days=90).stale)
        frame = polars.DataFrame(stale.newest + stale.single)
        result = hook.delete_devices(frame, uid_column="device.uid")
        assert result.counts["SCHEDULED"] == len(frame) > 0, result.counts
    try:
        result.to_pandas()
    except ImportError as error:
        print(error)
    for operator in (
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=list(rows), uid_column="device.uid", return_format="dataframe"
        ),
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", return_format="dataframe"),
    ):
        requests = len(sandbox.requests)
        try:
            operator.execute({})
        except AirflowException as error:
            print(error)
        assert len(sandbox.requests) == requests
"""


def test_wheel_without_pandas_deletes_and_says_what_needs_it(without_pandas: Path) -> None:
    said = run(without_pandas, "-c", WITHOUT_PANDAS)
    assert said.count("needs pandas: install airflow-provider-nexthink[dataframe].") == 3
    assert said.count("return_format='dataframe' needs pandas") == 2
