"""What goes out with a request where spans are recorded, and where they are not; statistics that fail."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.store import Store


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def traceparents(sandbox: Sandbox) -> set[str | None]:
    return {request.headers.get("traceparent") for request in sandbox.requests}


def test_trace_recorded_has_the_requests_of_every_thread(sandbox: Sandbox) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("task") as span, NexthinkHook() as hook:
        result = hook.delete_devices(devices_of(sandbox, 200), batch_size=10, max_concurrency=4)
        hook.run_nql("#stale_devices")
    trace_id = format(span.get_span_context().trace_id, "032x")
    assert {row["trace_id"] for row in result.table} == {trace_id}
    to_the_api = [request for request in sandbox.requests if "token" not in request.path]
    assert {request.headers["traceparent"].split("-")[1] for request in to_the_api} == {trace_id}
    assert {request.headers.get("traceparent") for request in sandbox.requests if "token" in request.path} == {None}


def test_trace_not_recorded_is_not_sent(sandbox: Sandbox) -> None:
    """As it is in a task where ``[traces] otel_on`` is off: there is a context, made up for each Dag run."""
    context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with trace.use_span(NonRecordingSpan(context)), NexthinkHook() as hook:
        hook.delete_devices(devices_of(sandbox, 20))
    assert traceparents(sandbox) == {None}


def test_trace_without_opentelemetry_is_not_sent(sandbox: Sandbox) -> None:
    with NexthinkHook() as hook:
        hook.delete_devices(devices_of(sandbox, 20))
    assert traceparents(sandbox) == {None}


def test_trace_imports_no_opentelemetry() -> None:
    code = (
        "import sys; from airflow_provider_nexthink.utils import telemetry as it\n"
        "for name in [name for name in sys.modules if name.startswith('opentelemetry')]: del sys.modules[name]\n"
        "it.request_tracer(); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


class FailsAt(SpanProcessor):
    """A backend of traces that fails.

    :param moment: when.
    """

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def on_start(self, span: object, parent_context: object = None) -> None:
        self.fail("start", span)

    def on_end(self, span: object) -> None:
        self.fail("end", span)

    def fail(self, moment: str, span: object) -> None:
        if moment == self.moment and getattr(span, "name", "") != "task":
            raise RuntimeError("the collector is away")


@pytest.mark.parametrize("moment", ["start", "end"])
def test_trace_failure_is_suppressed_and_logged(sandbox: Sandbox, moment: str) -> None:
    provider = TracerProvider()
    provider.add_span_processor(FailsAt(moment))
    sandbox.faults.add(Fault(path="deletions", kind="status", status=503, skip=1))
    with provider.get_tracer("test").start_as_current_span("task"), NexthinkHook() as hook:
        result = hook.delete_devices(devices_of(sandbox, 200), batch_size=20)
    assert {row["status"] for row in result.table} == {"SCHEDULED"}
    assert len(sandbox.tenant.queued) == 200


class Statistics:
    """A backend of Airflow's statistics, that takes counters down.

    :param error: what it raises instead.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.counters: Counter[str] = Counter()

    def incr(self, name: str, count: int = 1, **_: object) -> None:
        if self.error:
            raise self.error
        self.counters[name] += count

    def timing(self, *_: object, **__: object) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def backend() -> Iterator[Callable[[Statistics], None]]:
    """Return what has Airflow send its statistics there."""

    stats = pytest.importorskip("airflow.sdk.observability.stats")
    if not hasattr(stats, "initialize"):
        pytest.skip("before Airflow 3.3 a test cannot put its own backend in place")

    def use(statistics: Statistics) -> None:
        stats.initialize(factory=lambda: statistics, export_legacy_names=False)

    yield use
    nothing = import_module("airflow.sdk._shared.observability.metrics.base_stats_logger").NoStatsLogger
    stats.initialize(factory=nothing, export_legacy_names=False)


def test_statistics_failure_is_suppressed_and_logged(
    sandbox: Sandbox, backend: Callable[[Statistics], None], caplog: pytest.LogCaptureFixture
) -> None:
    backend(Statistics(ConnectionError("no way to the collector")))
    with caplog.at_level(logging.WARNING), NexthinkHook() as hook:
        result = hook.delete_devices(devices_of(sandbox, 20))
    assert result.counts["SCHEDULED"] == 20
    assert "Telemetry of this run failed: ConnectionError: no way to the collector" in caplog.text


def test_statistics_of_a_retry_do_not_count_earlier_tries_again(
    sandbox: Sandbox, backend: Callable[[Statistics], None]
) -> None:
    statistics, store = Statistics(), Store()
    backend(statistics)
    sandbox.faults.add(Fault(path="deletions", kind="status", status=404, skip=1, times=1))
    devices = devices_of(sandbox, 25)
    for _ in range(2):
        with NexthinkHook() as hook:
            hook.delete_devices(devices, batch_size=10, max_concurrency=1, state_store=store)
    assert statistics.counters == {
        "nexthink.devices.scheduled": 25,
        "nexthink.devices.not_sent": 15,
        "nexthink.requests": 4,
    }
