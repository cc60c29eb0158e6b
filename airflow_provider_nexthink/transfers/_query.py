"""One query of a SQL database, and its rows as they come from the cursor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_nexthink.deletion.options import check_text
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._base import is_template
from airflow_provider_nexthink.utils.sql import sql_hook

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

_Read = TypeVar("_Read")

_ROWS_AT_ONCE = 10_000

_CURSOR = "nexthink_rows"

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


def check_query_options(sql: object, sql_conn_id: object) -> None:
    """Fail the parsing of a Dag for a query or a connection that is none; not for templates.

    :param sql: the option.
    :param sql_conn_id: the option.
    :raises NexthinkInputError: if it is blank, or not text.
    """
    for option, value in (("sql", sql), ("sql_conn_id", sql_conn_id)):
        if not is_template(value):
            check_text(option, value)


@dataclass(frozen=True)
class QueryRows:
    """The rows of a query.

    :param labels: the names of the columns, as the database has them.
    :param rows: the cells of each row, in that order; once.
    :param padded: the positions of the columns whose values PostgreSQL pads with blanks (CHAR).
    """

    labels: list[Any]
    rows: Iterator[Sequence[Any]]
    padded: list[int]


@dataclass(frozen=True)
class SqlQuery:
    """One query, and where it runs. The arguments are the options of the operators, rendered.

    :param sql: one query that gives rows.
    :param sql_conn_id: the connection to the database.
    :param parameters: values for the query's placeholders, as the database's driver takes them.
    :param sql_hook_params: further arguments for the hook of that connection.
    """

    sql: str
    sql_conn_id: str
    parameters: Mapping[str, Any] | Sequence[Any] | None
    sql_hook_params: Mapping[str, Any] | None

    def run(self, read: Callable[[QueryRows], _Read], *, on_server: bool = False) -> _Read:
        """Run the query.

        :param read: reads the rows, while the cursor is open.
        :param on_server: whether PostgreSQL keeps the result, and gives the rows in parts: its driver would load all of
            them otherwise. It takes a query only that can be declared as a cursor (SELECT, WITH, VALUES, TABLE).
        :return: what ``read`` returned.
        :raises NexthinkInputError: if the query, or the connection, is none.
        """
        check_text("sql", self.sql)
        if (query := single_statement(self.sql)) is None:
            raise NexthinkInputError("sql takes one query, not several statements. This try ran none and sent nothing.")
        hook = sql_hook(self.sql_conn_id, "sql_conn_id", self.sql_hook_params)
        if on_server and getattr(hook, "conn_type", None) == "postgres":
            return self._run_on_server(hook, query, read)
        found: list[_Read] = []

        def handle(cursor: Any) -> list[Any]:
            found.append(read(_query_rows(hook, cursor)))
            return []  # some hooks convert the handler's result, and expect rows of their own type

        hook.run(query, parameters=self.parameters, handler=handle, split_statements=False)
        if not found:
            raise NexthinkInputError(
                f"The hook of the connection {self.sql_conn_id!r} (sql_conn_id), a {type(hook).__name__}, has not "
                "passed on the rows of sql. This try sent nothing. Read them in a task, and pass them as devices."
            )
        return found[-1]

    def _run_on_server(self, hook: DbApiHook, query: str, read: Callable[[QueryRows], _Read]) -> _Read:
        with closing(hook.get_conn()) as connection, closing(connection.cursor(_CURSOR)) as cursor:
            cursor.execute(query, *([self.parameters] if self.parameters else []))
            first = cursor.fetchmany(_ROWS_AT_ONCE)  # before that, psycopg2 does not describe them
            return read(_query_rows(hook, cursor, first))


def _query_rows(hook: DbApiHook, cursor: Any, first: Sequence[Any] | None = None) -> QueryRows:
    has_description = hasattr(cursor, "description")  # Exasol's statement has none; its hook has
    description = cursor.description if has_description else hook.get_description(cursor)
    if not description:
        raise NexthinkInputError("sql gives no rows: it takes a query, such as SELECT. This try sent nothing.")
    labels = [column[0] for column in description]
    padded = [at for at, column in enumerate(description) if column[1] == POSTGRES_CHAR]
    return QueryRows(labels, _rows_of(cursor, labels, first), padded)


def _rows_of(cursor: Any, labels: Sequence[Any], first: Sequence[Any] | None) -> Iterator[Sequence[Any]]:
    """Read rows by the thousand, also from a cursor that gives mappings."""
    rows = cursor.fetchmany(_ROWS_AT_ONCE) if first is None else first
    while rows:
        for row in rows:
            yield [row[label] for label in labels] if isinstance(row, Mapping) else row
        rows = cursor.fetchmany(_ROWS_AT_ONCE)
