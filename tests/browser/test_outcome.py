"""The outcome of one run: its state, the reasons with their remedies, the table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, row_of, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import Page


OUTCOME = f"?{urlencode(Task().entry)}"
HOSTILE = "<img src=x onerror=alert(1)>"
GUARD = {
    "type": "NexthinkGuardError",
    "message": "The list would delete 80003 devices, more than max_devices=500 of the task allows. Nothing was sent.",
    "sent_nothing": True,
    "planned": 80_003,
    "limit": 500,
}


def set_outcome(api: AirflowApi, rows: list[dict[str, Any]], *, table: Any = None, **summary: Any) -> Task:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    task = Task(
        {"summary": summary_of(len(rows), **counts | summary), "return_value": rows if table is None else table}
    )
    api.tasks = [task]
    return task


def downloaded(page: Page, press: Callable[[], None]) -> list[dict[str, str]]:
    with page.expect_download() as download:
        press()
    text = download.value.path().read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("state", "summary", "told", "remedy", "can_refresh"),
    [
        (
            "failed",
            summary_of(80_003, NOT_SENT=80_003, error=GUARD),
            "Blocked: 80,003 devices, limit 500. Nothing was sent.",
            "raise max_devices of the task",
            False,
        ),
        (
            "failed",
            summary_of(None, error={"type": "NexthinkPermissionError", "message": "No: 403.", "sent_nothing": True}),
            "Failed: No permission (403). Nothing was sent.",
            "Tick the permission 'Data management'",
            False,
        ),
        ("failed", None, "Failed", "What was sent is not known here: see the log.", False),
        ("upstream_failed", None, "Not run", "A task before it failed: nothing sent.", False),
        ("skipped", None, "Skipped", "nothing was sent", False),
        ("running", None, "Running", "when the task ends", True),
        ("queued", None, "Queued", "when the task ends", True),
        (None, None, "Not started", "Airflow has not queued this task yet.", True),
        ("up_for_retry", summary_of(3, SCHEDULED=3), "Waiting for its retry", "the try before", True),
        ("success", None, "No outcome", "What was sent is not known here: see the log.", False),
    ],
)
def test_outcome_without_a_clean_end_says_what_is_the_case(
    page: Page,
    api: AirflowApi,
    state: str | None,
    summary: dict[str, Any] | None,
    told: str,
    remedy: str,
    can_refresh: bool,
) -> None:
    api.tasks = [Task({"summary": summary} if summary else {}, state=state)]
    page.goto(OUTCOME)
    banner = page.locator(".banner")
    expect(banner.get_by_role("heading")).to_have_text(told)
    expect(banner).to_contain_text(remedy)
    expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
    expect(page.get_by_text("DataFrame")).to_have_count(0)  # there is no table: nothing to explain about its form
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.get_by_role("button", name="Refresh")).to_have_count(int(can_refresh))
    expect(page.get_by_role("link", name="Task and log")).to_be_visible()


def test_outcome_of_a_running_task_is_read_again_on_request(page: Page, api: AirflowApi) -> None:
    api.tasks = [Task(state="running")]
    page.goto(OUTCOME)
    expect(page.get_by_role("heading", name="Running")).to_be_visible()
    set_outcome(api, [row_of(0)])
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_text("1 row", exact=True)).to_be_visible()
    expect(page.locator(".banner")).to_have_count(0)


def test_outcome_of_a_run_that_is_not_there_says_so(page: Page, api: AirflowApi) -> None:
    api.tasks = []
    page.goto(OUTCOME)
    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
    expect(page.get_by_text("marked as success")).to_have_count(0)


def test_outcome_of_another_operator_is_told_apart(page: Page, api: AirflowApi) -> None:
    api.tasks = [Task({"summary": {"text": "of another kind"}})]
    page.goto(OUTCOME)
    expect(page.get_by_role("heading", name="Not a Nexthink deletion")).to_be_visible()


def test_plan_that_waits_for_an_approval_says_so(page: Page, api: AirflowApi) -> None:
    plan = set_outcome(api, [row_of(0, status="PLANNED")], dry_run=True)
    plan.task_id = "plan"
    approval = Task(task_id="approve", state="awaiting_input", operator="ApprovalOperator")
    api.tasks.append(approval)
    api.approvals = [approval]
    page.goto(f"?{urlencode(plan.entry)}")
    expect(page.locator(".banner").get_by_role("heading")).to_have_text("Awaiting approval")
    expect(page.get_by_text("Done", exact=True)).to_have_count(0)
    page.get_by_role("link", name="Approve or reject").click()
    expect(page.get_by_text("/tasks/approve/required_actions")).to_be_visible()


def test_outcome_says_who_why_and_within_which_limits(page: Page, api: AirflowApi) -> None:
    limits = {"max_devices": 500, "max_share": 0.1, "exclude": ["SRV-*", "VIP-*"], "protect_list": True}
    set_outcome(api, [row_of(0)], triggered_by="anna", reason="TICKET-7: returned", limits=limits)
    page.goto(OUTCOME)
    facts = page.locator(".facts")
    for text in ("anna", "TICKET-7: returned", "acme", "2026-11-22 00:00:05 UTC"):
        expect(facts.get_by_text(text)).to_be_visible()
    facts.get_by_text("Limits and exclusions").click()
    expect(facts.get_by_text("At most: 500")).to_be_visible()
    expect(facts.get_by_text("Exclude: SRV-*, VIP-*")).to_be_visible()


def test_reasons_are_listed_with_their_remedy_and_filter_the_table(page: Page, api: AirflowApi) -> None:
    rows = [row_of(at, status="NOT_SENT", reason="not accepted: 403") for at in range(3)]
    rows += [row_of(3, status="NOT_SENT", reason="the run ended before its turn: 403")]
    rows += [row_of(7, status="INVALID", reason="the uid is not a UUID (str); not sent"), row_of(8)]
    set_outcome(api, rows)
    page.goto(OUTCOME)
    reasons = page.get_by_role("region", name="Why devices need attention")
    expect(reasons.get_by_role("listitem")).to_have_count(2)  # one for each kind, not for each text
    expect(reasons.get_by_role("listitem").first).to_contain_text("4 Not sent: no permission (403)")
    expect(reasons.get_by_role("listitem").first).to_contain_text("Tick the permission 'Data management'")
    malformed = reasons.get_by_role("button", name="1 The uid is malformed")
    malformed.click()
    expect(page.get_by_text("1 of 6 rows")).to_be_visible()
    page.reload()
    expect(page.get_by_text("1 of 6 rows")).to_be_visible()
    expect(malformed).to_have_attribute("aria-pressed", "true")
    malformed.click()
    expect(page.get_by_text("6 rows", exact=True)).to_be_visible()


def test_dry_run_and_the_real_run_after_it_are_compared(page: Page, api: AirflowApi) -> None:
    planned = [row_of(at, status="PLANNED") for at in range(4)] + [row_of(9, status="EXCLUDED")]
    real = [row_of(at) for at in range(2)] + [row_of(2, status="FAILED", reason="device locked"), row_of(5)]
    api.tasks = [
        Task(
            {"summary": summary_of(5, PLANNED=4, EXCLUDED=1, dry_run=True), "return_value": planned},
            run_id="manual__1",
        ),
        Task(
            {
                "summary": summary_of(4, SCHEDULED=3, FAILED=1, started_at="2026-11-23T00:00:00+00:00"),
                "return_value": real,
            },
            run_id="manual__2",
            start_date="2026-11-23T00:00:00+00:00",
        ),
    ]
    page.goto(f"?{urlencode(api.tasks[1].entry)}")
    compared = page.get_by_role("region", name="Dry run and real run")
    expect(compared).to_contain_text("planned 4, scheduled 3, difference -1.")
    compared.get_by_role("button", name="Compare the devices").click()
    expect(compared.get_by_role("listitem")).to_have_text(
        [
            f"LAPTOP-000002 ({row_of(2)['uid']}): FAILED: device locked",
            f"LAPTOP-000003 ({row_of(3)['uid']}): not in the list any more",
            f"LAPTOP-000005 ({row_of(5)['uid']}): scheduled, and not planned",
        ]
    )
    compared.get_by_role("link", name="the dry run of").click()
    page.get_by_text("dry run: nothing was sent").wait_for()
    expect(compared).to_contain_text("Followed by the real run of 2026-11-23 00:00:00")


def test_as_many_devices_are_not_said_to_be_the_same(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        Task(
            {"summary": summary_of(1, PLANNED=1, dry_run=True), "return_value": [row_of(1, status="PLANNED")]},
            run_id="manual__1",
        ),
        Task(
            {
                "summary": summary_of(300_000, SCHEDULED=1, started_at="2026-11-23T00:00:00+00:00"),
                "return_value": [row_of(2)],
            },
            run_id="manual__2",
            start_date="2026-11-23T00:00:00+00:00",
        ),
    ]
    page.goto(f"?{urlencode(api.tasks[1].entry)}")
    expect(page.get_by_role("button", name="Load it")).to_be_visible()
    compared = page.get_by_role("region", name="Dry run and real run")  # it does not wait for the table
    expect(compared).to_contain_text("planned 1, scheduled 1, as many.")
    compared.get_by_role("button", name="Compare the devices").click()
    expect(compared.get_by_role("listitem")).to_have_count(2)


def test_differences_are_all_counted_and_the_first_listed(page: Page, api: AirflowApi) -> None:
    planned = [row_of(at, status="PLANNED") for at in range(1250)]
    api.tasks = [
        Task({"summary": summary_of(1250, PLANNED=1250, dry_run=True), "return_value": planned}, run_id="manual__1"),
        Task(
            {
                "summary": summary_of(1, SCHEDULED=1, started_at="2026-11-23T00:00:00+00:00"),
                "return_value": [row_of(0)],
            },
            run_id="manual__2",
            start_date="2026-11-23T00:00:00+00:00",
        ),
    ]
    page.goto(f"?{urlencode(api.tasks[1].entry)}")
    page.get_by_role("button", name="Compare the devices").click()
    compared = page.get_by_role("region", name="Dry run and real run")
    expect(compared.get_by_role("heading")).to_have_text("Planned, and not scheduled: 1,249")
    expect(compared.get_by_role("listitem")).to_have_count(201)
    expect(compared.get_by_role("listitem").last).to_have_text("and 1,049 more devices")


@pytest.mark.parametrize(
    ("started_at", "is_said"), [("2026-10-30T00:00:00+00:00", True), ("2026-11-01T00:00:00+00:00", False)]
)
def test_run_that_is_too_old_for_a_comparison_says_so(
    page: Page, api: AirflowApi, started_at: str, is_said: bool
) -> None:
    set_outcome(api, [row_of(0)], started_at=started_at).start_date = started_at
    page.goto(OUTCOME)
    page.get_by_text("1 row", exact=True).wait_for()
    page.wait_for_load_state("networkidle")  # the runs to compare with are read in the background
    said = page.get_by_text("Dry runs are compared with real ones for the last 4 weeks only, and this run is older.")
    expect(said).to_have_count(int(is_said))


def test_outcome_of_a_mapped_task_has_its_label(page: Page, api: AirflowApi) -> None:
    task = set_outcome(api, [row_of(0)])
    task.map_index, task.rendered_map_index = 3, "nexthink_globex"
    page.goto(f"?{urlencode(task.entry)}")
    expect(page.get_by_role("heading", name="delete [nexthink_globex]")).to_be_visible()


def test_outcome_shows_hostile_names_as_text(page: Page, api: AirflowApi) -> None:
    names = [HOSTILE, "</div><script>alert(1)</script>", "=1+1", '"; alert(1)', "a,b\r\nc", "  blanks  ", "Ärger ✓"]
    set_outcome(api, [row_of(at, name) for at, name in enumerate(names)], instance=HOSTILE, reason=HOSTILE)
    page.goto(OUTCOME)
    page.get_by_text(f"{len(names)} rows").wait_for()
    expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
    assert page.locator("main img, main script").count() == 0
    rows_of_file = downloaded(page, page.get_by_role("button", name="Download CSV").click)
    assert [row["name"] for row in rows_of_file] == names  # to the letter, and so is what a Dag reads from it
    page.get_by_text("Names or uids that begin with =, +, - or @: 1.").wait_for()


@pytest.mark.parametrize("form", ["records", "columns", "text"])
def test_outcome_reads_a_table_in_every_form(page: Page, api: AirflowApi, form: str) -> None:
    rows = [row_of(0), row_of(1, status="INVALID"), row_of(2, status="EXCLUDED")]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    set_outcome(api, rows, table={"records": rows, "columns": columns, "text": json.dumps(rows)}[form])
    page.goto(OUTCOME)
    page.get_by_text("3 rows").wait_for()
    page.get_by_role("button", name="INVALID 1", exact=True).click()
    page.get_by_text("1 of 3 rows").wait_for()
    page.get_by_role("button", name="EXCLUDED 1", exact=True).click()
    page.get_by_text("2 of 3 rows").wait_for()
    statuses = [row["status"] for row in downloaded(page, page.get_by_text("Download CSV").click)]
    assert statuses == ["INVALID", "EXCLUDED"]


@pytest.mark.parametrize(
    "value",
    [
        {"__classname__": "pandas.DataFrame", "__version__": 1, "__data__": "50415231"},
        "s3://bucket/xcom/1.json",
        7,
        [[1]],
    ],
)
def test_table_that_a_browser_cannot_read_is_explained(page: Page, api: AirflowApi, value: Any) -> None:
    task = set_outcome(api, [row_of(0), row_of(7, status="FAILED")], table=value)
    task.xcoms["unscheduled"] = [row_of(7, status="FAILED")]
    page.goto(OUTCOME)
    page.get_by_text("The whole table cannot be shown here").wait_for()
    page.get_by_text("1 row", exact=True).wait_for()
    expect(page.get_by_role("cell", name="LAPTOP-000007")).to_be_visible()


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "You are signed out"),
        (403, "You may not read this"),
        (413, "The table is too large for this page"),
        (500, "Airflow responded with 500"),
    ],
)
def test_outcome_refused_by_airflow_says_why(page: Page, api: AirflowApi, status: int, told: str) -> None:
    set_outcome(api, [row_of(0)])
    api.error = status
    page.goto(OUTCOME)
    page.get_by_role("alert").get_by_role("heading", name=told).wait_for()
    api.error = None
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("1 row", exact=True).wait_for()


def test_outcome_cut_off_is_explained(page: Page, api: AirflowApi) -> None:
    api.error, api.body = 200, '{"value": {"requested": 1'
    page.goto(OUTCOME)
    page.get_by_role("heading", name="Airflow's response was cut off").wait_for()


def test_outcome_without_network_is_explained(page: Page) -> None:
    page.route("**/api/v2/**", lambda route: route.abort())
    page.goto(OUTCOME)
    page.get_by_role("heading", name="Airflow does not respond").wait_for()


def test_outcome_shows_a_hundred_thousand_rows(page: Page, api: AirflowApi) -> None:
    set_outcome(api, [row_of(at) for at in range(100_000)])
    page.goto(OUTCOME)
    page.get_by_text("100,000 rows").wait_for(timeout=60_000)
    table = page.get_by_role("table", name="Outcome of each device")
    table.get_by_role("cell", name="LAPTOP-000000").wait_for()
    assert table.get_by_role("row").count() < 80  # the others are not in the document
    expect(table).to_have_attribute("aria-rowcount", "100001")
    table.press("End")
    expect(table.get_by_role("cell", name="LAPTOP-099999")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("laptop-01234")
    page.get_by_text("10 of 100,000 rows").wait_for()
    expect(table.get_by_role("row")).to_have_count(11)
    page.keyboard.press("Control+a")
    page.keyboard.type("no such device")
    page.get_by_text("No device matches.").wait_for()


def test_outcome_loads_more_rows_on_request(page: Page, api: AirflowApi) -> None:
    api.tasks = [Task({"summary": summary_of(300_000, SCHEDULED=300_000), "return_value": [row_of(0)]})]
    page.goto(OUTCOME)
    page.get_by_role("heading", name="A table of 300,000 rows").wait_for()
    assert not any("return_value" in asked for asked in api.asked)
    page.get_by_role("button", name="Load it").press("Enter")
    page.get_by_role("cell", name="LAPTOP-000000").wait_for()


def test_outcome_works_with_the_keyboard(page: Page, api: AirflowApi) -> None:
    set_outcome(api, [row_of(0), row_of(1, status="EXCLUDED")])
    page.goto(OUTCOME)
    page.get_by_text("2 rows").wait_for()
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.get_by_text("1 of 2 rows").wait_for()
    page.wait_for_url("**&status=EXCLUDED")


def test_table_on_a_phone_shows_name_status_and_reason(page: Page, api: AirflowApi) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    reason = "not accepted: 403"
    set_outcome(api, [row_of(0, status="NOT_SENT", reason=reason), *[row_of(at) for at in range(1, 500)]])
    page.goto(OUTCOME)
    table = page.get_by_role("table", name="Outcome of each device")
    for text in ("LAPTOP-000000", "NOT_SENT", reason):
        cell = table.get_by_role("cell", name=text).first
        expect(cell).to_be_visible()
        box = cell.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    table.press("End")
    expect(table.get_by_role("cell", name="LAPTOP-000499")).to_be_visible()


def test_table_on_a_wide_screen_shows_the_whole_reason(page: Page, api: AirflowApi) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    set_outcome(api, [row_of(0, status="UNKNOWN", reason="sent, without an unambiguous response: 503")])
    page.goto(OUTCOME)
    cell = page.locator(".rows .cell.reason")
    cell.wait_for()
    assert cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth && cell.getBoundingClientRect().right <= 1440")


LOST = (
    "what was sent is not known here: an earlier try was lost; see its log, and whether Nexthink still has the device"
)


@pytest.mark.parametrize("width", [390, 1440])
def test_long_reason_can_be_read_without_a_mouse(page: Page, api: AirflowApi, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    set_outcome(api, [row_of(0), row_of(1, status="UNKNOWN", reason=LOST), *[row_of(at) for at in range(2, 500)]])
    page.goto(OUTCOME)
    cell = page.locator(".rows .row", has_text="LAPTOP-000001").locator(".cell.reason")
    cell.wait_for()
    assert cell.evaluate("cell => cell.scrollHeight <= cell.clientHeight && cell.offsetHeight < 40"), "two lines"
    details = page.get_by_role("region", name="Selected device")
    expect(details).to_be_hidden()
    table = page.get_by_role("table", name="Outcome of each device")
    table.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    for text in (LOST, row_of(1)["uid"], "See the log of the earlier try"):
        text_in_details = details.get_by_text(text).first
        text_in_details.scroll_into_view_if_needed()
        assert text_in_details.evaluate("node => node.scrollWidth <= node.clientWidth")
    expect(page.locator(".row[aria-current]")).to_contain_text("LAPTOP-000001")
    page.keyboard.press("End")
    expect(details).to_contain_text("LAPTOP-000499")
    expect(page.locator(".row[aria-current]")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    page.locator(".rows .row").last.click()
    expect(details).to_contain_text("LAPTOP-000499")
    details.get_by_role("button", name="Close").click()
    expect(details).to_be_hidden()
    expect(table).to_be_focused()


def test_download_works_with_the_keyboard_in_the_frame_of_airflow(page: Page, api: AirflowApi) -> None:
    task = set_outcome(api, [row_of(0), row_of(1, status="EXCLUDED")])
    page.goto(f"../plugin/nexthink-deletions?{urlencode(task.entry)}")  # a frame that allows no downloads
    button = page.frame_locator("iframe").get_by_role("button", name="Download CSV")
    button.focus()
    rows = downloaded(page, lambda: page.keyboard.press("Enter"))
    assert [row["status"] for row in rows] == ["SCHEDULED", "EXCLUDED"]


def test_double_click_selects_the_whole_uid(page: Page, api: AirflowApi) -> None:
    set_outcome(api, [row_of(7)])
    page.goto(OUTCOME)
    page.locator(".rows .cell.uid").dblclick()
    assert page.evaluate("getSelection().toString().trim()") == row_of(7)["uid"]


def test_name_stays_in_sight_when_the_table_is_scrolled(page: Page, api: AirflowApi) -> None:
    set_outcome(api, [row_of(7)])
    page.goto(OUTCOME)
    table = page.get_by_role("table", name="Outcome of each device")
    table.get_by_role("cell", name="LAPTOP-000007").wait_for()
    table.evaluate("table => { table.scrollLeft = 400; }")
    box = table.get_by_role("cell", name="LAPTOP-000007").bounding_box()
    assert box is not None
    assert box["x"] >= 0


def test_table_of_a_running_task_is_read_again_once_it_has_ended(page: Page, api: AirflowApi) -> None:
    task = set_outcome(api, [row_of(0), row_of(1)])
    task.state = "running"
    page.goto(OUTCOME)
    page.get_by_text("2 rows").wait_for()
    set_outcome(api, [row_of(at) for at in range(3)], finished_at="2026-11-22T00:05:00+00:00")
    page.get_by_role("link", name="Nexthink deletions").click()
    page.locator(".run-table tbody tr").first.get_by_role("link").first.click()
    page.get_by_text("3 rows").wait_for()
