"""Links on a task in Airflow's UI.

A link is computed in the worker when the task ends, however it ends, and kept as an XCom. An empty one is not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

from airflow_provider_nexthink.reports import outcome_path

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

DELETION_DOCS = "https://docs.nexthink.com/api/data-management"
NQL_DOCS = "https://docs.nexthink.com/api/nql"


class NexthinkTenantLink(BaseOperatorLink):
    """To the tenant's web interface; none for a connection with another API host."""

    name = "Nexthink tenant"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the tenant's address, from the operator's connection; it holds no secret.

        :param operator: the operator of the task.
        :param ti_key: the task instance.
        """
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        try:
            with NexthinkHook(operator.nexthink_conn_id) as hook:  # type: ignore[attr-defined]
                return hook.get_conn().settings.browser_url or ""
        except Exception:  # noqa: BLE001 - a wrong or missing connection is the task's own error
            return ""


class NexthinkOutcomeLink(BaseOperatorLink):
    """To the task's outcome table, on the page *Nexthink deletions*."""

    name = "Deletion outcome"  # Airflow sorts links by name: this one is first

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return an address relative to Airflow's base URL, which a worker does not know.

        :param operator: the operator of the task.
        :param ti_key: the task instance.
        """
        index = -1 if ti_key.map_index is None else ti_key.map_index
        return outcome_path(dag_id=ti_key.dag_id, run_id=ti_key.run_id, task_id=ti_key.task_id, map_index=index)


class NexthinkDeletionDocsLink(BaseOperatorLink):
    """To Nexthink's documentation of the Data Management API."""

    name = "Docs: Data Management API"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address of that page.

        :param operator: the operator of the task.
        :param ti_key: the task instance.
        """
        return DELETION_DOCS


class NexthinkNqlDocsLink(BaseOperatorLink):
    """To Nexthink's documentation of the NQL API."""

    name = "Docs: NQL API"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address of that page.

        :param operator: the operator of the task.
        :param ti_key: the task instance.
        """
        return NQL_DOCS
