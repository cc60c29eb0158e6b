"""Operators for the ledger: the quarantine of devices, and what became of those that were deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_nexthink.deletion import options
from airflow_provider_nexthink.devices.formats import require_parquet
from airflow_provider_nexthink.devices.frames import dataframe_library
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger.options import check_grace, check_list_name, check_min_sightings
from airflow_provider_nexthink.links.nexthink import NexthinkNqlDocsLink, NexthinkTenantLink
from airflow_provider_nexthink.operators._base import (
    DevicesMixin,
    NexthinkOptionError,
    fail_without_retry,
    is_template,
    option_errors,
)
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.utils.origin import run_origin

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.api.nql import NqlRows
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.ledger.ledger import QuarantineResult, ReconcileResult
    from airflow_provider_nexthink.origin import RunOrigin

_LISTS = ("still_present", "returned", "set_up_anew")
"""The XComs with devices that NexthinkReconcileOperator pushes."""


class NexthinkQuarantineOperator(DevicesMixin, BaseOperator):
    """Hold devices back until they have been on the list for a while, and return those that are due.

    A device is marked when it is on the list for the first time. It is due once it was on the list in at least
    ``min_sightings`` runs of the Dag, for at least ``grace``, without a gap: a device that is missing from the list
    once is released, and starts afresh when it comes again. A retry and a cleared run count once. Nothing is deleted
    here: pass ``output`` on to ``NexthinkDeleteDevicesOperator``. The connection needs a ledger (its extra
    ``ledger_conn_id``).

    Pushes to XCom: ``return_value``, the rows of the devices that are due, in the form of ``devices`` (the rows of text
    and of a file as mappings, or an Arrow table); ``summary``, how many are due, waiting, marked (new), released,
    deleted (off the list since their deletion was requested) and invalid (without a uid, so never due); and
    ``waiting``, the first 10,000 devices that are not due yet, with the earliest date at which each can be.

    :param devices: the devices of today, in any form that ``NexthinkDeleteDevicesOperator`` takes, but for tuples.
        (templated, if text)
    :param grace: for how long a device is at least on the list; a ``timedelta``, or a number of days. (templated)
    :param min_sightings: in how many runs a device is at least on the list. (templated)
    :param list_name: the name of the list in the ledger, which belongs to this task alone; by default the ids of the
        Dag and the task. A run with other parameters releases what it does not list: put them in the name. (templated)
    :param nexthink_conn_id: the connection. (templated)
    :param uid_column: which column holds the uid; None to find it by its name. (templated)
    :param name_column: which column holds the name; None to find it by its name. (templated)
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = (
        "devices",
        "grace",
        "min_sightings",
        "list_name",
        "nexthink_conn_id",
        "uid_column",
        "name_column",
    )
    template_ext: Sequence[str] = ()
    operator_extra_links = (NexthinkTenantLink(),)
    ui_color = "#e8e4f8"

    def __init__(
        self,
        *,
        devices: object,
        grace: timedelta | float | str = timedelta(days=14),
        min_sightings: int | str = 2,
        list_name: str | None = None,
        nexthink_conn_id: str = "nexthink_default",
        uid_column: str | None = None,
        name_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.devices = devices
        self.grace = grace
        self.min_sightings = min_sightings
        self.list_name = list_name
        self.nexthink_conn_id = nexthink_conn_id
        self.uid_column = uid_column
        self.name_column = name_column
        with option_errors():
            self._check_options()

    def execute(self, context: Context) -> Any:
        """Mark and release devices, and return those that are due."""
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
        from airflow_provider_nexthink.utils.storage import open_file

        origin = run_origin(context)
        devices = self._given_devices()
        with fail_without_retry(), NexthinkHook(self.nexthink_conn_id) as hook:
            if dataframe_library(devices):
                require_parquet("A DataFrame that a task returns")
            found = hook.get_ledger().quarantine(
                devices,
                list_name=self.list_name or _list_name(origin),
                grace=self.grace,
                min_sightings=self.min_sightings,
                uid_column=options.check_column("uid_column", self.uid_column),
                name_column=options.check_column("name_column", self.name_column),
                origin=origin,
                open_file=open_file,
            )
        self._log(found)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="summary", value=found.summary)
            context["ti"].xcom_push(key="waiting", value=found.waiting)
        return found.due

    def _log(self, found: QuarantineResult) -> None:
        summary = found.summary
        self.log.info(
            "%d devices on the list %s: %d due, %d waiting, %d of them new; %d released, %d deleted meanwhile.",
            summary["devices"],
            summary["list_name"],
            summary["due"],
            summary["waiting"],
            summary["marked"],
            summary["released"],
            summary["deleted"],
        )
        if summary["next_due_at"]:
            self.log.info("The next of them can be due on %s.", summary["next_due_at"])
        if summary["invalid"]:
            self.log.warning("%d rows have no uid that can be sent: they are never due.", summary["invalid"])
        if not summary["devices"] and summary["released"]:
            self.log.warning("The list is empty: all devices that were waiting are released, and would start afresh.")
        if not summary["counted"]:
            self.log.info("This run has been here before: it counts once.")

    def _check_options(self) -> None:
        """Fail the parsing of a Dag for an option that cannot take effect."""
        if not is_template(self.grace):
            check_grace(self.grace)
        if not is_template(self.min_sightings):
            check_min_sightings(self.min_sightings)
        if self.list_name is not None and not is_template(self.list_name):
            check_list_name(self.list_name)
        for option in ("uid_column", "name_column"):
            if not is_template(getattr(self, option)):
                options.check_column(option, getattr(self, option))
        if not is_template(self.nexthink_conn_id):
            options.check_text("nexthink_conn_id", self.nexthink_conn_id)


class NexthinkReconcileOperator(NexthinkNqlOperator):
    """Compare the devices that were deleted with the inventory, and record in the ledger what became of each.

    A device whose deletion was requested and that the query does not list is GONE; one that it lists is STILL_PRESENT,
    or RETURNED if it was GONE. One that is gone while another device has its name counts as set up anew, though that
    may be a namesake that was there before. A result that proves nothing (cut off, empty, without uids, with the other
    kind of uid, or with less than half as many devices as at the latest look) changes nothing and fails the task. The
    connection needs a ledger (extra ``ledger_conn_id``).

    Pushes to XCom: ``summary``, also returned, the look in numbers and the seats won by week; ``still_present``,
    ``returned`` and ``set_up_anew``, the first 10,000 devices of each.

    :param query_id: the id of the saved query that lists **every** device. (templated)
    :param parameters: values for the query's ``where`` clause, text or numbers. (templated)
    :param nexthink_conn_id: the connection. (templated)
    :param uid_column: which column of the result holds the uid under which the devices were deleted; None to find it
        by its name. (templated)
    :param poll_interval: time between two polls for the export, seconds or ``timedelta``; it grows to a minute.
    :param timeout: maximum time to wait for the export, seconds or ``timedelta``.
    :param deferrable: whether to wait for the export in the triggerer, where it holds no worker; by default what
        Airflow's option ``[operators] default_deferrable`` says.
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = (*NexthinkNqlOperator.template_fields, "uid_column")
    operator_extra_links = (NexthinkTenantLink(), NexthinkNqlDocsLink())
    ui_color = "#e8e4f8"

    def __init__(
        self,
        *,
        query_id: str = "#all_devices",
        parameters: Mapping[str, Any] | None = None,
        nexthink_conn_id: str = "nexthink_default",
        uid_column: str | None = None,
        poll_interval: timedelta | float = 5.0,
        timeout: timedelta | float = 3600.0,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        for option in ("query_mode", "compression", "return_format", "results_path", "allow_truncated"):
            if option in kwargs:
                raise NexthinkOptionError(f"{option} is no option of {type(self).__name__}: it reads a whole export.")
        super().__init__(
            query_id=query_id,
            parameters=parameters,
            nexthink_conn_id=nexthink_conn_id,
            query_mode="export",
            poll_interval=poll_interval,
            timeout=timeout,
            compression="GZIP",
            return_format="records",
            allow_truncated=False,
            deferrable=deferrable,
            **kwargs,
        )
        self.uid_column = uid_column
        with option_errors():
            if not is_template(uid_column):
                options.check_column("uid_column", uid_column)

    def execute(self, context: Context) -> Any:
        """Export the inventory, and compare the ledger with it."""
        with fail_without_retry(), self._new_hook() as hook:
            hook.get_ledger().open()  # before an export that would be for nothing
        return super().execute(context)

    def _finalize(self, context: Context, hook: NexthinkHook, rows: NqlRows, started_at: float) -> Any:
        from airflow_provider_nexthink.ledger.quota import Quota

        policy = hook.read_policy()
        found = hook.get_ledger().reconcile(
            rows,
            query_id=self.query_id,
            uid_column=options.check_column("uid_column", self.uid_column),
            started_at=datetime.fromtimestamp(started_at, UTC),
            quota=Quota.of(policy.quota_devices, policy.quota_days),
        )
        found.summary["looks_too_young"] = self._looks_too_young(context, found.summary)
        self._log(found)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="summary", value=found.summary)
            for key in _LISTS:
                context["ti"].xcom_push(key=key, value=getattr(found, key))
        return found.summary

    def _looks_too_young(self, context: Context, summary: dict[str, Any]) -> bool:
        """Return whether the ledger knows less than it did once: restored from an older backup, or replaced."""
        ti = context["ti"]
        before = ti.xcom_pull(task_ids=self.task_id, key="summary", map_indexes=ti.map_index, include_prior_dates=True)
        runs, latest = summary["runs"], summary["latest_run_at"] or ""
        known_runs, known_latest = runs, latest
        if isinstance(before, Mapping) and "known_runs" in before:
            known_runs = max(runs, int(before["known_runs"]))
            known_latest = max(latest, str(before["known_latest_run_at"] or ""))
        # Kept from run to run, so that it stays true until the ledger knows as much again.
        summary |= {"known_runs": known_runs, "known_latest_run_at": known_latest or None}
        if runs == known_runs and latest == known_latest:
            return False
        self.log.warning(
            "The ledger looks too young: it has %d runs, the latest of %s, and had %d, the latest of %s. Was it "
            "restored from an older backup, or replaced? Deletions that it does not know count in no quota, prove "
            "nothing, and are not looked for.",
            runs,
            latest or None,
            known_runs,
            known_latest or None,
        )
        return True

    def _log(self, found: ReconcileResult) -> None:
        summary = found.summary
        self.log.info(
            "%d devices are there now. Of %d that were to be deleted %d are gone, %d still present and %d back again. "
            "Seats won: %d, less %d that came back: %d.",
            summary["devices"],
            summary["requested"],
            summary["gone"],
            summary["still_present"],
            summary["returned"],
            summary["seats_won"],
            summary["seats_returned"],
            summary["net"],
        )
        if summary["set_up_anew"]:
            self.log.warning(
                "%d devices are gone, and another device has their name: set up anew, or a namesake that was there "
                "before; or the query lists another kind of uid than they were deleted by.",
                summary["set_up_anew"],
            )
        if summary["not_compared"]:
            self.log.warning(
                "%d deletions were not compared: they are of the other kind of uid, or may be; newer than this export; "
                "or of a run that has not ended.",
                summary["not_compared"],
            )
        for key in _LISTS:
            if summary[key] > len(getattr(found, key)):
                self.log.warning(
                    "The XCom %s has the first %d of %d devices.", key, len(getattr(found, key)), summary[key]
                )


def _list_name(origin: RunOrigin) -> str:
    name = f"{origin.dag_id}.{origin.task_id}" + (f"[{origin.map_index}]" if origin.map_index >= 0 else "")
    try:
        return check_list_name(name)
    except NexthinkInputError:
        raise NexthinkInputError("The ids of the Dag and the task are too long for a name: set list_name.") from None
