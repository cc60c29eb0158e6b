"""max_share of a fleet that a saved query counts just before the first request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from sqlalchemy import create_engine, select

from airflow_provider_nexthink.client import NexthinkClient, NexthinkSettings
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkExportError,
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkPermissionError,
    NexthinkTruncatedError,
)
from airflow_provider_nexthink.ledger import schema
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run

RunDag = Callable[..., Run]
QUERIES = ["#fleet_count", "#all_devices"]


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


def settings_of(sandbox: Sandbox) -> NexthinkSettings:
    return NexthinkSettings.resolve(
        instance="sandbox",
        region="eu",
        client_id=sandbox.client_id,
        client_secret=sandbox.client_secret,
        base_url=sandbox.url,
        login_url=sandbox.login_url,
    )


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[NexthinkClient]:
    with NexthinkClient(settings_of(sandbox)) as client:
        yield client


@pytest.mark.parametrize("query_id", QUERIES)
@pytest.mark.parametrize("dry_run", [False, True])
def test_client_fleet_query_id_guards_the_share_of_the_live_count(
    sandbox: Sandbox, client: NexthinkClient, query_id: str, dry_run: bool
) -> None:
    options: dict[str, Any] = {"max_share": 0.05, "fleet_query_id": query_id, "dry_run": dry_run}
    with pytest.raises(NexthinkGuardError) as raised:
        client.delete_devices(devices_of(sandbox, 31), **options)
    assert "31 of 600 devices (5.2%), more than max_share=0.05" in str(raised.value)
    assert f"The 600 devices are what {query_id} (fleet_query_id) has counted just now." in str(raised.value)
    assert sandbox.tenant.queued == []
    result = client.delete_devices(devices_of(sandbox, 30), **options)
    assert result.summary["limits"]["fleet_size"] == 600
    assert result.summary["limits"]["fleet_query_id"] == query_id
    assert len(sandbox.tenant.queued) == (0 if dry_run else 30)


def test_client_fleet_query_id_counts_anew_each_time(sandbox: Sandbox, client: NexthinkClient) -> None:
    for expected in (600, 590):
        result = client.delete_devices(devices_of(sandbox, 10), max_share=0.05, fleet_query_id="#fleet_count")
        assert result.summary["limits"]["fleet_size"] == expected


def test_client_fleet_query_id_is_not_run_for_a_list_with_nothing_to_send(
    sandbox: Sandbox, client: NexthinkClient
) -> None:
    result = client.delete_devices([], max_share=0.05, fleet_query_id="#fleet_count")
    assert result.summary["limits"]["fleet_size"] is None
    assert sandbox.requests == []


@pytest.mark.parametrize("query_id", QUERIES)
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"nql": False}, NexthinkPermissionError),
        ({"export_row_limit": 1}, NexthinkTruncatedError),
        ({"export_row_limit": 0}, NexthinkTruncatedError),
        ({"data_management": True}, NexthinkExportError),
    ],
    ids=["no permission", "truncated to one", "truncated to none", "an empty fleet"],
)
def test_client_fleet_query_id_that_gives_no_count_sends_nothing(
    sandbox: Sandbox, client: NexthinkClient, query_id: str, changes: dict[str, Any], error: type[NexthinkError]
) -> None:
    if changes == {"export_row_limit": 1} and query_id == "#fleet_count":
        return  # that is all of it
    rows = devices_of(sandbox, 1)
    for name, value in changes.items():
        setattr(sandbox.tenant, name, value)
    if error is NexthinkExportError:
        for device in sandbox.tenant.devices():
            sandbox.tenant.queue_deletion(device.uid)
        sandbox.tenant.queued.clear()
    with pytest.raises(error):
        client.delete_devices(rows, max_share=1, fleet_query_id=query_id)
    assert sandbox.tenant.queued == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_share": 0.5, "fleet_query_id": "fleet"}, "not an NQL query id"),
        ({"max_share": 0.5, "fleet_query_id": "#fleet_count", "fleet_size": 600}, "both say"),
        ({"fleet_query_id": "#fleet_count"}, "does nothing without max_share"),
        ({"max_share": 0.5}, "max_share needs fleet_size or fleet_query_id"),
    ],
)
def test_client_fleet_options_that_cannot_take_effect_are_an_error(
    sandbox: Sandbox, client: NexthinkClient, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(NexthinkInputError, match=says):
        client.delete_devices(devices_of(sandbox, 1), **options)
    assert sandbox.requests == []


def test_client_fleet_query_id_with_a_ledger_records_the_look(sandbox: Sandbox, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    rows = devices_of(sandbox, 3)
    rows[2] = {"uid": "0fbd5a5c-0000-4000-8000-000000000000", "name": "unknown to the fleet"}
    ages = {device.uid: device.days_since_last_seen for device in sandbox.tenant.devices()}
    with NexthinkClient(settings_of(sandbox), ledger=engine) as client:
        client.delete_devices(rows, fleet_query_id="#all_devices")
        with pytest.raises(NexthinkInputError, match="gives only a number, which does nothing without max_share"):
            client.delete_devices(rows, fleet_query_id="#fleet_count")
    with engine.connect() as connection:
        table = schema.deletions
        found = list(connection.execute(select(table.c.uid, table.c.seen_at, table.c.days_unseen)))
    engine.dispose()
    assert [(row.uid, row.days_unseen) for row in found] == [
        (rows[0]["uid"], ages[rows[0]["uid"]]),
        (rows[1]["uid"], ages[rows[1]["uid"]]),
        (rows[2]["uid"], None),
    ]
    assert [row.seen_at is None for row in found] == [False, False, True]


@pytest.mark.parametrize("query_id", ["{{ dag_run.conf['query_id'] }}", "#fleet_count"])
def test_operator_fleet_query_id_from_a_template_guards_the_run(
    sandbox: Sandbox, run_dag: RunDag, query_id: str
) -> None:
    with DAG("share", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete", devices=devices_of(sandbox, 31), max_share=0.05, fleet_query_id=query_id
        )
    run = run_dag(dag, query_id="#fleet_count")
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "#fleet_count (fleet_query_id) has counted just now" in run.error
    summary = run.xcom("delete", key="summary")
    assert summary["limits"]["fleet_size"] == 600
    assert summary["requested"] == 31
    assert sandbox.tenant.queued == []
