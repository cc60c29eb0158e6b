"""The backoff between retries, the clock, and the tree of errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.backoff import (
    MAX_ATTEMPTS,
    RETRY_AFTER_CAP_SECONDS,
    jittered_backoff,
    wait_before_retry,
)
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkDevicesError,
    NexthinkDevicesRetryableError,
    NexthinkError,
    NexthinkFinalError,
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkRetryableError,
)


class Highest(random.Random):
    """Chance that always gives the most it can."""

    def random(self) -> float:
        return 1.0


def pickled(protocol: int, error: NexthinkError) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


def leaves(error: type[NexthinkError] = NexthinkError) -> Iterator[type[NexthinkError]]:
    below = error.__subclasses__()
    if not below:
        yield error
    for each in below:
        yield from leaves(each)


class Lowest(random.Random):
    """Chance that always gives the least it can."""

    def random(self) -> float:
        return 0.0


def test_jittered_backoff_bound_doubles_up_to_half_a_minute() -> None:
    assert [jittered_backoff(attempt, Highest()) for attempt in range(1, 8)] == [2, 4, 8, 16, 30, 30, 30]


def test_jittered_backoff_floor_is_half_the_bound() -> None:
    assert [jittered_backoff(attempt, Lowest()) for attempt in range(1, 8)] == [1, 2, 4, 8, 15, 15, 15]


def test_jittered_backoff_many_attempts_keeps_the_bound() -> None:
    assert jittered_backoff(10_000, Highest()) == 30


@given(attempt=st.integers(1, 200), seed=st.integers())
def test_jittered_backoff_uses_the_whole_range(attempt: int, seed: int) -> None:
    low, high = jittered_backoff(attempt, Lowest()), jittered_backoff(attempt, Highest())

    assert jittered_backoff(attempt, random.Random(seed)) == pytest.approx(
        low + random.Random(seed).random() * (high - low)
    )


def test_wait_before_retry_survives_a_restart_of_15_seconds() -> None:
    """Computed: an attempt takes no time, as a refused connection does, and the first one meets the restart's start."""
    runs = 10_000
    failed = 0
    for seed in range(runs):
        rng, now, attempt = random.Random(seed), 0.0, 1
        while now < 15.0:
            wait = wait_before_retry(attempt, None, rng)
            if wait is None:
                failed += 1
                break
            now, attempt = now + wait, attempt + 1
    assert failed <= runs / 1000


def test_wait_before_retry_after_the_last_attempt_gives_up() -> None:
    waits = [wait_before_retry(attempt, 60.0, random.Random(0)) for attempt in range(1, MAX_ATTEMPTS + 2)]

    assert waits == [60.0] * (MAX_ATTEMPTS - 1) + [None, None]


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(7.5, 7.5), (RETRY_AFTER_CAP_SECONDS, RETRY_AFTER_CAP_SECONDS), (RETRY_AFTER_CAP_SECONDS + 1, None)],
)
def test_wait_before_retry_honours_retry_after_up_to_the_cap(retry_after: float, wait: float | None) -> None:
    assert wait_before_retry(1, retry_after, random.Random(0)) == wait


def test_wait_before_retry_after_0_seconds_still_backs_off() -> None:
    assert wait_before_retry(3, 0.0, random.Random(0)) == jittered_backoff(3, random.Random(0))


def test_wait_before_retry_without_retry_after_backs_off() -> None:
    assert wait_before_retry(3, None, random.Random(0)) == jittered_backoff(3, random.Random(0))


def test_clock_is_monotonic_and_knows_its_zone() -> None:
    clock = Clock()

    assert clock.now().tzinfo is UTC
    assert clock.now() - clock.now() < timedelta(minutes=1)
    assert clock.monotonic() <= clock.monotonic()
    assert clock.rng is not Clock().rng


def every_error() -> list[NexthinkError]:
    """One of each class, with every field that its constructor takes."""
    fields: dict[str, Any] = {
        "planned": 12,
        "limit": 10,
        "status": 503,
        "code": "C",
        "request_id": "r-1",
        "trace_id": "t-1",
        "detail": "in their words",
        "retry_after": 1.5,
        "reason": "connection refused",
        "counts": {"FAILED": 2},
    }
    errors = []
    for kind in sorted({*below(NexthinkError), NexthinkError}, key=str):
        names = inspect.signature(kind).parameters if "__init__" in vars_of(kind) else {}
        errors.append(kind("made up", **{name: fields[name] for name in names if name in fields}))
    return errors


def below(kind: type[NexthinkError]) -> Iterator[type[NexthinkError]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def vars_of(kind: type[NexthinkError]) -> set[str]:
    """What our own classes define: ``Exception`` has a signature that takes anything."""
    return {name for base in kind.__mro__ if base.__module__ == NexthinkError.__module__ for name in vars(base)}


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "copied",
    [
        *(partial(pickled, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_error_pickled_or_copied_keeps_all_fields(copied: Callable[[Any], Any], error: NexthinkError) -> None:
    error.add_note("a note")
    other = copied(error)

    assert type(other) is type(error)
    assert other is not error
    assert (other.args, vars(other), str(other)) == (error.args, vars(error), str(error))


@pytest.mark.parametrize("error", sorted(set(leaves()), key=str))
def test_error_is_of_exactly_one_kind(error: type[NexthinkError]) -> None:
    kinds = [
        kind for kind in (NexthinkInputError, NexthinkFinalError, NexthinkRetryableError) if issubclass(error, kind)
    ]

    assert len(kinds) == 1


def test_input_error_is_a_value_error() -> None:
    assert issubclass(NexthinkInputError, ValueError)


def test_api_error_shows_the_request_id() -> None:
    assert str(NexthinkApiError("No.")) == "No."
    assert str(NexthinkApiError("No.", request_id="r-1")) == "No. [x-request-id r-1]"


def test_error_keeps_its_numbers() -> None:
    guard = NexthinkGuardError("too many", planned=12, limit=10)
    devices: NexthinkDevicesError = NexthinkDevicesRetryableError("some", counts={"FAILED": 2})

    assert (str(guard), guard.planned, guard.limit) == ("too many", 12, 10)
    assert (str(devices), devices.counts) == ("some", {"FAILED": 2})
