"""Delete a list of any length on many workers: plan the whole list, delete in chunks, join the tables.

Before the first run
    * Store XComs in object storage: the workers exchange tables (see the documentation, *Scaling out*).
    * Add a pool that limits how many chunks are processed at once, across all workers::

        airflow pools set nexthink 4 "Chunks processed at once"

    * Store the list where every worker can read it: a .parquet, .csv or .jsonl file.

Exclusions and limits apply to the whole list, before it is split. A run deletes nothing until ``dry_run`` is turned
off. There is no undo.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, dag, task

from airflow_provider_nexthink.chunks import join_tables, split_by_plan, split_plan
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator

log = logging.getLogger(__name__)


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    params={
        "devices": Param(
            "s3://aws_default@bucket/stale_devices.parquet", type="string", description="The file with the list."
        ),
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "max_devices": Param(
            100_000, type="integer", minimum=1, description="Maximum for the whole list; above it, nothing is deleted."
        ),
        "chunk_size": Param(10_000, type="integer", minimum=1, description="Devices per task."),
        "reason": Param("", type=["string", "null"], description="Is in the log, the summary and the ledger."),
    },
)
def nexthink_delete_at_scale() -> None:
    plan = NexthinkDeleteDevicesOperator(
        task_id="plan",
        devices="{{ params.devices }}",
        exclude=["SRV-*", "VIP-*"],
        max_devices="{{ params.max_devices }}",
        dry_run=True,  # even in a real run: this task only plans
        return_format="columns",
    )

    # Keep long lists out of the log (return values) and out of the rendered view (arguments).
    @task(show_return_value_in_logs=False)
    def split(params: Any = None, ti: Any = None) -> list[dict[str, list[str]]]:
        """Split the planned rows into chunks, at most as many as Airflow maps a task over."""
        chunks = split_plan(ti.xcom_pull(task_ids="plan"), params["chunk_size"])
        ti.xcom_push(key="count", value=len(chunks))
        # As in the list: the name of the column tells the ledger the kind of uid, which a proof belongs to.
        uid_column = ti.xcom_pull(task_ids="plan", key="summary")["uid_column"]
        return [{uid_column: chunk["uid"], "name": chunk["name"]} for chunk in chunks]

    chunks: Any = split()
    delete = NexthinkDeleteDevicesOperator.partial(
        task_id="delete_devices",
        dry_run="{{ params.dry_run }}",
        max_devices=None,  # the plan has checked the whole list; a limit here would apply to each chunk alone
        reason="{{ params.reason or '' }}",
        max_concurrency=4,  # requests in flight: this, times the slots of the pool
        return_format="columns",
        pool="nexthink",
    ).expand(devices=chunks)

    @task(show_return_value_in_logs=False)
    def join(ti: Any = None) -> dict[str, list[Any]] | None:
        """Return one table with one row per row of the list, in the same order."""
        plan = ti.xcom_pull(task_ids="plan")
        if plan is None:
            log.error(
                "There is no plan, so no table; what was sent is not known here. See the log of plan, and those of "
                "delete_devices if they have any."
            )
            return None
        # By index: if the tasks had a longer list before they were cleared, there may be more tables than chunks.
        count = ti.xcom_pull(task_ids="split", key="count") or 0
        tables = []
        for number in range(count):
            table = ti.xcom_pull(task_ids="delete_devices", map_indexes=number)
            if table is None:
                continue
            planned, others = split_by_plan(plan, table)
            tables.append(planned)
            if others["uid"]:  # the task was cleared with another list, and failed before it could read it
                log.error(
                    "Chunk %d has the table of earlier tries with another list, %d rows: %s. See its XComs.",
                    number,
                    len(others["uid"]),
                    dict(Counter(others["status"])),
                )
        table = join_tables(plan, tables)
        log.info("%d rows: %s", len(table["uid"]), dict(Counter(table["status"])))
        return table

    plan >> chunks
    # A teardown runs even if an upstream task failed, and does not affect whether the run fails. The deletions do, and
    # so does the task after it, which fails if it fails.
    delete >> join().as_teardown() >> EmptyOperator(task_id="joined")


nexthink_delete_at_scale()
