"""How long to wait before a request or a retry. Pure: it neither sends nor sleeps."""

from __future__ import annotations

import random

MAX_ATTEMPTS = 5
"""How many times one request is sent at most when no unambiguous response comes."""

RETRY_AFTER_CAP_SECONDS = 300.0
"""The longest wait in a worker slot that a tenant may ask for. Beyond it the task ends, and Airflow retries it."""

_BASE_SECONDS = 2.0
_CAP_SECONDS = 30.0


def jittered_backoff(attempt: int, rng: random.Random) -> float:
    """Return a random wait between a half and the whole of an exponentially growing bound.

    Without the lower half, all attempts of a request may fall into a restart of a few seconds. The waits between
    ``MAX_ATTEMPTS`` attempts are 15 s at least.

    :param attempt: how many times the request was sent so far, 1 or more.
    :param rng: the source of chance.
    :return: seconds.
    """
    bound = min(_CAP_SECONDS, _BASE_SECONDS * 2.0 ** (min(attempt, 16) - 1))
    return rng.uniform(bound / 2, bound)


def wait_before_retry(attempt: int, retry_after: float | None, rng: random.Random) -> float | None:
    """Return how long to wait before a retry, or None to give up.

    :param attempt: how many times the request was sent so far, 1 or more.
    :param retry_after: seconds that the response asks to wait, None where it does not say.
    :param rng: the source of chance.
    :return: seconds, or None.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    if retry_after is not None and retry_after > RETRY_AFTER_CAP_SECONDS:
        return None
    return max(retry_after or 0.0, jittered_backoff(attempt, rng))


def next_start(started: float, requests_per_second: float | None) -> float:
    """Return when the next request may start, so that two never start closer together than asked.

    :param started: when the last one started, in seconds.
    :param requests_per_second: how many may start in a second; None for no limit.
    """
    return started + 1 / requests_per_second if requests_per_second else started
