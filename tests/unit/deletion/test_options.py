"""Options take effect or are refused."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction
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


def test_options_defaults_are_safe() -> None:
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
        *(
            (option, number, 5)
            for option in ("max_devices", "batch_size", "max_concurrency")
            for number in (
                5.0,
                "5.0",
                Decimal(5),
                Decimal("5.00"),
                Decimal("5E+0"),
                Fraction(5),
                np.int8(5),
                np.uint64(5),
                np.float32(5),
                np.float64(5),
                np.longdouble(5),
                np.array(5),
                np.str_("5"),
            )
        ),
        ("max_devices", Decimal(0), 0),
        ("max_devices", 1e6, 1_000_000),
        ("dry_run", np.True_, True),
        ("dry_run", np.False_, False),
        *(("requests_per_second", number, 0.5) for number in (Decimal("0.5"), Fraction(1, 2), np.float32(0.5), "0.5")),
        ("requests_per_second", np.int64(2), 2.0),
        ("requests_per_second", Decimal(2), 2.0),
    ],
)
def test_options_text_and_numbers_of_every_kind_are_read(option: str, value: Any, meaning: object) -> None:
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
        *(
            (option, number)
            for option in ("max_devices", "batch_size", "max_concurrency", "fleet_size")
            for number in (
                1.5,
                "1.5",
                "1.05",
                float("nan"),
                float("inf"),
                Decimal("1.5"),
                Decimal("NaN"),
                Decimal("sNaN"),
                Decimal("-Infinity"),
                Fraction(3, 2),
                np.float32(1.5),
                np.float64("nan"),
                np.True_,
                np.array([5]),
                5 + 0j,
                np.datetime64(5, "s"),
            )
        ),
        *(
            (option, number)
            for option in ("max_share", "requests_per_second")
            for number in (Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), np.float32("nan"), np.True_, 1j, b"1")
        ),
        ("max_devices", Decimal(-1)),
        ("dry_run", np.int64(2)),
        ("dry_run", 1.0),
        ("dry_run", Decimal(1)),
        ("dry_run", np.array([True])),
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
        ("reason", "x" * 1001),
        ("reason", "a\0b"),
        ("reason", "\ud800"),
        ("reason", True),
        ("reason", ["CHG-1"]),
    ],
)
def test_options_value_that_cannot_take_effect_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(NexthinkInputError, match=option):
        DeletionOptions.checked(**{option: value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" CHG-17 ", "CHG-17"),
        ("", None),
        (" ", None),
        ("None", None),
        (None, None),
        (17, "17"),
        ("x" * 1000, "x" * 1000),
    ],
)
def test_options_reason_is_text_or_none(value: Any, expected: str | None) -> None:
    assert DeletionOptions.checked(reason=value).reason == expected


@pytest.mark.parametrize(("value", "expected"), [(None, None), (2, 2.0), (0.5, 0.5), ("0.5", 0.5), (" 10 ", 10.0)])
def test_options_requests_per_second_is_a_number_or_text(value: Any, expected: float | None) -> None:
    assert DeletionOptions.checked(requests_per_second=value).requests_per_second == expected


def test_options_max_share_and_fleet_size_need_each_other() -> None:
    options = DeletionOptions.checked(max_share="0.05", fleet_size="5000")
    assert (options.max_share, options.fleet_size) == (0.05, 5000)
    with pytest.raises(NexthinkInputError, match="max_share needs fleet_size"):
        DeletionOptions.checked(max_share=0.05)
    with pytest.raises(NexthinkInputError, match="set max_share too"):
        DeletionOptions.checked(max_share=None, fleet_size=5000)


def test_options_fleet_query_id_takes_the_place_of_fleet_size() -> None:
    options = DeletionOptions.checked(max_share=0.05, fleet_query_id="#fleet_count")
    assert (options.max_share, options.fleet_size, options.fleet_query_id) == (0.05, None, "#fleet_count")
    with pytest.raises(NexthinkInputError, match="fleet_size and fleet_query_id both say"):
        DeletionOptions.checked(max_share=0.05, fleet_size=5000, fleet_query_id="#fleet_count")
    for blank in ("", " ", 5, ["#fleet_count"]):
        with pytest.raises(NexthinkInputError, match="fleet_query_id is"):
            DeletionOptions.checked(max_share=0.05, fleet_query_id=blank)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [Decimal("0.05"), np.float64(0.05), Fraction(1, 20), "0.05"])
@pytest.mark.parametrize("fleet", [5000.0, Decimal(5000), np.int32(5000), "5000.0"])
def test_options_max_share_and_fleet_size_take_every_kind_of_number(share: Any, fleet: Any) -> None:
    options = DeletionOptions.checked(max_share=share, fleet_size=fleet)
    assert (options.max_share, options.fleet_size) == (0.05, 5000)
    assert (type(options.max_share), type(options.fleet_size)) == (float, int)


@given(st.one_of(st.integers(-10, 200), st.floats(), st.decimals(), st.fractions(), st.booleans()))
def test_options_batch_size_is_a_whole_number_in_its_range_or_refused(value: Any) -> None:
    try:
        read = DeletionOptions.checked(batch_size=value).batch_size
    except NexthinkInputError as error:
        assert "batch_size" in str(error)
    else:
        assert type(read) is int
        assert read == value
        assert 1 <= read <= 100


def test_check_fail_on_anything_but_statuses_is_refused() -> None:
    assert check_fail_on(["FAILED", Status.INVALID]) == {Status.FAILED, Status.INVALID}
    assert check_fail_on(()) == frozenset()
    for wrong in ("FAILED", ["DELETED"], ["failed"], None, [1]):
        with pytest.raises(NexthinkInputError, match="fail_on"):
            check_fail_on(wrong)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.text())))
def test_check_dry_run_ambiguous_value_is_refused(value: object) -> None:
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


def test_options_columns_without_an_order_are_an_error() -> None:
    with pytest.raises(NexthinkInputError, match="a set has no order"):
        DeletionOptions.checked(columns={"uid", "name"})  # type: ignore[arg-type]
