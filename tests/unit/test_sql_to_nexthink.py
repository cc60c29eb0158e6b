"""What counts as one statement of SQL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.transfers._query import single_statement


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT [a;b] FROM t",
        "SELECT ARRAY['a]; b'][1]",
        "SELECT ';'",
        "SELECT 'a''; b'",
        """SELECT ";", `;`, ';'""",
        "SELECT 1 -- a; b",
        "SELECT 1 -- it's; here\n",
        "SELECT /* a; b */ 1",
        "SELECT $$ ; $$",
        "SELECT $tag$ it's; $$ ; $tag$, 1",
        "SELECT 'D:\\'",
        "SELECT 'D:\\', ';'",
        "SELECT x LIKE 'a\\_%' ESCAPE '\\' AND y = ';'",
        r"SELECT 'it\'s; here'",
        r"SELECT 'it\'s; here', 'it\'s; there'",
        r'SELECT "it\"s; here"',
        "SELECT it's; not SQL",
        "SELECT '" + "x" * 1_000_000 + ";'",
        "SELECT " + "'x;', " * 200_000 + "1",
        "SELECT " + "(" * 10_000 + "';'" + ")" * 10_000,
    ],
)
def test_single_statement_of_one_query_is_the_query(sql: str) -> None:
    assert single_statement(sql) == sql.strip()


@pytest.mark.parametrize(
    "end",
    [
        ";",
        " ;",
        ";\n",
        " ; ; ",
        ";-- done",
        "; -- it's done",
        ";\n/* done; */\n",
        "; ;--;",
        "; # it's; done",
        ";// done;\n",
    ],
)
def test_single_statement_with_a_semicolon_at_its_end_is_the_query_without_it(end: str) -> None:
    for sql in ("SELECT 1", "SELECT ';'", "SELECT 'D:\\'", r"SELECT 'it\'s; here'", "SELECT 1 -- a; b\n"):
        assert single_statement(sql + end) == sql.strip()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DELETE FROM assets",
        "SELECT 1;DELETE FROM assets;",
        "; SELECT 1; SELECT 2",
        "SELECT 'D:\\'; DELETE FROM assets",
        "SELECT 'D:\\' ;DELETE FROM assets WHERE name = 'x'",
        r"SELECT 'it\'s'; DELETE FROM assets",
        "SELECT 1 /* ; */; DELETE FROM assets",
        "SELECT 1 -- ;\n; DELETE FROM assets",
        "SELECT $$;$$; DELETE FROM assets",
        "SELECT 1; # a comment\nDELETE FROM assets",
        "SELECT a[1]; DELETE FROM assets WHERE b[2] = 1",
    ],
)
def test_single_statement_of_several_is_none(sql: str) -> None:
    assert single_statement(sql) is None


@given(st.text("';-/*$\\\"`ax \n", max_size=30))
def test_single_statement_of_any_text_adds_nothing(text: str) -> None:
    statement = single_statement(text)
    assert statement is None or statement in text


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="'\\")), max_size=5))
def test_single_statement_keeps_any_text_in_quotes(texts: list[str]) -> None:
    sql = "SELECT " + ", ".join(f"'{text}'" for text in texts) + ", 1"
    assert single_statement(f"{sql};") == single_statement(sql) == sql
    assert single_statement(f"{sql}; DELETE FROM assets") is None
