"""The operators in a real Airflow, against a sandbox tenant over real HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkPermissionError, NexthinkRateLimitError
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.status import COLUMNS
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator
from tests.support.dags import SINCE_AIRFLOW_3_3, Run

RunDag = Callable[..., Run]

ONE_RETRY = {"retries": 1, "retry_delay": timedelta(0)}
NOBODY = "0fbd5a5c-0000-4000-8000-000000000001"


def delete(run_dag: RunDag, devices: Any, **options: Any) -> Run:
    """Run one deletion as a Dag of its own; a failed try is tried once more, at once."""
    with DAG("deletion", default_args=ONE_RETRY) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices, **options)
    return run_dag(dag)


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


@pytest.mark.parametrize("as_what", ["records", "tuples", "DataFrame", "JSON text"])
def test_operator_takes_devices_of_an_upstream_task_in_every_shape(
    sandbox: Sandbox, run_dag: RunDag, as_what: str
) -> None:
    rows = devices_of(sandbox, 120)

    with DAG("shapes") as dag:

        @task
        def upstream() -> Any:
            return {
                "records": rows,
                "tuples": [(row["name"], row["uid"]) for row in rows],
                "DataFrame": pd.DataFrame(rows).rename(columns={"uid": "Device UID"}),
                "JSON text": json.dumps(rows),
            }[as_what]

        columns = ["name", "uid"] if as_what == "tuples" else None
        NexthinkDeleteDevicesOperator(task_id="delete", devices=upstream(), columns=columns)
    run = run_dag(dag)
    assert run.state == "success"
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows)
    assert [(row["uid"], row["name"]) for row in run.xcom("delete")] == [(row["uid"], row["name"]) for row in rows]


def test_operator_bad_row_stops_no_other(sandbox: Sandbox, run_dag: RunDag) -> None:
    good = devices_of(sandbox, 4)
    rows: list[dict[str, Any]] = [
        {"uid": good[0]["uid"].upper(), "name": good[0]["name"]},
        {"uid": "not-a-uid", "name": "PC"},
        {"uid": good[1]["uid"], "name": ""},
        {"uid": None, "name": "PC"},
        {"uid": good[2]["uid"], "name": 123},
        good[0],
        good[3],
        {"uid": NOBODY, "name": "one"},
        {"uid": NOBODY, "name": "other"},
    ]
    run = delete(run_dag, rows)
    assert run.state == "success"
    table = run.xcom("delete")
    assert [row["status"] for row in table] == [
        "SCHEDULED",
        "INVALID",
        "REJECTED",
        "REJECTED",
        "REJECTED",
        "DUPLICATE",
        "SCHEDULED",
        "REJECTED",
        "REJECTED",
    ]
    assert all(tuple(row) == COLUMNS for row in table)
    assert sandbox.tenant.queued == [good[0]["uid"], good[3]["uid"]]
    assert [row["status"] for row in run.xcom("delete", "unscheduled")] == ["INVALID"] + ["REJECTED"] * 5


@pytest.mark.parametrize("native", [False, True])
def test_operator_literal_devices_are_sent_to_the_letter(sandbox: Sandbox, run_dag: RunDag, native: bool) -> None:
    rows = [{"uid": NOBODY, "name": "1e10"}, {"uid": NOBODY[:-1] + "2", "name": "{{ 7 * 7 }}"}]
    with DAG("literal", render_template_as_native_obj=native) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, dry_run="{{ params.get('dry_run', False) }}")
    run = run_dag(dag)
    assert [(row["name"], row["status"]) for row in run.xcom("delete")] == [
        ("1e10", "SCHEDULED"),
        ("{{ 7 * 7 }}", "SCHEDULED"),
    ]
    body = json.loads(next(request for request in sandbox.requests if "deletions" in request.path).body)
    assert body == {"devices": rows}


@pytest.mark.parametrize(
    ("push", "rows", "warned"), [(True, 40_000, True), (True, 30_000, False), (False, 40_000, False)]
)
def test_operator_table_too_large_for_the_database_is_a_warning(
    sandbox: Sandbox, run_dag: RunDag, capsys: pytest.CaptureFixture[str], push: bool, rows: int, warned: bool
) -> None:
    devices = [{"uid": f"0fbd5a5c-0000-4000-8000-{number:012d}", "name": f"PC-{number}"} for number in range(rows)]
    run = delete(run_dag, devices, max_devices=None, dry_run=True, do_xcom_push=push)
    assert run.state == "success"
    log = capsys.readouterr().out
    assert (f"The outcome table of {rows} rows will take about 11 MB in XCom" in log) == warned


def test_operator_requests_per_second_from_a_template_paces_the_run(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("slowly", params={"rate": 4}) as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=devices_of(sandbox, 400), requests_per_second="{{ params.rate }}"
        )
    run = run_dag(dag)
    assert run.state == "success"
    starts = sorted({datetime.fromisoformat(row["submitted_at"]) for row in run.xcom("delete")})
    assert len(starts) == 4
    # 0.75 s apart, less what the first request was late; without a pace they start within milliseconds.
    assert (starts[-1] - starts[0]).total_seconds() >= 0.25


def test_operator_failed_pushes_the_table_and_the_summary(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.faults.add(
        Fault(path="deletions", kind="status", status=403, body='{"code": "FEATURE_NOT_ENABLED", "message": "no"}')
    )
    run = delete(run_dag, devices_of(sandbox, 250), max_concurrency=1)
    assert run.state == "failed"
    assert run.tries("delete") == 1
    assert len(run.xcom("delete")) == 250
    assert run.xcom("delete", "summary")["NOT_SENT"] == 250
    assert len(run.xcom("delete", "unscheduled")) == 250
    assert sandbox.tenant.queued == []
    assert "FEATURE_NOT_ENABLED" in run.error
    assert "Tick the permission 'Data management'" in run.error


def test_operator_retryable_error_is_retried(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "86400"}))
    run = delete(run_dag, devices_of(sandbox, 10))
    assert run.state == "success"
    assert run.tries("delete") == 2
    assert run.xcom("delete", "summary")["SCHEDULED"] == 10


def test_operator_retry_sends_only_devices_not_accepted_yet(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "86400"}, skip=1))
    rows = devices_of(sandbox, 250)
    run = delete(run_dag, rows, max_concurrency=1)
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows)
    assert [row["uid"] for row in run.xcom("delete")] == [row["uid"] for row in rows]
    assert {row["status"] for row in run.xcom("delete")} == {"SCHEDULED"}
    summary = run.xcom("delete", "summary")
    assert (summary["SCHEDULED"], summary["requests"]) == (250, 2)


def test_operator_retry_without_a_token_reports_the_accepted_devices(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "86400"}, skip=1))
    sandbox.faults.add(Fault(path="token", kind="status", status=401, skip=1, times=-1))
    run = delete(run_dag, devices_of(sandbox, 250), max_concurrency=1)
    assert (run.state, run.tries("delete")) == ("failed", 2)
    summary = run.xcom("delete", "summary")
    assert (summary["SCHEDULED"], summary["NOT_SENT"], summary["requests"]) == (100, 150, 0)
    assert len(run.xcom("delete")) == 250


def test_operator_checkpoint_is_kept_until_the_outcome_is_in_xcom(
    sandbox: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, refusals = RuntimeTaskInstance.xcom_push, iter([RuntimeError("the XCom backend is away")])

    def refuse_once(self: RuntimeTaskInstance, key: str, value: Any) -> None:
        if key == "unscheduled" and (refusal := next(refusals, None)):
            raise refusal
        push(self, key, value)

    monkeypatch.setattr(RuntimeTaskInstance, "xcom_push", refuse_once)
    run = delete(run_dag, devices_of(sandbox, 250))
    assert (run.state, run.tries("delete")) == ("success", 2)
    assert len(sandbox.tenant.queued) == len(set(sandbox.tenant.queued)) == 250
    assert {row["status"] for row in run.xcom("delete")} == {"SCHEDULED"}


@SINCE_AIRFLOW_3_3
def test_operator_errors_can_be_told_apart_by_a_retry_policy(sandbox: Sandbox, run_dag: RunDag) -> None:
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    rules = [RetryRule(exception=NexthinkRateLimitError, action=RetryAction.FAIL)]
    sandbox.faults.add(Fault(path="deletions", kind="status", status=429, headers={"Retry-After": "86400"}))
    run = delete(run_dag, devices_of(sandbox, 1), retry_policy=ExceptionRetryPolicy(rules=rules))
    assert (run.state, run.tries("delete")) == ("failed", 1)
    (error,) = run.errors
    assert isinstance(error, NexthinkRateLimitError)
    assert (error.status, error.retry_after) == (429, 86400.0)


def test_operator_final_error_is_the_cause_of_the_failure(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.faults.add(Fault(path="deletions", kind="status", status=403, body='{"code": "FEATURE_NOT_ENABLED"}'))
    run = delete(run_dag, devices_of(sandbox, 1))
    (error,) = run.errors
    assert isinstance(error.__cause__, NexthinkPermissionError)
    assert error.__cause__.code == "FEATURE_NOT_ENABLED"
    assert error.__cause__.request_id == run.xcom("delete")[0]["request_id"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("guard", ["max_devices", "max_share", "requests_per_second"])
def test_operator_guard_rendered_to_nothing_sends_nothing(
    sandbox: Sandbox, run_dag: RunDag, guard: str, native: bool
) -> None:
    guards: dict[str, Any] = {guard: "{{ dag_run.conf.get('limit') }}"}
    if guard == "max_share":
        guards["fleet_size"] = 600
    with DAG("nothing", render_template_as_native_obj=native, default_args=ONE_RETRY) as dag:
        NexthinkDeleteDevicesOperator(task_id="delete", devices=devices_of(sandbox, 1), **guards)
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert f"{guard} is a template that gave nothing, and so no limit. This try sent nothing." in run.error
    assert sandbox.requests == []


def test_operator_max_share_guards_the_fleet(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 31)
    with DAG("share", default_args=ONE_RETRY) as dag:

        @task
        def count_fleet() -> int:
            return 600

        fleet_size: Any = count_fleet()
        NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, max_share=0.05, fleet_size=fleet_size)
    run = run_dag(dag)
    assert run.states == {"count_fleet": "success", "delete": "failed"}
    assert run.tries("delete") == 1
    assert "31 of 600 devices (5.2%), more than max_share=0.05 (5.0%)" in run.error
    assert sandbox.requests == []
    with DAG("share", default_args=ONE_RETRY) as dag:
        share, size = "{{ 0.06 }}", "{{ 600 }}"
        NexthinkDeleteDevicesOperator(task_id="delete", devices=rows, max_share=share, fleet_size=size)
    assert run_dag(dag).state == "success"
    assert len(sandbox.tenant.queued) == 31


def test_operator_fail_on_decides_which_statuses_fail_the_task(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = [*devices_of(sandbox, 1), {"uid": "x", "name": "PC"}]
    assert delete(run_dag, rows).state == "success"
    run = delete(run_dag, rows, fail_on=["INVALID"])
    assert run.state == "failed"
    assert run.tries("delete") == 1
    assert "1 INVALID of 2 devices" in run.error
    assert len(run.xcom("delete")) == 2


def test_operator_list_over_max_devices_fails_with_nothing_sent(sandbox: Sandbox, run_dag: RunDag) -> None:
    run = delete(run_dag, devices_of(sandbox, 20), max_devices=19)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert sandbox.requests == []
    assert "20 devices, more than max_devices=19" in run.error


@pytest.mark.parametrize(("on_empty", "state"), [("succeed", "success"), ("skip", "skipped"), ("fail", "failed")])
def test_operator_empty_list_follows_on_empty(sandbox: Sandbox, run_dag: RunDag, on_empty: str, state: str) -> None:
    run = delete(run_dag, [], on_empty=on_empty)
    assert run.states == {"delete": state}
    assert run.tries("delete") == 1
    assert sandbox.requests == []
    if on_empty == "succeed":
        assert run.xcom("delete") == []
        assert run.xcom("delete", "summary")["requested"] == 0


def test_operator_table_in_every_format_is_the_same(sandbox: Sandbox, run_dag: RunDag) -> None:
    rows = devices_of(sandbox, 3)
    columns = delete(run_dag, rows, return_format="columns").xcom("delete")
    assert columns["uid"] == [row["uid"] for row in rows]
    assert columns["status"] == ["SCHEDULED"] * 3
    frame = delete(run_dag, rows, return_format="dataframe").xcom("delete")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["name"].tolist() == [row["name"] for row in rows]


def test_operator_tenant_with_a_smaller_maximum_gets_smaller_batches(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.tenant.max_batch = 30
    run = delete(run_dag, devices_of(sandbox, 250))
    assert run.xcom("delete", "summary")["SCHEDULED"] == 250
    assert len(set(sandbox.tenant.queued)) == len(sandbox.tenant.queued) == 250


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "wrong"}, "gave no token.*{login_url} returned 401.*client secret"),
        ({"extra": {}}, "no region: set the extra 'region' to one of us, eu, pac, meta"),
        ({"extra": {"base_url": "http://nexthink.example", "login_url": "https://t.example"}}, "Use https"),
        ({"host": "a b", "extra": {"region": "eu"}}, "no Nexthink instance"),
        ({"login": ""}, "no client id"),
    ],
)
def test_operator_wrong_connection_says_what_to_fix(
    sandbox: Sandbox,
    run_dag: RunDag,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    says: str,
) -> None:
    connection = json.loads(sandbox.airflow_connection()) | change
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(connection))
    run = delete(run_dag, devices_of(sandbox, 1))
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert re.search(says.replace("{login_url}", sandbox.login_url), run.error)
    assert sandbox.client_secret not in run.error
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize("query_mode", ["export", "execute"])
@pytest.mark.parametrize("return_format", ["records", "columns", "dataframe"])
def test_query_in_every_mode_and_format_gives_its_rows(
    sandbox: Sandbox, run_dag: RunDag, query_mode: str, return_format: str
) -> None:
    with DAG("query") as dag:
        NexthinkNqlOperator(
            task_id="pull",
            query_id="{{ '#stale_devices' }}",
            parameters={"min_days_unseen": "{{ 100 + 100 }}"},
            query_mode=query_mode,  # type: ignore[arg-type]
            return_format=return_format,  # type: ignore[arg-type]
        )
    run = run_dag(dag)
    assert run.state == "success"
    old = [device for device in sandbox.tenant.devices() if device.days_since_last_seen >= 200]
    rows = pd.DataFrame(run.xcom("pull"))
    assert rows["device.name"].tolist() == [device.name for device in old]
    assert rows["device.days_since_last_seen"].tolist() == [str(device.days_since_last_seen) for device in old]


NUMBERS: dict[str, tuple[Any, str]] = {
    "text": ("007", "007"),
    "int": (200, "200"),
    "whole float": (200.0, "200"),
    "float": (0.5, "0.5"),
    "small float": (1e-7, "0.0000001"),
    "large float": (1e21, "1000000000000000000000"),
    "Decimal": (Decimal("200.0"), "200"),
    "Decimal exponent": (Decimal("2E+2"), "200"),
    "Decimal fraction": (Decimal("0.10"), "0.10"),
    "int64": (np.int64(200), "200"),
    "float64": (np.float64(200), "200"),
    "float32": (np.float32(0.1), "0.1"),
}


@pytest.mark.parametrize("query_mode", ["export", "execute"])
def test_query_with_numbers_of_any_kind_sends_them_as_text(sandbox: Sandbox, run_dag: RunDag, query_mode: str) -> None:
    parameters: dict[str, Any] = {name: value for name, (value, _) in NUMBERS.items()}
    with DAG("numbers") as dag:
        NexthinkNqlOperator(
            task_id="pull",
            query_id="#all_devices",
            parameters=parameters,
            query_mode=query_mode,  # type: ignore[arg-type]
        )
        NexthinkDevicesGoneSensor(
            task_id="gone",
            devices=[{"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "PC"}],
            query_id="#all_devices",
            parameters=parameters,
        )
    run_dag(dag)  # whose tasks fail: the query takes no such parameters
    queries = [json.loads(request.body) for request in sandbox.requests if b"#all_devices" in request.body]
    assert len(queries) == 2
    for query in queries:
        assert query["parameters"] == {name: text for name, (_, text) in NUMBERS.items()}


def test_query_with_a_parameter_that_renders_to_no_number_fails_without_retry(
    sandbox: Sandbox, run_dag: RunDag
) -> None:
    with DAG("no_number", default_args=ONE_RETRY, render_template_as_native_obj=True) as dag:
        NexthinkNqlOperator(task_id="pull", query_id="#all_devices", parameters={"days": "{{ [1] }}"})
    run = run_dag(dag)
    assert (run.state, run.tries("pull")) == ("failed", 1)
    assert "parameter 'days' is [1]" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), Decimal("Infinity"), np.float64("nan"), True, None, [1], b"1"]
)
def test_query_with_a_parameter_that_is_no_number_fails_the_parsing_of_the_dag(value: Any) -> None:
    makers: list[Any] = [NexthinkNqlOperator, partial(NexthinkDevicesGoneSensor, devices=[])]
    for make in makers:
        with pytest.raises(NexthinkInputError, match="parameter 'days' is"):
            make(task_id="pull", query_id="#all_devices", parameters={"days": value})
        with pytest.raises(NexthinkInputError, match="parameters is a list"):
            make(task_id="pull", query_id="#all_devices", parameters=[value])


MAPPED: dict[str, Callable[[], Any]] = {
    "delete": lambda: NexthinkDeleteDevicesOperator.partial(task_id="wrong", exclude="SRV-*").expand(devices=[[]]),
    "expand": lambda: NexthinkDeleteDevicesOperator.partial(task_id="wrong", devices=[]).expand(exclude=["SRV-*"]),
    "sql": lambda: SqlToNexthinkDeleteDevicesOperator.partial(
        task_id="wrong", sql_conn_id="warehouse", columns=["uid"]
    ).expand(sql=["SELECT 1"]),
    "pull": lambda: NexthinkNqlOperator.partial(task_id="wrong", query_mode="stream").expand(query_id=["#query"]),
    "gone": lambda: NexthinkDevicesGoneSensor.partial(task_id="wrong", devices=[]).expand(query_id=["no hash"]),
    "decorated": lambda: task.nexthink_delete_devices(task_id="wrong", exclude="SRV-*")(lambda rows: rows).expand(
        rows=[[]]
    ),
}


@pytest.mark.parametrize("mapped", MAPPED)
def test_mapped_operator_with_a_wrong_option_fails_without_retry(
    sandbox: Sandbox, run_dag: RunDag, mapped: str
) -> None:
    with DAG("mapped", default_args=ONE_RETRY) as dag:
        MAPPED[mapped]()
    run = run_dag(dag)
    (instance,) = run.dag_run.get_task_instances()
    assert (instance.state, instance.try_number) == ("failed", 1)
    assert isinstance(run.errors[0], NexthinkInputError)
    assert sandbox.requests == []


def test_query_truncated_export_fails_without_retry_unless_it_is_allowed(sandbox: Sandbox, run_dag: RunDag) -> None:
    sandbox.tenant.export_row_limit = 5
    with DAG("truncated", default_args=ONE_RETRY) as dag:
        NexthinkNqlOperator(task_id="strict", query_id="#all_devices")
        NexthinkNqlOperator(task_id="lenient", query_id="#all_devices", allow_truncated=True)
    run = run_dag(dag)
    assert run.states == {"strict": "failed", "lenient": "success"}
    assert run.tries("strict") == 1
    assert len(run.xcom("lenient")) == 5
    assert "cut off at the maximum" in run.error


@pytest.mark.parametrize(
    ("query_id", "says"),
    [("{{ 'no hash' }}", "is not an NQL query id"), ("#no_such_query", "no saved query #no_such_query")],
)
def test_query_unknown_fails_without_retry(sandbox: Sandbox, run_dag: RunDag, query_id: str, says: str) -> None:
    with DAG("wrong_query", default_args=ONE_RETRY) as dag:
        NexthinkNqlOperator(task_id="pull", query_id=query_id)
    run = run_dag(dag)
    assert (run.state, run.tries("pull")) == ("failed", 1)
    assert says in run.error


def test_query_result_file_is_fetched_without_the_token(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("export") as dag:
        NexthinkNqlOperator(task_id="pull", query_id="#all_devices")
    assert run_dag(dag).state == "success"
    (download,) = [request for request in sandbox.requests if request.path.startswith("/storage/")]
    assert "authorization" not in download.headers
    assert all("authorization" in r.headers for r in sandbox.requests if not r.path.startswith("/storage/"))
