"""The waits between re-sends, the clock they go by, and the tree of errors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.backoff import (
    MAX_ATTEMPTS,
    RETRY_AFTER_CAP_SECONDS,
    full_jitter,
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


def leaves(error: type[NexthinkError] = NexthinkError) -> Iterator[type[NexthinkError]]:
    below = error.__subclasses__()
    if not below:
        yield error
    for each in below:
        yield from leaves(each)


def test_the_bound_doubles_up_to_half_a_minute() -> None:
    assert [full_jitter(attempt, Highest()) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_bound_stands_after_ever_so_many_attempts() -> None:
    assert full_jitter(1000, Highest()) == 30


@given(attempt=st.integers(1, 200), seed=st.integers())
def test_the_jitter_is_full(attempt: int, seed: int) -> None:
    wait = full_jitter(attempt, random.Random(seed))

    assert 0 <= wait <= min(30, 2.0 ** (attempt - 1))
    # The whole of the range is used, from nothing on: the same chance, as a share of the bound.
    assert wait == pytest.approx(random.Random(seed).random() * full_jitter(attempt, Highest()))


def test_gives_up_after_the_last_attempt() -> None:
    waits = [wait_before_retry(attempt, 60.0, random.Random(0)) for attempt in range(1, MAX_ATTEMPTS + 2)]

    assert waits == [60.0] * (MAX_ATTEMPTS - 1) + [None, None]


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(7.5, 7.5), (RETRY_AFTER_CAP_SECONDS, RETRY_AFTER_CAP_SECONDS), (RETRY_AFTER_CAP_SECONDS + 1, None)],
)
def test_waits_as_long_as_it_is_asked_to_or_not_at_all(retry_after: float, wait: float | None) -> None:
    assert wait_before_retry(1, retry_after, random.Random(0)) == wait


def test_never_sends_again_at_once() -> None:
    assert wait_before_retry(3, 0.0, random.Random(0)) == full_jitter(3, random.Random(0))


def test_waits_at_random_where_it_is_not_asked_to() -> None:
    assert wait_before_retry(3, None, random.Random(0)) == full_jitter(3, random.Random(0))


def test_the_clock_knows_its_zone_and_only_grows() -> None:
    clock = Clock()

    assert clock.now().tzinfo is UTC
    assert clock.now() - clock.now() < timedelta(minutes=1)
    assert clock.monotonic() <= clock.monotonic()
    assert clock.rng is not Clock().rng


@pytest.mark.parametrize("error", sorted(set(leaves()), key=str))
def test_every_error_says_whether_a_retry_makes_sense(error: type[NexthinkError]) -> None:
    kinds = [
        kind for kind in (NexthinkInputError, NexthinkFinalError, NexthinkRetryableError) if issubclass(error, kind)
    ]

    assert len(kinds) == 1


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(NexthinkInputError, ValueError)


def test_an_api_error_shows_the_request_id_for_support() -> None:
    assert str(NexthinkApiError("No.")) == "No."
    assert str(NexthinkApiError("No.", request_id="r-1")) == "No. [x-request-id r-1]"


def test_errors_keep_their_numbers() -> None:
    guard = NexthinkGuardError("too many", planned=12, limit=10)
    devices: NexthinkDevicesError = NexthinkDevicesRetryableError("some", counts={"FAILED": 2})

    assert (str(guard), guard.planned, guard.limit) == ("too many", 12, 10)
    assert (str(devices), devices.counts) == ("some", {"FAILED": 2})
