"""Operator for Nexthink's NQL API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.sdk import BaseOperator

from airflow_provider_nexthink.api.query import check_query_id
from airflow_provider_nexthink.deletion.options import check_choice
from airflow_provider_nexthink.devices.formats import redacted_path, require_dataframe
from airflow_provider_nexthink.exceptions import (
    NexthinkEventError,
    NexthinkExportError,
    NexthinkExportTimeoutError,
    NexthinkFinalError,
    NexthinkInputError,
    NexthinkResultsError,
    NexthinkRetryableError,
)
from airflow_provider_nexthink.links.nexthink import NexthinkNqlDocsLink, NexthinkTenantLink
from airflow_provider_nexthink.operators._base import (
    RETURN_FORMATS,
    check_parameters,
    check_source_path,
    fail_without_retry,
    is_template,
    option_errors,
)
from airflow_provider_nexthink.operators._event import ExportEvent
from airflow_provider_nexthink.operators._export import Export, ExportState
from airflow_provider_nexthink.utils.task_state import TaskState
from airflow_provider_nexthink.version_compat import default_deferrable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.api.nql import NqlRows
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

_Manifest = dict[str, Any]

_MARGIN_SECONDS = 600.0

_TRY_OVER = "This try returns no rows; another one may start another export."


class NexthinkNqlOperator(BaseOperator):
    """Run a query that is saved in Nexthink, and return its rows.

    Every value is text and nothing becomes NaN: devices are really named ``NA``, ``00123`` or ``1E10``.

    With ``results_path`` the rows go to a Parquet file as they arrive, however many they are, and the task returns the
    manifest of that file, which ``devices`` takes: ``path``, ``rows``, ``columns``, ``size`` (bytes) and ``checksum``
    (BLAKE2b, 128 bits). The file is there once the whole result has been read, or not at all.

    :param query_id: the id of the saved query, such as ``#stale_devices``. (templated)
    :param parameters: values for the query's ``where`` clause, text or numbers. (templated)
    :param nexthink_conn_id: the connection. (templated)
    :param query_mode: ``export`` for results of any size, through a file; ``execute`` for small ones (about 1,000
        rows), in one response.
    :param poll_interval: time between two polls for the export, seconds or ``timedelta``; it grows to a minute.
    :param timeout: maximum time to wait for the export, seconds or ``timedelta``.
    :param compression: compression of the result file: ``GZIP``, ``ZSTD`` (needs the extra ``zstd``) or ``NONE``.
    :param return_format: how the rows are returned: ``records`` (a list of mappings), ``columns`` (one mapping of
        lists) or ``dataframe`` (needs pandas and pyarrow).
    :param results_path: write the rows to this .parquet file instead, local or on object storage, and return its
        manifest. It needs pyarrow, and goes with no ``return_format``. (templated)
    :param allow_truncated: whether to accept an export that was cut off at the license's maximum.
    :param deferrable: whether to wait for the export in the triggerer, where it holds no worker; by default what
        Airflow's option ``[operators] default_deferrable`` says.
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = ("query_id", "parameters", "nexthink_conn_id", "results_path")
    template_fields_renderers = {"parameters": "json"}  # noqa: RUF012 - as Airflow declares it
    operator_extra_links = (NexthinkTenantLink(), NexthinkNqlDocsLink())
    ui_color = "#e4eef8"

    def __init__(
        self,
        *,
        query_id: str,
        parameters: Mapping[str, Any] | None = None,
        nexthink_conn_id: str = "nexthink_default",
        query_mode: Literal["export", "execute"] = "export",
        poll_interval: timedelta | float = 5.0,
        timeout: timedelta | float = 3600.0,
        compression: Literal["NONE", "GZIP", "ZSTD"] = "GZIP",
        return_format: Literal["records", "columns", "dataframe"] = "records",
        results_path: str | None = None,
        allow_truncated: bool = False,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.query_id = query_id
        self.parameters = parameters
        self.nexthink_conn_id = nexthink_conn_id
        self.query_mode = query_mode
        with option_errors():
            self.poll_interval = _seconds("poll_interval", poll_interval)
            self.timeout = _seconds("timeout", timeout)
        self.compression = compression
        self.return_format = return_format
        self.results_path = results_path
        self.allow_truncated = allow_truncated
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        with option_errors():
            self._check_options()

    def execute(self, context: Context) -> Any:
        """Run the query and return its rows, or the manifest of the file that they are in."""
        with fail_without_retry(), self._new_hook() as hook:
            if self.return_format == "dataframe":
                require_dataframe("return_format='dataframe'")
            if self.results_path is not None:
                from airflow_provider_nexthink.utils.storage import check_results_path

                check_results_path(check_source_path(self.results_path))
            if self.query_mode == "execute":
                started_at = time.time()
                return self._return(context, hook, self._run_at_once(hook), started_at)
            state = self._export_state(context, hook)
            with _cleared_unless_resumable(state):
                export = state.load(time.time())
                if export is None:
                    export_id = hook.get_conn().start_export(
                        self.query_id, self.parameters, compression=self.compression
                    )
                    export = Export(export_id, time.time() + self.timeout)
                    state.save(export)
                else:
                    self.log.info("An earlier try has started the export %s: this one resumes it.", export.export_id)
                if self.deferrable:
                    self._defer(export)
                return self._return(context, hook, self._fetch(hook, export), export.end_time - self.timeout)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Fetch the export, or keep waiting if it is not ready yet and there is time.

        :param context: of the task.
        :param event: of ``NexthinkExportTrigger``.
        """
        ended = ExportEvent.read(event)
        if ended.export_id is None:
            raise NexthinkEventError("The triggerer resumed this task with an event that names no export.")
        if ended.failure:
            self.log.warning("The triggerer could not wait for the export: %s", ended.failure)
        export = Export(ended.export_id, ended.end_time)
        with (
            fail_without_retry(),
            self._new_hook() as hook,
            _cleared_unless_resumable(self._export_state(context, hook)),
        ):
            fetched = self._fetch_if_ready(hook, export)
            if fetched is None:
                self._defer(export)
            return self._return(context, hook, fetched, export.end_time - self.timeout)

    def _new_hook(self) -> NexthinkHook:
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        return NexthinkHook(self.nexthink_conn_id)

    def _export_state(self, context: Context, hook: NexthinkHook) -> ExportState:
        query = {
            "account": hook.account,
            "query_id": self.query_id,
            "parameters": self.parameters,
            "compression": self.compression,
        }
        return ExportState(TaskState.of(context, consequence=_TRY_OVER), query)

    def _defer(self, export: Export) -> NoReturn:
        from airflow_provider_nexthink.triggers.nql import NexthinkExportTrigger

        trigger = NexthinkExportTrigger(
            nexthink_conn_id=self.nexthink_conn_id,
            export_id=export.export_id,
            poll_interval=self.poll_interval,
            end_time=export.end_time,
        )
        # Without a triggerer nothing would ever end the wait.
        longest = max(0.0, export.end_time - time.time()) + _MARGIN_SECONDS
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=longest))

    def _run_at_once(self, hook: NexthinkHook) -> NqlRows | _Manifest:
        rows = hook.run_nql(self.query_id, self.parameters)
        if self.results_path is None:
            return rows
        from airflow_provider_nexthink.utils.source_file import SourceFile, in_batches

        with SourceFile(self.results_path) as source:
            cells = ([row.get(column, "") for column in rows.columns] for row in rows)
            source.write(rows.columns, in_batches(cells, len(rows.columns)))
            return source.publish()

    def _fetch(self, hook: NexthinkHook, export: Export) -> NqlRows | _Manifest:
        """Wait for the export until its time is over, and fetch it."""
        hook.get_conn().wait_for_export(
            export.export_id, poll_interval=self.poll_interval, timeout=export.end_time - time.time()
        )
        return self._fetch_file(hook, export)

    def _fetch_if_ready(self, hook: NexthinkHook, export: Export) -> NqlRows | _Manifest | None:
        """Fetch an export, or return None to keep waiting. Transient errors do not end the wait while there is time."""
        try:
            if hook.get_conn().is_export_ready(export.export_id):
                return self._fetch_file(hook, export)
        except (NexthinkExportError, NexthinkResultsError):
            raise  # of the export itself, or of where its rows go: waiting longer does not help
        except NexthinkRetryableError as error:
            if time.time() + (getattr(error, "retry_after", None) or 0.0) >= export.end_time:
                raise
            self.log.warning("Still waiting for the export %s, there is time left: %s", export.export_id, error)
            return None
        if time.time() >= export.end_time:
            raise NexthinkExportTimeoutError(
                f"The export {export.export_id} was not ready in time. Narrow the query, or raise the timeout."
            )
        self.log.info("The export %s is not ready yet.", export.export_id)
        return None

    def _fetch_file(self, hook: NexthinkHook, export: Export) -> NqlRows | _Manifest:
        if self.results_path is None:
            return hook.fetch_export(export.export_id, query_id=self.query_id, allow_truncated=self.allow_truncated)
        from airflow_provider_nexthink.utils.source_file import SourceFile, in_batches

        with SourceFile(self.results_path) as source:
            hook.read_export(
                export.export_id,
                lambda result: source.write(result.columns, in_batches(result.rows, len(result.columns))),
                query_id=self.query_id,
                allow_truncated=self.allow_truncated,
            )
            return source.publish()

    def _return(self, context: Context, hook: NexthinkHook, fetched: NqlRows | _Manifest, started_at: float) -> Any:
        if not isinstance(fetched, dict):
            return self._finalize(context, hook, fetched, started_at)
        self.log.info(
            "%s gave %d rows with the columns %s, which are in %s (%d bytes).",
            self.query_id,
            fetched["rows"],
            ", ".join(fetched["columns"]),
            redacted_path(fetched["path"]),
            fetched["size"],
        )
        return fetched

    def _finalize(self, context: Context, hook: NexthinkHook, rows: NqlRows, started_at: float) -> Any:  # noqa: ARG002 - for subclasses
        """Return what the task returns.

        :param context: of the task.
        :param hook: of the connection.
        :param rows: the result of the query.
        :param started_at: when the query was started, in seconds since the epoch.
        """
        self.log.info("%s gave %d rows with the columns %s.", self.query_id, len(rows), ", ".join(rows.columns))
        return self._formatted(rows)

    def _check_options(self) -> None:
        """Fail the parsing of a Dag for an option that cannot take effect."""
        if not is_template(self.query_id):
            check_query_id(self.query_id)
        check_parameters(self.parameters)
        check_choice("query_mode", self.query_mode, ("export", "execute"))
        check_choice("compression", self.compression, ("NONE", "GZIP", "ZSTD"))
        check_choice("return_format", self.return_format, RETURN_FORMATS)
        if self.results_path is None:
            return
        if self.return_format != "records":
            raise NexthinkInputError(
                f"return_format={self.return_format!r} does nothing with results_path: the task returns the manifest "
                "of the file. Leave it out."
            )
        if not is_template(self.results_path):
            check_source_path(self.results_path)

    def _formatted(self, rows: NqlRows) -> Any:
        if self.return_format == "records":
            return list(rows)
        columns = {column: [row.get(column, "") for row in rows] for column in rows.columns}
        if self.return_format == "columns":
            return columns
        import pandas as pd

        return pd.DataFrame(columns, dtype="string")


def _seconds(option: str, value: Any) -> float:
    """Return a time in seconds."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, Real | Decimal) and not isinstance(value, bool):
        with suppress(TypeError, ValueError, OverflowError):  # NumPy's timedelta; a signaling NaN; a huge integer
            if 0 < (seconds := float(number)) < inf:
                return seconds
    raise NexthinkInputError(f"{option} is {value!r}: it takes a number of seconds above 0, or a timedelta.")


@contextmanager
def _cleared_unless_resumable(state: ExportState) -> Iterator[None]:
    """Keep an export for a retry only if it may still give the rows: after a tenant that was down, or a kill."""
    try:
        yield
    except (NexthinkInputError, NexthinkFinalError, NexthinkExportError):
        state.clear()
        raise
    else:
        state.clear()
