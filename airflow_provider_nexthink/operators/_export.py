"""The export of a task, and where a retry finds it, to resume it (Airflow 3.3 on)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from airflow_provider_nexthink.utils.task_state import store_failures_logged

if TYPE_CHECKING:
    from airflow_provider_nexthink.utils.task_state import TaskState

_KEY = "nexthink_export"


@dataclass(frozen=True)
class Export:
    """An export in progress.

    :param export_id: its id.
    :param end_time: when the wait for it ends, in seconds since the epoch. No retry resumes it after that, since its
        rows would be out of date.
    """

    export_id: str
    end_time: float


class ExportState:
    """The export of a task, kept for a retry of it.

    :param state: the state of the task.
    :param query: identifies the query: the tenant and its credential, the query's id, its parameters...
    """

    def __init__(self, state: TaskState, query: Mapping[str, object]) -> None:
        self._store = state.store
        # max_tries grows when a person clears the task: the new run starts an export of its own.
        identity = json.dumps({**query, "max_tries": state.max_tries}, sort_keys=True, default=str)
        self._query = hashlib.sha256(identity.encode()).hexdigest()

    def load(self, now: float) -> Export | None:
        """Return the export that an earlier try has started for the same query, if it is not too old.

        :param now: seconds since the epoch.
        :raises NexthinkTryOverError: if this try is over.
        """
        if self._store is not None:
            with store_failures_logged("The export of an earlier try cannot be read: another one is started"):
                saved = self._store.get(_KEY)
                if saved and saved["query"] == self._query and saved["end_time"] > now:
                    return Export(str(saved["export_id"]), float(saved["end_time"]))
        return None

    def save(self, export: Export) -> None:
        """Keep an export for a retry.

        :param export: the export.
        :raises NexthinkTryOverError: if this try is over.
        """
        if self._store is not None:
            with store_failures_logged("The export cannot be kept: a retry starts another one"):
                self._store.set(_KEY, {"query": self._query, **asdict(export)})

    def clear(self) -> None:
        """Let the next try, or a later run of the task, start another export.

        :raises NexthinkTryOverError: if this try is over.
        """
        if self._store is not None:
            with store_failures_logged("The export cannot be cleared: a retry may resume it"):
                self._store.delete(_KEY)
