"""The options of ``NexthinkDeleteDevicesOperator``, for the decorator and the transfers that pass them on.

The operator itself has to name them in the signature of ``__init__``: Airflow reads that to check ``.partial()`` and
``.expand()`` and to fill in ``default_args``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, TypedDict

from airflow_provider_nexthink.deletion.options import DeletionOptionsDict


class TaskOptions(TypedDict, total=False):
    """The options of any task."""

    task_id: str
    retries: int
    retry_delay: timedelta | float
    retry_exponential_backoff: bool | float
    max_retry_delay: timedelta | float
    execution_timeout: timedelta | None
    trigger_rule: str
    depends_on_past: bool
    pool: str
    pool_slots: int
    queue: str
    priority_weight: int
    params: dict[str, Any]
    inlets: Any
    outlets: Any
    on_execute_callback: Any
    on_skipped_callback: Any
    on_failure_callback: Any
    on_retry_callback: Any
    on_success_callback: Any
    map_index_template: str
    retry_policy: Any
    executor: str | None
    executor_config: dict[str, Any]
    weight_rule: Any
    wait_for_downstream: bool
    wait_for_past_depends_before_skipping: bool
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    resources: dict[str, Any]
    run_as_user: str | None
    task_display_name: str
    email: Any
    do_xcom_push: bool
    owner: str
    doc_md: str


class DeleteDevicesOptions(DeletionOptionsDict, TaskOptions, total=False):
    """The options of ``NexthinkDeleteDevicesOperator`` but ``devices``, and those of any task."""

    nexthink_conn_id: str
    on_empty: Literal["succeed", "skip", "fail"]
    fail_on: Sequence[str]
    return_format: Literal["records", "columns", "dataframe", "manifest"]
    results_path: str | None
