"""The export of a task: what the triggerer says of it, and where a retry finds it, to resume it (Airflow 3.3 on)."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from airflow_provider_nexthink.exceptions import NexthinkEventError

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.checkpoint import StateStore

log = logging.getLogger(__name__)

_KEY = "nexthink_export"


@dataclass(frozen=True)
class Export:
    """An export in progress.

    :param export_id: its id.
    :param end_time: when to give up on it, in seconds since the epoch. After that no retry resumes it: its rows would
        be of the past.
    """

    export_id: str
    end_time: float


@dataclass(frozen=True)
class ExportEvent:
    """The event of a trigger, once it is checked.

    :param export_id: the export; None where none could be started.
    :param end_time: when to give up, in seconds since the epoch.
    :param failure: why the wait ended too early, in words; None if the export is ready.
    """

    export_id: str | None
    end_time: float
    failure: str | None

    @classmethod
    def read(cls, event: object) -> Self:
        """Check what a task was resumed with.

        :param event: as the triggers of this package make it.
        :raises NexthinkEventError: if it is anything else.
        """
        fields = event if isinstance(event, Mapping) else {}
        status, message, export_id = fields.get("status"), fields.get("message"), fields.get("export_id")
        end_time = _seconds(fields.get("end_time"))
        if (
            status not in ("success", "error")
            or not isinstance(message, str)
            or not (isinstance(export_id, str) or (export_id is None and status == "error"))
            or end_time is None
        ):
            what = f"it has {', '.join(sorted(map(repr, fields)))}" if fields else f"a {type(event).__name__}"
            raise NexthinkEventError(
                f"The triggerer resumed this task with an event that does not say how the wait ended ({what}). Was "
                "this package upgraded while the task waited, or has the triggerer another version of it? "
                "A retry waits anew."
            )
        return cls(export_id, end_time, message if status == "error" else None)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


class ExportState:
    """Keeps the export of a task for a retry. A store that fails costs a retry its memory, never the task.

    :param store: where to keep it; None keeps nothing.
    :param query: what tells this query from any other: the tenant, the query, its parameters...
    """

    def __init__(self, store: StateStore | None, query: Mapping[str, object]) -> None:
        self._store = store
        self._query = hashlib.sha256(json.dumps(query, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, now: float) -> Export | None:
        """Return the export that an earlier try has started for the same query, if it is not too old.

        :param now: seconds since the epoch.
        """
        if self._store is None:
            return None
        try:
            saved = self._store.get(_KEY)
            if not saved or saved["query"] != self._query or saved["end_time"] <= now:
                return None
            return Export(str(saved["export_id"]), float(saved["end_time"]))
        except Exception as error:  # noqa: BLE001 - another export is harmless
            log.warning("Which export an earlier try has started cannot be read (%s): another one is started.", error)
            return None

    def save(self, export: Export) -> None:
        """Keep an export for a retry."""
        if self._store is None:
            return
        try:
            self._store.set(_KEY, {"query": self._query, **asdict(export)})
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The export cannot be kept for a retry (%s).", error)

    def clear(self) -> None:
        """Let the next try, or a later run of the task, start another export."""
        if self._store is None:
            return
        try:
            self._store.delete(_KEY)
        except Exception as error:  # noqa: BLE001 - see the class
            log.warning("The export cannot be forgotten (%s).", error)
