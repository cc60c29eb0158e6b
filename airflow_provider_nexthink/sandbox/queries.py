"""The saved NQL queries of the sandbox, and their results as rows and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from airflow_provider_nexthink.sandbox.fleet import Device

STALE_DAYS = 90

# NQL field name -> attribute of Device.
FIELDS = {
    "device.uid": "uid",
    "device.collector.uid": "collector_uid",
    "device.name": "name",
    "device.last_seen": "last_seen",
    "device.days_since_last_seen": "days_since_last_seen",
    "device.entity": "entity",
    "device.operating_system.name": "os_name",
    "device.operating_system.platform": "platform",
}
DEVICE_COLUMNS = tuple(column for column in FIELDS if column != "device.collector.uid")
COUNT_COLUMNS = ("devices_in_fleet",)
BOTH_UID_COLUMNS = ("device.uid", "device.collector.uid", "device.name", "device.days_since_last_seen")


@dataclass(frozen=True)
class SavedQuery:
    """A query saved in the tenant.

    :param text: Its NQL, with ``{min_days}`` in place of the age.
    :param columns: The NQL field names of its result, in order.
    :param min_days: Only devices not seen for this many days; 0 for every device.
    :param parameters: The names of the parameters it takes.
    """

    text: str
    columns: tuple[str, ...]
    min_days: int = 0
    parameters: frozenset[str] = frozenset()


QUERIES = {
    "#all_devices": SavedQuery("devices | list " + ", ".join(DEVICE_COLUMNS), DEVICE_COLUMNS),
    "#stale_devices": SavedQuery(
        "devices | where days_since_last_seen >= {min_days} | list " + ", ".join(DEVICE_COLUMNS),
        DEVICE_COLUMNS,
        min_days=STALE_DAYS,
        parameters=frozenset({"min_days_unseen"}),
    ),
    "#fleet_count": SavedQuery("devices | summarize devices_in_fleet = count()", COUNT_COLUMNS),
    "#devices_both_uids": SavedQuery("devices | list " + ", ".join(BOTH_UID_COLUMNS), BOTH_UID_COLUMNS),
}


@dataclass(frozen=True)
class Result:
    """The result of a query.

    :param text: The query as executed, with its parameters.
    :param columns: The NQL field names, in order.
    :param cells: The values of each row, in the order of the columns; numbers are numbers.
    """

    text: str
    columns: tuple[str, ...]
    cells: list[tuple[str | int, ...]]

    def rows(self) -> list[dict[str, str | int]]:
        """:returns: One mapping of field name to value for each row."""
        return [dict(zip(self.columns, cells, strict=True)) for cells in self.cells]

    def csv(self) -> bytes:
        """:returns: The rows as CSV (RFC 4180, UTF-8 without BOM) under a header of field names."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows(self.cells)
        return text.getvalue().encode()


def run_query(query: SavedQuery, parameters: Mapping[str, str], devices: Iterable[Device]) -> Result:
    """Run a saved query.

    :param query: The query.
    :param parameters: Its parameters, by name; all are optional.
    :param devices: The devices to select from.
    :returns: The result.
    :raises ValueError: If the query has no such parameter, or the parameter is not the text of a
        number.
    """
    unknown = set(parameters) - query.parameters
    if unknown:
        raise ValueError(f"the query has no parameter {', '.join(sorted(unknown))}")
    min_days = query.min_days
    if "min_days_unseen" in parameters:
        value = parameters["min_days_unseen"]
        if not (value.isascii() and value.isdigit()):
            raise ValueError("min_days_unseen must be the text of a whole number")
        min_days = int(value)
    found = [device for device in devices if device.days_since_last_seen >= min_days]
    cells: list[tuple[str | int, ...]] = [(len(found),)]
    if query.columns != COUNT_COLUMNS:
        attributes = [FIELDS[column] for column in query.columns]
        cells = [tuple(getattr(device, attribute) for attribute in attributes) for device in found]
    return Result(query.text.format(min_days=min_days), query.columns, cells)
