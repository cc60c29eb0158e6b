"""The clients that are measured. Each sends a list of devices and returns how many Nexthink scheduled."""

from __future__ import annotations

import json
import os
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pandas as pd

from tests.benchmarks.tenant import TOKEN_PATH

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.outcome import DeletionResult

DELETIONS = "/api/v1/data-management/device/deletions"
BATCH_SIZE = 100


def made_devices(count: int) -> pd.DataFrame:
    """Return a list of devices as a warehouse gives it: two columns that matter among others."""
    numbers, chance = range(count), Random(1)  # uids by chance: in a row they would compress too well
    return pd.DataFrame(
        {
            "device.uid": [str(UUID(int=chance.getrandbits(128), version=4)) for _ in numbers],
            "device.name": [f"LAPTOP-{number:07d}" for number in numbers],
            "device.days_since_last_seen": [90 + number % 300 for number in numbers],
        }
    )


def ours(devices: pd.DataFrame, url: str, concurrency: int) -> DeletionResult:
    """Delete with the hook, as a task does it: from the DataFrame to the outcome table."""
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

    extra = {"region": "eu", "base_url": url, "login_url": f"{url}{TOKEN_PATH}"}
    connection = {
        "conn_type": "nexthink",
        "host": "acme",
        "login": "made-up-id",
        "password": "made-up-secret",
        "extra": extra,
    }
    os.environ["AIRFLOW_CONN_NEXTHINK_DEFAULT"] = json.dumps(connection)
    with NexthinkHook() as hook:
        result = hook.delete_devices(devices, max_devices=None, max_concurrency=concurrency)
    result.raise_for_status()
    assert len(result.table) == len(devices)
    return result


def peer(devices: pd.DataFrame, url: str, concurrency: int) -> list[Any]:
    """Delete with nexthink-api, which has no concurrency, and takes one batch at a time."""
    from nexthink_api import NexthinkClient, NxtDeviceEntry, NxtRegionName
    from nexthink_api.Models.nxt_settings import NxtSettings

    assert concurrency == 1
    NxtSettings.base_url = NxtSettings.login_base_url = url
    client = NexthinkClient("acme", NxtRegionName.eu, "made-up-id", "made-up-secret")
    told: list[Any] = []
    for batch in _batches(devices):
        entries = [NxtDeviceEntry(uid=uid, name=name) for uid, name in batch]
        told += client.data_management.delete_devices(entries).devices
    assert len(told) == len(devices)
    return told


def bare_loop(devices: pd.DataFrame, url: str, concurrency: int) -> list[Any]:
    """Post the same bodies with httpx, one after the other, and read the responses: no promise is kept here."""
    assert concurrency == 1
    told: list[Any] = []
    with httpx.Client(headers={"Authorization": "Bearer made-up-token"}, timeout=60) as client:
        for batch in _batches(devices):
            body = {"devices": [{"uid": uid, "name": name} for uid, name in batch]}
            told += client.post(f"{url}{DELETIONS}", json=body).json()["devices"]
    assert len(told) == len(devices)
    return told


def _batches(devices: pd.DataFrame) -> list[list[tuple[str, str]]]:
    pairs = list(zip(devices["device.uid"].tolist(), devices["device.name"].tolist(), strict=True))
    return [pairs[start : start + BATCH_SIZE] for start in range(0, len(pairs), BATCH_SIZE)]


CLIENTS = {"ours": ours, "peer": peer, "bare loop": bare_loop}
