"""What the operators share: how an error ends a task, and how devices are kept out of Jinja and the UI."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_nexthink.devices.formats import is_path, redacted_path
from airflow_provider_nexthink.exceptions import NexthinkFinalError, NexthinkInputError
from airflow_provider_nexthink.strict_json import read_json
from airflow_provider_nexthink.version_compat import AirflowFailException

if TYPE_CHECKING:
    import jinja2

RETURN_FORMATS = ("records", "columns", "dataframe")


@contextmanager
def fail_without_retry() -> Iterator[None]:
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
        if isinstance(value, cls):
            return value
        return value if is_template(value) else cls(value)

    def serialize(self) -> str:
        """Return what Airflow shows instead of the devices."""
        kind = type(self.value).__name__
        if isinstance(self.value, str):
            text = self.value.strip()
            return f"the file {redacted_path(text)}" if is_path(text) else f"text of {len(text)} characters"
        if isinstance(self.value, Mapping) or not isinstance(self.value, Sized):
            return f"devices ({kind})"
        return f"{len(self.value)} rows ({kind})"

    __str__ = serialize


def render_devices(
    template: str, context: Mapping[str, Any], jinja_env: jinja2.Environment, resolved: Collection[int]
) -> DeviceInput:
    """Render a Jinja template for devices so that their text stays as it is.

    Where a Dag renders natively, Jinja reads text as Python, which has other escapes than JSON. A slash with a
    backslash before it, as many programs write it, makes another name.

    :param template: the template, as it was given.
    :param context: of the task.
    :param jinja_env: Jinja's environment; whether it is a native one makes the difference.
    :param resolved: the ``id`` of values that Airflow has resolved, such as the text of a mapped task's XCom. They
        are no templates, whatever they hold.
    :return: text, or natively what a single expression is if that is no text.
    """
    from jinja2.nativetypes import NativeEnvironment

    if id(template) in resolved:
        return DeviceInput(template)
    nodes: list[Any] = list(jinja_env.from_string(template).generate(context))
    return DeviceInput(rendered_value(nodes, is_native=isinstance(jinja_env, NativeEnvironment)))


def rendered_value(nodes: list[Any], *, is_native: bool) -> Any:
    """Return what a template gives: text, or natively what a single expression, or JSON, is.

    :param nodes: what the parts of the template gave.
    :param is_native: whether the task renders natively.
    """
    from jinja2 import Undefined

    values = [node for node in nodes if not isinstance(node, str) or node.strip()]
    if len(values) == 1 and not isinstance(values[0], str | Undefined):
        return values[0]
    text = "".join(map(str, nodes))
    if is_native and is_brackets(text):
        with suppress(ValueError):  # no JSON, or ambiguous: whoever reads the devices says so
            return read_json(text)
    return text


def is_brackets(text: str) -> bool:
    """Tell whether text may be JSON of devices.

    :param text: any.
    """
    return text.lstrip().startswith(("[", "{"))
