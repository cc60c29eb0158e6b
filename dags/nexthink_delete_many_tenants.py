"""Every week, for each tenant: pull its stale devices and delete them; one table of all of them at the end.

Before the first run
    * One Airflow connection for each tenant (type Nexthink); name them in the param ``tenants``.
    * The query of ``nexthink_delete_stale_devices`` in each of them.
    * A pool that says how many tenants are worked on at once::

        airflow pools set nexthink 2 "Tenants that are deleted from at once"

What fails for one tenant fails for that one only: the others go on, and the run is red. A run deletes nothing until
``dry_run`` is switched off. A backfill only plans. There is no undo.
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
            description="The connection of each tenant.",
        ),
        "dry_run": Param(True, type="boolean", description="Only plan: nothing is deleted."),
        "min_days_unseen": Param(90, type="integer", minimum=30, description="Not seen for this many days."),
        "max_devices": Param(
            500, type="integer", minimum=1, description="For each tenant: more, and nothing is deleted."
        ),
    },
)
def nexthink_delete_many_tenants() -> None:
    @task
    def list_tenants(params: Any = None) -> list[str]:
        """Return the connection of each tenant, each once."""
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

        # A list of devices belongs in no log. No retry: the same rows lead to the same choice, or to the same error.
        @task(show_return_value_in_logs=False, retries=0)
        def choose_devices(rows: list[dict[str, str]], params: Any = None) -> list[dict[str, str]]:
            """Keep what is old enough for certain, and not the newest of several with one name."""
            return anti_join(not_seen_for(rows, params["min_days_unseen"]).stale, newest_of_each_name(rows).newest)

        NexthinkDeleteDevicesOperator(
            task_id="delete_devices",
            nexthink_conn_id=conn_id,
            devices=choose_devices(pull.output),
            exclude=["SRV-*", "VIP-*"],
            max_devices="{{ params.max_devices }}",
            dry_run="{{ params.dry_run or dag_run.run_type == 'backfill' }}",
            map_index_template="{{ task.nexthink_conn_id }}",
            pool="nexthink",
        )

    @task(show_return_value_in_logs=False)  # a list of devices belongs in no log
    def join_tables(tenants: list[str], ti: Any = None) -> list[dict[str, Any]]:
        """Return one table of all tenants; a tenant whose deletion left none is logged."""
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
    # A teardown runs whatever happened before it, and leaves it to the other tasks whether the run has failed.
    tenant.expand(conn_id=tenants) >> join_tables(tenants).as_teardown()


nexthink_delete_many_tenants()
