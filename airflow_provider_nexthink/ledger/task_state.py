"""What the tries of one task share, kept in the ledger: for Airflow before 3.3, which keeps no state for a task."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import delete, insert, select, update

from airflow_provider_nexthink.ledger.database import Database
from airflow_provider_nexthink.ledger.schema import task_state


class LedgerStateStore:
    """A key-value store for the tries of one task, with the rules of the checkpoint: it is what writes to it.

    :param database: the ledger.
    :param task_key: of the task.
    """

    def __init__(self, database: Database, task_key: str) -> None:
        self._database = database
        self._task_key = task_key

    def get(self, key: str) -> Any:
        """Return the value of a key, or None.

        :param key: the key.
        :raises NexthinkLedgerError: if the ledger cannot be read.
        """
        with self._database.transaction() as connection:
            value = connection.execute(select(task_state.c.value).where(*self._at(key))).scalar_one_or_none()
        return None if value is None else json.loads(value)

    def set(self, key: str, value: Any) -> None:
        """Store a JSON value under a key.

        :param key: the key.
        :param value: the value.
        :raises NexthinkLedgerError: if the ledger cannot be written.
        """
        values = {"value": json.dumps(value), "updated_at": self._database.clock.now()}
        with self._database.transaction() as connection:
            if not connection.execute(update(task_state).where(*self._at(key)).values(**values)).rowcount:
                connection.execute(insert(task_state).values(task_key=self._task_key, state_key=key, **values))

    def delete(self, key: str) -> None:
        """Delete a key.

        :param key: the key.
        :raises NexthinkLedgerError: if the ledger cannot be written.
        """
        with self._database.transaction() as connection:
            connection.execute(delete(task_state).where(*self._at(key)))

    def _at(self, key: str) -> tuple[Any, Any]:
        return task_state.c.task_key == self._task_key, task_state.c.state_key == key
