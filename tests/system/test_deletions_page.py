"""The page "Nexthink deletions", in a browser, with Airflow's responses given by the test.

Airflow itself is in ``test_in_a_browser``. Here: responses that a running one does not send, and tables of a size
that it would take too long to make. All of it lies behind a path prefix, as Airflow does behind many a proxy.
"""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import pytest
import uvicorn
from playwright.sync_api import expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from airflow_provider_nexthink.plugins.deletions import HEADERS, StaticPages
from tests.support.browser import chromium, open_page
from tests.support.running_airflow import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

RUN = {"dag_id": "stale", "run_id": "scheduled__2026-11-22T00:00:00+00:00", "task_id": "delete", "map_index": -1}
OUTCOME = f"?{urlencode(RUN)}"
HOSTILE = "<img src=x onerror=alert(1)>"
# The frame of Airflow 3.1 and 3.2, which allows no downloads and opens no addresses.
FRAME = '<title>Airflow</title><iframe sandbox="allow-scripts allow-same-origin allow-forms" src="nexthink/"></iframe>'


def summary_of(rows: int, **counts: int) -> dict[str, Any]:
    known = ("SCHEDULED", "INVALID", "FAILED", "REJECTED", "DUPLICATE", "EXCLUDED", "PLANNED", "UNKNOWN", "NOT_SENT")
    return {
        "requested": rows,
        **dict.fromkeys(known, 0),
        **counts,
        "requests": 3,
        "retries": 0,
        "duration_seconds": 1.5,
        "dry_run": False,
        "uid_column": "device.uid",
        "name_column": "device.name",
        "instance": "acme",
        "started_at": "2026-11-22T00:00:05+00:00",
    }


def row_of(number: int, name: str | None = None, status: str = "SCHEDULED") -> dict[str, Any]:
    return {
        "uid": f"00000000-0000-4000-8000-{number:012x}",
        "name": f"LAPTOP-{number:06}" if name is None else name,
        "status": status,
        "reason": None,
        "batch": 1 + number // 100,
        "request_id": "5f0c8f0e-6a65-4b6f-9d51-000000000000",
        "trace_id": None,
        "attempts": 1,
        "submitted_at": "2026-11-22T00:00:06+00:00",
    }


@dataclass
class Answers:
    """Airflow's responses: its XComs, or an error for every request.

    :param xcoms: values by key.
    :param error: the HTTP status of every response, with ``body``.
    :param runs: how many runs there are.
    """

    xcoms: dict[str, Any] = field(default_factory=dict)
    error: int | None = None
    body: str = '{"detail": "made up for the test"}'
    runs: int = 1
    asked: list[str] = field(default_factory=list)

    async def list_xcoms(self, request: Request) -> Response:
        self.asked.append(str(request.url))
        if self.error:
            return Response(self.body, self.error)
        offset, limit = int(request.query_params["offset"]), int(request.query_params["limit"])
        day = "2026-11-22T00:00:{:02}+00:00"
        entries = [
            RUN
            | {
                "key": "summary",
                "map_index": at if at else -1,
                "timestamp": day.format(at % 60),
                "run_after": day.format(at % 60),
            }
            for at in range(self.runs)
        ]
        return JSONResponse({"xcom_entries": entries[offset : offset + limit], "total_entries": self.runs})

    async def xcom(self, request: Request) -> Response:
        self.asked.append(str(request.url))
        if self.error:
            return Response(self.body, self.error)
        key = request.path_params["key"]
        if key not in self.xcoms:
            return JSONResponse({"detail": "not found"}, 404)
        return JSONResponse({**RUN, "key": key, "value": self.xcoms[key]})


@pytest.fixture
def responses() -> Answers:
    return Answers()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def address(responses: Answers) -> Iterator[str]:
    """The address of a server with the page, behind the prefix ``/team/airflow``."""
    instances = "/dags/{dag}/dagRuns/{run}/taskInstances/{task}"
    api = [
        Route(f"{instances}/xcomEntries", responses.list_xcoms),
        Route(f"{instances}/xcomEntries/{{key}}", responses.xcom),
        Route(instances, lambda _: JSONResponse({"state": "success"})),
    ]
    routes = [
        Mount("/team/airflow/nexthink", StaticPages()),
        Mount("/team/airflow/api/v2", routes=api),
        Route("/team/airflow/", lambda _: HTMLResponse(FRAME)),
        Route(
            "/team/airflow/dags/{rest:path}", lambda request: HTMLResponse(f"Airflow: {request.path_params['rest']}")
        ),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, "the server of the page")
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/team/airflow/nexthink/"
    server.should_exit = True
    server.force_exit = True
    thread.join(timeout=5)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with open_page(browser, address, accept_downloads=True) as page:
        page.set_default_timeout(60_000)
        yield page


def downloaded(page: Page, press: Callable[[], None]) -> list[dict[str, str]]:
    with page.expect_download() as download:
        press()
    text = download.value.path().read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_page_files_hold_no_data_and_have_strict_headers(page: Page) -> None:
    response = page.goto("")
    assert response is not None
    for name, value in HEADERS.items():
        assert response.headers[name.lower()] == value
    script = page.request.get("runs.js")
    assert (script.ok, script.headers["content-security-policy"]) == (True, HEADERS["Content-Security-Policy"])
    for path in ("..%2fdeletions.py", "%2e%2e/deletions.py", "none.js"):
        assert page.request.get(path).status == 404


def test_page_without_runs_says_so(page: Page, responses: Answers) -> None:
    responses.runs = 0
    page.goto("")
    page.get_by_role("heading", name="No deletions in this period").wait_for()
    assert "xcom_key=summary" in responses.asked[0]
    assert "/dags/~/dagRuns/~/taskInstances/~/xcomEntries?" in responses.asked[0]


def test_page_filters_by_period_and_dag(page: Page, responses: Answers) -> None:
    responses.runs = 0
    page.goto("?days=7&dag_id=stale")
    page.get_by_text("This Dag has no finished deletion").wait_for()
    assert "/dags/stale/dagRuns/~/" in responses.asked[0]
    page.get_by_label("Period").select_option("Last 3 months")
    page.wait_for_url("**/?days=91&dag_id=stale")


def test_page_leaves_out_summaries_of_other_tasks(page: Page, responses: Answers) -> None:
    responses.xcoms = {"summary": {"text": "of quite another operator"}}
    page.goto("")
    page.get_by_role("heading", name="No deletions in this period").wait_for()


@pytest.mark.parametrize(("runs", "told"), [(250, "Only the newest 200 runs"), (2001, "More than 2,000 runs")])
def test_page_with_many_runs_shows_them_all(page: Page, responses: Answers, runs: int, told: str) -> None:
    responses.runs = runs
    responses.xcoms = {"summary": summary_of(300, SCHEDULED=290, INVALID=4, FAILED=6)}
    page.goto("")
    page.get_by_text(told).wait_for()
    expect(page.locator("tbody tr")).to_have_count(200)
    counts = re.compile("Scheduled 58,000.*Invalid 800.*Failed 1,200", re.DOTALL)
    expect(page.locator(".legend")).to_have_text(counts)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "You are signed out"),
        (403, "You may not read this"),
        (404, "There is no outcome"),
        (413, "The table is too large for this page"),
        (500, "Airflow responded with 500"),
    ],
)
@pytest.mark.parametrize("view", ["", OUTCOME])
def test_page_refused_by_airflow_explains_why(
    page: Page, responses: Answers, status: int, told: str, view: str
) -> None:
    responses.error = status
    page.goto(view)
    page.get_by_role("alert").get_by_role("heading", name=told).wait_for()
    responses.error, responses.runs = None, 0
    responses.xcoms = {"summary": summary_of(0), "return_value": []}
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="No").wait_for()


def test_page_truncated_response_is_explained(page: Page, responses: Answers) -> None:
    responses.error, responses.body = 200, '{"value": {"requested": 1'
    page.goto(OUTCOME)
    page.get_by_role("heading", name="Airflow's response was cut off").wait_for()


def test_page_without_network_is_explained(page: Page) -> None:
    page.route("**/api/v2/**", lambda route: route.abort())
    page.goto(OUTCOME)
    page.get_by_role("heading", name="Airflow does not respond").wait_for()


def test_page_shows_hostile_names_as_text(page: Page, responses: Answers) -> None:
    names = [HOSTILE, "</div><script>alert(1)</script>", "=1+1", '"; alert(1)', "a,b\r\nc", "  blanks  ", "Ärger ✓"]
    rows = [row_of(at, name) for at, name in enumerate(names)]
    responses.xcoms = {
        "summary": summary_of(len(rows), SCHEDULED=len(rows)) | {"instance": HOSTILE},
        "return_value": rows,
    }
    page.goto(OUTCOME)
    page.get_by_text(f"{len(names)} rows").wait_for()
    expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
    assert page.locator("main img, main script").count() == 0
    rows_of_file = downloaded(page, page.get_by_role("button", name="Download CSV").click)
    assert [row["name"] for row in rows_of_file] == names  # to the letter, and so is what a Dag reads from it
    page.get_by_text("Names or uids that begin with =, +, - or @: 1.").wait_for()


@pytest.mark.parametrize("form", ["records", "columns", "text"])
def test_page_reads_a_table_in_every_form(page: Page, responses: Answers, form: str) -> None:
    rows = [row_of(0), row_of(1, status="INVALID"), row_of(2, status="EXCLUDED")]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    value: Any = {"records": rows, "columns": columns, "text": json.dumps(rows)}[form]
    responses.xcoms = {"summary": summary_of(3, SCHEDULED=1, INVALID=1, EXCLUDED=1), "return_value": value}
    page.goto(OUTCOME)
    page.get_by_text("3 rows").wait_for()
    page.get_by_role("button", name="INVALID 1").click()
    page.get_by_text("1 of 3 rows").wait_for()
    page.get_by_role("button", name="EXCLUDED 1").click()
    page.get_by_text("2 of 3 rows").wait_for()
    assert [row["status"] for row in downloaded(page, page.get_by_text("Download CSV").click)] == [
        "INVALID",
        "EXCLUDED",
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"__classname__": "pandas.DataFrame", "__version__": 1, "__data__": "50415231"},
        "s3://bucket/xcom/1.json",
        7,
        None,
        [[1]],
    ],
)
def test_page_table_that_a_browser_cannot_read_is_explained(page: Page, responses: Answers, value: Any) -> None:
    responses.xcoms = {
        "summary": summary_of(300, SCHEDULED=299, FAILED=1),
        "return_value": value,
        "unscheduled": [row_of(7, status="FAILED")],
    }
    page.goto(OUTCOME)
    page.get_by_text("The whole table cannot be shown here").wait_for()
    page.get_by_text("1 row", exact=True).wait_for()
    expect(page.get_by_role("cell", name="LAPTOP-000007")).to_be_visible()


def test_page_shows_a_hundred_thousand_rows(page: Page, responses: Answers) -> None:
    rows = [row_of(at) for at in range(100_000)]
    responses.xcoms = {"summary": summary_of(len(rows), SCHEDULED=len(rows)), "return_value": rows}
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


def test_page_loads_more_rows_on_request(page: Page, responses: Answers) -> None:
    responses.xcoms = {"summary": summary_of(300_000, SCHEDULED=300_000), "return_value": [row_of(0)]}
    page.goto(OUTCOME)
    page.get_by_role("heading", name="A table of 300,000 rows").wait_for()
    assert not any("return_value" in asked for asked in responses.asked)
    page.get_by_role("button", name="Load it").press("Enter")
    page.get_by_role("cell", name="LAPTOP-000000").wait_for()


def test_page_works_with_the_keyboard(page: Page, responses: Answers) -> None:
    responses.xcoms = {
        "summary": summary_of(2, SCHEDULED=1, INVALID=1),
        "return_value": [row_of(0), row_of(1, status="INVALID")],
    }
    page.goto("")
    page.locator("tbody tr").wait_for()
    for _ in range(3):  # period, refresh, and the first bar of the chart
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "stale, 2026-11-22 00:00: 2 devices."
    )
    page.keyboard.press("Enter")
    page.get_by_text("2 rows").wait_for()
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.get_by_text("1 of 2 rows").wait_for()


def test_page_in_the_frame_of_airflow_before_3_3_works(page: Page, responses: Answers) -> None:
    responses.xcoms = {"summary": summary_of(1, SCHEDULED=1), "return_value": [row_of(0)]}
    page.goto(f"../{OUTCOME}")  # a link to the page gives what it asks for to the frame's parent
    frame = page.frame_locator("iframe")
    frame.get_by_text("1 row", exact=True).wait_for()
    assert len(downloaded(page, frame.get_by_role("button", name="Download CSV").click)) == 1
    frame.get_by_role("link", name="Task and log").click()
    page.get_by_text(f"Airflow: stale/runs/{RUN['run_id']}/tasks/delete").wait_for()


@pytest.mark.parametrize(
    ("system", "chosen", "theme"),
    [
        ("light", None, "light"),
        ("dark", None, "dark"),
        ("dark", "light", "light"),
        ("light", "dark", "dark"),
        ("dark", "system", "dark"),
    ],
)
def test_page_has_the_theme_of_airflow(
    browser: Browser, address: str, responses: Answers, system: Literal["light", "dark"], chosen: str | None, theme: str
) -> None:
    responses.runs = 0
    with open_page(browser, address, theme=system) as page:
        if chosen:
            page.add_init_script(f"localStorage.setItem('theme', '{chosen}')")
        page.goto("")
        page.get_by_role("heading", name="No deletions").wait_for()
        assert page.evaluate("document.documentElement.dataset.theme") == theme
