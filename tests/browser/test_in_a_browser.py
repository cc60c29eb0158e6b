"""What a person does in Airflow's pages, from the empty connection form to the outcome of each device.

The tests of this file are the steps of one visit, in their order. Its pictures are those of the documentation
(``pytest --write-docs``).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import expect

from airflow_provider_nexthink.sandbox.fleet import Device
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.browser import IMAGES, SIZE, open_page
from tests.support.dags import DAGS
from tests.support.running_airflow import RunningAirflow, running_airflow, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page


ON_DEMAND = "nexthink_delete_on_demand"
APPROVAL = "nexthink_delete_with_approval"
LIFECYCLE, RECONCILE = "nexthink_lifecycle", "nexthink_lifecycle_reconcile"
OUTCOME_LINK = "Deletion outcome"
SECONDS = 1000.0  # Playwright counts in milliseconds

Picture = Callable[..., None]
"""Writes a picture of the page into the documentation, by its name, and with a height in pixels."""


@pytest.fixture(scope="module")
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=3500, stale=300, seed=3, removal_delay=0.0, pending_polls=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[RunningAirflow]:
    """An Airflow that has the Dags, the tabs that the documentation shows, and no connection."""
    root = tmp_path_factory.mktemp("browser")
    dags, plugins = root / "dags", root / "home" / "plugins"
    dags.mkdir()
    plugins.mkdir(parents=True)
    for dag_id in (ON_DEMAND, APPROVAL, LIFECYCLE):
        code = re.sub(r'schedule="@\w+"', "schedule=None", (DAGS / f"{dag_id}.py").read_text())
        (dags / f"{dag_id}.py").write_text(code)
    (tabs,) = re.findall(r"^```python\n(.*?)^```", (IMAGES.parent / "ui.md").read_text(), re.MULTILINE | re.DOTALL)
    (plugins / "tabs.py").write_text(tabs)
    with running_airflow(root / "home", dags, {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def page(browser: Browser, airflow: RunningAirflow) -> Iterator[Page]:
    with open_page(browser, str(airflow.http.base_url), accept_downloads=True) as page:
        page.set_default_timeout(60 * SECONDS)
        yield page


@pytest.fixture
def picture(page: Page, request: pytest.FixtureRequest) -> Picture:
    """Return what writes a picture of the page into the documentation, where that is asked for."""

    def write(name: str, height: int = SIZE["height"]) -> None:
        if request.config.getoption("--write-docs"):
            IMAGES.mkdir(exist_ok=True)
            page.mouse.move(0, 0)
            page.set_viewport_size({"width": SIZE["width"], "height": height})
            page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
            page.set_viewport_size(SIZE)

    return write


@pytest.fixture(scope="module")
def laptops(tenant: Sandbox) -> list[Device]:
    """The stale laptops, as long as none is deleted."""
    found = [device for device in tenant.tenant.devices() if device.name.startswith("LAPTOP")]
    return [device for device in found if device.days_since_last_seen >= 90]


def pasted(devices: list[Device]) -> str:
    """Return devices as a person pastes them; the third is malformed, the fourth is the first one again."""
    rows = [(device.uid, device.name) for device in devices]
    rows[2:2] = [("not-a-uid", "LAPTOP-RETIRED"), rows[0]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("uid", "name"), *rows])
    return text.getvalue()


def open_from_menu(page: Page) -> None:
    """Open the page from Airflow's menu, again if Airflow renders its menu anew, and so closes it, meanwhile."""
    entry = page.get_by_role("menuitem", name="Nexthink deletions")
    for _ in range(10):
        page.get_by_role("button", name="Browse").click()
        try:
            entry.click(timeout=10 * SECONDS)
        except PlaywrightTimeoutError:
            continue
        return
    pytest.fail("Airflow's menu does not stay open")


def plugin_frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title='Nexthink deletions']")


def test_connection_form_adds_the_connection(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, picture: Picture
) -> None:
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill("nexthink_default")
    form.get_by_role("combobox").first.fill("nexthink")
    page.get_by_role("option", name="Nexthink", exact=True).click()
    form.locator("input[name=host]").fill("sandbox")
    form.locator("input[name=login]").fill(tenant.client_id)
    form.locator("input[name=password]").fill(tenant.client_secret)
    form.locator("input[name=port]").fill("443")
    picture("connection-form")
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    form.locator("#element_region").click()
    page.get_by_role("option", name="eu (Europe)").click()
    form.locator("#element_base_url").fill(tenant.url)
    form.locator("#element_login_url").fill(tenant.login_url)
    form.get_by_role("button", name="Save").click()
    page.get_by_role("cell", name="nexthink_default").wait_for()
    stored = airflow.get("connections/nexthink_default")
    assert (stored["conn_type"], stored["host"], stored["login"]) == ("nexthink", "sandbox", tenant.client_id)


def test_connection_test_button_gives_three_results(page: Page, tenant: Sandbox, picture: Picture) -> None:
    page.goto("/connections")
    page.get_by_role("button", name="Test Connection").click()
    page.get_by_text(
        "Authentication: works (sandbox). NQL API: permitted. Data management (deletions): permitted."
    ).wait_for()
    picture("connection-test")
    tenant.tenant.data_management = False
    page.reload()
    page.get_by_role("button", name="Test Connection").click()
    page.get_by_text("Data management (deletions): no permission (tick Data management").wait_for()
    tenant.tenant.data_management = True
    assert tenant.tenant.queued == []


def test_trigger_form_deletes_devices(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, laptops: list[Device], picture: Picture
) -> None:
    until(lambda: airflow.get(f"dags/{ON_DEMAND}")["dag_id"], "the Dag")
    devices = laptops[:40]
    page.goto(f"/dags/{ON_DEMAND}")
    page.get_by_role("button", name="Trigger").click()
    form = page.get_by_role("dialog")
    form.locator("#element_devices_text").fill(pasted(devices))
    form.locator("#element_devices_text").evaluate("text => { text.scrollTop = 0; }")
    form.locator("#element_reason").fill("TICKET-1234: these laptops were returned")
    form.locator("label:has(input[name=element_dry_run])").click()
    form.get_by_text("Devices, pasted").scroll_into_view_if_needed()
    picture("on-demand-form")
    form.get_by_role("button", name="Trigger").click()
    run = until(lambda: next(iter(airflow.get(f"dags/{ON_DEMAND}/dagRuns")["dag_runs"]), None), "the run")
    page.goto(f"/dags/{ON_DEMAND}/runs/{run['dag_run_id']}")
    assert airflow.wait(ON_DEMAND, run["dag_run_id"]) == "success"
    page.get_by_role("heading").get_by_text("Success").or_(page.get_by_text("Success")).nth(2).wait_for()
    picture("on-demand-run")
    assert sorted(tenant.tenant.queued) == sorted(device.uid for device in devices)


def test_task_links_to_its_outcome(page: Page, airflow: RunningAirflow, tenant: Sandbox) -> None:
    run_id = airflow.get(f"dags/{ON_DEMAND}/dagRuns")["dag_runs"][0]["dag_run_id"]
    links = airflow.get(f"dags/{ON_DEMAND}/dagRuns/{run_id}/taskInstances/delete_devices/links")["extra_links"]
    assert next(iter(links)) == OUTCOME_LINK  # Airflow sorts them by name
    assert links["Nexthink tenant"] is None  # the sandbox has no page
    assert links["Docs: Data Management API"] == "https://docs.nexthink.com/api/data-management"
    page.goto(f"/dags/{ON_DEMAND}/runs/{run_id}/tasks/delete_devices/details")
    page.get_by_role("link", name=OUTCOME_LINK).click()
    plugin_frame(page).get_by_role("heading", name="delete_devices").wait_for()
    plugin_frame(page).get_by_text("42 rows", exact=True).wait_for()
    assert page.get_by_role("link", name="Nexthink tenant").count() == 0


def test_address_of_the_page_can_be_shared_reloaded_and_left(page: Page, airflow: RunningAirflow) -> None:
    def shown() -> tuple[str, str]:
        """Return the query in the address that a person sees, and in that of the frame."""
        return page.evaluate("location.search"), page.frames[1].evaluate("location.search")

    # From the link on a task, whose parameters Airflow gives to its own document and not to the frame.
    run_id = airflow.get(f"dags/{ON_DEMAND}/dagRuns")["dag_runs"][0]["dag_run_id"]
    page.goto(f"/dags/{ON_DEMAND}/runs/{run_id}/tasks/delete_devices/details")
    page.get_by_role("link", name=OUTCOME_LINK).click()
    plugin_frame(page).get_by_text("42 rows", exact=True).wait_for()
    outcome = page.frames[1].evaluate("location.search")
    assert shown() == (outcome, outcome)
    page.reload()
    plugin_frame(page).get_by_text("42 rows", exact=True).wait_for()
    assert shown() == (outcome, outcome)
    # The menu leads to the list, whatever is shown; Back is one press for each view.
    open_from_menu(page)
    rows = plugin_frame(page).locator(".run-table tbody tr")
    expect(rows).to_have_count(1)
    assert shown() == ("", "")
    plugin_frame(page).get_by_label("Period").select_option("Last 7 days")
    page.wait_for_url("**?days=7")
    rows.first.get_by_role("link").first.click()
    plugin_frame(page).get_by_text("42 rows", exact=True).wait_for()
    assert shown() == (outcome, outcome)
    page.go_back()
    expect(rows).to_have_count(1)
    assert shown() == ("?days=7", "?days=7")
    page.go_back()
    expect(plugin_frame(page).get_by_label("Period")).to_have_value("28")
    page.go_back()
    plugin_frame(page).get_by_text("42 rows", exact=True).wait_for()
    assert shown() == (outcome, outcome)
    page.go_back()
    page.get_by_role("link", name=OUTCOME_LINK).wait_for()


def test_page_has_the_time_zone_of_airflow(page: Page) -> None:
    page.goto("/plugin/nexthink-deletions")
    expect(plugin_frame(page).locator(".zone")).to_have_text("UTC")
    page.get_by_role("button", name="+00:00").click()
    page.get_by_role("combobox").fill("Berlin")
    page.get_by_role("option", name=re.compile("Berlin")).click()
    page.keyboard.press("Escape")
    expect(plugin_frame(page).locator(".zone")).to_have_text(re.compile(r"^Europe/Berlin \(GMT\+[12]\)$"))
    page.evaluate("localStorage.removeItem('timezone')")


def test_outcome_search_finds_a_device(page: Page, tenant: Sandbox, tmp_path: Path, picture: Picture) -> None:
    page.goto("/plugin/nexthink-deletions")
    frame = plugin_frame(page)
    frame.locator("tbody tr").first.get_by_role("link").click()
    frame.get_by_text("42 rows", exact=True).wait_for()
    picture("outcome")
    device = tenant.tenant.queued[7]  # not the first, which is there twice
    search = frame.get_by_role("searchbox")
    search.fill(device.upper())
    frame.get_by_text("1 of 42 rows").wait_for()
    expect(frame.get_by_role("cell", name=device)).to_be_visible()
    search.fill("laptop-retired")
    frame.get_by_role("cell", name="INVALID").wait_for()
    search.fill("")
    with page.expect_download() as download:
        frame.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "outcome.csv")
    with (tmp_path / "outcome.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["SCHEDULED"] * 2 + ["INVALID", "DUPLICATE"] + ["SCHEDULED"] * 38
    assert {row["uid"] for row in rows if row["status"] == "SCHEDULED"} == set(tenant.tenant.queued)


def test_approval_in_the_ui_is_needed_before_devices_are_deleted(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, picture: Picture
) -> None:
    before = list(tenant.tenant.queued)
    run_id = airflow.start(APPROVAL)
    airflow.wait_until_parked(APPROVAL, run_id, "approve")
    assert tenant.tenant.queued == before
    planned = {row["uid"] for row in airflow.xcom(APPROVAL, run_id, "plan") if row["status"] == "PLANNED"}
    page.goto("/required_actions")
    page.get_by_role("link", name=re.compile("Delete these devices")).first.click()
    page.get_by_role("button", name="Approve").wait_for()
    page.get_by_text(f"{len(planned)} devices would be deleted from sandbox").wait_for()
    picture("approval", 1000)
    with page.expect_popup() as popup:
        page.get_by_role("link", name="All devices of this plan").click()
    frame = plugin_frame(popup.value)
    frame.get_by_role("heading", name="plan", exact=True).wait_for()
    frame.get_by_role("button", name=f"PLANNED {len(planned)}", exact=True).wait_for()
    popup.value.close()
    page.get_by_role("button", name="Approve").click()
    assert airflow.wait(APPROVAL, run_id) == "success"
    assert set(tenant.tenant.queued) - set(before) == planned


def test_deletions_page_shows_the_runs_in_a_chart(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, laptops: list[Device], picture: Picture
) -> None:
    for count, dry_run in [(25, True), (60, True), (60, False), (35, False), (80, False), (45, True)]:
        conf = {"devices_text": pasted(laptops[:count]), "dry_run": dry_run, "reason": "TICKET-5678"}
        run = airflow.post(f"dags/{ON_DEMAND}/dagRuns", {"logical_date": None, "conf": conf})
        assert airflow.wait(ON_DEMAND, run["dag_run_id"]) == "success"
    page.goto("/")
    open_from_menu(page)
    frame = plugin_frame(page)
    bars = frame.get_by_role("group", name="Devices of each run, by group").get_by_role("link")
    expect(bars).to_have_count(5)  # the real runs
    expect(frame.locator("tbody tr")).to_have_count(5)
    tile = frame.locator(".tile", has=frame.get_by_text("Scheduled", exact=True)).locator("b")
    expect(tile).to_have_text(f"{len(tenant.tenant.queued)}")
    picture("deletions")
    frame.get_by_label("Kind").select_option("Real and dry runs")
    expect(bars).to_have_count(9)  # with the plan
    expect(tile).to_have_text(f"{len(tenant.tenant.queued)}")


def test_tabs_are_as_the_documentation_shows(page: Page, airflow: RunningAirflow) -> None:
    run_id = airflow.get(f"dags/{ON_DEMAND}/dagRuns")["dag_runs"][0]["dag_run_id"]
    page.goto(f"/dags/{ON_DEMAND}")
    page.get_by_role("link", name="Deletions").click()
    expect(page.frame_locator("iframe[title='Deletions']").locator("tbody tr")).to_have_count(4)  # of this Dag only
    page.goto(f"/dags/{ON_DEMAND}/runs/{run_id}/tasks/delete_devices")
    page.get_by_role("link", name="Outcome").click()
    tab = page.frame_locator("iframe[title='Outcome']")
    tab.get_by_text(run_id).wait_for()
    tab.get_by_role("cell", name="LAPTOP-RETIRED").wait_for()


def test_attention_shows_what_was_blocked_and_refused(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, laptops: list[Device], picture: Picture
) -> None:
    def run(devices: list[Device]) -> None:
        conf = {"devices_text": pasted(devices), "dry_run": False, "reason": "TICKET-5678"}
        run = airflow.post(f"dags/{ON_DEMAND}/dagRuns", {"logical_date": None, "conf": conf})
        assert airflow.wait(ON_DEMAND, run["dag_run_id"]) == "failed"

    before = list(tenant.tenant.queued)
    run(tenant.tenant.devices()[:101])  # the limit of the form is 100
    tenant.tenant.data_management = False
    run(laptops[80:92])
    tenant.tenant.data_management = True
    assert tenant.tenant.queued == before
    page.goto("/plugin/nexthink-deletions?view=attention")
    frame = plugin_frame(page)
    frame.get_by_text("101 devices, limit 100: nothing sent").wait_for()
    expect(frame.locator(".notice")).to_have_count(0)
    reasons = frame.locator(".top-reason")
    expect(reasons).to_have_count(2)
    expect(reasons.first).to_contain_text("Not sent: no permission (403)")
    expect(reasons.first.locator("b")).to_have_text("12")
    expect(reasons.last.locator("b")).to_have_text("1")  # LAPTOP-RETIRED, which was in many lists
    picture("attention", 760)


def test_seats_shows_what_a_real_reconcile_has_found(
    page: Page, airflow: RunningAirflow, tenant: Sandbox, tmp_path: Path, picture: Picture
) -> None:
    airflow.post("connections", {"connection_id": "ledger", "conn_type": "sqlite", "host": str(tmp_path / "ledger.db")})
    stored = airflow.get("connections/nexthink_default")
    extra = json.loads(stored["extra"]) | {"ledger_conn_id": "ledger", "quota_devices": 100, "quota_days": 7}
    airflow.patch("connections/nexthink_default?update_mask=extra", {**stored, "extra": json.dumps(extra)})
    devices = [device for device in tenant.tenant.devices() if device.name.startswith("LAPTOP")][:40]
    tenant.tenant.never_removed.update(device.uid for device in devices[:3])
    conf = {"devices_text": pasted(devices), "dry_run": False, "reason": "TICKET-9: the fleet is renewed"}
    assert airflow.wait(ON_DEMAND, airflow.start(ON_DEMAND, conf)) == "success"
    marking = airflow.start(LIFECYCLE, {"min_days_unseen": 30})  # a dry run
    assert airflow.wait(LIFECYCLE, marking) == "success"
    assert airflow.wait(RECONCILE, airflow.start(RECONCILE)) == "success"
    tenant.tenant.bring_back([device.uid for device in devices[-5:]])
    run_id = airflow.start(RECONCILE)
    assert airflow.wait(RECONCILE, run_id) == "success"
    summary = airflow.xcom(RECONCILE, run_id, "reconcile", "summary")
    page.goto("/plugin/nexthink-deletions?view=seats")
    frame = plugin_frame(page)
    labels, figures = (frame.locator(f".tile {part}") for part in (".label", "b"))
    expect(labels).to_have_text(["Seats freed", "Gone", "Returned", "Still present", "Not compared yet"])
    expect(figures).to_have_text(["32", "37", "5", "3", "0"])  # of 40: 3 stay, 37 go, 5 of these come back
    looks = frame.get_by_role("table", name="Looks").locator("tbody td")
    in_inventory = f"{len(tenant.tenant.devices()):,}"
    assert summary["devices"] == len(tenant.tenant.devices())
    expect(looks.get_by_text(in_inventory, exact=True)).to_be_visible()
    (week,) = summary["by_week"]
    expect(frame.get_by_role("table", name="Weeks").locator("tbody tr")).to_contain_text(week["week"])
    expect(frame.locator(".quota")).to_contain_text("40 of 100 in 7 days; 60 left")
    waiting = airflow.xcom(LIFECYCLE, marking, "quarantine", "summary")["waiting"]
    assert waiting > 0
    waits = frame.locator(".list dl div", has=frame.get_by_text("Waiting", exact=True)).locator("dd")
    expect(waits).to_have_text(f"{waiting:,}")
    picture("seats", 1000)
