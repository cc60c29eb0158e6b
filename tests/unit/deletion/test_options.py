"""Options take effect or are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.options import (
    CHECKS,
    DeletionOptions,
    DeletionOptionsDict,
    check_dry_run,
    check_fail_on,
)
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.status import Status


def test_the_defaults_are_safe() -> None:
    options = DeletionOptions.checked()
    assert options == DeletionOptions()
    assert (options.max_devices, options.dry_run, options.batch_size, options.max_concurrency) == (1000, False, 100, 4)


@pytest.mark.parametrize(
    ("option", "value", "meaning"),
    [
        ("dry_run", "True", True),
        ("dry_run", "false", False),
        ("dry_run", "0", False),
        ("max_devices", "500", 500),
        ("max_devices", None, None),
        ("max_devices", 0, 0),
        ("max_devices", np.int64(5), 5),
        ("batch_size", "1", 1),
        ("exclude", {"VIP-*"}, ("VIP-*",)),
        ("columns", ["uid", "name"], ("uid", "name")),
        ("uid_column", "None", None),
    ],
)
def test_text_from_a_template_is_read(option: str, value: Any, meaning: object) -> None:
    assert getattr(DeletionOptions.checked(**{option: value}), option) == meaning


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dry_run", "maybe"),
        ("dry_run", ""),
        ("dry_run", None),
        ("dry_run", 2),
        ("max_devices", "many"),
        ("max_devices", "None"),
        ("max_share", "None"),
        ("max_devices", ""),
        ("max_devices", -1),
        ("max_devices", 1.5),
        ("max_devices", True),
        ("max_share", 0.05),
        ("max_share", 0),
        ("max_share", 1.01),
        ("max_share", float("nan")),
        ("max_share", "much"),
        ("max_share", True),
        ("fleet_size", 5000),
        ("fleet_size", 0),
        ("fleet_size", "None"),
        ("batch_size", 0),
        ("batch_size", 101),
        ("batch_size", True),
        ("max_concurrency", 0),
        ("max_concurrency", 33),
        ("requests_per_second", 0),
        ("requests_per_second", -1),
        ("requests_per_second", float("inf")),
        ("requests_per_second", float("nan")),
        ("requests_per_second", "None"),
        ("requests_per_second", True),
        ("exclude", "VIP-*"),
        ("exclude", [""]),
        ("exclude", [5]),
        ("exclude", None),
        ("exclude", {"VIP-*": 1}),
        ("columns", "uid,name"),
        ("columns", [1, 2]),
        ("uid_column", ""),
        ("uid_column", 3),
    ],
)
def test_what_cannot_take_effect_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        DeletionOptions.checked(**{option: value})


@pytest.mark.parametrize(("value", "expected"), [(None, None), (2, 2.0), (0.5, 0.5), ("0.5", 0.5), (" 10 ", 10.0)])
def test_requests_per_second_as_a_number_or_as_text(value: Any, expected: float | None) -> None:
    assert DeletionOptions.checked(requests_per_second=value).requests_per_second == expected


def test_a_share_and_a_fleet_size_go_together() -> None:
    options = DeletionOptions.checked(max_share="0.05", fleet_size="5000")
    assert (options.max_share, options.fleet_size) == (0.05, 5000)
    with pytest.raises(NexthinkInputError, match="max_share needs fleet_size"):
        DeletionOptions.checked(max_share=0.05)
    with pytest.raises(NexthinkInputError, match="set max_share too"):
        DeletionOptions.checked(max_share=None, fleet_size=5000)


def test_fail_on_takes_statuses_only() -> None:
    assert check_fail_on(["FAILED", Status.INVALID]) == {Status.FAILED, Status.INVALID}
    assert check_fail_on(()) == frozenset()
    for wrong in ("FAILED", ["DELETED"], ["failed"], None, [1]):
        with pytest.raises(NexthinkInputError, match="fail_on"):
            check_fail_on(wrong)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.text())))
def test_dry_run_is_never_guessed(value: object) -> None:
    try:
        meaning = check_dry_run(value)
    except NexthinkInputError:
        return
    assert meaning == (str(value).strip().lower() in ("true", "1", "yes"))


def test_the_options_their_types_and_their_checks_have_the_same_names() -> None:
    names = [field.name for field in dataclasses.fields(DeletionOptions)]
    assert list(DeletionOptionsDict.__annotations__) == list(CHECKS) == names


def test_checked_with_an_unknown_option_raises_type_error() -> None:
    unknown: dict[str, Any] = {"max_device": 5}
    with pytest.raises(TypeError, match="max_device"):
        DeletionOptions.checked(**unknown)
