"""Every week, for each tenant: pull its stale devices and delete them; then join the tables.

Before the first run
    * Add one Airflow connection per tenant (type Nexthink), and list them in the param ``tenants``.
    * Save the query of ``nexthink_delete_stale_devices`` in each tenant.
    * Add a pool that limits how many tenants are processed at once::

        airflow pools set nexthink 2 "Tenants processed at once"

A failure for one tenant does not affect the others; the run then fails. A run deletes nothing until ``dry_run`` is
turned off. A backfill only plans. There is no undo.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task, task_group

from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator

log = logging.getLogger(__name__)


@dag(
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "tenants": Param(
            ["nexthink_emea", "nexthink_apac"],
            type="array",
            items={"type": "string"},
            description="The connections, one per tenant.",
        ),
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "min_days_unseen": Param(90, type="integer", minimum=30, description="Not seen for this many days."),
        "max_devices": Param(
            500, type="integer", minimum=1, description="Maximum per tenant; above it, nothing is deleted there."
        ),
    },
)
def nexthink_delete_many_tenants() -> None:
    @task
    def list_tenants(params: Any = None) -> list[str]:
        """Return the connection of each tenant, without duplicates."""
        return list(dict.fromkeys(params["tenants"]))

    @task_group
    def tenant(conn_id: str) -> None:
        pull = NexthinkNqlOperator(
            task_id="pull_stale_devices",
            nexthink_conn_id=conn_id,
            query_id="#stale_devices",
            parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
            map_index_template="{{ task.nexthink_conn_id }}",
            pool="nexthink",
        )

        # Keep the list of devices out of the log. No retry: the same rows give the same result, or the same error.
        @task(show_return_value_in_logs=False, retries=0)
        def choose_devices(rows: list[dict[str, str]], params: Any = None) -> list[dict[str, str]]:
            """Return the devices known to be stale, except the newest of several with the same name."""
            return anti_join(not_seen_for(rows, params["min_days_unseen"]).stale, newest_of_each_name(rows).newest)

        NexthinkDeleteDevicesOperator(
            task_id="delete_devices",
            nexthink_conn_id=conn_id,
            devices=choose_devices(pull.output),
            exclude=["SRV-*", "VIP-*"],
            max_devices="{{ params.max_devices }}",
            reason="Not seen for {{ params.min_days_unseen }} days",
            dry_run="{{ params.dry_run or dag_run.run_type == 'backfill' }}",
            map_index_template="{{ task.nexthink_conn_id }}",
            pool="nexthink",
        )

    @task(show_return_value_in_logs=False)  # keep the list of devices out of the log
    def join_tables(tenants: list[str], ti: Any = None) -> list[dict[str, Any]]:
        """Return one table of all tenants; log an error for a tenant without a table."""
        joined: list[dict[str, Any]] = []
        for index, conn_id in enumerate(tenants):
            table = ti.xcom_pull(task_ids="tenant.delete_devices", map_indexes=index)
            if table is None:
                log.error(
                    "%s: no outcome table; what was sent is not known here. See the logs of its tasks, map index %d.",
                    conn_id,
                    index,
                )
                continue
            log.info("%s: %s", conn_id, dict(Counter(row["status"] for row in table)))
            joined += [{"tenant": conn_id, **row} for row in table]
        return joined

    tenants: Any = list_tenants()
    # A teardown runs even if an upstream task failed, and does not affect whether the run fails.
    tenant.expand(conn_id=tenants) >> join_tables(tenants).as_teardown()


nexthink_delete_many_tenants()
