"""What needs attention: runs as a whole, devices each once with their newest state, copying and running again."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.status import ACTION_REQUIRED
from tests.support.airflow_api import AirflowApi, Task, row_of, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Locator, Page, Route


ON_DEMAND = "nexthink_delete_on_demand"
GUARD = {
    "type": "NexthinkGuardError",
    "message": "80003 devices would be deleted, more than max_devices allows (500).",
    "sent_nothing": True,
    "planned": 80_003,
    "limit": 500,
}
TRY_LATER = "no slot: try later"
NOT_ACCEPTED = "not accepted: 403"
NO_CLIPBOARD = "Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined });"  # as over plain HTTP


def a_run(day: int, rows: list[dict[str, Any]], **values: Any) -> Task:
    """Return a run of a day in November 2026, with the table that its operator would push."""
    at = f"2026-11-{day:02}T00:00:05+00:00"
    fields = {name: values.pop(name) for name in ("dag_id", "task_id", "state", "map_index") if name in values}
    counts = Counter(row["status"] for row in rows)
    bad = [row for row in rows if row["status"] in ACTION_REQUIRED]
    summary = summary_of(len(rows), **{**counts, "started_at": at, **values})
    xcoms = {"summary": summary, "return_value": rows, "unscheduled": bad}
    return Task(xcoms, run_id=f"manual__{day}", start_date=at, **fields)


def rows_of(numbers: range, status: str, reason: str | None = None) -> list[dict[str, Any]]:
    return [row_of(number, status=status, reason=reason) for number in numbers]


def devices(page: Page | FrameLocator) -> Locator:
    return page.get_by_role("table", name="Devices that need attention").locator(".rows .row")


def reasons(page: Page | FrameLocator) -> Locator:
    return page.locator(".top-reason")


def clipboard(page: Page) -> str:
    """Return what is in the clipboard, read by another page."""
    page.context.grant_permissions(["clipboard-read"])
    reader = page.context.new_page()
    reader.goto("icon.svg")
    reader.bring_to_front()
    text = str(reader.evaluate("navigator.clipboard.readText()"))
    reader.close()
    page.bring_to_front()
    return text


@pytest.fixture
def mixed(api: AirflowApi) -> AirflowApi:
    """Two runs of one list: what the second one has scheduled needs nobody any more."""
    api.dags = [ON_DEMAND]
    first = [
        *rows_of(range(20), "FAILED", TRY_LATER),
        *rows_of(range(20, 23), "INVALID", "the uid is malformed"),
        *rows_of(range(30, 35), "NOT_SENT", NOT_ACCEPTED),
        *rows_of(range(100, 200), "SCHEDULED"),
    ]
    second = [
        *rows_of(range(10), "SCHEDULED"),
        *rows_of(range(10, 18), "FAILED", TRY_LATER),
        row_of(18, status="EXCLUDED"),
    ]
    api.tasks = [a_run(22, first), a_run(24, second)]
    return api


def test_attention_lists_each_device_once_with_its_newest_state(page: Page, mixed: AirflowApi) -> None:
    del mixed
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("17 devices")
    expect(reasons(page).locator("b")).to_have_text(["9", "5", "3"])
    expect(devices(page)).to_have_count(17)
    assert devices(page).first.locator(".times").inner_text() == "2"  # the retry repeated it
    newest = devices(page).filter(has_text="LAPTOP-000010")
    expect(newest.locator(".when")).to_have_text("2026-11-24 00:00")
    expect(devices(page).filter(has_text="LAPTOP-000019").locator(".when")).to_have_text("2026-11-22 00:00")
    expect(devices(page).filter(has_text="LAPTOP-000018")).to_have_count(0)
    href = newest.locator(".when a").get_attribute("href")
    assert href == (
        "?dag_id=stale&run_id=manual__24&task_id=delete&map_index=-1&q=00000000-0000-4000-8000-00000000000a"
    )


def test_attention_does_not_take_another_tenant_or_a_dry_run_for_a_newer_state(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(20, [row_of(1, status="FAILED")]),
        a_run(21, [row_of(1)], instance="globex"),
        a_run(22, [row_of(1, status="PLANNED"), row_of(2, status="INVALID")], dry_run=True),
    ]
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("1 device")


def test_attention_has_the_devices_of_earlier_tries(page: Page, api: AirflowApi) -> None:
    # The list of the last try had other devices: nothing of it needs attention.
    first, second = a_run(20, [row_of(9)]), a_run(21, [row_of(8)])
    for run, status in ((first, "UNKNOWN"), (second, "SCHEDULED")):
        earlier = [row_of(1, status=status), row_of(2, status="UNKNOWN")]
        run.xcoms["earlier_tries"] = earlier
        run.xcoms["summary"]["earlier_tries"] = Counter(row["status"] for row in earlier)
    second.xcoms["summary"]["SCHEDULED"] = 0
    api.tasks = [first, second]
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("1 device")
    expect(devices(page).locator(".name")).to_have_text(["LAPTOP-000002"])
    page.goto("?view=find&q=laptop-000001")
    expect(page.locator(".answer p")).to_have_text(["Last: SCHEDULED on 2026-11-21 00:00 by schedule"])


def test_attention_of_one_dag_knows_what_another_dag_has_scheduled(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(20, rows_of(range(3), "FAILED")),
        a_run(21, [row_of(1)], dag_id="other"),
        a_run(22, [row_of(7, status="FAILED")], dag_id="other"),
    ]
    page.goto("?view=attention&dag_id=stale")
    expect(page.locator(".ending .hint")).to_have_text("2 devices")
    expect(devices(page).locator(".name")).to_have_text(["LAPTOP-000000", "LAPTOP-000002"])


def test_attention_shows_runs_that_need_somebody_first(page: Page, api: AirflowApi) -> None:
    blocked = {"state": "failed", "error": GUARD, "PLANNED": 80_003}
    api.tasks = [
        a_run(25, [], **blocked),
        a_run(24, [], **blocked),
        Task({}, run_id="manual__23", state="failed", start_date="2026-11-23T00:00:00+00:00"),
        a_run(26, rows_of(range(3), "PLANNED"), dry_run=True, task_id="plan"),
        a_run(27, [row_of(1)]),
    ]
    api.approvals = [Task(run_id="manual__26", task_id="approve", operator="ApprovalOperator", state="awaiting_input")]
    page.goto("?view=attention")
    entries = page.locator(".open-runs li")
    expect(entries.locator(".state-badge")).to_have_text(["Awaiting approval", "Blocked", "Failed"])
    expect(entries.nth(1)).to_contain_text("80,003 devices, limit 500: nothing sent")
    expect(entries.nth(1)).to_contain_text("1 run before it with the same result")
    expect(entries.nth(1)).to_contain_text("a later run of this task ended on 2026-11-27 00:00")
    expect(entries.nth(2)).to_have_text(re.compile(r"see the log.*2026-11-23 00:00; a later run of this task ended"))
    assert "run_id=manual__25" in str(entries.nth(1).get_by_role("link").get_attribute("href"))
    approve = entries.first.get_by_role("link", name="Somebody must approve or reject it")
    assert str(approve.get_attribute("href")).endswith("/dags/stale/runs/manual__26/tasks/approve/required_actions")
    expect(page.get_by_text("No device needs attention.")).to_be_visible()


def test_attention_says_when_nothing_needs_it(page: Page, api: AirflowApi) -> None:
    page.goto("?view=attention")
    page.get_by_role("heading", name="Nothing needs attention").wait_for()
    api.tasks = [a_run(20, [row_of(1, status="FAILED")]), a_run(21, [row_of(1)])]
    page.get_by_role("button", name="Refresh").click()
    page.get_by_text("was scheduled or excluded by a newer run").wait_for()
    api.error = 401
    page.get_by_role("button", name="Refresh").click()
    page.get_by_role("heading", name="You are signed out").wait_for()
    api.error = None
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("was scheduled or excluded by a newer run").wait_for()


def test_attention_filters_are_in_the_address(page: Page, mixed: AirflowApi) -> None:
    mixed.tasks.append(a_run(25, [row_of(50, status="UNKNOWN")], instance="globex"))
    page.goto("?view=attention&days=28")
    page.locator("main:not([aria-busy])").wait_for()  # all rows are there
    reasons(page).filter(has_text=TRY_LATER).focus()
    page.keyboard.press("Space")
    expect(page.locator(".ending .hint")).to_have_text("9 of 18 devices")
    expect(reasons(page).filter(has_text=TRY_LATER)).to_be_focused()
    page.reload()
    expect(page.locator(".ending .hint")).to_have_text("9 of 18 devices")
    expect(reasons(page).filter(has_text=TRY_LATER)).to_have_attribute("aria-pressed", "true")
    reasons(page).filter(has_text=TRY_LATER).click()
    page.get_by_role("combobox", name="Tenant").select_option("acme")
    page.get_by_role("searchbox", name="Search by").fill("top-00002")
    expect(devices(page).locator(".name")).to_have_text(["LAPTOP-000020", "LAPTOP-000021", "LAPTOP-000022"])
    assert page.url.endswith("?view=attention&days=28&tenant=acme&q=top-00002")
    page.reload()
    expect(devices(page)).to_have_count(3)
    page.get_by_role("searchbox", name="Search by").fill("nobody")
    page.get_by_text("No device matches.").wait_for()


def test_attention_reason_that_is_pressed_while_rows_arrive_is_chosen(page: Page, mixed: AirflowApi) -> None:
    del mixed
    held: list[Route] = []
    page.route("**/manual__24/**/unscheduled*", lambda route: held.append(route))
    page.goto("?view=attention", wait_until="commit")
    expect(reasons(page).locator("b")).to_have_text(["20", "5", "3"])
    reasons(page).first.focus()
    page.keyboard.down("Space")
    held[0].continue_()
    expect(reasons(page).locator("b")).to_have_text(["9", "5", "3"])
    page.keyboard.up("Space")
    expect(page.locator(".ending .hint")).to_have_text("9 of 17 devices")
    expect(reasons(page).first).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("script", ["", NO_CLIPBOARD], ids=["clipboard", "no clipboard"])
def test_attention_copies_the_rows_with_their_status(page: Page, mixed: AirflowApi, script: str) -> None:
    row_with_tab = row_of(40, name='a\t"b"', status="UNKNOWN", reason=None)
    mixed.tasks.append(a_run(25, [row_with_tab]))
    page.add_init_script(script)
    page.goto("../plugin/nexthink-deletions?view=attention")  # in the sandboxed frame
    page.frame_locator("iframe").get_by_role("button", name="Copy these rows").click()
    page.frame_locator("iframe").get_by_text("18 rows copied").wait_for()
    rows = list(csv.DictReader(io.StringIO(clipboard(page)), delimiter="\t"))
    assert Counter(row["status"] for row in rows) == {"FAILED": 9, "NOT_SENT": 5, "INVALID": 3, "UNKNOWN": 1}
    assert (rows[0]["name"], rows[0]["reason"]) == ('a\t"b"', "")
    assert list(rows[0]) == ["uid", "name", "status", "reason"]


def test_attention_shows_the_rows_selected_where_nothing_can_be_copied(page: Page, mixed: AirflowApi) -> None:
    del mixed
    page.add_init_script(f"{NO_CLIPBOARD} document.execCommand = () => false;")
    page.goto("?view=attention")
    page.get_by_role("button", name="Copy these rows").click()
    page.get_by_text("press Ctrl+C").wait_for()
    area = page.get_by_role("textbox", name="Text to copy")
    expect(area).to_be_focused()
    start, end, length = area.evaluate("area => [area.selectionStart, area.selectionEnd, area.value.length]")
    assert (start, end) == (0, length)
    assert area.input_value().startswith("uid\tname\tstatus\treason\n00000000-")


def test_run_again_copies_what_a_retry_can_change(page: Page, mixed: AirflowApi) -> None:
    del mixed
    page.goto("../plugin/nexthink-deletions?view=attention")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Run these again", exact=True).click()
    frame.get_by_role("heading", name="Run 14 devices again").wait_for()
    frame.get_by_text("3 rows INVALID or REJECTED: left out").wait_for()
    frame.get_by_text("Copied.").wait_for()
    assert frame.get_by_text("Set max_devices").count() == 0
    text = clipboard(page)
    assert text.splitlines()[0] == "device.uid\tname"  # the kind of uid that the list had
    assert len(read_devices(text).uids) == 14
    with page.expect_popup() as popup:  # which the frame itself may not open
        frame.get_by_role("link", name=ON_DEMAND).click()
    popup.value.get_by_text(f"Airflow: /team/airflow/dags/{ON_DEMAND}").wait_for()
    frame.get_by_role("button", name="Close").click()
    expect(frame.get_by_role("heading", name="Run 14 devices again")).to_be_hidden()


def test_run_again_does_not_mix_tenants_or_kinds_of_uid(page: Page, api: AirflowApi) -> None:
    api.dags = [ON_DEMAND]
    api.tasks = [
        a_run(20, rows_of(range(120), "FAILED")),
        a_run(21, rows_of(range(200, 203), "FAILED"), uid_column="device.collector.uid"),
        a_run(22, rows_of(range(3), "UNKNOWN"), instance="globex"),
    ]
    page.goto("?view=attention")
    page.get_by_role("button", name="Run these again", exact=True).click()
    page.get_by_text("must not mix tenants or kinds of uid").wait_for()
    buttons = page.locator(".again .copy-part button")
    expect(buttons).to_have_text(
        [
            "Copy 3 devices of globex, device.uid",
            "Copy 3 devices of acme, device.collector.uid",
            "Copy 120 devices of acme, device.uid",
        ]
    )
    assert page.get_by_text("Copied.").count() == 0
    page.get_by_text("Set max_devices to 120: its default is 100.").wait_for()
    buttons.nth(1).click()
    page.get_by_text("Copied.").wait_for()
    assert clipboard(page).splitlines()[:2] == [
        "device.collector.uid\tname",
        "00000000-0000-4000-8000-0000000000c8\tLAPTOP-000200",
    ]


def test_run_again_has_nothing_for_rows_that_need_correction(page: Page, api: AirflowApi) -> None:
    api.dags = [ON_DEMAND]
    api.tasks = [a_run(20, rows_of(range(2), "INVALID"))]
    page.goto("?view=attention")
    page.get_by_role("button", name="Run these again", exact=True).click()
    page.get_by_role("heading", name="Nothing to run again").wait_for()
    page.get_by_text("2 rows INVALID or REJECTED: left out").wait_for()


def test_run_again_needs_the_on_demand_dag(page: Page, mixed: AirflowApi) -> None:
    mixed.dags = []
    page.goto("?view=attention")
    page.get_by_text(f"add the Dag {ON_DEMAND} to Airflow").wait_for()
    expect(page.get_by_role("button", name="Copy these rows")).to_be_enabled()
    assert page.get_by_role("button", name="Run these again", exact=True).count() == 0


def test_attention_run_that_was_blocked_has_no_rows_and_none_are_missed(page: Page, api: AirflowApi) -> None:
    blocked = a_run(21, [row_of(1, status="INVALID")], state="failed", error=GUARD)
    blocked.xcoms = {"summary": blocked.xcoms["summary"]}  # all that a run pushes which has not begun
    api.tasks = [blocked]
    page.goto("?view=attention")
    page.get_by_text("80,003 devices, limit 500: nothing sent").wait_for()
    page.get_by_text("No device needs attention.").wait_for()
    expect(page.locator(".notice")).to_have_count(0)


def test_attention_says_which_runs_it_did_not_check(page: Page, api: AirflowApi) -> None:
    large = a_run(23, [row_of(1)])
    large.xcoms["summary"]["requested"] = 200_001
    unreadable = a_run(24, [row_of(1)])
    unreadable.xcoms["return_value"] = "s3://bucket/xcom"
    api.tasks = [a_run(22, [row_of(1, status="FAILED")]), large, unreadable]
    api.tasks.append(a_run(21, [row_of(2, status="FAILED")]))
    del api.tasks[-1].xcoms["unscheduled"]
    page.goto("?view=attention")
    notice = page.locator(".notice", has_text="Not checked for a newer state")
    expect(notice).to_contain_text(re.compile(r"stale 2026-11-23 00:00 \(200,001 rows\), stale 2026-11-24 00:00\.$"))
    expect(page.locator(".notice", has_text="could not be read here")).to_contain_text("stale 2026-11-21 00:00.")
    expect(devices(page)).to_have_count(1)
    assert not any("return_value" in asked and "manual__23" in asked for asked in api.asked)


def test_attention_shows_hostile_names_as_text(page: Page, api: AirflowApi) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    api.tasks = [a_run(22, [row_of(1, name=hostile, status="FAILED", reason=hostile)], reason=hostile)]
    page.goto("?view=attention")
    expect(devices(page).locator(".name")).to_have_text(hostile)
    expect(reasons(page)).to_contain_text(hostile)
    assert page.locator("img").count() == 0


def test_attention_of_100000_devices_stays_usable(page: Page, api: AirflowApi) -> None:
    rows = rows_of(range(100_000), "UNKNOWN", "no response")
    api.tasks = [a_run(22, rows), a_run(23, [*rows_of(range(50_000), "SCHEDULED"), *rows[50_000:]])]
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("50,000 devices")
    assert devices(page).count() < 100
    page.get_by_role("searchbox", name="Search by").fill("laptop-099999")
    expect(devices(page)).to_have_count(1)


def test_attention_on_a_phone_shows_each_device_without_scrolling_sideways(page: Page, mixed: AirflowApi) -> None:
    del mixed
    page.set_viewport_size({"width": 390, "height": 844})
    for view, grid in (("attention", ".attention-grid"), ("find&q=laptop-000010", ".find-grid")):
        page.goto(f"?view={view}")
        page.locator("main:not([aria-busy])").wait_for()  # rows are not drawn anew any more
        row = page.locator(f"{grid} .rows .row").filter(has_text=TRY_LATER).first
        for cell in ("name", "status", "reason", "when"):
            box = row.locator(f".cell.{cell}").bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
