import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from airflow_provider_nexthink.cli.definition import main
from airflow_provider_nexthink.sandbox import Fault, Sandbox

DELETIONS = "/api/v1/data-management/device/deletions"
TOKEN_FORM = {"grant_type": "client_credentials", "scope": "service:integration"}
COMMAND = [sys.executable, "-m", "airflow_provider_nexthink", "sandbox"]


def test_sandbox_from_token_to_removal() -> None:
    """Get a token, query the stale devices, delete them, check that they are removed."""
    with Sandbox(devices=50, stale=10, removal_delay=0.0) as sandbox:
        response = httpx.post(sandbox.login_url, auth=(sandbox.client_id, sandbox.client_secret), data=TOKEN_FORM)
        headers = {"authorization": f"Bearer {response.json()['access_token']}"}
        with httpx.Client(base_url=sandbox.url, headers=headers) as client:
            rows = client.post("/api/v2/nql/execute", json={"queryId": "#stale_devices"}).json()["data"]
            devices = [{"uid": row["device.uid"], "name": row["device.name"]} for row in rows]
            assert client.post(DELETIONS, json={"devices": devices}).status_code == 202
            assert client.get("/sandbox/fleet").json() == {
                "devices": 40,
                "stale": 0,
                "queued": 0,
                "removed": 10,
            }
        assert sandbox.tenant.queued == [device["uid"] for device in devices]


def test_sandbox_clock_and_devices_are_changed_over_http() -> None:
    with Sandbox(devices=10, stale=0, removal_delay=3600.0) as sandbox, httpx.Client(base_url=sandbox.url) as client:
        uids = [device.uid for device in sandbox.tenant.devices()]
        sandbox.tenant.queue_deletion(uids[0])
        moved = client.post("/sandbox/clock", json={"days": 90, "seconds": 1}).json()
        assert moved | {"now": ""} == {"now": "", "devices": 9, "stale": 9, "queued": 0, "removed": 1}
        assert client.post("/sandbox/devices/mark_seen", json=[uids[1].upper()]).json() == {"devices": [uids[1]]}
        assert client.post("/sandbox/devices/bring_back", json=uids[:1]).json() == {"devices": uids[:1]}
        (new,) = client.post("/sandbox/devices/set_up_anew", json=uids[2:3]).json()["devices"]
        assert client.get("/sandbox/fleet").json() == {"devices": 11, "stale": 8, "queued": 0, "removed": 0}
        assert new in [device.uid for device in sandbox.tenant.devices()]
        assert sandbox.requests == []


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("clock", "7", 400, "not a JSON object"),
        ("clock", "days", 400, "not a JSON object"),
        ("clock", '{"weeks": 1}', 400, "not a JSON object"),
        ("clock", '{"days": "7"}', 400, "are numbers"),
        ("clock", '{"days": true}', 400, "are numbers"),
        ("clock", '{"days": -7}', 400, "not a time forward"),
        ("clock", "{}", 400, "not a time forward"),
        ("devices/delete", "[]", 404, "mark_seen, bring_back, set_up_anew"),
        ("devices/mark_seen", "{}", 400, "not a JSON list of uids"),
        ("devices/mark_seen", "[1]", 400, "not a JSON list of uids"),
        ("devices/mark_seen", "x", 400, "not a JSON list of uids"),
        ("devices/mark_seen", '["x"]', 404, "never a device x"),
    ],
)
def test_sandbox_change_that_is_malformed_is_refused(path: str, body: str, status: int, says: str) -> None:
    with Sandbox(devices=1, stale=0) as sandbox:
        response = httpx.post(f"{sandbox.url}/sandbox/{path}", content=body)
    assert (response.status_code, says in response.json()["error"]) == (status, True)


def test_sandbox_records_requests() -> None:
    with Sandbox(devices=1, stale=0) as sandbox:
        httpx.post(f"{sandbox.url}{DELETIONS}", content=b"{}", headers={"X-Request-Id": "abc"})
        httpx.get(f"{sandbox.url}/storage/x?X-Signature=secret")
        httpx.get(f"{sandbox.url}/sandbox/fleet")

    deletion, storage = sandbox.requests
    assert (deletion.method, deletion.path, deletion.body, deletion.status) == ("POST", DELETIONS, b"{}", 401)
    assert deletion.headers["x-request-id"] == "abc"
    assert (storage.method, storage.path, storage.body, storage.status) == ("GET", "/storage/x", b"", 403)


def test_sandbox_airflow_connection_has_its_credentials() -> None:
    with Sandbox(devices=1, stale=0, client_id="me", client_secret="mine") as sandbox:
        assert json.loads(sandbox.airflow_connection()) == {
            "conn_type": "nexthink",
            "host": "sandbox",
            "login": "me",
            "password": "mine",
            "extra": {"region": "eu", "base_url": sandbox.url, "login_url": sandbox.login_url},
        }
        assert httpx.post(sandbox.login_url, auth=("me", "mine"), data=TOKEN_FORM).status_code == 200


def test_sandbox_with_concurrent_clients_queues_every_device() -> None:
    with Sandbox(devices=800, stale=0, removal_delay=0.0) as sandbox:
        uids = [device.uid for device in sandbox.tenant.devices()]
        headers = {"authorization": f"Bearer {sandbox.tenant.issue_token()}"}
        with httpx.Client(base_url=sandbox.url, headers=headers) as client, ThreadPoolExecutor(8) as pool:

            def delete(start: int) -> int:
                devices = [{"uid": uid, "name": "x"} for uid in uids[start : start + 10]]
                sandbox.tenant.counts()  # read while requests come in
                return int(client.post(DELETIONS, json={"devices": devices}).json()["scheduledCount"])

            assert sum(pool.map(delete, range(0, 800, 10))) == 800
        assert sorted(sandbox.tenant.queued) == sorted(uids)
        assert len(sandbox.requests) == 80
        assert sandbox.tenant.devices() == []


def test_sandbox_slow_response_blocks_no_other_request() -> None:
    with Sandbox(devices=1, stale=0) as sandbox:
        sandbox.faults.add(Fault("token", "slow", seconds=600))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(sandbox.login_url, timeout=httpx.Timeout(60, read=0.05))
        assert httpx.post(sandbox.login_url, timeout=60).status_code == 401
    # Nor does it delay the shutdown.
    assert "nexthink-sandbox" not in [thread.name for thread in threading.enumerate()]


def test_sandbox_stops_with_its_context(caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    with Sandbox(devices=1, stale=0) as sandbox:
        sandbox.faults.add(Fault("token", "drop"))
        with pytest.raises(httpx.TransportError):
            httpx.post(sandbox.login_url)

    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{sandbox.url}/sandbox/fleet")
    assert threading.active_count() == threads
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_sandbox_twice_gives_two_tenants() -> None:
    with Sandbox(devices=1, stale=0) as one, Sandbox(devices=2, stale=0) as two:
        assert httpx.get(f"{one.url}/sandbox/fleet").json()["devices"] == 1
        assert httpx.get(f"{two.url}/sandbox/fleet").json()["devices"] == 2


def test_sandbox_port_in_use_is_an_error() -> None:
    with Sandbox(devices=1, stale=0) as sandbox:
        port = httpx.URL(sandbox.url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"), Sandbox(devices=1, stale=0, port=port):
            pass


def test_command_prints_what_can_be_pasted() -> None:
    with subprocess.Popen(
        [*COMMAND, "--devices", "30", "--stale", "4", "--port", "0", "--max-batch", "7", "--removal-delay", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            welcome = "".join(lines)
            export = re.search(r"export (AIRFLOW_CONN_NEXTHINK_DEFAULT=.*)", welcome)
            assert export, welcome
            name, _, value = shlex.split(export[1])[0].partition("=")
            connection = json.loads(value)
            url = connection["extra"]["base_url"]
            assert name == "AIRFLOW_CONN_NEXTHINK_DEFAULT"
            assert httpx.get(f"{url}/sandbox/fleet").json()["devices"] == 30

            # The curl line for a fault can be pasted as it is.
            curl = shlex.split(re.search(r"curl -X POST .*", welcome)[0])  # type: ignore[index]
            assert httpx.post(curl[3], content=curl[5]).json() == {"faults": 1}
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "-1"], "must be a whole number, 0 or more"),
        (["--devices", "many"], "must be a whole number, 0 or more"),
        (["--port", "70000"], "must be a port, from 0 to 65535"),
        (["--max-batch", "0"], "must be a whole number, 1 or more"),
        (["--removal-delay", "nan"], "must be a number of seconds"),
    ],
)
def test_command_with_invalid_arguments_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sandbox", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_command_with_more_stale_devices_than_devices_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "--devices", "3", "--stale", "4"]) == 2
    assert capsys.readouterr().err == "--stale 4 is more than --devices 3.\n"


def test_command_with_port_in_use_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["sandbox", "--devices", "1", "--stale", "0", "--port", str(port)]) == 2
    assert f"cannot listen on port {port}" in capsys.readouterr().err
