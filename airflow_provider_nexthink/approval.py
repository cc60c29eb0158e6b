"""The plan of a deletion as Markdown, for the person who is asked to approve it in Airflow's UI."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from airflow_provider_nexthink.devices.ages import count_back, read_ages
from airflow_provider_nexthink.reports import outcome_path
from airflow_provider_nexthink.status import Status

_FIRST_NAMES = 20
_REASONS = 10
_BAR_CHARACTERS = 12  # a phone has room for them beside the figures
_STEPS = (30, 60, 90, 120, 180, 365)

Row = Mapping[str, Any]


def plan_as_markdown(
    table: Sequence[Row], summary: Mapping[str, Any], devices: Sequence[Row], *, min_days_unseen: int
) -> str:
    """Return a plan as Markdown: for the ``body`` of an ``ApprovalOperator``.

    It says how many devices of which tenant would be deleted, their share of the fleet if the plan has counted it
    (``fleet_query_id``), their ages, the first names, and why others on the list are not sent; and it links to the
    outcome of each device. Names are shown as text, whatever they contain.

    :param table: the outcome table of the dry run, as records: its XCom ``return_value``.
    :param summary: its XCom ``summary``.
    :param devices: the list that was planned, with the age of each device, as ``filters.not_seen_for`` reads it.
    :param min_days_unseen: the age in days from which devices were selected.
    :raises NexthinkInputError: if the list has no column with an age, or a time without a time zone.
    :raises ValueError: if the list is not that of the table.
    """
    ages = count_back(read_ages(devices, None), datetime.fromisoformat(summary["started_at"]))
    planned = [(age, row["name"]) for age, row in zip(ages, table, strict=True) if row["status"] == Status.PLANNED]
    planned.sort(key=lambda each: (each[0] is None, -(each[0] or timedelta())))  # unknown ages last
    kept = [row for row in table if row["status"] != Status.PLANNED]
    path = outcome_path(
        dag_id=summary["dag_id"],
        run_id=summary["dag_run_id"],
        task_id=summary["task_id"],
        map_index=-1 if summary["map_index"] is None else summary["map_index"],
    )
    parts = [
        _headline(len(planned), summary),
        _histogram([age for age, _ in planned], min_days_unseen),
        _reasons(kept),
        f"**[All devices of this plan]({path})**",
        f"The oldest, at most {_FIRST_NAMES}, with the days not seen:",
        _verbatim([f"{_days(age):>5}  {name}" for age, name in planned[:_FIRST_NAMES]]),
    ]
    return "\n\n".join(filter(None, parts))


def _headline(planned: int, summary: Mapping[str, Any]) -> str:
    fleet = (summary["limits"] or {}).get("fleet_size")
    share = f", {_percent(planned / fleet)} of the {fleet:,} devices in the fleet" if fleet else ""
    tenant = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", _visible(summary["instance"]))
    return f"**{_devices(planned)} would be deleted from {tenant}**{share}. There is no undo."


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _histogram(ages: Sequence[timedelta | None], min_days: int) -> str:
    """Return a table with a bar for each range of ages, from the youngest selected on; unknown ages have their own."""
    starts = [min_days, *(step for step in _STEPS if step > min_days)]
    labels = [f"{start} to {end - 1}" for start, end in pairwise(starts)]
    counts = dict.fromkeys([f"less than {min_days}", *labels, f"{starts[-1]} or more", "unknown"], 0)
    ranges = list(counts)
    for age in ages:
        counts[ranges[-1 if age is None else bisect_right(starts, age.days)]] += 1
    most = max(counts.values())
    rows = [
        f"| {label} | {count:,} | {'█' * round(_BAR_CHARACTERS * count / most)} |"
        for label, count in counts.items()
        if count or label not in (ranges[0], ranges[-1])
    ]
    return "\n".join(["| Days not seen | Devices | |", "|:--|--:|:--|", *rows])


def _reasons(kept: Sequence[Row]) -> str:
    if not kept:
        return ""
    counts = Counter((row["status"], row["reason"]) for row in kept).most_common()
    lines = [f"{count:>5,}  {status}{f': {reason}' if reason else ''}" for (status, reason), count in counts[:_REASONS]]
    if others := sum(count for _, count in counts[_REASONS:]):
        lines.append(f"{others:>5,}  for other reasons")
    return f"{_devices(len(kept))} on the list would not be sent:\n\n{_verbatim(lines)}"


def _days(age: timedelta | None) -> str:
    return "?" if age is None else str(age.days)


def _devices(count: int) -> str:
    return f"{count:,} device{'s' if count != 1 else ''}"


def _verbatim(lines: Sequence[str]) -> str:
    """Return a block of code, in which nothing is Markdown. One without a language loses its line breaks in Airflow."""
    text = "\n".join(map(_visible, lines))
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}text\n{text}\n{fence}"


def _visible(text: str) -> str:
    """Return a text in which what cannot be seen, such as a line break, is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
