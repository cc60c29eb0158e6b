"""Reports sent by Airflow's notifiers over real SMTP and HTTP: of the lifecycle Dag, and as in the documentation."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pendulum
import pytest
from airflow.sdk import DAG

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.reports import headline, render
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run
from tests.support.mail import MailServer

RunDag = Callable[..., Run]

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"
AIRFLOW = "https://airflow.example.com"
DEVICES = [
    {"uid": "1e7ce857-7706-434a-878b-ce5b65ee0465", "name": "PC-1"},
    {"uid": "no uid", "name": "PC-2"},
]


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as server:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", server.airflow_connection)
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", AIRFLOW)
        yield server


# The lifecycle Dag


@pytest.fixture
def lifecycle(
    example_dag: Callable[[str], DAG],
    set_extras: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> DAG:
    """The weekly Dag, on a tenant with a ledger, whose devices are due in the first run."""
    monkeypatch.setenv("AIRFLOW_CONN_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "ledger.db")}))
    set_extras(ledger_conn_id="ledger")
    dag = example_dag("nexthink_lifecycle")
    quarantine: Any = dag.get_task("quarantine")
    quarantine.grace, quarantine.min_sightings = 0, 1
    for each in dag.tasks:
        each.retry_delay = timedelta(0)
    return dag


def html_of(server: MailServer) -> str:
    (mail,) = server.mails
    part = mail.get_body(("html",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n").strip()


def test_lifecycle_report_arrives_by_mail(
    sandbox: Sandbox, lifecycle: DAG, run_dag: RunDag, mail_server: MailServer
) -> None:
    run = run_dag(
        lifecycle, dry_run=False, max_share=1, reason="<i>{{ 7 * 7 }}</i>", mail_to="a@example.com, b@example.com"
    )
    assert set(run.states.values()) == {"success"}
    sent, held = (run.xcom(task_id, "summary") for task_id in ("delete_devices", "quarantine"))
    assert sent["SCHEDULED"] == len(sandbox.tenant.queued) > 0
    (mail,) = mail_server.mails
    assert mail_server.recipients == ["a@example.com", "b@example.com"]
    assert mail["From"] == "airflow@example.com"
    assert f"{sent['SCHEDULED']} of {sent['requested']} devices scheduled for deletion" in mail["Subject"]
    text = html_of(mail_server)
    assert text == f"{render(sent, airflow_url=AIRFLOW, style='html')}\n\n{render(held, style='html')}"
    assert "<li>Reason: &lt;i&gt;{{ 7 * 7 }}&lt;/i&gt;</li>" in text
    assert f'<a href="{AIRFLOW}/plugin/nexthink-deletions?dag_id=nexthink_lifecycle&amp;' in text


def test_lifecycle_report_without_recipients_is_in_the_log_only(
    sandbox: Sandbox, lifecycle: DAG, run_dag: RunDag, mail_server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    for nobody in ("", None):
        run = run_dag(lifecycle, max_share=1, mail_to=nobody)
        assert run.state == "success"
        summary = run.xcom("delete_devices", "summary")
        assert render(summary, airflow_url=AIRFLOW) in caplog.text
    assert mail_server.recipients == []


def test_lifecycle_report_of_a_blocked_run_says_so_and_the_run_fails(
    sandbox: Sandbox, lifecycle: DAG, run_dag: RunDag, mail_server: MailServer
) -> None:
    run = run_dag(lifecycle, dry_run=False, max_devices=10, max_share=1, mail_to="a@example.com")
    assert (run.state, run.states["delete_devices"], run.states["report"]) == ("failed", "failed", "success")
    due = run.xcom("quarantine", "summary")["due"]
    (mail,) = mail_server.mails
    assert mail["Subject"] == f"Nexthink, sandbox: blocked, {due} devices, limit 10; nothing was sent"
    assert "<li>Nothing was sent.</li>" in html_of(mail_server)
    assert sandbox.tenant.queued == []


def test_lifecycle_report_after_a_failure_upstream_claims_nothing(
    sandbox: Sandbox, lifecycle: DAG, run_dag: RunDag, mail_server: MailServer, set_extras: Callable[..., None]
) -> None:
    set_extras()  # no ledger
    run = run_dag(lifecycle, dry_run=False, mail_to="a@example.com")
    assert (run.state, run.states["delete_devices"], run.states["report"]) == ("failed", "upstream_failed", "success")
    assert html_of(mail_server) == render(None, style="html")


def test_lifecycle_report_that_cannot_be_sent_does_not_fail_the_run(
    sandbox: Sandbox, lifecycle: DAG, run_dag: RunDag, mail_server: MailServer
) -> None:
    mail_server.rejects = True
    run = run_dag(lifecycle, max_share=1, mail_to="a@example.com")
    assert (run.state, run.states["report"]) == ("success", "failed")
    assert mail_server.mails == []


# The documentation


def snippet(name: str) -> dict[str, Any]:
    """Run the snippet of the page that imports a notifier; return what it has defined."""
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (code,) = (code for code in snippets if name in code)
    defined: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, name, "exec"), defined)
    return defined


def deletion(dag_id: str, notifier: Any) -> DAG:
    """Return a Dag like that of the documentation, with another notifier."""
    with DAG(
        dag_id,
        schedule=None,
        start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
        user_defined_macros={"headline": headline, "render": render},
    ) as dag:
        NexthinkDeleteDevicesOperator(
            task_id="delete_devices", devices=DEVICES, dry_run=True, reason="<b>x</b>", on_success_callback=notifier
        )
    return dag


def test_docs_mail_as_a_callback_has_the_report(sandbox: Sandbox, run_dag: RunDag, mail_server: MailServer) -> None:
    defined = snippet("SmtpNotifier")
    dag = defined["clean_up"]()
    assert dag.get_task("delete_devices").on_failure_callback == [defined["mail"]]
    run = run_dag(dag)
    summary = run.xcom("delete_devices", "summary")
    (mail,) = mail_server.mails
    assert mail["Subject"] == headline(summary) == "Nexthink, sandbox: dry run, 1 of 1 device would be sent"
    assert html_of(mail_server) == render(summary, style="html")


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_docs_slack_has_the_report_in_mrkdwn(
    sandbox: Sandbox, run_dag: RunDag, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{receiver.server_port}/T/B/X"}
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_DEFAULT", json.dumps(connection))
    run = run_dag(deletion("slack", snippet("SlackWebhookNotifier")["slack"]))
    (posted,) = receiver.posted
    assert posted["text"] == render(run.xcom("delete_devices", "summary"), style="slack")
    assert "• 1 INVALID: " in posted["text"]


def test_docs_apprise_has_the_report_in_markdown(
    sandbox: Sandbox, run_dag: RunDag, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"json://127.0.0.1:{receiver.server_port}/?format=markdown"
    connection = {"conn_type": "apprise", "extra": {"config": {"path": address, "tag": "all"}}}
    monkeypatch.setenv("AIRFLOW_CONN_APPRISE_DEFAULT", json.dumps(connection))
    run = run_dag(deletion("apprise", snippet("AppriseNotifier")["chat"]))
    summary = run.xcom("delete_devices", "summary")
    (posted,) = receiver.posted
    assert (posted["title"], posted["message"]) == (headline(summary), render(summary))
