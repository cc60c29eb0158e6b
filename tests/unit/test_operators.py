"""What the operators say while a Dag is parsed, and how their fields render."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG, literal, task
from airflow.sdk.definitions.context import Context
from airflow.serialization.helpers import serialize_template_field

from airflow_provider_nexthink.compat import has_xcom_backend
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.operators._task import DeviceInput
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from tests.system.conftest import DagSerialization

ROWS = [{"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "{{ 7 * 7 }}"}]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("exclude", "VIP-*"),
        ("exclude", ["{{ var.value.keep }}"]),
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
def test_a_wrong_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("query_id", "stale_devices"),
        ("query_id", "#Stale"),
        ("query_id", "devices | list device.name"),
        ("mode", "stream"),
        ("compression", "BZIP2"),
        ("return_format", "csv"),
        ("poll_interval", 0),
        ("timeout", -1),
    ],
)
def test_a_wrong_query_option_fails_the_parsing_of_the_dag(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match="query id" if option == "query_id" else option):
        NexthinkNqlOperator(**{"task_id": "pull", "query_id": "#stale_devices", option: value})


@pytest.mark.parametrize("option", ["wait_for_removal", "force"])
def test_an_option_that_is_not_there_is_not_accepted(option: str) -> None:
    unknown: dict[str, Any] = {option: 1}
    with pytest.raises(TypeError, match=option):
        NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, **unknown)
    with pytest.raises(TypeError, match=option):
        NexthinkNqlOperator(task_id="pull", query_id="#stale_devices", **unknown)


def rendered(operator: NexthinkDeleteDevicesOperator, **context: Any) -> NexthinkDeleteDevicesOperator:
    operator.render_template_fields(Context(**context))  # type: ignore[typeddict-item]
    return operator


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("given", [ROWS, literal(ROWS), pd.DataFrame(ROWS)], ids=["list", "literal()", "DataFrame"])
def test_jinja_never_touches_literal_devices(given: object, native: bool) -> None:
    with DAG("d", render_template_as_native_obj=native):
        operator = rendered(NexthinkDeleteDevicesOperator(task_id="delete", devices=given))
    assert isinstance(operator.devices, DeviceInput)
    value = operator.devices.value
    assert (value.to_dict("records") if isinstance(value, pd.DataFrame) else value) == ROWS


@pytest.mark.parametrize("native", [False, True])
def test_scalar_options_are_templates(native: bool) -> None:
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


def test_the_devices_never_show_in_what_airflow_stores_of_the_task() -> None:
    with DAG("d") as dag:
        NexthinkDeleteDevicesOperator(task_id="records", devices=ROWS)
        NexthinkDeleteDevicesOperator(task_id="frame", devices=pd.DataFrame(ROWS))
    stored = str(DagSerialization.to_dict(dag))
    assert "0fbd5a5c" not in stored
    assert "1 rows (list)" in stored
    assert "1 rows (DataFrame)" in stored


def test_an_xcom_makes_the_task_depend_on_the_one_it_comes_from() -> None:
    with DAG("d"):

        @task
        def stale() -> list[dict[str, str]]:
            return ROWS

        operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=stale())
    assert operator.upstream_task_ids == {"stale"}


def test_the_operator_can_be_mapped() -> None:
    with DAG("d"):
        mapped = NexthinkDeleteDevicesOperator.partial(task_id="delete", dry_run=True).expand(devices=[ROWS, ROWS])
    assert mapped.operator_class is NexthinkDeleteDevicesOperator


@pytest.mark.parametrize("retries", [0, 1])
def test_without_a_state_store_the_log_says_that_a_retry_sends_all_again(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, retries: int
) -> None:
    operator = NexthinkDeleteDevicesOperator(task_id="delete", devices=ROWS, retries=retries)
    assert operator._state_store(Context()) is None
    said = capsys.readouterr().out + caplog.text
    assert ("a retry sends the whole list again" in said) == bool(retries)


def test_killing_a_task_that_has_not_begun_is_harmless() -> None:
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
def test_the_rendered_view_is_a_summary(given: object, shown: str) -> None:
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
def test_an_xcom_backend_is_noticed(monkeypatch: pytest.MonkeyPatch, backend: str | None, expected: bool) -> None:
    if backend:
        monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", backend)
    assert has_xcom_backend() == expected
