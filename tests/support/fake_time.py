"""Virtual time: it passes only where something sleeps or waits."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from airflow_provider_nexthink.clock import Clock

START = datetime(2026, 11, 23, tzinfo=UTC)


@dataclass
class FakeTime:
    """Virtual time.

    :param seconds: how much of it has passed; a test may set it.
    :param start: the time of day at which it begins.
    """

    seconds: float = 0.0
    start: datetime = START
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.seconds,
            now=self.now,
            sleep=lambda seconds, _: self.sleep(seconds),
            wait=lambda _, seconds: self.sleep(seconds),
            asleep=self.asleep,
            rng=random.Random(0),
        )
