"""The public names, as ``tests/public_names.txt`` lists them: ``make public-names`` writes that file.

Public is what the page *Reference* shows, and what a Dag, a dashboard or a query meets by name: XComs, statuses,
columns, extras of the connection, tables of the ledger. A test compares the file with the code, so that none changes
unnoticed.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_nexthink import exceptions
from airflow_provider_nexthink.get_provider_info import get_provider_info
from airflow_provider_nexthink.ledger.schema import metadata
from airflow_provider_nexthink.status import COLUMNS

ROOT = Path(__file__).parents[2]
NAMES = ROOT / "tests" / "public_names.txt"
REFERENCE = ROOT / "docs" / "reference.md"

_PLAIN = (str, int, float, tuple, type(None))

XCOMS: Mapping[str, Mapping[str, str]] = {
    "NexthinkDeleteDevicesOperator": {
        "return_value": "",
        "unscheduled": "",
        "earlier_tries": "",
        "summary": (
            "requested SCHEDULED INVALID FAILED REJECTED DUPLICATE EXCLUDED PLANNED UNKNOWN NOT_SENT batches requests "
            "retries duration_seconds dry_run uid_column name_column instance started_at finished_at triggered_by "
            "reason dag_id dag_run_id task_id map_index try_number provider_version limits earlier_tries error"
        ),
    },
    "NexthinkNqlOperator": {"return_value": ""},
    "NexthinkQuarantineOperator": {
        "return_value": "",
        "waiting": "",
        "summary": (
            "counted deleted devices due due_by_day grace_days instance invalid list_name marked min_sightings "
            "next_due_at released run_at unmarked waiting"
        ),
    },
    "NexthinkReconcileOperator": {
        "return_value": "",
        "still_present": "",
        "returned": "",
        "set_up_anew": "",
        "summary": (
            "by_week devices gone instance known_latest_run_at known_runs latest_run_at looked_at looks_too_young net "
            "not_compared query_id quota requested returned runs seats_returned seats_won set_up_anew still_present"
        ),
    },
    "NexthinkDevicesGoneSensor": {"return_value": ""},
}
"""The keys of the XComs of each operator, and those of the summaries; a test compares them with a run."""


def main() -> None:
    """Write the file."""
    NAMES.write_text("\n".join(public_names()) + "\n")


def public_names() -> list[str]:
    """Return every public name, one a line."""
    lines = ["# Written by `make public-names`. docs/stability.md says what a change of these means."]
    for path, members in referenced(REFERENCE.read_text()):
        if not path.startswith(exceptions.__name__):
            lines += ["", *_described(path, members)]
    lines += ["", exceptions.__name__]
    for name, error in inspect.getmembers(exceptions, inspect.isclass):
        if error.__module__ == exceptions.__name__:
            lines += [f"  {line}" for line in _exception(name, error)]
    for operator, keys in XCOMS.items():
        lines += ["", f"XComs of {operator}"]
        for key, fields in keys.items():
            lines += [f"  {key}", *(f"    {field}" for field in sorted(fields.split()))]
    info: dict[str, Any] = get_provider_info()
    (connection,) = info["connection-types"]
    lines += ["", "Columns of the outcome table", *(f"  {column}" for column in COLUMNS)]
    lines += ["", f"Extras of the connection type {connection['connection-type']}"]
    lines += [f"  {extra}" for extra in sorted(connection["conn-fields"])]
    lines += ["", "Task decorators", *(f"  @task.{decorator['name']}" for decorator in info["task-decorators"])]
    for table in metadata.sorted_tables:
        lines += ["", f"Columns of the table {table.name}", *(f"  {column.name}" for column in table.columns)]
    return lines


def referenced(page: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield what the page *Reference* shows: a path, and the members that are shown of it; None where all are.

    :param page: the text of the page.
    """
    for path, block in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page, re.MULTILINE):
        members = ((yaml.safe_load(block) or {}).get("options") or {}).get("members")
        yield path, [] if members is False else members


def _described(path: str, members: list[str] | None) -> list[str]:
    parent, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(parent), name)
    except AttributeError:
        found = import_module(path)
    if inspect.ismodule(found):
        return [line for member in members or [] for line in _named(f"{path}.{member}", getattr(found, member), None)]
    return _named(path, found, members)


def _named(path: str, found: Any, members: list[str] | None) -> list[str]:
    if not inspect.isclass(found):
        return [path, *_parameters(found)]
    if issubclass(found, enum.Enum):
        return [path, *(f"  {member.name}" for member in found)]
    lines = [path, *_parameters(found)]
    fields = inspect.signature(found).parameters
    own = [name for name in _own_names(found) if not name.startswith("_") and name not in fields]
    shown = members if members is not None else own
    for name in shown:
        member = inspect.getattr_static(found, name, None)
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        lines.append(f"  .{name}")
        if inspect.isfunction(member):
            lines += [f"  {line}" for line in _parameters(member)]
    return lines


def _exception(name: str, error: type) -> list[str]:
    bases = ", ".join(base.__name__ for base in error.__bases__)
    return [f"{name} ({bases})", *(_parameters(error) if "__init__" in vars(error) else [])]


def _own_names(found: type) -> list[str]:
    return sorted({*vars(found), *inspect.get_annotations(found)})


def _parameters(found: Any) -> list[str]:
    parameters = inspect.signature(found).parameters.values()
    return [f"  {_shown(parameter)}" for parameter in parameters if parameter.name not in ("self", "cls")]


def _shown(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return str(parameter.replace(annotation=parameter.empty))
    default = parameter.default
    if isinstance(default, tuple):
        default = tuple(map(str, default))
    return f"{parameter.name}={default!r}" if isinstance(default, _PLAIN) else f"{parameter.name}=..."


if __name__ == "__main__":
    main()
