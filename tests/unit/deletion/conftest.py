"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_nexthink.deletion import run


@pytest.fixture(autouse=True, scope="package")
def _all_at_once() -> Iterator[None]:
    """Let runs send as many requests at once as they may from the first one on: the tenants here answer at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FIRST_AT_ONCE", 32)
        yield
