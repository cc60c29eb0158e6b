"""The scheduler, in virtual time, one call after the other: what goes out when, and what follows from each response."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_nexthink.backoff import MAX_ATTEMPTS
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.deletion.scheduler import AMBIGUOUS_LIMIT, QUICK_SECONDS, Batch, Scheduler
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import (
    NexthinkAmbiguousResponseError,
    NexthinkBatchSizeError,
    NexthinkConnectError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkPermissionError,
    NexthinkRateLimitError,
    NexthinkRequestError,
    NexthinkStoppedError,
    NexthinkTokenError,
    NexthinkUnavailableError,
)
from airflow_provider_nexthink.status import Status


@dataclass
class Response:
    statuses: list[str]
    trace_id: str | None = "trace"


Outcome = Response | BaseException
Tenant = Callable[[Batch], Outcome]


def scheduled(batch: Batch) -> Response:
    return Response(["SCHEDULED"] * len(batch.positions))


def outcomes_for(count: int) -> Outcomes:
    uids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(count)]
    return Outcomes(make_plan(DeviceRows(uids, [f"PC-{number}" for number in range(count)], "uid", "name")))


def scheduler_for(
    outcomes: Outcomes, batch_size: int = 100, max_concurrency: int = 1, requests_per_second: float | None = None
) -> Scheduler:
    return Scheduler(
        outcomes,
        range(len(outcomes)),
        batch_size=batch_size,
        max_concurrency=max_concurrency,
        rng=random.Random(0),
        requests_per_second=requests_per_second,
    )


@dataclass
class Simulation:
    """As many requests in flight as the scheduler allows, each of them answered after the latency.

    :param tenant: what becomes of a batch.
    :param latency: seconds that a request takes.
    :param connects: whether requests leave.
    """

    tenant: Tenant = scheduled
    latency: float = 0.2
    connects: bool = True
    now: float = 0.0
    starts: list[float] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def run(self, scheduler: Scheduler) -> Simulation:
        in_flight: list[tuple[float, int, Batch]] = []
        number = itertools.count()
        while True:
            step = scheduler.next_batch(self.now)
            if isinstance(step, Batch):
                self.batches.append(step)
                if self.connects:
                    assert scheduler.depart(step, self.now, f"at {self.now}")
                    self.starts.append(self.now)
                heapq.heappush(in_flight, (self.now + self.latency, next(number), step))
                continue
            due = in_flight[0][0] if in_flight else float("inf")
            if step is not None and self.now + step < due:
                self.now += step
            elif in_flight:
                self.now, _, batch = heapq.heappop(in_flight)
                scheduler.settle(batch, self.tenant(batch), self.now)
            else:
                scheduler.close()
                return self


def script(*outcomes: BaseException | None) -> Tenant:
    """Return a tenant that answers so, and then well."""
    left = list(outcomes)

    def respond(batch: Batch) -> Outcome:
        return (left.pop(0) if left else None) or scheduled(batch)

    return respond


def test_scheduler_100_000_devices_at_200_ms_and_8_at_once_take_25_seconds() -> None:
    outcomes = outcomes_for(100_000)
    scheduler = scheduler_for(outcomes, max_concurrency=8)
    assert Simulation().run(scheduler).now == pytest.approx(25.0, abs=0.01)
    assert scheduler.counters.requests == 1000
    assert set(outcomes.status) == {Status.SCHEDULED}


def test_scheduler_quick_tenant_one_request_in_flight() -> None:
    scheduler = scheduler_for(outcomes_for(1000), max_concurrency=8)
    starts = Simulation(latency=0.004).run(scheduler).starts
    assert min(later - earlier for earlier, later in pairwise(starts)) >= 0.004


def test_scheduler_slow_response_opens_max_concurrency() -> None:
    simulation = Simulation(latency=1.0)
    simulation.run(scheduler_for(outcomes_for(800), max_concurrency=4))
    assert len([start for start in simulation.starts if start < 1.0]) == 4


@pytest.mark.parametrize("max_concurrency", [1, 4])
@pytest.mark.parametrize("rate", [0.5, 2.0, 10.0])
def test_scheduler_requests_per_second_paces_requests_and_retries(rate: float, max_concurrency: int) -> None:
    tenant = script(None, NexthinkUnavailableError("down", status=503), None)
    scheduler = scheduler_for(outcomes_for(1000), max_concurrency=max_concurrency, requests_per_second=rate)
    starts = Simulation(tenant, latency=3.0).run(scheduler).starts
    assert len(starts) == 11
    assert min(later - earlier for earlier, later in pairwise(starts)) >= 1 / rate - 1e-9


def test_scheduler_throttled_run_waits_as_a_whole() -> None:
    tenant = script(None, None, NexthinkRateLimitError("slow down", status=429, retry_after=60.0))
    starts = Simulation(tenant).run(scheduler_for(outcomes_for(1000), max_concurrency=2)).starts
    assert len(starts) == 11
    assert len([start for start in starts if start < 60.0]) <= 4


def test_scheduler_waiting_retry_does_not_hold_up_other_batches() -> None:
    tenant = script(NexthinkUnavailableError("down", status=503, retry_after=60.0))
    simulation = Simulation(tenant).run(scheduler_for(outcomes_for(500), max_concurrency=2))
    assert [batch.number for batch in simulation.batches] == [1, 2, 3, 4, 5, 1]


def test_scheduler_refused_connection_is_retried_and_never_counts_as_sent() -> None:
    outcomes = outcomes_for(1000)
    scheduler = scheduler_for(outcomes)
    error = NexthinkConnectError("no connection", reason="connection refused")
    simulation = Simulation(lambda _: error, connects=False).run(scheduler)
    assert Counter(batch.number for batch in simulation.batches) == dict.fromkeys((1, 2, 3), MAX_ATTEMPTS)
    assert isinstance(scheduler.error, NexthinkUnavailableError)
    assert (scheduler.counters.requests, scheduler.counters.retries) == (0, AMBIGUOUS_LIMIT * (MAX_ATTEMPTS - 1))
    assert {(row["status"], row["attempts"], row["submitted_at"], row["request_id"]) for row in outcomes.rows()} == {
        ("NOT_SENT", 0, None, None)
    }
    assert {row["reason"] for row in outcomes.rows()[:300]} == {"not sent: connection refused"}
    assert {row["reason"] for row in outcomes.rows()[300:]} == {"the run ended before its turn: connection refused"}


def test_scheduler_connection_that_comes_back_settles_all() -> None:
    outcomes = outcomes_for(100)
    scheduler = scheduler_for(outcomes)
    batch = scheduler.next_batch(0.0)
    assert isinstance(batch, Batch)
    scheduler.settle(batch, NexthinkConnectError("no connection"), 0.0)
    Simulation(now=60.0).run(scheduler)
    assert {(row["status"], row["attempts"]) for row in outcomes.rows()} == {("SCHEDULED", 1)}
    assert (scheduler.counters.requests, scheduler.counters.retries) == (1, 1)


def test_scheduler_ambiguous_then_refused_connection_stays_unknown() -> None:
    outcomes = outcomes_for(10)
    scheduler = scheduler_for(outcomes)
    now, errors = 0.0, [NexthinkUnavailableError("down", status=503), *[NexthinkConnectError("refused")] * 4]
    for error in errors:
        batch = scheduler.next_batch(now)
        while not isinstance(batch, Batch):
            assert batch
            now += batch
            batch = scheduler.next_batch(now)
        if not isinstance(error, NexthinkConnectError):
            scheduler.depart(batch, now, "then")
        scheduler.settle(batch, error, now)
    assert scheduler.next_batch(now) is None
    assert {(row["status"], row["attempts"], row["submitted_at"]) for row in outcomes.rows()} == {
        ("UNKNOWN", 1, "then")
    }


@pytest.mark.parametrize(
    "error", [MemoryError("none left"), RecursionError(), NexthinkError("odd"), KeyError("x")], ids=repr
)
@pytest.mark.parametrize("has_left", [True, False])
def test_scheduler_any_error_is_ambiguous_once_the_request_left(error: BaseException, has_left: bool) -> None:
    outcomes = outcomes_for(10)
    scheduler = scheduler_for(outcomes)
    Simulation(lambda _: error, connects=has_left).run(scheduler)
    assert scheduler.error is error
    assert {row["status"] for row in outcomes.rows()} == {"UNKNOWN" if has_left else "NOT_SENT"}
    assert {row["attempts"] for row in outcomes.rows()} == {int(has_left)}


def test_scheduler_reason_of_a_batch_is_that_of_the_last_response_after_a_401() -> None:
    outcomes = outcomes_for(10)
    scheduler = scheduler_for(outcomes)
    batch = scheduler.next_batch(0.0)
    assert isinstance(batch, Batch)
    assert scheduler.depart(batch, 0.0, "now")
    scheduler.refuse(batch)
    awaits = [scheduler.awaits_response]
    assert scheduler.depart(batch, 1.0, "now")
    assert [*awaits, scheduler.awaits_response] == [False, True]
    scheduler.settle(batch, NexthinkPermissionError("no", status=403), 2.0)
    scheduler.close()
    assert {(row["status"], row["reason"]) for row in outcomes.rows()} == {("NOT_SENT", "not accepted: 403")}


@pytest.mark.parametrize("position", range(4))
def test_scheduler_retries_count_those_that_the_log_promises_when_the_run_ends_before_them(
    caplog: pytest.LogCaptureFixture, position: int
) -> None:
    caplog.set_level("INFO", logger="airflow_provider_nexthink")
    scheduler = scheduler_for(outcomes_for(500), max_concurrency=5)
    batches = [scheduler.next_batch(QUICK_SECONDS * at) for at in range(5)]
    assert all(isinstance(batch, Batch) and scheduler.depart(batch, 1.0, "now") for batch in batches)
    down = NexthinkUnavailableError("down", status=503)
    errors: list[NexthinkError] = [down, NexthinkBatchSizeError("too many", status=400), down]
    errors.insert(position, NexthinkPermissionError("no", status=403))  # after it, the log promises nothing more
    errors.append(NexthinkInvalidRequestError("blank", status=400))
    for batch, error in zip(batches, errors, strict=True):
        assert isinstance(batch, Batch)
        scheduler.settle(batch, error, 2.0)
    scheduler.close()
    scheduler.close()
    promised = [message for _, message, *values in scheduler.messages if "retry in" in str(values[-1])]
    assert len(promised) == scheduler.counters.retries == position


def test_scheduler_retries_count_every_repeated_batch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "airflow_provider_nexthink.deletion.scheduler")
    failed = Response(["FAILED"] + ["SCHEDULED"] * 99)
    responses: list[Outcome] = [
        NexthinkUnavailableError("down", status=503),
        NexthinkRateLimitError("slow", status=429, retry_after=1.0),
        failed,
        Response(["FAILED"]),
        Response(["SCHEDULED"]),
    ]
    scheduler = scheduler_for(outcomes_for(100))
    Simulation(lambda _: responses.pop(0)).run(scheduler)
    assert (scheduler.counters.batches, scheduler.counters.requests, scheduler.counters.retries) == (3, 5, 4)
    lines = [message[1] % message[2:] for message in scheduler.messages]
    assert len([line for line in lines if "retry" in line or "retried" in line]) == 4


def test_scheduler_hanging_connection_opens_max_concurrency() -> None:
    scheduler = scheduler_for(outcomes_for(800), max_concurrency=4)
    assert isinstance(scheduler.next_batch(0.0), Batch)
    pause = scheduler.next_batch(0.0)
    assert isinstance(pause, float)
    assert [isinstance(scheduler.next_batch(pause), Batch) for _ in range(3)] == [True] * 3
    assert scheduler.next_batch(pause) == float("inf")


def test_scheduler_breaker_of_refused_devices_keeps_what_was_ambiguous() -> None:
    def tenant(batch: Batch) -> Outcome:
        if batch.turns == 1 and batch.number == 1:
            return NexthinkUnavailableError("down", status=504)
        return NexthinkInvalidRequestError("refused", status=400, code="INVALID_REQUEST")

    outcomes = outcomes_for(200)
    Simulation(tenant).run(scheduler_for(outcomes))
    assert {row["status"] for row in outcomes.rows()[:100]} == {"UNKNOWN"}
    assert {row["status"] for row in outcomes.rows()[100:]} == {"NOT_SENT"}


def test_scheduler_throttle_beyond_the_cap_promises_no_retry(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "airflow_provider_nexthink.deletion.scheduler")
    scheduler = scheduler_for(outcomes_for(10))
    Simulation(lambda _: NexthinkRateLimitError("slow", status=429, retry_after=200.0)).run(scheduler)
    assert isinstance(scheduler.error, NexthinkRateLimitError)
    lines = [message[1] % message[2:] for message in scheduler.messages]
    assert "retry after a pause of 200.0 s" in lines[1]
    assert lines[-1].endswith("no other batch is sent.")
    assert len([line for line in lines if "No request goes out" in line]) == 1


def test_scheduler_batch_held_back_by_a_stop_is_not_complete() -> None:
    scheduler = scheduler_for(outcomes_for(10))
    batch = scheduler.next_batch(0.0)
    assert isinstance(batch, Batch)
    scheduler.settle(batch, NexthinkStoppedError("stopped"), 0.0)
    assert not scheduler.is_complete


def test_scheduler_closed_ignores_late_responses() -> None:
    outcomes = outcomes_for(20)
    scheduler = scheduler_for(outcomes, batch_size=10, max_concurrency=2)
    sent = scheduler.next_batch(0.0)
    assert isinstance(sent, Batch)
    assert scheduler.depart(sent, 0.0, "then")
    connecting = scheduler.next_batch(1.0)
    assert isinstance(connecting, Batch)
    scheduler.abort(NexthinkStoppedError("stopped"))
    scheduler.close()
    scheduler.close()  # as after an interruption
    table = outcomes.rows()
    assert not scheduler.depart(connecting, 1.0, "late")
    for batch in (sent, connecting):
        scheduler.settle(batch, scheduled(batch), 2.0)
    assert outcomes.rows() == table
    assert [(row["status"], row["attempts"]) for row in table] == [("UNKNOWN", 1)] * 10 + [("NOT_SENT", 0)] * 10
    assert scheduler.next_batch(3.0) is None


DEVICES = 12
ERRORS: list[Callable[[], BaseException]] = [
    lambda: NexthinkUnavailableError("down", status=503),
    lambda: NexthinkAmbiguousResponseError("short", status=202),
    lambda: NexthinkRateLimitError("slow", status=429, retry_after=1.0),
    lambda: NexthinkRateLimitError("slow", status=429, retry_after=9e9),
    lambda: NexthinkBatchSizeError("too many", status=400),
    lambda: NexthinkInvalidRequestError("refused", status=400),
    lambda: NexthinkPermissionError("no", status=403),
    lambda: NexthinkRequestError("no", status=400),
    lambda: MemoryError(),
]
AMBIGUOUS = (NexthinkUnavailableError, MemoryError)


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of hand-outs, departures, responses, errors, pauses and ends; a model remembers what the tenant saw."""

    @initialize(
        batch_size=st.integers(1, 5),
        max_concurrency=st.integers(1, 4),
        sent=st.sets(st.integers(0, DEVICES - 1)),
        rate=st.none() | st.just(2.0),
    )
    def start(self, batch_size: int, max_concurrency: int, sent: set[int], rate: float | None) -> None:
        self.now = 0.0
        self.max_concurrency = max_concurrency
        self.outcomes = outcomes_for(DEVICES)
        self.to_send = sorted(set(range(DEVICES)) - sent)
        self.scheduler = Scheduler(
            self.outcomes,
            self.to_send,
            batch_size=batch_size,
            max_concurrency=max_concurrency,
            rng=random.Random(0),
            requests_per_second=rate,
        )
        self.out: list[Batch] = []
        self.requests: Counter[int] = Counter()
        self.verdict: dict[int, str] = {}  # the last definite word of the tenant
        self.ambiguous: set[int] = set()  # since then
        self.closed = False

    @precondition(lambda self: not self.closed)
    @rule()
    def take(self) -> None:
        step = self.scheduler.next_batch(self.now)
        if isinstance(step, Batch):
            positions = list(step.positions)
            assert set(positions) <= set(self.to_send)
            assert not set(positions) & {at for batch in self.out for at in batch.positions}
            assert all(self.verdict.get(at) != "SCHEDULED" for at in positions)
            assert [device["name"] for device in step.devices] == [f"PC-{at}" for at in positions]
            self.out.append(step)
            assert len(self.out) <= self.max_concurrency
        elif step is None:
            assert self.scheduler.error is not None or not self.out
        else:
            assert step > 0

    @precondition(lambda self: any(not batch.has_left for batch in self.out))
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from([batch for batch in self.out if not batch.has_left]))
        if self.scheduler.depart(batch, self.now, f"at {self.now}"):
            assert not self.closed
            assert self.scheduler.error is None
            self.requests.update(batch.positions)

    @precondition(lambda self: any(batch.has_left for batch in self.out))
    @rule(data=st.data())
    def respond(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from([batch for batch in self.out if batch.has_left]))
        words = data.draw(
            st.lists(
                st.sampled_from(["SCHEDULED", "INVALID", "FAILED"]),
                min_size=len(batch.positions),
                max_size=len(batch.positions),
            )
        )
        if not self.closed:
            self.ambiguous -= set(batch.positions)
            self.verdict.update(zip(batch.positions, words, strict=True))
        self.end(batch, Response(words))

    @precondition(lambda self: any(batch.has_left for batch in self.out))
    @rule(data=st.data(), new_error=st.sampled_from(ERRORS))
    def fail(self, data: st.DataObject, new_error: Callable[[], BaseException]) -> None:
        batch = data.draw(st.sampled_from([batch for batch in self.out if batch.has_left]))
        error = new_error()
        if not self.closed and isinstance(error, AMBIGUOUS):
            self.ambiguous |= set(batch.positions)
        self.end(batch, error)

    @precondition(lambda self: any(not batch.has_left for batch in self.out))
    @rule(
        data=st.data(),
        error=st.sampled_from([NexthinkConnectError("refused"), NexthinkTokenError("no token"), RuntimeError("odd")]),
    )
    def fail_before_leaving(self, data: st.DataObject, error: BaseException) -> None:
        self.end(data.draw(st.sampled_from([batch for batch in self.out if not batch.has_left])), error)

    def end(self, batch: Batch, outcome: Outcome) -> None:
        self.out.remove(batch)
        self.scheduler.settle(batch, outcome, self.now)

    @rule(seconds=st.sampled_from([0.01, 1.0, 30.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.closed)
    @rule()
    def stop(self) -> None:
        self.scheduler.abort(NexthinkStoppedError("stopped"))

    @rule()
    def close(self) -> None:
        if not self.closed:
            self.ambiguous |= {at for batch in self.out if batch.has_left for at in batch.positions}
        self.closed = True
        self.scheduler.abort(NexthinkStoppedError("stopped"))
        self.scheduler.close()

    @invariant()
    def nothing_unasked(self) -> None:
        assert set(self.requests) <= set(getattr(self, "to_send", ()))
        assert len(self.outcomes) == DEVICES

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.close()
        assert self.scheduler.counters.requests >= max(self.requests.values(), default=0)
        for at, row in enumerate(self.outcomes.rows()):
            assert row["attempts"] == self.requests[at]
            assert (row["submitted_at"] is None) == (self.requests[at] == 0)
            if at in self.ambiguous:
                assert row["status"] == "UNKNOWN"
            elif at in self.verdict:
                assert row["status"] == self.verdict[at]
            else:
                assert row["status"] in ("NOT_SENT", "REJECTED")
                assert row["status"] == "NOT_SENT" or self.requests[at]
            if at in self.to_send:
                assert (row["reason"] is None) == (row["status"] == "SCHEDULED")


SchedulerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


def test_scheduler_scattered_positions_are_written_to_their_rows() -> None:
    for to_send in ([3, 4, 6, 7], [7, 6, 5], range(3, 7)):
        outcomes = outcomes_for(10)
        positions: Sequence[int] = to_send
        scheduler = Scheduler(outcomes, positions, batch_size=3, max_concurrency=1, rng=random.Random(0))
        Simulation().run(scheduler)
        assert [at for at, row in enumerate(outcomes.rows()) if row["status"] == "SCHEDULED"] == sorted(positions)
