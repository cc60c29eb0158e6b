"""The page *Nexthink deletions* in Airflow, for a run at scale: its tables are in files, XCom has their manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from playwright.sync_api import expect

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.browser import open_page
from tests.support.dags import DAGS
from tests.support.running_airflow import RunningAirflow, running_airflow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


DAG_ID = "nexthink_delete_at_scale"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A tenant that accepts two chunks, and no other."""
    with Sandbox(devices=100, stale=100) as sandbox:
        refused = '{"code": "FEATURE_NOT_ENABLED"}'
        sandbox.faults.add(Fault(path="deletions", kind="status", status=403, skip=2, times=-1, body=refused))
        yield sandbox


@pytest.fixture(scope="module")
def page(browser: Browser, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page in an Airflow that has deleted 90 devices in three chunks; the last one failed."""
    root = tmp_path_factory.mktemp("at_scale")
    (root / "dags").mkdir()
    (root / "dags" / f"{DAG_ID}.py").write_text((DAGS / f"{DAG_ID}.py").read_text())
    rows = [{"uid": device.uid, "name": f"PC-{at}"} for at, device in enumerate(sandbox.tenant.devices()[:90])]
    pd.DataFrame(rows).to_parquet(root / "devices.parquet")
    connection = {"AIRFLOW_CONN_NEXTHINK_DEFAULT": sandbox.airflow_connection()}
    with running_airflow(root / "home", root / "dags", connection) as airflow:
        airflow.post("pools", {"name": "nexthink", "slots": 1})
        delete(airflow, root)
        with open_page(browser, f"{airflow.http.base_url}/nexthink/") as page:
            page.set_default_timeout(60_000)
            yield page


def delete(airflow: RunningAirflow, root: Path) -> None:
    options = {"devices": f"{root}/devices.parquet", "folder": f"{root}/runs", "dry_run": False, "chunk_size": 30}
    assert airflow.wait(DAG_ID, airflow.start(DAG_ID, options)) == "failed"


def test_run_at_scale_is_listed_by_chunk(page: Page) -> None:
    page.goto("?kind=all")
    rows = page.get_by_role("table", name="Runs").locator("tbody tr")
    expect(rows).to_have_count(4)
    assert sorted(rows.locator(".state-badge").all_inner_texts()) == ["Done", "Done", "Done", "Failed"]


def test_outcome_of_a_plan_at_scale_says_where_its_table_is(page: Page) -> None:
    page.goto("?kind=dry")
    page.get_by_role("table", name="Runs").locator("tbody tr .when a").click()
    card = page.get_by_role("region", name="File with the table")
    expect(card.get_by_role("heading")).to_contain_text("The whole table is in a file: 90 rows, ")
    expect(card.get_by_role("listitem")).to_have_text(["PLANNED 90"])
    path = Path(card.locator("code.path").inner_text())
    assert len(pd.read_parquet(path)) == 90
    page.get_by_text("No device needs attention.").wait_for()


def test_outcome_of_a_chunk_that_failed_has_the_rows_that_need_attention(page: Page) -> None:
    page.goto("?state=failed")
    page.get_by_role("table", name="Runs").locator("tbody tr .when a").click()
    page.get_by_role("heading", name="delete_devices [60 to 90]").wait_for()
    card = page.get_by_role("region", name="File with the table")
    expect(card.get_by_role("listitem")).to_have_text(["NOT_SENT 30"])
    page.get_by_text("30 rows", exact=True).wait_for()
    notice = page.get_by_role("region", name="File with the rows that need attention")
    expect(notice).to_contain_text("the table below has all 30 rows. All are in a file:")
    assert len(pd.read_parquet(notice.locator("code.path").inner_text())) == 30


def test_attention_and_find_work_with_tables_in_files(page: Page) -> None:
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("30 devices")
    page.goto("?view=find&q=pc-89")
    expect(page.locator(".answer p").first).to_contain_text("Last: NOT_SENT")
    page.get_by_text("4 runs keep their tables in files: not searched").wait_for()
