"""From a SQL database to a Parquet file, whose manifest another task takes as its devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from airflow.sdk import BaseOperator

from airflow_provider_nexthink.devices.columns import find_uid_and_name
from airflow_provider_nexthink.devices.formats import redacted_path
from airflow_provider_nexthink.devices.frames import type_name
from airflow_provider_nexthink.devices.statuses import reason_columns, status_columns
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._base import (
    check_source_path,
    fail_without_retry,
    is_template,
    option_errors,
)
from airflow_provider_nexthink.transfers._query import QueryRows, SqlQuery, check_query_options

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.utils.source_file import SourceFile

_BYTES = bytes | bytearray | memoryview


class SqlToParquetOperator(BaseOperator):
    """Write the rows of a SQL query to a Parquet file, and return the manifest of that file.

    ``devices`` of the other operators takes the manifest: ``path``, ``rows``, ``columns``, ``size`` (bytes) and
    ``checksum`` (BLAKE2b, 128 bits). The rows go from the cursor to the file, however many they are; PostgreSQL gives
    them in parts. The file is there once the whole result has been read, or not at all.

    Text stays as it is, and NULL stays null. Values of other types become text, but for those of the uid and the name:
    a UUID becomes a uid, and any other type is an error.

    :param sql: one query that gives rows, or the name of a .sql file. (templated)
    :param sql_conn_id: the connection to the database, of any type that Airflow has a SQL hook for. (templated)
    :param results_path: the .parquet file, local or on object storage. It needs pyarrow. (templated)
    :param parameters: values for the query's placeholders, as the database's driver takes them. (templated)
    :param sql_hook_params: further arguments for the hook of that connection.
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = ("sql", "sql_conn_id", "parameters", "results_path")
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "parameters": "json"}
    ui_color = "#e4eef8"

    def __init__(
        self,
        *,
        sql: str,
        sql_conn_id: str,
        results_path: str,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        sql_hook_params: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.results_path = results_path
        self.parameters = parameters
        self.sql_hook_params = sql_hook_params
        with option_errors():
            check_query_options(sql, sql_conn_id)
            if not is_template(results_path):
                check_source_path(results_path)

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Run the query, write its rows, and return the manifest of the file."""
        from airflow_provider_nexthink.utils.source_file import SourceFile

        query = SqlQuery(self.sql, self.sql_conn_id, self.parameters, self.sql_hook_params)
        with fail_without_retry(), SourceFile(check_source_path(self.results_path)) as source:
            query.run(lambda result: _write(source, result), on_server=True)
            manifest = source.publish()
        self.log.info(
            "sql gave %d rows with the columns %s, which are in %s (%d bytes).",
            manifest["rows"],
            ", ".join(manifest["columns"]),
            redacted_path(self.results_path),
            manifest["size"],
        )
        return manifest


def _write(source: SourceFile, result: QueryRows) -> None:
    from airflow_provider_nexthink.utils.source_file import in_batches

    labels = list(map(str, result.labels))
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise NexthinkInputError(f"sql gives the column {twice!r} twice: rename one of them with AS.")
    kept = _kept_types(labels)
    words = {*status_columns(labels, -1, -1), *reason_columns(labels, -1, -1)}

    def batches() -> Iterator[list[list[str | None]]]:
        for batch in in_batches(result.rows, len(labels)):
            yield [
                _as_text(_decoded(cells) if at in words else cells, labels[at], kept[at], is_padded=at in result.padded)
                for at, cells in enumerate(batch)
            ]

    source.write(labels, batches())


def _kept_types(labels: list[str]) -> list[tuple[type, ...] | None]:
    """Return which types each column may hold; None for any. Another type than text would name another device.

    Under names of their own, the uid and the name can be any of the columns.
    """
    try:
        uid, name = find_uid_and_name(labels, None, None)
    except NexthinkInputError:
        return [(str, UUID)] * len(labels)
    kept: dict[int, tuple[type, ...]] = {uid: (str, UUID), name: (str,)}
    return [kept.get(at) for at in range(len(labels))]


def _as_text(cells: list[Any], label: str, kept: tuple[type, ...] | None, *, is_padded: bool) -> list[str | None]:
    if not set(map(type, cells)) <= {str, NoneType}:
        others = [cell for cell in cells if kept and not isinstance(cell, (*kept, NoneType))]
        if others:
            raise NexthinkInputError(
                f"The column {label!r} holds {type_name(others[0])} ({str(others[0])[:40]}). It may be a part of what "
                "identifies a device, and is not turned into text here: CAST it in the query. If it is no such part, "
                "name the columns that are with AS uid and AS name. This try wrote no file."
            )
        cells = [_cell_as_text(cell) for cell in cells]
    # In SQL the padding is not part of a CHAR value. As part of a name it would name another device.
    return [cell.rstrip(" ") if cell else cell for cell in cells] if is_padded else cells


def _decoded(cells: list[Any]) -> list[Any]:
    """Return the cells of a status or a reason with bytes that are text as text: it says what must not be sent."""
    return [_text_in(bytes(cell)) if isinstance(cell, _BYTES) else cell for cell in cells]


def _text_in(cell: bytes) -> str | bytes:
    """Return the text of a BINARY or a BLOB, without its padding; the bytes where they are none."""
    text = cell.rstrip(b"\0").decode(errors="replace")
    return text if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else cell


def _cell_as_text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return bytes(cell).hex() if isinstance(cell, _BYTES) else str(cell)
