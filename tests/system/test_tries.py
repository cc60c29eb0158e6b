"""What the tries of one task know of each other: tables, summaries, limits; and a timeout at any moment."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_nexthink.exceptions import NexthinkTryOverError
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.version_compat import AirflowFailException
from tests.support.dags import KEEPS_TASK_STATE, Run
from tests.support.interrupts import Line, TaskTimeout, interrupted_after, interrupted_at_new_line
from tests.support.secrets import reset_secrets_maskers
from tests.support.store import Store
from tests.support.tries import TaskInstance, execute

RunDag = Callable[..., Run]
Devices = list[dict[str, str]]

ONE_RETRY = {"retries": 1, "retry_delay": timedelta(0)}
# Each Dag has an id of its own: Airflow writes no other version of one within half a minute.
NUMBERS = itertools.count()
HALF_AN_HOUR = {"Retry-After": "1800"}

needs_task_state = pytest.mark.skipif(not KEEPS_TASK_STATE, reason="Airflow before 3.3 keeps no state for a task")


@pytest.fixture
def fleet(sandbox: Sandbox) -> Devices:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()]


def run_tries(run_dag: RunDag, *tries: Callable[[], Any], retries: int | None = None, **options: Any) -> Run:
    """Run one task, whose function does something else at each try."""
    each = iter(tries)
    with DAG(
        f"tries_{next(NUMBERS)}", default_args={**ONE_RETRY, "retries": len(tries) - 1 if retries is None else retries}
    ) as dag:

        @task.nexthink_delete_devices(task_id="delete", **options)
        def devices() -> Any:
            return next(each)()

        devices()
    return run_dag(dag)


def stop_after(sandbox: Sandbox, requests: int) -> None:
    """Let the try that comes now end after some requests, such that there is a retry."""
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers=HALF_AN_HOUR, skip=requests))


def break_connection(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, **change: Any) -> None:
    connection = json.loads(sandbox.airflow_connection())
    connection["extra"] |= change.pop("extra", {})
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(connection | change))


@needs_task_state
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("wrong secret", "NexthinkAuthenticationError"),
        ("no such connection", None),
        ("no CA bundle", "NexthinkSettingsError"),
        ("the list cannot be made", "RuntimeError"),
        ("the list cannot be read", "NexthinkInputError"),
        ("guard", "NexthinkGuardError"),
    ],
)
def test_retry_that_fails_early_leaves_the_tables_of_the_try_before(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch, failure: str, error: str | None
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 2)
        return fleet[:266]

    def second() -> Any:
        if failure == "the list cannot be made":
            raise RuntimeError("the query may not be asked: password=geheim")
        if failure == "the list cannot be read":
            return 7
        if failure == "wrong secret":
            break_connection(monkeypatch, sandbox, password="wrong")
        elif failure == "no CA bundle":
            break_connection(monkeypatch, sandbox, extra={"verify": "/nowhere/ca.pem"})
        elif failure == "no such connection":
            monkeypatch.delenv("AIRFLOW_CONN_NEXTHINK_DEFAULT")
        return fleet[300:] if failure == "guard" else fleet[300:302]

    run = run_tries(run_dag, first, second, max_concurrency=1, max_devices=300)
    assert (run.state, run.tries("delete")) == ("failed", 2)
    table, summary = run.xcom("delete"), run.xcom("delete", "summary")
    if failure == "wrong secret":  # the second list was read: its table is there, and besides it what the first try did
        assert [row["uid"] for row in table] == [device["uid"] for device in fleet[300:302]]
        assert summary["NOT_SENT"] == 2
        assert summary["earlier_tries"] == {"SCHEDULED": 200, "NOT_SENT": 66}
        table = run.xcom("delete", "earlier_tries")
    else:
        assert (summary["SCHEDULED"], summary["NOT_SENT"], summary["requested"]) == (200, 66, 266)
        assert len(run.xcom("delete", "unscheduled")) == 66
        assert summary["instance"] == "sandbox"
    assert [row["uid"] for row in table] == [device["uid"] for device in fleet[:266]]
    assert Counter(row["status"] for row in table) == {"SCHEDULED": 200, "NOT_SENT": 66}
    assert summary["requests"] == 0
    assert error is None or summary["error"]["type"] == error
    assert "geheim" not in json.dumps(summary)
    assert len(sandbox.tenant.queued) == 200


@needs_task_state
def test_retry_with_another_list_has_its_own_table_and_reports_the_others(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, caplog: pytest.LogCaptureFixture
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 2)
        return fleet[:266]

    run = run_tries(run_dag, first, lambda: [*fleet[190:202], *fleet[400:402]], max_concurrency=1)
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 204
    table, summary = run.xcom("delete"), run.xcom("delete", "summary")
    assert [row["uid"] for row in table] == [device["uid"] for device in [*fleet[190:202], *fleet[400:402]]]
    assert {row["status"] for row in table} == {"SCHEDULED"}
    assert (summary["requested"], summary["SCHEDULED"], summary["requests"]) == (14, 14, 1)
    assert summary["earlier_tries"] == {"SCHEDULED": 190, "NOT_SENT": 64}
    others = run.xcom("delete", "earlier_tries")
    assert [row["uid"] for row in others] == [device["uid"] for device in [*fleet[:190], *fleet[202:266]]]
    assert "254 devices that are not in this list: 190 SCHEDULED, 64 NOT_SENT" in caplog.text


@needs_task_state
@pytest.mark.parametrize(
    "limit", [{"max_devices": 300}, {"max_devices": None, "max_share": 0.5, "fleet_size": 600}], ids=["count", "share"]
)
def test_limit_holds_for_the_task_over_all_its_tries(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, limit: dict[str, Any]
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 2)
        return fleet[:299]

    run = run_tries(run_dag, first, lambda: fleet[299:597], **limit)
    assert (run.state, run.tries("delete")) == ("failed", 2)
    assert len(sandbox.tenant.queued) <= 299
    assert f"(298 now, {len(sandbox.tenant.queued)} others sent or maybe sent by earlier tries" in run.error
    assert "This try sent nothing." in run.error
    assert run.xcom("delete", "summary")["error"]["type"] == "NexthinkGuardError"
    assert run.xcom("delete", "summary")["SCHEDULED"] == len(sandbox.tenant.queued)


@needs_task_state
def test_limit_refuses_no_retry_with_the_same_list_nor_with_a_part_of_it(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 2)
        return fleet[:300]

    def second() -> Devices:
        stop_after(sandbox, 0)
        return fleet[:300]

    run = run_tries(run_dag, first, second, lambda: fleet[100:300], max_devices=300, max_concurrency=1)
    assert (run.state, run.tries("delete")) == ("success", 3)
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 300
    assert run.xcom("delete", "summary")["earlier_tries"] == {"SCHEDULED": 100}


@needs_task_state
def test_retry_with_another_credential_of_the_tenant_resumes(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 2)
        return fleet[:266]

    def second() -> Devices:
        sandbox.__exit__(None, None, None)
        sandbox.client_id, sandbox.client_secret = "another-client", "another-secret"
        sandbox.__enter__()
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", sandbox.airflow_connection())
        return fleet[:266]

    run = run_tries(run_dag, first, second, max_concurrency=1, max_devices=300)
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 266
    assert "earlier_tries" not in run.xcom("delete", "summary")


@needs_task_state
@pytest.mark.parametrize("on_empty", ["succeed", "skip", "fail"])
def test_retry_with_an_empty_list_reports_the_try_before(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, on_empty: str
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 1)
        return fleet[:150]

    run = run_tries(run_dag, first, list, max_concurrency=1, on_empty=on_empty)
    assert run.states["delete"] == {"succeed": "success", "skip": "skipped", "fail": "failed"}[on_empty]
    assert run.xcom("delete") == []
    assert run.xcom("delete", "summary")["requested"] == 0
    assert run.xcom("delete", "summary")["earlier_tries"] == {"SCHEDULED": 100, "NOT_SENT": 50}
    assert len(run.xcom("delete", "earlier_tries")) == 150


@pytest.mark.parametrize("on_empty", ["succeed", "skip", "fail"])
def test_empty_list_that_is_skipped_or_fails_leaves_the_file_of_an_earlier_run(
    sandbox: Sandbox, run_dag: RunDag, tmp_path: Path, on_empty: str
) -> None:
    file = tmp_path / "table.csv"
    file.write_text("the table of yesterday")
    run_tries(run_dag, list, results_path=str(file), on_empty=on_empty)
    assert (file.read_text() == "the table of yesterday") == (on_empty != "succeed")


@pytest.mark.parametrize(
    ("devices", "options", "expected"),
    [
        (lambda rows: rows[:20], {"max_devices": 19}, (20, 20, "NexthinkGuardError")),
        (lambda rows: [*rows[:20], rows[0]], {"max_devices": 19}, (21, 20, "NexthinkGuardError")),
        (lambda _: 7, {}, (None, 0, "NexthinkInputError")),
        (lambda _: [], {"on_empty": "fail"}, (0, 0, "NexthinkInputError")),
    ],
)
def test_first_try_that_fails_early_leaves_a_summary(
    sandbox: Sandbox,
    run_dag: RunDag,
    fleet: Devices,
    devices: Callable[[Devices], Any],
    options: dict[str, Any],
    expected: tuple[int | None, int, str],
) -> None:
    run = run_tries(run_dag, lambda: devices(fleet), **options)
    assert run.state == "failed"
    summary = run.xcom("delete", "summary")
    assert (summary["requested"], summary["NOT_SENT"], summary["error"]["type"]) == expected
    assert (summary["requests"], summary["SCHEDULED"]) == (0, 0)
    assert "earlier_tries" not in summary
    assert summary["error"]["message"] in run.error


def test_first_try_that_gets_no_token_leaves_a_summary(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_connection(monkeypatch, sandbox, password="wrong")
    run = run_tries(run_dag, lambda: fleet[:20])
    summary = run.xcom("delete", "summary")
    assert (summary["requested"], summary["NOT_SENT"], summary["requests"]) == (20, 20, 0)
    assert summary["error"]["type"] == "NexthinkAuthenticationError"
    assert sandbox.client_secret not in json.dumps(summary)


@pytest.mark.skipif(KEEPS_TASK_STATE, reason="this Airflow keeps state")
def test_without_task_state_a_retry_says_that_earlier_tries_are_not_known(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    def first() -> Devices:
        stop_after(sandbox, 0)
        return fleet[:10]

    run = run_tries(run_dag, first, lambda: fleet[:10])
    assert run.state == "success"
    assert run.xcom("delete", "summary")["earlier_tries"] is None


@pytest.mark.parametrize("is_mapped_over", [False, True])
def test_table_is_pushed_once_unless_tasks_are_mapped_over_it(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch, is_mapped_over: bool
) -> None:
    from airflow.sdk.execution_time import task_runner

    pushed: list[str] = []
    push = task_runner._xcom_push

    def record(ti: Any, key: str, *args: Any, **kwargs: Any) -> None:
        if ti.task_id == "delete":
            pushed.append(key)
        push(ti, key, *args, **kwargs)

    monkeypatch.setattr(task_runner, "_xcom_push", record)
    with DAG("once") as dag:
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[:3])

        @task
        def look(row: dict[str, Any]) -> str:
            return str(row["status"])

        if is_mapped_over:
            look.expand(row=delete.output)
    for _ in range(2):
        pushed.clear()
        run = run_dag(dag)
        assert run.state == "success"
        assert len(run.xcom("delete")) == 3
        assert pushed.count("return_value") == (2 if is_mapped_over else 1)
        sandbox.tenant.queued.clear()
    assert delete.do_xcom_push


# The operator by itself: what is pushed, and when.


def copy_of(store: Store) -> Store:
    copy = Store()
    copy.update(store)
    return copy


def operator_of(devices: Any, **options: Any) -> NexthinkDeleteDevicesOperator:
    return NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)


def test_retry_pushes_what_is_known_before_anything_can_fail(sandbox: Sandbox, fleet: Devices) -> None:
    snapshots = list[Store]()

    class Watched(Store):
        def set(self, key: str, value: Any) -> None:
            super().set(key, value)
            snapshots.append(copy_of(self))

    execute(operator_of(fleet[:250], max_concurrency=1), Watched())
    queued = set(sandbox.tenant.queued)
    for snapshot in snapshots:  # as if the worker had been killed just then
        killed = TaskInstance(2)
        at_once: dict[str, Any] = {}

        class Killed(BaseException):
            """Ends a try."""

        operator = operator_of(fleet[:250])

        def kill(context: Any, killed: TaskInstance = killed, at_once: dict[str, Any] = at_once) -> None:
            at_once.update(killed.xcoms)
            raise Killed

        operator._read_devices = kill  # type: ignore[method-assign]
        with pytest.raises(Killed):
            operator.execute({"ti": killed, "task_state_store": snapshot})  # type: ignore[typeddict-item]
        table = at_once["return_value"]
        assert [row["uid"] for row in table] == [device["uid"] for device in fleet[:250]]
        assert {row["status"] for row in table} <= {"SCHEDULED", "UNKNOWN"}
        assert at_once["summary"]["UNKNOWN"] == len(at_once["unscheduled"])
        assert "what this one sent is not known here" in at_once["summary"]["error"]["message"]
    assert len(queued) == 250


@pytest.mark.parametrize("when", ["at the intent", "later"])
def test_try_that_is_over_sends_no_more_and_leaves_the_xcoms_alone(sandbox: Sandbox, fleet: Devices, when: str) -> None:
    class Over(Store):
        def set(self, key: str, value: Any) -> None:
            if when == "at the intent" or "rows" in value:
                raise NexthinkTryOverError("another try has taken its place")
            super().set(key, value)

    ti = execute(operator_of(fleet, batch_size=10, max_concurrency=2), Over())
    assert isinstance(ti.xcoms.pop("raised"), NexthinkTryOverError)
    assert ti.xcoms == {}
    assert len(sandbox.tenant.queued) <= (0 if when == "at the intent" else 200)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("empty", {}),
        ("empty", {"on_empty": "fail"}),
        ("dry run", {"dry_run": True}),
        ("guard", {"max_devices": 2}),
        ("no table", {}),
        ("wrong secret", {}),
        ("no connection", {}),
        ("all settled", {}),
        ("all settled", {"do_xcom_push": False}),
    ],
)
def test_try_that_is_over_and_sends_nothing_leaves_xcoms_and_file_to_the_newer_one(
    sandbox: Sandbox,
    fleet: Devices,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    options: dict[str, Any],
) -> None:
    class Over(Store):
        def set(self, key: str, value: Any) -> None:
            raise NexthinkTryOverError("another try has taken its place")

        def delete(self, key: str) -> None:
            raise NexthinkTryOverError("another try has taken its place")

    store, file = Over(), tmp_path / "table.csv"
    if kind == "all settled":
        execute(operator_of(fleet[:3]), earlier := Store())
        del earlier["nexthink_deletions_done"]
        store.update(earlier)
    elif kind == "wrong secret":
        break_connection(monkeypatch, sandbox, password="wrong")
    elif kind == "no connection":
        monkeypatch.delenv("AIRFLOW_CONN_NEXTHINK_DEFAULT")
    file.write_text("the table of the newer try")
    devices = {"empty": [], "no table": 7}.get(kind, fleet[:3])
    queued = len(sandbox.tenant.queued)
    ti = execute(operator_of(devices, results_path=str(file), **options), store, 2 if store else 1)
    assert ti.xcoms.pop("raised")
    assert ti.xcoms == {}
    assert file.read_text() == "the table of the newer try"
    assert len(sandbox.tenant.queued) == queued


def test_try_asks_with_few_writes_whether_it_is_over(sandbox: Sandbox, fleet: Devices) -> None:
    for devices, options, writes in ((fleet[:3], {}, 4), (fleet[:3], {"dry_run": True}, 1), ([], {}, 1)):
        execute(operator_of(devices, **options), store := Store())
        assert store.writes == writes  # the intent, the outcomes, the number of the try, and that it is done


@needs_task_state
@pytest.mark.parametrize("when", ["post_execute", "pushing the table"])
def test_retry_after_a_failure_of_airflow_behind_the_deletion_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from airflow.sdk.execution_time import task_runner

    failures = [RuntimeError("the API server is away")]

    def fail(*_: Any) -> None:
        if failures:
            raise failures.pop()

    push = task_runner._xcom_push

    def fail_once(ti: Any, key: str, value: Any, mapped_length: int | None = None) -> None:
        if mapped_length:
            fail()
        push(ti, key, value, mapped_length=mapped_length)

    with DAG("after", default_args=ONE_RETRY) as dag:
        hooks: dict[str, Any] = {"post_execute": fail} if when == "post_execute" else {}
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[:4], **hooks)
        if when == "pushing the table":
            monkeypatch.setattr(task_runner, "_xcom_push", fail_once)
            task(task_id="look")(lambda row: row["status"]).expand(row=delete.output)
    run = run_dag(dag)
    assert (run.state, run.tries("delete"), failures) == ("success", 2, [])
    table = run.xcom("delete")
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == len(table)
    assert {row["status"] for row in table} == {"SCHEDULED"}


@needs_task_state
def test_clearing_a_task_that_succeeded_changes_its_max_tries(
    sandbox: Sandbox, run_dag: RunDag, fleet: Devices
) -> None:
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.session import create_session

    run = run_tries(run_dag, lambda: fleet[:3], retries=2)
    ti = run.dag_run.get_task_instance("delete")
    before = ti.max_tries
    with create_session() as session:
        ti = session.merge(ti)
        clear_task_instances([ti], session)
        assert ti.max_tries > before


def test_cleared_task_that_succeeded_sends_its_whole_list_and_so_do_its_retries(
    sandbox: Sandbox, fleet: Devices
) -> None:
    execute(operator_of(fleet[:250]), store := Store(), 1, max_tries=1)
    execute(operator_of(fleet[:250]), store, 2, max_tries=1)
    assert len(sandbox.tenant.queued) == 250
    cleared = execute(operator_of(7), store, 3, max_tries=3)  # fails before it sends anything
    assert cleared.xcoms["summary"]["SCHEDULED"] == 250
    ti = execute(operator_of(fleet[:250], max_devices=250), store, 4, max_tries=3)
    assert len(sandbox.tenant.queued) == 500
    assert ti.xcoms["summary"]["SCHEDULED"] == 250
    assert "earlier_tries" not in ti.xcoms["summary"]
    execute(operator_of(fleet[:250]), store, 5, max_tries=3)
    assert len(sandbox.tenant.queued) == 500


def test_cleared_retry_of_a_done_task_sends_the_unsettled_devices(sandbox: Sandbox, fleet: Devices) -> None:
    execute(operator_of(fleet[:200]), store := Store(), 1, max_tries=1)
    stop_after(sandbox, 0)
    retried = execute(operator_of(fleet[:250]), store, 2, max_tries=1)
    assert retried.xcoms["summary"]["NOT_SENT"] == 50
    sandbox.faults.clear()
    cleared = execute(operator_of(fleet[:250]), store, 3, max_tries=3)
    assert cleared.xcoms["summary"]["SCHEDULED"] == 250
    assert len(sandbox.tenant.queued) == 250


@pytest.mark.parametrize("failure", ["wrong secret", "guard", "no table", "no connection", "interrupted"])
@pytest.mark.parametrize("store_is", ["kept", "empty", "unreadable", "down"])
def test_cleared_task_that_fails_early_reports_earlier_tries(
    sandbox: Sandbox, fleet: Devices, monkeypatch: pytest.MonkeyPatch, failure: str, store_is: str
) -> None:
    execute(operator_of(fleet[:250]), store := Store(), 1, max_tries=0)
    if store_is == "empty":
        store.clear()
    elif store_is == "unreadable":
        store["nexthink_deletions_0"] = '"what is this"'
    elif store_is == "down":
        store.broken = True
    if failure == "wrong secret":
        break_connection(monkeypatch, sandbox, password="wrong")
    elif failure == "no connection":
        monkeypatch.delenv("AIRFLOW_CONN_NEXTHINK_DEFAULT")
    operator = operator_of(7 if failure == "no table" else fleet[:5], max_devices=2 if failure == "guard" else 1000)
    if failure == "interrupted":

        def interrupt(_: Any) -> None:
            raise RuntimeError("a signal")

        operator._read_devices = interrupt  # type: ignore[method-assign, assignment]
    ti = execute(operator, store, 2, max_tries=1)
    assert ti.xcoms["raised"]
    summary = ti.xcoms["summary"]
    if store_is == "kept":
        assert summary["SCHEDULED"] == len(ti.xcoms["return_value"]) == 250
        assert "earlier_tries" not in summary
    else:
        assert summary["earlier_tries"] is None
        assert summary["SCHEDULED"] == 0
    assert summary["error"]["type"] == type(ti.xcoms["raised"].__cause__ or ti.xcoms["raised"]).__name__


def test_retry_after_tries_that_sent_nothing_does_not_call_them_unknown(
    sandbox: Sandbox, fleet: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    for number in (1, 2):
        assert "earlier_tries" not in execute(operator_of(7), store, number, 3).xcoms["summary"]
    kept = copy_of(store)
    assert "earlier_tries" not in execute(operator_of(fleet[:3]), store, 3, 3).xcoms["summary"]
    assert execute(operator_of(fleet[:3]), kept, 4, 3).xcoms["summary"]["earlier_tries"] is None  # the third was lost


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (31, {}, "not 31 rows"),
        (31, {"dry_run": True}, r"\[core\] max_map_length"),
        (3, {"return_format": "dataframe"}, "maps over no DataFrame"),
        (3, {"do_xcom_push": False}, "nothing to map over"),
        (30, {}, None),
        (31, {"return_format": "columns"}, None),
    ],
)
def test_table_that_airflow_cannot_map_over_is_refused_before_anything_is_sent(
    sandbox: Sandbox,
    run_dag: RunDag,
    fleet: Devices,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    options: dict[str, Any],
    message: str | None,
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "30")
    with DAG("mapped"):
        delete = NexthinkDeleteDevicesOperator(task_id="delete", devices=fleet[:count], **options)

        @task
        def look(row: Any) -> None:
            assert row

        look.expand(row=delete.output)
    context: Any = {"ti": TaskInstance()}
    if message is None:
        delete.execute(context)
        assert len(sandbox.tenant.queued) == count
        return
    with pytest.raises(AirflowFailException, match=message) as raised:
        delete.execute(context)
    assert "This try sent nothing." in str(raised.value)
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize("try_number", [1, 2])
def test_retry_without_a_store_refers_to_the_earlier_logs(
    sandbox: Sandbox, fleet: Devices, capsys: pytest.CaptureFixture[str], try_number: int
) -> None:
    ti = execute(operator_of(fleet[:3]), None, try_number)
    log = capsys.readouterr().out
    assert log.count("what earlier tries of this task sent is not known here. See their logs") == try_number - 1
    assert ("earlier_tries" in ti.xcoms["summary"]) == (try_number == 2)
    if try_number == 2:
        assert ti.xcoms["summary"]["earlier_tries"] is None


def test_dry_run_after_a_try_that_sent_reports_it(sandbox: Sandbox, fleet: Devices) -> None:
    store = Store()
    stop_after(sandbox, 1)
    execute(operator_of(fleet[:150], max_concurrency=1), store)
    ti = execute(operator_of(fleet[:150], dry_run=True), store, 2)
    assert ti.xcoms["summary"]["PLANNED"] == 150
    assert ti.xcoms["summary"]["earlier_tries"] == {"SCHEDULED": 100, "NOT_SENT": 50}
    assert len(ti.xcoms["earlier_tries"]) == 150


def is_reported(sandbox: Sandbox, xcoms: dict[str, Any], devices: Devices) -> bool:
    """Check that what the tenant has queued is in a pushed table; return whether there is one."""
    queued, table = set(sandbox.tenant.queued), xcoms.get("return_value")
    if table is None:
        assert queued == set()
        return False
    assert [row["uid"] for row in table] == [device["uid"] for device in devices]
    assert queued <= {row["uid"] for row in table if row["status"] != "NOT_SENT"}
    assert {row["uid"] for row in table if row["status"] == "SCHEDULED"} <= queued
    counts = Counter(row["status"] for row in table)
    assert {key: value for key, value in xcoms["summary"].items() if key in counts} == counts
    assert "unscheduled" in xcoms
    return True


OUR_FILES = {"data_management.py", "_report.py", "nexthink.py", "client.py", "deletion.py"}
OUR_FILES_WITH_A_STORE = {*OUR_FILES, "outcome.py", "run.py", "checkpoint.py", "journal.py", "task_state.py"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # whose connection was interrupted while it was opened
@pytest.mark.parametrize("has_store", [True, False])
def test_timeout_at_any_line_once_devices_were_sent_they_are_in_a_pushed_table(
    sandbox: Sandbox, fleet: Devices, has_store: bool
) -> None:
    files = OUR_FILES_WITH_A_STORE if has_store else OUR_FILES
    seen, interrupted = set[Line](), -1
    while len(seen) > interrupted:
        interrupted = len(seen)
        reset_secrets_maskers()
        sandbox.tenant.queued.clear()
        ti, store = TaskInstance(), Store()
        context: Any = {"ti": ti, "task_state_store": store} if has_store else {"ti": ti}
        with suppress(TaskTimeout), interrupted_at_new_line(seen, files, lambda: sandbox.tenant.queued):
            operator_of(fleet[:5], batch_size=5).execute(context)
        assert is_reported(sandbox, ti.xcoms, fleet[:5])
    assert {Path(path).name for path, *_ in seen} == files


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may come in a weakref's callback
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("has_store", [True, False])
def test_timeout_at_any_moment_what_was_sent_is_in_a_pushed_table(
    sandbox: Sandbox, fleet: Devices, has_store: bool
) -> None:
    choose = random.Random(5)
    interrupted = reported = 0
    begun = time.monotonic()
    execute(operator_of(fleet[:20], batch_size=5, max_concurrency=2), Store() if has_store else None)
    usual = time.monotonic() - begun
    for _ in range(60):
        sandbox.tenant.queued.clear()
        store = Store() if has_store else None
        ti = TaskInstance()
        operator = operator_of(fleet[:20], batch_size=5, max_concurrency=2)
        context: Any = {"ti": ti, "task_state_store": store} if has_store else {"ti": ti}
        try:
            with interrupted_after(choose.uniform(0.0001, 1.2 * usual)):
                operator.execute(context)
        except TaskTimeout:
            interrupted += 1
        reported += is_reported(sandbox, ti.xcoms, fleet[:20])
    assert interrupted
    assert reported
