"""Find a device: what happened to it, over all runs shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, row_of, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route


def a_run(day: int, rows: list[dict[str, Any]], **values: Any) -> Task:
    """Return a run of a day in November 2026, with its table."""
    at = f"2026-11-{day:02}T00:00:05+00:00"
    fields = {name: values.pop(name) for name in ("dag_id", "task_id", "state", "map_index") if name in values}
    summary = summary_of(len(rows), **{"started_at": at, **values})
    return Task({"summary": summary, "return_value": rows}, run_id=f"manual__{day}", start_date=at, **fields)


def a_look(day: int, **devices: list[dict[str, Any]]) -> Task:
    """Return a look at the inventory, with what it found of the devices that were deleted."""
    at = f"2026-11-{day:02}T06:00:00+00:00"
    summary = {"looked_at": at, "by_week": [], "instance": "acme"} | {key: len(rows) for key, rows in devices.items()}
    xcoms = {"summary": summary, **devices}
    return Task(xcoms, dag_id="seats", task_id="reconcile", operator="NexthinkReconcileOperator", start_date=at)


def rows(page: Page) -> Locator:
    return page.get_by_role("table", name="Rows of the device").locator(".rows .row")


def answer(page: Page) -> Locator:
    return page.locator(".answer")


def progress(page: Page) -> Locator:
    return page.locator(".progress")


def test_find_shows_the_whole_status(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(20, [row_of(172)]), a_run(21, [row_of(172, status="DUPLICATE")])]
    page.set_viewport_size({"width": 1216, "height": 640})
    page.goto(f"?view=find&q={row_of(172)['uid']}")
    expect(rows(page)).to_have_count(2)
    for cell in rows(page).locator(".cell.status").all():
        assert cell.evaluate("cell => cell.scrollWidth <= cell.clientWidth")


def test_find_answers_what_happened_to_a_device(page: Page, api: AirflowApi) -> None:
    devices = [row_of(number) for number in range(170, 175)]
    api.tasks = [
        a_run(20, [row_of(172, status="FAILED", reason="no slot"), row_of(1)]),
        a_run(21, [row_of(172, status="PLANNED")], dry_run=True, triggered_by="anna"),
        a_run(22, devices, triggered_by="anna", reason="TICKET-1"),
        a_run(23, [row_of(172, status="PLANNED")], dry_run=True, triggered_by="bob", task_id="plan"),
        a_run(24, [row_of(2)]),
    ]
    page.goto("")
    page.get_by_role("searchbox", name="Find a device").fill("laptop-000172 ")
    page.keyboard.press("Enter")
    expect(answer(page).locator("h2")).to_have_text("LAPTOP-000172")
    expect(answer(page).locator("p")).to_have_text(
        [
            "Last: SCHEDULED on 2026-11-22 00:00 by anna, TICKET-1",
            "Since then in a dry run: PLANNED on 2026-11-23 00:00 by bob",
        ]
    )
    expect(progress(page)).to_have_text("Searched 5 of 5 runs: 4 rows")
    expect(rows(page).locator(".cell.status")).to_have_text(["PLANNED", "SCHEDULED", "PLANNED", "FAILED"])
    expect(rows(page).nth(1).locator(".who")).to_have_text("anna: TICKET-1")
    expect(rows(page).nth(3).locator(".reason")).to_have_text("no slot")
    expect(rows(page).first.locator(".task")).to_contain_text("dry run")
    uid = "00000000-0000-4000-8000-0000000000ac"
    href = rows(page).nth(1).locator(".when a").get_attribute("href")
    assert href == f"?dag_id=stale&run_id=manual__22&task_id=delete&map_index=-1&q={uid}"
    assert page.url.endswith("?days=28&view=find&q=laptop-000172")
    page.reload()
    expect(rows(page)).to_have_count(4)
    page.get_by_role("searchbox", name="Find a device").fill(uid.replace("-", "").upper())
    page.keyboard.press("Enter")
    expect(answer(page).locator("h2")).to_have_text("LAPTOP-000172")
    page.go_back()
    expect(page.get_by_role("searchbox", name="Find a device")).to_have_value("laptop-000172")


def test_find_offers_the_devices_that_match(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, [row_of(number) for number in range(20)])]
    page.goto("?view=find&q=laptop-00000")
    expect(answer(page).locator("h2")).to_have_text("10 devices match")
    answer(page).get_by_role("link", name="LAPTOP-000007").click()
    expect(answer(page).locator("h2")).to_have_text("LAPTOP-000007")
    page.goto("?view=find&q=laptop-000")
    answer(page).get_by_text("and 8 more: type more of the name").wait_for()


def test_find_nothing_says_where_else_to_look(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        a_run(22, [row_of(1)]),
        Task({}, run_id="manual__23", state="failed", start_date="2026-11-23T00:00:00+00:00"),
        a_run(20, [row_of(7)], dag_id="other"),
    ]
    page.goto("?view=find&q=it's gone&dag_id=stale&days=7")
    answer(page).get_by_role("heading", name='No row of "it\'s gone"').wait_for()
    command = "python -m airflow_provider_nexthink ledger history nexthink_default 'it'\\''s gone'"
    expect(answer(page).locator("code")).to_have_text(command)
    page.get_by_text("1 run without a table").wait_for()
    page.goto("?view=find&q=laptop-000007&dag_id=stale&days=7")
    answer(page).get_by_role("link", name="last 3 months").click()
    expect(page.get_by_role("combobox", name="Period")).to_have_value("91")
    answer(page).get_by_role("link", name="all Dags").click()
    expect(answer(page).locator("h2")).to_have_text("LAPTOP-000007")
    assert page.url.endswith("?days=91&view=find&q=laptop-000007")


def test_find_without_text_says_what_to_type(page: Page, api: AirflowApi) -> None:
    page.goto("?view=find")
    page.get_by_role("heading", name="Find a device").wait_for()
    assert api.asked == []


def test_find_searches_large_tables_on_request(page: Page, api: AirflowApi) -> None:
    large = a_run(23, [row_of(1, status="FAILED")])
    large.xcoms["summary"]["requested"] = 200_001
    api.tasks = [a_run(22, [row_of(1)]), large]
    page.goto("?view=find&q=laptop-000001")
    expect(progress(page)).to_have_text("Searched 1 of 2 runs: 1 row")
    assert not any("manual__23" in asked and "return_value" in asked for asked in api.asked)
    page.get_by_text("1 table of more than 200,000 rows: not searched.").wait_for()
    page.get_by_role("button", name="Search it, too").click()
    expect(progress(page)).to_have_text("Searched 2 of 2 runs: 2 rows")
    expect(answer(page).locator("p")).to_contain_text("Last: FAILED")
    assert page.get_by_role("button", name="Search it, too").count() == 0


def test_find_stops_at_500_rows(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(day, [row_of(number) for number in range(300)]) for day in range(1, 28)]
    page.goto("?view=find&q=laptop")
    page.get_by_text("Only the newest 500 rows are shown").wait_for()
    expect(page.get_by_role("table", name="Rows of the device")).to_have_attribute("aria-rowcount", "501")
    assert len([asked for asked in api.asked if "return_value" in asked]) < 10
    expect(rows(page).first.locator(".when")).to_have_text("2026-11-27 00:00:05")


def test_find_reads_the_rows_that_need_attention_where_the_table_cannot_be_read(page: Page, api: AirflowApi) -> None:
    unreadable = a_run(22, [row_of(1)])
    unreadable.xcoms |= {"return_value": "s3://bucket/xcom", "unscheduled": [row_of(1, status="UNKNOWN")]}
    lost = a_run(21, [row_of(1)])
    del lost.xcoms["return_value"]
    api.tasks = [unreadable, lost]
    page.goto("?view=find&q=laptop-000001")
    expect(answer(page).locator("p")).to_contain_text("Last: UNKNOWN")
    page.get_by_text("Of 1 run, only the rows that need attention could be searched").wait_for()
    page.get_by_text("1 run could not be searched").wait_for()


def test_find_says_what_the_latest_look_at_the_inventory_found(page: Page, api: AirflowApi) -> None:
    device = {"uid": row_of(1)["uid"], "name": "LAPTOP-000001", "status": "SCHEDULED"}
    api.tasks = [
        a_run(22, [row_of(1), row_of(2)]),
        a_look(27, still_present=[device], returned=[], set_up_anew=[]),
        a_look(26, still_present=[], returned=[device], set_up_anew=[]),
        a_run(1, [row_of(9)]),
    ]
    api.tasks[2].run_id = "manual__26"
    page.goto("?view=find&q=laptop-000001")
    expect(answer(page).locator("p")).to_have_text(
        [
            "Last: SCHEDULED on 2026-11-22 00:00 by schedule",
            "Still present at the latest look at the inventory, 2026-11-27 06:00 (acme): LAPTOP-000001",
        ]
    )
    page.goto("?view=find&q=laptop-000002")
    expect(answer(page).locator("p")).to_have_count(1)
    page.goto("?view=find&q=laptop-000001&days=7&dag_id=seats")
    answer(page).get_by_text("Still present at the latest look").wait_for()


def test_find_shows_hostile_names_as_text(page: Page, api: AirflowApi) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    api.tasks = [a_run(22, [row_of(1, name=hostile, reason=hostile)], reason=hostile, triggered_by=hostile)]
    page.goto("?view=find&q=onerror")
    expect(answer(page).locator("h2")).to_have_text(hostile)
    expect(rows(page).locator(".name")).to_have_text(hostile)
    assert page.locator("img").count() == 0


def test_find_is_cancelled_by_leaving(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(day, [row_of(day)]) for day in range(1, 28)]
    held: list[Route] = []
    page.route("**/xcomEntries/return_value?*", lambda route: held.append(route))  # which never get a response
    page.goto("?view=find&q=laptop-000001")
    expect(progress(page)).to_have_text("Searched 0 of 27 runs")
    with page.expect_event("requestfailed", lambda request: "return_value" in request.url):
        page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("table", name="Runs").wait_for()
    assert len(held) == 6


def test_find_searches_200_runs(page: Page, api: AirflowApi) -> None:
    one = a_run(1, [row_of(number) for number in range(2000)])
    for at in range(200):
        when = f"2026-11-{1 + at // 10:02}T{at % 10:02}:00:00+00:00"
        summary = one.xcoms["summary"] | {"started_at": when}
        xcoms = {"summary": summary, "return_value": one.xcoms["return_value"]}
        api.tasks.append(Task(xcoms, run_id=f"manual__{at}", start_date=when))
    page.goto("?view=find&q=LAPTOP-001999")
    expect(progress(page)).to_have_text("Searched 200 of 200 runs: 200 rows")
    expect(rows(page).first.locator(".when")).to_have_text("2026-11-20 09:00:00")
