"""From the devices that need attention to the form of the on-demand Dag and back, in a running Airflow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.browser import open_page
from tests.support.dags import DAGS
from tests.support.running_airflow import RunningAirflow, running_airflow, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


ON_DEMAND = "nexthink_delete_on_demand"
DELETE = "delete_devices"


@pytest.fixture
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=150, stale=0, seed=3) as sandbox:
        yield sandbox


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with open_page(browser, "http://127.0.0.1") as page:
        page.set_default_timeout(60_000)
        page.context.grant_permissions(["clipboard-read"])
        yield page


@pytest.fixture
def airflow(tmp_path: Path, tenant: Sandbox, page: Page) -> Iterator[RunningAirflow]:
    del page  # without a browser there is nothing to start it for
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / f"{ON_DEMAND}.py").write_text((DAGS / f"{ON_DEMAND}.py").read_text())
    connection = {"AIRFLOW_CONN_NEXTHINK_DEFAULT": tenant.airflow_connection()}
    with running_airflow(tmp_path / "home", dags, connection) as airflow:
        yield airflow


def test_run_again_pastes_the_devices_into_the_form_of_the_dag(
    page: Page, airflow: RunningAirflow, tenant: Sandbox
) -> None:
    devices = tenant.tenant.devices()[:105]
    table = [{"device.uid": device.uid, "device.name": device.name} for device in devices]
    conf = {"devices_table": table, "dry_run": False, "reason": "T-1", "max_devices": 105}
    tenant.faults.add(Fault(path="deletions", kind="status", status=403, skip=1))  # of two requests, one is refused
    first = airflow.start(ON_DEMAND, conf)
    assert airflow.wait(ON_DEMAND, first) == "failed"
    unscheduled = airflow.xcom(ON_DEMAND, first, DELETE, "unscheduled")
    assert len(unscheduled) in (5, 100)
    not_sent = {row["uid"] for row in unscheduled}
    text = io.StringIO()
    rows = [(row["uid"], row["name"]) for row in unscheduled]
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([("device.uid", "name"), *rows])

    attention = f"{airflow.http.base_url}/plugin/nexthink-deletions?view=attention"
    page.goto(attention)
    frame = page.frame_locator("iframe[title='Nexthink deletions']")
    frame.get_by_role("button", name="Run these again", exact=True).click()
    frame.get_by_text("Copied.").wait_for()
    with page.expect_popup() as popup:
        frame.get_by_role("link", name=ON_DEMAND, exact=True).click()
    dag = popup.value
    dag.get_by_role("button", name="Trigger").click()
    form = dag.get_by_role("dialog")
    form.locator("#element_devices_text").click()
    dag.keyboard.press("Control+V")
    expect(form.locator("#element_devices_text")).to_have_value(text.getvalue())
    form.get_by_role("button", name="Trigger").click()
    runs = f"dags/{ON_DEMAND}/dagRuns?order_by=-run_after"

    def dry_run() -> dict[str, Any] | None:
        return next((run for run in airflow.get(runs)["dag_runs"] if run["dag_run_id"] != first), None)

    second = until(dry_run, "the dry run")
    assert airflow.wait(ON_DEMAND, second["dag_run_id"]) == "success"
    planned = airflow.xcom(ON_DEMAND, second["dag_run_id"], DELETE)
    assert {row["uid"] for row in planned if row["status"] == "PLANNED"} == not_sent
    assert len(planned) == len(not_sent)

    # The dry run changes nothing of what needs attention; the real one does.
    page.goto(attention)
    expect(frame.locator(".ending .hint")).to_have_text(f"{len(not_sent)} devices")
    third = airflow.start(ON_DEMAND, {**second["conf"], "dry_run": False, "reason": "T-1, again"})
    assert airflow.wait(ON_DEMAND, third) == "success"
    page.goto(attention)
    frame.get_by_text("No device needs attention.").wait_for()
    expect(frame.locator(".open-runs li")).to_contain_text("a later run of this task ended on")
    frame.get_by_role("searchbox", name="Find a device").fill(sorted(not_sent)[0])
    page.keyboard.press("Enter")
    expect(frame.locator(".answer p").first).to_contain_text("Last: SCHEDULED on")
    expect(frame.locator(".answer p").first).to_contain_text("T-1, again")
    expect(frame.locator(".rows .row .cell.status")).to_have_text(["SCHEDULED", "PLANNED", "NOT_SENT"])
