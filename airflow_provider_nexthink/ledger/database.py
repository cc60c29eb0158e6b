"""The database of a ledger: that of one tenant, of a known version; one transaction at a time where limits count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

from sqlalchemy import insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.exceptions import (
    NexthinkLedgerBusyError,
    NexthinkLedgerError,
    NexthinkLedgerMismatchError,
)
from airflow_provider_nexthink.ledger import schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

DIALECTS = ("postgresql", "mysql", "mariadb", "sqlite")
"""The databases that a ledger can be in."""

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clock of this machine may be behind that of the process that wrote to the ledger last."""

_LOCK_SECONDS = 10
_SCHEMA_SECONDS = 60
_IDLE_SECONDS = 60
"""A server ends a transaction in which its client has not done anything for this long: a frozen process locks nobody
out."""

# Driver messages that mean a permanent refusal. A server that is read-only may only be failing over; a file stays so.
_REFUSED = re.compile(
    r"permission denied|access denied|command denied|not authorized|readonly database|authentication failed"
    r"|not a database|(database|role) .*does not exist|unknown database|must be owner",
    re.IGNORECASE,
)
_BUSY = re.compile(r"lock timeout|lock wait timeout|deadlock|database is locked|could not serialize", re.IGNORECASE)


class Database:
    """The ledger of one tenant, in a database. Its tables are made by the first one who opens it.

    :param engine: of SQLAlchemy, to PostgreSQL, MySQL, MariaDB or SQLite.
    :param tenant: what tells the tenant from any other (``NexthinkClient.tenant``).
    :param instance: the tenant's name, for people.
    :param clock: the time.
    :param conn_id: the Airflow connection to the database, for errors; None where there is none.
    :param steps: what makes the schema, version by version.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tenant: str,
        instance: str,
        clock: Clock | None = None,
        conn_id: str | None = None,
        steps: Sequence[Callable[[Connection], None]] = schema.STEPS,
    ) -> None:
        self.tenant = tenant.replace("\0", " ")  # PostgreSQL keeps no NUL
        self.instance = instance
        self.clock = clock or Clock()
        self.title = "The ledger" if conn_id is None else f"The ledger (connection {conn_id!r})"
        """What errors call it."""
        self._steps = steps
        self._is_open = False
        self.dialect = engine.dialect.name
        name = engine.url.database
        if self.dialect not in DIALECTS:
            raise NexthinkLedgerMismatchError(
                f"{self.title} cannot be in a database of the kind {self.dialect!r}: it takes PostgreSQL, MySQL, "
                "MariaDB or SQLite."
            )
        if self.dialect == "sqlite":
            if not name or ":memory:" in name or engine.url.query.get("mode") == "memory":
                raise NexthinkLedgerMismatchError(
                    f"{self.title} cannot be in an SQLite database in memory: it would forget everything. Give it a "
                    "file."
                )
            self._engine = engine
        elif not name and self.dialect != "postgresql":
            raise NexthinkLedgerMismatchError(
                f"{self.title} needs the name of a database: set it on the connection (Airflow calls it schema)."
            )
        else:
            self._engine = engine.execution_options(isolation_level="READ COMMITTED")
        driver = engine.dialect.dbapi
        assert driver is not None  # noqa: S101 - only a compiler without a database has none
        # Where a connection is lost, SQLAlchemy lets some errors of the driver through as they are.
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, driver.Error, OSError)

    @classmethod
    def existing(cls, engine: Engine, *, clock: Clock | None = None) -> Self:
        """Return the ledger that is in a database, whosever it is; for reports, and for housekeeping.

        :param engine: of SQLAlchemy.
        :param clock: the time.
        :raises NexthinkLedgerError: if the database does not respond.
        :raises NexthinkLedgerMismatchError: if there is no ledger in it.
        """
        ledger = cls(engine, tenant="", instance="", clock=clock)
        if ledger.dialect == "sqlite" and not (path := _sqlite_file(engine)).is_file():
            raise NexthinkLedgerMismatchError(f"There is no file {path}, so no ledger in it: is the path right?")
        try:
            with engine.connect() as connection:
                has_ledger = inspect(connection).has_table(schema.ledgers.name)
                row = connection.execute(select(schema.ledgers)).first() if has_ledger else None
        except SQLAlchemyError as error:
            raise ledger._to_error(error, "opened") from error
        if row is None:
            raise NexthinkLedgerMismatchError("There is no ledger in this database: no deletion was recorded in it.")
        ledger.tenant, ledger.instance = row.tenant, row.instance
        return ledger

    def open(self) -> None:
        """Make the tables, or bring them to this version; check whose ledger it is. Later calls do nothing.

        :raises NexthinkLedgerError: if the database does not respond.
        :raises NexthinkLedgerMismatchError: if it is another tenant's ledger, or one of a newer version, or the tables
            cannot be made.
        """
        if self._is_open:
            return
        try:
            with self._engine.begin() as connection:
                self._prepare(connection)
                version = self._version(connection)
            if version < len(self._steps):
                self._upgrade()
        except self._errors as error:
            raise self._to_error(error, "opened") from error
        self._is_open = True

    def _version(self, connection: Connection) -> int:
        """Return the version of the schema, and check whose ledger it is; 0 where its making has not ended."""
        if not inspect(connection).has_table(schema.ledgers.name):
            return 0
        row = connection.execute(select(schema.ledgers)).first()
        if row is None:
            return 0
        if row.schema_version > len(self._steps):
            raise NexthinkLedgerMismatchError(
                f"{self.title} has the schema version {row.schema_version}, and this version of the provider knows "
                f"{len(self._steps)}: it was used by a newer one. Upgrade the provider here, too. Nothing was "
                "sent by this try."
            )
        if row.tenant != self.tenant:
            raise NexthinkLedgerMismatchError(
                f"{self.title} is that of another tenant: {row.tenant!r}, not {self.tenant!r}. Each tenant has a "
                "ledger of its own: give ledger_conn_id another database or schema. Nothing was sent by this try."
            )
        return int(row.schema_version)

    def _upgrade(self) -> None:
        with self._alone() as connection:
            version = self._version(connection)  # another process may have been first
            for step in self._steps[version:]:
                step(connection)
            if version:
                connection.execute(update(schema.ledgers).values(schema_version=len(self._steps)))
            else:
                now = self.clock.now()
                connection.execute(
                    insert(schema.ledgers).values(
                        id=1,
                        schema_version=len(self._steps),
                        tenant=self.tenant,
                        instance=self.instance,
                        created_at=now,
                        latest_at=now,
                    )
                )

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """Give a connection in a transaction, while no other process changes the schema."""
        with self._engine.begin() as connection:
            self._prepare(connection)
            if self.dialect == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none before a CREATE TABLE
                yield connection
            elif self.dialect == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('nexthink_ledger'))"))
                yield connection
            else:
                # MySQL ends a transaction, and its locks, with each CREATE TABLE. This lock ends with its connection.
                connection.detach()
                lock = text("SELECT GET_LOCK(CONCAT('nexthink ', MD5(DATABASE())), :seconds)")
                if not connection.execute(lock, {"seconds": _SCHEMA_SECONDS}).scalar():
                    raise NexthinkLedgerBusyError(
                        f"{self.title} cannot be opened just now: another process is changing its schema."
                    )
                with self._engine.begin() as other:
                    self._prepare(other)
                    yield other

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection in a transaction, which is committed at the end, and rolled back after an error.

        :raises NexthinkLedgerError: if the database does not respond, or refuses.
        :raises NexthinkLedgerMismatchError: as ``open`` does.
        """
        self.open()
        try:
            with self._engine.begin() as connection:
                self._prepare(connection)
                yield connection
        except self._errors as error:
            raise self._to_error(error, "used") from error

    @contextmanager
    def locked(self, *, is_final: bool = False) -> Iterator[tuple[Connection, datetime]]:
        """Give a connection in a transaction that no other one of its kind runs beside, and the time of the ledger.

        That time never goes back: where the clock of this machine is a little behind, it is that of the last one.

        :param is_final: whether this only records what has happened: that a wrong clock must not prevent.
        :raises NexthinkLedgerBusyError: if others hold the lock for long.
        :raises NexthinkLedgerError: also if the clock of this machine is behind the ledger by more than
            ``CLOCK_TOLERANCE``.
        """
        with self.transaction() as connection:
            # A write is what takes the lock on every database: on SQLite, of the whole file.
            connection.execute(update(schema.ledgers).values(latest_at=schema.ledgers.c.latest_at))
            latest = connection.execute(select(schema.ledgers.c.latest_at)).scalar_one()
            now = self.clock.now()
            if now < latest - CLOCK_TOLERANCE and not is_final:
                raise NexthinkLedgerError(
                    f"The clock of this machine says {now:%Y-%m-%d %H:%M:%S} UTC, but the ledger was written at "
                    f"{latest:%Y-%m-%d %H:%M:%S} UTC: one of the two is wrong, and limits in time would be, too. Set "
                    "the clock right."
                )
            now = max(now, latest)
            connection.execute(update(schema.ledgers).values(latest_at=now))
            yield connection, now

    def _prepare(self, connection: Connection) -> None:
        """Bound the wait for a lock, and the time for which a frozen process may hold one."""
        if self.dialect == "sqlite":
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_LOCK_SECONDS * 1000}")
        elif self.dialect == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'"))
        else:
            connection.execute(text(f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}"))
            if getattr(connection.dialect, "is_mariadb", False):  # MySQL has no such limit
                connection.execute(text(f"SET SESSION idle_transaction_timeout = {_IDLE_SECONDS}"))

    def _to_error(self, error: Exception, what: str) -> NexthinkLedgerError | NexthinkLedgerMismatchError:
        # The driver's own words: those of SQLAlchemy repeat the statement, with the names of devices.
        cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        cause = " ".join(cause.split())[:300]
        if not isinstance(error, OSError) and _REFUSED.search(cause):
            return NexthinkLedgerMismatchError(
                f"{self.title} cannot be {what}: the database refuses ({cause}). Check its name and the login. The "
                "user needs the right to make the tables nexthink_* once, and to read and write them."
            )
        if _BUSY.search(cause):
            return NexthinkLedgerBusyError(
                f"{self.title} cannot be {what} just now: other runs hold its lock ({cause})."
            )
        return NexthinkLedgerError(
            f"{self.title} cannot be {what} ({type(error).__name__}: {cause}). Is its database there, reachable, and "
            "not full?"
        )


def _sqlite_file(engine: Engine) -> Path:
    """Return the file of a database, which SQLite would make on the first connection."""
    name = engine.url.database or ""
    return Path(unquote(name.removeprefix("file:").partition("?")[0]) if name.startswith("file:") else name)
