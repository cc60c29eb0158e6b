"""The policy on a connection is read strictly, and the stricter of the connection and the task holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.deletion.deletion import Deletion
from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.deletion.outcome import DeletionResult
from airflow_provider_nexthink.deletion.policy import EXTRAS, DeletionPolicy
from airflow_provider_nexthink.devices.reader import DeviceRows, read_devices
from airflow_provider_nexthink.exceptions import (
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkPolicyError,
    NexthinkSettingsError,
)
from airflow_provider_nexthink.origin import RunOrigin
from tests.support.fake_time import FakeTime
from tests.support.runs import Tenant, device_rows

EVERYTHING: dict[str, Any] = {
    "deletions": "dry_run_only",
    "max_devices": 500,
    "quota_devices": 2000,
    "quota_days": 7,
    "protected": "SRV-*\nVIP-*",
    "require_proof": True,
    "ledger_conn_id": "warehouse",
}


def delete(
    rows: DeviceRows, policy: DeletionPolicy, origin: RunOrigin | None = None, **options: Any
) -> tuple[DeletionResult, Tenant]:
    tenant = Tenant()
    deletion = Deletion(
        rows,
        DeletionOptions.checked(**options),
        tenant="t",
        instance="acme",
        clock=FakeTime().clock(),
        policy=policy,
        origin=origin,
    )
    deletion.check()
    return deletion.execute(tenant.send, lambda: None, lambda: None), tenant


def test_policy_resolve_without_extras_allows_everything() -> None:
    assert DeletionPolicy.resolve({}) == DeletionPolicy.resolve(dict.fromkeys(EXTRAS)) == DeletionPolicy()
    assert DeletionPolicy.resolve(dict.fromkeys(EXTRAS, " ")) == DeletionPolicy()
    assert DeletionPolicy.resolve({"region": "eu", "timeout": 30}) == DeletionPolicy()


def test_policy_resolve_text_and_json_values_mean_the_same() -> None:
    policy = DeletionPolicy.resolve(EVERYTHING)
    assert policy == DeletionPolicy.resolve({name: str(value) for name, value in EVERYTHING.items()})
    assert policy == DeletionPolicy(**{**EVERYTHING, "protected": ("SRV-*", "VIP-*")})


@pytest.mark.parametrize(
    "protected",
    [
        "SRV-*\nVIP-[AB]*",
        " SRV-* \r\n\n VIP-[AB]*\n",
        ["SRV-*", "VIP-[AB]*"],
        ("SRV-*", " VIP-[AB]*", ""),
        '["SRV-*", "VIP-[AB]*"]',
    ],
)
def test_policy_resolve_protected_is_read_line_by_line_or_as_a_list(protected: object) -> None:
    assert DeletionPolicy.resolve({"protected": protected}).protected == ("SRV-*", "VIP-[AB]*")


def test_policy_resolve_protected_glob_with_a_bracket_is_no_json() -> None:
    assert DeletionPolicy.resolve({"protected": "[SV]RV-*"}).protected == ("[SV]RV-*",)


@pytest.mark.parametrize(
    ("extra", "value", "takes"),
    [
        ("deletions", "no", "allowed, dry_run_only or off"),
        ("deletions", False, "allowed, dry_run_only or off"),
        ("deletions", ["off"], "allowed, dry_run_only or off"),
        ("max_devices", -1, "a whole number, 0 or more"),
        ("max_devices", "many", "a whole number, 0 or more"),
        ("max_devices", True, "a whole number, 0 or more"),
        ("max_devices", 1.5, "a whole number, 0 or more"),
        ("quota_devices", 0, "a whole number, 1 or more"),
        ("quota_days", 0, "a whole number, from 1 to 3650"),
        ("quota_days", "-7", "a whole number, from 1 to 3650"),
        ("quota_days", 10**9, "a whole number, from 1 to 3650"),
        ("protected", 7, "one a line"),
        ("protected", {"SRV-*": 1}, "one a line"),
        ("protected", ["SRV-*", None], "one a line"),
        ("protected", "[1, 2]", "one a line"),
        ("protected", "SRV-*, VIP-*", "one glob or uid a line"),
        ("protected", "SRV-*;VIP-*", "one glob or uid a line"),
        ("protected", '"VIP-*"', "quotation marks or backslashes"),
        ("protected", '["VIP-*"', "quotation marks or backslashes"),
        ("protected", r"VIP-*\nSRV-*", "quotation marks or backslashes"),
        ("protected", ["SRV-*", "'VIP-*\\"], "quotation marks or backslashes"),
        ("require_proof", "perhaps", "true or false"),
        ("require_proof", 2, "true or false"),
        ("ledger_conn_id", 7, "the id of a connection"),
    ],
)
def test_policy_resolve_extra_that_cannot_be_right_is_an_error_that_names_it(
    extra: str, value: object, takes: str
) -> None:
    with pytest.raises(NexthinkSettingsError, match=takes) as raised:
        DeletionPolicy.resolve({extra: value})
    assert f"The extra {extra} of the connection" in str(raised.value)


@pytest.mark.parametrize(
    ("extras", "lacks"),
    [
        ({"quota_devices": 5, "ledger_conn_id": "warehouse"}, "quota_days"),
        ({"quota_days": 5, "ledger_conn_id": "warehouse"}, "quota_devices"),
        ({"quota_devices": 5, "quota_days": 7}, "ledger_conn_id"),
        ({"require_proof": True}, "ledger_conn_id"),
    ],
)
def test_policy_resolve_extra_without_effect_is_an_error_that_names_what_it_needs(
    extras: dict[str, Any], lacks: str
) -> None:
    with pytest.raises(NexthinkPolicyError, match=lacks):
        DeletionPolicy.resolve(extras)


@given(st.dictionaries(st.sampled_from(EXTRAS), st.none() | st.integers() | st.text() | st.booleans() | st.floats()))
def test_policy_resolve_arbitrary_extras_are_a_policy_or_an_input_error(extras: dict[str, Any]) -> None:
    try:
        policy = DeletionPolicy.resolve(extras)
    except NexthinkInputError:
        return
    json.dumps(policy.as_dict(), allow_nan=False)
    assert DeletionPolicy.resolve(policy.as_dict()).describe() == policy.describe()


@pytest.mark.parametrize(
    ("of_connection", "of_task", "holds", "set_by"),
    [(5, 10, 5, "connection"), (10, 5, 5, "task"), (5, None, 5, "connection"), (None, 5, 5, "task"), (5, 5, 5, "conn")],
)
def test_deletion_the_smaller_max_devices_holds_and_the_error_says_whose_it_is(
    of_connection: int | None, of_task: int | None, holds: int, set_by: str
) -> None:
    policy = DeletionPolicy(max_devices=of_connection)
    assert delete(device_rows(holds), policy, max_devices=of_task)[0].counts["SCHEDULED"] == holds
    with pytest.raises(NexthinkGuardError, match=f"max_devices={holds} of the {set_by}"):
        delete(device_rows(holds + 1), policy, max_devices=of_task)


def test_deletion_without_any_limit_sends_everything() -> None:
    assert delete(device_rows(1500), DeletionPolicy(), max_devices=None)[0].counts["SCHEDULED"] == 1500


def test_deletion_protected_devices_are_excluded_and_stay_so_in_the_next_list() -> None:
    rows = device_rows(4)
    policy = DeletionPolicy(protected=("pc-1", rows.uids[2].upper()))
    result, tenant = delete(rows, policy, exclude=["PC-1", "PC-3"])
    assert [row["status"] for row in result.table] == ["SCHEDULED", "EXCLUDED", "EXCLUDED", "EXCLUDED"]
    assert [row["reason"] for row in result.table] == [
        None,
        "excluded by 'pc-1', which the connection protects",
        f"excluded by {rows.uids[2].upper()!r}, which the connection protects",
        "excluded by 'PC-3'",
    ]
    assert list(tenant.queued) == [rows.uids[0]]
    again, _ = delete(read_devices(result.table), DeletionPolicy())
    assert again.counts["EXCLUDED"] == 3


def test_deletion_with_dry_run_only_is_a_dry_run_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    result, tenant = delete(device_rows(3), DeletionPolicy(deletions="dry_run_only"))
    assert (tenant.sent, result.counts["PLANNED"], result.summary["dry_run"]) == ([], 3, True)
    assert result.summary["limits"]["dry_run_set_by"] == "connection"
    assert "The connection allows dry runs only" in caplog.text
    assert delete(device_rows(1), DeletionPolicy(), dry_run=True)[0].summary["limits"]["dry_run_set_by"] == "task"


def test_deletion_summary_says_who_and_why_and_within_which_limits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    origin = RunOrigin(
        dag_id="dag", dag_run_id="run", task_id="task", map_index=3, try_number=2, triggered_by="alice@example.com"
    )
    policy = DeletionPolicy(max_devices=5, protected=tuple(f"SRV-{at}" for at in range(60)))
    result, _ = delete(
        device_rows(1), policy, origin, reason=" CHG-17 ", exclude=["VIP-*"], max_share=0.5, fleet_size=10
    )
    summary = json.loads(json.dumps(result.summary))
    assert {"triggered_by": "alice@example.com", "reason": "CHG-17", "dag_id": "dag", "dag_run_id": "run"}.items() <= (
        summary.items()
    )
    assert {
        "task_id": "task",
        "map_index": 3,
        "try_number": 2,
        "provider_version": __version__,
    }.items() <= summary.items()
    assert summary["limits"] == {
        "dry_run_set_by": None,
        "max_devices": 5,
        "max_devices_set_by": "connection",
        "max_share": 0.5,
        "fleet_size": 10,
        "fleet_query_id": None,
        "max_growth": None,
        "exclude": ["VIP-*"],
        "protect_list": False,
        "deletions": "allowed",
        "quota_devices": None,
        "quota_days": None,
        "protected": [*(f"SRV-{at}" for at in range(50)), "and 10 more"],
        "require_proof": False,
        "ledger_conn_id": None,
    }
    assert "Triggered by alice@example.com. Reason: 'CHG-17'. Policy of the connection: deletions allowed, " in (
        caplog.text
    )


def test_policy_check_allowed_refuses_where_deletions_are_off() -> None:
    DeletionPolicy().check_allowed()
    DeletionPolicy(deletions="dry_run_only").check_allowed()
    with pytest.raises(NexthinkPolicyError, match="Deletions are off: the extra deletions of the connection says so"):
        DeletionPolicy(deletions="off").check_allowed()


def test_policy_describe_names_every_part() -> None:
    assert DeletionPolicy().describe() == "deletions allowed"
    assert DeletionPolicy.resolve(EVERYTHING).describe() == (
        "deletions dry_run_only, at most 500 devices in a run, at most 2000 devices in 7 days over all runs, "
        "2 globs or uids protected, proof required, ledger in warehouse"
    )
