"""What differs between the versions of Airflow from 3.1 on, detected here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[no-redef, attr-defined]
        AirflowException,
        AirflowFailException,
        AirflowSkipException,
    )

__all__ = ["AirflowException", "AirflowFailException", "AirflowSkipException", "task_state_store"]


def task_state_store(context: Mapping[str, Any]) -> Any:
    """Return what keeps the state of a task from one try to the next (Airflow 3.3 on), or None."""
    return context.get("task_state_store")
