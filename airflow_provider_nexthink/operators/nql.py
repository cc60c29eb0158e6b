"""Operator for Nexthink's NQL API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from airflow_provider_nexthink.client.query_id import check_query_id
from airflow_provider_nexthink.deletion.files import require_parquet
from airflow_provider_nexthink.deletion.options import check_choice
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._task import (
    RETURN_FORMATS,
    final_errors_fail_the_task,
    is_template,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.client.nql import NqlRows


class NexthinkNqlOperator(BaseOperator):
    """Run a query that is saved in Nexthink, and return its rows.

    Every value is text and nothing becomes NaN: devices are really named ``NA``, ``00123`` or ``1E10``.

    :param query_id: the id of the saved query, such as ``#stale_devices``. (templated)
    :param parameters: values for the query's ``where`` clause. (templated)
    :param nexthink_conn_id: the connection. (templated)
    :param mode: ``export`` for results of any size (a file, waited for); ``execute`` for small ones (about 1,000
        rows), at once.
    :param poll_interval: seconds between two looks whether the export is ready, growing to a minute.
    :param timeout: seconds after which to give up on the export.
    :param compression: of the export's file on its way: ``GZIP``, ``ZSTD`` (needs the extra ``zstd``) or ``NONE``.
    :param return_format: how the rows are returned: ``records`` (a list of mappings), ``columns`` (one mapping of
        lists) or ``dataframe`` (needs pyarrow).
    :param allow_truncated: whether to take an export that the licence's maximum cut off.
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = ("query_id", "parameters", "nexthink_conn_id")
    template_fields_renderers = {"parameters": "json"}  # noqa: RUF012 - as Airflow declares it
    ui_color = "#e4eef8"

    def __init__(
        self,
        *,
        query_id: str,
        parameters: Mapping[str, str] | None = None,
        nexthink_conn_id: str = "nexthink_default",
        mode: Literal["export", "execute"] = "export",
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        compression: Literal["NONE", "GZIP", "ZSTD"] = "GZIP",
        return_format: Literal["records", "columns", "dataframe"] = "records",
        allow_truncated: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.query_id = query_id
        self.parameters = parameters
        self.nexthink_conn_id = nexthink_conn_id
        self.mode = mode
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.compression = compression
        self.return_format = return_format
        self.allow_truncated = allow_truncated
        self._check_options()

    def execute(self, context: Context) -> Any:  # noqa: ARG002 - Airflow's signature
        """Run the query and return its rows."""
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        with final_errors_fail_the_task(), NexthinkHook(self.nexthink_conn_id) as hook:
            if self.return_format == "dataframe":
                require_parquet("return_format='dataframe'")
            if self.mode == "execute":
                rows = hook.run_nql(self.query_id, self.parameters)
            else:
                rows = hook.export_nql(
                    self.query_id,
                    self.parameters,
                    compression=self.compression,
                    poll_interval=self.poll_interval,
                    timeout=self.timeout,
                    allow_truncated=self.allow_truncated,
                )
        self.log.info("%s gave %d rows with the columns %s.", self.query_id, len(rows), ", ".join(rows.columns))
        return self._formatted(rows)

    def _check_options(self) -> None:
        """Let a Dag with an option that cannot take effect fail while it is parsed."""
        if not is_template(self.query_id):
            check_query_id(self.query_id)
        check_choice("mode", self.mode, ("export", "execute"))
        check_choice("compression", self.compression, ("NONE", "GZIP", "ZSTD"))
        check_choice("return_format", self.return_format, RETURN_FORMATS)
        for option in ("poll_interval", "timeout"):
            seconds = getattr(self, option)
            if not isinstance(seconds, int | float) or not seconds > 0:
                raise NexthinkInputError(f"{option} is {seconds!r}: it takes a number of seconds above 0.")

    def _formatted(self, rows: NqlRows) -> Any:
        if self.return_format == "records":
            return list(rows)
        columns = {column: [row.get(column, "") for row in rows] for column in rows.columns}
        if self.return_format == "columns":
            return columns
        import pandas as pd

        return pd.DataFrame(columns, dtype="string")
