"""What the operators share: how an error ends a task, and how devices are kept out of Jinja and the UI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager

from airflow_provider_nexthink.compat import AirflowFailException
from airflow_provider_nexthink.deletion.files import is_path, shown_path
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


class DeviceInput:
    """Devices as they were given, kept away from Jinja and out of the rendered view.

    Rendering would turn the name ``1e10`` into a number, run what stands in a name as a template, and put
    the whole list into the metadata database.

    :param value: what was passed as ``devices``.
    """

    def __init__(self, value: object) -> None:
        self.value = value

    @classmethod
    def around(cls, value: object) -> object:
        """Wrap what is no template. Airflow sets a field again once its template is resolved: it is wrapped then."""
        return value if isinstance(value, cls) or is_template(value) else cls(value)

    def serialize(self) -> str:
        """Return what Airflow shows instead of the devices."""
        kind = type(self.value).__name__
        if isinstance(self.value, str):
            text = self.value.strip()
            return f"the file {shown_path(text)}" if is_path(text) else f"text of {len(text)} characters"
        if isinstance(self.value, Mapping) or not isinstance(self.value, Sized):
            return f"devices ({kind})"
        return f"{len(self.value)} rows ({kind})"

    __str__ = serialize
