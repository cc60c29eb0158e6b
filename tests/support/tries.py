"""Tries of a deletion without Airflow around them: the operator itself, with a task instance that takes XComs."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from tests.support.store import Store


class TaskInstance:
    """Takes XComs, as a task instance does.

    :param try_number: the number of the try.
    :param max_tries: the number that Airflow raises when the task is cleared.
    :param run_id: the run of the Dag that it is a task of; None for one of no Dag.
    """

    def __init__(self, try_number: int = 1, max_tries: int = 1, run_id: str | None = None) -> None:
        self.try_number, self.max_tries = try_number, max_tries
        self.xcoms: dict[str, Any] = {}
        if run_id is not None:
            self.dag_id, self.run_id, self.task_id, self.map_index = "tries", run_id, "delete", -1

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))


def execute(
    operator: NexthinkDeleteDevicesOperator,
    store: Store | None,
    try_number: int = 1,
    max_tries: int = 1,
    run_id: str | None = None,
) -> TaskInstance:
    """Execute an operator; return the XComs, whatever it raised.

    :param operator: the operator.
    :param store: Airflow's task state store; None for an Airflow that has none.
    :param try_number: the number of the try.
    :param max_tries: the number that Airflow raises when the task is cleared.
    :param run_id: the run of the Dag that it is a task of.
    """
    ti = TaskInstance(try_number, max_tries, run_id)
    context: Any = {"ti": ti, **({"task_state_store": store} if store is not None else {})}
    try:
        operator.execute(context)
    except Exception as error:  # noqa: BLE001
        ti.xcoms["raised"] = error
    return ti
