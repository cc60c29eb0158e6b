"""The demo: the lifecycle Dag over four weeks, in a real Airflow against a sandbox tenant, within a minute.

``python -m airflow_provider_nexthink.sandbox.demo``, or ``make demo``. Its Airflow and its ledger (both SQLite) are in
``.demo/``; no process is left running. A week passes by moving the clock of the sandbox: see ``sandbox_time``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from airflow_provider_nexthink.sandbox.server import Sandbox
from airflow_provider_nexthink.sandbox.tenant import Tenant

WEEKLY, DAILY = "nexthink_lifecycle", "nexthink_lifecycle_reconcile"
POLICY = {"max_devices": 500, "quota_devices": 1000, "quota_days": 6, "protected": "VIP-*"}

PullXcom = Callable[[str, str], Any]

_PACKAGE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the demo."""
    with Sandbox(devices=5000, stale=400, removal_delay=3600, pending_polls=0) as sandbox:
        _set_up_airflow(Path(".demo").resolve(), sandbox)
        with sandbox_time(sandbox.tenant):
            _show_weeks(sandbox.tenant)


@contextmanager
def sandbox_time(tenant: Tenant) -> Iterator[None]:
    """Let the hooks, the operators and the ledger in this process go by the clock of a sandbox tenant.

    For the demo and tests only: limits in time are worth nothing where the clock can be moved.

    :param tenant: the tenant whose clock it is.
    """
    # Here, since it imports Airflow, which reads its settings then.
    from airflow_provider_nexthink import clock
    from airflow_provider_nexthink.operators import nql
    from airflow_provider_nexthink.sensors import data_management

    now = SimpleNamespace(now=lambda zone: tenant.now().astimezone(zone))
    seconds = SimpleNamespace(time=tenant.time)
    with (
        mock.patch.object(clock, "datetime", now),
        mock.patch.object(nql, "time", seconds),
        mock.patch.object(data_management, "time", seconds),
    ):
        yield


def _show_weeks(tenant: Tenant) -> None:
    """Run the Dags week by week, and print what happens."""
    _print_when("Week 1", tenant, "the stale devices are marked. A dry run, which is the default.")
    weekly = _run_weekly(dry_run=True)

    tenant.advance(days=7)
    _print_when("Week 2", tenant, "they wait.")
    _run_weekly(dry_run=True)

    tenant.mark_seen([row["uid"] for row in weekly("quarantine", "waiting")[:3]])
    tenant.advance(days=7)
    _print_when("Week 3", tenant, "three are in use again. The others are due, and dry_run is off.")
    weekly = _run_weekly(dry_run=False)

    tenant.advance(days=1)
    _print_when("A day later", tenant, "Nexthink has removed them.")
    _run_daily()

    back, anew = [row["uid"] for row in weekly("delete_devices", "return_value")[:2]]
    tenant.bring_back([back])
    tenant.set_up_anew([anew])
    tenant.advance(days=6)
    _print_when("Week 4", tenant, "one of them reports again, and another one was set up anew.")
    _run_weekly(dry_run=False)
    _run_daily()

    _ask_ledger("report", "nexthink_default")
    _ask_ledger("history", "nexthink_default", back)


def _print_when(week: str, tenant: Tenant, what: str) -> None:
    print(f"\n{week}, {tenant.now():%d %B %Y}: {what}")


def _run_weekly(*, dry_run: bool) -> PullXcom:
    """Run the weekly Dag, and print its numbers."""
    pull = _run_dag(WEEKLY, dry_run=dry_run)
    stale, chosen = len(pull("pull_stale_devices", "return_value")), len(pull("choose_devices", "return_value"))
    held, sent = pull("quarantine", "summary"), pull("delete_devices", "summary")
    until = f" (until {held['next_due_at']:.10} at least)" if held["waiting"] else ""
    statuses = [f"{sent[status]} {status}" for status in ("PLANNED", "SCHEDULED", "EXCLUDED") if sent[status]]
    print(
        f"    stale       {stale} devices, {chosen} of them chosen\n"
        f"    quarantine  {held['marked']} marked, {held['waiting']} waiting{until}, {held['released']} released, "
        f"{held['due']} due, {held['deleted']} deleted\n"
        f"    deletion    {', '.join(statuses) or 'none'}, {sent['requests']} requests"
    )
    return pull


def _run_daily() -> None:
    """Run the daily Dag, and print its numbers."""
    found = _run_dag(DAILY)("reconcile", "summary")
    print(
        f"    inventory   {found['devices']} devices; of {found['requested']} deleted ones {found['gone']} are gone, "
        f"{found['still_present']} still present, {found['returned']} returned;\n"
        f"                {found['set_up_anew']} share their name with a device that is there\n"
        f"    seats won   {found['net']}"
    )


def _ask_ledger(*arguments: str) -> None:
    """Run a command of the ledger in this process, whose connections and whose time it needs."""
    from airflow_provider_nexthink.cli.definition import main

    print(f"\n$ python -m airflow_provider_nexthink ledger {' '.join(arguments)}", flush=True)
    main(["ledger", *arguments])


def _set_up_airflow(home: Path, sandbox: Sandbox) -> None:
    """Set up an Airflow for this process only: embedded defaults, its own folder, a new ledger."""
    dags = next(folder for folder in (_PACKAGE / "example_dags", _PACKAGE.parent / "dags") if folder.is_dir())
    ledger = home / "ledger.db"
    ledger.unlink(missing_ok=True)
    connection = json.loads(sandbox.airflow_connection())
    connection["extra"] |= {"ledger_conn_id": "nexthink_ledger", **POLICY}
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        # Reconcile looks for its last run, and Airflow calls it an error that there is none.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.sdk.api.client=CRITICAL",
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": json.dumps(connection),
        "AIRFLOW_CONN_NEXTHINK_LEDGER": json.dumps({"conn_type": "sqlite", "host": str(ledger)}),
    }
    print(f"Airflow at {home}, the ledger in {ledger.name}", flush=True)
    from airflow.utils.db import initdb

    initdb()
    fleet = sandbox.tenant.counts()
    print(f"A sandbox tenant at {sandbox.url}: {fleet['devices']} devices, {fleet['stale']} of them stale")


def _run_dag(dag_id: str, **params: Any) -> PullXcom:
    """Run a Dag; return what pulls an XCom of a task, by the task's id and the key."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]

    dag = DagBag(f"{os.environ['AIRFLOW__CORE__DAGS_FOLDER']}/{WEEKLY}.py").dags[dag_id]
    run = dag.test(run_conf=params)
    if str(run.state) != "success":
        sys.exit(f"The Dag {dag_id} has failed: see the errors above.")
    instance = run.get_task_instances()[0]
    return lambda task_id, key: instance.xcom_pull(task_ids=task_id, key=key)


if __name__ == "__main__":
    main()
