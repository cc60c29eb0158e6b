"""The id of a saved query. Without heavy imports: the operators check it while a Dag file is parsed."""

from __future__ import annotations

import re

from airflow_provider_nexthink.exceptions import NexthinkInputError

# `^#[a-z0-9_]{2,255}$` and 255 characters at the most (NQL API 1.2.0)
_QUERY_ID = re.compile(r"#[a-z0-9_]{2,254}")


def check_query_id(query_id: object) -> str:
    """Return the id of a saved query, if it is one.

    :param query_id: ``#`` and then 2 to 254 small letters, digits or underscores.
    :raises NexthinkInputError: if it is not.
    """
    if not isinstance(query_id, str) or not _QUERY_ID.fullmatch(query_id):
        raise NexthinkInputError(
            f"{query_id!r} is no NQL query id: it starts with '#', followed by 2 to 254 of a-z, 0-9 and _. Only "
            "queries that are saved in Nexthink (NQL API queries) can be run, not the text of a query."
        )
    return query_id
