"""Connections of Airflow, outside a task: also those in its database."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkSettingsError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook


def find_connection(conn_id: str) -> Connection:
    """Return a connection: from the environment, a secrets backend or Airflow's database.

    :param conn_id: its id.
    :raises NexthinkInputError: if there is none.
    """
    # As Airflow's own `connections test` does. Without it only tasks would find the connections in the database.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.version_compat import AirflowException

    _log_to_stderr()
    try:
        return NexthinkHook.get_connection(conn_id)
    except AirflowException:
        raise NexthinkInputError(
            f"There is no connection {conn_id!r}: not in the environment (AIRFLOW_CONN_{conn_id.upper()}), not in a "
            "secrets backend, and not in the database of this Airflow. `airflow connections list` shows those in the "
            "database."
        ) from None


@contextmanager
def nexthink_hook(conn_id: str) -> Iterator[NexthinkHook]:
    """Give the hook of a Nexthink connection, which is closed afterwards.

    :param conn_id: the id of the connection.
    :raises NexthinkInputError: if there is none, or it is of another type.
    """
    connection = find_connection(conn_id)
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

    if connection.conn_type != NexthinkHook.conn_type:
        raise NexthinkSettingsError(
            f"The connection {conn_id!r} is of the type {connection.conn_type!r}, not {NexthinkHook.conn_type!r}."
        )
    with NexthinkHook(conn_id) as hook:
        yield hook


def _log_to_stderr() -> None:
    """Keep the log out of the output, and what is only interesting in a task out of the log."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
