"""The tables of the ledger, and their version. docs/ledger.md describes each column for those who query them.

All times are UTC, without a time zone in the database. No table refers to another by a constraint: a run of 100,000
devices would be checked row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    _TimeDecorator = TypeDecorator[datetime]
else:
    _TimeDecorator = TypeDecorator  # not generic in SQLAlchemy 1.4, which Airflow 3.1 has


class UtcTime(_TimeDecorator):
    """A time in UTC, to the microsecond on every database."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql").with_variant(mysql.DATETIME(fsp=6), "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Drop the time zone of a time, which is converted to UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Return the time with its time zone."""
        return None if value is None else value.replace(tzinfo=UTC)


_BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER
_LongText = Text().with_variant(mysql.LONGTEXT(), "mysql").with_variant(mysql.LONGTEXT(), "mariadb")

metadata = MetaData()

ledgers = Table(
    "nexthink_ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("schema_version", Integer, nullable=False),
    Column("tenant", String(512), nullable=False),
    Column("instance", String(255), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("latest_at", UtcTime, nullable=False),
)
"""One row: whose ledger this is. A change that a limit depends on is made under the lock of this row."""

runs = Table(
    "nexthink_runs",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("task_key", String(64), nullable=False),
    Column("dag_id", String(250)),
    Column("dag_run_id", String(250)),
    Column("task_id", String(250)),
    Column("map_index", Integer),
    Column("try_number", Integer),
    Column("triggered_by", String(512)),
    Column("reason", Text),
    Column("provider_version", String(64), nullable=False),
    Column("uid_column", Text),
    Column("uid_kind", String(16)),
    Column("name_column", Text),
    Column("limits", Text),
    Column("state", String(16), nullable=False),
    Column("planned", Integer, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("released", Integer, nullable=False),
    Column("charged", Integer, nullable=False),
    Column("scheduled", Integer, nullable=False, default=0),
    Column("invalid", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("rejected", Integer, nullable=False, default=0),
    Column("unknown", Integer, nullable=False, default=0),
    Column("not_sent", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("started_at", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Column("pruned_at", UtcTime),
    Index("nexthink_runs_task_key", "task_key"),
    Index("nexthink_runs_task", "dag_id", "task_id"),
    Index("nexthink_runs_finished_at", "finished_at"),
    mysql_charset="utf8mb4",
)
"""One row for each try that was about to send something, or that a guard stopped."""

deletions = Table(
    "nexthink_deletions",
    metadata,
    Column("run_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("uid", String(36), nullable=False),
    Column("name", _LongText, nullable=False),
    Column("requested_at", UtcTime, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", _LongText),
    Column("batch", Integer),
    Column("request_id", String(64)),
    Column("trace_id", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("submitted_at", UtcTime),
    Column("superseded", Boolean, nullable=False, default=False),
    Column("seen_at", UtcTime),
    Column("days_unseen", Float),
    Column("presence", String(16)),
    Column("looked_at", UtcTime),
    Column("gone_at", UtcTime),
    Column("returned_at", UtcTime),
    Index("nexthink_deletions_uid", "uid"),
    Index("nexthink_deletions_presence", "presence"),
    mysql_charset="utf8mb4",
)
"""One row for each device of each run, from before the first request on."""

looks = Table(
    "nexthink_looks",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("looked_at", UtcTime, nullable=False),
    Column("query_id", String(255), nullable=False),
    Column("uid_kind", String(16)),
    Column("devices", Integer, nullable=False),
    Column("gone", Integer, nullable=False),
    Column("still_present", Integer, nullable=False),
    Column("returned", Integer, nullable=False),
    Index("nexthink_looks_looked_at", "looked_at"),
    mysql_charset="utf8mb4",
)
"""One row for each look at the inventory that was compared with the deletions."""

seats = Table(
    "nexthink_seats",
    metadata,
    Column("id", _BigId, primary_key=True),
    Column("looked_at", UtcTime, nullable=False),
    Column("run_id", BigInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("seats", Integer, nullable=False),
    Index("nexthink_seats_run_id", "run_id", "seq"),
)
"""One row for each seat that was won (1) or taken again (-1). Rows are only added, so no past month ever changes."""

proofs = Table(
    "nexthink_proofs",
    metadata,
    Column("uid_kind", String(16), primary_key=True),
    Column("strength", String(16), primary_key=True),
    Column("uid", String(36), nullable=False),
    Column("name", Text, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("days_unseen", Float),
    Column("requested_at", UtcTime, nullable=False),
    Column("gone_at", UtcTime, nullable=False),
    mysql_charset="utf8mb4",
)
"""The first device of each kind of uid that has been seen to go: strong, or weak where its age was not known."""

lists = Table(
    "nexthink_lists",
    metadata,
    Column("list_name", String(255), primary_key=True),
    Column("dag_id", String(250)),
    Column("task_id", String(250)),
    Column("map_index", Integer),
    Column("created_at", UtcTime, nullable=False),
    mysql_charset="utf8mb4",
)
"""One row for each list in quarantine, and whose it is."""

list_runs = Table(
    "nexthink_list_runs",
    metadata,
    Column("list_name", String(255), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("run_key", String(64), nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("devices", Integer, nullable=False),
    UniqueConstraint("list_name", "run_key", name="nexthink_list_runs_run_key"),
    mysql_charset="utf8mb4",
)
"""One row for each run that has put devices on a list."""

marks = Table(
    "nexthink_marks",
    metadata,
    Column("list_name", String(255), primary_key=True),
    Column("uid", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("marked_at", UtcTime, nullable=False),
    Column("sightings", Integer, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),
    Index("nexthink_marks_last_number", "list_name", "last_number"),
    mysql_charset="utf8mb4",
)
"""One row for each device that is on a list now, without a gap since it was marked."""

task_state = Table(
    "nexthink_task_state",
    metadata,
    Column("task_key", String(64), primary_key=True),
    Column("state_key", String(128), primary_key=True),
    Column("value", _LongText, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    mysql_charset="utf8mb4",
)
"""What the tries of one task share where Airflow keeps no state for a task (before 3.3)."""


def _create_tables(connection: Connection) -> None:
    metadata.create_all(connection)
    for table in metadata.sorted_tables:  # MySQL has no transaction around this: it may have ended between the two
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    if connection.dialect.name == "postgresql":
        # Each device is written once more, with its outcome: with room for that in its page, the indexes stay.
        connection.execute(text("ALTER TABLE nexthink_deletions SET (fillfactor = 50)"))


STEPS: Sequence[Callable[[Connection], None]] = (_create_tables,)
"""What leads from each version of the schema to the next one, from none to the latest. Released steps never change.

A step is run by one process at a time. On MySQL, whose CREATE and ALTER cannot be rolled back, it may be run again
after one that was cut off: it must look for what is there already.
"""

SCHEMA_VERSION = len(STEPS)
