"""The seats that deletions have freed: by tenant and week, with the quota and the quarantine."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


HOSTILE = "<img src=x onerror=document.title='hacked'>\"'&tenant=acme"


def week(name: str, scheduled: int, gone: int, returned: int) -> dict[str, Any]:
    return {"week": name, "scheduled": scheduled, "gone": gone, "returned": returned, "net": gone - returned}


WEEKS = [week("2026-W45", 120, 100, 0), week("2026-W47", 30, 20, 45), week("2026-W48", 12_000, 1_234, 3)]


def reconcile(
    instance: str = "acme", by_week: list[dict[str, Any]] = WEEKS, *, without: Collection[str] = (), **values: Any
) -> Task:
    """Return a reconcile task.

    :param without: fields that its summary does not have.
    :param values: fields of its summary, or of the task.
    """
    task: dict[str, Any] = {"dag_id": "nexthink_lifecycle_reconcile", "task_id": "reconcile"}
    task |= {name: values.pop(name) for name in ("dag_id", "task_id", "run_id", "map_index") if name in values}
    gone, returned = (sum(each[what] for each in by_week) for what in ("gone", "returned"))
    summary = {
        "looked_at": "2026-11-28T06:00:12+00:00",
        "query_id": "#all_devices",
        "devices": 80_003,
        "requested": gone + 31,
        "gone": gone - returned,
        "still_present": 31,
        "returned": returned,
        "set_up_anew": 0,
        "not_compared": 12,
        "seats_won": gone,
        "seats_returned": returned,
        "net": gone - returned,
        "by_week": by_week,
        "runs": 3,
        "latest_run_at": "2026-11-27T06:00:00+00:00",
        "looks_too_young": False,
        "instance": instance,
        "quota": {"devices": 500, "days": 6, "used": 312, "left": 188},
        **values,
    }
    return Task(
        {"summary": {name: value for name, value in summary.items() if name not in without}},
        operator="NexthinkReconcileOperator",
        start_date="2026-11-28T06:00:00+00:00",
        **task,
    )


def quarantine(list_name: str = "lifecycle.hold", *, without: Collection[str] = (), **values: Any) -> Task:
    """Return a quarantine task; the parameters as those of ``reconcile``."""
    summary = {
        "list_name": list_name,
        "devices": 120,
        "due": 14,
        "waiting": 106,
        "marked": 9,
        "released": 3,
        "next_due_at": "2026-12-06T23:30:00+00:00",
        "run_at": "2026-11-28T01:00:00+00:00",
        "instance": "acme",
        "due_by_day": [{"day": "2026-12-06", "devices": 36}, {"day": "2026-12-12", "devices": 70}],
        **values,
    }
    return Task(
        {"summary": {name: value for name, value in summary.items() if name not in without}},
        dag_id="nexthink_lifecycle",
        task_id="hold" if list_name == "lifecycle.hold" else f"hold_{list_name}",
        operator="NexthinkQuarantineOperator",
        start_date="2026-11-28T01:00:00+00:00",
    )


def tiles(page: Page) -> dict[str, str]:
    page.locator(".tile").first.wait_for()
    labels, figures = (page.locator(f".tile {part}").all_inner_texts() for part in (".label", "b"))
    return dict(zip(labels, figures, strict=True))


def table_rows(page: Page, name: str) -> list[list[str]]:
    """Return the texts of a table's rows."""
    table = page.get_by_role("table", name=name, exact=True)
    table.wait_for()
    rows: list[list[str]] = table.locator("tbody tr, tfoot tr").evaluate_all(
        "all => all.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return rows


def heights(page: Page, what: str) -> dict[str, float]:
    """Return the height of each bar of a kind, by week."""
    page.locator(".week-bars svg").wait_for()
    found: list[tuple[str, float]] = page.locator(f".week-bars [data-what={what}]").evaluate_all(
        "all => all.map(each => [each.parentNode.dataset.week, Number(each.getAttribute('height'))])"
    )
    return dict(found)


def alerts(page: Page) -> Locator:
    return page.locator(".notice")


def test_seats_none_say_how_to_get_them(page: Page, api: AirflowApi) -> None:
    api.tasks = [Task({"summary": summary_of(3, SCHEDULED=3, started_at="2026-11-22T00:00:05+00:00")})]
    page.goto("?view=seats")
    page.get_by_role("heading", name="No look at the inventory in this period.").wait_for()
    expect(page.locator(".state code")).to_have_text(
        ["ledger_conn_id", "nexthink_lifecycle_reconcile", "NexthinkReconcileOperator"]
    )


def test_seats_of_a_tenant_are_those_of_its_summary(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile()]
    page.goto("?view=seats")
    assert tiles(page) == {
        "Seats freed": "1,306",
        "Gone": "1,354",
        "Returned": "48",
        "Still present": "31",
        "Not compared yet": "12",
    }
    assert table_rows(page, "Weeks") == [
        ["2026-W48", "2026-11-23", "12,000", "1,234", "3", "1,231", "1,306"],
        ["2026-W47", "2026-11-16", "30", "20", "45", "-25", "75"],
        ["2026-W46", "2026-11-09", "0", "0", "0", "0", "100"],
        ["2026-W45", "2026-11-02", "120", "100", "0", "100", "100"],
        ["All", "", "12,150", "1,354", "48", "1,306", "1,306"],
    ]
    expect(page.get_by_label("Tenant", exact=True)).to_have_count(0)
    expect(alerts(page)).to_have_count(0)


def test_seats_chart_is_true_to_scale(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile()]
    page.goto("?view=seats")
    scheduled, gone, returned = (heights(page, what) for what in ("scheduled", "gone", "returned"))
    unit = scheduled["2026-W48"] / 12_000
    assert scheduled == pytest.approx({"2026-W45": 120 * unit, "2026-W47": 30 * unit, "2026-W48": 12_000 * unit})
    assert gone == pytest.approx({"2026-W45": 100 * unit, "2026-W47": 20 * unit, "2026-W48": 1_234 * unit})
    assert returned == pytest.approx({"2026-W47": 45 * unit, "2026-W48": 3 * unit})
    labels = page.locator(".week-bars .week-label")
    expect(labels).to_have_text(["2026-W45", "W46", "W47", "W48"])
    title = page.locator(".week-bars [data-week='2026-W47'] title").text_content()
    assert title == "2026-W47, from 2026-11-16. Scheduled: 30. Gone: 20. Returned: 45. Net: -25. In all: 75"


def test_seats_line_follows_the_net(page: Page, api: AirflowApi) -> None:
    # Back came more than went: the ledger is below zero for a while.
    api.tasks = [
        reconcile(by_week=[week("2026-W46", 0, 10, 30), week("2026-W47", 0, 20, 0), week("2026-W48", 0, 40, 0)])
    ]
    page.goto("?view=seats")
    page.locator(".total-line svg").wait_for()
    points = str(page.locator(".total-line .total").get_attribute("points"))
    low, zero, high = (float(point.split(",")[1]) for point in points.split(" "))
    assert (zero - high) / (low - zero) == pytest.approx(40 / 20)
    zero_line = page.locator(".total-line .zero-line line").get_attribute("y1")
    assert float(str(zero_line)) == pytest.approx(zero)


def test_seats_of_sixty_weeks_are_all_there(page: Page, api: AirflowApi) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    mondays = [date(2026, 11, 23) - timedelta(weeks=ago) for ago in range(59, -1, -1)]
    names = ["{}-W{:02}".format(*monday.isocalendar()) for monday in mondays]
    by_week = [week(name, at + 1_007, at * 3 % 50 + 1_001, at * 7 % 31) for at, name in enumerate(names)]
    api.tasks = [reconcile(by_week=by_week)]
    page.goto("?view=seats")
    rows = table_rows(page, "Weeks")[:-1]
    shown = [[row[0], row[1], *(int(cell.replace(",", "")) for cell in row[2:6])] for row in reversed(rows)]
    assert shown == [
        [each["week"], monday.isoformat(), each["scheduled"], each["gone"], each["returned"], each["net"]]
        for each, monday in zip(by_week, mondays, strict=True)
    ]
    assert len(heights(page, "gone")) == 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.locator(".week-bars .week-label").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect()).map(({left, right}) => [left, right])"
    )
    assert all(right < left for (_, right), (left, _) in pairwise(boxes))
    table = page.get_by_role("table", name="Weeks", exact=True)
    assert table.evaluate(
        "table => table.getBoundingClientRect().right <= table.parentNode.getBoundingClientRect().right"
    )


def test_seats_of_several_tenants_are_added_and_filtered(page: Page, api: AirflowApi) -> None:
    globex = [week("2026-W44", 5, 4, 0), week("2026-W48", 2, 1, 9)]
    api.tasks = [
        reconcile(),
        reconcile("globex", globex, task_id="reconcile_globex", quota=None, still_present=2, not_compared=0),
        # Another task that looked at acme, earlier.
        reconcile("acme", [week("2026-W45", 1, 1, 0)], task_id="again", looked_at="2026-11-28T05:00:00+00:00"),
    ]
    page.goto("?view=seats")
    assert tiles(page) == {
        "Seats freed": "1,302",
        "Gone": "1,359",
        "Returned": "57",
        "Still present": "33",
        "Not compared yet": "12",
    }
    assert [row[:6] for row in table_rows(page, "Looks")] == [
        ["acme", "1,306", "1,354", "48", "31", "12"],
        ["globex", "-4", "5", "9", "2", "0"],
    ]
    assert table_rows(page, "Weeks")[0] == ["2026-W48", "2026-11-23", "12,002", "1,235", "12", "1,223", "1,302"]
    page.get_by_label("Tenant", exact=True).select_option("globex")
    expect(page.locator(".tile b").first).to_have_text("-4")
    assert page.url.endswith("?view=seats&tenant=globex")
    page.reload()
    assert tiles(page)["Gone"] == "5"
    assert table_rows(page, "Weeks")[-1] == ["All", "", "7", "5", "9", "-4", "-4"]
    page.go_back()
    expect(page.locator(".tile b").first).to_have_text("1,302")
    page.get_by_role("table", name="Looks").get_by_role("link", name="acme").click()
    expect(page.locator(".tile b").first).to_have_text("1,306")
    page.goto("?view=seats&tenant=gone")
    page.get_by_role("heading", name="No look at this tenant in this period.").wait_for()
    expect(page.get_by_label("Tenant", exact=True)).to_have_value("gone")


def test_seats_behind_many_newer_runs_are_shown(page: Page, api: AirflowApi) -> None:
    # More runs than the page reads, all newer than the look.
    api.tasks = [
        Task(
            {"summary": summary_of(1, SCHEDULED=1, started_at=f"2026-11-28T07:{at // 60:02}:{at % 60:02}+00:00")},
            run_id=f"manual__{at}",
            start_date=f"2026-11-28T07:{at // 60:02}:{at % 60:02}+00:00",
        )
        for at in range(220)
    ]
    api.tasks += [reconcile(), quarantine()]
    page.goto("?view=seats")
    assert tiles(page)["Gone"] == "1,354"
    expect(page.locator(".list").get_by_role("heading")).to_have_text(["lifecycle.hold"])
    expect(alerts(page)).to_have_count(0)


def test_seats_of_a_subclass_behind_many_newer_runs_are_said_to_be_missing(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        Task(
            {"summary": summary_of(1, SCHEDULED=1, started_at=f"2026-11-28T07:{at // 60:02}:{at % 60:02}+00:00")},
            run_id=f"manual__{at}",
            start_date=f"2026-11-28T07:{at // 60:02}:{at % 60:02}+00:00",
        )
        for at in range(220)
    ]
    look = reconcile()
    look.operator = None
    api.tasks.append(look)
    page.goto("?view=seats")
    page.get_by_role("heading", name="No look at the inventory in this period.").wait_for()
    expect(alerts(page)).to_have_text("Only the newest tasks of this period were read. What is older is missing here.")


def test_seats_of_one_task_that_looks_at_several_tenants_are_all_shown(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        reconcile("acme", run_id="manual__1"),
        reconcile("globex", run_id="manual__2", looked_at="2026-11-28T07:00:00+00:00"),
    ]
    page.goto("?view=seats")
    assert [row[0] for row in table_rows(page, "Looks")] == ["acme", "globex"]


def test_seats_of_a_task_count_once_after_an_upgrade(page: Page, api: AirflowApi) -> None:
    # The look of yesterday does not name its tenant: it is that of today.
    before = reconcile(run_id="manual__1", without=["instance"])
    before.start_date = "2026-11-27T06:00:00+00:00"
    api.tasks = [before, reconcile(run_id="manual__2")]
    page.goto("?view=seats")
    assert [row[0] for row in table_rows(page, "Looks")] == ["acme"]
    assert tiles(page)["Gone"] == "1,354"


def test_seats_of_a_hostile_tenant_are_text(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(HOSTILE), reconcile(task_id="other"), quarantine(HOSTILE, instance=HOSTILE)]
    page.goto("?view=seats")
    page.get_by_role("table", name="Looks").get_by_role("link", name=HOSTILE).click()
    expect(page.get_by_label("Tenant", exact=True)).to_have_value(HOSTILE)
    page.reload()
    assert [row[0] for row in table_rows(page, "Looks")] == [HOSTILE]
    page.get_by_role("heading", name=HOSTILE, exact=True).first.wait_for()
    assert page.locator("img").count() == 0
    assert page.title() == "Seats - Nexthink deletions"


def test_seats_of_older_summaries_are_shown(page: Page, api: AirflowApi) -> None:
    figures = ("still_present", "not_compared", "seats_won", "seats_returned", "net", "devices")
    api.tasks = [
        reconcile(without=("instance", "quota", "looks_too_young", *figures)),
        quarantine(without=("due_by_day", "instance", "run_at")),
    ]
    page.goto("?view=seats")
    assert list(tiles(page).values()) == ["1,306", "1,354", "48", "–", "–"]
    expect(page.get_by_role("heading", name="Quota")).to_have_count(0)
    assert table_rows(page, "Looks")[0][0] == "not recorded"
    expect(page.locator(".list dd")).to_have_text(["120", "14", "106", "9", "3", "2026-12-06 23:30"])
    expect(page.locator(".due-table")).to_have_count(0)
    expect(alerts(page)).to_have_count(0)
    api.tasks.append(reconcile(task_id="other"))
    page.get_by_role("button", name="Refresh").click()
    expect(alerts(page)).to_contain_text("1 look of an older version of the provider: the tenant is not recorded.")


def test_seats_nothing_deleted_yet_have_no_chart(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(by_week=[])]
    page.goto("?view=seats")
    assert tiles(page)["Seats freed"] == "0"
    expect(page.locator(".week-bars")).to_have_count(0)


def test_quota_shows_what_is_used_and_left(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        reconcile(),
        reconcile("globex", task_id="b", quota={"devices": 1_000, "days": 1, "used": 1_200, "left": 0}),
        reconcile("initech", task_id="c", quota=None),
    ]
    page.goto("?view=seats")
    quotas = page.locator(".quota")
    expect(quotas.nth(0)).to_contain_text("312 of 500 in 6 days; 188 left at 2026-11-28 06:00")
    expect(quotas.nth(1)).to_contain_text("1,200 of 1,000 in 1 day; 0 left")
    expect(quotas.nth(2)).to_contain_text("No quota on the connection.")
    assert page.locator(".quota .part").evaluate_all(
        "all => all.map(each => each.offsetWidth / each.parentNode.offsetWidth)"
    ) == pytest.approx([0.624, 1], abs=0.003)


def test_quarantine_shows_who_waits_and_until_when(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        reconcile(),
        reconcile("globex", task_id="b"),
        quarantine(),
        quarantine("late", instance="globex", waiting=110),
    ]
    page.goto("?view=seats")
    lists = page.locator(".list")
    expect(lists.get_by_role("heading")).to_have_text(["late", "lifecycle.hold"])
    hold = lists.nth(1)
    expect(hold.locator("dd")).to_have_text(["120", "14", "106", "9", "3", "2026-12-06 23:30"])
    assert [row[:2] for row in table_rows(page, "When devices of lifecycle.hold can be due")] == [
        ["2026-12-06", "36"],
        ["2026-12-12", "70"],
    ]
    expect(lists.nth(0)).to_contain_text("4 more devices waiting, on days that are not listed.")
    expect(hold).not_to_contain_text("more device")
    link = hold.get_by_role("link", name="nexthink_lifecycle.hold").get_attribute("href")
    assert str(link).endswith("/dags/nexthink_lifecycle/runs/scheduled__2026-11-22T00%3A00%3A00%2B00%3A00/tasks/hold")
    page.get_by_label("Tenant", exact=True).select_option("acme")
    expect(lists.get_by_role("heading")).to_have_text(["lifecycle.hold"])


def test_quarantine_of_one_name_is_shown_for_each_tenant(page: Page, api: AirflowApi) -> None:
    # A mapped task, with a list of the same name in the ledger of each tenant; yesterday in another order.
    acme, globex, before = quarantine(waiting=106), quarantine(instance="globex", waiting=3), quarantine(waiting=99)
    acme.map_index, globex.map_index, before.map_index = 0, 1, 1
    before.run_id, before.start_date = "manual__before", "2026-11-27T01:00:00+00:00"
    api.tasks = [acme, globex, before]
    page.goto("?view=seats")
    page.locator(".list").first.wait_for()
    waiting = page.locator(".list").evaluate_all("all => all.map(each => each.querySelectorAll('dd')[2].textContent)")
    assert sorted(waiting) == ["106", "3"]


def test_quarantine_without_a_look_is_shown(page: Page, api: AirflowApi) -> None:
    api.tasks = [quarantine()]
    page.goto("?view=seats")
    page.get_by_role("heading", name="No look at the inventory").wait_for()
    expect(page.locator(".list").get_by_role("heading")).to_have_text(["lifecycle.hold"])


def test_look_is_shown_in_the_zone_of_airflow_with_its_task(page: Page, api: AirflowApi) -> None:
    page.add_init_script("localStorage.setItem('timezone', JSON.stringify('Asia/Tokyo'))")
    api.tasks = [reconcile(run_id="manual__1", map_index=2), quarantine()]
    page.goto("?view=seats")
    assert table_rows(page, "Looks")[0][7:] == ["2026-11-28 15:00:12", "nexthink_lifecycle_reconcile.reconcile [2]"]
    expect(page.locator(".list dd").last).to_have_text("2026-12-07 08:30")
    link = page.get_by_role("link", name="nexthink_lifecycle_reconcile.reconcile [2]")
    assert re.search(
        r"/dags/nexthink_lifecycle_reconcile/runs/manual__1/tasks/reconcile/mapped/2$", str(link.get_attribute("href"))
    )


def test_look_in_the_frame_opens_its_task_in_airflow(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(run_id="manual__1")]
    page.goto("../plugin/nexthink-deletions?view=seats")
    page.frame_locator("iframe").get_by_role("link", name="nexthink_lifecycle_reconcile.reconcile").click()
    page.wait_for_url("**/dags/nexthink_lifecycle_reconcile/runs/manual__1/tasks/reconcile")


def test_look_that_is_old_or_of_a_young_ledger_is_a_warning(page: Page, api: AirflowApi) -> None:
    api.tasks = [
        reconcile(looked_at="2026-11-25T11:59:59+00:00"),
        reconcile("globex", task_id="b", looks_too_young=True),
        reconcile("initech", task_id="c", looked_at="2026-11-25T12:00:00+00:00"),
    ]
    page.goto("?view=seats")
    expect(alerts(page)).to_have_text(
        [re.compile("^acme: the latest look is 3 days old"), re.compile("^globex: the ledger looks too young")]
    )
    page.goto("?view=seats&tenant=initech")
    page.locator(".tile").first.wait_for()
    expect(alerts(page)).to_have_count(0)


def test_seats_of_a_dag_are_those_of_its_tenant(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile()]
    page.goto("?view=seats&dag_id=stale")
    assert tiles(page)["Seats freed"] == "1,306"
    page.get_by_text("so stale is not shown by itself here").wait_for()


def test_seats_refresh_reads_them_again(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(run_id="manual__1")]
    page.goto("?view=seats")
    assert tiles(page)["Seats freed"] == "1,306"
    api.tasks = [reconcile(run_id="manual__2", by_week=[*WEEKS[:2], week("2026-W48", 12_000, 1_235, 3)])]
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator(".tile b").first).to_have_text("1,307")
    api.error = 500
    page.get_by_role("button", name="Refresh").click()
    page.get_by_role("alert").get_by_role("heading", name="Airflow responded with 500").wait_for()
    api.error = None
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".tile b").first).to_have_text("1,307")


@pytest.mark.parametrize("width", [1280, 1440])
def test_look_fits_the_width_of_the_page(page: Page, api: AirflowApi, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 640})
    api.tasks = [reconcile("a-tenant-with-a-long-name"), reconcile("globex", task_id="reconcile_globex")]
    page.goto("?view=seats")
    table = page.get_by_role("table", name="Looks")
    table.wait_for()
    assert table.evaluate("table => table.parentNode.scrollWidth <= table.parentNode.clientWidth")


def test_tenant_chosen_with_the_keyboard_keeps_the_focus(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(), reconcile("globex", task_id="b"), reconcile("initech", task_id="c")]
    page.goto("?view=seats")
    page.get_by_label("Tenant", exact=True).focus()
    for tenant in ("acme", "globex", "initech"):
        page.keyboard.press("ArrowDown")
        expect(page.get_by_label("Tenant", exact=True)).to_have_value(tenant)
        expect(page.get_by_label("Tenant", exact=True)).to_be_focused()


def test_seats_work_with_the_keyboard(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(), reconcile("globex", task_id="b")]
    page.goto("?view=seats")
    page.locator(".week-bars svg").wait_for()
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        )
    assert {"Tenant", "acme", "globex", "nexthink_lifecycle_reconcile.b", "Table of the weeks"} <= reached
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
