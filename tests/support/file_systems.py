"""The file systems that a test attaches to Airflow, which keeps them as long as its process lives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def attached_file_systems_kept() -> Iterator[None]:
    """Detach afterwards what was attached meanwhile."""
    before = dict(_attached())
    yield
    attached = _attached()
    attached.clear()
    attached.update(before)


def _attached() -> dict[str, object]:
    store = sys.modules.get("airflow.sdk.io.store")
    return store._STORE_CACHE if store else {}
