"""Connections of Airflow, outside a task: also those in its database."""

from __future__ import annotations

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
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.version_compat import AirflowException

    try:
        return NexthinkHook.get_connection(conn_id)
    except AirflowException:
        raise NexthinkInputError(
            f"There is no connection {conn_id!r} that can be read: not in the environment "
            f"(AIRFLOW_CONN_{conn_id.upper()}), not in a secrets backend, and not in the database of this Airflow. "
            "`airflow connections list` shows those in the database."
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
