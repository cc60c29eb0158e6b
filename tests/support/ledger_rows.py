"""The rows of the ledger of ``nexthink_default``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from airflow_provider_nexthink.hooks.nexthink import NexthinkHook


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table of the ledger, in the order of their keys.

    :param table: of ``ledger.schema``.
    """
    with NexthinkHook() as hook, hook.get_ledger().database.transaction() as connection:
        rows = connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row._mapping) for row in rows]
