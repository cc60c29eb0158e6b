"""A simulated timeout of a task leaves nothing behind for the tests after it."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import pytest

from tests.support.interrupts import TaskTimeout, signal_raises


class InterruptedHandler(logging.Handler):
    """Is interrupted once it has its lock, before it is in the ``try`` that would release it."""

    def acquire(self) -> None:
        super().acquire()
        raise TaskTimeout


def test_interrupt_in_the_middle_of_logging_lets_other_threads_log(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = InterruptedHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler(), handler])
    with suppress(TaskTimeout), signal_raises():
        logging.getLogger().error("interrupted")
    assert handler.lock
    free: list[bool] = []
    other = threading.Thread(target=lambda lock: free.append(lock.acquire(timeout=1)), args=(handler.lock,))
    other.start()
    other.join()
    assert free == [True]
