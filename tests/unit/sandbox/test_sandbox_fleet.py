import csv
import io
import uuid
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_nexthink.sandbox.fleet import ODD_NAMES, Device, generate_fleet
from airflow_provider_nexthink.sandbox.queries import QUERIES, run_query


def is_stale(device: Device) -> bool:
    return device.days_since_last_seen >= 90


def test_generate_fleet_with_the_same_arguments_is_reproducible() -> None:
    assert generate_fleet(300, 100, seed=7) == generate_fleet(300, 100, seed=7)
    assert generate_fleet(300, 100, seed=7) != generate_fleet(300, 100, seed=8)


@pytest.mark.parametrize(
    ("devices", "stale"), [(0, 0), (1, 0), (1, 1), (2, 1), (3, 3), (10, 0), (10, 4), (50, 50), (5000, 400)]
)
def test_generate_fleet_has_the_requested_counts(devices: int, stale: int) -> None:
    fleet = generate_fleet(devices, stale, seed=1)

    assert len(fleet) == devices
    assert sum(90 <= device.days_since_last_seen <= 400 for device in fleet) == stale
    assert sum(0 <= device.days_since_last_seen <= 29 for device in fleet) == devices - stale


@pytest.mark.parametrize(("devices", "stale"), [(1, 2), (0, 1), (5, -1), (-1, -1)])
def test_generate_fleet_with_impossible_counts_is_an_error(devices: int, stale: int) -> None:
    with pytest.raises(ValueError, match="devices >= stale >= 0"):
        generate_fleet(devices, stale, seed=1)


def test_generate_fleet_uids_are_canonical_and_unique() -> None:
    fleet = generate_fleet(2000, 500, seed=1)

    uids = [device.uid for device in fleet] + [device.collector_uid for device in fleet]
    assert len(set(uids)) == 4000
    assert all(str(uuid.UUID(uid)) == uid for uid in uids)


def test_generate_fleet_last_seen_matches_the_days() -> None:
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)

    for device in generate_fleet(200, 100, seed=1, now=now):
        assert (now - datetime.fromisoformat(device.last_seen)) // timedelta(days=1) == device.days_since_last_seen


def test_generate_fleet_has_the_odd_names_of_real_fleets() -> None:
    fleet = generate_fleet(5000, 400, seed=1)
    stale_names = {device.name for device in fleet if is_stale(device)}
    fresh_names = {device.name for device in fleet if not is_stale(device)}

    assert stale_names >= set(ODD_NAMES)
    assert fresh_names >= set(ODD_NAMES)
    assert {"NA", "None", "null", "NaN", "00123", "1E10", "True", "{{ 7*7 }}", "Büro-PC-ä"} <= set(ODD_NAMES)
    for character in ',";':
        assert any(character in name for name in ODD_NAMES)
    assert any(name != name.lstrip() for name in ODD_NAMES)
    assert any(name != name.rstrip() for name in ODD_NAMES)
    assert all(device.name.strip() for device in fleet)


def test_generate_fleet_has_devices_with_the_same_name() -> None:
    twins = defaultdict(list)
    for device in generate_fleet(5000, 400, seed=1):
        twins[device.name].append(is_stale(device))

    pairs = [tuple(sorted(stale)) for stale in twins.values() if len(stale) > 1]
    assert pairs.count((True, True)) >= 2
    assert pairs.count((False, True)) >= 2
    # Most names are unique, as they should be.
    assert len(pairs) < 50


def test_generate_fleet_stale_devices_include_some_to_exclude() -> None:
    names = [device.name for device in generate_fleet(100, 60, seed=1) if is_stale(device)]

    assert any(name.startswith("VIP-") for name in names)
    assert any(name.startswith("SRV-") for name in names)


def test_result_csv_preserves_every_name() -> None:
    fleet = generate_fleet(200, 100, seed=1)

    content = run_query(QUERIES["#all_devices"], {}, fleet).csv()

    assert content.endswith(b"\r\n")
    assert b'"Sales, Desk 4"' in content
    assert b'"The ""big"" screen"' in content
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
    assert [row["device.name"] for row in rows] == [device.name for device in fleet]
    assert [row["device.last_seen"] for row in rows] == [device.last_seen for device in fleet]
