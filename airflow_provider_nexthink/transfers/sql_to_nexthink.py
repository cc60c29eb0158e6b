"""From a SQL database to Nexthink: deletes the devices that a query finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_nexthink.operators._base import NexthinkOptionError, option_errors
from airflow_provider_nexthink.operators._options import DeleteDevicesOptions
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.transfers._query import QueryRows, SqlQuery, check_query_options

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.devices.reader import DeviceRows


class SqlToNexthinkDeleteDevicesOperator(NexthinkDeleteDevicesOperator):
    """Ask Nexthink to delete the devices that a SQL query finds. There is no undo.

    The rows go from the cursor to the deletion without an XCom. Columns are found by name, whatever their case. It has
    all options of ``NexthinkDeleteDevicesOperator`` but ``devices`` and ``columns``.

    :param sql: one query that gives rows, or the name of a .sql file. (templated)
    :param sql_conn_id: the connection to the database, of any type that Airflow has a SQL hook for. (templated)
    :param parameters: values for the query's placeholders, as the database's driver takes them. (templated)
    :param sql_hook_params: further arguments for the hook of that connection.
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = (
        "sql",
        "sql_conn_id",
        "parameters",
        *(field for field in NexthinkDeleteDevicesOperator.template_fields if field != "devices"),
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "parameters": "json"}

    def __init__(
        self,
        *,
        sql: str,
        sql_conn_id: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        sql_hook_params: Mapping[str, Any] | None = None,
        **kwargs: Unpack[DeleteDevicesOptions],
    ) -> None:
        for option in ("devices", "columns"):
            if option in kwargs:
                raise NexthinkOptionError(
                    f"{option} is no option of {type(self).__name__}: the query gives the devices."
                )
        super().__init__(devices=(), **kwargs)
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.sql_hook_params = sql_hook_params
        with option_errors():
            check_query_options(sql, sql_conn_id)

    def _read_devices(self, context: Context) -> DeviceRows:  # noqa: ARG002 - as its parent has it
        """Run the query and return the devices that it finds."""
        return SqlQuery(self.sql, self.sql_conn_id, self.parameters, self.sql_hook_params).run(self._read_rows)

    def _read_rows(self, result: QueryRows) -> DeviceRows:
        """Read the rows of the query, and keep only the uid, the name and the status of each."""
        from airflow_provider_nexthink.devices.reader import pick_rows

        rows = pick_rows(result.labels, result.rows, self.uid_column, self.name_column)
        if (padded := rows.name_column) in [result.labels[at] for at in result.padded]:
            # In SQL the padding is not part of a CHAR value. As part of a name it would name another device.
            self.log.info("The column %s is CHAR: the blanks that fill up its values are cut off.", padded)
            names = [name.rstrip(" ") if isinstance(name, str) else name for name in rows.names]
            return replace(rows, names=names)
        return rows
