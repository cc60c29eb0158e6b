"""Every month: plan, get an approval in the Airflow UI, query again, delete the devices both approved and still stale.

The request says how many devices of which tenant, their share of the fleet and their ages, and why others on the list
are kept; it links to the whole list. If it is rejected or times out, nothing is deleted. The timeout is a week, and
devices may become active again in a week: so the deletion task queries Nexthink again, at each of its tries. A backfill
requests no approval and deletes nothing. There is no undo.

With ``TWO_PEOPLE = True`` two people must approve this very plan, one after the other, and neither may be the person
who triggered the run: otherwise nothing is deleted.

Before the first run: the connection and the query of ``nexthink_delete_stale_devices``, and the query ``#all_devices``
of ``nexthink_lifecycle``, which counts the fleet.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, chain, dag, task

from airflow_provider_nexthink.approval import plan_as_markdown
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.filters import anti_join, newest_of_each_name, not_seen_for, still_stale
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.version_compat import AirflowSkipException

# Not a param: whoever triggers a run could turn it off.
TWO_PEOPLE = False

SUBJECTS = {"approve": "Delete these devices from Nexthink?"}
if TWO_PEOPLE:
    SUBJECTS["approve_second"] = "Delete these devices from Nexthink? A second person must approve, too."

QUERY = "#stale_devices"
FLEET_QUERY = "#all_devices"
KEPT = ["SRV-*", "VIP-*"]

log = logging.getLogger(__name__)


def read_responses(ti: Any) -> list[dict[str, Any]]:
    """Return the response to each request; an empty mapping if its task was marked as success."""
    return [ti.xcom_pull(task_ids=task_id) or {} for task_id in SUBJECTS]


def approver_of(response: dict[str, Any]) -> dict[str, Any]:
    """Return who has approved, by id and name; an empty mapping if the response is no approval by a person."""
    is_approval = response.get("chosen_options") == ["Approve"]
    return (is_approval and response.get("responded_by_user")) or {}


def approvers(ti: Any) -> str:
    """Return the names of those who have approved, for the log and the ledger."""
    people = [approver_of(response) for response in read_responses(ti)]
    return " and ".join(person.get("name", "nobody (marked as success)") for person in people)


def check_two_people(responses: list[dict[str, Any]], planned_at: datetime, dag_run: Any) -> None:
    """Fail unless two people have approved this plan, neither of them the person who triggered the run.

    Airflow keeps the name of that person, and id and name of those who respond: all are compared, in any case.

    :param responses: to the two requests, as Airflow has them.
    :param planned_at: when the plan was made.
    :param dag_run: the run.
    """
    people = [approver_of(response) for response in responses]
    first, second = ({str(value).casefold() for value in person.values()} for person in people)
    requester = getattr(dag_run, "triggering_user_name", None)
    if not first or not second:
        problem = "at least one of the two was given by no person (its task was marked as success), or is a rejection"
    elif any(datetime.fromisoformat(str(response["responded_at"])) <= planned_at for response in responses):
        problem = "at least one of the two was given before this plan was made, so to another one"
    elif first & second:
        problem = f"{people[1]['name']} has given both"
    elif requester and requester.casefold() in first | second:
        problem = f"{requester} has given one of them, and has triggered the run, too"
    elif not requester and dag_run.run_type not in ("scheduled", "asset_triggered"):
        problem = "Airflow does not know who triggered this run; let a person or the schedule do that"
    else:
        return
    raise NexthinkInputError(
        "The approvals do not count: two people must approve, and neither may be the one who triggered the run; "
        f"{problem}. This try sent nothing. To ask again, clear the run from approve on."
    )


@dag(
    schedule="@monthly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["nexthink"],
    doc_md=__doc__,
    user_defined_macros={"approvers": approvers},
    params={
        "min_days_unseen": Param(90, type="integer", minimum=30, description="Not seen for this many days."),
        "max_devices": Param(500, type="integer", minimum=1, description="Maximum; above it, nothing is deleted."),
        "max_share": Param(
            0.1, type="number", exclusiveMinimum=0, maximum=1, description="Maximum, of the devices there are now."
        ),
    },
)
def nexthink_delete_with_approval() -> None:
    pull = NexthinkNqlOperator(
        task_id="pull_stale_devices",
        query_id=QUERY,
        parameters={"min_days_unseen": "{{ params.min_days_unseen }}"},
        retries=2,
        retry_delay=timedelta(minutes=5),
    )

    @task(show_return_value_in_logs=False)  # keep the list of devices out of the log
    def choose_devices(rows: list[dict[str, str]], params: Any = None, dag_run: Any = None) -> list[dict[str, str]]:
        """Return the devices known to be stale, except the newest of several with the same name."""
        if dag_run.run_type == "backfill":
            raise AirflowSkipException("A backfill deletes nothing: all of its runs would delete the same devices.")
        return anti_join(not_seen_for(rows, params["min_days_unseen"]).stale, newest_of_each_name(rows).newest)

    chosen = choose_devices(pull.output)
    plan = NexthinkDeleteDevicesOperator(
        task_id="plan",
        devices=chosen,
        exclude=KEPT,
        max_devices="{{ params.max_devices }}",
        max_share="{{ params.max_share }}",
        fleet_query_id=FLEET_QUERY,
        dry_run=True,
        retries=2,
        retry_delay=timedelta(minutes=5),
    )

    @task
    def describe_plan(
        table: list[dict[str, Any]], rows: list[dict[str, str]], params: Any = None, ti: Any = None
    ) -> str:
        """Return the request for approval as Markdown; skip if there is nothing to delete."""
        summary = ti.xcom_pull(task_ids="plan", key="summary")
        if not summary["PLANNED"]:
            raise AirflowSkipException("Nothing to delete: no approval is requested.")
        text = plan_as_markdown(table, summary, rows, min_days_unseen=params["min_days_unseen"])
        return f"{text}\n\nAfter the approval Nexthink is queried again: devices seen in the meantime are kept.\n"

    body: Any = describe_plan(plan.output, chosen)
    approvals = [
        ApprovalOperator(
            task_id=task_id,
            subject=subject,
            body=body,
            defaults="Reject",  # the response if there is none in time
            response_timeout=timedelta(days=7),
        )
        for task_id, subject in SUBJECTS.items()
    ]

    @task.nexthink_delete_devices(
        exclude=KEPT,
        max_devices="{{ params.max_devices }}",
        max_share="{{ params.max_share }}",
        fleet_query_id=FLEET_QUERY,
        reason="Not seen for {{ params.min_days_unseen }} days, approved by {{ approvers(ti) }}",
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
    def delete_devices(
        table: list[dict[str, Any]], params: Any = None, ti: Any = None, dag_run: Any = None
    ) -> list[dict[str, Any]]:
        """Query again, and return the devices that were approved and are still stale."""
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        if TWO_PEOPLE:
            plan = ti.xcom_pull(task_ids="plan", key="summary")
            check_two_people(read_responses(ti), datetime.fromisoformat(plan["finished_at"]), dag_run)
        approved = [row for row in table if row["status"] == "PLANNED"]
        with NexthinkHook() as hook:
            rows = hook.export_nql(QUERY, {"min_days_unseen": params["min_days_unseen"]})
        # The rows of the query, whose column tells the ledger the kind of uid: a proof belongs to it.
        still = still_stale(not_seen_for(rows, params["min_days_unseen"]).stale, approved)
        log.info("%d of the %d approved devices are still stale; the others are kept.", len(still), len(approved))
        return still

    chain(*approvals, delete_devices(plan.output))


nexthink_delete_with_approval()
