"""How long to wait before something is sent, or sent again. Pure: handed all it needs, it neither sends nor sleeps."""

from __future__ import annotations

import random

MAX_ATTEMPTS = 5
"""How many times one request is sent at the most when no clear answer comes."""

RETRY_AFTER_CAP_SECONDS = 300.0
"""A worker slot is not held for longer than this because a tenant asks to wait; Airflow's retry is."""

_BASE_SECONDS = 1.0
_CAP_SECONDS = 30.0


def full_jitter(attempt: int, rng: random.Random) -> float:
    """Return a random wait between nothing and an exponentially growing bound.

    :param attempt: how many times the request was sent so far, 1 or more.
    :param rng: the source of chance.
    :return: seconds.
    """
    return rng.uniform(0, min(_CAP_SECONDS, _BASE_SECONDS * 2.0 ** (attempt - 1)))


def wait_before_retry(attempt: int, retry_after: float | None, rng: random.Random) -> float | None:
    """Return how long to wait before a request is sent again, or None to give up.

    :param attempt: how many times the request was sent so far, 1 or more.
    :param retry_after: seconds that the answer asks to wait, None where it does not say.
    :param rng: the source of chance.
    :return: seconds, or None.
    """
    if attempt >= MAX_ATTEMPTS:
        return None
    if retry_after is not None and retry_after > RETRY_AFTER_CAP_SECONDS:
        return None
    return max(retry_after or 0.0, full_jitter(attempt, rng))


def next_start(started: float, requests_per_second: float | None) -> float:
    """Return when the next request may start, so that two never start closer together than asked.

    :param started: when the last one started, in seconds.
    :param requests_per_second: how many may start in a second; None for no limit.
    """
    return started + 1 / requests_per_second if requests_per_second else started
