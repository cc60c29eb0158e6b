"""A large ledger does not slow a run down: each statement of a run finds its rows by an index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.reservation import LOST_AFTER, InventoryLook
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import START, FakeTime
from tests.support.ledgers import LEDGERS, StepwiseRun, database_of, engine_of, fill, ledger_database, origin_of
from tests.support.ledgers import outcomes_of as table_of

ROWS = int(os.environ.get("NEXTHINK_TEST_LEDGER_ROWS", "200000"))

Statement = tuple[str, Any]


@pytest.fixture(params=LEDGERS)
def large_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with ledger_database(request.param, tmp_path) as url, engine_of(url) as engine:
        fill(engine, ROWS)
        yield engine


@contextmanager
def recorded(engine: Engine) -> Iterator[list[Statement]]:
    """Give the statements that are executed, each once, with their first parameters."""
    found: dict[str, Any] = {}

    def record(_: Any, __: Any, statement: str, parameters: Any, ___: Any, is_many: bool) -> None:
        is_list = is_many and not isinstance(parameters, dict)
        found.setdefault(statement, parameters[0] if is_list else parameters)

    statements: list[Statement] = []
    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)
        statements += found.items()


def scans(engine: Engine, statement: Statement) -> list[str]:
    """Return what reads the whole table of devices, in the words of the database."""
    sql, parameters = statement
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all()
            return [row[3] for row in plan if row[3].startswith("SCAN") and "nexthink_deletions" in row[3]]
        if engine.dialect.name == "postgresql":
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).scalar_one()
            plan = json.loads(plan) if isinstance(plan, str) else plan
            return [json.dumps(node) for node in nodes_of(plan[0]["Plan"]) if is_postgres_scan(node)]
        rows = connection.exec_driver_sql(f"EXPLAIN {sql}", parameters).mappings().all()
        return [str(row) for row in rows if row["table"] == "nexthink_deletions" and row["type"] in ("ALL", "index")]


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", []):
        yield from nodes_of(part)


def is_postgres_scan(node: dict[str, Any]) -> bool:
    is_indexed = "Index" in node["Node Type"] and "Index Cond" in node
    return (
        node.get("Relation Name") == "nexthink_deletions"
        and node["Node Type"] not in ("ModifyTable", "Bitmap Heap Scan")
        and not is_indexed
    )


@pytest.mark.slow
def test_statements_of_a_run_read_no_whole_table_of_devices(large_ledger: Engine) -> None:
    time = FakeTime(start=START + timedelta(days=1))
    database = database_of(large_ledger, time.clock())
    limits: dict[str, Any] = {"quota": Quota(10_000, 7), "max_growth": 2.0, "require_proof": False}
    with recorded(large_ledger) as statements:
        lost = StepwiseRun(database, table_of(1_000), origin_of("other"))
        lost.reserve(released=400)
        first = StepwiseRun(database, table_of(1_000, first=2_000), origin_of())
        look = InventoryLook("#all_devices", time.now(), {first.outcomes.uid[0] or "": 1.0})
        first.reserve(released=400, look=look, **limits)
        first.settle(Status.SCHEDULED, range(100))
        first.keep(range(100), released=800)
        first.settle(Status.UNKNOWN, range(100, 900))
        time.seconds = LOST_AFTER.total_seconds() + 1
        second = StepwiseRun(database, table_of(900, first=2_100), origin_of(try_number=2))
        second.reserve(earlier=first.outcomes, **limits)
        second.settle(Status.SCHEDULED, range(100))
        second.finish()
    of_devices = [each for each in statements if "nexthink_deletions" in each[0] and not each[0].startswith("INSERT")]
    assert len(of_devices) >= 8
    found = {statement[0]: scans(large_ledger, statement) for statement in of_devices}
    assert {sql: plan for sql, plan in found.items() if plan} == {}
    assert scans(large_ledger, ("SELECT count(*) FROM nexthink_deletions WHERE name = 'PC-1'", ())) != []  # as it would
