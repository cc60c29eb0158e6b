"""Airflow's responses to the page *Nexthink deletions*, made by a test, behind a path prefix.

For what a running Airflow does not do: errors, tables of a size that it would take too long to make. That a real one
responds so is tested in ``test_in_a_browser`` and ``test_page_in_airflow``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from airflow_provider_nexthink.plugins.deletions import StaticPages
from airflow_provider_nexthink.status import Status
from tests.support.running_airflow import until

PREFIX = "/team/airflow"
NOW = "2026-11-28T12:00:00Z"
"""The time in the browser."""
# The frame of Airflow 3.1 and 3.2, which allows no downloads and opens no addresses.
FRAME = '<title>Airflow</title><iframe sandbox="allow-scripts allow-same-origin allow-forms" src="{src}"></iframe>'


def summary_of(rows: int | None, **values: Any) -> dict[str, Any]:
    """Return the summary of a deletion; the values are counts of statuses, or fields of the summary.

    :param rows: how many devices the list had.
    """
    return {
        "requested": rows,
        **dict.fromkeys(Status, 0),
        "batches": 3,
        "requests": 3,
        "retries": 0,
        "duration_seconds": 1.5,
        "dry_run": False,
        "uid_column": "device.uid",
        "name_column": "device.name",
        "instance": "acme",
        "started_at": "2026-11-22T00:00:05+00:00",
        "finished_at": "2026-11-22T00:00:07+00:00",
        "triggered_by": "schedule",
        "reason": None,
        "limits": {"max_devices": 1000, "exclude": []},
        **values,
    }


def row_of(number: int, name: str | None = None, status: str = "SCHEDULED", **values: Any) -> dict[str, Any]:
    """Return a row of an outcome table.

    :param number: of the device: its uid, and its name if there is none.
    """
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
        **values,
    }


def manifest_of(path: str, rows: int, *, unscheduled: int = 0, **counts: int) -> dict[str, Any]:
    """Return the ``return_value`` of a deletion whose table is in a file (``return_format="manifest"``).

    :param path: of the file.
    :param rows: how many rows it has.
    :param unscheduled: how many of them need attention, in a file beside it.
    :param counts: rows of each status.
    """
    others = {"path": path.replace(".parquet", ".unscheduled.parquet"), "rows": unscheduled}
    return {
        "path": path,
        "rows": rows,
        "counts": dict.fromkeys(Status, 0) | counts,
        "size": 123_456,
        "checksum": "9f86d081884c7d659a2feaa0c55ad015",
        "uid_column": "device.uid",
        "unscheduled": others if unscheduled else None,
    }


@dataclass
class Task:
    """A task instance.

    :param xcoms: its XComs by key.
    :param operator: its class; None for one that the page does not know by name, a subclass.
    :param written_at: when its XComs were written; None for its start.
    :param rendered_fields: its rendered templates; empty where Airflow keeps them no longer.
    """

    xcoms: dict[str, Any] = field(default_factory=dict)
    dag_id: str = "stale"
    run_id: str = "scheduled__2026-11-22T00:00:00+00:00"
    task_id: str = "delete"
    map_index: int = -1
    state: str | None = "success"
    start_date: str | None = "2026-11-22T00:00:05+00:00"
    run_after: str = "2026-11-22T00:00:00+00:00"
    operator: str | None = "NexthinkDeleteDevicesOperator"
    rendered_map_index: str | None = None
    try_number: int = 1
    written_at: str | None = None
    rendered_fields: dict[str, Any] = field(default_factory=lambda: {"results_path": None})

    @property
    def entry(self) -> dict[str, Any]:
        """What the page's address says of it."""
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "map_index": self.map_index,
        }

    @property
    def instance(self) -> dict[str, Any]:
        """As Airflow's API has it."""
        return {
            "dag_id": self.dag_id,
            "dag_run_id": self.run_id,
            "task_id": self.task_id,
            "map_index": self.map_index,
            "state": self.state,
            "start_date": self.start_date,
            "end_date": None,
            "run_after": self.run_after,
            "operator": self.operator,
            "rendered_map_index": self.rendered_map_index,
            "rendered_fields": self.rendered_fields,
            "try_number": self.try_number,
            "task_display_name": self.task_id,
            "dag_display_name": self.dag_id,
        }

    def xcom_entry(self, key: str) -> dict[str, Any]:
        """Its entry in Airflow's list of XComs."""
        return self.entry | {
            "key": key,
            "timestamp": self.written_at or self.start_date,
            "run_after": self.run_after,
            "logical_date": None,
            "dag_display_name": self.dag_id,
            "task_display_name": self.task_id,
        }


@dataclass
class AirflowApi:
    """Airflow's responses: of these task instances, or an error for every request.

    :param tasks: the task instances.
    :param approvals: the task instances that wait for an approval.
    :param dags: the ids of the Dags that a person may read by themselves.
    :param error: the HTTP status of every response, with ``body``.
    :param sorts_xcoms: whether the list of XComs has an order; Airflow 3.1 has none.
    """

    tasks: list[Task] = field(default_factory=list)
    approvals: list[Task] = field(default_factory=list)
    dags: list[str] = field(default_factory=list)
    error: int | None = None
    body: str = '{"detail": "made up for the test"}'
    sorts_xcoms: bool = True
    asked: list[str] = field(default_factory=list)

    def routes(self) -> list[Route]:
        """Return the routes below ``/api/v2``."""
        instances = "/dags/{dag}/dagRuns/{run}/taskInstances"
        return [
            Route("/dags/{dag}", self._dag),
            Route("/dags/{dag}/dagRuns/{run}/hitlDetails", self._list_approvals),
            Route(f"{instances}/{{task}}/xcomEntries", self._list_xcoms),
            Route(f"{instances}/{{task}}/xcomEntries/{{key}}", self._xcom),
            Route(instances, self._list_instances),
            Route(f"{instances}/{{task}}", self._instance),
            Route(f"{instances}/{{task}}/{{map_index}}", self._instance),
        ]

    def _refusal(self, request: Request) -> Response | None:
        self.asked.append(str(request.url))
        return Response(self.body, self.error) if self.error else None

    def _tasks(self, request: Request) -> list[Task]:
        dag = request.path_params["dag"]
        return [task for task in self.tasks if dag in ("~", task.dag_id)]

    async def _dag(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        dag_id = request.path_params["dag"]
        if dag_id in self.dags:
            return JSONResponse({"dag_id": dag_id, "is_paused": False})
        return JSONResponse({"detail": "not found"}, 404)

    async def _list_instances(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        operators, since = request.query_params.getlist("operator"), request.query_params["start_date_gte"]
        found = [
            task
            for task in self._tasks(request)
            if task.operator in operators and task.start_date and task.start_date >= since.replace("Z", "+00:00")
        ]
        found.sort(key=lambda task: task.start_date or "", reverse=True)
        return _page(request, "task_instances", [task.instance for task in found])

    async def _list_xcoms(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        key = request.query_params["xcom_key"]
        found = [task.xcom_entry(key) for task in self._tasks(request) if key in task.xcoms]
        if self.sorts_xcoms:
            found.sort(key=lambda entry: str(entry["timestamp"]), reverse=True)
        return _page(request, "xcom_entries", found)

    async def _list_approvals(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        details = [
            {"subject": "Delete these devices?", "response_received": False, "task_instance": task.instance}
            for task in self.approvals
        ]
        return _page(request, "hitl_details", details)

    async def _xcom(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        key = request.path_params["key"]
        task = self._find(request, int(request.query_params.get("map_index", -1)))
        if task is None or key not in task.xcoms:
            return JSONResponse({"detail": "not found"}, 404)
        return JSONResponse({**task.xcom_entry(key), "value": task.xcoms[key]})

    async def _instance(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        task = self._find(request, int(request.path_params.get("map_index", -1)))
        return JSONResponse(task.instance) if task else JSONResponse({"detail": "not found"}, 404)

    def _find(self, request: Request, map_index: int) -> Task | None:
        ids = tuple(request.path_params[name] for name in ("dag", "run", "task"))
        for task in self.tasks:
            if (task.dag_id, task.run_id, task.task_id, task.map_index) == (*ids, map_index):
                return task
        return None


def _page(request: Request, key: str, entries: list[dict[str, Any]]) -> Response:
    offset, limit = int(request.query_params.get("offset", 0)), int(request.query_params["limit"])
    return JSONResponse({key: entries[offset : offset + limit], "total_entries": len(entries)})


@contextmanager
def serve_page(api: AirflowApi) -> Iterator[str]:
    """Serve the page with these responses, behind ``PREFIX``; give its address.

    Below the prefix there are also ``plugin/nexthink-deletions``, which has the page in a frame, as Airflow 3.1 and 3.2
    have it, and ``dags/...``, which stands for Airflow's own pages.

    :param api: the responses.
    """
    frame = FRAME.format(src=f"{PREFIX}/nexthink/")
    routes = [
        Mount(f"{PREFIX}/nexthink", StaticPages()),
        Mount(f"{PREFIX}/api/v2", routes=api.routes()),
        Route(f"{PREFIX}/plugin/nexthink-deletions", lambda _: HTMLResponse(frame)),
        Route(f"{PREFIX}/dags/{{rest:path}}", lambda request: HTMLResponse(f"Airflow: {request.url.path}")),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, "the server of the page")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}/nexthink/"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=5)
