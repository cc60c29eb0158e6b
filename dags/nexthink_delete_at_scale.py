"""Delete a list of any length on many workers: plan the whole list, delete in chunks, join the tables.

The tasks pass on references to rows of files, so that no task holds the list in memory, and nothing large is in XCom.

Before the first run
    * Choose a folder that every worker can read and write, on object storage or shared, for the list and for the files
      of the runs. The files are kept: let the storage delete them after some time.
    * Add a pool that limits how many chunks are processed at once, across all workers::

        airflow pools set nexthink 4 "Chunks processed at once"

Exclusions and limits apply to the whole list, before it is split. A run deletes nothing until ``dry_run`` is turned
off. There is no undo.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, dag, task

from airflow_provider_nexthink.chunks import join_tables, split_plan
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator

log = logging.getLogger(__name__)


def file_of(ti: Any, params: Mapping[str, Any], name: str | int) -> str:
    """Return the path of a file of a run. It is short, since each reference repeats it."""
    run = hashlib.blake2b(f"{ti.dag_id} {ti.run_id}".encode(), digest_size=4).hexdigest()
    return f"{params['folder']}/{run}.{name}.parquet"


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    user_defined_macros={"file_of": file_of},
    params={
        "devices": Param(
            "s3://aws_default@bucket/stale_devices.parquet", type="string", description="The file with the list."
        ),
        "folder": Param("s3://aws_default@bucket/runs", type="string", description="Where the files of the runs go."),
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
        dry_run="{{ True if params.dry_run else 'plan' }}",  # also in a real run this task only plans
        reason="{{ params.reason or '' }}",
        return_format="manifest",
        results_path="{{ file_of(ti, params, 'plan') }}",
    )

    @task
    def split(plan: dict[str, Any], params: Any = None, ti: Any = None) -> list[dict[str, Any]]:
        """Write the planned devices to a file in chunks, at most as many as Airflow maps a task over."""
        return split_plan(plan, params["chunk_size"], file_of(ti, params, "chunks"))

    delete = NexthinkDeleteDevicesOperator.partial(
        task_id="delete_devices",
        dry_run="{{ params.dry_run }}",
        max_devices=None,  # the plan has checked the whole list; a limit here would apply to each chunk alone
        reason="{{ params.reason or '' }}",
        max_concurrency=4,  # requests in flight: this, times the slots of the pool
        return_format="manifest",
        results_path="{{ file_of(ti, params, ti.map_index) }}",
        map_index_template="{{ task.devices.value.start }} to {{ task.devices.value.stop }}",
        pool="nexthink",
    ).expand(devices=split(plan.output))

    @task
    def join(params: Any = None, ti: Any = None) -> dict[str, Any] | None:
        """Write one table with one row per row of the list, in the same order; return its manifest."""
        plan, chunks = ti.xcom_pull(task_ids="plan"), ti.xcom_pull(task_ids="split")
        if plan is None or chunks is None:  # also in a run that was cleared, whose devices may have been sent before
            log.error(
                "There is no plan, or it was not split, so no table; what was sent is not known here. See the logs of "
                "plan and split, and those of delete_devices if they have any."
            )
            return None
        if not chunks:  # no chunk, so nothing was sent
            return plan
        # A task that was lost leaves no XCom, but perhaps a file.
        tables = (
            ti.xcom_pull(task_ids="delete_devices", map_indexes=number) or file_of(ti, params, number)
            for number in range(len(chunks))
        )
        table = join_tables(plan, chunks, tables, file_of(ti, params, "outcome"))
        log.info("%d rows: %s", table["rows"], {status: count for status, count in table["counts"].items() if count})
        return table

    # A teardown runs even if an upstream task failed, and does not affect whether the run fails. The deletions do, and
    # so does the task after it, which fails if it fails.
    delete >> join().as_teardown() >> EmptyOperator(task_id="joined")


nexthink_delete_at_scale()
