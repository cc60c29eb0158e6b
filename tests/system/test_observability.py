"""What a running Airflow emits: statistics, spans, lineage, asset events, log lines."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from airflow import __version__
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from packaging.version import Version

from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.running_airflow import RunningAirflow, running_airflow, until

SPANS = pytest.mark.skipif(Version(__version__) < Version("3.2"), reason="Airflow 3.1 has no span of the task")

DAG_FILE = """
from airflow.sdk import Asset, dag, task

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator

INVENTORY = Asset("nexthink://sandbox/devices")


@dag(schedule=None)
def watched():
    pull = NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", poll_interval=0.1)
    delete = NexthinkDeleteDevicesOperator(
        task_id="delete", devices=pull.output, batch_size=20, outlets=[INVENTORY], exclude=["SRV-*"]
    )
    plan = NexthinkDeleteDevicesOperator(task_id="plan", devices=pull.output, dry_run=True)
    from_sql = SqlToNexthinkDeleteDevicesOperator(
        task_id="from_sql", sql="SELECT uid, name FROM retired", sql_conn_id="warehouse"
    )

    @task
    def by_hand():
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        with NexthinkHook() as hook:
            hook.run_nql("#all_devices")

    delete >> plan >> from_sql >> by_hand()


@dag(schedule=[INVENTORY], is_paused_upon_creation=False)
def next_in_line():
    @task
    def report(triggering_asset_events=None):
        return [asset.uri for asset in triggering_asset_events]

    report()


watched()
next_in_line()
"""


@dataclass
class Listeners:
    """What was sent to where Airflow was told to send it."""

    statistics: list[str]
    spans: list[Any]


@contextmanager
def listening() -> Iterator[tuple[Listeners, int, int]]:
    """Listen for statsd and for OTLP on loopback; give what came, and the two ports."""
    heard = Listeners([], [])

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    heard.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
    udp.bind(("127.0.0.1", 0))

    def receive() -> None:
        while packet := udp.recv(65535):
            heard.statistics.extend(packet.decode().splitlines())

    otlp = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threads = [Thread(target=receive, daemon=True), Thread(target=otlp.serve_forever, daemon=True)]
    for thread in threads:
        thread.start()
    try:
        yield heard, udp.getsockname()[1], otlp.server_port
    finally:
        otlp.shutdown()
        otlp.server_close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", udp.getsockname())
        for thread in threads:
            thread.join()
        udp.close()


@dataclass
class Watched:
    """A run of the Dag ``watched``, and all that became known of it."""

    airflow: RunningAirflow
    run_id: str
    heard: Listeners
    sandbox: Sandbox
    lineage_file: Path

    @property
    def table(self) -> list[dict[str, Any]]:
        return list(self.airflow.xcom("watched", self.run_id, "delete"))

    def log(self, task_id: str, *, until: str = "") -> str:
        return self.airflow.log("watched", self.run_id, task_id, try_number=1, until=until)

    def lineage(self, task_id: str) -> tuple[set[str], set[str]]:
        """Return what a task has read and what it has changed, as its last event has it."""
        events = [json.loads(line) for line in self.lineage_file.read_text().splitlines()]
        (event,) = [e for e in events if e["job"]["name"] == f"watched.{task_id}" and e["eventType"] == "COMPLETE"]
        inputs, outputs = ([f"{d['namespace']} {d['name']}" for d in event[key]] for key in ("inputs", "outputs"))
        return set(inputs), set(outputs)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    dags = root / "dags"
    dags.mkdir()
    (dags / "watched.py").write_text(DAG_FILE)
    lineage = root / "lineage.jsonl"
    with (
        Sandbox(devices=200, stale=60, removal_delay=0.0, pending_polls=0) as sandbox,
        listening() as (heard, statsd_port, otlp_port),
    ):
        device = sandbox.tenant.devices()[0]
        with closing(sqlite3.connect(root / "warehouse.db")) as warehouse, warehouse:
            warehouse.execute("CREATE TABLE retired (uid TEXT, name TEXT)")
            warehouse.execute("INSERT INTO retired VALUES (?, ?)", (device.uid, device.name))
        sandbox.faults.add(Fault(path="deletions", kind="status", status=503, times=1))
        environment = {
            "AIRFLOW_CONN_NEXTHINK_DEFAULT": sandbox.airflow_connection(),
            "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(root / "warehouse.db")}),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd_port),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{otlp_port}/v1/traces",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage), "append": True}
            ),
            "AIRFLOW__OPENLINEAGE__INCLUDE_FULL_TASK_INFO": "True",
        }
        with running_airflow(root / "home", dags, environment) as airflow:
            run_id = airflow.run("watched")
            assert set(airflow.states("watched", run_id).values()) == {"success"}
            until(lambda: '"watched.by_hand"' in lineage.read_text(), "the lineage of the last task")
            yield Watched(airflow, run_id, heard, sandbox, lineage)


def test_statistics_of_a_run_have_counters_timings_and_tags(watched: Watched) -> None:
    tags = "instance=sandbox,dag_id=watched,task_id=delete"
    told = [line for line in watched.heard.statistics if line.startswith("airflow.nexthink.") and tags in line]
    counters = {line for line in told if line.endswith("|c")}
    summary = watched.airflow.xcom("watched", watched.run_id, "delete", "summary")
    assert counters == {
        f"airflow.nexthink.devices.scheduled,{tags}:{summary['SCHEDULED']}|c",
        f"airflow.nexthink.devices.excluded,{tags}:{summary['EXCLUDED']}|c",
        f"airflow.nexthink.requests,{tags}:{summary['requests']}|c",
        f"airflow.nexthink.retries,{tags}:1|c",
    }
    timings = [line.partition(",")[0] for line in told if line.endswith("|ms")]
    assert sorted(timings) == ["airflow.nexthink.request"] * summary["requests"] + ["airflow.nexthink.run"]


def test_statistics_of_a_dry_run_count_the_planned_devices(watched: Watched) -> None:
    told = [line for line in watched.heard.statistics if "nexthink" in line and "task_id=plan" in line]
    assert [line for line in told if line.endswith("|c")] == [
        "airflow.nexthink.devices.planned,instance=sandbox,dag_id=watched,task_id=plan:60|c"
    ]


@SPANS
def test_trace_of_the_tenant_is_that_of_the_task(watched: Watched) -> None:
    (task_span,) = [span for span in watched.heard.spans if span.name == "worker.delete"]
    trace_id = task_span.trace_id.hex()
    assert {row["trace_id"] for row in watched.table if row["status"] == "SCHEDULED"} == {trace_id}


@SPANS
def test_trace_has_a_span_for_each_request(watched: Watched) -> None:
    (task_span,) = [span for span in watched.heard.spans if span.name == "worker.delete"]
    request_ids = {row["request_id"] for row in watched.table if row["request_id"]}
    sent = [
        (request.headers["traceparent"], request.headers["x-request-id"])
        for request in watched.sandbox.requests
        if request.headers.get("x-request-id") in request_ids
    ]
    told, failed = [], []
    for span in watched.heard.spans:
        attributes = {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
        if attributes.get("nexthink.request_id") not in request_ids:
            continue
        assert span.parent_span_id == task_span.span_id
        told.append((f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01", attributes["nexthink.request_id"]))
        if "error.type" in attributes:
            failed.append((attributes["http.response.status_code"], span.status.code == span.status.STATUS_CODE_ERROR))
    assert sorted(told) == sorted(sent)
    assert len(told) == 4  # three batches and one retry, with the same request id and a span of its own
    assert failed == [(503, True)]


@SPANS
def test_trace_is_not_sent_to_token_and_file_hosts(watched: Watched) -> None:
    traced = {request.path for request in watched.sandbox.requests if "traceparent" in request.headers}
    assert {path.rpartition("/")[2] for path in traced} >= {"deletions", "export", "execute"}
    assert not [path for path in traced if "token" in path or "storage" in path]


def test_lineage_names_the_query_and_the_inventory(watched: Watched) -> None:
    assert watched.lineage("pull") == ({"nexthink://sandbox nql/stale_devices"}, set())
    assert watched.lineage("delete") == (set(), {"nexthink://sandbox devices"})
    assert watched.lineage("from_sql") == (set(), {"nexthink://sandbox devices"})
    assert watched.lineage("by_hand") == ({"nexthink://sandbox nql/all_devices"}, set())


def test_lineage_of_a_dry_run_has_no_output(watched: Watched) -> None:
    assert watched.lineage("plan") == (set(), set())


def test_telemetry_holds_no_device_and_no_secret(watched: Watched) -> None:
    written = watched.lineage_file.read_text() + "".join(watched.heard.statistics) + str(watched.heard.spans)
    assert watched.run_id in written
    secrets = {r.headers["authorization"].split()[1] for r in watched.sandbox.requests if "authorization" in r.headers}
    for word in (*secrets, watched.sandbox.client_secret, *(row["uid"] for row in watched.table)):
        assert word not in written


def test_asset_event_of_the_inventory_starts_the_waiting_dag(watched: Watched) -> None:
    runs = until(lambda: watched.airflow.get("dags/next_in_line/dagRuns")["dag_runs"], "the next Dag")
    assert watched.airflow.wait("next_in_line", runs[0]["dag_run_id"]) == "success"
    assert watched.airflow.xcom("next_in_line", runs[0]["dag_run_id"], "report") == ["nexthink://sandbox/devices"]


def test_log_names_the_retried_request_and_no_device(watched: Watched) -> None:
    log = watched.log("delete", until="Outcome, ")
    (request_id,) = re.findall(
        r"20 devices, attempt 1 \[x-request-id ([0-9a-f-]{36})\]: POST .* returned 503.* -> retry", log
    )
    assert request_id in {row["request_id"] for row in watched.table}
    assert len(re.findall(r"\d+ devices \[x-request-id [0-9a-f-]{36}, x-trace-id [0-9a-f]{32}\]: 202", log)) == 3
    assert not [row["uid"] for row in watched.table if row["uid"] in log]
