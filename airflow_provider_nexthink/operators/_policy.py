"""The policy of the connection, for Airflow's view of a rendered task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_nexthink.exceptions import NexthinkError
from airflow_provider_nexthink.version_compat import ResolveMixin

if TYPE_CHECKING:
    from airflow.sdk import Context


class ConnectionPolicy(ResolveMixin):
    """The field ``policy`` of an operator with a ``nexthink_conn_id``, which is rendered before it.

    It is for people only: what limits a deletion is read from the connection again when the task runs.
    """

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Return nothing: the task depends on no other for it."""
        return iter(())

    def resolve(self, context: Context) -> dict[str, Any]:
        """Return the policy of the connection as plain JSON values; that it is not known, where it cannot be read.

        :param context: of the task.
        """
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        try:
            task: Any = context["task"]
            return NexthinkHook(task.nexthink_conn_id).read_policy().as_dict()
        except Exception as error:  # noqa: BLE001 - the task fails with it, when it runs
            # The text of an error of anything else may hold what belongs in no view.
            cause = str(error) if isinstance(error, NexthinkError) else type(error).__name__
            return {"not known": cause}

    def serialize(self) -> str:
        """Return what Airflow stores with the Dag."""
        return "that of the connection"

    __str__ = __repr__ = serialize  # Airflow 3.1 stores the repr
