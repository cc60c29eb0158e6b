"""Nexthink in plain Python: what the hook does, without Airflow. ::

from airflow_provider_nexthink.client import NexthinkClient, NexthinkSettings

settings = NexthinkSettings.resolve(instance="acme", region="eu", client_id=..., client_secret=...)
with NexthinkClient(settings) as client:
    result = client.delete_devices(client.export_nql("#stale_devices"), max_devices=500)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, Unpack

from airflow_provider_nexthink.api import data_management, nql
from airflow_provider_nexthink.api.http import Transport, untraced
from airflow_provider_nexthink.api.nql import Compression, NqlRows, NqlStream
from airflow_provider_nexthink.api.query import check_query_id
from airflow_provider_nexthink.api.result_file import STREAM_LIMITS, ResultLimits
from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.backoff import MAX_ATTEMPTS
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.checkpoint import Checkpoint, StateStore
from airflow_provider_nexthink.deletion.deletion import Deletion, DeletionObserver
from airflow_provider_nexthink.deletion.file_plan import FilePlan
from airflow_provider_nexthink.deletion.options import DeletionOptions, DeletionOptionsDict
from airflow_provider_nexthink.deletion.outcome import DeletionResult, RunCounters
from airflow_provider_nexthink.deletion.plan import check_guards
from airflow_provider_nexthink.deletion.policy import DeletionPolicy
from airflow_provider_nexthink.deletion.protect import ProtectList, read_protect_list
from airflow_provider_nexthink.devices.columns import uid_kind
from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkPolicyError,
    NexthinkStoppedError,
)
from airflow_provider_nexthink.fleet import FleetLook, count_fleet, read_fleet
from airflow_provider_nexthink.origin import RunOrigin

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr
    from sqlalchemy.engine import Engine

    from airflow_provider_nexthink.deletion.run import Departure
    from airflow_provider_nexthink.devices.parquet import ParquetRows
    from airflow_provider_nexthink.devices.references import Reference
    from airflow_provider_nexthink.ledger.database import Database
    from airflow_provider_nexthink.recording import DeletionRecorder

__all__ = [
    "DeletionObserver",
    "DeletionPolicy",
    "DeletionResult",
    "FleetLook",
    "NexthinkClient",
    "NexthinkSettings",
    "NqlRows",
    "NqlStream",
    "ResultLimits",
]

log = logging.getLogger(__name__)

_Read = TypeVar("_Read")

# A uid that no device can have: the deletion API responds INVALID and deletes nothing.
_IMPOSSIBLE_DEVICE = {"uid": "connection-test", "name": "connection-test"}
_IMPOSSIBLE_QUERY = "#airflow_connection_test_no_such_query"


class NexthinkClient:
    """Calls the APIs of one tenant with one API credential. The first request fetches the token.

    Safe to share between threads, but for ``delete_devices``: one deletion at a time. Use it as a context manager, or
    call ``close``.

    :param settings: the tenant and the credential.
    :param policy: what limits every ``delete_devices``, beside the options of its caller; None for nothing.
    :param ledger: SQLAlchemy's engine for the database with the ledger, in which every deletion is recorded, or what
        makes it once it is needed; None for no memory between runs.
    :param on_secret: called by any thread with every value that must not show in a log, as soon as it is known.
    :param traced: what each request is sent within, once it is made; may add headers to it.
    :param open_file: opens the path of a device list for reading bytes; by default fsspec does.
    :param result_limits: how large the result file of an export may be; by default larger than that of any fleet of a
        million.
    :param max_attempts: how often one request is sent at most, but for those of ``delete_devices``, which has a rule of
        its own; 1 for a caller that retries by itself.
    :param clock: time and chance.
    :raises NexthinkSettingsError: if the CA bundle or the proxy of the settings cannot be used.
    """

    def __init__(
        self,
        settings: NexthinkSettings,
        *,
        policy: DeletionPolicy | None = None,
        ledger: Engine | Callable[[], Engine] | None = None,
        on_secret: Callable[[str], None] = lambda _: None,
        traced: Callable[[httpx.Request], AbstractContextManager[object]] = untraced,
        open_file: Callable[[str], BinaryIO] | None = None,
        result_limits: ResultLimits | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.policy = policy or DeletionPolicy()
        self.deletion: Deletion | None = None
        """What ``delete_devices`` has planned last: after an interruption, its result is still there."""
        self._open_file = open_file
        self._result_limits = result_limits
        self.clock = clock or Clock()
        self._given_ledger = ledger
        self._own_engine: Engine | None = None
        self._is_stopped = False  # no Event: its lock could be held where a signal handler calls stop()
        self._transport = Transport(
            settings,
            on_secret=on_secret,
            traced=traced,
            max_attempts=max_attempts,
            is_stopped=lambda: self._is_stopped,
            clock=self.clock,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and close the connections. Nothing is sent after this."""
        self.stop()
        self._transport.close()
        if self._own_engine is not None:
            self._own_engine.dispose()

    def stop(self) -> None:
        """Send nothing more, and end every wait but that for a connection to be made.

        Responses to batches in flight are still taken for a moment.

        May be called by any thread, and by a signal handler. There is no way back: make another client.
        """
        self._is_stopped = True

    @property
    def tenant(self) -> str:
        """What tells the tenant from any other, whatever the credential."""
        return self.settings.tenant

    @property
    def account(self) -> str:
        """What tells the tenant and its credential from any other; no secret."""
        return "\0".join((self.tenant, self.settings.login_url, self.settings.client_id))

    @cached_property
    def ledger(self) -> Database | None:
        """The ledger, if there is one.

        :raises NexthinkInputError: if a ledger cannot be there.
        """
        engine = self._given_ledger
        if engine is None:
            return None
        from airflow_provider_nexthink.ledger.database import Database  # which imports SQLAlchemy

        if callable(engine):
            engine = self._own_engine = engine()
        return Database(
            engine,
            tenant=self.tenant,
            instance=self.settings.instance,
            clock=self.clock,
            conn_id=self.policy.ledger_conn_id,
        )

    def get_token(self) -> SecretStr:
        """Return a token that is good for now, and fetch one if need be.

        :raises NexthinkAuthenticationError: if the credentials are refused.
        :raises NexthinkTokenError: if the login address does not respond.
        """
        return self._transport.get_token()

    def delete_devices(
        self,
        devices: object,
        *,
        state_store: StateStore | Checkpoint | None = None,
        observer: DeletionObserver | None = None,
        origin: RunOrigin | None = None,
        **options: Unpack[DeletionOptionsDict],
    ) -> DeletionResult:
        """Ask Nexthink to delete these devices. There is no undo.

        :param devices: a DataFrame or Arrow table, a list of mappings or of rows that name their fields, a list of
            tuples with ``columns``, JSON text of one of these, CSV text, or the path of a .csv, .parquet or .jsonl
            file.
        :param state_store: where all tries of the same task record what they send, or the ``Checkpoint`` over it: a
            device that an earlier try has settled is not sent again, and what earlier tries have sent counts in the
            limits.
        :param observer: watches the deletion.
        :param origin: who started it, and in which task; None for plain Python.
        :param options: as ``DeletionOptions`` describes them.
        :return: the outcome of every row. What stopped the run once something was sent is in its ``error``.
        :raises NexthinkInputError: if the input, an option or a setting is wrong, the policy forbids it, or a guard
            trips; nothing was sent.
        :raises NexthinkError: if anything else ends it before the first request: no token, no response of the ledger, a
            stop, a file that cannot be read just now; nothing was sent.
        """
        checked = self._checked(options)
        watcher = observer or DeletionObserver()
        check = self._check_of(watcher)
        recorder = self._recorder(check)
        rows = read_devices(
            devices,
            columns=checked.columns,
            uid_column=checked.uid_column,
            name_column=checked.name_column,
            open_file=self._open_file,
        )
        self.deletion = deletion = Deletion(
            rows,
            checked,
            protect=self._read_protect_list(checked, rows.uid_column),
            tenant=self.tenant,
            instance=self.settings.instance,
            clock=self.clock,
            checkpoint=_checkpoint_of(state_store, self.clock),
            observer=watcher,
            policy=self.policy,
            origin=origin,
            reserve=recorder.reserve if recorder else None,
        )
        if checked.fleet_query_id is not None and deletion.plan.to_send:
            deletion.set_fleet_size(self._count_fleet(checked, recorder, rows.uid_column))

        def send(
            devices: Sequence[dict[str, str]], request_id: str, depart: Departure
        ) -> data_management.BatchResponse:
            left_at: float | None = None

            def leave() -> None:
                nonlocal left_at
                depart()
                left_at = self.clock.monotonic()

            try:
                return data_management.delete_devices(
                    self._transport,
                    devices,
                    request_id,
                    depart=leave,
                    refused=depart.refused,
                    is_cancelled=lambda: deletion.has_ended,
                )
            finally:
                if left_at is not None:
                    watcher.on_request(self.clock.monotonic() - left_at)

        try:
            deletion.check()
            return deletion.execute(send, self._transport.get_token, check)
        except NexthinkGuardError as error:
            if recorder:
                recorder.record_blocked(recorder.request_of(deletion), error)
            raise

    def plan_file(
        self,
        rows: ParquetRows,
        table: BinaryIO,
        unscheduled: BinaryIO,
        *,
        reference: Reference | None = None,
        observer: DeletionObserver | None = None,
        origin: RunOrigin | None = None,
        **options: Unpack[DeletionOptionsDict],
    ) -> DeletionResult:
        """Plan the deletion of a list of any length, in bounded memory: a dry run from a Parquet file to another.

        :param rows: the devices.
        :param table: an open file, for the outcome table, as Parquet. It is of use only if nothing is raised.
        :param unscheduled: an open file, for its rows that need attention, likewise.
        :param reference: which of the rows to plan; None for all.
        :param observer: watches it: its ``check`` is called before the limits are checked.
        :param origin: who started it, and in which task; None for plain Python.
        :param options: as ``DeletionOptions`` describes them; it is a dry run whatever they say.
        :return: the result, without the rows themselves.
        :raises NexthinkInputError: if the input, an option or a setting is wrong, the policy forbids it, or a guard
            trips.
        """
        checked = self._checked(options)
        check = self._check_of(observer or DeletionObserver())
        recorder = self._recorder(check)
        checked = self.policy.tighten(replace(checked, dry_run=checked.dry_run or True))
        origin = origin or RunOrigin()
        started_at, begin = self.clock.now(), self.clock.monotonic()
        start, stop = reference.rows_in(rows) if reference else (0, rows.length)
        plan = FilePlan(rows, start, stop, uid_column=checked.uid_column, name_column=checked.name_column)
        protect = self._read_protect_list(checked, plan.uid_column)
        outcomes = plan.write(table, unscheduled, checked.exclude, self.policy.protected, protect)
        log.info("%d devices for %s: %d to send.", len(outcomes), self.settings.instance, outcomes.planned)
        check()
        if checked.fleet_query_id is not None and outcomes.planned:
            checked = replace(checked, fleet_size=self._count_fleet(checked, recorder, plan.uid_column))
        request = recorder and recorder.request_of_plan(plan, outcomes.planned, checked, self.policy, origin)
        try:
            check_guards(
                outcomes.planned,
                max_devices=checked.max_devices,
                max_devices_set_by=self.policy.who_sets_max_devices(checked),
                max_share=checked.max_share,
                fleet_size=checked.fleet_size,
                fleet_query_id=checked.fleet_query_id,
            )
            if recorder and request:
                recorder.check_limits(request)
        except NexthinkGuardError as error:
            if recorder and request:
                recorder.record_blocked(request, error)
            raise
        return DeletionResult(
            outcomes,
            error=None,
            counters=RunCounters(),
            dry_run=True,
            uid_column=plan.uid_column,
            name_column=plan.name_column,
            instance=self.settings.instance,
            started_at=started_at,
            finished_at=self.clock.now(),
            duration_seconds=self.clock.monotonic() - begin,
            origin=origin,
            reason=checked.reason,
            limits=self.policy.limits_in_force(checked),
        )

    def _checked(self, options: DeletionOptionsDict) -> DeletionOptions:
        """Return the options of a deletion, if they and the policy can take effect."""
        checked = DeletionOptions.checked(**options)
        if checked.fleet_query_id is not None:
            check_query_id(checked.fleet_query_id)
        self.policy.check_allowed()
        self._check_memory(checked)
        return checked

    def _check_of(self, watcher: DeletionObserver) -> Callable[[], None]:
        """Return what raises the error that is to end a deletion."""

        def check() -> None:
            if self._is_stopped:
                raise NexthinkStoppedError("The run was stopped from outside: no other batch is sent.")
            watcher.check()

        return check

    def _read_protect_list(self, options: DeletionOptions, uid_column: str | None) -> ProtectList | None:
        if options.protect is None:
            return None
        protect = read_protect_list(options.protect, columns=options.columns, open_file=self._open_file)
        protect.check_kind(uid_column)
        return protect

    def _count_fleet(self, options: DeletionOptions, recorder: DeletionRecorder | None, uid_column: str | None) -> int:
        """Return how many devices ``fleet_query_id`` finds; the recorder gets the look, if it lists them."""
        query_id = options.fleet_query_id or ""
        if recorder is None:
            return self.count_fleet(query_id)
        look = self.look_at_fleet(query_id)
        if look.days_unseen is None and options.max_share is None:
            raise NexthinkInputError(
                f"{query_id} (fleet_query_id) gives only a number, which does nothing without max_share. Set "
                "max_share, or list the devices. This try sent nothing."
            )
        if look.days_unseen is not None:
            from airflow_provider_nexthink.ledger.reservation import InventoryLook

            recorder.set_look(InventoryLook(query_id, look.looked_at, look.days_unseen, look.uid_kind))
            if None not in (kinds := (look.uid_kind, uid_kind(uid_column))) and kinds[0] != kinds[1]:
                log.warning(
                    "%s lists the uid of the %s, and the devices are deleted by that of the %s: the look proves "
                    "nothing of them.",
                    query_id,
                    *kinds,
                )
        return look.count

    def _recorder(self, check: Callable[[], None]) -> DeletionRecorder | None:
        """Return what records a deletion in the ledger, if there is one."""
        if self.ledger is None:
            return None
        from airflow_provider_nexthink.recording import DeletionRecorder

        return DeletionRecorder(self.ledger, check)

    def _check_memory(self, options: DeletionOptions) -> None:
        """Refuse a limit that needs a ledger where there is none.

        :raises NexthinkInputError: if there is one.
        """
        if self.ledger is not None:
            return
        if self.policy.ledger_conn_id is not None:
            raise NexthinkPolicyError(
                "The policy names a ledger (ledger_conn_id), and this client has none. Pass ledger=..., the engine of "
                "SQLAlchemy for its database. This try sent nothing."
            )
        if options.fleet_query_id is not None and options.max_share is None:
            raise NexthinkInputError(
                "fleet_query_id does nothing without max_share, such as max_share=0.05, or a ledger (the extra "
                "ledger_conn_id of the connection). This try sent nothing."
            )
        needed = {
            "max_growth": options.max_growth is not None,
            "quota_devices": self.policy.quota_devices is not None,
            "require_proof": self.policy.require_proof,
        }
        if limits := [limit for limit, is_set in needed.items() if is_set]:
            raise NexthinkPolicyError(
                f"{' and '.join(limits)} cannot take effect without a ledger: set the extra ledger_conn_id of the "
                "connection to the id of a connection to a SQL database. This try sent nothing."
            )

    def count_fleet(self, query_id: str) -> int:
        """Count the devices of the fleet, also one of many millions: it takes 16 bytes of memory for each device.

        :param query_id: the id of a saved query that gives one number, or lists every device.
        :raises NexthinkTruncatedError: if the result was cut off.
        :raises NexthinkInputError: if the result is neither.
        :raises NexthinkError: if it has no devices, or Nexthink refuses, does not respond, or the export fails.
        """
        export_id = self.start_export(query_id)
        self.wait_for_export(export_id)
        counted = self.read_export(export_id, lambda result: count_fleet(result, query_id)).devices(query_id)
        log.info("%s has counted %d devices in the fleet.", query_id, counted)
        return counted

    def look_at_fleet(self, query_id: str) -> FleetLook:
        """Count the devices of the fleet, and list them if the query does.

        :param query_id: the id of a saved query that gives one number, or lists every device.
        :raises NexthinkTruncatedError: if the result was cut off.
        :raises NexthinkInputError: if the result is neither.
        :raises NexthinkError: if it has no devices, or Nexthink refuses, does not respond, or the export fails.
        """
        looked_at = self.clock.now()
        look = read_fleet(self.export_nql(query_id), query_id=query_id, looked_at=looked_at)
        log.info("%s has counted %d devices in the fleet.", query_id, look.count)
        return look

    def run_nql(self, query_id: str, parameters: Mapping[str, str] | None = None) -> NqlRows:
        """Run a saved NQL query at once; for small results (about 1,000 rows).

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkInputError: if the query id or a parameter is not valid.
        :raises NexthinkError: if Nexthink refuses, or does not respond.
        """
        return nql.execute(self._transport, query_id, parameters)

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
        :param compression: of the result file in transit: NONE, GZIP or ZSTD.
        :param poll_interval: seconds between two polls, growing to a minute.
        :param timeout: seconds after which to give up.
        :param allow_truncated: whether to take a result that the license's maximum cut off.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkInputError: if the query id or a parameter is not valid.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than ``result_limits``.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the export fails.
        """
        export_id = self.start_export(query_id, parameters, compression=compression)
        self.wait_for_export(export_id, poll_interval=poll_interval, timeout=timeout)
        return self.fetch_export(export_id, allow_truncated=allow_truncated)

    def start_export(
        self, query_id: str, parameters: Mapping[str, str] | None = None, *, compression: Compression = "GZIP"
    ) -> str:
        """Start the export of a saved NQL query's result.

        :param query_id: the id of the saved query, such as ``#stale_devices``.
        :param parameters: values for the query's ``where`` clause.
        :param compression: of the result file in transit: NONE, GZIP or ZSTD.
        :return: the id of the export.
        :raises NexthinkInputError: if the query id or a parameter is not valid.
        :raises NexthinkError: if Nexthink refuses, or does not respond.
        """
        export_id = nql.start_export(self._transport, query_id, parameters, compression)
        log.info("Nexthink exports %s as %s.", query_id, export_id)
        return export_id

    def is_export_ready(self, export_id: str) -> bool:
        """Tell whether the file of an export is there.

        :param export_id: what ``start_export`` returned.
        :raises NexthinkError: if Nexthink refuses or does not respond, or the export failed.
        """
        return nql.is_ready(self._transport, export_id)

    def wait_for_export(
        self, export_id: str, *, poll_interval: float = nql.POLL_SECONDS, timeout: float = nql.EXPORT_SECONDS
    ) -> None:
        """Wait until the file of an export is there. Polls at least once.

        :param export_id: what ``start_export`` returned.
        :param poll_interval: seconds between two polls, growing to a minute.
        :param timeout: seconds after which to give up.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the export fails or is not ready in time.
        """
        nql.wait_for_export(self._transport, export_id, poll_interval=poll_interval, timeout=timeout)

    def fetch_export(self, export_id: str, *, allow_truncated: bool = False) -> NqlRows:
        """Fetch and read the file of an export that is ready.

        :param export_id: what ``start_export`` returned.
        :param allow_truncated: whether to take a result that the license's maximum cut off.
        :return: the rows, each ``{column: text}``.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than ``result_limits``.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the file cannot be read.
        """
        return nql.fetch_export(self._transport, export_id, allow_truncated=allow_truncated, limits=self._result_limits)

    def read_export(
        self, export_id: str, read: Callable[[NqlStream], _Read], *, allow_truncated: bool = False
    ) -> _Read:
        """Fetch the file of an export that is ready, and read it row by row: a result of any size, in little memory.

        :param export_id: what ``start_export`` returned.
        :param read: reads the rows, such as ``lambda result: writer.writerows(result.rows)``. It is called again, with
            all rows from the first, after a download that failed. Whether the file is whole shows only after the last
            row: use nothing of it before ``read_export`` returns.
        :param allow_truncated: whether to take a result that the license's maximum cut off.
        :return: what ``read`` returned.
        :raises NexthinkTruncatedError: if the result was cut off and that is not allowed.
        :raises NexthinkResultLimitError: if it is larger than ``result_limits``.
        :raises NexthinkError: if Nexthink refuses, does not respond, or the file cannot be read.
        """
        limits = self._result_limits or STREAM_LIMITS
        return nql.read_export(self._transport, export_id, read, allow_truncated=allow_truncated, limits=limits)

    def request(self, method: str, path: str, **request_options: Any) -> httpx.Response:
        """Call any other Nexthink API.

        Retried after a 429, and where the request never left; after an ambiguous failure only if that is harmless (GET
        and HEAD).

        :param method: the HTTP method.
        :param path: the path on the API host, such as ``/api/v1/act/execute``.
        :param request_options: ``json``, ``params``, ``headers`` and so on, as ``httpx.Request`` takes them.
        :return: the response, a success (2xx).
        :raises NexthinkInputError: if the path is not one on the API host.
        :raises NexthinkError: for every other response, and for none.
        """
        is_harmless = method.upper() in ("GET", "HEAD")
        return self._transport.send(method, path, idempotent=is_harmless, **request_options)

    def check_permissions(self) -> dict[str, str]:
        """Find out which permissions the API credential has, by requests that cannot do anything. Deletes nothing.

        :return: for "NQL API" and "Data management": ``permitted``, or why not, in words.
        :raises NexthinkError: if Nexthink gives no token.
        """
        self.get_token()
        return {
            "NQL API": self._permission("NQL API", nql.EXECUTE_PATH, {"queryId": _IMPOSSIBLE_QUERY}),
            "Data management": self._permission(
                "Data management", data_management.PATH, {"devices": [_IMPOSSIBLE_DEVICE]}
            ),
        }

    def _permission(self, name: str, path: str, body: dict[str, Any]) -> str:
        try:
            self._transport.send_once("POST", path, json=body)
        except NexthinkPermissionError:
            return f"no permission (tick {name} on the API credential in Nexthink)"
        except NexthinkNotFoundError:  # there is no such query, but the request was allowed
            return "permitted"
        except NexthinkError as error:
            return f"not known ({str(error).rstrip('.')})"
        return "permitted"


def _checkpoint_of(state_store: StateStore | Checkpoint | None, clock: Clock) -> Checkpoint | None:
    if state_store is None or isinstance(state_store, Checkpoint):
        return state_store
    return Checkpoint(state_store, clock)
