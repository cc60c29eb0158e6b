"""What the page shows is in its address: Back, reload, shared links; in a frame of Airflow 3.1, and alone.

Airflow 3.3 gives its frame an address of its own; see ``test_in_a_browser``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from airflow_provider_nexthink.plugins.deletions import HEADERS
from tests.support.airflow_api import NOW, PREFIX, AirflowApi, Task, row_of, summary_of
from tests.support.browser import open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page


IN_AIRFLOW = "../plugin/nexthink-deletions"


@pytest.fixture
def runs(api: AirflowApi) -> list[Task]:
    for number, rows in enumerate([3, 5], start=1):
        summary = summary_of(rows, SCHEDULED=rows, started_at=f"2026-11-22T23:0{number}:00+00:00")
        table = [row_of(at) for at in range(rows)]
        api.tasks.append(
            Task(
                {"summary": summary, "return_value": table, "unscheduled": []},
                run_id=f"manual__{number}",
                start_date=str(summary["started_at"]),
            )
        )
    return api.tasks


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def searches(page: Page) -> tuple[str, str]:
    """Return the query in the address of Airflow's document, and of the page in its frame."""
    frame = page.frames[1]
    return page.evaluate("location.search"), frame.evaluate("location.search")


def test_files_hold_no_data_and_have_strict_headers(page: Page) -> None:
    response = page.goto("")
    assert response is not None
    for name, value in HEADERS.items():
        assert response.headers[name.lower()] == value
    script = page.request.get("runs.js")
    assert (script.ok, script.headers["content-security-policy"]) == (True, HEADERS["Content-Security-Policy"])
    for path in ("..%2fdeletions.py", "%2e%2e/deletions.py", "none.js"):
        assert page.request.get(path).status == 404


def test_back_from_an_outcome_is_one_press(page: Page, runs: list[Task]) -> None:
    page.goto(IN_AIRFLOW)
    frame = frame_of(page)
    frame.get_by_label("Period").select_option("Last 7 days")
    expect(frame.locator(".run-table tbody tr")).to_have_count(2)
    frame.locator(".run-table tbody tr").first.get_by_role("link").first.click()
    frame.get_by_text("5 rows").wait_for()
    outcome = f"?{urlencode(runs[1].entry)}"
    assert searches(page) == (outcome, outcome)
    page.go_back()
    expect(frame.locator(".run-table tbody tr")).to_have_count(2)
    assert searches(page) == ("?days=7", "?days=7")
    page.go_forward()
    frame.get_by_text("5 rows").wait_for()
    assert searches(page) == (outcome, outcome)
    page.go_back()
    page.go_back()
    expect(frame.get_by_label("Period")).to_have_value("28")
    assert searches(page) == ("", "")


def test_reload_and_shared_link_show_the_same(browser: Browser, address: str, page: Page, runs: list[Task]) -> None:
    page.goto(IN_AIRFLOW)
    frame_of(page).locator(".run-table tbody tr").nth(1).get_by_role("link").first.click()
    frame_of(page).get_by_text("3 rows").wait_for()
    frame_of(page).get_by_role("searchbox").fill("laptop-000002")
    frame_of(page).get_by_text("1 of 3 rows").wait_for()
    page.reload()
    frame_of(page).get_by_text("1 of 3 rows").wait_for()
    with open_page(browser, address) as another:
        another.clock.set_fixed_time(NOW)
        another.goto(page.url)
        frame_of(another).get_by_text("1 of 3 rows").wait_for()
        expect(frame_of(another).get_by_role("searchbox")).to_have_value("laptop-000002")


def test_menu_entry_leads_back_to_the_runs(page: Page, runs: list[Task]) -> None:
    page.goto(f"{IN_AIRFLOW}?{urlencode(runs[0].entry)}")
    frame_of(page).get_by_text("3 rows").wait_for()
    # As Airflow's menu does it: the address changes, and the frame stays.
    page.evaluate("history.pushState(null, '', location.pathname)")
    expect(frame_of(page).locator(".run-table tbody tr")).to_have_count(2)
    assert searches(page) == ("", "")


def test_page_that_is_open_alone_has_the_same_addresses(page: Page, runs: list[Task]) -> None:
    page.goto("?days=7")
    page.locator(".run-table tbody tr").first.get_by_role("link").first.click()
    page.get_by_text("5 rows").wait_for()
    page.go_back()
    expect(page.get_by_label("Period")).to_have_value("7")
    page.get_by_role("link", name="Attention", exact=True).click()
    page.wait_for_url("**?days=7&view=attention")


def test_links_to_airflow_open_in_airflow(page: Page, runs: list[Task]) -> None:
    page.goto(f"{IN_AIRFLOW}?{urlencode(runs[0].entry)}")
    frame_of(page).get_by_role("link", name="Task and log").click()
    page.get_by_text(f"Airflow: {PREFIX}/dags/stale/runs/manual__1/tasks/delete").wait_for()


@pytest.mark.parametrize(
    ("chosen", "shown", "label"),
    [
        (None, "2026-11-22 23:01:00", "UTC"),
        ('"Asia/Kolkata"', "2026-11-23 04:31:00", "Asia/Kolkata (GMT+5:30)"),
        ('"America/New_York"', "2026-11-22 18:01:00", "America/New_York (GMT-5)"),
        ('"UTC"', "2026-11-22 23:01:00", "UTC"),
        ('"Mars/Olympus"', "2026-11-22 23:01:00", "UTC"),
        ("no JSON", "2026-11-22 23:01:00", "UTC"),
    ],
)
def test_times_are_in_the_zone_chosen_in_airflow(
    page: Page, runs: list[Task], chosen: str | None, shown: str, label: str
) -> None:
    if chosen:
        page.add_init_script(f"localStorage.setItem('timezone', {chosen!r})")
    page.goto("")
    expect(page.locator(".run-table .when").nth(1)).to_have_text(shown)
    expect(page.locator(".zone")).to_have_text(label)


def test_another_time_zone_chosen_in_airflow_shows_at_once(page: Page, runs: list[Task]) -> None:
    page.goto(IN_AIRFLOW)
    expect(frame_of(page).locator(".run-table .when").first).to_have_text("2026-11-22 23:02:00")
    page.evaluate("localStorage.setItem('timezone', JSON.stringify('Europe/Berlin'))")
    expect(frame_of(page).locator(".run-table .when").first).to_have_text("2026-11-23 00:02:00")
    labels = frame_of(page).locator(".canvas svg > g:not(.grid) > text")
    expect(labels).to_have_text(["11-23", "00:02"])


@pytest.mark.parametrize(
    ("system", "chosen", "theme"),
    [
        ("light", None, "light"),
        ("dark", None, "dark"),
        ("dark", "light", "light"),
        ("light", "dark", "dark"),
        ("dark", "system", "dark"),
    ],
)
def test_page_has_the_theme_of_airflow(
    browser: Browser, address: str, system: Literal["light", "dark"], chosen: str | None, theme: str
) -> None:
    with open_page(browser, address, theme=system) as page:
        if chosen:
            page.add_init_script(f"localStorage.setItem('theme', '{chosen}')")
        page.goto("")
        page.get_by_role("heading", name="No deletions").wait_for()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
