"""Every week: delete the devices retired in the CMDB and still in Nexthink; a join in the warehouse selects them.

Before the first run
    * Add the connection ``warehouse``: SQLite for a first test, any SQL database that Airflow supports for production.
      It must have the table of the CMDB's assets, ``cmdb_assets (hostname, status)``.
    * Save this NQL query in Nexthink as ``#all_devices``::

        devices
        | list device.uid, device.name, device.days_since_last_seen

A run loads Nexthink's inventory into the table ``nexthink_devices`` and joins the two. It deletes nothing until
``dry_run`` is turned off, and a backfill is skipped. There is no undo.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import BaseHook, Param, dag, task

from airflow_provider_nexthink.filters import PLACEHOLDER_AGE
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator
from airflow_provider_nexthink.version_compat import AirflowFailException, AirflowSkipException

WAREHOUSE = "warehouse"

COLUMNS = ("device.uid", "device.name", "device.days_since_last_seen")

INVENTORY = """
CREATE TABLE IF NOT EXISTS nexthink_devices (uid VARCHAR(36), name VARCHAR(255), days_unseen INTEGER)
"""

# Retired, with no other asset of the same name in use; and not seen in Nexthink recently: both sources must agree.
# In some databases, = ignores accents, case or trailing blanks; LENGTH(REPLACE(..., ..., '')) = 0 does not. So deleting
# a device requires an exact match, while a loose match is enough to keep it. The name of the first column tells the
# ledger that this is Nexthink's device.uid: a proof that deletions work belongs to a kind of uid.
RETIRED = """
SELECT device.uid AS device_uid, device.name AS device_name
FROM nexthink_devices device
WHERE device.days_unseen >= {{ params.min_days_unseen | int }}
  AND EXISTS (
    SELECT 1 FROM cmdb_assets asset
    WHERE UPPER(TRIM(asset.hostname)) = UPPER(device.name) AND asset.status = 'retired'
      AND LENGTH(REPLACE(UPPER(device.name), UPPER(TRIM(asset.hostname)), '')) = 0
  )
  AND NOT EXISTS (
    SELECT 1 FROM cmdb_assets asset
    WHERE UPPER(TRIM(asset.hostname)) = UPPER(device.name)
      AND (asset.status IS NULL OR asset.status <> 'retired' OR LENGTH(REPLACE(asset.status, 'retired', '')) > 0)
  )
ORDER BY device.uid
"""

log = logging.getLogger(__name__)


def whole_days(text: str) -> int | None:
    """Return an age in whole days; None if it is missing or not a number of days."""
    try:
        days = float(text)
    except ValueError:
        return None
    return int(days) if 0 <= days < PLACEHOLDER_AGE.days else None


def can_be_compared(text: str, length: int) -> bool:
    """Return whether every database stores a text unchanged, and equal to no other text."""
    return 0 < len(text) <= length and text == text.strip() and text.isprintable()


@dag(
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "min_days_unseen": Param(14, type="integer", minimum=1, description="Not seen in Nexthink for this many days."),
        "max_devices": Param(200, type="integer", minimum=1, description="Maximum; above it, nothing is deleted."),
    },
)
def nexthink_delete_retired_assets() -> None:
    pull = NexthinkNqlOperator(task_id="pull_inventory", query_id="#all_devices", return_format="columns")

    @task
    def load_inventory(columns: dict[str, list[str]], dag_run: Any = None) -> int:
        """Replace the devices of the last run by those of Nexthink; return the number of devices in Nexthink."""
        if dag_run.run_type == "backfill":
            raise AirflowSkipException("A backfill deletes nothing: all of its runs would load the devices of today.")
        if missing := [column for column in COLUMNS if column not in columns]:
            raise AirflowFailException(f"#all_devices does not list {', '.join(missing)}: this run has sent nothing.")
        inventory = list(zip(*(columns[column] for column in COLUMNS), strict=True))
        rows = [
            (uid, name, age)
            for uid, name, days in inventory
            if (age := whole_days(days)) is not None and can_be_compared(uid, 36) and can_be_compared(name, 255)
        ]
        if skipped := len(inventory) - len(rows):
            log.warning("%d devices are kept: their age is unknown, or their name cannot be compared in SQL.", skipped)
        warehouse: Any = BaseHook.get_hook(WAREHOUSE)
        warehouse.run([INVENTORY, "DELETE FROM nexthink_devices"])
        warehouse.insert_rows("nexthink_devices", rows, target_fields=["uid", "name", "days_unseen"])
        stored = set(map(tuple, warehouse.get_records("SELECT uid, name, days_unseen FROM nexthink_devices")))
        if changed := [row for row in rows if row not in stored]:
            raise AirflowFailException(
                f"The warehouse has changed {len(changed)} of {len(rows)} names, such as {changed[0][1]!r}. This run "
                "has sent nothing. Let nexthink_devices.name store all of Unicode (MariaDB, MySQL: utf8mb4)."
            )
        return len(inventory)

    SqlToNexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        sql=RETIRED,
        sql_conn_id=WAREHOUSE,
        max_devices="{{ params.max_devices }}",
        reason="Retired in the CMDB, and not seen for {{ params.min_days_unseen }} days",
        max_share=0.1,
        fleet_size=load_inventory(pull.output),
        dry_run="{{ params.dry_run }}",
    )


nexthink_delete_retired_assets()
