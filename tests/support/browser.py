"""Chromium, for the tests that use the pages as a person does.

Without Chromium they skip; where ``CI`` is set they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZE: Any = {"width": 1280, "height": 640}

# The first one has no window at all, and takes a third less of the processor for the same pages.
_NAMES = ("chromium-headless-shell", "chromium", "google-chrome")

# It runs as root in containers, and may connect to the servers of the tests only.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give a Chromium without a window, of the system and not one that is downloaded."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # as for everything else; a busy machine needs more than 5 s now and then

    path = os.environ.get("NEXTHINK_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        reason = "Chromium is not there (install it, or set NEXTHINK_TEST_CHROMIUM to its path)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser, base_url: str, *, theme: Literal["light", "dark"] = "light", **context: Any
) -> Iterator[Page]:
    """Give a page of a new, empty browser profile; what goes wrong in its scripts fails the test."""
    opened = browser.new_context(
        base_url=base_url, color_scheme=theme, viewport=SIZE, locale="en-GB", timezone_id="UTC", **context
    )
    page = opened.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"a dialog opened: {dialog.message}"))
    try:
        yield page
    finally:
        opened.close()
    assert errors == []
