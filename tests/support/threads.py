"""The threads of the code under test."""

from __future__ import annotations

import threading


def provider_threads() -> list[threading.Thread]:
    """Return the threads that send, sign in or write, and that still run.

    Not that of a ledger: it ends with its run, and many unit tests have a run without an end.
    """
    names = ("nexthink-worker", "nexthink-token", "nexthink-task-state", "nexthink-results")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]
