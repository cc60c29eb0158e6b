"""Every week: delete the devices that have been stale for weeks without a gap. Every day: record what became of them.

A device that is stale for the first time is only marked. It is deleted once it has been on the list in at least two
runs and for ``grace_days``; a device that is seen in the meantime is released. The second Dag compares the deletions
with the inventory: what is gone, what is still present, what has returned.

Before the first run
    * The connection and the query of ``nexthink_delete_stale_devices``.
    * Save this NQL query as ``#all_devices``. It must list *every* device, with the uid that is used for deletion::

        devices
        | list device.uid, device.name, device.days_since_last_seen

    * A SQL database for the ledger, as an Airflow connection (PostgreSQL, MySQL, MariaDB; SQLite on one machine). Name
      it on the Nexthink connection, in the extra ``ledger_conn_id``. Also recommended there, since they bind every Dag:
      ``max_devices``, ``quota_devices`` with ``quota_days`` (6: with 7, each run would still find the one of the week
      before in its window), ``protected``, and ``require_proof``, for which ``nexthink_delete_canary_first`` is run
      once.

Each weekly run ends with a report in the log of its last task. If ``mail_to`` is set, it is also sent by e-mail,
through Airflow's connection ``smtp_default``.

A run deletes nothing until ``dry_run`` is turned off: in the trigger form for a manual run, or below for the weekly
ones. Devices are marked in a dry run, too. A backfill marks and deletes nothing. There is no undo.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkQuarantineOperator, NexthinkReconcileOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.reports import headline, render
from airflow_provider_nexthink.version_compat import AirflowSkipException, conf

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
        "dry_run": Param(True, type="boolean", description="Mark and plan only: nothing is deleted."),
        "min_days_unseen": Param(90, type="integer", minimum=30, description="Not seen for this many days."),
        # Two weeks less a day: a run that starts a minute earlier in the week would make three weeks of two.
        "grace_days": Param(13, type="integer", minimum=1, description="On the list for this many days."),
        "max_devices": Param(500, type="integer", minimum=1, description="Maximum; above it, nothing is deleted."),
        "max_share": Param(
            0.1, type="number", exclusiveMinimum=0, maximum=1, description="Maximum, of the devices there are now."
        ),
        "max_growth": Param(3, type="number", minimum=1, description="Maximum, times the median of the runs before."),
        "reason": Param("Weekly clean-up", type="string", description="Is in the log, the summary and the ledger."),
        "mail_to": Param("", type=["string", "null"], description="Who gets the report by e-mail; empty: nobody."),
    },
)
def nexthink_lifecycle() -> None:
    pull = NexthinkNqlOperator(
        task_id="pull_stale_devices",
        query_id="#stale_devices",
        parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
    )

    # Keep the list of devices out of the log. No retry: the same rows give the same result, or the same error.
    @task(show_return_value_in_logs=False, retries=0)
    def choose_devices(rows: list[dict[str, str]], params: Any = None, dag_run: Any = None) -> list[dict[str, str]]:
        """Return the devices known to be stale, except protected ones and the newest of several with the same name."""
        if dag_run.run_type == "backfill":
            raise AirflowSkipException("A backfill deletes nothing: each of its runs would mark the devices of today.")
        age = not_seen_for(rows, params["min_days_unseen"])
        old = anti_join(age.stale, newest_of_each_name(rows).newest)
        chosen = [row for row in old if not row["device.name"].upper().startswith(KEEP_PREFIXES)]
        log.info("%d of %d devices selected; the age of %d is unknown.", len(chosen), len(rows), len(age.unknown))
        return chosen

    quarantine = NexthinkQuarantineOperator(
        task_id="quarantine",
        devices=choose_devices(pull.output),
        grace="{{ params.grace_days }}",
        min_sightings=2,
        # A run that tries out another threshold has a list of its own, and releases no device of this one.
        list_name="{{ dag.dag_id }}, {{ params.min_days_unseen }} days unseen",
    )

    delete = NexthinkDeleteDevicesOperator(
        task_id="delete_devices",
        devices=quarantine.output,
        exclude=[f"{prefix}*" for prefix in KEEP_PREFIXES],  # never sent, whatever was selected
        max_devices="{{ params.max_devices }}",
        max_share="{{ params.max_share }}",
        fleet_query_id="#all_devices",
        max_growth="{{ params.max_growth }}",
        reason="{{ params.reason }}",
        dry_run="{{ params.dry_run }}",
    )

    @task
    def report(params: Any = None, dag_run: Any = None, ti: Any = None, **context: Any) -> None:
        """Log what became of the run, and send it by e-mail if ``mail_to`` says to whom."""
        if dag_run.run_type == "backfill":
            raise AirflowSkipException("A backfill deletes nothing.")
        held = ti.xcom_pull(task_ids="quarantine", key="summary")
        sent = ti.xcom_pull(task_ids="delete_devices", key="summary")
        unscheduled = ti.xcom_pull(task_ids="delete_devices", key="unscheduled")

        def text(style: Any) -> str:
            # With max_names=20, the report has the names of the first 20 devices that need attention.
            url = conf.get("api", "base_url", fallback=None)
            deletion = render(sent, unscheduled=unscheduled, airflow_url=url, style=style)
            return f"{deletion}\n\n{render(held, style=style)}" if held else deletion

        log.info("%s", text("markdown"))
        if params["mail_to"]:
            from airflow.providers.smtp.notifications.smtp import SmtpNotifier

            mail = SmtpNotifier(to=params["mail_to"], subject=headline(sent), html_content=text("html"))
            mail.notify(context)  # not mail(context), which would take the text for a template

    # A teardown runs even if an upstream task failed, and does not affect whether the run fails.
    delete >> report().as_teardown()


@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
)
def nexthink_lifecycle_reconcile() -> None:
    NexthinkReconcileOperator(task_id="reconcile", query_id="#all_devices")


nexthink_lifecycle()
nexthink_lifecycle_reconcile()
