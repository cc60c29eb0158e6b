"""Who started a deletion, and in which task."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class RunOrigin:
    """The task, the try and the person of a deletion; all None for one in plain Python.

    :param dag_id: the Dag.
    :param dag_run_id: the run of the Dag.
    :param task_id: the task.
    :param map_index: which of the mapped tasks; -1 for a task that is not mapped.
    :param try_number: which try, from 1 on.
    :param triggered_by: the person who triggered the run by hand, or the schedule.
    """

    dag_id: str | None = None
    dag_run_id: str | None = None
    task_id: str | None = None
    map_index: int = -1
    try_number: int | None = None
    triggered_by: str | None = None
    _alone: str = field(default_factory=lambda: str(uuid.uuid4()), repr=False, compare=False)

    @property
    def task_key(self) -> str:
        """What all tries of this task share, and no other task does."""
        identity = [self.dag_id, self.dag_run_id, self.task_id, self.map_index]
        if None in identity:
            identity = [self._alone]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
