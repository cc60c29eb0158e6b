"""What the operators say while a Dag is parsed, and how their fields render."""

from __future__ import annotations

import copy
import json
import re
from collections import UserDict, deque, namedtuple
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pandas as pd
import polars as pl
import pytest
from airflow.sdk import DAG, literal, task
from airflow.sdk.definitions.context import Context
from airflow.serialization.helpers import serialize_template_field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from airflow_provider_nexthink.devices.reader import read_devices
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._base import DeviceInput
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkQuarantineOperator, NexthinkReconcileOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.utils.task_state import TaskState
from airflow_provider_nexthink.version_compat import has_xcom_backend
from tests.support.dags import DagSerialization

AIRFLOW = tuple(map(int, version("apache-airflow").split(".")[:2]))
ROWS = [{"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "{{ 7 * 7 }}"}]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("exclude", "VIP-*"),
        ("exclude", ["{{ var.value.keep }}"]),
        ("protect", []),
        ("protect", pd.DataFrame({"uid": []})),
        ("protect", " "),
        ("max_share", 0.05),
        ("fleet_size", 5000),
        ("max_share", 5),
        ("fail_on", "FAILED"),
        ("fail_on", ["DELETED"]),
        ("on_empty", "ignore"),
        ("return_format", "csv"),
        ("batch_size", 101),
        ("max_concurrency", 0),
        ("requests_per_second", 0),
        ("max_devices", "many"),
        ("dry_run", "perhaps"),
        ("uid_column", ""),
        ("columns", "uid"),
    ],
)
def test_operator_wrong_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, **{option: value})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_share": 0.05, "fleet_query_id": "all_devices"}, "not an NQL query id"),
        ({"max_share": 0.05, "fleet_query_id": "#all", "fleet_size": 600}, "fleet_size and fleet_query_id both say"),
        ({"max_share": 0.05, "fleet_query_id": "{{ x }}", "fleet_size": "{{ y }}"}, "both say"),
        ({"max_share": 0.05}, "needs fleet_size or fleet_query_id"),
    ],
)
def test_operator_wrong_fleet_options_fail_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, **options)
    NexthinkDeleteDevicesOperator(task_id="ledger", devices=ROWS, fleet_query_id="#all")  # as the connection says


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("query_id", "stale_devices"),
        ("query_id", "#Stale"),
        ("query_id", "devices | list device.name"),
        ("query_mode", "stream"),
        ("compression", "BZIP2"),
        ("return_format", "csv"),
        ("poll_interval", 0),
        ("poll_interval", "5"),
        ("poll_interval", timedelta(0)),
        ("timeout", -1),
        ("timeout", float("inf")),
        ("timeout", True),
        ("timeout", timedelta(seconds=-1)),
    ],
)
def test_query_operator_wrong_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match="query id" if option == "query_id" else option):
        NexthinkNqlOperator(**{"task_id": "pull", "query_id": "#stale_devices", option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grace", timedelta(days=-1)),
        ("grace", "a while"),
        ("min_sightings", 0),
        ("list_name", " "),
        ("uid_column", ""),
        ("nexthink_conn_id", ""),
    ],
)
def test_quarantine_operator_wrong_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        NexthinkQuarantineOperator(task_id="quarantine", devices=ROWS, **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("query_id", "all devices"),
        ("uid_column", ""),
        ("timeout", 0),
        ("query_mode", "execute"),
        ("allow_truncated", True),
        ("return_format", "columns"),
        ("results_path", "all.parquet"),
        ("compression", "NONE"),
    ],
)
def test_reconcile_operator_wrong_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match="query id" if option == "query_id" else option):
        NexthinkReconcileOperator(**{"task_id": "reconcile", option: value})


def test_reconcile_operator_with_the_default_args_of_queries_reads_whole_exports() -> None:
    with DAG("d", default_args={"allow_truncated": True, "query_mode": "execute", "return_format": "dataframe"}):
        operator = NexthinkReconcileOperator(task_id="reconcile")
    assert (operator.allow_truncated, operator.query_mode, operator.return_format) == (False, "export", "records")


@pytest.mark.parametrize("option", ["wait_for_removal", "force"])
def test_operator_unknown_option_raises_type_error(option: str) -> None:
    unknown: dict[str, Any] = {option: 1}
    with pytest.raises(TypeError, match=option):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, **unknown)
    with pytest.raises(TypeError, match=option):
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", **unknown)


def test_query_operator_with_timedeltas_counts_in_seconds() -> None:
    pull = NexthinkNqlOperator(
        task_id="pull", query_id="#query", poll_interval=timedelta(milliseconds=500), timeout=timedelta(hours=2)
    )
    assert (pull.poll_interval, pull.timeout) == (0.5, 7200.0)


def test_query_operator_with_the_default_args_of_sensors_is_parsed() -> None:
    with DAG("d", default_args={"mode": "reschedule", "poke_interval": 60, "timeout": timedelta(hours=1)}):
        pull = NexthinkNqlOperator(task_id="pull", query_id="#query")
        gone = NexthinkDevicesGoneSensor(task_id="gone", devices=pull.output, query_id="#query")
    assert pull.query_mode == "export"
    assert (gone.mode, gone.timeout, pull.timeout) == ("reschedule", 3600.0, 3600.0)


def rendered(operator: NexthinkDeleteDevicesOperator, **context: Any) -> NexthinkDeleteDevicesOperator:
    operator.render_template_fields(Context(**context))  # type: ignore[typeddict-item]
    return operator


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("given", [ROWS, literal(ROWS), pd.DataFrame(ROWS)], ids=["list", "literal()", "DataFrame"])
def test_devices_literal_are_not_rendered(given: object, native: bool) -> None:
    with DAG("d", render_template_as_native_obj=native):
        operator = rendered(NexthinkDeleteDevicesOperator(task_id="delete", devices=given))
    assert isinstance(operator.devices, DeviceInput)
    value = operator.devices.value
    assert (value.to_dict("records") if isinstance(value, pd.DataFrame) else value) == ROWS


@pytest.mark.parametrize("native", [False, True])
def test_options_scalar_are_rendered(native: bool) -> None:
    with DAG("d", render_template_as_native_obj=native):
        operator = rendered(
            NexthinkDeleteDevicesOperator(
                task_id="delete",
                devices="{{ params.devices }}",
                dry_run="{{ params.dry_run }}",
                max_devices="{{ params.max_devices }}",
                uid_column="{{ params.uid_column }}",
                nexthink_conn_id="{{ params.conn }}",
            ),
            params={"devices": "[]", "dry_run": False, "max_devices": 7, "uid_column": "device.uid", "conn": "other"},
        )
    assert str(operator.dry_run) == "False"
    assert str(operator.max_devices) == "7"
    assert operator.uid_column == "device.uid"
    assert operator.nexthink_conn_id == "other"
    assert isinstance(operator.devices, DeviceInput)
    assert operator.devices.value == ([] if native else "[]")


@pytest.mark.parametrize("native", [False, True])
def test_protect_renders_as_devices_do(native: bool) -> None:
    with DAG("d", render_template_as_native_obj=native) as dag:

        @task
        def listed() -> list[dict[str, str]]:
            return ROWS

        literal_rows = NexthinkDeleteDevicesOperator(task_id="rows", devices=ROWS, protect=ROWS)
        template = NexthinkDeleteDevicesOperator(task_id="text", devices=ROWS, protect="{{ params.text }}")
        without = NexthinkDeleteDevicesOperator(task_id="none", devices=ROWS, protect=None)
        xcom = NexthinkDeleteDevicesOperator(task_id="xcom", devices=ROWS, protect=[listed()])
    for operator in (literal_rows, template, without):
        rendered(operator, params={"text": r'[{"name": "a\/b 1e10 {{ x }}"}]'})
    assert isinstance(literal_rows.protect, DeviceInput)
    assert literal_rows.protect.value == ROWS
    assert serialize_template_field(literal_rows.protect, "protect") == "1 rows (list)"
    assert isinstance(template.protect, DeviceInput)
    text = template.protect.value
    assert (json.loads(text) if isinstance(text, str) else text) == [{"name": "a/b 1e10 {{ x }}"}]
    assert without.protect is None
    assert xcom.upstream_task_ids == {"listed"}
    assert ROWS[0]["uid"] not in str(DagSerialization.to_dict(dag))


SINCE_AIRFLOW_3_2 = pytest.mark.skipif(AIRFLOW < (3, 2), reason="Airflow before 3.2 calls no callables for templates")


@SINCE_AIRFLOW_3_2
def test_options_callable_are_called_when_rendered() -> None:
    def called(value: Any) -> Any:
        return lambda context, jinja_env: value

    with DAG("d"):
        operator = rendered(
            NexthinkDeleteDevicesOperator(
                task_id="delete",
                devices=called(ROWS),
                dry_run=called(True),
                max_devices=called(7),
                uid_column=called("device.uid"),
                nexthink_conn_id=called("other"),
                results_path=called("table.csv"),
            )
        )
        gone = NexthinkDevicesGoneSensor(task_id="gone", devices=called(ROWS), query_id=called("#query"))
        pull = NexthinkNqlOperator(task_id="pull", query_id=called("#query"), parameters=called({"a": 1}))
    for each in (gone, pull):
        each.render_template_fields(Context())
    assert operator.devices.value == gone.devices.value == ROWS  # type: ignore[attr-defined]
    options: Any = operator
    assert (options.dry_run, options.max_devices, options.uid_column) == (True, 7, "device.uid")
    assert (operator.nexthink_conn_id, operator.results_path) == ("other", "table.csv")
    assert (gone.query_id, pull.query_id, pull.parameters) == ("#query", "#query", {"a": 1})


NATIVELY = pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
NAMES = [
    r"SITE/PC1",
    "a\\/b",
    "\\",
    "\\\\",
    r"\N{BULLET}",
    r"\x41",
    r"\u0041",
    "Kiosk-🖥️",
    "'",
    '"',
    "l1\nl2",
    "{{ 7*7 }}",
    "1e10",
]


def rendered_devices(template: str, native: bool, **params: Any) -> Any:
    with DAG("d", render_template_as_native_obj=native):
        delete = rendered(NexthinkDeleteDevicesOperator(task_id="delete", devices=template), params=params)
        gone = NexthinkDevicesGoneSensor(task_id="gone", devices=template, query_id="#all")
    gone.render_template_fields(Context(params=params))
    assert isinstance(delete.devices, DeviceInput)
    assert isinstance(gone.devices, DeviceInput)
    assert repr(delete.devices.value) == repr(gone.devices.value)
    return delete.devices.value


def written(rows: object, escapes: str) -> str:
    """Write JSON in one of the ways in which it can be written."""
    text = json.dumps(rows, ensure_ascii=escapes != "none")
    if escapes == "slashes":
        return text.replace("/", r"\/")
    return text if escapes != "all" else re.sub(r"[A-Z]", lambda letter: f"\\u{ord(letter[0]):04x}", text)


@NATIVELY
@pytest.mark.parametrize("escapes", ["usual", "none", "slashes", "all"])
@pytest.mark.parametrize(
    "template", ["{{ params.text }}", " {{ params.text }}\n", "{% if 1 %}{{ params.text }}{% endif %}"]
)
@settings(max_examples=15)
@given(names=st.lists(st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8")), min_size=1, max_size=5))
@example(names=NAMES)
def test_devices_json_text_of_a_template_keeps_every_character(
    template: str, escapes: str, native: bool, names: list[str]
) -> None:
    rows = [{"uid": ROWS[0]["uid"], "name": name} for name in names]
    for given_rows in (rows, {"uid": [row["uid"] for row in rows], "name": names}):
        read = read_devices(rendered_devices(template, native, text=written(given_rows, escapes)))
        assert read.names == names


@NATIVELY
def test_devices_of_the_filter_tojson_keep_every_character(native: bool) -> None:
    rows = [{"uid": ROWS[0]["uid"], "name": name} for name in [*NAMES, "<&>'"]]
    read = read_devices(rendered_devices("{{ params.rows | tojson }}", native, rows=rows))
    assert read.names == [*NAMES, "<&>'"]


def test_devices_single_native_expression_is_its_own_value() -> None:
    frame = pd.DataFrame(ROWS)
    assert rendered_devices("{{ params.rows }}", True, rows=ROWS) is ROWS
    assert rendered_devices(" {{ params.rows }}\n", True, rows=frame) is frame
    assert rendered_devices("{{ params.rows }}", True, rows=None) is None


@NATIVELY
@pytest.mark.parametrize(
    ("template", "says"),
    [
        (r"""[{'uid': '{{ params.uid }}', 'name': 'SITE\new'}]""", "looks like Python, not JSON"),
        (r"""[{"uid": "{{ params.uid }}", "name": "SITE\x41"}]""", "not JSON"),
        (r"""[{"uid": "{{ params.uid }}", "name": "a", "uid": "b"}]""", "names the key 'uid' twice"),
        (r"""{"uid": ["{{ params.uid }}"], "name": ["a"], "uid": ["b"]}""", "names the key 'uid' twice"),
        ("[{'uid': '{{ params.uid }}', 'name': 'a', 'uid': 'b'}]", "looks like Python, not JSON"),
    ],
)
def test_devices_text_not_json_or_ambiguous_is_refused(template: str, says: str, native: bool) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        read_devices(rendered_devices(template, native, uid=ROWS[0]["uid"]))


@NATIVELY
@pytest.mark.parametrize("template", ["{{ params.nosuch }}", "[{{ params.nosuch }}]", "{{ nosuch }}"])
def test_devices_undefined_variable_raises_and_is_not_an_empty_list(template: str, native: bool) -> None:
    with pytest.raises(UndefinedError):
        rendered_devices(template, native)


def test_devices_template_is_in_the_stored_dag_and_its_value_is_not() -> None:
    with DAG("d") as dag:
        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices="{{ params.text }}")
    assert operator.devices == "{{ params.text }}"
    assert "{{ params.text }}" in str(DagSerialization.to_dict(dag))
    assert copy.deepcopy(operator).devices == "{{ params.text }}"
    again = rendered(operator, params={"text": json.dumps([{"uid": ROWS[0]["uid"], "name": "{{ 7*7 }}"}])})
    assert "0fbd5a5c" not in str(again.devices)


def test_devices_are_not_in_the_stored_dag() -> None:
    with DAG("d") as dag:
        NexthinkDeleteDevicesOperator(task_id="records", devices=ROWS)
        NexthinkDeleteDevicesOperator(task_id="frame", devices=pd.DataFrame(ROWS))
    stored = str(DagSerialization.to_dict(dag))
    assert "0fbd5a5c" not in stored
    assert "1 rows (list)" in stored
    assert "1 rows (DataFrame)" in stored


def test_devices_xcom_sets_the_upstream_task() -> None:
    with DAG("d"):

        @task
        def stale() -> list[dict[str, str]]:
            return ROWS

        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=stale())
    assert operator.upstream_task_ids == {"stale"}


def containers(found: Any, other: Any) -> dict[str, Any]:
    """Every container in which two XComs may be."""
    row = {"uid": ROWS[0]["uid"], "name": "PC"}
    pair = namedtuple("pair", ["uid", "name"])
    return {
        "list of lists": [found, other],
        "tuple of lists": (found, other),
        "columns": {"uid": found, "name": other},
        "columns of cells": {"uid": [found], "name": [other]},
        "cells of a mapping": [{"uid": found, "name": other}],
        "cells of a later mapping": [row, row, {"uid": found, "name": other}],
        "cells of a tuple": [("uid", "name"), (found, other)],
        "cells of a named tuple": [pair(found, other)],
        "literal rows and XComs": [row, found, row, other],
        "other mappings": UserDict({"uid": found, "name": other}),
        "deque": deque([found, deque([other])]),
        "view": {"a": found, "b": other}.values(),
    }


@pytest.mark.parametrize("container", containers(None, None))
def test_devices_xcoms_in_a_container_set_the_upstream_tasks(container: str) -> None:
    with DAG("d") as dag:

        @task
        def found() -> list[dict[str, str]]:
            return ROWS

        @task
        def other() -> list[dict[str, str]]:
            return ROWS

        given = containers(found(), other())[container]
        tasks = [
            NexthinkDeleteDevicesOperator(task_id="delete", devices=given),
            NexthinkDevicesGoneSensor(task_id="gone", devices=given, query_id="#all"),
        ]

        @task.nexthink_delete_devices(task_id="decorated")
        def decorated(devices: Any) -> Any:
            return devices

        if container not in ("other mappings", "deque", "view"):  # Airflow's own rule for arguments of a function
            output: Any = decorated(given)
            tasks.append(output.operator)
    for each in tasks:
        assert each.upstream_task_ids == {"found", "other"}, each.task_id
    assert ROWS[0]["uid"] not in str(DagSerialization.to_dict(dag)["dag"]["tasks"][2]["__var"]["devices"])


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_devices_xcom_in_a_cell_of_a_dataframe_fails_the_parsing_of_the_dag(library: Any) -> None:
    with DAG("d"):

        @task
        def found() -> str:
            return "PC"

        frame = library({"uid": [ROWS[0]["uid"]], "name": [found()]})
        with pytest.raises(NexthinkInputError, match="DataFrame.*XCom"):
            NexthinkDeleteDevicesOperator(task_id="delete", devices=frame)
        with pytest.raises(NexthinkInputError, match="DataFrame.*XCom"):
            NexthinkDevicesGoneSensor(task_id="gone", devices=frame, query_id="#all")


def test_devices_literal_are_not_in_the_stored_dag() -> None:
    with DAG("d") as dag:
        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=literal(ROWS))
        text = NexthinkDeleteDevicesOperator(task_id="text", devices=literal("uid,name\nx,{{ 7 * 7 }}"))
    assert ROWS[0]["uid"] not in str(DagSerialization.to_dict(dag))
    assert isinstance(rendered(operator).devices, DeviceInput)
    assert rendered(text).devices.value == "uid,name\nx,{{ 7 * 7 }}"  # type: ignore[attr-defined]


def test_operator_mapped_is_accepted() -> None:
    with DAG("d"):
        mapped = NexthinkDeleteDevicesOperator.partial(task_id="delete", dry_run=True).expand(devices=[ROWS, ROWS])
    assert mapped.operator_class is NexthinkDeleteDevicesOperator


@pytest.mark.parametrize("retries", [0, 1])
def test_operator_without_a_state_store_logs_that_a_retry_sends_all_again(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, retries: int
) -> None:
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, retries=retries)
    operator._log_missing_state(TaskState.of({}, consequence=""))
    said = capsys.readouterr().out + caplog.text
    assert ("a retry sends the whole list again" in said) == bool(retries)


def test_on_kill_before_execute_does_nothing() -> None:
    NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS).on_kill()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (ROWS * 3, "3 rows (list)"),
        (tuple(ROWS), "1 rows (tuple)"),
        (pd.DataFrame(ROWS), "1 rows (DataFrame)"),
        ({"uid": ["a", "b"], "name": ["c", "d"]}, "devices (dict)"),
        ("uid,name\na,SECRET-1", "text of 19 characters"),
        ('[{"uid": "a", "name": "SECRET-1"}]', "text of 34 characters"),
        ("s3://bucket/devices.csv", "the file s3://bucket/devices.csv"),
        ("s3://me:secret@bucket/devices.csv", "the file s3://***@bucket/devices.csv"),
        (iter(ROWS), "devices (list_iterator)"),
    ],
)
def test_devices_in_the_rendered_view_are_a_summary(given: object, shown: str) -> None:
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=given)
    assert serialize_template_field(operator.devices, "devices") == shown


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (None, False),
        ("airflow.sdk.execution_time.xcom.BaseXCom", False),
        ("airflow.providers.common.io.xcom.backend.XComObjectStorageBackend", True),
    ],
)
def test_has_xcom_backend_follows_the_configuration(
    monkeypatch: pytest.MonkeyPatch, backend: str | None, expected: bool
) -> None:
    if backend:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    assert has_xcom_backend() == expected
