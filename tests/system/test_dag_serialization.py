"""What Airflow stores of a Dag is the same at each parse: else every parse would make a new version of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dags import DAGS

SERIALIZE = """
import json, sys
from tests.support.dags import DagBag, DagSerialization

bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
print("DAGS", json.dumps({dag_id: DagSerialization.to_dict(dag) for dag_id, dag in bag.dags.items()}, sort_keys=True))
"""

EVERY_FIELD = """
from dataclasses import dataclass
from decimal import Decimal

import pandas as pd
from airflow.sdk import DAG, literal, task

from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator

ROWS = [{"uid": "0fbd5a5c-0000-4000-8000-000000000001", "name": "PC"}]


class Plain:
    pass


class Iterates:
    def __iter__(self):
        return iter(ROWS)


def made(context, jinja_env):
    return ROWS


with DAG("every_field") as dag:

    @task
    def found():
        return ROWS

    xcom = found()
    given = {
        "rows": ROWS,
        "frame": pd.DataFrame(ROWS),
        "literal": literal(ROWS),
        "generator": (row for row in ROWS),
        "iterable": Iterates(),
        "callable": made,
        "xcom": xcom,
        "list": [xcom, *ROWS],
        "mapping": {"uid": [xcom], "name": [xcom]},
        "objects": [{"uid": Plain(), "name": Plain()}],
    }
    for name, devices in given.items():
        NexthinkDeleteDevicesOperator(task_id=f"delete_{name}", devices=devices)
        NexthinkDevicesGoneSensor(task_id=f"gone_{name}", devices=devices, query_id="#all_devices")
    for name in ("rows", "frame", "literal", "xcom", "list", "mapping"):

        @task.nexthink_delete_devices(task_id=f"decorated_{name}", exclude={"VIP-*", "SRV-*"})
        def delete(devices, *, more):
            return devices

        delete(given[name], more=given[name])
    delete.override(task_id="mapped").partial(more=ROWS).expand(devices=[ROWS, pd.DataFrame(ROWS)])
    mapped = NexthinkDeleteDevicesOperator.partial(task_id="partial", exclude={"VIP-*", "SRV-*"})
    mapped.expand(devices=[ROWS, pd.DataFrame(ROWS)])
    NexthinkNqlOperator(task_id="pull", query_id="#query", parameters={"a": Decimal(3), "b": 3.0, "c": xcom})
    SqlToNexthinkDeleteDevicesOperator(
        task_id="sql", sql="SELECT 1", sql_conn_id="warehouse", parameters={"b": Decimal(3), "a": xcom}
    )
"""


def serialized(folder: Path, seed: str) -> dict[str, object]:
    """Serialize the Dags of a folder, in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", SERIALIZE, str(folder)]
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("DAGS ")]
    return dict(json.loads(line.removeprefix("DAGS ")))


@pytest.mark.parametrize("dags", ["examples", "every field"])
def test_dag_serialized_in_two_processes_is_the_same(dags: str, tmp_path: Path, airflow_db: None) -> None:
    folder = DAGS
    if dags == "every field":
        (tmp_path / "every_field.py").write_text(EVERY_FIELD)
        folder = tmp_path
    first, second = (serialized(folder, seed) for seed in ("1", "2"))
    assert first
    assert first == second
    assert " at 0x" not in json.dumps(first)
