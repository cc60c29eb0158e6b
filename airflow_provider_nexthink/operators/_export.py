"""The export of a task: kept where a retry finds it, so that it goes on with the same one (Airflow 3.3 on)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.checkpoint import StateStore

log = logging.getLogger(__name__)

_KEY = "nexthink_export"


@dataclass(frozen=True)
class Export:
    """An export under way.

    :param export_id: its id.
    :param end_time: when to give up on it, in seconds since the epoch. After that no retry goes on with it: its rows
        would be of the past.
    """

    export_id: str
    end_time: float


class ExportMemory:
    """Keeps the export of a task for a retry. A store that fails costs a retry its memory, never the task.

    :param store: where to keep it; None keeps nothing.
    :param query: what tells this query from any other: the tenant, the query, its parameters...
    """

    def __init__(self, store: StateStore | None, query: Mapping[str, object]) -> None:
        self._store = store
        self._query = hashlib.sha256(json.dumps(query, sort_keys=True, default=str).encode()).hexdigest()

    def recall(self, now: float) -> Export | None:
        """Return the export that an earlier try has started for the same query, if it is not too old.

        :param now: seconds since the epoch.
        """
        if self._store is None:
            return None
        try:
            kept = self._store.get(_KEY)
            if not kept or kept["query"] != self._query or kept["end_time"] <= now:
                return None
            return Export(str(kept["export_id"]), float(kept["end_time"]))
        except Exception as error:  # noqa: BLE001 - another export is harmless
            log.warning("Which export an earlier try has started cannot be read (%s): another one is started.", error)
            return None

    def keep(self, export: Export) -> None:
        """Keep an export for a retry."""
        if self._store is None:
            return
        try:
            self._store.set(_KEY, {"query": self._query, **asdict(export)})
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The export cannot be kept for a retry (%s).", error)

    def forget(self) -> None:
        """Let the next try, or a later run of the task, start another export."""
        if self._store is None:
            return
        try:
            self._store.delete(_KEY)
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The export cannot be forgotten (%s).", error)
