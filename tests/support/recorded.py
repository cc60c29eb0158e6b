"""Ledgers in databases of their own, and deletions that a test writes into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, select

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.ledger import Ledger, schema
from airflow_provider_nexthink.ledger.database import Database
from tests.support.ledgers import ledger_database


def uid_of(number: int) -> str:
    """Return the uid of a device."""
    return f"0fbd5a5c-0000-4000-8000-{number:012}"


@contextmanager
def new_ledger(database: str, path: Path, clock: Clock) -> Iterator[Ledger]:
    """Give a ledger in an empty database."""
    with ledger_database(database, path) as url:
        engine = create_engine(url)
        try:
            yield Ledger(engine, tenant="acme", instance="acme", clock=clock)
        finally:
            engine.dispose()


def add_run(
    database: Database, uids: Sequence[str], now: datetime, *, statuses: Sequence[str] | None = None, **run: Any
) -> int:
    """Write a run that has ended, with one deletion for each uid; return its id."""
    statuses = statuses or ["SCHEDULED"] * len(uids)
    values: dict[str, Any] = {
        "task_key": f"{now}",
        "provider_version": "0.1.0",
        "state": "finished",
        "planned": len(uids),
        "devices": len(uids),
        "released": 0,
        "charged": len(uids),
        "scheduled": statuses.count("SCHEDULED"),
        "started_at": now,
        "heartbeat_at": now,
        "finished_at": now,
        **run,
    }
    with database.transaction() as connection:
        inserted = connection.execute(insert(schema.runs).values(values))
        run_id = int((inserted.inserted_primary_key or (0,))[0])
        rows = [
            {"run_id": run_id, "seq": seq, "uid": uid, "name": f"PC-{uid[-4:]}", "requested_at": now, "status": status}
            for seq, (uid, status) in enumerate(zip(uids, statuses, strict=True))
        ]
        if rows:
            connection.execute(insert(schema.deletions), rows)
    return run_id


def deletions(database: Database) -> list[dict[str, Any]]:
    """Return all rows of ``nexthink_deletions``."""
    table = schema.deletions
    with database.transaction() as connection:
        rows = connection.execute(select(table).order_by(table.c.run_id, table.c.seq))
        return [dict(row._mapping) for row in rows]
