"""On demand: delete the devices that a user enters in the trigger form, with a reason.

Trigger it in the UI and fill in the form: the devices as a table, or pasted as text from a spreadsheet or a CSV
with a header (``uid,name``). Run each list as a dry run first, which is the default. There is no undo.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_nexthink.exceptions import NexthinkInputError

log = logging.getLogger(__name__)


@dag(
    schedule=None,
    tags=["nexthink"],
    doc_md=__doc__,
    params={
        "devices_text": Param(
            "",
            type=["string", "null"],
            format="multiline",
            title="Devices, pasted",
            description="Lines from a spreadsheet or a CSV, with a header such as uid,name.",
        ),
        "devices_table": Param(
            [],
            type=["array", "null"],
            items={"type": "object"},
            title="Devices, as a table",
            description='Instead of pasted ones: [{"uid": "...", "name": "..."}, ...]',
        ),
        "reason": Param(
            "",
            type=["string", "null"],
            title="Reason or ticket",
            description="Is in the log, the summary and the ledger. Required unless it is a dry run.",
        ),
        "dry_run": Param(True, type="boolean", description="Plan only: nothing is deleted."),
        "max_devices": Param(100, type="integer", minimum=1, description="Maximum; above it, nothing is deleted."),
    },
)
def nexthink_delete_on_demand() -> None:
    @task.nexthink_delete_devices(
        dry_run="{{ params.dry_run }}",
        max_devices="{{ params.max_devices }}",
        reason="{{ params.reason or '' }}",
        on_empty="fail",
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
    def delete_devices(params: Any = None) -> object:
        """Return the devices of the form."""
        text, table = params["devices_text"] or "", params["devices_table"] or []
        pasted = text.strip()  # for the checks only: blanks may belong to a name, a tab may end an empty cell
        reason = (params["reason"] or "").strip()
        if not pasted and not table:
            raise NexthinkInputError("The form has no devices: paste some, or fill in the table. Nothing was deleted.")
        if pasted and table:
            raise NexthinkInputError(
                "The form has devices both pasted and as a table: leave one of the two empty. Nothing was deleted."
            )
        if pasted and "\n" not in pasted and "\r" not in pasted:
            raise NexthinkInputError(
                "The form has one line of devices: the first line must be a header such as uid,name, and the devices "
                "follow below it. Nothing was deleted."
            )
        if not params["dry_run"] and not reason:
            raise NexthinkInputError("The form has no reason: give a reason or a ticket. Nothing was deleted.")
        return text if pasted else table

    @task(multiple_outputs=False)
    def report(ti: Any = None, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        """Return the summary, which has the reason and the user who triggered the run; log what needs attention."""
        summary = ti.xcom_pull(task_ids="delete_devices", key="summary")
        if summary is None:
            user = getattr(dag_run, "triggering_user_name", None)
            origin = {"reason": params["reason"], "triggered_by": user, "dag_run_id": dag_run.run_id}
            log.error("No summary; what was sent is not known here. See the log of delete_devices. %s", origin)
            return origin
        for row in (ti.xcom_pull(task_ids="delete_devices", key="unscheduled") or [])[:20]:
            log.warning("%(name)s (%(uid)s) is %(status)s: %(reason)s", row)
        log.info("%s", {key: value for key, value in summary.items() if value not in (0, None)})
        return dict(summary)

    # A teardown runs even if an upstream task failed, and does not affect whether the run fails.
    delete_devices() >> report().as_teardown()


nexthink_delete_on_demand()
