"""Who started a task, from its context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import get_current_context

from airflow_provider_nexthink.origin import RunOrigin

_BY_RUN_TYPE = {
    "scheduled": "schedule",
    "backfill": "backfill",
    "asset_triggered": "asset",
    "asset_materialization": "asset",
    "operator_triggered": "another Dag",
    "manual": "manual",
}


def run_origin(context: Mapping[str, Any]) -> RunOrigin:
    """Return the task, the try and the person of a task's context.

    :param context: of the task.
    """
    ti, dag_run = context.get("ti"), context.get("dag_run")
    map_index = getattr(ti, "map_index", None)
    return RunOrigin(
        dag_id=getattr(ti, "dag_id", None),
        dag_run_id=getattr(ti, "run_id", None),
        task_id=getattr(ti, "task_id", None),
        map_index=-1 if map_index is None else map_index,
        try_number=getattr(ti, "try_number", None),
        triggered_by=_triggered_by(dag_run),
    )


def current_origin() -> RunOrigin | None:
    """Return the same for the task that is running in this process; None if there is none."""
    try:
        return run_origin(get_current_context())
    except RuntimeError:
        return None


def _triggered_by(dag_run: Any) -> str | None:
    """Return the person, where Airflow knows one, or else what started the run."""
    if person := getattr(dag_run, "triggering_user_name", None):
        return str(person)
    run_type = getattr(dag_run, "run_type", None)
    word = str(getattr(run_type, "value", run_type))
    return None if run_type is None else _BY_RUN_TYPE.get(word, word)
