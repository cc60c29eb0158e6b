"""The demo: run the stale-device Dag in a real Airflow against a sandbox tenant, first as a dry run, then for real.

``python -m airflow_provider_nexthink.sandbox.demo``, or ``make demo``. Its Airflow (SQLite) is in ``.demo/``; no
process is left running.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from airflow_provider_nexthink.sandbox.server import Sandbox

DAG_ID = "nexthink_delete_stale_devices"
REMOVAL_SECONDS = 1.0

_PACKAGE = Path(__file__).resolve().parents[1]
_SHOWN_ROWS = 8


def main() -> int:
    """Run the demo; return the exit code."""
    with Sandbox(devices=5000, stale=400, removal_delay=REMOVAL_SECONDS, pending_polls=0) as sandbox:
        _set_up_airflow(Path(".demo").resolve(), sandbox.airflow_connection())
        print(f"A sandbox tenant at {sandbox.url}; its fleet before: {_fleet(sandbox)}")

        print(f"\n1. Dry run: Dag {DAG_ID}, params dry_run=true, min_days_unseen=90")
        planned = _run_dag({"dry_run": True, "min_days_unseen": 90})
        print(f"\n   Fleet after the dry run: {_fleet(sandbox)}")

        print(f"\n2. For real: Dag {DAG_ID}, params dry_run=false, min_days_unseen=90")
        done = _run_dag({"dry_run": False, "min_days_unseen": 90})
        time.sleep(REMOVAL_SECONDS)  # SCHEDULED means queued: the tenant removes devices in the background
        print(f"\n   Fleet {REMOVAL_SECONDS:.0f} s later: {_fleet(sandbox)}")
    return 0 if planned and done else 1


def _set_up_airflow(home: Path, connection: str) -> None:
    """Set up an Airflow for this process only: embedded defaults, its own folder."""
    dags = next(folder for folder in (_PACKAGE / "example_dags", _PACKAGE.parent / "dags") if folder.is_dir())
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_NEXTHINK_DEFAULT": connection,
    }
    print(f"Airflow at {home} ...", flush=True)
    from airflow.utils.db import initdb

    initdb()


def _run_dag(params: dict[str, Any]) -> bool:
    """Run the Dag and print what happened; return whether it succeeded."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]

    dag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags[DAG_ID]
    run = dag.test(run_conf=params)
    instances = {instance.task_id: instance for instance in run.get_task_instances()}
    for task_id in dag.task_ids:
        print(f"   {task_id:<20} {instances[task_id].state}")
    deletion = instances["delete_devices"]
    table = deletion.xcom_pull(task_ids="delete_devices")
    summary = deletion.xcom_pull(task_ids="delete_devices", key="summary")
    if summary is None:
        print("   No outcome: see the errors above.")
        return False
    pulled = deletion.xcom_pull(task_ids="pull_stale_devices")
    print(f"\n   {len(pulled)} stale devices pulled, {len(pulled) - len(table)} of them kept by the Dag's filter")
    _print_outcome(table, summary)
    return str(run.state) == "success"


def _print_outcome(table: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    counts = Counter(row["status"] for row in table)
    print(
        f"   {summary['requested']} devices went in (uid from {summary['uid_column']!r}): "
        f"{', '.join(f'{count} {status}' for status, count in counts.items())}; "
        f"{summary['requests']} requests, {summary['duration_seconds']} s\n"
    )
    line = "   {:<36}  {:<24.24}  {:<10}  {:<36}  {}"
    print(line.format("uid", "name", "status", "request_id", "reason"))
    for row in table[:_SHOWN_ROWS]:
        print(line.format(*(row[column] or "" for column in ("uid", "name", "status", "request_id", "reason"))))
    if len(table) > _SHOWN_ROWS:
        print(f"   ... and {len(table) - _SHOWN_ROWS} more rows, one for each device that went in")


def _fleet(sandbox: Sandbox) -> str:
    fleet = sandbox.tenant.counts()
    return f"{fleet['devices']} devices, {fleet['stale']} of them stale"


if __name__ == "__main__":
    sys.exit(main())
