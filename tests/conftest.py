"""An Airflow of its own for the tests: its folder is set before anything imports Airflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.file_systems import attached_file_systems_kept
from tests.support.secrets import reset_secrets_maskers
from tests.support.threads import provider_threads

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

os.environ |= {
    "AIRFLOW_HOME": tempfile.mkdtemp(prefix="airflow-nexthink-tests-"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": os.devnull,
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write what a run shows into docs/")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a running Airflow said before its test failed: its folder is gone afterwards."""
    report = yield
    airflow = item.funcargs.get("airflow")
    if report.failed and hasattr(airflow, "last_words"):
        report.sections.append(("what Airflow wrote last", airflow.last_words()))
    return report


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    yield
    reset_secrets_maskers()


@pytest.fixture(autouse=True)
def _no_threads_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for the end of what a test has left in the background, such as a write to a storage that hung."""
    del monkeypatch  # which takes back the connections of the test only after this
    yield
    for thread in provider_threads():
        thread.join(60)
    assert provider_threads() == []


@pytest.fixture(autouse=True)
def _no_file_systems_of_other_tests() -> Iterator[None]:
    with attached_file_systems_kept():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: those that start an Airflow, then the other system tests."""

    def rank(item: pytest.Item) -> tuple[bool, bool]:
        return not hasattr(getattr(item, "module", None), "running_airflow"), "unit" in item.path.parts

    items.sort(key=rank)
    for item in items:
        if item.get_closest_marker("slow"):  # runs the same lines many times over, and counting them doubles its time
            item.add_marker("no_cover")
