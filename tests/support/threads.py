"""The threads of the code under test."""

from __future__ import annotations

import threading


def provider_threads() -> list[threading.Thread]:
    """Return the threads that hooks, operators and clients have started, and that still run."""
    names = ("nexthink-worker", "nexthink-token", "nexthink-ledger", "nexthink-task-state", "nexthink-results")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]
