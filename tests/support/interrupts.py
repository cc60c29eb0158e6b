"""Airflow's timeout, as a signal at a moment or at a line of our code."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any


class TaskTimeout(BaseException):
    """Raised in the main thread by a signal, as Airflow's timeout is."""


@contextmanager
def signal_raises() -> Iterator[None]:
    """Let SIGALRM raise ``TaskTimeout``."""

    def interrupt(*_: object) -> None:
        raise TaskTimeout

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        _release_logging()


def _release_logging() -> None:
    """Release what this thread still holds of logging, which may have been interrupted between a lock and its ``try``.

    In a task that ends with it, nobody waits for that lock; here, later tests would, in each thread that logs.
    """
    for lock in filter(None, [handler.lock for handler in logging.getLogger().handlers]):
        with suppress(RuntimeError):  # not held, or not any more
            while True:
                lock.release()


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt the main thread once, at whatever instruction it is by then."""
    with signal_raises():
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


Line = tuple[str, int, int]
"""A file, a line, and how often it had run before."""


@contextmanager
def interrupted_at_new_line(
    seen: set[Line], files: Collection[str], has_begun: Callable[[], object] = lambda: True, *, times: int = 1
) -> Iterator[None]:
    """Interrupt the main thread once, at the first line of our code that is not in ``seen``, and add it there.

    :param files: the names of the files whose lines count.
    :param has_begun: lines count as long as this is true.
    :param times: a line that runs often counts so many times.
    """
    is_over = False
    runs = Counter[tuple[str, int]]()

    def at_line(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal is_over
        if event == "line" and not is_over and has_begun():
            key = (frame.f_code.co_filename, frame.f_lineno)
            line = (*key, runs[key])
            runs[key] += 1
            if line not in seen and runs[key] <= times:
                is_over = True
                seen.add(line)
                signal.raise_signal(signal.SIGALRM)
        return at_line

    def at_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        return at_line if path.name in files and "airflow_provider_nexthink" in path.parts else None

    tracer = sys.gettrace()
    with signal_raises():
        sys.settrace(at_call)
        try:
            yield
        finally:
            sys.settrace(tracer)
