"""The page in a browser, with the responses of Airflow's API given by the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_api import NOW, AirflowApi, serve_page
from tests.support.browser import chromium, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def api() -> AirflowApi:
    return AirflowApi()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def address(api: AirflowApi) -> Iterator[str]:
    with serve_page(api) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page whose base is the address of *Nexthink deletions*, at noon of 28 November 2026, UTC."""
    with open_page(browser, address, accept_downloads=True) as page:
        page.clock.set_fixed_time(NOW)
        page.set_default_timeout(60_000)
        yield page
