"""What the operators share: how an error ends a task, and how rows look in XCom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_nexthink.compat import AirflowFailException
from airflow_provider_nexthink.exceptions import NexthinkFinalError, NexthinkInputError

RETURN_FORMATS = ("records", "columns", "dataframe")


@contextmanager
def final_errors_fail_the_task() -> Iterator[None]:
    """Fail the task without a retry where a retry changes nothing; the error itself is the ``__cause__``.

    :raises AirflowFailException: for an input error or a final error.
    """
    try:
        yield
    except (NexthinkInputError, NexthinkFinalError) as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def is_template(value: object) -> bool:
    """Tell whether a value is known only when the task runs: a Jinja template, an XComArg, a ``literal()``."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return hasattr(type(value), "iter_references")
