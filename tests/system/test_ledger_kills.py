"""kill -9 at random moments: the ledger knows each device that the tenant was asked for, and nothing stays locked."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Engine

from airflow_provider_nexthink.api.data_management import PATH
from airflow_provider_nexthink.client import NexthinkClient
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.ledger_processes import delete, settings_of, start
from tests.support.ledgers import (
    LEDGERS,
    StepwiseRun,
    database_of,
    engine_of,
    ledger_database,
    origin_of,
    outcomes_of,
    rows_of,
    text_of,
)

ROUNDS = int(os.environ.get("NEXTHINK_TEST_KILLS", "8"))
"""How many tasks are killed, each up to twice."""

DEVICES = 2_000
FREE_AGAIN_SECONDS = 10.0
"""A lock that stays is waited for half a minute; a database that rolls back is quicker, also on a busy machine."""


@pytest.fixture(params=LEDGERS)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with ledger_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def tenant() -> Iterator[Sandbox]:
    with Sandbox(devices=1, stale=0) as sandbox:
        sandbox.faults.add(Fault("deletions", "slow", times=-1, seconds=0.05))
        yield sandbox


def asked(sandbox: Sandbox) -> set[str]:
    """Return the uid of each device that the tenant was asked for, in whatever request."""
    requests = [request for request in sandbox.requests if request.path == PATH]
    return {device["uid"] for request in requests for device in json.loads(request.body)["devices"]}


def check_ledger(engine: Engine, sandbox: Sandbox) -> None:
    devices = rows_of(engine, "deletions")
    assert asked(sandbox) <= {row["uid"] for row in devices if row["status"] != "NOT_SENT"}
    assert {row["uid"] for row in devices if row["status"] == "SCHEDULED"} <= set(sandbox.tenant.queued)


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing(ledger_url: URL, tenant: Sandbox) -> None:
    seed = int(os.environ.get("NEXTHINK_TEST_SEED", random.randrange(10**6)))
    print("NEXTHINK_TEST_SEED:", seed)  # noqa: T201 - a failure shows it
    chance = random.Random(seed)
    settings = settings_of(tenant)
    with engine_of(ledger_url) as engine, NexthinkClient(settings) as client:
        database = database_of(engine, tenant=client.tenant)
        for run in ("first", "whole"):  # the first one waits for all imports
            begin = time.monotonic()
            process = start(delete, settings, text_of(ledger_url), origin_of(run), DEVICES)
            process.join()
            duration = time.monotonic() - begin
            assert process.exitcode == 0
        check_ledger(engine, tenant)
        for number in range(1, ROUNDS + 1):
            first = number * DEVICES
            kills = chance.randint(1, 2)
            for try_number in range(1, kills + 2):
                origin = origin_of(f"run-{number}", try_number=try_number)
                process = start(delete, settings, text_of(ledger_url), origin, DEVICES, first=first)
                if try_number <= kills:
                    process.join(chance.uniform(0, duration))
                    process.kill()
                process.join()
                check_ledger(engine, tenant)
                since = time.monotonic()
                StepwiseRun(database, outcomes_of(1)).reserve()
                assert time.monotonic() - since < FREE_AGAIN_SECONDS
            assert process.exitcode == 0
            task = [row for row in rows_of(engine, "runs") if row["dag_run_id"] == f"run-{number}"]
            counting = [
                row
                for row in rows_of(engine, "deletions")
                if row["run_id"] in {run["id"] for run in task}
                and not row["superseded"]
                and row["status"] != "NOT_SENT"
            ]
            # Each device counts once, and has its outcome.
            assert sorted(row["uid"] for row in counting) == outcomes_of(DEVICES, first=first).uid
            assert {row["status"] for row in counting} == {"SCHEDULED"}
            assert sum(run["charged"] for run in task) == DEVICES
            assert {run["state"] for run in task} <= {"FINISHED", "LOST"}
        assert len(asked(tenant)) == (1 + ROUNDS) * DEVICES
