"""Runs against a tenant in memory, in virtual time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.deletion.run import DeletionRun, Send
from airflow_provider_nexthink.deletion.scheduler import Scheduler
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import (
    NexthinkBatchSizeError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkRateLimitError,
    NexthinkStoppedError,
    NexthinkUnavailableError,
)
from tests.support.store import Store

Device = dict[str, str]


@dataclass
class FakeResponse:
    statuses: list[str]
    trace_id: str | None = "trace"


@dataclass
class Tenant:
    """Responds as scripted, and records what it was sent and what it queued.

    :param script: the errors of the first requests; None for none.
    """

    script: list[NexthinkError | None] = field(default_factory=list)
    maximum: int = 100
    refused: frozenset[str] = frozenset()
    failing: Counter[str] = field(default_factory=Counter)
    queues_before_failing: bool = False
    sent: list[tuple[list[Device], str]] = field(default_factory=list)
    queued: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    hook: Callable[[], object] = lambda: None

    def send(self, devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        with self.lock:
            self.sent.append((list(devices), request_id))
            self.hook()
            fault = self.script.pop(0) if self.script else None
            if fault is not None:
                if self.queues_before_failing and isinstance(fault, NexthinkUnavailableError):
                    self.queued.update(device["uid"] for device in devices)
                raise fault
            if len(devices) > self.maximum:
                raise NexthinkBatchSizeError("too many", status=400, code="BATCH_SIZE_EXCEEDED")
            if self.refused.intersection(device["name"] for device in devices):
                raise NexthinkInvalidRequestError("blank", status=400, code="INVALID_REQUEST", detail="no such device")
            return FakeResponse([self._status(device) for device in devices])

    def _status(self, device: Device) -> str:
        if self.failing[device["name"]] > 0:
            self.failing[device["name"]] -= 1
            return "FAILED"
        self.queued[device["uid"]] += 1
        return "SCHEDULED"


def device_rows(count: int) -> DeviceRows:
    uids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(count)]
    return DeviceRows(uids, [f"PC-{number}" for number in range(count)], "uid", "name")


def new_run(
    outcomes: Outcomes,
    to_send: Sequence[int],
    send: Send,
    batch_size: int,
    max_concurrency: int,
    *,
    requests_per_second: float | None = None,
    last_batch: int = 0,
    clock: Clock | None = None,
    **options: Any,
) -> DeletionRun:
    """Return a run with its scheduler."""
    clock = clock or Clock()
    scheduler = Scheduler(
        outcomes,
        to_send,
        batch_size=batch_size,
        max_concurrency=max_concurrency,
        rng=clock.rng,
        last_batch=last_batch,
        requests_per_second=requests_per_second,
    )
    return DeletionRun(scheduler, send, max_concurrency, clock=clock, **options)


def checkpoint_of(outcomes: Outcomes, plan: Plan, clock: Clock, make: type[Checkpoint] = Checkpoint) -> Checkpoint:
    """Return the checkpoint of a run that is about to begin."""
    checkpoint = make(Store(), clock)
    checkpoint.resume(outcomes, plan.to_send, "the tenant")
    checkpoint.begin(plan.to_send, tenant="the tenant", instance="acme")
    return checkpoint


def raise_if(stop: threading.Event) -> None:
    if stop.is_set():
        raise NexthinkStoppedError("stopped from outside")


def unavailable(status: int = 503, retry_after: float | None = None) -> NexthinkUnavailableError:
    return NexthinkUnavailableError("down", status=status, retry_after=retry_after)


def limited(retry_after: float | None) -> NexthinkRateLimitError:
    return NexthinkRateLimitError("slow down", status=429, retry_after=retry_after)
