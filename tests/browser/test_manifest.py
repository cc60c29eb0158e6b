"""Runs whose tables are in files (``return_format="manifest"``): the page says where, and cannot read them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, manifest_of, row_of, summary_of

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


PATH = "s3://aws_default@bucket/outcome.parquet"
NO_SLOT = "no slot: try later"


def a_run(day: int, rows: int, *, failed: int = 0, path: str = PATH, **values: Any) -> Task:
    """Return a run of a day in November 2026 whose table is in a file, as its operator would push it.

    :param rows: how many devices it had.
    :param failed: how many of them failed, the first; XCom has at most 1,000 of their rows.
    """
    at = f"2026-11-{day:02}T00:00:05+00:00"
    fields = {name: values.pop(name) for name in ("dag_id", "task_id", "map_index", "run_id") if name in values}
    scheduled = "PLANNED" if values.get("dry_run") else "SCHEDULED"
    counts = {scheduled: rows - failed, "FAILED": failed}
    return Task(
        {
            "summary": summary_of(rows, **counts, started_at=at, **values),
            "return_value": manifest_of(path, rows, unscheduled=failed, **counts),
            "unscheduled": [row_of(at, status="FAILED", reason=NO_SLOT) for at in range(min(failed, 1000))],
        },
        start_date=at,
        rendered_fields={"results_path": path},
        **{"run_id": f"manual__{day}", **fields},
    )


def address_of(task: Task) -> str:
    return f"?{urlencode(task.entry)}"


def asked_for(api: AirflowApi, key: str) -> list[str]:
    return [asked for asked in api.asked if f"/xcomEntries/{key}?" in asked]


def file_card(page: Page) -> Locator:
    return page.get_by_role("region", name="File with the table")


def copied(page: Page) -> str:
    page.context.grant_permissions(["clipboard-read"])
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_outcome_in_a_file_says_where_it_is_and_what_needs_attention(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, 1_000_000, failed=12_345)]
    page.goto(address_of(api.tasks[0]))
    expect(file_card(page).get_by_role("heading")).to_have_text(
        "The whole table is in a file: 1,000,000 rows, 123.5 kB"
    )
    expect(file_card(page).get_by_role("listitem")).to_have_text(["SCHEDULED 987,655", "FAILED 12,345"])
    expect(file_card(page)).to_contain_text("9f86d081884c7d659a2feaa0c55ad015")
    file_card(page).get_by_role("button", name="Copy the path").click()
    expect(file_card(page).get_by_text("Copied.")).to_be_visible()
    assert copied(page) == PATH
    notice = page.get_by_role("region", name="File with the rows that need attention")
    part = "the first 1,000 of 12,345 rows"
    expect(notice).to_contain_text(f"Rows that need attention: the table below has {part}. All are in a file:")
    expect(notice.locator("code")).to_have_text(PATH.replace(".parquet", ".unscheduled.parquet"))
    reasons = page.get_by_role("region", name="Why devices need attention")
    expect(reasons.get_by_role("heading")).to_have_text(f"Need attention: {part}")
    expect(reasons.get_by_role("listitem")).to_contain_text("1,000 Nexthink could not schedule it")
    page.get_by_text("1,000 rows", exact=True).wait_for()
    page.get_by_role("searchbox").fill("laptop-00099")
    page.get_by_text("10 of 1,000 rows").wait_for()
    button = page.get_by_role("button", name="Download CSV of these rows")
    expect(button).to_have_attribute("title", f"Need attention: {part}")
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename.endswith("_unscheduled.csv")
    text = download.value.path().read_bytes().decode("utf-8-sig")
    assert [row["name"] for row in csv.DictReader(io.StringIO(text))] == [f"LAPTOP-{at:06}" for at in range(990, 1000)]


def test_path_of_a_file_is_selected_with_one_click(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, 10)]
    page.goto(address_of(api.tasks[0]))
    file_card(page).locator("code.path").click()
    assert page.evaluate("getSelection().toString().trim()") == PATH


def test_outcome_in_a_file_with_few_failures_has_all_of_them(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, 10_000, failed=10)]
    page.goto(address_of(api.tasks[0]))
    page.get_by_text("Rows that need attention: the table below has all 10 rows. All are in a file:").wait_for()
    reasons = page.get_by_role("region", name="Why devices need attention")
    expect(reasons.get_by_role("heading")).to_have_text("Need attention")
    page.get_by_text("10 rows", exact=True).wait_for()


@pytest.mark.parametrize(
    ("rows", "told"), [(10, "No device needs attention."), (0, "The list was empty: there was nothing to delete.")]
)
def test_outcome_in_a_file_without_failures_says_so(page: Page, api: AirflowApi, rows: int, told: str) -> None:
    api.tasks = [a_run(22, rows)]
    page.goto(address_of(api.tasks[0]))
    page.get_by_text(told).wait_for()
    expect(page.locator(".table-file")).to_be_visible()
    expect(page.get_by_role("button", name="Download CSV")).to_have_count(0)
    assert asked_for(api, "unscheduled") == []


def test_outcome_in_a_file_whose_failures_cannot_be_read_says_where_they_are(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, 10_000, failed=2000)]
    api.tasks[0].xcoms["unscheduled"] = "s3://bucket/xcom/1.json"
    page.goto(address_of(api.tasks[0]))
    page.get_by_text("Rows that need attention: 2,000. They cannot be read here. All are in a file:").wait_for()


def test_outcome_that_could_not_be_written_to_a_file_is_shown_as_a_table(page: Page, api: AirflowApi) -> None:
    task = a_run(22, 2, failed=1)
    rows = [row_of(0, status="FAILED"), row_of(1)]
    task.xcoms["return_value"] = {column: [row[column] for row in rows] for column in rows[0]}
    api.tasks = [task]
    page.goto(address_of(task))
    page.get_by_text("2 rows", exact=True).wait_for()
    expect(page.get_by_role("button", name="Download CSV")).to_have_text("Download CSV")
    expect(page.locator(".table-file")).to_have_count(0)


def test_large_table_in_xcom_is_still_loaded_on_request_only(page: Page, api: AirflowApi) -> None:
    rows = [row_of(at) for at in range(2000)]
    task = a_run(22, 300_000)
    task.xcoms["return_value"] = rows  # more bytes than a manifest has: it is not read to the end
    api.tasks = [task]
    page.goto(address_of(task))
    page.get_by_role("button", name="Load it").click()
    page.get_by_text("2,000 rows", exact=True).wait_for()


def test_hostile_path_is_shown_as_text(page: Page, api: AirflowApi) -> None:
    path = "s3://bucket/<img src=x onerror=alert(1)>.parquet"
    api.tasks = [a_run(22, 3, failed=1, path=path)]
    page.goto(address_of(api.tasks[0]))
    expect(file_card(page).locator("code.path")).to_have_text(path)
    page.goto("?view=find&q=laptop-9")
    expect(page.locator(".files code")).to_have_text(path)
    assert page.locator("img").count() == 0


@pytest.mark.parametrize(
    ("in_file", "whose"),
    [
        ((True, True), "both tables are in files."),
        ((False, True), "the table of the real run is in a file."),
        ((True, False), "the table of the dry run is in a file."),
    ],
)
def test_comparison_of_tables_in_files_is_of_the_counts(
    page: Page, api: AirflowApi, in_file: tuple[bool, bool], whose: str
) -> None:
    runs = [a_run(22, 10_000, dry_run=True), a_run(23, 10_000, failed=10)]
    for task, is_in_file in zip(runs, in_file, strict=True):
        if not is_in_file:
            task.xcoms["return_value"] = [row_of(1)]
    api.tasks = runs
    page.goto(address_of(runs[1]))
    compared = page.get_by_role("region", name="Dry run and real run")
    expect(compared).to_contain_text("planned 10,000, scheduled 9,990, difference -10.")
    expect(compared).to_contain_text("Only the counts are compared, not the devices: " + whose)
    expect(compared.get_by_role("button")).to_have_count(0)
    expect(compared.locator("tbody tr")).to_have_text(["SCHEDULED09,990", "FAILED010", "PLANNED10,0000"])


def test_attention_says_of_which_runs_only_the_first_rows_are_listed(page: Page, api: AirflowApi) -> None:
    api.tasks = [a_run(22, 1_000_000, failed=12_345), a_run(23, 10, failed=1)]
    page.goto("?view=attention")
    expect(page.locator(".ending .hint")).to_have_text("1,000 devices")
    notice = page.locator(".notice", has_text="Only the first 1,000 of 12,345 rows that need attention")
    expect(notice.locator("code")).to_have_text(PATH.replace(".parquet", ".unscheduled.parquet"))
    expect(page.locator(".notice", has_text="Only the first")).to_have_count(1)
    # The newer run may have scheduled the others: that is in its file.
    newer = page.locator(".notice", has_text="since the table is in a file")
    expect(newer.get_by_role("link")).to_have_text(["stale 2026-11-23 00:00"])


def test_attention_does_not_say_that_nothing_is_left_where_it_has_only_the_first_rows(
    page: Page, api: AirflowApi
) -> None:
    first_1000 = [row_of(at) for at in range(1000)]
    at = "2026-11-23T00:00:05+00:00"
    summary = summary_of(1000, SCHEDULED=1000, started_at=at)
    settled = Task({"summary": summary, "return_value": first_1000}, run_id="manual__23", start_date=at)
    api.tasks = [a_run(22, 1_000_000, failed=12_345), settled]
    page.goto("?view=attention")
    page.get_by_text("No other device is known here to need attention.").wait_for()
    page.get_by_text("Only the first 1,000 of 12,345 rows that need attention").wait_for()
    expect(page.get_by_role("heading", name="Nothing needs attention")).to_have_count(0)


def test_find_says_which_tables_in_files_were_not_searched(page: Page, api: AirflowApi) -> None:
    table = Task(
        {"summary": summary_of(1, SCHEDULED=1, started_at="2026-11-20T00:00:05+00:00"), "return_value": [row_of(1)]},
        run_id="manual__20",
        start_date="2026-11-20T00:00:05+00:00",
    )
    at_scale = [a_run(22, 10_000, path=f"s3://bucket/{at}.parquet", map_index=at) for at in range(7)]
    api.tasks = [table, *at_scale, a_run(21, 1_000_000, failed=2)]
    page.goto("?view=find&q=laptop-000001")
    expect(page.locator(".progress")).to_have_text("Searched 1 of 9 runs, 1 in part: 2 rows")
    expect(page.locator(".answer p")).to_have_text(
        [
            "Last: FAILED (no slot: try later) on 2026-11-21 00:00 by schedule",
            "A newer run may have it, too: its table is in a file, see below.",
        ]
    )
    files = page.locator(".files")
    expect(files.locator("p")).to_have_text(
        "8 runs keep their tables in files: not searched, except for the rows that need attention "
        "(at most 1,000 of a run)."
    )
    files.get_by_text("3 more").click()
    expect(files.get_by_role("listitem")).to_have_count(8)
    expect(files.get_by_role("listitem").first).to_have_text(
        "stale, delete [0], 2026-11-22 00:00: s3://bucket/0.parquet"
    )
    expect(files.get_by_role("listitem").last).to_have_text(f"stale, delete, 2026-11-21 00:00: {PATH}")
    page.goto("?view=find&q=no-such-device")
    page.locator(".answer").get_by_text("It may be in a table that is in a file: see below.").wait_for()


def test_find_asks_before_it_reads_a_large_table_that_is_no_manifest(page: Page, api: AirflowApi) -> None:
    large = a_run(23, 200_001)
    large.xcoms["return_value"] = [row_of(at) for at in range(2000)]
    api.tasks = [large, a_run(22, 300_000)]
    page.goto("?view=find&q=laptop-001999")
    page.get_by_text("1 run keeps its table in a file").wait_for()
    expect(page.locator(".progress")).to_have_text("Searched 0 of 2 runs")
    page.get_by_role("button", name="Search it, too").click()
    expect(page.locator(".progress")).to_have_text("Searched 1 of 2 runs: 1 row")
    expect(page.get_by_role("button", name="Search it, too")).to_have_count(0)


def at_scale(chunks: int, failed: tuple[int, ...]) -> list[Task]:
    """Return the mapped tasks of a run at scale.

    :param failed: the indexes of those that failed, with one device each.
    """
    tasks = []
    for at in range(chunks):
        task = a_run(24, 10_000, failed=int(at in failed), map_index=at, path=f"s3://bucket/{at}.parquet")
        task.start_date = f"2026-11-24T{at // 60:02}:{at % 60:02}:00+00:00"
        task.xcoms["summary"]["started_at"] = task.start_date
        if at in failed:
            task.state = "failed"
            task.xcoms["unscheduled"] = [row_of(at, status="FAILED", reason=NO_SLOT)]
        tasks.append(task)
    return tasks


def test_run_at_scale_is_listed_in_few_requests_and_hides_no_other_run(page: Page, api: AirflowApi) -> None:
    others = [a_run(day, 5, dag_id="other") for day in range(1, 21)]
    api.tasks = [*at_scale(1000, failed=(3, 500)), *others]
    page.goto("")
    page.get_by_text("Page 1 of 4, 200 runs").wait_for()
    notice = "Of tasks that are mapped more than 100 times, 820 that succeeded were not read: at most 200 runs are."
    expect(page.locator(".notice")).to_have_text(f"{notice} They are in neither the list nor the totals.")
    assert len(api.asked) < 300
    assert asked_for(api, "return_value") == []
    page.goto("?state=attention")
    rows = page.get_by_role("table", name="Runs").locator("tbody tr")
    expect(rows.locator(".when")).to_have_text(["2026-11-24 08:20:00", "2026-11-24 00:03:00"])
    page.goto("")
    page.get_by_label("Dag").select_option("other")
    expect(rows).to_have_count(20)


def test_attention_has_the_failed_tasks_of_a_run_at_scale(page: Page, api: AirflowApi) -> None:
    api.tasks = at_scale(1000, failed=(3, 500))
    page.goto("?view=attention")
    page.locator("main:not([aria-busy])").wait_for()
    expect(page.locator(".ending .hint")).to_have_text("2 devices")
    names = page.get_by_role("table", name="Devices that need attention").locator(".rows .name")
    expect(names).to_have_text(["LAPTOP-000500", "LAPTOP-000003"])
    expect(page.locator(".notice").first).to_contain_text("800 that succeeded were not read")


def test_file_on_a_phone_is_readable(page: Page, api: AirflowApi) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    path = "s3://aws_default@bucket/" + "a_long_folder/" * 8 + "outcome.parquet"
    api.tasks = [a_run(22, 10_000, failed=10, path=path)]
    for view in (address_of(api.tasks[0]), "?view=find&q=laptop-9"):
        page.goto(view)
        page.locator("code.path").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
