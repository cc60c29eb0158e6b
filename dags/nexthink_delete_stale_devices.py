"""Every week: pull the devices not seen for a long time, filter them, delete the rest.

Before the first run
    * Save this NQL query in Nexthink (NQL API queries) as ``#stale_devices``::

        devices
        | where device.days_since_last_seen >= $min_days_unseen
        | list device.uid, device.name, device.days_since_last_seen

    * Add the Airflow connection ``nexthink_default`` (type Nexthink), with an API credential that has
      the permissions *NQL API* and *Data management*.

A run deletes nothing until ``dry_run`` is turned off: in the trigger form for a manual run, or below for the
weekly ones. A backfill only plans. There is no undo.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator

KEEP_PREFIXES = ("SRV-", "VIP-")

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
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "min_days_unseen": Param(90, type="integer", minimum=30, description="Not seen for this many days."),
        "max_devices": Param(500, type="integer", minimum=1, description="Maximum; above it, nothing is deleted."),
    },
)
def nexthink_delete_stale_devices() -> None:
    pull = NexthinkNqlOperator(
        task_id="pull_stale_devices",
        query_id="#stale_devices",
        parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
    )

    # Keep the list of devices out of the log. No retry: the same rows give the same result, or the same error.
    @task(show_return_value_in_logs=False, retries=0)
    def choose_devices(rows: list[dict[str, str]], params: Any = None) -> list[dict[str, str]]:
        """Return the devices known to be stale, except protected ones and the newest of several with the same name."""
        age = not_seen_for(rows, params["min_days_unseen"])
        old = anti_join(age.stale, newest_of_each_name(rows).newest)
        chosen = [row for row in old if not row["device.name"].upper().startswith(KEEP_PREFIXES)]
        log.info("%d of %d devices selected; the age of %d is unknown.", len(chosen), len(rows), len(age.unknown))
        return chosen

    NexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        devices=choose_devices(pull.output),
        uid_column="device.uid",
        exclude=[f"{prefix}*" for prefix in KEEP_PREFIXES],  # never sent, whatever was selected
        max_devices="{{ params.max_devices }}",
        reason="Not seen for {{ params.min_days_unseen }} days",
        dry_run="{{ params.dry_run or dag_run.run_type == 'backfill' }}",
    )


nexthink_delete_stale_devices()
