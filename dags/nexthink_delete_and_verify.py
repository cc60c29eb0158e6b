"""Every week: delete stale devices, wait until they are gone, report the license seats freed.

SCHEDULED does not mean removed: Nexthink removes devices in the background and does not say when. Devices that are
still present after the wait are passed to the next run, which sends them again if they are still stale. Each run that
is not a dry run publishes an event of the asset ``nexthink_seats_freed``, on which other Dags can be scheduled.

Before the first run
    * The connection and the query of ``nexthink_delete_stale_devices``.
    * Save this NQL query as ``#all_devices``. It must list *every* device, with the uid that is used for deletion::

        devices
        | list device.uid, device.name, device.days_since_last_seen

A run deletes nothing until ``dry_run`` is turned off. A backfill only plans. There is no undo.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Asset, Param, dag, task

from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for, still_stale
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.version_compat import AirflowFailException, AirflowSkipException

SEATS_FREED = Asset("nexthink_seats_freed")

log = logging.getLogger(__name__)


def leftovers_of_last_report(ti: Any, events: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the devices that the last report of this Dag listed as still present.

    The asset events identify that report. ``xcom_pull(include_prior_dates=True)`` does not: it uses logical dates, and
    a manual run may have none.
    """
    for event in sorted(events, key=lambda event: event.timestamp, reverse=True):
        if (event.source_dag_id, event.source_task_id) == (ti.dag_id, "report"):
            run_id = event.source_run_id
            left: Any = ti.xcom_pull(task_ids="report", key="still_present", run_id=run_id, map_indexes=-1)
            if left is not None:  # None: that run was deleted, or its report was cleared
                return list(left)
    return []


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
def nexthink_delete_and_verify() -> None:
    pull = NexthinkNqlOperator(
        task_id="pull_stale_devices",
        query_id="#stale_devices",
        parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
    )

    # Keep the list of devices out of the log. No retry: the same rows give the same result, or the same error.
    @task(inlets=[SEATS_FREED], show_return_value_in_logs=False, retries=0)
    def choose_devices(
        rows: list[dict[str, str]], params: Any = None, ti: Any = None, inlet_events: Any = None
    ) -> list[dict[str, Any]]:
        """Return the leftovers of the last run that are still stale, then the devices known to be stale."""
        age = not_seen_for(rows, params["min_days_unseen"])
        left = leftovers_of_last_report(ti, inlet_events[SEATS_FREED])
        again = still_stale(left, age.stale)
        if left:
            log.warning("%d devices of the last run were still present; %d are still stale.", len(left), len(again))
        # For the report: also those whose age is unknown this time. All others are gone, or were seen since.
        ti.xcom_push(key="left", value=again + still_stale(left, age.unknown))
        others = anti_join(anti_join(age.stale, newest_of_each_name(rows).newest), again)
        # The name of the column tells the ledger the kind of uid, which a proof belongs to.
        remaining = [{"device.uid": row["uid"], "device.name": row["name"]} for row in again]
        return remaining + [{column: row[column] for column in ("device.uid", "device.name")} for row in others]

    delete = NexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        devices=choose_devices(pull.output),
        exclude=["SRV-*", "VIP-*"],
        max_devices="{{ params.max_devices }}",
        reason="Not seen for {{ params.min_days_unseen }} days",
        dry_run="{{ params.dry_run or dag_run.run_type == 'backfill' }}",
    )

    gone = NexthinkDevicesGoneSensor(
        task_id="wait_until_gone",
        devices=delete.output,
        query_id="#all_devices",
        poke_interval=timedelta(minutes=10),
        timeout=timedelta(hours=12),
        soft_fail=True,  # not all gone in time: skipped, and the report lists them
        deferrable=True,
    )

    @task(outlets=[SEATS_FREED], multiple_outputs=False)
    def report(ti: Any = None, params: Any = None, dag_run: Any = None, outlet_events: Any = None) -> dict[str, int]:
        """Report the seats freed, and pass the devices that are still present to the next run."""
        if params["dry_run"] or dag_run.run_type == "backfill":
            raise AirflowSkipException("A dry run frees no seats.")
        table = ti.xcom_pull(task_ids="wait_until_gone", key="return_value")
        if table is None:  # a retry would not help
            raise AirflowFailException(
                "What is gone is not known, and what was sent is not known here: see the logs of delete_devices and "
                "wait_until_gone. The next run starts with the devices of the last report."
            )
        gone = [row for row in table if row["status"] == "GONE"]
        still = [row for row in table if row["status"] == "STILL_PRESENT"]
        # Leftovers that this run did not send stay on the list.
        checked = {row["uid"] for row in gone + still}
        left = ti.xcom_pull(task_ids="choose_devices", key="left") or []
        still += [row for row in left if row["uid"] not in checked]
        ti.xcom_push(key="still_present", value=still)
        numbers = {"seats_freed": len(gone), "still_present": len(still)}
        log.info("%s", numbers)
        for row in still[:20]:
            log.warning("%(name)s (%(uid)s) is still present: the next run sends it again if it is still stale.", row)
        outlet_events[SEATS_FREED].extra = numbers
        return numbers

    # Teardowns run even if an upstream task failed, so that SCHEDULED devices are followed up although others failed.
    # The run fails if the deletion fails, or the report, which fails if the sensor has no result.
    delete >> gone.as_teardown() >> report().as_teardown(on_failure_fail_dagrun=True)


nexthink_delete_and_verify()
