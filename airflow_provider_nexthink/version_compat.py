"""Differences between the versions of Airflow from 3.1 on, detected here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.definitions._internal.mixins import ResolveMixin  # by which Airflow finds and resolves XComs

try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )
except ImportError:  # Airflow 3.1
    from airflow.exceptions import (  # type: ignore[no-redef, attr-defined]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
    )

try:
    from airflow.sdk.configuration import conf
except ImportError:  # Airflow 3.1
    from airflow.configuration import conf

try:
    from airflow.sdk.bases.decorator import determine_kwargs
except ImportError:  # Airflow 3.1
    from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined]

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "ResolveMixin",
    "amask_secret",
    "conf",
    "connection_extra",
    "default_deferrable",
    "determine_kwargs",
    "form_widgets",
    "has_xcom_backend",
    "hook_lineage_collector",
    "is_try_unknown",
    "max_map_length",
    "stats",
    "task_state_store",
]


async def amask_secret(secret: str) -> None:
    """Have a value masked in all logs, in an event loop.

    :param secret: the value.
    """
    try:
        from airflow.sdk.log import amask_secret as mask
    except ImportError:  # Airflow before 3.3
        from airflow.sdk.log import mask_secret
        from asgiref.sync import sync_to_async

        # Called in the event loop's thread, or in any other, it does not reach the supervisor, which writes the log.
        await sync_to_async(mask_secret)(secret)
    else:
        await mask(secret)


async def connection_extra(connection: Any) -> Any:
    """Return the extra of a connection in an event loop: a mapping, or any other JSON value.

    :param connection: the connection.
    """
    if hasattr(connection, "aextra_dejson"):
        return await connection.aextra_dejson()
    from asgiref.sync import sync_to_async

    return await sync_to_async(lambda: connection.extra_dejson)()  # Airflow before 3.3: it masks too


def default_deferrable() -> bool:
    """Return whether operators are deferrable by default."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def has_xcom_backend() -> bool:
    """Return whether XComs are kept outside Airflow's own database."""
    return not str(conf.get("core", "xcom_backend", fallback=".BaseXCom")).endswith(".BaseXCom")


def max_map_length() -> int:
    """Return the maximum number of entries that a task can be mapped over."""
    return int(conf.getint("core", "max_map_length"))


def task_state_store(context: Mapping[str, Any]) -> Any:
    """Return the store that keeps the state of a task between its tries (Airflow 3.3 on), or None."""
    return context.get("task_state_store")


def is_try_unknown(error: BaseException) -> bool:
    """Tell whether a write to the task state store failed because Airflow does not know this try any more.

    A try that is cleared, or replaced by another one, loses the id of its task instance. The API server then responds
    404 (or 410) with the reason ``not_found``; the supervisor passes that on in the ``detail`` of the error. A server
    that is down or slow, a 5xx, or a 404 of something else has no such reason.

    :param error: what ``set`` or ``delete`` of the store raised.
    """
    detail = getattr(getattr(error, "error", None), "detail", None)
    if not isinstance(detail, Mapping) or detail.get("status_code") not in (404, 410):
        return False
    body = detail.get("detail")
    reason = body.get("detail") if isinstance(body, Mapping) else None
    return isinstance(reason, Mapping) and reason.get("reason") == "not_found"


def stats() -> Any:
    """Return Airflow's metrics client, with ``incr`` and ``timing``; without a configured backend it does nothing."""
    try:
        from airflow.sdk.observability.stats import Stats
    except ImportError:  # Airflow 3.1
        from airflow.stats import Stats
    return Stats


def hook_lineage_collector() -> Any:
    """Return Airflow's collector of hook lineage; without a reader it does nothing."""
    try:
        from airflow.sdk.lineage import get_hook_lineage_collector
    except ImportError:  # Airflow 3.1
        from airflow.lineage.hook import (  # type: ignore[import-not-found, no-redef]
            get_hook_lineage_collector,
        )
    return get_hook_lineage_collector()


def form_widgets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a connection form as Airflow 3.1 reads them from a hook.

    Its API server replaces wtforms with a stub, so that it need not be installed.

    :param fields: the ``conn-fields`` of the provider's description, which Airflow reads itself from 3.2 on.
    """
    from wtforms import BooleanField, IntegerField, PasswordField, StringField
    from wtforms.validators import Optional, any_of

    widgets = {}
    for name, field in fields.items():
        schema = field["schema"]
        kinds = {"number": IntegerField, "integer": IntegerField, "boolean": BooleanField, "string": StringField}
        kind = kinds[schema["type"][0]]
        if schema.get("format") == "password":
            kind = PasswordField
        choice = [any_of([value for value in schema["enum"] if value])] if "enum" in schema else []
        widgets[name] = kind(
            field["label"],
            validators=[Optional(), *choice],
            description=field["description"],
            default=schema.get("default"),
        )
    return widgets
