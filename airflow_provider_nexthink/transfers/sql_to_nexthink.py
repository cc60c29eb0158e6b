"""From a SQL database to Nexthink: deletes the devices that a query finds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_nexthink.deletion.options import check_text
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._base import NexthinkOptionError, is_template, option_errors
from airflow_provider_nexthink.operators._options import DeleteDevicesOptions
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.utils.sql import sql_hook

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import Context

    from airflow_provider_nexthink.devices.reader import DeviceRows

_ROWS_AT_ONCE = 10_000

POSTGRES_CHAR = 1042
"""The type code of CHAR(n), which PostgreSQL pads with blanks (its catalogue's oid of ``bpchar``)."""


def _tokens(quotes: str) -> re.Pattern[str]:
    """Return what finds the tokens of SQL; whitespace is none of them."""
    return re.compile(
        rf"""(?P<comment>--[^\n]*|/\*.*?\*/|(?<=;)\s*(?:\#|//)[^\n]*)
        |(?P<code>{quotes}|`[^`]*+`|\[[^]'"\n]*]|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
        |(?P<unterminated>['"`]|/\*)
        |(?P<end>;)
        |(?P<other>[^\s;'"`/$-]+|[/$-])""",
        re.DOTALL | re.VERBOSE,
    )


# Databases do not agree on whether a backslash escapes the quote behind it: 'D:\' is a text, or the beginning of one.
_STANDARD = _tokens(r"""'[^']*+'|"[^"]*+\"""")
_ESCAPING = _tokens(r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\"""")


def single_statement(sql: str) -> str | None:
    """Return the one statement in a text, without the semicolon that ends it; None if there are several, or none.

    It guards against mistakes. Text that it cannot tokenize counts as one statement, and is left to the database.

    :param sql: the text.
    """
    readings = [reading for tokens in (_STANDARD, _ESCAPING) if (reading := _statements(sql, tokens)) is not None]
    if not readings:
        return sql.strip().rstrip(";") or None
    return next((statements[0] for statements in readings if len(statements) == 1), None)


def _statements(sql: str, tokens: re.Pattern[str]) -> list[str] | None:
    """Return the statements in a text; None if it cannot be read so, since a quote or a comment does not end."""
    statements = []
    start, is_empty = 0, True
    for token in tokens.finditer(sql):
        if token.lastgroup == "unterminated":
            return None
        if token.lastgroup == "end":
            statements += [] if is_empty else [sql[start : token.start()].strip()]
            start, is_empty = token.end(), True
        elif token.lastgroup != "comment":
            is_empty = False
    return statements if is_empty else [*statements, sql[start:].strip()]


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
            for option in ("sql", "sql_conn_id"):
                if not is_template(value := getattr(self, option)):
                    check_text(option, value)

    def _read_devices(self, context: Context) -> DeviceRows:  # noqa: ARG002 - as its parent has it
        """Run the query and return the devices that it finds."""
        check_text("sql", self.sql)
        if (query := single_statement(self.sql)) is None:
            raise NexthinkInputError("sql takes one query, not several statements. This try ran none and sent nothing.")
        hook = sql_hook(self.sql_conn_id, "sql_conn_id", self.sql_hook_params)
        found: list[DeviceRows] = []

        def read(cursor: Any) -> list[Any]:
            found.append(self._read_cursor(hook, cursor))
            return []  # some hooks convert the handler's result, and expect rows of their own type

        hook.run(query, parameters=self.parameters, handler=read, split_statements=False)
        if not found:
            raise NexthinkInputError(
                f"The hook of the connection {self.sql_conn_id!r} (sql_conn_id), a {type(hook).__name__}, has not "
                "passed on the rows of sql. This try sent nothing. Read them in a task, and pass them as devices."
            )
        return found[-1]

    def _read_cursor(self, hook: DbApiHook, cursor: Any) -> DeviceRows:
        """Read the rows of the query, and keep only the uid, the name and the status of each."""
        from airflow_provider_nexthink.devices.reader import pick_rows

        has_description = hasattr(cursor, "description")  # Exasol's statement has none; its hook has
        description = cursor.description if has_description else hook.get_description(cursor)
        if not description:
            raise NexthinkInputError("sql gives no rows: it takes a query, such as SELECT. This try sent nothing.")
        labels = [column[0] for column in description]
        rows = pick_rows(labels, _rows_of(cursor, labels), self.uid_column, self.name_column)
        if (padded := rows.name_column) in [column[0] for column in description if column[1] == POSTGRES_CHAR]:
            # In SQL the padding is not part of a CHAR value. As part of a name it would name another device.
            self.log.info("The column %s is CHAR: the blanks that fill up its values are cut off.", padded)
            names = [name.rstrip(" ") if isinstance(name, str) else name for name in rows.names]
            return replace(rows, names=names)
        return rows


def _rows_of(cursor: Any, labels: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Read rows by the thousand, also from a cursor that gives mappings."""
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield from _as_sequences(rows, labels)


def _as_sequences(rows: Iterable[Any], labels: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for row in rows:
        yield [row[label] for label in labels] if isinstance(row, Mapping) else row
