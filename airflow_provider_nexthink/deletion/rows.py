"""Device rows: whatever a Dag has becomes two lists of the same length, the uids and the names.

Nothing is judged here: cells stay as they came. What can be sent is decided in the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from airflow_provider_nexthink.exceptions import NexthinkInputError

HINT = (
    "Pass a pandas DataFrame, a list of mappings such as [{'uid': ..., 'name': ...}], a list of tuples together "
    "with columns=[...], JSON text of one of these, or the XCom (task.output) of a task that returns one."
)

# Compared without case and separators: `device.uid`, `Device UID` and `DEVICE_UID` are one name.
_UID_NAMES = frozenset({"uid", "deviceuid", "collectoruid", "devicecollectoruid"})
_NAME_NAMES = frozenset({"name", "devicename"})


@dataclass(frozen=True)
class DeviceRows:
    """The devices of a list, cell by cell as they came.

    :param uids: one cell for each row.
    :param names: one cell for each row.
    :param uid_column: where the uids were found; None for a list without rows.
    :param name_column: where the names were found; None for a list without rows.
    """

    uids: list[Any]
    names: list[Any]
    uid_column: str | None = None
    name_column: str | None = None

    def __len__(self) -> int:
        return len(self.uids)


def read_devices(
    devices: object,
    *,
    columns: Sequence[str] | None = None,
    uid_column: str | None = None,
    name_column: str | None = None,
) -> DeviceRows:
    """Read the devices of a list, one row for each of its rows, in its order.

    :param devices: a pandas DataFrame, a list of mappings, a list of tuples or lists with ``columns``, one mapping
        (one device), a mapping of columns to lists, or JSON text of one of these.
    :param columns: the names of the columns, for rows that are tuples or lists.
    :param uid_column: which column holds the uid; None to find it by its name.
    :param name_column: which column holds the name; None to find it by its name.
    :raises NexthinkInputError: if this is no such list, or the columns are not there or not clear.
    """
    if isinstance(devices, str):
        devices = _parse_json(devices)
    if _is_dataframe(devices):
        if columns is not None:
            raise NexthinkInputError("columns is for rows that are tuples: a DataFrame names its own columns.")
        return _pick(list(devices.columns), len(devices), _frame_cells(devices), uid_column, name_column)
    if isinstance(devices, Mapping):
        devices = _rows_of_mapping(devices)
    if isinstance(devices, bytes) or not isinstance(devices, Iterable):
        raise NexthinkInputError(f"devices is {_kind(devices)}. {HINT}")
    rows = list(devices)
    if not rows:
        return DeviceRows([], [])
    if columns is None:
        labels = _mapping_columns(rows)
        return _pick(labels, len(rows), _mapping_cells(rows, labels), uid_column, name_column)
    _check_tuples(rows, columns)
    return _pick(list(columns), len(rows), _tuple_cells(rows), uid_column, name_column)


def _parse_json(text: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        hint = " It looks like Python, not JSON: pass the task's .output instead of a template." * (
            "'" in text[:200] and text.lstrip().startswith(("[", "{"))
        )
        raise NexthinkInputError(f"devices is text that is not JSON ({text[:60]!r}...).{hint} {HINT}") from None
    if isinstance(value, str):
        raise NexthinkInputError(f"devices is JSON text of a text. {HINT}")
    return value


def _rows_of_mapping(mapping: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """Read one device, or a mapping of columns to lists of cells, as the operators return it."""
    lists = [isinstance(cells, list | tuple) for cells in mapping.values()]
    if not any(lists):
        return [dict(mapping)]
    lengths = {len(cells) if is_list else -1 for cells, is_list in zip(mapping.values(), lists, strict=True)}
    if len(lengths) > 1:
        raise NexthinkInputError(f"devices is a mapping of columns that are not all lists of one length. {HINT}")
    return [dict(zip(mapping, cells, strict=True)) for cells in zip(*mapping.values(), strict=True)]


def _is_dataframe(devices: object) -> TypeGuard[Any]:
    """Tell a pandas DataFrame without importing pandas."""
    return any(
        kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas" for kind in type(devices).__mro__
    )


def _frame_cells(frame: Any) -> Callable[[int], list[Any]]:
    return lambda position: frame.iloc[:, position].tolist()


def _mapping_columns(rows: list[Any]) -> list[Any]:
    """Return every key that occurs, in the order of its first row."""
    labels: dict[Any, None] = {}
    seen: Any = None
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            hint = " For rows that are tuples, say columns=['uid', 'name']." * isinstance(row, tuple | list)
            raise NexthinkInputError(f"Row {number} of devices is {_kind(row)}, not a mapping.{hint} {HINT}")
        keys = row.keys()
        if keys != seen:  # rows mostly repeat the keys of the row before
            labels.update(dict.fromkeys(keys))
            seen = keys
    return list(labels)


def _mapping_cells(rows: list[Any], labels: list[Any]) -> Callable[[int], list[Any]]:
    def cells(position: int) -> list[Any]:
        label = labels[position]
        return [row.get(label) for row in rows]

    return cells


def _check_tuples(rows: list[Any], columns: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        if not isinstance(row, tuple | list):
            raise NexthinkInputError(
                f"Row {number} of devices is {_kind(row)}; columns is for rows that are tuples or lists. {HINT}"
            )
        if len(row) != len(columns):
            raise NexthinkInputError(
                f"Row {number} of devices has {len(row)} values for the {len(columns)} columns {', '.join(columns)}."
            )


def _tuple_cells(rows: list[Any]) -> Callable[[int], list[Any]]:
    return lambda position: [row[position] for row in rows]


def _pick(
    labels: list[Any],
    length: int,
    cells: Callable[[int], list[Any]],
    uid_column: str | None,
    name_column: str | None,
) -> DeviceRows:
    """Take the two columns that matter."""
    if not length:
        return DeviceRows([], [])
    uid = _find(labels, "uid", uid_column, _UID_NAMES)
    name = _find(labels, "name", name_column, _NAME_NAMES)
    if uid == name:
        raise NexthinkInputError(f"uid_column and name_column are both {labels[uid]!r}.")
    return DeviceRows(cells(uid), cells(name), str(labels[uid]), str(labels[name]))


def _find(labels: list[Any], what: str, asked: str | None, known: frozenset[str]) -> int:
    """Return the position of the one column that holds the uid, or the name."""
    if asked is None:
        found = [position for position, label in enumerate(labels) if _bare(label) in known]
    else:
        found = [position for position, label in enumerate(labels) if label == asked]
        found = found or [at for at, label in enumerate(labels) if _bare(asked) and _bare(label) == _bare(asked)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(repr(str(label)) for label in labels[:20]) or "none"
    if not found and asked is None:
        raise NexthinkInputError(
            f"devices has no column for the {what}. Its columns are {there}: name the right one with {what}_column."
        )
    if not found:
        raise NexthinkInputError(f"devices has no column {asked!r} ({what}_column). Its columns are {there}.")
    both = " and ".join(repr(str(labels[position])) for position in found)
    more = (
        " The uid of a device and the uid of its Collector are not the same: the docs say how to find out which one "
        "your tenant deletes by."
        if what == "uid"
        else ""
    )
    raise NexthinkInputError(f"devices has {both}: say with {what}_column which one holds the {what}.{more}")


def _bare(label: object) -> str:
    return re.sub(r"[\W_]+", "", label).casefold() if isinstance(label, str) else ""


def _kind(value: object) -> str:
    if value is None:
        return "None: the task before returned nothing"
    return f"a {type(value).__name__}"
