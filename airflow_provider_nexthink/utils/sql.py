"""SQL connections of Airflow: the hook of one, and the engine of the one that the ledger is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.version_compat import AirflowException

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from sqlalchemy.engine import Engine

_TAKES = "A ledger takes a connection to PostgreSQL, MySQL, MariaDB or SQLite."


def sql_hook(conn_id: str, option: str, hook_params: Mapping[str, Any] | None = None) -> DbApiHook:
    """Return the hook of a connection to a SQL database.

    :param conn_id: the connection.
    :param option: the name of what the connection is given by, for the error.
    :param hook_params: further arguments for the hook.
    :raises NexthinkInputError: if there is no such connection, or it is not one to a SQL database.
    """
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import BaseHook

    try:
        hook = BaseHook.get_hook(conn_id, hook_params=dict(hook_params or {}))
    except AirflowException as error:
        raise NexthinkInputError(f"The connection {conn_id!r} ({option}) cannot be used: {error}") from None
    if not isinstance(hook, DbApiHook):
        raise NexthinkInputError(
            f"The connection {conn_id!r} ({option}) is not one to a SQL database: its hook is a {type(hook).__name__}."
        )
    return hook


def ledger_engine(ledger_conn_id: str) -> Engine:
    """Return SQLAlchemy's engine for the database of a ledger. It connects to nothing yet.

    :param ledger_conn_id: the connection, as the extra of the Nexthink connection names it.
    :raises NexthinkInputError: if there is no such connection, or it is not one to a SQL database.
    """
    try:
        hook = sql_hook(ledger_conn_id, "ledger_conn_id of the Nexthink connection")
    except NexthinkInputError as error:
        raise NexthinkInputError(f"{str(error).rstrip('.')}. {_TAKES}") from None
    try:
        # A connection may wait in the pool for the minutes of an export, and be closed by the other side meanwhile.
        return hook.get_sqlalchemy_engine({"pool_pre_ping": True})
    except Exception as error:  # noqa: BLE001 - each driver has its own
        # The text of an address may hold a password.
        raise NexthinkInputError(
            f"The connection {ledger_conn_id!r} (ledger_conn_id of the Nexthink connection) has no SQLAlchemy engine "
            f"({type(error).__name__}): is its driver installed, and its address right? {_TAKES}"
        ) from None
