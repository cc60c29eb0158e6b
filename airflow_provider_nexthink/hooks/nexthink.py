"""The hook: an Airflow connection becomes a ``NexthinkClient``, with masked secrets, progress, metrics and lineage."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_provider_nexthink.api.settings import NexthinkSettings, read_instance
from airflow_provider_nexthink.client import NexthinkClient
from airflow_provider_nexthink.deletion import policy
from airflow_provider_nexthink.deletion.deletion import DeletionObserver
from airflow_provider_nexthink.devices.formats import redacted_path
from airflow_provider_nexthink.devices.parquet import ParquetRows
from airflow_provider_nexthink.devices.references import Reference
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkSettingsError,
    NexthinkStoppedError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.get_provider_info import get_provider_info
from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json
from airflow_provider_nexthink.utils.origin import current_origin
from airflow_provider_nexthink.utils.policy_watch import PolicyWatch
from airflow_provider_nexthink.utils.results import publish_results
from airflow_provider_nexthink.utils.sql import ledger_engine
from airflow_provider_nexthink.utils.storage import file_of, open_file
from airflow_provider_nexthink.utils.supervisor import supervisor_check
from airflow_provider_nexthink.utils.task_state import is_timeout_pending
from airflow_provider_nexthink.utils.telemetry import RunStats, report_change, report_read, request_tracer
from airflow_provider_nexthink.version_compat import amask_secret, connection_extra, form_widgets

if TYPE_CHECKING:
    import httpx
    from airflow.sdk import Connection
    from sqlalchemy.engine import Engine

    from airflow_provider_nexthink.api.nql import ExportOptions, NqlRows, NqlStream
    from airflow_provider_nexthink.deletion.checkpoint import Checkpoint, StateStore
    from airflow_provider_nexthink.deletion.deletion import Deletion
    from airflow_provider_nexthink.deletion.options import DeletionOptionsDict
    from airflow_provider_nexthink.deletion.outcome import DeletionResult
    from airflow_provider_nexthink.deletion.plan import Plan
    from airflow_provider_nexthink.ledger import Ledger
    from airflow_provider_nexthink.ledger.task_state import LedgerStateStore
    from airflow_provider_nexthink.origin import RunOrigin
    from airflow_provider_nexthink.status import Status

PROGRESS_SECONDS = 15.0

_Read = TypeVar("_Read")

_HTTPS_PORT = 443
_SETTINGS = ("region", "base_url", "login_url", "timeout", "verify", "proxy")
_EXTRAS = (*_SETTINGS, *policy.EXTRAS)
_NOT_NEEDED = "-"


class NexthinkHook(BaseHook):
    """Calls Nexthink with the credential of an Airflow connection.

    Use it as a context manager, or call ``close``, to close its connections. In an event loop, ``aget_conn`` gives
    what threads of it can use.

    :param nexthink_conn_id: the connection, of type ``nexthink``: host = instance, login = client id,
        password = client secret; extras ``region``, ``base_url``, ``login_url``, ``timeout``, ``verify``, ``proxy``,
        and those of ``DeletionPolicy``.
    """

    conn_name_attr = "nexthink_conn_id"
    default_conn_name = "nexthink_default"
    conn_type = "nexthink"
    hook_name = "Nexthink"

    def __init__(self, nexthink_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.nexthink_conn_id = nexthink_conn_id
        self._client: NexthinkClient | None = None
        self._is_closed = True
        self._is_stopped = False
        self._thread = threading.get_ident()
        self._unmasked: deque[str] = deque()
        self._state_engine: Engine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_conn(self) -> NexthinkClient:
        """Return the client of this connection; its first request fetches the token.

        :raises AirflowNotFoundException: if there is no such connection.
        :raises NexthinkSettingsError: if the connection lacks something.
        :raises NexthinkPolicyError: if its policy cannot take effect.
        """
        if threading.get_ident() == self._thread:
            self.mask_secrets()  # of a token that was renewed in the background
        if self._client is None or self._is_closed:
            connection = self.get_connection(self.nexthink_conn_id)
            extra = self._checked_extra(connection, connection.extra_dejson)
            allowed = policy.DeletionPolicy.resolve(extra)
            client = NexthinkClient(
                self._settings(connection, extra),
                policy=allowed,
                ledger=_ledger_of(allowed),
                on_secret=self._mask_soon,
                traced=request_tracer(),
                open_file=open_file,
            )
            self._client, self._is_closed = client, False
            if self._is_stopped:  # perhaps just now, by a signal handler
                client.stop()
        return self._client

    async def aget_conn(self) -> NexthinkClient:
        """Return the client of this connection in an event loop, to be called in threads (``asyncio.to_thread``).

        It sends each request once: to sleep before a retry is for the event loop, which holds no thread. Each call may
        fetch a token, so call ``amask_secrets`` after it.

        :raises NexthinkSettingsError: if the connection lacks something.
        :raises NexthinkPolicyError: if its policy cannot take effect.
        """
        if self._client is None or self._is_closed:
            connection = await self.aget_connection(self.nexthink_conn_id)
            extra = self._checked_extra(connection, await connection_extra(connection))
            allowed = policy.DeletionPolicy.resolve(extra)
            self._client = await asyncio.to_thread(  # which reads certificates
                NexthinkClient,
                self._settings(connection, extra),
                policy=allowed,
                ledger=_ledger_of(allowed),
                on_secret=self._unmasked.append,
                traced=request_tracer(),
                max_attempts=1,
            )
            self._is_closed = False
            await self.amask_secrets()
        return self._client

    async def amask_secrets(self) -> None:
        """Register the secrets that are new since the last call with Airflow's masker, which threads cannot do."""
        while self._unmasked:
            await amask_secret(self._unmasked.popleft())

    def get_ledger(self) -> Ledger:
        """Return the ledger of this connection.

        :raises NexthinkSettingsError: if the connection names none.
        :raises NexthinkInputError: if a ledger cannot be where it is.
        """
        database = self.get_conn().ledger
        if database is None:
            raise NexthinkSettingsError(
                f"This needs a ledger, and the connection {self.nexthink_conn_id} has none: set its extra "
                "ledger_conn_id to a connection to PostgreSQL, MySQL, MariaDB or SQLite."
            )
        from airflow_provider_nexthink.ledger import Ledger

        return Ledger.of(database)

    def ledger_state_store(self, origin: RunOrigin) -> LedgerStateStore | None:
        """Return where the ledger keeps the state of a task, for an Airflow that keeps none; None without a ledger.

        It needs neither the credential nor the certificates: a retry without them still reports what earlier tries have
        sent. Call it once.

        :param origin: the task.
        :raises NexthinkSettingsError: if the connection does not say which tenant it is.
        :raises NexthinkInputError: if the policy cannot take effect, or a ledger cannot be where it is.
        """
        connection = self.get_connection(self.nexthink_conn_id)
        extra = self._checked_extra(connection, connection.extra_dejson)
        allowed = policy.DeletionPolicy.resolve(extra)
        if allowed.ledger_conn_id is None:
            return None
        from airflow_provider_nexthink.ledger.database import Database
        from airflow_provider_nexthink.ledger.task_state import LedgerStateStore

        tenant = NexthinkSettings.resolve(
            instance=connection.host,
            client_id=_NOT_NEEDED,
            client_secret=_NOT_NEEDED,
            **{name: extra.get(name) for name in ("region", "base_url", "login_url")},
        )
        self._state_engine = engine = ledger_engine(allowed.ledger_conn_id)
        return LedgerStateStore(
            Database(engine, tenant=tenant.tenant, instance=tenant.instance, conn_id=allowed.ledger_conn_id),
            origin.task_key,
            try_number=origin.try_number,
            is_stopped=lambda: self._is_stopped,
        )

    @property
    def account(self) -> str:
        """What tells the tenant and its credential from any other; no secret."""
        return self.get_conn().account

    @property
    def deletion(self) -> Deletion | None:
        """What ``delete_devices`` has planned last: after an interruption, its result is still there."""
        return self._client.deletion if self._client else None

    def close(self) -> None:
        """Close the connections to Nexthink."""
        if self._client is not None:
            self._client.close()
        if self._state_engine is not None:
            self._state_engine.dispose()
        self._is_closed = True

    def stop(self) -> None:
        """Send no other batch of a ``delete_devices`` that is running; responses to those in flight are still taken."""
        self._is_stopped = True
        if self._client is not None:
            self._client.stop()

    def delete_devices(
        self,
        devices: object,
        *,
        state_store: StateStore | Checkpoint | None = None,
        on_plan: Callable[[Plan], object] = lambda _: None,
        on_progress: Callable[[], object] = lambda: None,
        origin: RunOrigin | None = None,
        **options: Unpack[DeletionOptionsDict],
    ) -> DeletionResult:
        """Ask Nexthink to delete these devices. There is no undo.

        :param devices: a DataFrame (pandas, polars) or Arrow table, a list of mappings or of rows that name their
            fields, a list of tuples with ``columns``, JSON text of one of these, CSV text, or the path of a .csv,
            .parquet or .jsonl file, local or on object storage.
        :param state_store: where all tries of the same task record what they send, or the ``Checkpoint`` over it: a
            device that an earlier try has settled is not sent again, and what earlier tries have sent counts in the
            limits.
        :param on_plan: called with the plan before the first request; if it raises, nothing is sent.
        :param on_progress: called a few times a second while the run is in progress.
        :param origin: who started it, and in which task; None for the task that this is called in, if it is one.
        :param options: as ``DeletionOptions`` describes them.
        :return: the outcome of every row. What stopped the run once something was sent is in its ``error``.
        :raises NexthinkInputError: if the input, an option or the connection is wrong, its policy forbids it, or a
            guard trips; nothing was sent.
        :raises NexthinkError: if anything else ends it before the first request: no token, no response of the ledger, a
            stop, a file that cannot be read just now; nothing was sent.
        """
        client = self._current_conn()
        try:
            return client.delete_devices(
                devices,
                state_store=state_store,
                observer=_TaskObserver(self, client, on_plan, on_progress),
                origin=origin or current_origin(),
                **options,
            )
        finally:
            self.mask_secrets()

    def plan_file(
        self,
        reference: Reference,
        results_path: str,
        *,
        keeps_file: bool = False,
        origin: RunOrigin | None = None,
        **options: Unpack[DeletionOptionsDict],
    ) -> tuple[DeletionResult, dict[str, Any] | None]:
        """Plan the deletion of a list of any length, in bounded memory: a dry run from a Parquet file to another.

        :param reference: the file with the devices, or some of its rows.
        :param results_path: where to write the outcome table, a .parquet file.
        :param keeps_file: leave a file that is there as it is if the list has no rows.
        :param origin: who started it, and in which task; None for the task that this is called in, if it is one.
        :param options: as ``DeletionOptions`` describes them; it is a dry run whatever they say.
        :return: the result, without the rows themselves; and the manifest of the table, None if it was not written.
        :raises NexthinkInputError: if the input, an option or the connection is wrong, its policy forbids it, or a
            guard trips.
        :raises OSError: if the table cannot be written; others as the object storage's library has them.
        """
        client = self._current_conn()
        observer = _TaskObserver(self, client)
        with file_of(reference) as file, TemporaryFile() as table, TemporaryFile() as unscheduled:
            result = client.plan_file(
                ParquetRows(file, f"The file {redacted_path(reference.path)}"),
                table,
                unscheduled,
                reference=reference,
                observer=observer,
                origin=origin or current_origin(),
                **options,
            )
            manifest = None
            if result.outcomes or not keeps_file:
                manifest = publish_results(results_path, result.outcomes, table, unscheduled, result.uid_column)
        observer.on_result(result)
        return result, manifest

    def _current_conn(self) -> NexthinkClient:
        """Return the client, with the policy of the connection as it is now."""
        if self.read_policy() != self.get_conn().policy:  # it has changed since an earlier call
            self.close()
        return self.get_conn()

    def read_policy(self) -> policy.DeletionPolicy:
        """Return the policy of the connection as it is now.

        :raises NexthinkSettingsError: if an extra of it cannot be right.
        :raises NexthinkPolicyError: if it cannot take effect.
        """
        connection = self.get_connection(self.nexthink_conn_id)
        return policy.DeletionPolicy.resolve(self._checked_extra(connection, connection.extra_dejson))

    def read_instance(self) -> str | None:
        """Return the name of the tenant, also where the connection is wrong otherwise; None where it has none."""
        if self._client is not None:
            return self._client.settings.instance
        return read_instance(self.get_connection(self.nexthink_conn_id).host)

    def run_nql(self, query_id: str, parameters: Mapping[str, str] | None = None) -> NqlRows:
        """Run a saved NQL query at once; for small results (about 1,000 rows).

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkInputError: if the query id or a parameter is not valid.
        :raises NexthinkError: if Nexthink refuses, or does not respond.
        """
        rows = self.get_conn().run_nql(query_id, parameters)
        report_read(self, self.get_conn().settings.instance, query_id)
        return rows

    def export_nql(
        self, query_id: str, parameters: Mapping[str, str] | None = None, **options: Unpack[ExportOptions]
    ) -> NqlRows:
        """Export the result of a saved NQL query, wait for the file and read it.

        The single steps are methods of ``get_conn()``, a ``NexthinkClient``.

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :param options: as ``NexthinkClient.export_nql`` describes them.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkInputError: if the query id or a parameter is not valid.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than any result of devices.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the export fails.
        """
        rows = self.get_conn().export_nql(query_id, parameters, **options)
        report_read(self, self.get_conn().settings.instance, query_id)
        return rows

    def fetch_export(self, export_id: str, *, query_id: str, allow_truncated: bool = False) -> NqlRows:
        """Fetch and read the file of an export that is ready.

        :param export_id: the id of the export.
        :param query_id: the query that was exported, for Airflow's lineage.
        :param allow_truncated: whether to take a result that the license's maximum cut off.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than any result of devices.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the file cannot be read.
        """
        rows = self.get_conn().fetch_export(export_id, allow_truncated=allow_truncated)
        report_read(self, self.get_conn().settings.instance, query_id)
        return rows

    def read_export(
        self, export_id: str, read: Callable[[NqlStream], _Read], *, query_id: str, allow_truncated: bool = False
    ) -> _Read:
        """Fetch the file of an export that is ready, and read it row by row: a result of any size, in little memory.

        :param export_id: the id of the export.
        :param read: reads the rows, as ``NexthinkClient.read_export`` describes it.
        :param query_id: the query that was exported, for Airflow's lineage.
        :param allow_truncated: whether to take a result that the license's maximum cut off.
        :return: what ``read`` returned.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than any result of devices.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the file cannot be read.
        """
        found = self.get_conn().read_export(export_id, read, allow_truncated=allow_truncated)
        report_read(self, self.get_conn().settings.instance, query_id)
        return found

    def request(self, method: str, path: str, **request_options: Any) -> httpx.Response:
        """Call any other Nexthink API, with the token of this connection.

        Retried after a 429, and where the request never left; after an ambiguous failure only if that is harmless (GET
        and HEAD).

        :param method: the HTTP method.
        :param path: the path on the API host, such as ``/api/v1/act/execute``.
        :param request_options: ``json``, ``params``, ``headers`` and so on, as ``httpx.Request`` takes them.
        :return: the response, a success (2xx).
        :raises NexthinkInputError: if the path is not one on the API host.
        :raises NexthinkError: for every other response, and for none.
        """
        return self.get_conn().request(method, path, **request_options)

    def test_connection(self) -> tuple[bool, str]:
        """Find out whether a token is given, which permissions the credential has, and what the policy is.

        Deletes nothing. The tables of a ledger are made, if it has none.

        :return: whether a token could be fetched, at least one API is permitted and the ledger, if there is one, works;
            and all that in words.
        """
        with self:  # Airflow, which calls this from its connection form, closes nothing
            try:
                client = self.get_conn()
                permissions = client.check_permissions()
                ledger_problem = _ledger_problem(client)
            except NexthinkError as error:
                return False, f"Authentication: failed. {error} NQL API: not tried. Data management: not tried."
        has_ledger = client.policy.ledger_conn_id is not None
        ledger = f"Ledger: {ledger_problem or 'works'}. " if has_ledger else ""
        return "permitted" in permissions.values() and not ledger_problem, (
            f"Authentication: works ({client.settings.instance}). NQL API: {permissions['NQL API']}. "
            f"Data management (deletions): {permissions['Data management']}. "
            f"Policy: {client.policy.describe()}. {ledger}Nothing was deleted."
        )

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extras of the connection form for Airflow 3.1; later ones read them in ``get_provider_info``."""
        info: dict[str, Any] = get_provider_info()
        (connection,) = info["connection-types"]
        return form_widgets(connection["conn-fields"])

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels of the connection form for Airflow 3.1; later ones read them in ``get_provider_info``."""
        info: dict[str, Any] = get_provider_info()
        (connection,) = info["connection-types"]
        declared = connection["ui-field-behaviour"]
        return {
            "hidden_fields": [field for field in declared["hidden-fields"] if field != "extra"],
            "relabeling": declared["relabeling"],
            "placeholders": declared["placeholders"],
        }

    def _checked_extra(self, connection: Connection, extra: Any) -> Mapping[str, Any]:
        try:  # Airflow takes the last of two, and nothing where it cannot read it: without the limits in it
            read_json((connection.extra or "").strip() or "{}")
        except ValueError as error:
            what = f": {error}" if isinstance(error, RepeatedKeyError) else " is no JSON"
            raise NexthinkSettingsError(
                f"The extra of connection {self.nexthink_conn_id}{what}. No request is sent until it is corrected."
            ) from None
        if not isinstance(extra, Mapping):
            raise NexthinkSettingsError(
                f"The extra of connection {self.nexthink_conn_id} is JSON, but a {type(extra).__name__}: it takes an "
                'object, such as {"region": "eu"}.'
            )
        return extra

    def _settings(self, connection: Connection, extra: Mapping[str, Any]) -> NexthinkSettings:
        if unknown := unknown_extras(extra):
            self.log.warning(
                "Connection %s has extras that Nexthink's does not know: %s. It knows %s.",
                self.nexthink_conn_id,
                ", ".join(unknown),
                ", ".join(_EXTRAS),
            )
        if connection.port not in (None, 0, _HTTPS_PORT):
            self.log.warning(
                "Connection %s has the port %s, which is not used: see base_url.",
                self.nexthink_conn_id,
                connection.port,
            )
        return NexthinkSettings.resolve(
            instance=connection.host,
            client_id=connection.login,
            client_secret=connection.password,
            **{name: extra.get(name) for name in _SETTINGS},
        )

    def mask_secrets(self) -> None:
        """Register the secrets that are new since the last call with Airflow's masker. For the task's main thread."""
        while self._unmasked:
            mask_secret(self._unmasked.popleft())

    def _mask_soon(self, value: str) -> None:
        """Have a value masked in all logs. Only the thread that made this hook can register it."""
        self._unmasked.append(value)
        if threading.get_ident() == self._thread:
            self.mask_secrets()


def unknown_extras(extra: Mapping[str, Any]) -> list[str]:
    """Return the extras of a connection that have no effect.

    :param extra: all of them.
    """
    return sorted(set(extra) - set(_EXTRAS))


def _ledger_problem(client: NexthinkClient) -> str:
    """Say in words why the ledger does not work; nothing if it does, or if there is none."""
    try:
        if client.ledger is not None:
            with client.ledger.locked():  # which writes
                pass
    except NexthinkError as error:
        return f"does not work ({str(error).rstrip('.')})"
    return ""


def _ledger_of(allowed: policy.DeletionPolicy) -> Callable[[], Engine] | None:
    """Return what makes the engine of the ledger, once that is needed: a query needs none."""
    return partial(ledger_engine, allowed.ledger_conn_id) if allowed.ledger_conn_id else None


class _TaskObserver(DeletionObserver):
    """Reports a deletion to Airflow: masked secrets, progress in the log, metrics, lineage.

    :param hook: whose deletion it is.
    :param client: what sends it.
    :param on_plan: of the caller of the hook.
    :param on_progress: likewise.
    """

    def __init__(
        self,
        hook: NexthinkHook,
        client: NexthinkClient,
        on_plan: Callable[[Plan], object] = lambda _: None,
        on_progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._hook = hook
        self._instance = client.settings.instance
        self._on_plan = on_plan
        self._on_progress = on_progress
        self._stats = RunStats(self._instance)
        self._is_supervised = supervisor_check()
        self._clock = client.clock
        self._policy_watch = PolicyWatch(hook.read_policy, client.clock)
        self._start = self._logged_at = self._clock.monotonic()

    def check(self) -> None:
        if is_timeout_pending():  # the main thread, in which it is raised, waits for a response of Airflow
            raise NexthinkStoppedError("The task has timed out: no other batch is sent.")
        if not self._is_supervised():
            raise NexthinkTryOverError(
                "Airflow's supervisor of this task process is gone, and a retry may run beside it: no other batch is "
                "sent."
            )
        self._policy_watch.check()

    def on_plan(self, plan: Plan) -> None:
        self._on_plan(plan)

    def on_resume(self, statuses: Iterable[Status]) -> None:
        self._stats.exclude_restored(statuses)

    def on_request(self, seconds: float) -> None:
        self._stats.record_request(seconds)

    def on_progress(self, settled: int, planned: int) -> None:
        self._hook.mask_secrets()
        self._stats.emit_requests()
        self._policy_watch.look()
        self._on_progress()
        now = self._clock.monotonic()
        if now - self._logged_at < PROGRESS_SECONDS or not settled:
            return
        self._logged_at = now
        rate = settled / (now - self._start)
        self._hook.log.info(
            "%d of %d devices settled, %.0f a second, about %.0f s left.",
            settled,
            planned,
            rate,
            (planned - settled) / rate,
        )

    def on_result(self, result: DeletionResult) -> None:
        self._stats.emit_outcome(result)
        if result.counters.requests:
            report_change(self._hook, self._instance)
