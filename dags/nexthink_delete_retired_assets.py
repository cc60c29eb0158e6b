"""Every week: what the CMDB calls retired and Nexthink still has is deleted. The warehouse decides, by a join.

Before the first run
    * Add the connection ``warehouse``: SQLite for a first try, any other SQL database that Airflow knows for real.
      It holds the table of the CMDB's assets, ``cmdb_assets (hostname, status)``.
    * Save this NQL query in Nexthink as ``#all_devices``::

        devices
        | list device.uid, device.name, device.days_since_last_seen

A run puts Nexthink's inventory into the table ``nexthink_devices`` and joins the two. It deletes nothing until
``dry_run`` is switched off. There is no undo.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import BaseHook, Param, dag, task

from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator

WAREHOUSE = "warehouse"

INVENTORY = """
CREATE TABLE IF NOT EXISTS nexthink_devices (uid VARCHAR(36), name VARCHAR(255), days_unseen INTEGER)
"""

# Retired, and nothing else under the same name; and in Nexthink not seen lately: both must say that it is gone.
# REPLACE compares to the letter where a database's = takes an accent or a blank for nothing.
RETIRED = """
SELECT device.uid, device.name
FROM nexthink_devices device
WHERE device.days_unseen >= {{ params.min_days_unseen | int }}
  AND EXISTS (
    SELECT 1 FROM cmdb_assets asset
    WHERE UPPER(TRIM(asset.hostname)) = UPPER(TRIM(device.name)) AND asset.status = 'retired'
      AND REPLACE(UPPER(device.name), UPPER(TRIM(asset.hostname)), '') = ''
  )
  AND NOT EXISTS (
    SELECT 1 FROM cmdb_assets asset
    WHERE UPPER(TRIM(asset.hostname)) = UPPER(TRIM(device.name)) AND COALESCE(asset.status, '') <> 'retired'
  )
ORDER BY device.uid
"""

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
        "dry_run": Param(True, type="boolean", description="Only plan: nothing is deleted."),
        "min_days_unseen": Param(14, type="integer", minimum=1, description="Not seen in Nexthink for so many days."),
        "max_devices": Param(200, type="integer", minimum=1, description="More than this, and nothing is deleted."),
    },
)
def nexthink_delete_retired_assets() -> None:
    pull = NexthinkNqlOperator(task_id="pull_inventory", query_id="#all_devices", return_format="columns")

    @task
    def load_inventory(columns: dict[str, list[str]]) -> int:
        """Put Nexthink's devices in the place of those of the last run."""
        names = ("device.uid", "device.name", "device.days_since_last_seen")
        rows = [(uid, name, int(days or 0)) for uid, name, days in zip(*(columns[name] for name in names), strict=True)]
        warehouse: Any = BaseHook.get_hook(WAREHOUSE)
        warehouse.run([INVENTORY, "DELETE FROM nexthink_devices"])
        warehouse.insert_rows("nexthink_devices", rows, target_fields=["uid", "name", "days_unseen"])
        return len(rows)

    delete = SqlToNexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        sql=RETIRED,
        sql_conn_id=WAREHOUSE,
        max_devices="{{ params.max_devices }}",
        max_share=0.1,
        fleet_size=(loaded := load_inventory(pull.output)),
        dry_run="{{ params.dry_run }}",
    )

    @task
    def log_outcome(ti: Any = None) -> None:
        """Log what became of the devices."""
        summary = ti.xcom_pull(task_ids="delete_devices", key="summary")
        if summary is None:
            log.error("Nothing was deleted: a task before this one failed before the first request. See its log.")
            return
        log.info("%s", {key: value for key, value in summary.items() if value not in (0, None)})
        for row in ti.xcom_pull(task_ids="delete_devices", key="unscheduled")[:20]:
            log.warning("%(name)s (%(uid)s) is %(status)s: %(reason)s", row)

    # A teardown runs whatever happened before it, and leaves it to the other tasks whether the run has failed.
    loaded >> delete >> log_outcome().as_teardown()


nexthink_delete_retired_assets()
