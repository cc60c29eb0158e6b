"""``NexthinkClient``: the use cases without Airflow, against the sandbox over real HTTP."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.client import DeletionObserver, DeletionResult, NexthinkClient, ResultLimits
from airflow_provider_nexthink.deletion.plan import Plan
from airflow_provider_nexthink.exceptions import (
    NexthinkAuthenticationError,
    NexthinkExportError,
    NexthinkGuardError,
    NexthinkNotFoundError,
    NexthinkStoppedError,
)
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox


def settings_of(sandbox: Sandbox, **changes: Any) -> NexthinkSettings:
    credential: dict[str, Any] = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret}
    return NexthinkSettings.resolve(
        instance="acme", base_url=sandbox.url, login_url=sandbox.login_url, **{**credential, **changes}
    )


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[NexthinkClient]:
    with NexthinkClient(settings_of(sandbox)) as client:
        yield client


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


class Recorder(DeletionObserver):
    def __init__(self) -> None:
        self.planned: list[int] = []
        self.progress: list[tuple[int, int]] = []
        self.requests: list[float] = []
        self.results: list[DeletionResult] = []

    def on_plan(self, plan: Plan) -> None:
        self.planned.append(len(plan.to_send))

    def on_progress(self, settled: int, planned: int) -> None:
        self.progress.append((settled, planned))

    def on_request(self, seconds: float) -> None:
        self.requests.append(seconds)

    def on_result(self, result: DeletionResult) -> None:
        self.results.append(result)


def test_client_is_imported_without_airflow() -> None:
    code = (
        "import sys, airflow_provider_nexthink.client; "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('airflow', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_client_exports_deletes_and_reports(sandbox: Sandbox, client: NexthinkClient) -> None:
    recorder = Recorder()
    stale = client.export_nql("#stale_devices", poll_interval=0.01)
    result = client.delete_devices(stale, uid_column="device.uid", observer=recorder)
    assert result.counts["SCHEDULED"] == len(stale) == len(sandbox.tenant.queued) == 250
    assert recorder.planned == [250]
    assert recorder.progress[-1] == (250, 250)
    assert len(recorder.requests) == result.summary["requests"] == 3
    assert recorder.results == [result]
    assert result.summary["instance"] == "acme"


def test_client_with_the_default_limit_sends_nothing_beyond_it(sandbox: Sandbox, client: NexthinkClient) -> None:
    rows = [{"uid": f"00000000-0000-4000-8000-{at:012}", "name": f"PC-{at}"} for at in range(1001)]
    with pytest.raises(NexthinkGuardError, match="max_devices=1000"):
        client.delete_devices(rows)
    assert sandbox.requests == []


def test_observer_check_that_raises_ends_the_run_with_a_whole_table(sandbox: Sandbox, client: NexthinkClient) -> None:
    class Limit(DeletionObserver):
        left = 2

        def check(self) -> None:
            if not self.left:
                raise NexthinkStoppedError("enough")

        def on_request(self, seconds: float) -> None:
            self.left -= 1

    result = client.delete_devices(devices_of(sandbox, 500), max_concurrency=1, observer=Limit())
    assert isinstance(result.error, NexthinkStoppedError)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (200, 300)
    assert len(sandbox.tenant.queued) == 200


def test_stop_from_another_thread_ends_the_run_and_later_calls(sandbox: Sandbox, client: NexthinkClient) -> None:
    class StopOnce(DeletionObserver):
        def on_request(self, seconds: float) -> None:
            stopper.start()
            stopper.join()

    stopper = threading.Thread(target=client.stop)
    result = client.delete_devices(devices_of(sandbox, 500), max_concurrency=1, observer=StopOnce())
    assert isinstance(result.error, NexthinkStoppedError)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (100, 400)
    with pytest.raises(NexthinkStoppedError):
        client.run_nql("#stale_devices")


def test_state_store_of_an_interrupted_call_lets_the_next_one_resume(sandbox: Sandbox) -> None:
    class Store(dict[str, Any]):
        set = dict.__setitem__
        delete = dict.__delitem__

    store, rows = Store(), devices_of(sandbox, 300)
    sandbox.faults.add(Fault(path="deletions", kind="status", status=403, skip=1, times=1))
    with NexthinkClient(settings_of(sandbox)) as first:
        assert first.delete_devices(rows, max_concurrency=1, state_store=store).counts["SCHEDULED"] == 100
    with NexthinkClient(settings_of(sandbox)) as second:
        result = second.delete_devices(rows, state_store=store)
    assert result.counts["SCHEDULED"] == 300
    assert result.summary["requests"] == 2
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows)


def test_check_permissions_says_what_the_credential_may_do(sandbox: Sandbox, client: NexthinkClient) -> None:
    assert client.check_permissions() == {"NQL API": "permitted", "Data management": "permitted"}
    sandbox.faults.add(Fault(path="execute", kind="status", status=403, times=-1))
    no_permission = "no permission (tick NQL API on the API credential in Nexthink)"
    assert client.check_permissions() == {"NQL API": no_permission, "Data management": "permitted"}
    assert sandbox.tenant.queued == []


def test_check_permissions_with_a_wrong_secret_raises(sandbox: Sandbox) -> None:
    wrong = settings_of(sandbox, client_secret="wrong")
    with NexthinkClient(wrong) as client, pytest.raises(NexthinkAuthenticationError):
        client.check_permissions()


def test_export_nql_larger_than_the_result_limits_is_an_error(sandbox: Sandbox) -> None:
    narrow = ResultLimits(rows=100)
    with (
        NexthinkClient(settings_of(sandbox), result_limits=narrow) as client,
        pytest.raises(NexthinkExportError) as caught,
    ):
        client.export_nql("#stale_devices", poll_interval=0.01)
    assert "more than 100 rows" in str(caught.value)


def test_request_calls_any_other_api(sandbox: Sandbox, client: NexthinkClient) -> None:
    assert client.request("POST", "/api/v2/nql/execute", json={"queryId": "#all_devices"}).json()["rows"] == 600
    with pytest.raises(NexthinkNotFoundError):
        client.request("GET", "/api/v1/enrichment/none")


def test_secrets_are_reported_before_they_are_used(sandbox: Sandbox) -> None:
    reported: list[str] = []
    with NexthinkClient(settings_of(sandbox), on_secret=reported.append) as client:
        assert sandbox.client_secret in reported
        token = client.get_token().get_secret_value()
    assert token in reported


def test_close_from_another_thread_ends_the_run_and_nothing_is_sent_after_it(sandbox: Sandbox) -> None:
    client = NexthinkClient(settings_of(sandbox))

    class CloseOnce(DeletionObserver):
        def on_request(self, seconds: float) -> None:
            client.close()

    result = client.delete_devices(devices_of(sandbox, 500), max_concurrency=1, observer=CloseOnce())
    assert isinstance(result.error, NexthinkStoppedError)
    assert (result.counts["SCHEDULED"], result.counts["NOT_SENT"]) == (100, 400)
    with pytest.raises(NexthinkStoppedError):
        client.delete_devices(devices_of(sandbox, 5))
    assert len(sandbox.tenant.queued) == 100
