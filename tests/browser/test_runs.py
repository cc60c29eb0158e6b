"""The list of runs: what is in it, how it is counted, sorted and filtered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


GUARD = {
    "type": "NexthinkGuardError",
    "message": "80003 devices would be deleted, more than max_devices allows (500). This try sent nothing.",
    "sent_nothing": True,
    "planned": 80_003,
    "limit": 500,
}


def a_run(number: int, *, at: str = "2026-11-22T00:00:00+00:00", state: str = "success", **summary: Any) -> Task:
    rows = summary.pop("rows", 100)
    values = {"SCHEDULED": rows, "started_at": at} | summary
    task = {
        name: values.pop(name) for name in ("dag_id", "task_id", "map_index", "rendered_map_index") if name in values
    }
    return Task({"summary": summary_of(rows, **values)}, run_id=f"manual__{number}", start_date=at, state=state, **task)


def rows(page: Page) -> Locator:
    return page.get_by_role("table", name="Runs").locator("tbody tr")


def tile(page: Page, label: str) -> str:
    """Return the figure of a tile."""
    return page.locator(".tile", has=page.get_by_text(label, exact=True)).locator("b").inner_text()


def test_runs_none_says_so(page: Page, api: AirflowApi) -> None:
    page.goto("")
    page.get_by_role("heading", name="No deletions in this period yet.").wait_for()
    assert any("/dags/~/dagRuns/~/taskInstances?operator=Nexthink" in asked for asked in api.asked)
    page.goto("?days=7&dag_id=stale")
    page.get_by_text("This Dag has started no deletion in this period.").wait_for()
    assert any("/dags/stale/dagRuns/~/" in asked for asked in api.asked)


def test_runs_to_look_at_are_each_counted_once(page: Page, api: AirflowApi) -> None:
    refused = {"type": "NexthinkPermissionError", "message": "No: 403.", "sent_nothing": False}
    api.tasks = [
        a_run(1, rows=15, SCHEDULED=0, NOT_SENT=15, state="failed", error=refused),  # failed, and has such devices
        a_run(2, rows=130, SCHEDULED=0, NOT_SENT=130, state="failed", error=GUARD),
        a_run(3, SCHEDULED=99, INVALID=1),
        a_run(4),
    ]
    page.goto("")
    expect(rows(page)).to_have_count(4)
    assert tile(page, "Runs to look at") == "3"
    page.get_by_text("2 blocked, failed or awaiting approval, 1 other with devices that need attention").wait_for()


def test_runs_with_a_long_address_in_an_error_fit_the_page(page: Page, api: AirflowApi) -> None:
    message = "POST https://acme-corp.api.eu.nexthink.cloud/api/v1/data-management/device/deletions returned 403."
    error = {"type": "NexthinkPermissionError", "message": message, "sent_nothing": False}
    names = {"dag_id": "nexthink_delete_with_approval", "task_id": "delete_devices", "triggered_by": "Anonymous"}
    failed = a_run(1, rows=15, SCHEDULED=0, NOT_SENT=15, state="failed", error=error, **names)
    api.tasks = [failed, a_run(2, EXCLUDED=3, reason="Not seen for 90 days, approved by Anonymous", **names)]
    page.set_viewport_size({"width": 1216, "height": 640})
    page.goto("")
    expect(rows(page)).to_have_count(2)
    card = page.locator(".card", has=page.get_by_role("table", name="Runs"))
    assert card.evaluate("card => card.scrollWidth <= card.clientWidth")


def test_runs_are_listed_by_the_time_at_which_they_happened(page: Page, api: AirflowApi) -> None:
    # A backfill of minutes ago has a logical date and a run_after of weeks ago.
    api.tasks = [a_run(1, at="2026-11-28T11:50:00+00:00", rows=3), a_run(2, at="2026-11-24T09:00:00+00:00", rows=4)]
    api.tasks[0].run_after = "2026-10-01T00:00:00+00:00"
    api.tasks += [a_run(3, at="2026-11-20T11:50:00+00:00", rows=5)]
    api.tasks[2].run_after = "2026-11-28T11:00:00+00:00"
    page.goto("?days=7")
    expect(rows(page)).to_have_count(2)
    expect(rows(page).locator(".when")).to_have_text(["2026-11-28 11:50:00", "2026-11-24 09:00:00"])
    axis = page.locator(".canvas svg > g:not(.grid) > text")
    expect(axis).to_have_text(["11-24", "11-28"])
    assert tile(page, "Scheduled") == "7"


@pytest.mark.parametrize("sorts_xcoms", [True, False])
def test_runs_of_subclasses_are_found_by_their_summary(page: Page, api: AirflowApi, sorts_xcoms: bool) -> None:
    api.sorts_xcoms = sorts_xcoms
    api.tasks = [a_run(1, at="2026-11-23T00:00:00+00:00"), a_run(2), a_run(3, at="2026-10-01T00:00:00+00:00")]
    for task in api.tasks:
        task.operator = "OurDeleteOperator"
    page.goto("")
    expect(rows(page)).to_have_count(2)


def test_runs_leave_out_summaries_of_other_operators(page: Page, api: AirflowApi) -> None:
    api.tasks = [Task({"summary": {"text": "of quite another operator"}}, operator="OtherOperator")]
    page.goto("")
    page.get_by_role("heading", name="No deletions in this period").wait_for()


def test_runs_that_sent_nothing_are_shown_with_the_reason(page: Page, api: AirflowApi) -> None:
    secret = {"type": "NexthinkAuthenticationError", "message": "Wrong secret (401).", "sent_nothing": True}
    api.tasks = [
        a_run(1, at="2026-11-25T00:00:00+00:00", state="failed", rows=80_003, SCHEDULED=0, PLANNED=80_003, error=GUARD),
        a_run(2, at="2026-11-24T00:00:00+00:00", state="failed", rows=None, SCHEDULED=0, error=secret),
        Task({}, run_id="manual__3", state="failed", start_date="2026-11-23T00:00:00+00:00"),
        Task({}, run_id="manual__4", state="upstream_failed", start_date="2026-11-22T00:00:00+00:00"),
        Task({}, run_id="manual__5", state="skipped", start_date="2026-11-21T00:00:00+00:00"),
        Task({}, run_id="manual__6", state="success", start_date="2026-11-20T00:00:00+00:00"),
    ]
    page.goto("")
    expect(rows(page)).to_have_count(5)
    texts = [" ".join(text.split()) for text in rows(page).locator("td:nth-child(2)").all_inner_texts()]
    assert texts == [
        "Blocked 80,003 devices, limit 500: nothing sent",
        "Failed Nothing sent: Wrong secret (401).",
        "Failed What was sent is not known here: see the log",
        "Failed A task before it failed: nothing sent",
        "No outcome The task recorded no outcome: marked as success, or its XComs are gone",
    ]
    assert (tile(page, "Scheduled"), tile(page, "Blocked")) == ("0", "80,003")
    assert page.locator(".canvas rect:not(.hit)").count() == 0  # nothing was sent: no height
    expect(page.locator(".canvas .cross")).to_have_count(4)


def test_runs_that_are_running_or_wait_for_an_approval_are_shown(page: Page, api: AirflowApi) -> None:
    approve = Task(run_id="manual__1", task_id="approve", operator="ApprovalOperator", state="awaiting_input")
    api.approvals = [approve]
    api.tasks = [
        a_run(1, task_id="plan", rows=323, SCHEDULED=0, PLANNED=323, dry_run=True),
        Task({}, run_id="manual__2", state="running", start_date="2026-11-23T00:00:00+00:00"),
        a_run(3, state="up_for_retry", at="2026-11-21T00:00:00+00:00"),
    ]
    page.goto("")
    expect(rows(page).locator(".state-badge")).to_have_text(["Running", "Awaiting approval", "Running"])
    expect(rows(page).nth(2)).to_contain_text("Waiting for its retry")
    link = rows(page).get_by_role("link", name="Somebody must approve or reject it")
    assert str(link.get_attribute("href")).endswith("/dags/stale/runs/manual__1/tasks/approve/required_actions")
    assert tile(page, "Scheduled") == "100"  # that of the retry: its earlier try


def test_totals_are_of_real_runs_only(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(1, rows=323, SCHEDULED=0, PLANNED=320, EXCLUDED=3, dry_run=True, at="2026-11-20T00:00:00+00:00"),
        a_run(2, rows=323, SCHEDULED=310, EXCLUDED=3, INVALID=2, NOT_SENT=8, at="2026-11-21T00:00:00+00:00"),
    ]
    page.goto("")
    expect(rows(page)).to_have_count(1)
    totals = ("Scheduled", "Kept back", "Blocked")
    assert [tile(page, label) for label in totals] == ["310", "3", "0"]
    expect(rows(page).locator("td.figure")).to_have_text(["323planned 320", "310", "10", "3"])
    page.get_by_label("Kind").select_option("Real and dry runs")
    expect(rows(page)).to_have_count(2)
    assert [tile(page, label) for label in totals] == ["310", "3", "0"]


def test_chart_heights_are_true_to_scale(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(1, rows=5, SCHEDULED=1, INVALID=1, EXCLUDED=3, at="2026-11-20T00:00:00+00:00"),
        a_run(2, rows=40_000, SCHEDULED=40_000, at="2026-11-21T00:00:00+00:00"),
    ]
    page.goto("")
    page.locator(".canvas svg").wait_for()
    heights = page.locator(".canvas rect:not(.hit)").evaluate_all(
        "all => all.map(each => [each.dataset.group, Number(each.getAttribute('height'))])"
    )
    assert [group for group, _ in heights] == ["scheduled", "attention", "kept", "scheduled"]
    small, large = sum(height for _, height in heights[:3]), heights[3][1]
    assert small / large == pytest.approx(5 / 40_000)
    expect(page.locator(".canvas circle.fill-attention")).to_have_count(1)


def test_runs_are_sorted_and_filtered_in_the_address(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(1, rows=10, instance="acme", at="2026-11-20T00:00:00+00:00"),
        a_run(2, rows=30, instance="globex", dag_id="other", at="2026-11-21T00:00:00+00:00"),
        a_run(3, rows=20, instance="acme", INVALID=3, SCHEDULED=17, at="2026-11-22T00:00:00+00:00"),
    ]
    page.goto("")
    page.get_by_role("link", name="Devices", exact=True).click()
    expect(rows(page).locator("td:nth-child(6)")).to_have_text(["30", "20", "10"])
    expect(page.get_by_role("columnheader", name="Devices")).to_have_attribute("aria-sort", "descending")
    page.get_by_label("Tenant").select_option("acme")
    expect(rows(page).locator("td:nth-child(6)")).to_have_text(["20", "10"])
    page.get_by_label("State").select_option("Needs attention (1)")
    expect(rows(page)).to_have_count(1)
    assert re.search(r"\?sort=-devices&tenant=acme&state=attention$", page.url)
    page.reload()
    expect(rows(page)).to_have_count(1)
    page.go_back()
    expect(rows(page)).to_have_count(2)
    page.go_back()
    expect(rows(page)).to_have_count(3)
    page.go_back()
    expect(rows(page).locator("td:nth-child(6)")).to_have_text(["20", "30", "10"])


def test_runs_in_large_numbers_are_paged(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(at, at=f"2026-11-22T00:{at // 60:02}:{at % 60:02}+00:00", rows=at + 1) for at in range(250)]
    page.goto("")
    page.get_by_text("Only the newest 200 runs of this period are shown").wait_for()
    expect(rows(page)).to_have_count(50)
    expect(page.locator(".canvas .bar")).to_have_count(200)
    assert tile(page, "Scheduled") == f"{sum(range(51, 251)):,}"
    page.get_by_role("link", name="Next").click()
    page.get_by_text("Page 2 of 4, 200 runs").wait_for()
    expect(rows(page).first.locator("td:nth-child(6)")).to_have_text("200")
    page.reload()
    page.get_by_text("Page 2 of 4, 200 runs").wait_for()


def test_runs_say_who_and_why_with_mapped_label(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(1, triggered_by="anna", reason="TICKET-7", map_index=1, rendered_map_index="nexthink_globex"),
        a_run(2, triggered_by="schedule", map_index=2),
    ]
    page.goto("")
    expect(rows(page).first).to_contain_text("delete [nexthink_globex]")
    expect(rows(page).first.locator(".why")).to_have_text("annaTICKET-7")
    expect(rows(page).nth(1)).to_contain_text("delete [2]")


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "You are signed out"),
        (403, "You may not read this"),
        (500, "Airflow responded with 500"),
    ],
)
def test_runs_refused_by_airflow_say_why(page: Page, api: AirflowApi, status: int, told: str) -> None:
    api.error = status
    page.goto("")
    page.get_by_role("alert").get_by_role("heading", name=told).wait_for()
    api.error = None
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="No deletions").wait_for()


def test_runs_without_permission_for_approvals_are_shown(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(1)]
    page.route("**/hitlDetails*", lambda route: route.fulfill(status=403, body="{}"))
    page.goto("")
    expect(rows(page)).to_have_count(1)


def test_runs_that_cannot_be_read_are_counted(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(1), Task({"summary": "s3://bucket/xcom/1.json"}, run_id="manual__2")]
    page.goto("")
    page.get_by_text("1 run could not be read").wait_for()
    expect(rows(page)).to_have_count(1)


def test_runs_refresh_reads_them_again(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(1)]
    page.goto("")
    expect(rows(page)).to_have_count(1)
    api.tasks.append(a_run(2))
    page.get_by_role("button", name="Refresh").click()
    expect(rows(page)).to_have_count(2)


def test_runs_on_a_phone_are_readable(page: Page, api: AirflowApi) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    api.tasks = [a_run(1, state="failed", rows=80_003, SCHEDULED=0, PLANNED=80_003, error=GUARD, triggered_by="anna")]
    page.goto("")
    expect(rows(page).get_by_text("Blocked")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert (
        rows(page)
        .locator("td")
        .evaluate_all(
            "all => all.every(td => td.getBoundingClientRect().right <= 390 && td.scrollWidth <= td.clientWidth)"
        )
    )


def test_runs_work_with_the_keyboard(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(1)]
    page.goto("")
    rows(page).wait_for()
    bar = page.locator(".canvas .bar")
    for _ in range(30):
        page.keyboard.press("Tab")
        if bar.evaluate("bar => bar === document.activeElement"):
            break
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "stale, delete, 2026-11-22 00:00: Done. 100 devices. Scheduled: 100"
    page.keyboard.press("Enter")
    page.wait_for_url("**run_id=manual__1**")
