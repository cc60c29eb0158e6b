"""The hook: an Airflow connection becomes a signed-in client."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_provider_nexthink.api import data_management, nql
from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.deletion.outcome import Deletion, DeletionResult, Outcomes
from airflow_provider_nexthink.deletion.plan import check_guards, make_plan
from airflow_provider_nexthink.deletion.run import DeletionRun
from airflow_provider_nexthink.deletion.scheduler import Scheduler
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkStoppedError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.get_provider_info import get_provider_info
from airflow_provider_nexthink.status import Status
from airflow_provider_nexthink.utils.observability import RunStats, report_change, report_read, request_tracer
from airflow_provider_nexthink.utils.storage import open_file
from airflow_provider_nexthink.utils.supervisor import supervisor_check
from airflow_provider_nexthink.version_compat import amask_secret, connection_extra, form_widgets

if TYPE_CHECKING:
    import httpx
    from airflow.sdk import Connection

    from airflow_provider_nexthink.api.nql import Compression, NqlRows
    from airflow_provider_nexthink.clock import Clock
    from airflow_provider_nexthink.deletion.checkpoint import StateStore
    from airflow_provider_nexthink.deletion.plan import Plan

PROGRESS_SECONDS = 15.0

_HTTPS_PORT = 443
_EXTRAS = ("region", "base_url", "login_url", "timeout", "verify", "proxy")

# A uid that no device can have: the deletion API answers INVALID and deletes nothing.
_IMPOSSIBLE_DEVICE = {"uid": "connection-test", "name": "connection-test"}
_IMPOSSIBLE_QUERY = "#airflow_connection_test_no_such_query"


class NexthinkHook(BaseHook):
    """Calls Nexthink with the credential of an Airflow connection.

    Use it as a context manager, or call ``close``, to close its connections. In an event loop, ``aget_conn`` gives
    what threads of it can use.

    :param nexthink_conn_id: the connection, of type ``nexthink``: host = instance, login = client id,
        password = client secret; extras ``region``, ``base_url``, ``login_url``, ``timeout``, ``verify``, ``proxy``.
    """

    conn_name_attr = "nexthink_conn_id"
    default_conn_name = "nexthink_default"
    conn_type = "nexthink"
    hook_name = "Nexthink"

    def __init__(self, nexthink_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.nexthink_conn_id = nexthink_conn_id
        self._transport: Transport | None = None
        self._is_stopped = False  # no Event: its lock could be held where a signal handler calls stop()
        self._thread = threading.get_ident()
        self._unmasked: deque[str] = deque()
        self.deletion: Deletion | None = None
        """The deletion that ``delete_devices`` has planned last: after an interruption, its result is still there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_conn(self) -> Transport:
        """Return the client of this connection; it signs in with the first request.

        :raises NexthinkSettingsError: if the connection lacks something.
        """
        if self._transport is None:
            settings = self._settings(self.get_connection(self.nexthink_conn_id))
            self._transport = Transport(
                settings, on_secret=self._keep_secret, traced=request_tracer(), is_stopped=lambda: self._is_stopped
            )
        return self._transport

    async def aget_conn(self) -> Transport:
        """Return the client of this connection in an event loop, to be called in threads (``asyncio.to_thread``).

        It sends each request once: to sleep before a retry is for the event loop, which holds no thread. Each call may
        fetch a token, so call ``amask_secrets`` after it.

        :raises NexthinkSettingsError: if the connection lacks something.
        """
        if self._transport is None:
            connection = await self.aget_connection(self.nexthink_conn_id)
            settings = self._settings(connection, await connection_extra(connection))
            self._transport = await asyncio.to_thread(  # which reads certificates
                Transport, settings, on_secret=self._unmasked.append, traced=request_tracer(), max_attempts=1
            )
            await self.amask_secrets()
        return self._transport

    async def amask_secrets(self) -> None:
        """Have all that became known since the last time masked in all logs: no thread can tell Airflow."""
        while self._unmasked:
            await amask_secret(self._unmasked.popleft())

    @property
    def tenant(self) -> str:
        """What tells the tenant from any other, whatever the credential."""
        settings = self.get_conn().settings
        return "\0".join((settings.base_url, settings.instance)).lower()

    @property
    def account(self) -> str:
        """What tells the tenant and its credential from any other; no secret."""
        settings = self.get_conn().settings
        return "\0".join((self.tenant, settings.login_url, settings.client_id))

    def close(self) -> None:
        """Close the connections to Nexthink."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def stop(self) -> None:
        """Send no other batch of a ``delete_devices`` that is under way; its answers are still taken."""
        self._is_stopped = True

    def delete_devices(
        self,
        devices: object,
        *,
        uid_column: str | None = None,
        name_column: str | None = None,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        max_devices: int | str | None = 1000,
        max_share: float | str | None = None,
        fleet_size: int | str | None = None,
        dry_run: bool | str = False,
        batch_size: int = 100,
        max_concurrency: int = 4,
        requests_per_second: float | str | None = None,
        state_store: StateStore | Checkpoint | None = None,
        on_plan: Callable[[Plan], object] = lambda _: None,
    ) -> DeletionResult:
        """Ask Nexthink to delete these devices. There is no undo.

        :param devices: a DataFrame (pandas, polars) or Arrow table, a list of mappings or of rows that name their
            fields, a list of tuples with ``columns``, JSON text of one of these, CSV text, or the path of a .csv,
            .parquet or .jsonl file, local or on object storage.
        :param uid_column: which column holds the uid; None to find it by its name.
        :param name_column: which column holds the name; None to find it by its name.
        :param columns: the names of the columns, for rows that are tuples or lists.
        :param exclude: globs on the name, whatever its case, and uids that are never sent.
        :param max_devices: how many devices may be sent at the most; None for no limit.
        :param max_share: which share of ``fleet_size`` may be sent at the most, above 0 to 1; None for no limit.
        :param fleet_size: how many devices the fleet has; needed for ``max_share``, and for nothing else.
        :param dry_run: plan only, send nothing.
        :param batch_size: devices in one request, 1 to 100.
        :param max_concurrency: requests under way at once, at the most; 1 to 32.
        :param requests_per_second: how many requests may start in a second at the most; None for no limit.
        :param state_store: where all tries of the same task record what they send, or the ``Checkpoint`` over it: a
            device that an earlier try has settled is not sent again, and what earlier tries have sent counts in the
            limits.
        :param on_plan: called with the plan before the first request; if it raises, nothing is sent.
        :return: the outcome of every row. What stopped the run once something was sent is in its ``error``.
        :raises NexthinkInputError: if the input, an option or the connection is wrong, or a guard trips; nothing
            was sent.
        :raises NexthinkError: if Nexthink gives no token; nothing was sent.
        """
        options = DeletionOptions.checked(
            uid_column=uid_column,
            name_column=name_column,
            columns=columns,
            exclude=exclude,
            max_devices=max_devices,
            max_share=max_share,
            fleet_size=fleet_size,
            dry_run=dry_run,
            batch_size=batch_size,
            max_concurrency=max_concurrency,
            requests_per_second=requests_per_second,
        )
        rows = read_devices(
            devices,
            columns=options.columns,
            uid_column=options.uid_column,
            name_column=options.name_column,
            open_file=open_file,
        )
        plan = make_plan(rows, options.exclude)
        transport = self.get_conn()
        instance = transport.settings.instance
        self.log.info(
            "%d devices for %s (uid from %r, name from %r): %d to send, %d not to be sent.",
            len(rows),
            instance,
            rows.uid_column,
            rows.name_column,
            len(plan.to_send),
            len(rows) - len(plan.to_send),
        )
        checkpoint = _checkpoint_of(state_store, transport.clock)
        self.deletion = deletion = Deletion(
            Outcomes(plan),
            dry_run=options.dry_run,
            uid_column=rows.uid_column,
            name_column=rows.name_column,
            instance=instance,
            clock=transport.clock,
            checkpoint=checkpoint,
        )
        sent_before = self._resume(checkpoint, deletion, plan) if checkpoint else 0
        check_guards(
            plan,
            max_devices=options.max_devices,
            max_share=options.max_share,
            fleet_size=options.fleet_size,
            sent_before=sent_before,
        )
        on_plan(plan)
        stats = RunStats(instance)
        if options.dry_run:
            for position in plan.to_send:
                deletion.outcomes.status[position] = Status.PLANNED
        deletion.has_begun = True
        try:
            if plan.to_send and not options.dry_run:
                self._run(plan, deletion, options, stats)
            result = deletion.result()
            self._log_outcome(result)
            stats.emit_outcome(result)
            if result.counters.requests:
                report_change(self, instance)
        except BaseException as error:  # a timeout may come at any instruction: what was sent has a table
            if deletion.run is None or not deletion.run.counters.requests:
                raise
            result = deletion.result(error)
        return result

    def _resume(self, checkpoint: Checkpoint, deletion: Deletion, plan: Plan) -> int:
        """Restore what earlier tries of the task have settled; return how many other devices they may have sent."""
        # A dry run sends nothing: its rows become PLANNED, whatever earlier tries have done with these devices.
        outcomes = Outcomes(plan) if deletion.dry_run else deletion.outcomes
        sent_before = checkpoint.resume(outcomes, plan.to_send, self.tenant)
        earlier = checkpoint.earlier
        if deletion.dry_run:
            earlier.others = range(len(earlier))
        if earlier.others:
            self.log.warning(
                "Earlier tries of this task had %d devices that are not in this list: %s. Their rows are in the XCom "
                "earlier_tries, and more is in the logs of those tries.",
                len(earlier.others),
                ", ".join(f"{count} {status}" for status, count in earlier.counts().items()),
            )
        return sent_before

    def _run(self, plan: Plan, deletion: Deletion, options: DeletionOptions, stats: RunStats) -> None:
        """Send what the plan says, without what an earlier try has settled."""
        transport = self.get_conn()
        outcomes, checkpoint = deletion.outcomes, deletion.checkpoint

        is_supervised = supervisor_check()

        def check() -> None:
            if self._is_stopped:
                raise NexthinkStoppedError("The run was stopped from outside: no other batch is sent.")
            if not is_supervised():
                raise NexthinkTryOverError(
                    "Airflow's supervisor of this task process is gone, and a retry may run beside it: no other batch "
                    "is sent."
                )

        def send(
            devices: Sequence[dict[str, str]], request_id: str, depart: Callable[[], None]
        ) -> data_management.BatchResponse:
            check: list[float] = []

            def leave() -> None:
                depart()
                check.append(transport.clock.monotonic())

            try:
                return data_management.delete_devices(
                    transport, devices, request_id, depart=leave, is_cancelled=lambda: run.has_ended
                )
            finally:
                if check:
                    stats.record_request(transport.clock.monotonic() - check[0])

        to_send = [position for position in plan.to_send if outcomes.status[position] is Status.NOT_SENT]
        if settled := len(plan.to_send) - len(to_send):
            # What the plan decides was the same then, and was counted then too.
            stats.exclude_restored(status for status in outcomes.status if status is not Status.NOT_SENT)
            self.log.info(
                "An earlier try of this task has settled %d of the %d devices: they are not sent again.",
                settled,
                len(plan.to_send),
            )
        scheduler = Scheduler(
            outcomes,
            to_send,
            batch_size=options.batch_size,
            max_concurrency=options.max_concurrency,
            rng=transport.clock.rng,
            last_batch=checkpoint.last_batch if checkpoint else 0,
            requests_per_second=options.requests_per_second,
        )
        deletion.run = run = DeletionRun(
            scheduler,
            send,
            options.max_concurrency,
            prepare=transport.sign_in,
            check=check,
            on_progress=self._progress(len(to_send), transport.clock, stats),
            checkpoint=checkpoint,
            clock=transport.clock,
        )
        if not to_send:
            return
        if checkpoint:
            checkpoint.begin(
                to_send,
                tenant=self.tenant,
                instance=deletion.instance,
                uid_column=deletion.uid_column,
                name_column=deletion.name_column,
            )
        run.run()
        self._mask_pending()
        if run.error and not run.counters.batches and not (checkpoint and checkpoint.earlier):
            deletion.result()  # records that nothing was sent
            deletion.has_begun = False
            raise run.error  # there is nothing to report but this: nothing was sent, now or before

    def run_nql(self, query_id: str, parameters: Mapping[str, str] | None = None) -> NqlRows:
        """Run a saved NQL query at once; for small results (about 1,000 rows).

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkError: if Nexthink refuses, or does not answer.
        """
        rows = nql.execute(self.get_conn(), query_id, parameters)
        report_read(self, self.get_conn().settings.instance, query_id)
        return rows

    def export_nql(
        self,
        query_id: str,
        parameters: Mapping[str, str] | None = None,
        *,
        compression: Compression = "GZIP",
        poll_interval: float = nql.POLL_SECONDS,
        timeout: float = nql.EXPORT_SECONDS,
        allow_truncated: bool = False,
    ) -> NqlRows:
        """Export the result of a saved NQL query, wait for the file and read it.

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :param compression: of the result file on its way: NONE, GZIP or ZSTD.
        :param poll_interval: seconds between two looks whether it is ready, growing to a minute.
        :param timeout: seconds after which to give up.
        :param allow_truncated: whether to take a result that the licence's maximum cut off.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkError: if Nexthink refuses, does not answer, or the export fails.
        """
        export_id = self.start_export(query_id, parameters, compression=compression)
        self.wait_for_export(export_id, poll_interval=poll_interval, timeout=timeout)
        return self.fetch_export(export_id, query_id=query_id, allow_truncated=allow_truncated)

    def start_export(
        self, query_id: str, parameters: Mapping[str, str] | None = None, *, compression: Compression = "GZIP"
    ) -> str:
        """Start the export of a saved NQL query's result.

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :param compression: of the result file on its way: NONE, GZIP or ZSTD.
        :return: the id of the export.
        :raises NexthinkError: if Nexthink refuses, or does not answer.
        """
        export_id = nql.start_export(self.get_conn(), query_id, parameters, compression)
        self.log.info("Nexthink exports %s as %s.", query_id, export_id)
        return export_id

    def wait_for_export(
        self, export_id: str, *, poll_interval: float = nql.POLL_SECONDS, timeout: float = nql.EXPORT_SECONDS
    ) -> None:
        """Wait until the file of an export is there. Polls at least once.

        :param export_id: what ``start_export`` returned.
        :param poll_interval: seconds between two polls, growing to a minute.
        :param timeout: seconds after which to give up.
        :raises NexthinkError: if Nexthink refuses, does not answer, or the export fails or is not ready in time.
        """
        nql.wait_for_export(self.get_conn(), export_id, poll_interval=poll_interval, timeout=timeout)

    def is_export_ready(self, export_id: str) -> bool:
        """Tell whether the file of an export is there.

        :param export_id: what ``start_export`` returned.
        :raises NexthinkError: if Nexthink refuses or does not respond, or the export failed.
        """
        return nql.is_ready(self.get_conn(), export_id)

    def fetch_export(self, export_id: str, *, query_id: str | None = None, allow_truncated: bool = False) -> NqlRows:
        """Fetch and read the file of an export that is ready.

        :param export_id: what ``start_export`` returned.
        :param query_id: the query that was exported, for Airflow's lineage.
        :param allow_truncated: whether to take a result that the licence's maximum cut off.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkError: if Nexthink refuses, does not answer, or the file cannot be read.
        """
        rows = nql.fetch_export(self.get_conn(), export_id, allow_truncated=allow_truncated)
        if query_id is not None:
            report_read(self, self.get_conn().settings.instance, query_id)
        if rows.truncated:
            self.log.warning("The export %s was cut off at the licence's maximum: rows are missing.", export_id)
        return rows

    def request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """Call any other Nexthink API, signed in.

        Sent again after a 429; after an unclear failure only where that is harmless (GET and HEAD).

        :param method: the HTTP method.
        :param path: the path on the API host, such as ``/api/v1/act/execute``.
        :param parts: ``json``, ``params``, ``headers`` and so on, as ``httpx.Request`` takes them.
        :return: the answer, a success (2xx).
        :raises NexthinkError: for every other answer, and for none.
        """
        return self.get_conn().send(method, path, idempotent=method.upper() in ("GET", "HEAD"), **parts)

    def test_connection(self) -> tuple[bool, str]:
        """Sign in and find out which permissions the API credential has. Deletes nothing.

        :return: whether the sign-in works and at least one API is permitted; and the three answers, in words.
        """
        with self:  # Airflow, which calls this from its connection form, closes nothing
            try:
                transport = self.get_conn()
                transport.sign_in()
            except NexthinkError as error:
                return False, f"Sign-in: failed. {error} NQL API: not tried. Data management: not tried."
            nql_api = _permission(transport, nql.EXECUTE_PATH, {"queryId": _IMPOSSIBLE_QUERY}, "NQL API")
            body = {"devices": [_IMPOSSIBLE_DEVICE]}
            deletions = _permission(transport, data_management.PATH, body, "Data management")
        return "permitted" in (nql_api, deletions), (
            f"Sign-in: works ({transport.settings.instance}). NQL API: {nql_api}. "
            f"Data management (deletions): {deletions}. Nothing was deleted."
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

    def _settings(self, connection: Connection, extra: Mapping[str, Any] | None = None) -> NexthinkSettings:
        if extra is None:
            extra = connection.extra_dejson
        if unknown := sorted(set(extra) - set(_EXTRAS)):
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
            **{name: extra.get(name) for name in _EXTRAS},
        )

    def _keep_secret(self, value: str) -> None:
        """Have a value masked in all logs; Airflow is told by the thread that made this hook."""
        self._unmasked.append(value)
        if threading.get_ident() == self._thread:
            self._mask_pending()

    def _mask_pending(self) -> None:
        while self._unmasked:
            mask_secret(self._unmasked.popleft())

    def _progress(self, planned: int, clock: Clock, stats: RunStats) -> Callable[[int], None]:
        """Return what is called a few times a second during a run."""
        start = last = clock.monotonic()

        def progress(settled: int) -> None:
            nonlocal last
            self._mask_pending()
            stats.emit_requests()
            now = clock.monotonic()
            if now - last >= PROGRESS_SECONDS and settled:
                last = now
                rate = settled / (now - start)
                self.log.info(
                    "%d of %d devices answered, %.0f a second, about %.0f s to go.",
                    settled,
                    planned,
                    rate,
                    (planned - settled) / rate,
                )

        return progress

    def _log_outcome(self, result: DeletionResult) -> None:
        counts = "\n".join(f"  {status:<10} {count:>9,}" for status, count in result.counts.items() if count)
        self.log.info(
            "%s, %d rows in %.1f s with %d requests and %d retries:\n%s",
            "Dry run" if result.dry_run else "Outcome",
            len(result.outcomes),
            result.duration_seconds,
            result.counters.requests,
            result.counters.retries,
            counts or "  no devices",
        )


def _permission(transport: Transport, path: str, body: dict[str, Any], name: str) -> str:
    """Tell whether the API credential may use an API, by asking it for something that cannot be."""
    try:
        transport.send_once("POST", path, json=body)
    except NexthinkPermissionError:
        return f"no permission (tick {name} on the API credential in Nexthink)"
    except NexthinkNotFoundError:  # there is no such query, but asking was allowed
        return "permitted"
    except NexthinkError as error:
        return f"not known ({str(error).rstrip('.')})"
    return "permitted"


def _checkpoint_of(state_store: StateStore | Checkpoint | None, clock: Clock) -> Checkpoint | None:
    if state_store is None or isinstance(state_store, Checkpoint):
        return state_store
    return Checkpoint(state_store, clock)
