"""A saved query as a Dag names it: its id and its parameters.

A module of its own because the operators check the id while a Dag file is parsed: ``api.nql`` brings the HTTP client,
which costs as much again as importing all the operators does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Rational, Real
from typing import Any

from airflow_provider_nexthink.exceptions import NexthinkInputError

# `^#[a-z0-9_]{2,255}$` and 255 characters at most (NQL API 1.2.0)
_QUERY_ID = re.compile(r"#[a-z0-9_]{2,254}")


def check_query_id(query_id: object) -> str:
    """Return the id of a saved query, if it is one.

    :param query_id: ``#`` and then 2 to 254 small letters, digits or underscores.
    :return: the id, as it came.
    :raises NexthinkInputError: if it is not.
    """
    if not isinstance(query_id, str) or not _QUERY_ID.fullmatch(query_id):
        raise NexthinkInputError(
            f"{query_id!r} is not an NQL query id: it starts with '#', followed by 2 to 254 of a-z, 0-9 and _. Only "
            "queries that are saved in Nexthink (NQL API queries) can be run, not the text of a query."
        )
    return query_id


def parameters_as_text(parameters: object) -> dict[str, str]:
    """Return the parameters of a query as the API takes them.

    :param parameters: a mapping of names to text or numbers, those of NumPy and ``Decimal`` included.
    :return: each value as text. Whole numbers have no decimal point.
    :raises NexthinkInputError: if it is not such a mapping.
    """
    if not isinstance(parameters, Mapping):
        raise NexthinkInputError(
            f"parameters is a {type(parameters).__name__}: it takes a mapping of names to text or numbers."
        )
    for name in parameters:
        if not isinstance(name, str):
            raise NexthinkInputError(f"The name of an NQL parameter is {name!r}: it takes text.")
    return {name: _as_text(name, value) for name, value in parameters.items()}


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return str(value)
    number: Any = None if isinstance(value, bool) else value
    try:
        if isinstance(number, Integral):
            return str(int(number))
        if isinstance(number, Decimal | Real) and not isinstance(number, Rational) and math.isfinite(number):
            exact = Decimal(str(number))
            whole = exact.to_integral_value()
            return f"{whole if whole == exact else exact:f}"
    except (TypeError, ValueError):  # NumPy's timedelta; a signaling NaN, or more digits than Python writes
        pass
    raise NexthinkInputError(f"The NQL parameter {name!r} is {value!r}: it takes text or a number.")
