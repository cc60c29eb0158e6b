"""Time and chance, as one thing that a test can replace."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

_STEP_SECONDS = 0.1


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _sleep(seconds: float, is_over: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not is_over():
        time.sleep(min(left, _STEP_SECONDS))


def _wait(condition: threading.Condition, seconds: float) -> None:
    condition.wait(seconds)


@dataclass(frozen=True)
class Clock:
    """The time, the wait and the chance that a run goes by.

    :param monotonic: monotonic time, in seconds.
    :param now: the time of day, with its zone.
    :param sleep: waits for so many seconds, or until what it is passed says that the wait is over.
    :param wait: waits for a condition, which is held, for so many seconds at most.
    :param asleep: sleeps in an event loop.
    :param rng: the source of chance.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float, Callable[[], bool]], None] = _sleep
    wait: Callable[[threading.Condition, float], None] = _wait
    asleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
