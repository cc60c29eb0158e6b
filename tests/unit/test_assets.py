"""The assets of a tenant, as a Dag writes them: Airflow finds the provider's functions by its description."""

from __future__ import annotations

import pytest
from airflow.sdk import Asset

from airflow_provider_nexthink.assets.nexthink import convert_asset_to_openlineage, create_asset


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("nexthink://acme/devices", "nexthink://acme/devices"),
        ("NEXTHINK://Acme/devices/", "nexthink://acme/devices"),
        ("nexthink://acme/devices#fragment", "nexthink://acme/devices"),
        ("nexthink://acme/nql/stale_devices", "nexthink://acme/nql/stale_devices"),
        ("nexthink://127.0.0.1/devices", "nexthink://127.0.0.1/devices"),
    ],
)
def test_an_address_has_one_form(written: str, meant: str) -> None:
    asset = Asset(written)
    assert asset.uri == asset.normalized_uri == meant


@pytest.mark.parametrize(
    "written",
    [
        "nexthink://acme",
        "nexthink://acme/device",
        "nexthink://acme/devices/1",
        "nexthink://acme/devices?region=eu",
        "nexthink://acme/nql/#stale_devices",
        "nexthink:///devices",
        "nexthink://acme:443/devices",
        "nexthink://acme.eu.nexthink.cloud/devices",
        "nexthink://someone@acme/devices",
    ],
)
def test_what_is_no_asset_of_a_tenant_is_an_error_of_the_dag_file(written: str) -> None:
    with pytest.raises(ValueError, match="nexthink://"):
        Asset(written)


def test_it_can_be_made_of_names() -> None:
    assert create_asset(instance="acme").uri == "nexthink://acme/devices"
    assert create_asset(instance="acme", query_id="#stale_devices").uri == "nexthink://acme/nql/stale_devices"
    assert create_asset(instance="acme", extra={"region": "eu"}).extra == {"region": "eu"}


def test_the_tenant_is_the_namespace_of_its_datasets() -> None:
    dataset = convert_asset_to_openlineage(create_asset(instance="acme", query_id="#stale_devices"), None)
    assert (dataset.namespace, dataset.name) == ("nexthink://acme", "nql/stale_devices")
