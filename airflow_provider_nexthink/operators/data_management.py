"""Operator for Nexthink's Data Management API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator

from airflow_provider_nexthink.api.query import check_query_id
from airflow_provider_nexthink.deletion import options
from airflow_provider_nexthink.devices.formats import is_path, redacted_path, require_dataframe, suffix_of
from airflow_provider_nexthink.devices.references import Reference
from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkResultsError
from airflow_provider_nexthink.links.nexthink import NexthinkDeletionDocsLink, NexthinkOutcomeLink, NexthinkTenantLink
from airflow_provider_nexthink.operators._base import (
    RETURN_FORMATS,
    DeviceInput,
    DevicesMixin,
    UnrenderedList,
    fail_without_retry,
    is_template,
    option_errors,
    unwrapped,
)
from airflow_provider_nexthink.operators._policy import ConnectionPolicy
from airflow_provider_nexthink.operators._report import DeletionReport, describe_request
from airflow_provider_nexthink.status import DEFAULT_FAIL_ON, MAX_UNSCHEDULED
from airflow_provider_nexthink.utils.origin import run_origin
from airflow_provider_nexthink.utils.task_state import TaskState, cancel_timeout
from airflow_provider_nexthink.version_compat import (
    AirflowSkipException,
    has_xcom_backend,
    max_map_length,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_nexthink.deletion.checkpoint import Checkpoint
    from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.utils.results import ResultsKeeper


_TRY_OVER = (
    "No other batch is sent. Devices that this try has sent since its last save may be sent again by another try. "
    "The XComs and the file are left to that one: see the outcome in this log."
)

_LIMITS = ("max_devices", "max_share", "fleet_size", "fleet_query_id", "max_growth", "requests_per_second")

# Measured, see docs/speed.md: what a row of the table takes in XCom, and how much is too much for a database.
_XCOM_BYTES_A_ROW = {"records": 290, "columns": 190, "dataframe": 90, "manifest": 0}
_LARGE_XCOM_BYTES = 10_000_000


class NexthinkDeleteDevicesOperator(DevicesMixin, BaseOperator):
    """Ask Nexthink to delete devices, and report the outcome of each. There is no undo.

    Pushes to XCom, also when the task then fails: ``return_value``, the outcome table, one row for every row of
    ``devices`` in its order; ``summary``, the run in numbers; ``unscheduled``, the rows that need attention; and
    ``earlier_tries``, the rows of devices that earlier tries of the task were about to send and that are no longer in
    the list, if there are any. A try that fails before its first request keeps the tables of the tries before it.

    :param devices: a DataFrame (pandas, polars) or Arrow table; a list of mappings, or of rows that name their fields
        (named tuples, DB-API Rows); a list of tuples with ``columns``; one such row; a mapping of columns to lists;
        JSON text of one of these, or CSV text with a header; the path of a .csv, .parquet or .jsonl file, local or on
        object storage; or the XCom of a task, mapped or not, that returns one of these (``task.output``), also as a
        row or a cell of a list or mapping. (templated, if text)
    :param nexthink_conn_id: the connection. (templated)
    :param uid_column: which column holds the uid; None to find it by its name. (templated)
    :param name_column: which column holds the name; None to find it by its name. (templated)
    :param columns: the names of the columns, for rows that are tuples or lists.
    :param exclude: globs on the name, whatever its case, and uids that are never sent.
    :param protect: a list of devices that are never sent, by uid or by name, in any form that ``devices`` takes; a list
        with uids only or names only will do. A list without rows is an error. (templated, if text)
    :param max_devices: maximum number of devices to send. If the plan exceeds it, nothing is sent and the task fails
        without a retry. None for no limit. (templated)
    :param max_share: maximum share of the fleet to send, such as 0.05 for 5 %; guards like ``max_devices``.
        (templated)
    :param fleet_size: number of devices in the fleet; ``max_share`` requires this or ``fleet_query_id``. (templated)
    :param fleet_query_id: the id of a saved query that counts or lists the fleet, such as ``#all_devices``. It is run
        just before the first request. (templated)
    :param reason: why these devices are deleted, such as a ticket or a sentence of at most 1000 characters: for the
        summary, the log and the ledger. None, or blank, for none. (templated)
    :param max_growth: maximum size of this run of the Dag, as a multiple of the median of the runs before it, such as
        3; guards like ``max_devices``. It needs a ledger, and at least three runs in it. (templated)
    :param dry_run: plan only, send nothing; the rows become PLANNED. ``plan`` if other tasks of the Dag send what is
        planned: limits that need a ledger then hold as for them. (templated)
    :param batch_size: devices in one request, 1 to 100.
    :param max_concurrency: maximum number of requests in flight, 1 to 32.
    :param requests_per_second: maximum number of requests started per second, such as 2 or 0.5; None for no limit.
        (templated)
    :param on_empty: what to do with a list without rows: ``succeed``, ``skip`` or ``fail``.
    :param fail_on: the statuses that fail the task, once every device has its outcome.
    :param return_format: how the table is returned: ``records`` (a list of mappings), ``columns`` (one mapping of
        lists), ``dataframe`` (needs pandas and pyarrow) or ``manifest`` (``{path, rows, counts, size, checksum,
        unscheduled}`` of the file in ``results_path``; ``unscheduled`` then has the first 1000 rows, and a file of its
        own). With ``manifest``, a dry run from one Parquet file to another needs bounded memory, whatever the length of
        the list.
    :param results_path: also write the whole table to this file, local or on object storage: .csv, .parquet (needs
        pyarrow) or .jsonl. (templated)
    :raises NexthinkInputError: while the Dag is parsed, if an option cannot take effect.
    """

    template_fields: Sequence[str] = (
        "devices",
        "nexthink_conn_id",
        "uid_column",
        "name_column",
        "protect",
        "max_devices",
        "max_share",
        "fleet_size",
        "fleet_query_id",
        "max_growth",
        "reason",
        "dry_run",
        "requests_per_second",
        "results_path",
        "exclude",  # shown, not rendered
        "policy",  # no option: it shows what the connection allows; after nexthink_conn_id, which it needs rendered
    )
    template_ext: Sequence[str] = ()
    operator_extra_links = (NexthinkOutcomeLink(), NexthinkTenantLink(), NexthinkDeletionDocsLink())
    ui_color = "#e8e4f8"

    def __init__(
        self,
        *,
        devices: object,
        nexthink_conn_id: str = "nexthink_default",
        uid_column: str | None = None,
        name_column: str | None = None,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        protect: object = None,
        max_devices: int | str | None = 1000,
        max_share: float | str | None = None,
        fleet_size: int | str | None = None,
        fleet_query_id: str | None = None,
        max_growth: float | str | None = None,
        reason: str | None = None,
        dry_run: bool | str = False,
        batch_size: int | str = options.MAX_BATCH_SIZE,
        max_concurrency: int | str = 4,
        requests_per_second: float | str | None = None,
        on_empty: Literal["succeed", "skip", "fail"] = "succeed",
        fail_on: Sequence[str] = DEFAULT_FAIL_ON,
        return_format: Literal["records", "columns", "dataframe", "manifest"] = "records",
        results_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.devices = devices
        self.nexthink_conn_id = nexthink_conn_id
        self.uid_column = uid_column
        self.name_column = name_column
        self.columns = columns
        self.exclude = exclude
        self.protect = protect
        self.max_devices = max_devices
        self.max_share = max_share
        self.fleet_size = fleet_size
        self.fleet_query_id = fleet_query_id
        self.max_growth = max_growth
        self.reason = reason
        self.dry_run = dry_run  # type: ignore[method-assign, assignment] # hides BaseOperator.dry_run()
        self.batch_size = batch_size
        self.max_concurrency = max_concurrency
        self.requests_per_second = requests_per_second
        self.on_empty = on_empty
        self.fail_on = fail_on
        self.return_format = return_format
        self.results_path = results_path
        self.policy: object = ConnectionPolicy()
        self._hook: NexthinkHook | None = None
        self._stored: tuple[DeletionResult, dict[str, Any]] | None = None
        self._begun: Outcomes | None = None  # the table that is being written
        self._unwritten: NexthinkResultsError | None = None
        self._keeper: ResultsKeeper | None = None
        self._is_reported = False  # in XCom and in the file, or refused by them
        self._templated_limits = [limit for limit in _LIMITS if is_template(getattr(self, limit))]
        with option_errors():
            self._check_options()

    @property
    def exclude(self) -> UnrenderedList:
        """The exclusions, as the rendered view shows them; their ``value`` is what was passed."""
        return self._exclude

    @exclude.setter
    def exclude(self, value: object) -> None:
        self._exclude = value if isinstance(value, UnrenderedList) else UnrenderedList(value)

    @property
    def protect(self) -> object:
        """The protect list: None, a template to be resolved, or ``DeviceInput``."""
        return self._protect

    @protect.setter
    def protect(self, value: object) -> None:
        # None is "no list" only as the Dag has it; a template or an XCom that gives None is a list that is missing.
        is_no_list = value is None and self._protect is None
        self._protect = None if is_no_list else DeviceInput.wrap(value)

    def execute(self, context: Context) -> Any:
        """Delete the devices and return the outcome table."""
        self._hook = self._stored = self._begun = self._unwritten = self._keeper = None
        self._is_reported = False
        report = DeletionReport(
            context,
            enabled=self.do_xcom_push,
            to_format=self._formatted,
            origin=run_origin(context),
            max_unscheduled=MAX_UNSCHEDULED if self.return_format == "manifest" else None,
        )
        with fail_without_retry():
            try:
                return self._execute(context, report)
            except BaseException as error:  # a timeout may come at any instruction; what was sent is reported
                self._report_failure(report, error)
                raise

    def _execute(self, context: Context, report: DeletionReport) -> Any:
        from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

        with NexthinkHook(self.nexthink_conn_id) as self._hook:
            checkpoint = self._begin(context, report, self._hook)
            self._check_rendered()
            devices = self._read_devices(context)
            reference = self._file_to_plan(devices, self._hook)
            if reference is not None and not (checkpoint and checkpoint.earlier):  # whose rows are reported, too
                self._check_table(context, 0)
                result, manifest = self._hook.plan_file(
                    reference,
                    str(self.results_path),
                    keeps_file=self.on_empty != "succeed",
                    origin=report.origin,
                    **self._chosen_options(),
                )
                self._stored = None if manifest is None else (result, manifest)
            else:
                result = self._hook.delete_devices(
                    devices,
                    state_store=checkpoint,
                    on_plan=lambda plan: self._check_table(context, len(plan.uids)),
                    on_progress=self._results_keeper(self._hook),
                    origin=report.origin,
                    **self._chosen_options(),
                )
            if not result.outcomes and self.on_empty == "fail":
                raise NexthinkInputError("devices has no rows (on_empty='fail').")
            return self._finalize(report, result)

    def _chosen_options(self) -> Any:
        """Return the options of ``delete_devices``, rendered."""
        return {option: unwrapped(getattr(self, option)) for option in options.CHECKS}

    def _begin(self, context: Context, report: DeletionReport, hook: NexthinkHook) -> Checkpoint | None:
        """Report what earlier tries have done, before anything that may fail; return the checkpoint."""
        state = TaskState.of(context, consequence=_TRY_OVER)
        checkpoint = None
        try:
            checkpoint = state.checkpoint(lambda: hook.ledger_state_store(report.origin))
            if checkpoint is None:
                self._log_missing_state(state)
        finally:
            report.begin(checkpoint, is_retry=state.is_retry)
        return checkpoint

    def _report_failure(self, report: DeletionReport, error: BaseException) -> None:
        """Report what is known, if the error came before this try had reported its result."""
        if self._is_reported:
            return
        try:
            deletion = self._hook.deletion if self._hook else None
            if deletion is None or not deletion.has_begun:
                report.push_failure(error, deletion, partial(self._describe_request, error))
                return
            self._report(report, deletion.result(error))
        finally:
            if self._hook:
                self._hook.close()  # the report may have used the ledger again

    def _describe_request(self, error: BaseException) -> dict[str, Any]:
        # After a timeout or a kill there is no time for another look at the connection.
        hook = self._hook if isinstance(error, Exception) else None
        described = describe_request(hook, self._chosen_options())
        return {**described, "limits": None} if self._missing_limits() else described

    def _read_devices(self, context: Context) -> object:  # noqa: ARG002 - for subclasses
        """Return the devices to delete, in any form that the hook reads."""
        return self._given_devices()

    def _file_to_plan(self, devices: object, hook: NexthinkHook) -> Reference | None:
        """Return the Parquet file of a dry run from such a file to another, which needs bounded memory; else None."""
        if self.return_format != "manifest" or suffix_of(str(self.results_path)) != ".parquet":
            return None
        if isinstance(devices, PurePath) or (isinstance(devices, str) and is_path(devices.strip())):
            devices = {"path": str(devices).strip()}
        reference = Reference.of(devices)
        if reference is None or suffix_of(reference.path) != ".parquet" or self.columns is not None:
            return None
        chosen = options.DeletionOptions.checked(**self._chosen_options())
        return reference if hook.read_policy().tighten(chosen).dry_run else None

    def _results_keeper(self, hook: NexthinkHook) -> Callable[[], object]:
        """Return what writes the table while the run is in progress."""
        if self.return_format != "manifest" or self.results_path is None:
            return lambda: None
        from airflow_provider_nexthink.utils.results import ResultsKeeper

        self._keeper = keeper = ResultsKeeper(self.results_path)
        return lambda: keeper.keep(lambda: hook.deletion.snapshot() if hook.deletion else None)

    def _check_rendered(self) -> None:
        """Check what is known only when the task runs, before anything is sent."""
        from airflow_provider_nexthink.utils.storage import check_results_path

        for limit in self._missing_limits():
            raise NexthinkInputError(
                f"{limit} is a template that gave nothing, and so no limit. This try sent nothing. Give it a "
                f"value; for no limit write {limit}=None in the Dag."
            )
        if self.protect is not None and unwrapped(self.protect) is None:
            raise NexthinkInputError(
                "protect is a template or an XCom that gave nothing (None): a list that is missing protects nothing. "
                "Check the task that makes it. This try sent nothing."
            )
        if self.return_format == "dataframe":
            require_dataframe("return_format='dataframe'")
        if (path := options.check_results_path(self.results_path)) is not None:
            check_results_path(path)
        elif self.return_format == "manifest":
            raise NexthinkInputError(
                "return_format='manifest' writes the table to results_path, which is a template that gave nothing. "
                "This try sent nothing."
            )

    def _missing_limits(self) -> list[str]:
        """Return the limits that are templates and gave nothing."""
        return [limit for limit in self._templated_limits if getattr(self, limit) in (None, "None", "")]

    def _has_mapped_dependants(self) -> bool:
        has_dag = self.has_dag()  # type: ignore[no-untyped-call]
        return has_dag and any(True for _ in self.iter_mapped_dependants())

    def _check_table(self, context: Context, rows: int) -> None:
        """Refuse a table that Airflow would reject after the deletion; warn of one that is too large."""
        if not getattr(context.get("ti"), "is_mapped", False) and self._has_mapped_dependants():
            problem, remedy = "", ""
            if not self.do_xcom_push:
                problem, remedy = "do_xcom_push=False leaves it nothing to map over", "Leave do_xcom_push out"
            elif self.return_format == "dataframe":
                problem, remedy = "Airflow maps over no DataFrame", "Set return_format='records'"
            elif self.return_format == "manifest":
                problem, remedy = "a manifest has no rows to map over", "Map over what split_plan makes of it"
            elif self.return_format == "records" and rows > (most := max_map_length()):
                problem = f"Airflow maps over {most} entries at most ([core] max_map_length), not {rows} rows"
                remedy = (
                    "Split the list (airflow_provider_nexthink.chunks), or raise max_map_length on the API server and "
                    "on all workers"
                )
            if problem:
                raise NexthinkInputError(
                    f"A task is mapped over the outcome table of {self.task_id}, and {problem}: this task would fail "
                    f"after the deletion. This try sent nothing. {remedy}; or map over a task that picks the rows."
                )
        size = rows * _XCOM_BYTES_A_ROW[self.return_format]
        if size > _LARGE_XCOM_BYTES and self.do_xcom_push and not has_xcom_backend():
            self.log.warning(
                "The outcome table of %d rows will take about %d MB in XCom (return_format=%r), and so in Airflow's "
                "database. For lists of this size set results_path and return_format='manifest', or an XCom backend "
                "on object storage.",
                rows,
                size // 1_000_000,
                self.return_format,
            )

    def _finalize(self, report: DeletionReport, result: DeletionResult) -> Any:
        """Push the outcome of each device; then raise the error of the run, or return the table."""
        failure: BaseException | None = None
        try:
            result.raise_for_status(self.fail_on)
        except BaseException as error:  # noqa: BLE001 - also a timeout; the table is pushed first
            failure = error
        unreported = self._report(report, result)
        if (failure := failure or unreported) is not None:
            raise failure
        if self.execution_timeout:
            cancel_timeout()  # the work is done: a timeout now could only give it a wrong outcome
        report.mark_done()
        if not result.outcomes and self.on_empty == "skip":
            raise AirflowSkipException("devices has no rows (on_empty='skip').")
        if self.has_dag() and not self._has_mapped_dependants():  # type: ignore[no-untyped-call]
            # Airflow would push the table a second time. For a mapped downstream it has to: it records the length.
            self.do_xcom_push = False
        return self._formatted(result)

    def _report(self, report: DeletionReport, result: DeletionResult) -> BaseException | None:
        """Push the result to XCom and write it to its file; return what prevented or interrupted that."""
        from airflow_provider_nexthink.utils.results import AFTER_TIMEOUT_SECONDS, seconds_to_write, within

        failure = report.push(result)
        # Again after a timeout, which comes once: there may be no other table than the file.
        for seconds in (seconds_to_write(result.error), AFTER_TIMEOUT_SECONDS):
            try:
                unwritten = None if report.is_over else within(seconds, partial(self._write_results, result))
                failure = failure or unwritten
                break
            except TimeoutError as error:  # the storage has not responded within that time
                failure = failure or self._not_written(error)
                break
            except BaseException as interruption:  # noqa: BLE001 - killed, or out of time; raised once it is written
                failure = failure or interruption
        self._is_reported = True
        return failure

    def _write_results(self, result: DeletionResult) -> Exception | None:
        """Write the table to its file; return what kept it from being written."""
        if self.results_path is None or self._is_refused(result):
            return None
        if self.return_format == "manifest":
            self._formatted(result)
            return self._unwritten
        from airflow_provider_nexthink.utils.storage import write_table

        try:
            write_table(self.results_path, result.outcomes.columns())
        except Exception as error:  # noqa: BLE001 - object storage has errors of its own
            return self._not_written(error)
        self.log.info("The outcome table is in %s.", redacted_path(self.results_path))
        return None

    def _not_written(self, error: Exception) -> NexthinkResultsError:
        unwritten = NexthinkResultsError(
            f"The outcome table could not be written to {redacted_path(str(self.results_path))}: {error}. The devices "
            "were handled, and the table is in XCom (return_value). A retry writes it; on Airflow 3.3, or with a "
            "ledger, it sends nothing again."
        )
        self.log.warning("%s", unwritten)
        return unwritten

    def _is_refused(self, result: DeletionResult) -> bool:
        """Return whether this is an empty list where that is no success: the file of an earlier run is kept."""
        return not result.outcomes and self.on_empty != "succeed"

    def _manifest(self, result: DeletionResult) -> dict[str, Any]:
        """Write the table to its file, and return the manifest; the table itself if it cannot be written."""
        from airflow_provider_nexthink.utils.results import (
            AFTER_TIMEOUT_SECONDS,
            seconds_to_write,
            store_results,
            within,
        )

        if self._stored is not None and self._stored[0].outcomes is result.outcomes:
            return self._stored[1]
        path = options.check_results_path(self.results_path)  # a retry comes here before its options are checked
        is_again = self._begun is result.outcomes
        if path is None or self._is_refused(result) or (is_again and self._unwritten is not None):
            return result.outcomes.columns()
        # Again after a timeout, which comes once: a storage that hangs must not hold the task for ever.
        seconds = AFTER_TIMEOUT_SECONDS if is_again else seconds_to_write(result.error)
        self._begun, self._unwritten = result.outcomes, None
        try:
            manifest = within(seconds, partial(store_results, path, result.outcomes, result.uid_column))
        except Exception as error:  # noqa: BLE001 - object storage has errors of its own
            self._unwritten = self._not_written(error)
            return result.outcomes.columns()
        self._stored = result, manifest
        if self._keeper:
            self._keeper.close()
        self.log.info("The outcome table is in %s.", redacted_path(path))
        return manifest

    def on_kill(self) -> None:
        """Send no other batch. Responses to requests in flight are still taken for a moment."""
        if self._hook is not None:
            self._hook.stop()

    def _check_options(self) -> None:
        """Fail the parsing of a Dag for an option that cannot take effect."""
        options.check_share_and_fleet(self.max_share, self.fleet_size, self.fleet_query_id)
        if self.fleet_query_id is not None and not is_template(self.fleet_query_id):
            check_query_id(self.fleet_query_id)
        for option, check in {**options.CHECKS, "results_path": options.check_results_path}.items():
            value = unwrapped(getattr(self, option))
            if not (option in self.template_fields and option != "exclude" and is_template(value)):
                check(value)
        if any(is_template(entry) for entry in self.exclude.value):
            raise NexthinkInputError("exclude is not a template: it takes globs and uids as they are.")
        options.check_fail_on(self.fail_on)
        options.check_choice("on_empty", self.on_empty, ("succeed", "skip", "fail"))
        if not is_template(self.nexthink_conn_id):
            options.check_text("nexthink_conn_id", self.nexthink_conn_id)
        options.check_choice("return_format", self.return_format, (*RETURN_FORMATS, "manifest"))
        if self.return_format == "manifest" and self.results_path is None:
            raise NexthinkInputError(
                "return_format='manifest' needs results_path: the table goes to that file, and XCom has the manifest."
            )

    def _log_missing_state(self, state: TaskState) -> None:
        """Log what it means for a retry that neither this Airflow nor a ledger keeps its state."""
        if state.is_retry:
            self.log.warning(
                "This Airflow keeps no state for a task (3.3 does, and so does a ledger): what earlier tries of this "
                "task sent is not known here. See their logs, and Nexthink's inventory. This try sends the whole list "
                "again, and its limits hold for itself alone."
            )
        elif self.retries:
            self.log.info(
                "This Airflow keeps no state for a task (3.3 does, and so does a ledger): a retry sends the whole list "
                "again."
            )

    def _formatted(self, result: DeletionResult) -> Any:
        if self.return_format == "columns":
            return result.outcomes.columns()
        if self.return_format == "manifest":
            return self._manifest(result)
        return result.to_pandas() if self.return_format == "dataframe" else result.table
