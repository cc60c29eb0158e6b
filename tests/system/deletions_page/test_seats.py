"""The seats that deletions have freed: equal to the summaries of the reconciles, to the unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def week(name: str, scheduled: int, gone: int, returned: int) -> dict[str, Any]:
    return {"week": name, "scheduled": scheduled, "gone": gone, "returned": returned, "net": gone - returned}


def reconcile(tenant: str | None, by_week: list[dict[str, Any]], at: str, **summary: Any) -> Task:
    gone, returned = (sum(each[name] for each in by_week) for name in ("gone", "returned"))
    values = {
        "looked_at": at,
        "devices": 5000,
        "still_present": 7,
        "not_compared": 2,
        "seats_won": gone,
        "seats_returned": returned,
        "net": gone - returned,
        "by_week": by_week,
        **({} if tenant is None else {"instance": tenant}),
        **summary,
    }
    return Task(
        {"summary": values},
        dag_id=f"reconcile_{tenant}",
        run_id=f"scheduled__{at}",
        task_id="reconcile",
        start_date=at,
        operator="NexthinkReconcileOperator",
    )


def tile(page: Page, label: str) -> str:
    return page.locator(".tile", has=page.get_by_text(label, exact=True)).locator("b").inner_text()


def test_seats_without_a_look_say_how_to_get_one(page: Page) -> None:
    page.goto("?view=seats")
    page.get_by_role("heading", name="No look at the inventory in this period.").wait_for()
    expect(page.get_by_text("ledger_conn_id")).to_be_visible()


def test_seats_are_those_of_the_newest_look_at_each_tenant(page: Page, api: AirflowApi) -> None:
    acme = [week("2026-W45", 100, 80, 0), week("2026-W48", 50, 5, 9)]
    globex = [week("2026-W46", 30, 30, 1)]
    api.tasks = [
        reconcile("acme", [week("2026-W45", 100, 1, 0)], "2026-11-26T06:00:00+00:00"),
        reconcile(
            "acme", acme, "2026-11-27T06:00:00+00:00", quota={"devices": 500, "days": 6, "used": 312, "left": 188}
        ),
        reconcile("globex", globex, "2026-11-20T06:00:00+00:00", looks_too_young=True),
    ]
    page.goto("?view=seats")
    rows = page.get_by_role("table", name="Seats by week").locator("tbody tr")
    expect(rows).to_have_text(["2026-W485059-4105", "2026-W470000109", "2026-W463030129109", "2026-W4510080080" + "80"])
    assert [tile(page, label) for label in ("Seats freed, net", "Gone", "Returned")] == ["105", "115", "10"]
    expect(page.get_by_text("Quota: 312 of 500 in 6 days, 188 left.")).to_be_visible()
    expect(page.get_by_text("The latest look is older than three days.")).to_have_count(1)
    expect(page.get_by_text("The ledger knows less than it did once")).to_have_count(1)
    page.get_by_label("Tenant").select_option("acme")
    page.wait_for_url("**tenant=acme")
    assert [tile(page, label) for label in ("Seats freed, net", "Still present")] == ["76", "7"]
    heights = page.locator(".canvas rect.fill-scheduled").evaluate_all(
        "all => all.map(each => each.height.baseVal.value)"
    )
    assert heights[3] / heights[0] == pytest.approx(5 / 80, rel=1e-3)


def test_seats_of_an_older_summary_without_a_tenant_are_shown_as_text(page: Page, api: AirflowApi) -> None:
    api.tasks = [reconcile(None, [week("2026-W53", 1, 1, 0), week("2027-W01", 1, 1, 0)], "2026-11-27T06:00:00+00:00")]
    api.tasks += [reconcile("<img src=x>", [], "2026-11-27T06:00:00+00:00")]
    page.goto("?view=seats")
    rows = page.get_by_role("table", name="Seats by week").locator("tbody tr th")
    expect(rows).to_have_text(["2027-W01", "2026-W53"])
    expect(page.get_by_role("heading", name="<img src=x>")).to_be_visible()
    expect(page.get_by_role("heading", name="reconcile_None, reconcile")).to_be_visible()


def test_quarantine_shows_what_waits_and_when_it_is_due(page: Page, api: AirflowApi) -> None:
    summary = {"list_name": "stale, 90 days", "waiting": 12, "due": 3, "released": 1, "devices": 15}
    api.tasks = [
        Task(
            {
                "summary": summary
                | {
                    "next_due_at": "2026-12-06T06:00:00+00:00",
                    "due_by_day": [{"day": "2026-12-06", "devices": 12}],
                }
            },
            task_id="quarantine",
            operator="NexthinkQuarantineOperator",
        )
    ]
    page.goto("?view=seats")
    row = page.get_by_role("table", name="In quarantine").locator("tbody tr")
    expect(row).to_contain_text("stale, 90 days12312026-12-06 06:00:00")
    row.get_by_text("By day (UTC)").click()
    expect(row.get_by_text("2026-12-06: 12 devices")).to_be_visible()
