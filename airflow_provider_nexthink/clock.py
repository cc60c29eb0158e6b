"""Time and chance, as one thing that a test can replace."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """The time, the wait and the chance that a run goes by.

    :param monotonic: seconds that only ever grow.
    :param now: the time of day, with its zone.
    :param sleep: waits for so many seconds.
    :param asleep: the same for an event loop.
    :param rng: the source of chance.
    """

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], None] = time.sleep
    asleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
