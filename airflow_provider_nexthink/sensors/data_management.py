"""Sensor for devices that Nexthink's Data Management API was asked to delete."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_nexthink.api.query import check_query_id, parameters_as_text
from airflow_provider_nexthink.deletion import options
from airflow_provider_nexthink.exceptions import (
    NexthinkExportError,
    NexthinkExportTimeoutError,
    NexthinkInputError,
    NexthinkRetryableError,
)
from airflow_provider_nexthink.links.nexthink import NexthinkNqlDocsLink, NexthinkTenantLink
from airflow_provider_nexthink.operators._base import (
    DevicesMixin,
    check_parameters,
    fail_without_retry,
    is_template,
    option_errors,
)
from airflow_provider_nexthink.operators._event import ExportEvent
from airflow_provider_nexthink.version_compat import AirflowSensorTimeout, AirflowSkipException, default_deferrable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.api.nql import NqlRows
    from airflow_provider_nexthink.deletion.removal import RemovalCheck
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

_MARGIN_SECONDS = 600.0


class NexthinkDevicesGoneSensor(DevicesMixin, BaseSensorOperator):
    """Wait until the devices of an outcome table are gone from Nexthink's inventory.

    Polls a saved query that lists *every* device: a device that it does not list counts as gone. Succeeds when all
    devices that were SCHEDULED are gone. The XCom ``return_value`` is a table with one ``{"uid", "name", "status"}``
    for every row of ``devices``: GONE or STILL_PRESENT if Nexthink was asked to delete the device, else the status that
    it had. It is pushed on a timeout, too. If the connection has a ledger, each check is recorded there. A check that
    fails with a transient error is a warning in the log, and the next one tries again; an error that no retry changes
    fails the task at once.

    :param devices: an outcome table (``delete.output``), or devices in any form that
        ``NexthinkDeleteDevicesOperator`` takes. (templated, if text)
    :param query_id: the id of the saved query that lists every device, such as ``#all_devices``. (templated)
    :param parameters: values for the query's ``where`` clause, text or numbers. (templated)
    :param nexthink_conn_id: the connection. (templated)
    :param uid_column: which column of the query's result holds the uid under which the devices were deleted; None to
        find it by its name. (templated)
    :param deferrable: whether to wait in the triggerer, where it holds no worker; by default what Airflow's option
        ``[operators] default_deferrable`` says.
    :param poke_interval: time between two checks, seconds or ``timedelta``; each check takes an export.
    :param timeout: maximum time to wait, seconds or ``timedelta``; None for Airflow's
        ``[sensors] default_timeout`` (7 days).
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = ("devices", "query_id", "parameters", "nexthink_conn_id", "uid_column")
    template_ext: Sequence[str] = ()
    template_fields_renderers = {"parameters": "json"}  # noqa: RUF012 - as Airflow declares it
    operator_extra_links = (NexthinkTenantLink(), NexthinkNqlDocsLink())
    ui_color = "#e8e4f8"

    def __init__(
        self,
        *,
        devices: object,
        query_id: str,
        parameters: Mapping[str, Any] | None = None,
        nexthink_conn_id: str = "nexthink_default",
        uid_column: str | None = None,
        deferrable: bool | None = None,
        poke_interval: timedelta | float = 600,
        timeout: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        if timeout is not None:  # Airflow before 3.2 refuses None
            kwargs["timeout"] = timeout
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.devices = devices
        self.query_id = query_id
        self.parameters = parameters
        self.nexthink_conn_id = nexthink_conn_id
        self.uid_column = uid_column
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self._removal_check: RemovalCheck | None = None
        self._has_checked = False
        self._failure: NexthinkRetryableError | None = None
        with option_errors():
            self._check_options()

    def execute(self, context: Context) -> Any:
        """Check until all are gone, and return the table."""
        check = self._read_devices()
        self.log.info("%d devices, %d of them expected to go.", len(check), check.expected)
        if not check.requested:
            return check.table()
        if self.deferrable:
            now = time.time()
            self._defer_until(now, end_time=now + self.timeout)
        try:
            return super().execute(context)
        except (AirflowSensorTimeout, AirflowSkipException) as ended:
            if ended.__cause__ is not None:
                raise
            # The time has run out; nothing has failed.
            self._push_table(context)
            raise type(ended)(f"{ended} {self._describe()}") from self._failure

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - as its parent has it
        """Check once."""
        are_gone = self._check(self._export, time.time())
        return PokeReturnValue(are_gone, self._watched.table() if are_gone else None)

    def execute_complete(self, context: Context, event: Mapping[str, Any], started_at: float | None = None) -> Any:
        """Compare the devices with the export, and return the table or keep waiting.

        :param context: of the task.
        :param event: of ``NexthinkQueryTrigger``.
        :param started_at: the earliest time at which the export was started, in seconds since the epoch; None for now.
        """
        ended = ExportEvent.read(event)
        if ended.failure:
            self.log.warning("The triggerer could not wait for the export: %s", ended.failure)
        if self._check(lambda hook: self._fetch(hook, ended), started_at or time.time()):
            return self._watched.table()
        self._push_table(context)  # the next check may fail, and another process makes it
        now = time.time()
        if now >= ended.end_time:
            raise AirflowSensorTimeout(f"The time has run out. {self._describe()}") from self._failure
        limit = getattr(self._failure, "retry_after", None) or 0.0
        self._defer_until(min(now + max(self.poke_interval, limit), ended.end_time), end_time=ended.end_time)
        return None

    def _fetch(self, hook: NexthinkHook, ended: ExportEvent) -> NqlRows:
        """Read the devices, and fetch the export of the triggerer; if it could not start one, export here."""
        self._read_devices()
        if ended.export_id is None:
            return self._export(hook)
        if not hook.get_conn().is_export_ready(ended.export_id):
            raise NexthinkExportError(f"The export {ended.export_id} is not ready. {ended.failure or ''}".rstrip())
        return hook.fetch_export(ended.export_id, query_id=self.query_id)

    def _export(self, hook: NexthinkHook) -> NqlRows:
        from airflow_provider_nexthink.api import nql

        return hook.export_nql(self.query_id, self.parameters, timeout=nql.EXPORT_SECONDS)

    def _check(self, fetch: Callable[[NexthinkHook], NqlRows], started_at: float) -> bool:
        """Check once whether all are gone. A transient error does not end the wait: the next check tries again."""
        self._failure = None
        try:
            with fail_without_retry(), self._new_hook() as hook:
                rows = fetch(hook)
                self._record(hook, rows, started_at)
                return self._compare(rows)
        except NexthinkExportTimeoutError as error:  # its message names a timeout that is not the sensor's
            late = f"The export of {self.query_id} was not ready in time. If that happens often, list fewer columns."
            self._failure = NexthinkExportTimeoutError(late, request_id=error.request_id)
        except NexthinkRetryableError as error:
            self._failure = error
        self.log.warning("This check failed; the next one tries again, until the time runs out. %s", self._failure)
        return False

    def _new_hook(self) -> NexthinkHook:
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        return NexthinkHook(self.nexthink_conn_id)

    @property
    def _watched(self) -> RemovalCheck:
        return self._read_devices() if self._removal_check is None else self._removal_check

    def _read_devices(self) -> RemovalCheck:
        from airflow_provider_nexthink.deletion.removal import RemovalCheck
        from airflow_provider_nexthink.devices.reader import read_devices
        from airflow_provider_nexthink.utils.storage import open_file

        with fail_without_retry():
            self._removal_check = RemovalCheck(read_devices(self._given_devices(), open_file=open_file))
        return self._removal_check

    def _record(self, hook: NexthinkHook, rows: NqlRows, started_at: float) -> None:
        """Record in the ledger, if there is one, what this check finds of the devices of the list."""
        if hook.get_conn().ledger is None:
            return
        hook.get_ledger().reconcile(
            rows,
            query_id=self.query_id,
            uid_column=self.uid_column,
            started_at=datetime.fromtimestamp(started_at, UTC),
            uids=self._watched.uids,
        )

    def _compare(self, rows: NqlRows) -> bool:
        """Compare the devices with a list of the whole fleet. A list that proves nothing is an error."""
        from airflow_provider_nexthink.devices.columns import NAME_COLUMNS, UID_COLUMNS, find_column
        from airflow_provider_nexthink.devices.identity import canonical_uid

        if not rows:
            raise NexthinkExportError(f"{self.query_id} lists no device at all: that proves nothing.")
        column = find_column(rows, "uid", self.uid_column, UID_COLUMNS)
        present = {canonical_uid(cell) for cell in column.cells}
        if None in present:
            raise NexthinkInputError(
                f"The column {column.label!r} of {self.query_id} has values that are no uid: that proves nothing. List "
                "the uid that the devices were deleted by, or name its column with uid_column."
            )
        are_gone = self._watched.update({uid for uid in present if uid})
        self._has_checked = True
        self.log.info("%d devices are there now; of the list: %s", len(rows), self._watched.counts())
        with suppress(NexthinkInputError):  # a result without names is fine
            names = set(find_column(rows, "name", None, NAME_COLUMNS).cells)
            if same := self._watched.gone_with_name_present(names):
                self.log.warning(
                    "%d devices count as gone, but another uid has their name: set up anew, or namesakes that were "
                    "there before; or the query lists another kind of uid than the devices were deleted by.",
                    same,
                )
        return are_gone

    def _defer_until(self, start_time: float, *, end_time: float) -> None:
        """Defer: the triggerer exports the inventory at that time."""
        from airflow_provider_nexthink.api import nql
        from airflow_provider_nexthink.triggers.nql import NexthinkQueryTrigger

        with fail_without_retry():
            parameters = None if self.parameters is None else parameters_as_text(self.parameters)
        trigger = NexthinkQueryTrigger(
            nexthink_conn_id=self.nexthink_conn_id,
            query_id=self.query_id,
            parameters=parameters,
            start_time=start_time,
            poll_interval=nql.POLL_SECONDS,
            timeout=nql.EXPORT_SECONDS,
            end_time=end_time,
        )
        # Without a triggerer nothing would ever end the wait.
        longest = max(0.0, end_time - time.time()) + 2 * nql.EXPORT_SECONDS + _MARGIN_SECONDS  # to start, and to wait
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            kwargs={"started_at": start_time},
            timeout=timedelta(seconds=longest),
        )

    def _push_table(self, context: Context) -> None:
        if self.do_xcom_push and self._has_checked:  # else the table says nothing yet
            context["ti"].xcom_push(key="return_value", value=self._watched.table())

    def _describe(self) -> str:
        """Describe what is known when the time has run out."""
        known = self._watched.describe() if self._has_checked else "Which devices are gone is not known."
        if self.deferrable and not self._has_checked:
            known = f"{known} If an earlier check has succeeded, the XCom return_value has what it found."
        return f"{known} The last check failed: {self._failure}" if self._failure else known

    def _check_options(self) -> None:
        """Fail the parsing of a Dag for an option that cannot take effect."""
        if not is_template(self.query_id):
            check_query_id(self.query_id)
        check_parameters(self.parameters)
        if not is_template(self.uid_column):
            options.check_column("uid_column", self.uid_column)
        if self.deferrable and self.exponential_backoff:
            raise NexthinkInputError("exponential_backoff does nothing with deferrable=True: set poke_interval.")
