"""Ten processes at once: the quota is used to the last device, and never exceeded by one; one ledger is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from airflow_provider_nexthink.ledger.quota import Quota
from tests.support.ledger_processes import barrier, start, use_quota
from tests.support.ledgers import LEDGERS, TENANT, engine_of, ledger_database, rows_of, text_of

PROCESSES = 10


@pytest.fixture(params=LEDGERS)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with ledger_database(request.param, tmp_path) as url:
        yield url


def run_at_once(url: URL, tenants: list[str], quota: Quota) -> None:
    gate = barrier(PROCESSES)
    processes = [
        start(use_quota, text_of(url), quota, tenants[number % len(tenants)], 1 + number % 4, gate)
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}


@pytest.mark.slow
def test_quota_used_by_many_processes_at_once_is_exact(ledger_url: URL) -> None:
    """From the first use on: they make the tables, too. Each gives back some of what it has reserved."""
    quota = Quota(devices=60, days=7)
    run_at_once(ledger_url, [TENANT], quota)
    with engine_of(ledger_url) as engine:
        runs = rows_of(engine, "runs")
        devices = rows_of(engine, "deletions")
        assert len(rows_of(engine, "ledger")) == 1
    assert sum(run["charged"] for run in runs) == 60
    assert Counter(row["status"] for row in devices)["SCHEDULED"] == 60
    # In the order in which they were reserved and ended, the sum was never above the quota.
    changes = [(run["started_at"], 1, run["devices"]) for run in runs]
    changes += [(run["finished_at"], 0, run["charged"] - run["devices"]) for run in runs]
    used = 0
    for _, _, change in sorted(changes):
        used += change
        assert used <= 60


@pytest.mark.slow
def test_first_use_by_two_tenants_at_once_makes_the_ledger_of_one(ledger_url: URL) -> None:
    run_at_once(ledger_url, ["tenant-1", "tenant-2"], Quota(devices=20, days=7))
    with engine_of(ledger_url) as engine:
        assert len(rows_of(engine, "ledger")) == 1
        assert sum(run["charged"] for run in rows_of(engine, "runs")) == 20
