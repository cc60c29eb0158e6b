"""The options stand in the signature of an operator, in a TypedDict and in the docs: all of them say the same."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseOperator

from airflow_provider_nexthink.deletion.options import DeletionOptions
from airflow_provider_nexthink.operators._options import DeleteDevicesOptions, TaskOptions
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator

DOCS = Path(__file__).parents[2] / "docs"


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: each for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY}


def test_options_of_operator_decorator_and_client_have_the_same_names_types_and_defaults() -> None:
    operator = parameters_of(NexthinkDeleteDevicesOperator.__init__)
    del operator["devices"]
    types = {name: each.__forward_arg__ for name, each in DeleteDevicesOptions.__annotations__.items()}
    assert {name: each.annotation for name, each in operator.items()} == {
        name: each for name, each in types.items() if name not in TaskOptions.__annotations__
    }
    defaults = {field.name: field.default for field in dataclasses.fields(DeletionOptions)}
    assert {name: operator[name].default for name in defaults} == defaults


def test_options_of_any_task_are_those_of_airflow() -> None:
    assert set(TaskOptions.__annotations__) <= set(parameters_of(BaseOperator.__init__)) | {"task_id"}


@pytest.mark.parametrize(
    ("page", "operator"),
    [("delete-devices", NexthinkDeleteDevicesOperator), ("pull-devices", NexthinkNqlOperator)],
)
def test_options_of_an_operator_are_the_ones_that_its_page_lists(page: str, operator: Any) -> None:
    text = (DOCS / f"{page}.md").read_text()
    table = text.partition("## Options\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` .* (yes|no|if text or XCom) \|$", table, re.MULTILINE)
    assert {name for name, _ in listed} == set(parameters_of(operator.__init__))
    shown_only = {"policy", "exclude"}
    assert {name for name, templated in listed if templated != "no"} == set(operator.template_fields) - shown_only
