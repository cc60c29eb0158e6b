"""Shared by the operators: errors that no retry changes, and devices that stay out of Jinja and of the UI."""

from __future__ import annotations

from collections import UserList, deque
from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping, Sequence, Sized, ValuesView
from contextlib import contextmanager, suppress
from inspect import getattr_static
from numbers import Number
from typing import TYPE_CHECKING, Any

from airflow.sdk import literal

from airflow_provider_nexthink.api.query import parameters_as_text
from airflow_provider_nexthink.deletion.options import check_text
from airflow_provider_nexthink.deletion.policy import preview
from airflow_provider_nexthink.devices.formats import is_path, redacted_path, suffix_of
from airflow_provider_nexthink.exceptions import NexthinkFinalError, NexthinkInputError
from airflow_provider_nexthink.strict_json import read_json
from airflow_provider_nexthink.version_compat import AirflowFailException, ResolveMixin

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import BaseOperator as _Operator
    from airflow.sdk import Context
else:
    _Operator = object  # its metaclass would make an operator of the mixin

RETURN_FORMATS = ("records", "columns", "dataframe")

_Literal: Any = type(literal(None))
_CONTAINERS = (list, tuple, set, frozenset, deque, UserList, Mapping, ItemsView, ValuesView)


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """Fail the task without a retry if a retry changes nothing; the error itself is the ``__cause__``.

    :raises AirflowFailException: for an input error or a final error.
    """
    try:
        yield
    except (NexthinkInputError, NexthinkFinalError) as error:
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


class NexthinkOptionError(NexthinkInputError, AirflowFailException):
    """An option of a task cannot take effect. A mapped task finds that out when it runs; a retry changes nothing."""


@contextmanager
def option_errors() -> Iterator[None]:
    """Fail the parsing of a Dag, or without a retry a mapped task, for an option that cannot take effect.

    :raises NexthinkOptionError: for an input error.
    """
    try:
        yield
    except NexthinkInputError as error:
        raise NexthinkOptionError(str(error)) from None


def check_parameters(parameters: object) -> None:
    """Refuse parameters of a query that Nexthink does not take, but for templates, which are not known yet.

    :param parameters: as a Dag has them.
    :raises NexthinkInputError: if a value is neither text nor a finite number.
    """
    if isinstance(parameters, Mapping):
        parameters_as_text({name: value for name, value in parameters.items() if not is_template(value)})
    elif parameters is not None and not is_template(parameters):
        parameters_as_text(parameters)


def check_source_path(path: object) -> str:
    """Refuse a path that the rows of a query cannot go to.

    :param path: of the option ``results_path``.
    :raises NexthinkInputError: if it is not that of a Parquet file.
    """
    text = check_text("results_path", path)
    if suffix_of(text) != ".parquet":
        raise NexthinkInputError(f"results_path is {redacted_path(text)}: the rows of a query go to a .parquet file.")
    return text


def is_template(value: object) -> bool:
    """Return whether a value is known only when the task runs: a Jinja template, an XComArg, a callable."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return callable(value) or isinstance(value, ResolveMixin)


class DeviceInput(ResolveMixin):
    """Devices as they were given, kept away from Jinja and out of the rendered view.

    Rendering would turn the name ``1e10`` into a number, run a template that is part of a name, and write the whole
    list to the metadata database. Of the rows and cells, only XComs are resolved.

    :param value: what was passed as ``devices``.
    """

    def __init__(self, value: object) -> None:
        self.value = value

    @classmethod
    def wrap(cls, value: object) -> object:
        """Wrap the value unless it is a template. Airflow sets the field again once its template is resolved."""
        if isinstance(value, _Literal):
            return cls(value.value)
        return value if isinstance(value, cls) or is_template(value) else cls(value)

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Return the XComs among the rows or cells: the task depends on the tasks that they come from.

        :raises NexthinkInputError: if one is in a DataFrame, in which nothing can be resolved.
        """
        for reference in _references_in(self.value):
            yield from reference.iter_references()

    def resolve(self, context: Context) -> DeviceInput:
        """Return the devices with each XCom in its place.

        :param context: of the task.
        :raises AirflowFailException: for an iterator over XComs, which Airflow cannot see.
        """
        return DeviceInput(self._resolved(context))

    def resolve_lists(self, context: Context, *, needs_all: bool = False) -> DeviceInput:
        """Return the devices with each XCom in its place. A list of devices among rows becomes more rows.

        :param context: of the task.
        :param needs_all: whether a task that returned nothing is an error, and not a list without rows.
        :raises AirflowFailException: for an iterator over XComs, which Airflow cannot see.
        """
        value = self._resolved(context)
        if value is self.value or not isinstance(value, list | tuple) or any(map(_is_cell, value)):
            return DeviceInput(value)
        if value and (any if needs_all else all)(part is None for part in value):
            return DeviceInput(None)  # an error, as one task that returned nothing is
        is_xcom = [isinstance(part, ResolveMixin) for part in self.value]  # type: ignore[attr-defined] # as value is
        parts = [
            _as_list_of_devices(part) if came_by_xcom else [part]
            for part, came_by_xcom in zip(value, is_xcom, strict=True)
        ]
        return DeviceInput(parts if any(is_xcom) else value)

    def _resolved(self, context: Context) -> Any:
        value = list(self.value) if isinstance(self.value, Iterator) else self.value
        with fail_without_retry():
            has_references = any(True for _ in _references_in(value))
            if has_references and value is not self.value:
                raise NexthinkInputError(
                    "The devices are an iterator over XComs: Airflow does not see which tasks they come from. Pass a "
                    "list. This try sent nothing."
                )
        return _resolve(value, context) if has_references else value

    def serialize(self) -> str:
        """Return a summary, which Airflow shows instead of the devices."""
        kind = type(self.value).__name__
        if isinstance(self.value, str):
            text = self.value.strip()
            return f"the file {redacted_path(text)}" if is_path(text) else f"text of {len(text)} characters"
        if isinstance(self.value, Mapping) and isinstance(self.value.get("path"), str):
            rows = f"rows {self.value['start']} to {self.value.get('stop')} of " if "start" in self.value else ""
            return f"{rows}the file {redacted_path(self.value['path'])}"
        if isinstance(self.value, Mapping) or not isinstance(self.value, Sized):
            return f"devices ({kind})"
        return f"{len(self.value)} rows ({kind})"

    __str__ = __repr__ = serialize  # Airflow 3.1 shows the repr of a field's parts


def _references_in(value: object) -> Iterator[Any]:
    """Return the XComs, and all else that Airflow resolves, in a container of any depth."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if isinstance(value, ResolveMixin):
            yield value
        elif isinstance(value, _CONTAINERS) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(cell for cell in _cells_of(value) if not isinstance(cell, str))
        elif any(isinstance(cell, ResolveMixin) for cell in _objects_in_frame(value)):
            raise NexthinkInputError(
                f"The devices have a {type(value).__name__} (a DataFrame) with an XCom in a cell, where nothing can be "
                "resolved: make the DataFrame in a task, or pass a list of mappings."
            )


def _cells_of(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, Mapping) else container


def _objects_in_frame(value: Any) -> Iterable[Any]:
    """Return the cells of a DataFrame's columns that may hold any object."""
    if getattr_static(value, "dtypes", None) is None:
        return ()
    from airflow_provider_nexthink.devices.frames import is_table, table_columns

    if not is_table(value):
        return ()
    _, cells_of = table_columns(value)
    objects = [at for at, dtype in enumerate(value.dtypes) if str(dtype).lower() == "object"]
    return (cell for at in objects for cell in cells_of(at))


def _resolve(value: Any, context: Context) -> Any:
    if isinstance(value, ResolveMixin):
        found = value.resolve(context)
        is_lazy = isinstance(found, Sequence) and not isinstance(found, str | bytes | list | tuple)
        return list(found) if is_lazy else found  # the XComs of a mapped task
    if isinstance(value, Mapping):
        return {key: _resolve(cell, context) for key, cell in value.items()}
    if not isinstance(value, _CONTAINERS):
        return value
    cells = [_resolve(cell, context) for cell in value]
    if not isinstance(value, tuple):
        return cells
    return type(value)(*cells) if hasattr(value, "_fields") else tuple(cells)


def _is_cell(value: object) -> bool:
    """Return whether this is a single value, not a row or a list of rows."""
    return isinstance(value, str | bytes | Number)


def _as_list_of_devices(value: Any) -> Any:
    """Return the value of a task as a list of rows, or as the table that it is: it may be one row, or None."""
    if value is None:
        return []
    is_row = isinstance(value, Mapping | tuple) or (isinstance(value, list) and any(map(_is_cell, value[:1])))
    return [value] if is_row else value


class DevicesMixin(_Operator):
    """The field ``devices`` of an operator or a sensor, and ``protect`` of an operator that has one."""

    _protect: object = None

    @property
    def devices(self) -> object:
        """The devices: a template to be resolved, or ``DeviceInput``."""
        return self._devices

    @devices.setter
    def devices(self, value: object) -> None:
        self._devices = DeviceInput.wrap(value)

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template, that of devices in its own way: see ``render_devices``."""
        is_devices = content is self._devices or content is self._protect
        if is_devices and isinstance(content, DeviceInput):
            return content.resolve_lists(context, needs_all=content is self._protect)
        if is_devices and isinstance(content, str):
            return render_devices(content, context, jinja_env or self.get_template_env(), seen_oids or ())
        return super().render_template(content, context, jinja_env, seen_oids)

    def _given_devices(self) -> object:
        """Return the devices as they were passed, once they are rendered."""
        return unwrapped(self.devices)


class UnrenderedList(ResolveMixin):
    """A list of text that the rendered view shows, but that is not rendered: its entries are names, not templates.

    :param value: what was passed.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Return nothing: the task depends on no other for it."""
        return iter(())

    def resolve(self, context: Context) -> UnrenderedList:  # noqa: ARG002 - Airflow's signature
        """Return the list as it is."""
        return self

    def serialize(self) -> list[str]:
        """Return what Airflow shows: of a long list, the first entries."""
        is_unordered = isinstance(self.value, set | frozenset)  # which would change the stored Dag with every parse
        return preview(sorted(self.value) if is_unordered else self.value)

    def __repr__(self) -> str:  # Airflow 3.1 stores it with the Dag
        return str(self.serialize())


def unwrapped(field: object) -> object:
    """Return the value of a field as it was passed.

    :param field: the field of an operator, a ``DeviceInput``, an ``UnrenderedList`` or neither.
    """
    return field.value if isinstance(field, DeviceInput | UnrenderedList) else field


def render_devices(
    template: str, context: Mapping[str, Any], jinja_env: jinja2.Environment, resolved: Collection[int]
) -> DeviceInput:
    """Render a Jinja template for devices so that their text stays as it is.

    In native rendering Jinja reads text as Python, whose escapes differ from those of JSON: a slash with a backslash
    before it, as many programs write it, would make another name.

    :param template: the template, as it was given.
    :param context: of the task.
    :param jinja_env: Jinja's environment, native or not.
    :param resolved: the ``id`` of values that Airflow has resolved, such as the text of a mapped task's XCom. They
        are not templates, whatever they hold.
    :return: text; in native rendering the value of a single expression, if that is not text.
    """
    from jinja2.nativetypes import NativeEnvironment

    if id(template) in resolved:
        return DeviceInput(template)
    nodes: list[Any] = list(jinja_env.from_string(template).generate(context))
    return DeviceInput(rendered_value(nodes, is_native=isinstance(jinja_env, NativeEnvironment)))


def rendered_value(nodes: list[Any], *, is_native: bool) -> Any:
    """Return the value of a template: text, or in native rendering the value of a single expression or of JSON.

    :param nodes: the values of the parts of the template.
    :param is_native: whether the task renders natively.
    """
    from jinja2 import Undefined

    values = [node for node in nodes if not isinstance(node, str) or node.strip()]
    if len(values) == 1 and not isinstance(values[0], str | Undefined):
        return values[0]
    text = "".join(map(str, nodes))
    if is_native and is_brackets(text):
        with suppress(ValueError):  # not JSON, or ambiguous: the reader of the devices raises the error
            return read_json(text)
    return text


def is_brackets(text: str) -> bool:
    """Return whether text may be JSON of devices.

    :param text: any.
    """
    return text.lstrip().startswith(("[", "{"))
