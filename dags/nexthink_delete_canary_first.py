"""Delete one device, wait until it is gone, and only then delete the stale ones.

Nexthink accepts well-formed uids of the wrong kind, and deletes nothing. So one device, the canary, is deleted first.
If it leaves the inventory, the tenant deletes by this uid, and the rest is sent. If it stays, nothing else is sent.

Before the first run
    * The connection, the queries and the ledger of ``nexthink_lifecycle``.
    * Choose a device that can be spared and has been seen lately: one that is stale may leave by itself, which proves
      nothing. Write down its uid (``device.uid``), and switch it off.
    * To try the uid of the Collector instead: let both queries list ``device.collector.uid``, and change ``UID``.

With ``require_proof`` on the connection, no other Dag sends more than 5 devices before a canary has gone. A run deletes
nothing until ``dry_run`` is turned off. There is no undo.
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
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.version_compat import AirflowFailException

UID = "device.uid"
INVENTORY = "#all_devices"

# Nexthink removes devices by itself after about 30 to 90 days without contact.
MAX_DAYS_UNSEEN = 30

log = logging.getLogger(__name__)


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    params={
        "canary_uid": Param(type="string", minLength=1, description="The uid of a device that can be spared."),
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "min_days_unseen": Param(90, type="integer", minimum=30, description="The rest: not seen for this many days."),
        "max_devices": Param(500, type="integer", minimum=1, description="The rest: maximum; above it, none is sent."),
        "reason": Param("First deletion", type="string", description="Is in the log, the summary and the ledger."),
    },
)
def nexthink_delete_canary_first() -> None:
    @task
    def find_canary(params: Any = None) -> list[dict[str, str]]:
        """Return the canary as the inventory has it: uid, name and age."""
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        with NexthinkHook() as hook:
            rows = hook.export_nql(INVENTORY)
        uid = params["canary_uid"].strip().lower()
        found = [row for row in rows if row[UID].lower() == uid]
        if len(found) != 1:
            raise AirflowFailException(
                f"{len(found)} of the {len(rows)} devices have the {UID} {uid}. This try sent nothing."
            )
        if not not_seen_for(found, MAX_DAYS_UNSEEN).recent:
            raise AirflowFailException(
                f"{found[0]['device.name']} was not seen for {MAX_DAYS_UNSEEN} days, or its age is not known: it may "
                "leave by itself, and proves nothing. Choose another one. This try sent nothing."
            )
        return found

    delete_canary = NexthinkDeleteDevicesOperator(
        task_id="delete_canary",
        devices=find_canary(),
        uid_column=UID,
        max_devices=1,
        fleet_query_id=INVENTORY,  # the look that proves that it was there
        reason="{{ params.reason }} (canary)",
        dry_run="{{ params.dry_run }}",
    )

    canary_gone = NexthinkDevicesGoneSensor(
        task_id="canary_gone",
        devices=delete_canary.output,
        query_id=INVENTORY,
        uid_column=UID,
        poke_interval=timedelta(minutes=30),
        timeout=timedelta(days=3),
        deferrable=True,
    )

    pull = NexthinkNqlOperator(
        task_id="pull_stale_devices",
        query_id="#stale_devices",
        parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
    )

    # Keep the list of devices out of the log. No retry: the same rows give the same result, or the same error.
    @task(show_return_value_in_logs=False, retries=0)
    def choose_devices(
        canary: list[dict[str, str]], rows: list[dict[str, str]], params: Any = None
    ) -> list[dict[str, str]]:
        """Return the devices known to be stale, except the newest of several with the same name."""
        statuses = [row["status"] for row in canary]
        if statuses != ["PLANNED" if params["dry_run"] else "GONE"]:
            raise AirflowFailException(f"The canary is {statuses}, not GONE: the rest was not sent by this try.")
        return anti_join(not_seen_for(rows, params["min_days_unseen"]).stale, newest_of_each_name(rows).newest)

    chosen: Any = choose_devices(canary_gone.output, pull.output)
    NexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        devices=chosen,
        uid_column=UID,
        exclude=["SRV-*", "VIP-*"],
        max_devices="{{ params.max_devices }}",
        reason="{{ params.reason }}",
        dry_run="{{ params.dry_run }}",
    )

    canary_gone >> pull  # only now: days may have passed, and the list is to be that of today


nexthink_delete_canary_first()
