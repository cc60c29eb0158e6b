"""``@task.nexthink_delete_devices``: a function returns devices, and they are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Collection, Iterator, Mapping, Sequence, Sized
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Unpack, overload

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._base import (
    DeviceInput,
    NexthinkOptionError,
    is_brackets,
    is_template,
    rendered_value,
    unwrapped,
)
from airflow_provider_nexthink.operators._options import DeleteDevicesOptions
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.version_compat import ResolveMixin, determine_kwargs

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context
    from airflow.sdk.bases.decorator import Task

P = ParamSpec("P")


class _NexthinkDeleteDevicesDecoratedOperator(DecoratedOperator, NexthinkDeleteDevicesOperator):
    """Calls a function and deletes the devices that it returns."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(field for field in NexthinkDeleteDevicesOperator.template_fields if field != "devices"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {**DecoratedOperator.template_fields_renderers}
    custom_operator_name = "@task.nexthink_delete_devices"

    def __init__(
        self,
        *,
        python_callable: Callable[..., object],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "devices" in kwargs:
            raise NexthinkOptionError(
                f"devices is no option of {self.custom_operator_name}: the function returns them."
            )
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, devices=(), **kwargs)

    @property
    def op_args(self) -> Collection[Any]:
        """The function's positional arguments; a table among them is a ``DeviceInput``."""
        return self._op_args

    @op_args.setter
    def op_args(self, value: Collection[Any]) -> None:
        # Airflow sets this again once the templates are resolved, and shows it in the rendered view.
        self._op_args = [_wrapped(argument) for argument in value]

    @property
    def op_kwargs(self) -> Mapping[str, Any]:
        """The function's named arguments; a table among them is a ``DeviceInput``."""
        return self._op_kwargs

    @op_kwargs.setter
    def op_kwargs(self, value: Mapping[str, Any]) -> None:
        self._op_kwargs = {name: _wrapped(argument) for name, argument in value.items()}

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template natively, but read text that may be JSON of devices as JSON: see ``render_devices``.

        Airflow reads text in brackets as Python. Text with mappings, which may name a key twice, or with escapes stays
        text, since Python might read other devices from it.
        """
        from jinja2.nativetypes import NativeEnvironment, native_concat

        jinja_env = jinja_env or self.get_template_env()
        is_native = getattr(self, "render_template_as_native_obj", None)  # None: the Dag decides
        if is_native is None:
            is_native = isinstance(jinja_env, NativeEnvironment)
        is_left = not isinstance(content, str) or content is self._protect or id(content) in (seen_oids or ())
        if not is_native or is_left:
            return super().render_template(content, context, jinja_env, seen_oids)
        nodes: list[Any] = list(jinja_env.from_string(content).generate(context))
        value = rendered_value(nodes, is_native=True)
        if isinstance(value, str):
            is_ours = is_brackets(value) and ("{" in value or "\\" in value)
        else:
            is_ours = isinstance(value, Sized)
        return value if is_ours else native_concat(nodes)

    def _read_devices(self, context: Context) -> object:
        """Call the function, and await it if it is ``async``."""
        args = [unwrapped(argument) for argument in self.op_args]
        given: Any = {**context, **{name: unwrapped(argument) for name, argument in self.op_kwargs.items()}}
        devices = self.python_callable(*args, **determine_kwargs(self.python_callable, args, given))
        if isawaitable(devices) or isinstance(devices, AsyncIterable):
            devices = asyncio.run(_awaited(devices))
        if devices is None:
            raise NexthinkInputError(
                f"{self.python_callable.__name__} returned nothing: it must return the devices, or an empty list. "
                "This try sent nothing."
            )
        return devices


def _wrapped(argument: Any) -> Any:
    """Wrap a table, to keep it away from Jinja and out of the rendered view; return every other argument as it is."""
    if isinstance(argument, str | bytes | DeviceInput) or is_template(argument):
        return argument
    if isinstance(argument, Mapping):  # of columns, not of options
        is_table = bool(argument) and all(isinstance(cells, list) for cells in argument.values())
    elif isinstance(argument, list | tuple):
        first = next((row for row in argument if not isinstance(row, ResolveMixin)), None)
        is_table = isinstance(first, Sized) and not isinstance(first, str | bytes | set | frozenset)
    else:  # a DataFrame, the XComs of a mapped task; but not a number or another object
        is_table = isinstance(argument, Sized | Iterator) and not isinstance(argument, set | frozenset)
    return DeviceInput(argument) if is_table else argument


async def _awaited(devices: Any) -> Any:
    """Return what an ``async`` function returns, or yields."""
    if isawaitable(devices):
        devices = await devices
    return [row async for row in devices] if isinstance(devices, AsyncIterable) else devices


@overload
def nexthink_delete_devices_task(python_callable: Callable[P, object]) -> Task[P, list[dict[str, Any]]]: ...


@overload
def nexthink_delete_devices_task(
    python_callable: None = None, **options: Unpack[DeleteDevicesOptions]
) -> Callable[[Callable[P, object]], Task[P, list[dict[str, Any]]]]: ...


def nexthink_delete_devices_task(python_callable: Callable[..., object] | None = None, **options: Any) -> Any:
    """Make a task of a function that returns devices: they are deleted, and the task returns the outcome table.

    In a Dag it is ``@task.nexthink_delete_devices``; imported from here its options are known to type checkers.

    :param python_callable: the function, ``async`` or not; it returns devices in any form that
        ``NexthinkDeleteDevicesOperator`` takes.
    :param options: those of ``NexthinkDeleteDevicesOperator`` but ``devices``, and those of any task.
    :return: what makes a task in a Dag, when it is called as the function is.
    :raises NexthinkOptionError: for ``multiple_outputs``, and, when it is called, for an option that cannot be right.
    """
    if options.pop("multiple_outputs", False):
        raise NexthinkOptionError("multiple_outputs is no option of @task.nexthink_delete_devices: it returns a table.")
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=False,  # not inferred from the function: the task returns a table
        decorated_operator_class=_NexthinkDeleteDevicesDecoratedOperator,
        **options,
    )
