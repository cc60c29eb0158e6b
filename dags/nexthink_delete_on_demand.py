"""By hand: a person gives a list of devices and a reason in the form, and those are deleted.

Trigger it in the UI and fill in the form: the devices as a table, or pasted as text from a spreadsheet or a CSV
with a header line (``uid,name``). The first run of a list had better be the dry run that the form begins with.
There is no undo.
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
            description="Lines from a spreadsheet or a CSV; the first one names the columns, such as uid and name.",
        ),
        "devices_table": Param(
            [],
            type=["array", "null"],
            items={"type": "object"},
            title="Devices, as a table",
            description='In place of the pasted ones: [{"uid": "...", "name": "..."}, ...]',
        ),
        "reason": Param(
            "",
            type=["string", "null"],
            title="Reason or ticket",
            description="Stands in the log and in the summary. Needed when it is no dry run.",
        ),
        "dry_run": Param(True, type="boolean", description="Only plan: nothing is deleted."),
        "max_devices": Param(100, type="integer", minimum=1, description="More than this, and nothing is deleted."),
    },
)
def nexthink_delete_on_demand() -> None:
    @task.nexthink_delete_devices(
        dry_run="{{ params.dry_run }}",
        max_devices="{{ params.max_devices }}",
        on_empty="fail",
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
    def delete_devices(params: Any = None) -> object:
        """Return the devices of the form."""
        text, table = params["devices_text"] or "", params["devices_table"] or []
        pasted = text.strip()  # to look at only: a blank may belong to a name, a TAB may end an empty cell
        reason = (params["reason"] or "").strip()
        if not pasted and not table:
            raise NexthinkInputError("The form has no devices: paste some, or fill in the table. Nothing was deleted.")
        if pasted and table:
            raise NexthinkInputError(
                "The form has devices both pasted and as a table: which are meant? Leave one of the two empty. "
                "Nothing was deleted."
            )
        if pasted and "\n" not in pasted and "\r" not in pasted:
            raise NexthinkInputError(
                "The form has one line of devices: the first line names the columns, such as uid,name, and the devices "
                "stand below it. Nothing was deleted."
            )
        if not params["dry_run"] and not reason:
            raise NexthinkInputError("The form gives no reason: say why, or name a ticket. Nothing was deleted.")
        log.info("Reason: %s", reason or "none given (dry run)")
        return text if pasted else table

    @task(multiple_outputs=False)
    def report(ti: Any = None, params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        """Return the summary together with who asked for it, and why."""
        summary = ti.xcom_pull(task_ids="delete_devices", key="summary")
        who = getattr(dag_run, "triggering_user_name", None)
        asked = {"reason": params["reason"], "asked_by": who, "run": dag_run.run_id}
        if summary is None:
            log.error("No summary; what was sent is not known here. See the log of delete_devices. %s", asked)
            return asked
        for row in (ti.xcom_pull(task_ids="delete_devices", key="unscheduled") or [])[:20]:
            log.warning("%(name)s (%(uid)s) is %(status)s: %(reason)s", row)
        log.info("%s", {**{key: value for key, value in summary.items() if value not in (0, None)}, **asked})
        return {**summary, **asked}

    # A teardown runs whatever happened before it, and leaves it to the other tasks whether the run has failed.
    delete_devices() >> report().as_teardown()


nexthink_delete_on_demand()
