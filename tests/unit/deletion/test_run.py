"""The run: what becomes of the rows, whatever the tenant responds."""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.backoff import MAX_ATTEMPTS, RETRY_AFTER_CAP_SECONDS
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.deletion import Deletion
from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.deletion.run import DeletionRun
from airflow_provider_nexthink.deletion.scheduler import AMBIGUOUS_LIMIT, REFUSED_LIMITS, Scheduler
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkAuthenticationError,
    NexthinkBatchSizeError,
    NexthinkDevicesRefusedError,
    NexthinkDevicesRetryableError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkPermissionError,
    NexthinkPolicyError,
    NexthinkRateLimitError,
    NexthinkStoppedError,
    NexthinkTokenError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.status import COLUMNS, DEFAULT_FAIL_ON, Status
from tests.support.fake_time import FakeTime
from tests.support.runs import (
    Device,
    FakeResponse,
    Tenant,
    checkpoint_of,
    device_rows,
    limited,
    new_run,
    raise_if,
    unavailable,
)
from tests.support.threads import provider_threads


class FirstLine(logging.Handler):
    """Tells that something was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def emit(self, _: logging.LogRecord) -> None:
        self.seen.set()


@contextmanager
def first_line() -> Iterator[FirstLine]:
    """Watch for the first line that a run logs."""
    logger, handler = logging.getLogger("airflow_provider_nexthink.deletion.run"), FirstLine()
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)


@dataclass
class Ran:
    result: DeletionResult
    time: FakeTime
    run: DeletionRun

    @property
    def counts(self) -> dict[str, int]:
        return {status: count for status, count in self.result.counts.items() if count}

    @property
    def statuses(self) -> list[str]:
        return [row["status"] for row in self.result.table]


def run(
    tenant: Tenant,
    rows: DeviceRows | int = 250,
    *,
    batch_size: int = 100,
    concurrency: int = 1,
    stop: threading.Event | None = None,
    requests_per_second: float | None = None,
    prepare: Callable[[FakeTime], object] = lambda _: None,
) -> Ran:
    plan = make_plan(device_rows(rows) if isinstance(rows, int) else rows)
    outcomes = Outcomes(plan)
    time = FakeTime()
    clock = time.clock()
    stop = stop or threading.Event()
    deletion = new_run(
        outcomes,
        plan.to_send,
        tenant.send,
        batch_size,
        concurrency,
        requests_per_second=requests_per_second,
        prepare=lambda: prepare(time),
        check=lambda: raise_if(stop),
        clock=clock,
    )
    started_at = clock.now()
    error = deletion.run()
    result = DeletionResult(
        outcomes,
        error,
        deletion.scheduler.counters,
        False,
        "uid",
        "name",
        "acme",
        started_at,
        clock.now(),
        time.seconds,
    )
    return Ran(result, time, deletion)


@pytest.mark.parametrize("concurrency", [1, 4, 8])
def test_run_every_device_is_sent_once_in_batches(concurrency: int) -> None:
    tenant = Tenant()
    ran = run(tenant, 250, concurrency=concurrency)
    assert ran.counts == {"SCHEDULED": 250}
    assert sorted(len(devices) for devices, _ in tenant.sent) == [50, 100, 100]
    assert set(tenant.queued.values()) == {1}
    assert len({request_id for _, request_id in tenant.sent}) == 3
    assert (ran.result.counters.batches, ran.result.counters.requests, ran.result.counters.retries) == (3, 3, 0)


@pytest.mark.parametrize(
    "to_send",
    [[3, 4, 5, 6], [3, 4, 6, 7], [5, 9, 3, 8], [7, 6, 5, 4], [2], range(3, 7), range(1, 9, 2), range(9, 4, -1)],
)
def test_run_response_is_written_to_its_rows_wherever_they_are(to_send: Sequence[int]) -> None:
    plan, tenant = make_plan(device_rows(10)), Tenant(failing=Counter({f"PC-{at}": 9 for at in to_send[1:2]}))
    outcomes = Outcomes(plan)
    assert new_run(outcomes, to_send, tenant.send, 100, 1, clock=FakeTime().clock()).run() is None
    assert [device["name"] for device in tenant.sent[0][0]] == [f"PC-{at}" for at in to_send]
    request_ids = {device["name"]: request_id for devices, request_id in tenant.sent for device in devices}
    for at, row in enumerate(outcomes.rows()):
        failed, attempts = at in to_send[1:2], sum(row["name"] in str(devices) for devices, _ in tenant.sent)
        assert row["status"] == ("FAILED" if failed else "SCHEDULED" if at in to_send else "NOT_SENT")
        assert (row["reason"] is not None) == failed
        assert (row["request_id"], row["attempts"]) == (request_ids.get(row["name"]), attempts)
    assert len(outcomes.rows()) == 10


def test_run_row_has_the_request_it_was_sent_in() -> None:
    tenant = Tenant()
    row = run(tenant, 101).result.table[100]
    assert row == {
        "uid": "00000000-0000-4000-8000-000000000100",
        "name": "PC-100",
        "status": "SCHEDULED",
        "reason": None,
        "batch": 2,
        "request_id": tenant.sent[1][1],
        "trace_id": "trace",
        "attempts": 1,
        "submitted_at": "2026-11-23T00:00:00.000+00:00",
    }
    assert tuple(row) == COLUMNS


def test_run_ambiguous_response_retries_the_batch_under_the_same_request_id() -> None:
    tenant = Tenant([unavailable(), NexthinkAmbiguousResponseError("short")])
    ran = run(tenant, 10)
    assert ran.counts == {"SCHEDULED": 10}
    assert len({request_id for _, request_id in tenant.sent}) == 1
    assert {row["attempts"] for row in ran.result.table} == {3}
    assert (ran.result.counters.requests, ran.result.counters.retries) == (3, 2)


def test_run_ambiguous_after_all_retries_is_unknown_and_other_batches_continue() -> None:
    tenant = Tenant([unavailable()] * MAX_ATTEMPTS)
    ran = run(tenant, 250)
    assert ran.counts == {"UNKNOWN": 100, "SCHEDULED": 150}
    assert ran.result.error is None
    assert ran.result.table[0]["reason"] == "sent, without an unambiguous response: 503"
    with pytest.raises(NexthinkDevicesRetryableError, match=r"100 UNKNOWN of 250 devices.*PC-0 .*and 95 more"):
        ran.result.raise_for_status()


def test_run_tenant_down_opens_the_circuit_breaker() -> None:
    tenant = Tenant([unavailable()] * 10_000)
    ran = run(tenant, 100_000, concurrency=8)
    assert len(tenant.sent) <= (AMBIGUOUS_LIMIT + 8) * MAX_ATTEMPTS
    assert isinstance(ran.result.error, NexthinkUnavailableError)
    assert ran.counts["UNKNOWN"] <= 1_100
    assert ran.counts["NOT_SENT"] == 100_000 - ran.counts["UNKNOWN"]
    assert ran.result.table[-1]["reason"] == "the run ended before its turn: 503"


def test_run_response_between_ambiguous_batches_resets_the_circuit_breaker() -> None:
    faults: list[NexthinkError | None] = [unavailable()] * MAX_ATTEMPTS
    ran = run(Tenant([*faults, None] * 5), 1000)
    assert ran.result.error is None
    assert ran.counts == {"UNKNOWN": 500, "SCHEDULED": 500}


def test_run_retries_wait_longer_up_to_a_cap() -> None:
    ran = run(Tenant([unavailable()] * (MAX_ATTEMPTS - 1)), 1)
    assert ran.counts == {"SCHEDULED": 1}
    assert 1 + 2 + 4 + 8 <= ran.time.seconds <= 2 + 4 + 8 + 16


def test_run_failed_devices_are_retried_with_growing_pauses() -> None:
    tenant = Tenant(failing=Counter({"PC-3": 2, "PC-7": 99}))
    ran = run(tenant, 10)
    assert ran.counts == {"SCHEDULED": 9, "FAILED": 1}
    assert [len(devices) for devices, _ in tenant.sent] == [10, 2, 2, 1]
    assert ran.result.table[7]["attempts"] == 4
    assert ran.result.table[7]["reason"] == "Nexthink could not schedule it"
    assert ran.time.seconds == pytest.approx(21.0)
    assert set(tenant.queued.values()) == {1}


def test_run_batch_size_exceeded_halves_all_further_batches() -> None:
    tenant = Tenant(maximum=30)
    ran = run(tenant, 250)
    assert ran.counts == {"SCHEDULED": 250}
    sizes = [len(devices) for devices, _ in tenant.sent]
    assert sizes[:2] == [100, 50]
    assert max(sizes[2:]) == 25
    assert set(tenant.queued.values()) == {1}


def test_run_batch_size_exceeded_for_one_device_ends_the_run() -> None:
    ran = run(Tenant(maximum=0), 250)
    assert isinstance(ran.result.error, NexthinkBatchSizeError)
    assert ran.counts == {"NOT_SENT": 250}


@pytest.mark.parametrize("refused", [{0}, {99}, {249}, {3, 4, 120}, set(range(10))])
def test_run_invalid_request_splits_the_batch_until_the_refused_rows_are_alone(refused: set[int]) -> None:
    tenant = Tenant(refused=frozenset(f"PC-{number}" for number in refused))
    ran = run(tenant, 250, concurrency=4)
    assert {at for at, status in enumerate(ran.statuses) if status == "REJECTED"} == refused
    assert ran.counts == {"SCHEDULED": 250 - len(refused), "REJECTED": len(refused)}
    assert ran.result.table[min(refused)]["reason"] == "Nexthink refuses this device: no such device"
    assert set(tenant.queued.values()) == {1}
    ran.result.raise_for_status()
    with pytest.raises(NexthinkDevicesRefusedError, match="correct the list"):
        ran.result.raise_for_status(["REJECTED"])


@pytest.mark.parametrize(("accepted_before", "requests"), [(0, 60), (1, 260)])
def test_run_all_devices_refused_opens_the_circuit_breaker(accepted_before: int, requests: int) -> None:
    tenant = Tenant(refused=frozenset(f"PC-{number}" for number in range(accepted_before * 100, 10_000)))
    ran = run(tenant, 10_000)
    assert isinstance(ran.result.error, NexthinkInvalidRequestError)
    assert len(tenant.sent) < requests
    assert ran.counts["NOT_SENT"] + accepted_before * 100 == 10_000  # it is not these devices that are wrong
    asked = [
        row for row in ran.result.table if row["reason"] == "not accepted, like all before it: 400 INVALID_REQUEST"
    ]
    assert len(asked) == REFUSED_LIMITS[accepted_before]


@pytest.mark.parametrize(
    "error",
    [
        NexthinkPermissionError("no", status=403, code="FEATURE_NOT_ENABLED"),
        NexthinkAuthenticationError("no", status=401),
        NexthinkTokenError("no token"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("concurrency", [1, 8])
def test_run_final_error_ends_the_run_and_keeps_earlier_outcomes(error: NexthinkError, concurrency: int) -> None:
    tenant = Tenant([None, *[error] * 100])
    ran = run(tenant, 10_000, concurrency=concurrency)
    assert ran.result.error is error
    assert len(tenant.sent) <= 1 + concurrency
    assert ran.counts["SCHEDULED"] == len(tenant.queued)
    assert ran.counts["SCHEDULED"] + ran.counts["NOT_SENT"] == 10_000
    with pytest.raises(type(error)):
        ran.result.raise_for_status(fail_on=())


def test_run_429_throttles_the_whole_run() -> None:
    tenant = Tenant([limited(7.0)])
    ran = run(tenant, 400)
    assert ran.counts == {"SCHEDULED": 400}
    assert ran.time.seconds == pytest.approx(7.0)
    assert len(tenant.sent) == 5


def test_run_429_throttles_other_batches_too(caplog: pytest.LogCaptureFixture) -> None:
    time_of: list[float] = []
    tenant = Tenant([None, None, limited(60.0)])
    plan = make_plan(device_rows(1000))
    time = FakeTime()

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        time_of.append(time.seconds)
        if len(time_of) == 4:  # in flight while the third gets its response, and gets its own once that is applied
            assert first.seen.wait(60)
        return tenant.send(devices, request_id, depart)

    with caplog.at_level("INFO"), first_line() as first:
        new_run(Outcomes(plan), plan.to_send, send, 100, 2, clock=time.clock()).run()
    assert "No request goes out for 60 s" in caplog.text
    assert len([moment for moment in time_of if moment < 60.0]) <= 4
    assert len(time_of) == 11


def test_run_main_thread_busy_workers_continue() -> None:
    tenant, all_out = Tenant(), threading.Event()
    tenant.hook = lambda: all_out.set() if len(tenant.sent) == 6 else None
    plan = make_plan(device_rows(600))
    waits: list[bool] = []

    def progress(settled: int) -> None:
        waits.append(not waits or all_out.wait(60))  # the first call comes before the workers

    assert new_run(Outcomes(plan), plan.to_send, tenant.send, 100, 2, on_progress=progress).run() is None
    assert set(waits) == {True}
    assert len(waits) > 1
    assert set(tenant.queued.values()) == {1}


def test_run_checkpoint_not_saved_holds_back_further_batches() -> None:
    tenant, plan, concurrency = Tenant(), make_plan(device_rows(100_000)), 2
    unsaved, all_out = 4, threading.Event()
    tenant.hook = lambda: all_out.set() if len(tenant.sent) == 2 * unsaved else None
    waiting: list[int] = []

    class SlowCheckpoint(Checkpoint):
        def record(self, positions: Sequence[int]) -> None:
            assert all_out.wait(60)
            waiting.append(len(tenant.sent) - recorded.count(True))
            super().record(positions)
            recorded.append(True)

    recorded: list[bool] = []
    outcomes, clock = Outcomes(plan), FakeTime().clock()
    checkpoint = checkpoint_of(outcomes, plan, clock, SlowCheckpoint)
    run = new_run(outcomes, plan.to_send, tenant.send, 100, concurrency, checkpoint=checkpoint, clock=clock)
    assert run.run() is None
    assert max(waiting) <= concurrency + 2 * unsaved
    assert set(tenant.queued.values()) == {1}


@pytest.mark.parametrize(("seconds", "is_quick"), [(0.004, True), (0.006, False)])
def test_run_requests_in_flight_one_while_tenant_is_quick(seconds: float, is_quick: bool) -> None:
    tenant, time, two_in_flight = Tenant(), FakeTime(), threading.Event()
    plan = make_plan(device_rows(4000))
    in_flight = set[str]()

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        in_flight.add(request_id)
        if len(in_flight) > 1:
            two_in_flight.set()
        response = tenant.send(devices, request_id, depart)
        time.seconds += seconds
        if len(tenant.sent) == 20 and not is_quick:
            assert two_in_flight.wait(60)
        in_flight.remove(request_id)
        return response

    def wait_shortly(condition: threading.Condition, _: float) -> None:
        condition.wait(0.05)

    # Workers wait in real time for a batch: only what requests take counts in virtual time.
    clock = replace(time.clock(), wait=wait_shortly)
    assert new_run(Outcomes(plan), plan.to_send, send, 100, 4, clock=clock).run() is None
    assert set(tenant.queued.values()) == {1}
    assert two_in_flight.is_set() != is_quick


def test_run_slow_tenant_gets_max_concurrency() -> None:
    all_in_flight = threading.Barrier(4)

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        all_in_flight.wait(60)
        return tenant.send(devices, request_id, lambda: None)

    tenant, plan = Tenant(), make_plan(device_rows(800))
    assert new_run(Outcomes(plan), plan.to_send, send, 100, 4).run() is None
    assert set(tenant.queued.values()) == {1}


@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_run_defect_in_any_thread_ends_the_run_and_keeps_the_table(fails_at: int) -> None:
    plan, tenant, time = make_plan(device_rows(1000)), Tenant(), FakeTime()
    clock, calls = time.clock(), itertools.count(1)

    def broken() -> datetime:
        if next(calls) == fails_at:
            raise RuntimeError("a defect")
        return datetime(2026, 11, 23, tzinfo=UTC)

    outcomes = Outcomes(plan)
    error = new_run(outcomes, plan.to_send, tenant.send, 100, 1, clock=replace(clock, now=broken)).run()
    assert isinstance(error, RuntimeError)
    counts = Counter(outcomes.status)
    assert counts[Status.SCHEDULED] == len(tenant.queued) < 1000
    assert counts[Status.SCHEDULED] + counts[Status.NOT_SENT] == 1000


def test_run_429_beyond_the_cap_ends_the_run_retryably_at_once() -> None:
    tenant = Tenant([None, limited(RETRY_AFTER_CAP_SECONDS + 1)])
    ran = run(tenant, 1000)
    assert isinstance(ran.result.error, NexthinkRateLimitError)
    assert len(tenant.sent) == 2
    assert ran.counts == {"SCHEDULED": 100, "NOT_SENT": 900}
    assert ran.time.seconds == 0


@pytest.mark.parametrize("retry_after", [0.0, 1.0, 20.0, None])
def test_run_endless_429_ends_the_run(retry_after: float | None) -> None:
    tenant = Tenant([limited(retry_after)] * 10_000)
    ran = run(tenant, 1000, concurrency=4)
    assert isinstance(ran.result.error, NexthinkRateLimitError)
    assert ran.time.seconds <= RETRY_AFTER_CAP_SECONDS + 30
    assert ran.counts == {"NOT_SENT": 1000}


def test_run_many_429_with_progress_in_between_do_not_end_the_run() -> None:
    script: list[NexthinkError | None] = [limited(1.0)] * (MAX_ATTEMPTS + 3)
    assert run(Tenant(script), 100).counts == {"SCHEDULED": 100}


def starts(ran: Ran) -> list[float]:
    """Return when the requests of a run in which each batch went out once have left, in order."""
    moments = sorted({datetime.fromisoformat(row["submitted_at"]) for row in ran.result.table})
    return [(moment - moments[0]).total_seconds() for moment in moments]


@pytest.mark.parametrize("rate", [0.5, 2.0, 10.0])
def test_run_requests_per_second_paces_the_requests(rate: float) -> None:
    ran = run(Tenant(), 1000, requests_per_second=rate)
    assert ran.counts == {"SCHEDULED": 1000}
    assert starts(ran) == pytest.approx([number / rate for number in range(10)], abs=0.002)


def test_run_slow_token_lets_no_requests_pile_up() -> None:
    calls = itertools.count()  # as often as the main thread gets its turn

    def renew(fake: FakeTime) -> None:
        if next(calls) == 4:
            fake.sleep(30.0)

    ran = run(Tenant(), 1000, concurrency=4, requests_per_second=2.0, prepare=renew)
    assert ran.counts == {"SCHEDULED": 1000}
    left = starts(ran)
    assert max(left) > 30.0
    assert min(later - earlier for earlier, later in pairwise(left)) >= 0.498


def test_run_token_fails_no_other_batch_is_sent() -> None:
    tenant = Tenant()

    def refuse(_: FakeTime) -> None:
        if len(tenant.sent) >= 2:
            raise NexthinkTokenError("no token just now")

    ran = run(tenant, 1000, prepare=refuse)
    assert ran.counts == {"SCHEDULED": 200, "NOT_SENT": 800}
    assert isinstance(ran.result.error, NexthinkTokenError)


def test_run_retries_are_paced_too() -> None:
    ran = run(Tenant([limited(0.0), None, limited(3.0)]), 400, requests_per_second=0.5)
    assert ran.counts == {"SCHEDULED": 400}
    assert ran.result.counters.requests == 6
    assert ran.time.seconds >= 5 / 0.5


def test_run_longer_retry_after_is_respected() -> None:
    ran = run(Tenant([None, limited(60.0)]), 300, requests_per_second=1.0)
    assert starts(ran) == pytest.approx([0.0, 61.0, 62.0], abs=0.002)


def test_run_stopped_after_an_ambiguous_response_keeps_unknown() -> None:
    ran = run(Tenant([unavailable(), NexthinkPermissionError("no", status=403)]), 200)
    assert ran.counts == {"UNKNOWN": 100, "NOT_SENT": 100}


def test_run_stopped_after_a_failed_response_keeps_failed() -> None:
    script: list[NexthinkError | None] = [None, NexthinkPermissionError("no", status=403)]
    ran = run(Tenant(script, failing=Counter({"PC-1": 9})), 10)
    assert ran.counts == {"SCHEDULED": 9, "FAILED": 1}


def test_run_stopped_sends_no_other_batch_and_takes_responses_in_flight() -> None:
    stop = threading.Event()
    tenant = Tenant()
    tenant.hook = lambda: stop.set() if len(tenant.sent) == 3 else None
    ran = run(tenant, 1000, stop=stop)
    assert isinstance(ran.result.error, NexthinkStoppedError)
    assert ran.counts == {"SCHEDULED": 300, "NOT_SENT": 700}


def test_run_stopped_after_the_last_response_is_complete() -> None:
    stop = threading.Event()
    ran = run(Tenant(hook=stop.set), 10, stop=stop)
    assert ran.result.error is None


def test_run_interrupted_keeps_the_table() -> None:
    class TaskTimeout(BaseException):
        """As Airflow's own timeout is one."""

    plan = make_plan(device_rows(10_000))
    tenant, interrupted = Tenant(), threading.Event()
    tenant.hook = lambda: len(tenant.sent) != 4 or interrupted.wait(60)

    def interrupt(settled: int) -> None:
        if settled >= 300 and not interrupted.is_set():
            interrupted.set()
            raise TaskTimeout

    outcomes = Outcomes(plan)
    deletion = new_run(outcomes, plan.to_send, tenant.send, 100, 1, on_progress=interrupt, clock=FakeTime().clock())
    assert isinstance(deletion.run(), TaskTimeout)
    counts = Counter(outcomes.status)
    assert counts[Status.SCHEDULED] == len(tenant.queued)  # the fourth was in flight, and its response was waited for
    assert 400 <= counts[Status.SCHEDULED] < 10_000
    assert counts[Status.SCHEDULED] + counts[Status.NOT_SENT] == 10_000


@pytest.mark.parametrize("count", [0, 9, 11])
def test_run_response_of_another_length_keeps_every_row_in_place(count: int) -> None:
    plan = make_plan(device_rows(30))
    outcomes = Outcomes(plan)
    response = FakeResponse(["SCHEDULED"] * count)

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        return response

    assert isinstance(new_run(outcomes, plan.to_send, send, 10, 1).run(), ValueError)
    assert {len(cells) for cells in outcomes.columns().values()} == {30}
    assert {row["status"] for row in outcomes.rows() if row["attempts"]} == {"UNKNOWN"}


def test_run_defect_while_a_response_is_applied_leaves_unknown() -> None:
    def progress(settled: int) -> None:
        if settled > 300:
            raise RuntimeError("no place left to log to")

    tenant, plan = Tenant(), make_plan(device_rows(5000))
    outcomes = Outcomes(plan)
    run = new_run(outcomes, plan.to_send, tenant.send, 100, 4, on_progress=progress, clock=FakeTime().clock())
    assert isinstance(run.run(), RuntimeError)
    sent = {device["uid"] for devices, _ in tenant.sent for device in devices}
    assert {row["uid"] for row in outcomes.rows() if row["status"] in ("SCHEDULED", "UNKNOWN")} == sent
    assert all(row["reason"] for row in outcomes.rows() if row["status"] != "SCHEDULED")


def test_run_interrupted_while_it_ends_keeps_the_table() -> None:
    class TaskTimeout(BaseException):
        """As Airflow's own timeout is one."""

    plan, tenant = make_plan(device_rows(1000)), Tenant([None, NexthinkPermissionError("no", status=403)])
    outcomes = Outcomes(plan)
    interruptions = iter([TaskTimeout()])

    def interrupt(settled: int) -> None:
        if deletion.scheduler.error is not None and (interruption := next(interruptions, None)):
            raise interruption

    clock = FakeTime().clock()
    deletion = new_run(outcomes, plan.to_send, tenant.send, 100, 8, on_progress=interrupt, clock=clock)
    assert isinstance(deletion.run(), TaskTimeout)
    counts = Counter(outcomes.status)
    assert counts[Status.SCHEDULED] == len(tenant.queued)
    assert counts[Status.SCHEDULED] + counts[Status.NOT_SENT] == 1000
    assert all(row["reason"] for row in outcomes.rows() if row["status"] == "NOT_SENT")
    assert {row["attempts"] for row in outcomes.rows() if row["status"] == "SCHEDULED"} == {1}


def test_deletion_interrupted_again_and_again_tells_what_was_sent() -> None:
    interruptions = iter([KeyboardInterrupt()] * 3)  # of somebody who does not wait for the end
    is_out, may_respond = threading.Event(), threading.Event()

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        is_out.set()
        assert may_respond.wait(60)
        return FakeResponse(["SCHEDULED"] * len(devices))

    def check() -> None:
        if threading.current_thread() is threading.main_thread() and is_out.is_set():
            raise next(interruptions, NexthinkStoppedError("stopped"))

    options = DeletionOptions.checked(batch_size=10, max_concurrency=1)
    deletion = Deletion(device_rows(20), options, tenant="t", instance="acme", clock=Clock())
    deletion.check()
    result = deletion.execute(send, lambda: None, check)
    may_respond.set()
    assert isinstance(result.error, KeyboardInterrupt)
    assert [(row["status"], row["attempts"]) for row in result.table] == [("UNKNOWN", 1)] * 10 + [("NOT_SENT", 0)] * 10
    assert all(row["submitted_at"] for row in result.table[:10])
    assert all(row["reason"] for row in result.table)
    assert result.summary["requests"] == 1


def test_deletion_interrupted_again_and_again_before_its_first_request_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interruptions = iter([KeyboardInterrupt()] * 3)
    is_out, has_raised, abort = threading.Event(), threading.Event(), Scheduler.abort
    sent: list[str] = []

    def interrupt() -> None:
        is_mine = threading.current_thread() is threading.main_thread() and is_out.is_set()
        if is_mine and (interruption := next(interruptions, None)) is not None:
            raise interruption

    def interrupted_abort(scheduler: Scheduler, error: BaseException) -> None:
        interrupt()
        abort(scheduler, error)

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        is_out.set()
        assert has_raised.wait(60)
        depart()
        sent.append(request_id)
        return FakeResponse(["SCHEDULED"] * len(devices))

    monkeypatch.setattr(Scheduler, "abort", interrupted_abort)  # as if signals came just there
    options = DeletionOptions.checked(batch_size=10, max_concurrency=1)
    deletion = Deletion(device_rows(20), options, tenant="t", instance="acme", clock=Clock())
    deletion.check()
    with pytest.raises(KeyboardInterrupt):
        deletion.execute(send, lambda: None, interrupt)
    workers = provider_threads()
    has_raised.set()
    for worker in workers:
        worker.join(60)
    assert len(workers) == 1
    assert sent == []


def test_run_ended_lets_no_request_leave() -> None:
    plan, second_is_out, has_ended = make_plan(device_rows(20)), threading.Event(), threading.Event()
    left: list[str] = []

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        if devices[0]["name"] == "PC-0":
            depart()
            assert second_is_out.wait(60)
            raise NexthinkPermissionError("no", status=403)
        second_is_out.set()  # and waits, as for a connection
        assert has_ended.wait(60)
        depart()
        left.append(request_id)
        return FakeResponse(["SCHEDULED"] * len(devices))

    outcomes = Outcomes(plan)
    deletion = new_run(outcomes, plan.to_send, send, 10, 2)
    assert isinstance(deletion.run(), NexthinkPermissionError)
    has_ended.set()
    for thread in threading.enumerate():
        if thread.name.startswith("nexthink-"):
            thread.join(60)
    assert left == []
    assert [(row["attempts"], row["submitted_at"]) for row in outcomes.rows()[10:]] == [(0, None)] * 10
    assert Counter(outcomes.status) == {Status.NOT_SENT: 20}


def test_run_ended_by_the_policy_takes_the_responses_in_flight_and_sends_nothing_more() -> None:
    plan, is_forbidden, is_awaited = make_plan(device_rows(30)), threading.Event(), threading.Event()

    def check() -> None:
        if not is_forbidden.is_set():
            return
        if threading.current_thread() is threading.main_thread():
            is_awaited.set()
        error = NexthinkPolicyError("No other batch is sent.")
        error.reason = "deletions are off"
        raise error

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        is_forbidden.set()
        assert is_awaited.wait(60)
        return FakeResponse(["SCHEDULED"] * len(devices))

    outcomes = Outcomes(plan)
    error = new_run(outcomes, plan.to_send, send, 10, 1, check=check).run()
    assert isinstance(error, NexthinkPolicyError)
    assert outcomes.status == [Status.SCHEDULED] * 10 + [Status.NOT_SENT] * 20
    assert outcomes.reason[10:] == ["the run ended before its turn: deletions are off"] * 20


def test_run_forbidden_by_the_policy_once_all_is_sent_has_no_error() -> None:
    plan, is_forbidden = make_plan(device_rows(10)), threading.Event()

    def check() -> None:
        if is_forbidden.is_set():
            raise NexthinkPolicyError("No other batch is sent.")

    def send(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        is_forbidden.set()
        return FakeResponse(["SCHEDULED"] * len(devices))

    outcomes = Outcomes(plan)
    assert new_run(outcomes, plan.to_send, send, 10, 1, check=check).run() is None
    assert Counter(outcomes.status) == {Status.SCHEDULED: 10}


@pytest.mark.parametrize("has_left", [True, False])
def test_run_defect_in_sending_keeps_the_table(has_left: bool) -> None:
    plan = make_plan(device_rows(200))

    def broken(devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        if has_left:
            depart()
        raise RuntimeError("a defect")

    outcomes = Outcomes(plan)
    error = new_run(outcomes, plan.to_send, broken, 100, 1, clock=FakeTime().clock()).run()
    assert isinstance(error, RuntimeError)
    assert Counter(outcomes.status) == (
        {Status.UNKNOWN: 100, Status.NOT_SENT: 100} if has_left else {Status.NOT_SENT: 200}
    )
    assert {row["attempts"] for row in outcomes.rows()} == ({0, 1} if has_left else {0})


def test_result_summary_counts_every_status() -> None:
    rows = DeviceRows(["x", *device_rows(3).uids], ["a", "PC-0", "", "PC-2"], "uid", "name")
    summary = run(Tenant(), rows).result.summary
    assert summary == {
        "requested": 4,
        "SCHEDULED": 2,
        "INVALID": 1,
        "FAILED": 0,
        "REJECTED": 1,
        "DUPLICATE": 0,
        "EXCLUDED": 0,
        "PLANNED": 0,
        "UNKNOWN": 0,
        "NOT_SENT": 0,
        "batches": 1,
        "requests": 1,
        "retries": 0,
        "duration_seconds": 0.0,
        "dry_run": False,
        "uid_column": "uid",
        "name_column": "name",
        "instance": "acme",
        "started_at": "2026-11-23T00:00:00+00:00",
        "finished_at": "2026-11-23T00:00:00+00:00",
        "triggered_by": None,
        "reason": None,
        "dag_id": None,
        "dag_run_id": None,
        "task_id": None,
        "map_index": -1,
        "try_number": None,
        "provider_version": __version__,
        "limits": None,
    }


def test_result_to_pandas_keeps_text_as_text() -> None:
    rows = DeviceRows([device_rows(1).uids[0], None], ["00123", "NA"], "uid", "name")
    frame = run(Tenant(), rows).result.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["name"].tolist() == ["00123", "NA"]
    assert frame["attempts"].tolist() == [1, 0]
    assert frame["uid"].isna().tolist() == [False, True]


def test_result_unscheduled_has_the_rows_that_need_attention() -> None:
    rows = DeviceRows([device_rows(1).uids[0]] * 2 + ["x", None], ["a", "a", "b", "c"], "uid", "name")
    assert [row["status"] for row in run(Tenant(), rows).result.unscheduled] == ["INVALID", "REJECTED"]


def faults() -> st.SearchStrategy[NexthinkError | None]:
    def make(kind: Callable[[], NexthinkError]) -> st.SearchStrategy[NexthinkError]:
        return st.builds(kind)

    return st.one_of(
        st.none(),
        make(unavailable),
        make(lambda: NexthinkAmbiguousResponseError("short", status=202)),
        make(lambda: limited(2.0)),
        make(lambda: limited(None)),
        make(lambda: NexthinkBatchSizeError("too many", status=400)),
        make(lambda: NexthinkInvalidRequestError("refused", status=400)),
        make(lambda: NexthinkPermissionError("no", status=403)),
    )


@given(
    script=st.lists(faults(), max_size=40),
    count=st.integers(0, 40),
    batch_size=st.integers(1, 10),
    concurrency=st.sampled_from([1, 8]),
    failing=st.lists(st.integers(0, 39), max_size=3),
    maximum=st.integers(1, 10),
    queues_before_failing=st.booleans(),
)
def test_run_any_responses_lose_no_row_and_invent_none(
    script: list[NexthinkError | None],
    count: int,
    batch_size: int,
    concurrency: int,
    failing: Iterable[int],
    maximum: int,
    queues_before_failing: bool,
) -> None:
    ambiguous = any(isinstance(fault, NexthinkUnavailableError) for fault in script)
    tenant = Tenant(
        list(script),
        maximum=maximum,
        failing=Counter({f"PC-{number}": 2 for number in failing}),
        queues_before_failing=queues_before_failing,
    )
    ran = run(tenant, count, batch_size=batch_size, concurrency=concurrency)
    table = ran.result.table
    assert [row["name"] for row in table] == [f"PC-{number}" for number in range(count)]
    asked = {row["uid"] for row in table}
    assert {device["uid"] for devices, _ in tenant.sent for device in devices} <= asked
    assert all(len(devices) <= batch_size for devices, _ in tenant.sent)
    sent = Counter(device["uid"] for devices, _ in tenant.sent for device in devices)
    for row in table:
        assert row["attempts"] == sent[row["uid"]]
        if row["status"] == "SCHEDULED":
            assert tenant.queued[row["uid"]] >= 1
        if row["status"] in ("FAILED", "NOT_SENT", "REJECTED") and not ambiguous:
            assert tenant.queued[row["uid"]] == 0
        if not ambiguous:
            assert tenant.queued[row["uid"]] <= 1
        assert (row["status"] == "SCHEDULED") == (row["reason"] is None)
    if ran.result.error is None:
        assert "NOT_SENT" not in ran.counts
    else:
        assert any(isinstance(fault, NexthinkError) for fault in script)
    assert ran.result.counters.requests == len(tenant.sent)
    assert set(DEFAULT_FAIL_ON) == {"FAILED", "UNKNOWN", "NOT_SENT"}


# The log


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            NexthinkUnavailableError("No response."),
            r"10 devices, attempt 1 \[x-request-id {id}\]: No response. -> retry in",
        ),
        (
            NexthinkRateLimitError("Slow down.", retry_after=7),
            r"{id}\]: Slow down. -> retry after a pause of 7.0 s.",
        ),
        (NexthinkBatchSizeError("Too many."), r"{id}\]: Too many. -> retry in smaller batches"),
        (NexthinkInvalidRequestError("Refused."), r"{id}\]: Refused. -> retry in two parts"),
        (NexthinkPermissionError("No."), r"{id}\]: No. -> no other batch is sent."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_run_log_has_each_request_that_settles_nothing_and_no_device(
    error: NexthinkError, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = Tenant(script=[error])
    with caplog.at_level("INFO"):
        run(tenant, 10)
    _, request_id = tenant.sent[0]
    assert re.search(line.format(id=request_id), caplog.text)
    assert "PC-" not in caplog.text
    assert "00000000-0000-4000" not in caplog.text


def test_run_log_has_refused_failed_and_ambiguous_requests(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(Tenant(refused=frozenset({"PC-3"})), 4)
        run(Tenant(failing=Counter({"PC-1": 1})), 4)
        run(Tenant(script=[NexthinkUnavailableError("No response.")] * MAX_ATTEMPTS), 4)
    assert re.search(r"1 devices, attempt 1 \[x-request-id .*\]: blank -> this device is refused", caplog.text)
    assert "1 devices are FAILED: they are retried in 1 s." in caplog.text
    assert re.search(rf"4 devices, attempt {MAX_ATTEMPTS} .*No response. -> no further retry", caplog.text)


class _Refusing(Tenant):
    """Refuses the first batch for good, and then gives the second one no response."""

    def __init__(self, first: FirstLine) -> None:
        super().__init__()
        self.first = first
        self.second_is_out = threading.Event()

    def send(self, devices: Sequence[Device], request_id: str, depart: Callable[[], None]) -> FakeResponse:
        depart()
        if devices[0]["name"] == "PC-0":
            assert self.second_is_out.wait(60)
            raise NexthinkPermissionError("No.")
        self.second_is_out.set()
        assert self.first.seen.wait(60)
        raise NexthinkUnavailableError("No response.")


def test_run_log_promises_no_retry_once_the_run_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), first_line() as first:
        run(_Refusing(first), 20, batch_size=10, concurrency=2)
    assert caplog.text.count("no other batch is sent") == 2
    assert "retry" not in caplog.text


def test_run_log_has_accepted_batches_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(Tenant(), 10)
    assert caplog.text == ""
    with caplog.at_level("DEBUG"):
        tenant = Tenant()
        run(tenant, 10)
    assert f"10 devices [x-request-id {tenant.sent[0][1]}, x-trace-id trace]: 202." in caplog.text
