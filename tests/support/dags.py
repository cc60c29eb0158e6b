"""Dags run with ``dag.test()``: where the example Dags are, what Airflow can do, and a run that has ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow import sdk

from airflow_provider_nexthink.sandbox.fleet import Device

try:
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
except ImportError:  # Airflow 3.1
    from airflow.models.dagbag import DagBag, sync_bag_to_db  # type: ignore[no-redef]

try:
    from airflow.sdk.serde import deserialize
except ImportError:  # Airflow 3.1
    from airflow.serialization.serde import deserialize  # type: ignore[import-not-found, no-redef]

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # Airflow 3.1
    from airflow.serialization.serialized_objects import (  # type: ignore[assignment, attr-defined]
        SerializedDAG as DagSerialization,
    )

__all__ = [
    "DAGS",
    "KEEPS_TASK_STATE",
    "SINCE_AIRFLOW_3_3",
    "DagBag",
    "DagSerialization",
    "Run",
    "meant_to_go",
    "sync_bag_to_db",
]

DAGS = Path(__file__).parents[2] / "dags"

# Both came with Airflow 3.3.
KEEPS_TASK_STATE = hasattr(sdk, "ExceptionRetryPolicy")
SINCE_AIRFLOW_3_3 = pytest.mark.skipif(not KEEPS_TASK_STATE, reason="Airflow before 3.3 has no retry policies")


@dataclass
class Run:
    """A Dag run that has ended: the states and the XComs of its tasks."""

    dag_run: Any
    errors: list[BaseException]

    @property
    def state(self) -> str:
        return str(self.dag_run.state)

    @property
    def states(self) -> dict[str, str]:
        return {instance.task_id: str(instance.state) for instance in self.dag_run.get_task_instances()}

    @property
    def error(self) -> str:
        """The text of the error that failed a task, as an ``on_failure_callback`` sees it."""
        (error,) = self.errors
        return str(error)

    def tries(self, task_id: str) -> int:
        return int(self.dag_run.get_task_instance(task_id).try_number)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        instance = self.dag_run.get_task_instance(task_id, map_index=map_index)
        return deserialize(instance.xcom_pull(task_ids=task_id, key=key, map_indexes=map_index))


def meant_to_go(devices: list[Device], days: int) -> set[str]:
    """Say by other means than the Dag's which devices it is to choose."""
    old = [device for device in devices if device.days_since_last_seen >= days]
    by_name: dict[str, list[Device]] = {}
    for device in old:
        by_name.setdefault(device.name, []).append(device)
    return {
        device.uid
        for name, twins in by_name.items()
        if not name.upper().startswith(("SRV-", "VIP-"))
        for device in twins
        if len(twins) == 1 or device.days_since_last_seen > min(twin.days_since_last_seen for twin in twins)
    }
