"""Metrics, traces and lineage of a run.

None of it can fail a task. Where Airflow has it switched off, its cost is too small to measure.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from airflow_provider_nexthink.api.http import untraced
from airflow_provider_nexthink.assets.nexthink import SCHEME
from airflow_provider_nexthink.version_compat import hook_lineage_collector, stats

if TYPE_CHECKING:
    import httpx
    from airflow.sdk import BaseHook

    from airflow_provider_nexthink.deletion.outcome import DeletionResult

log = logging.getLogger(__name__)


@contextmanager
def suppress_and_log() -> Iterator[None]:
    """Log telemetry failures instead of raising."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of whatever backend Airflow is configured with
        log.warning("Telemetry of this run failed: %s: %s", type(error).__name__, error)


class RunStats:
    """Counters and timings of one run of deletions, for Airflow's statistics.

    ``record_request`` may be called from any thread; the rest is for the task's main thread.

    :param instance: the tenant.
    """

    def __init__(self, instance: str) -> None:
        self._seconds: deque[float] = deque()
        self._is_broken = False
        self._restored: Counter[str] = Counter()
        self._tags = {"instance": instance, **_task_tags()}

    def record_request(self, seconds: float) -> None:
        """Record how long a request took.

        :param seconds: from the moment it left to its response.
        """
        self._seconds.append(seconds)

    def exclude_restored(self, statuses: Iterable[str]) -> None:
        """Leave these out of the counters: an earlier try of the task has counted them.

        :param statuses: of the rows that it has settled.
        """
        self._restored.update(statuses)

    def emit_requests(self) -> None:
        """Emit the timings of the requests that have ended since the last call."""
        if self._is_broken or not self._seconds:
            return
        self._is_broken = True  # one warning is enough
        with suppress_and_log():
            timing = stats().timing
            while self._seconds:
                timing("nexthink.request", timedelta(seconds=self._seconds.popleft()), tags=self._tags)
            self._is_broken = False

    def emit_outcome(self, result: DeletionResult) -> None:
        """Emit the counters and the duration of a run.

        :param result: of the run.
        """
        self.emit_requests()
        counts = Counter(result.counts) - self._restored
        counters = {f"devices.{status.lower()}": count for status, count in counts.items()}
        counters |= {"requests": result.counters.requests, "retries": result.counters.retries}
        with suppress_and_log():
            for counter, count in counters.items():
                if count:
                    stats().incr(f"nexthink.{counter}", count, tags=self._tags)
            stats().timing("nexthink.run", timedelta(seconds=result.duration_seconds), tags=self._tags)


def _task_tags() -> Mapping[str, str]:
    try:
        ti = get_current_context()["ti"]
    except RuntimeError:  # no task: a script, a notebook
        return {}
    return {"dag_id": ti.dag_id, "task_id": ti.task_id}


def request_tracer() -> Callable[[httpx.Request], AbstractContextManager[object]]:
    """Return what makes a span of each request, below the one that is current now, and sends its ``traceparent``.

    Call it in the task's main thread, where the span of the task is current; what it returns may be used in any
    thread. Where nothing is recorded it returns what does nothing.

    The header is that of W3C Trace Context; the names of the attributes are OpenTelemetry's for HTTP clients.
    """
    if "opentelemetry.trace" not in sys.modules:  # then no span can have been started
        return untraced
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    task_span = trace.get_current_span()
    if not task_span.is_recording():
        return untraced
    tracer = trace.get_tracer("airflow_provider_nexthink")

    def start(request: httpx.Request, stack: ExitStack) -> trace.Span:
        here = trace.get_current_span()
        span: trace.Span = stack.enter_context(
            tracer.start_as_current_span(
                f"{request.method} {request.url.path}",
                context=trace.set_span_in_context(here if here.is_recording() else task_span),
                kind=trace.SpanKind.CLIENT,
                attributes={
                    "http.request.method": request.method,
                    "server.address": request.url.host,
                    "url.path": request.url.path,
                    "nexthink.request_id": request.headers["x-request-id"],
                },
                record_exception=False,  # it is in the log, where secrets are masked
                set_status_on_exception=False,
            )
        )
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        request.headers["traceparent"] = carrier["traceparent"]
        return span

    def note(span: trace.Span, error: BaseException) -> None:
        span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        span.set_attribute("error.type", type(error).__name__)
        if status := getattr(error, "status", None):
            span.set_attribute("http.response.status_code", status)

    @contextmanager
    def traced(request: httpx.Request) -> Iterator[None]:
        # Only what the request itself raises may come out of here: a failing trace must not look like a failed request.
        stack, span = ExitStack(), None
        with suppress_and_log():
            span = start(request, stack)
        try:
            yield
        except BaseException as error:
            if span is not None:
                with suppress_and_log():
                    note(span, error)
            raise
        finally:
            with suppress_and_log():
                stack.close()

    return traced


def report_change(hook: BaseHook, instance: str) -> None:
    """Report to Airflow's lineage that this task changes the tenant's inventory.

    :param hook: what changes it.
    :param instance: the tenant.
    """
    with suppress_and_log():
        hook_lineage_collector().add_output_asset(hook, scheme=SCHEME, asset_kwargs={"instance": instance})


def report_read(hook: BaseHook, instance: str, query_id: str) -> None:
    """Report to Airflow's lineage that this task reads the result of a saved query.

    :param hook: what reads it.
    :param instance: the tenant.
    :param query_id: the id of the saved query.
    """
    names: dict[str, Any] = {"instance": instance, "query_id": query_id}
    with suppress_and_log():
        hook_lineage_collector().add_input_asset(hook, scheme=SCHEME, asset_kwargs=names)
