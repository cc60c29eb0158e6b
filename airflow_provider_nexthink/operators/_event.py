"""The event with which a trigger resumes a task, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from airflow_provider_nexthink.exceptions import NexthinkEventError


@dataclass(frozen=True)
class ExportEvent:
    """The event of a trigger, checked.

    :param export_id: the export; None where none could be started.
    :param end_time: when the wait ends at the latest, in seconds since the epoch.
    :param failure: why the wait ended too early; None if the export is ready.
    """

    export_id: str | None
    end_time: float
    failure: str | None

    @classmethod
    def read(cls, event: object) -> Self:
        """Check the event that a task was resumed with.

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
