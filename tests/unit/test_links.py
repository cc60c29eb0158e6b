"""The links on a task."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_nexthink.links.nexthink import NexthinkOutcomeLink, NexthinkTenantLink
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.plugins.deletions import URL_ROUTE

SECRET = "a-made-up-secret"
OPERATOR = NexthinkDeleteDevicesOperator(task_id="delete", devices=[])


def key(**parts: Any) -> Any:
    return SimpleNamespace(**{"dag_id": "a dag&b=c", "run_id": "manual__1+00:00", "task_id": "g.delete", **parts})


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"host": "acme", "extra": {"region": "eu"}}, "https://acme.eu.nexthink.cloud"),
        ({"host": "https://acme.api.us.nexthink.cloud/some/page"}, "https://acme.us.nexthink.cloud"),
        (
            {"extra": {"base_url": "https://acme.api.pac.nexthink.cloud", "login_url": "https://sso.example/token"}},
            "https://acme.pac.nexthink.cloud",
        ),
        ({"host": "acme", "extra": {"region": "eu", "base_url": "https://gateway.example/nexthink"}}, ""),
        ({"host": "sandbox", "extra": {"base_url": "http://127.0.0.1:1", "login_url": "http://127.0.0.1:1/t"}}, ""),
        ({"host": "acme"}, ""),
        ({"host": "acme", "extra": {"region": "mars"}}, ""),
        (None, ""),
    ],
)
def test_tenant_link_is_the_web_interface_or_empty(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any] | None, address: str
) -> None:
    if fields is not None:
        connection = {"conn_type": "nexthink", "login": "id", "password": SECRET, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", json.dumps(connection))
    link = NexthinkTenantLink().get_link(OPERATOR, ti_key=key())
    assert link == address
    assert SECRET not in link


@pytest.mark.parametrize(("given", "index"), [(-1, "-1"), (0, "0"), (7, "7"), (None, "-1")])
def test_outcome_link_identifies_the_task_instance(given: int | None, index: str) -> None:
    link = NexthinkOutcomeLink().get_link(OPERATOR, ti_key=key(map_index=given))
    address = urlsplit(link)
    assert (address.scheme, address.netloc, address.path) == ("", "", f"plugin/{URL_ROUTE}")
    assert parse_qs(address.query) == {
        "dag_id": ["a dag&b=c"],
        "run_id": ["manual__1+00:00"],
        "task_id": ["g.delete"],
        "map_index": [index],
    }
