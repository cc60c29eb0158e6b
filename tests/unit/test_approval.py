"""The text of a request for an approval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_nexthink.approval import plan_as_markdown

AGE = "device.days_since_last_seen"


def text_of(
    ages: Sequence[str | int],
    *,
    names: list[str] | None = None,
    kept: list[tuple[str, str | None]] | None = None,
    min_days: int = 90,
    **summary: Any,
) -> str:
    """Return the text for devices of these ages, and others that are kept for these reasons."""
    kept = kept or []
    names = names or [f"PC-{at}" for at in range(len(ages))]
    table = [{"name": name, "status": "PLANNED", "reason": None} for name in names]
    table += [{"name": "KEPT", "status": status, "reason": reason} for status, reason in kept]
    devices = [{AGE: age} for age in [*ages, *[500] * len(kept)]]
    known = {
        "instance": "acme",
        "limits": {"fleet_size": 2000},
        "started_at": "2026-11-28T09:00:00+00:00",
        "dag_id": "a_dag",
        "dag_run_id": "manual__2026-11-28T09:00:00+00:00",
        "task_id": "plan",
        "map_index": None,
    }
    return plan_as_markdown(table, known | summary, devices, min_days_unseen=min_days)


def histogram_of(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        (
            {"fleet_size": 2000},
            "**3 devices would be deleted from acme**, 0.1 % of the 2,000 devices in the fleet.",
        ),
        ({"fleet_size": 80_000}, "acme**, less than 0.1 % of the 80,000 devices in the fleet."),
        ({"fleet_size": 3}, "acme**, 100.0 % of the 3 devices in the fleet."),
        ({"fleet_size": None}, "acme**. There is no undo."),
        (None, "acme**. There is no undo."),
    ],
)
def test_plan_as_markdown_begins_with_tenant_number_and_share(limits: dict[str, int] | None, share: str) -> None:
    assert share in text_of([100, 200, 300], limits=limits).splitlines()[0]


def test_plan_as_markdown_histogram_counts_each_device_once_to_scale() -> None:
    ages = ["90", "119.9", "120", *["179"] * 8, "180", "364", "365", *["4000"] * 11]
    assert histogram_of(text_of(ages)) == [
        ["90 to 119", "2", "█" * 2],
        ["120 to 179", "9", "█" * 9],
        ["180 to 364", "2", "█" * 2],
        ["365 or more", "12", "█" * 12],
    ]


@pytest.mark.parametrize(
    ("min_days", "labels"),
    [
        (30, ["30 to 59", "60 to 89", "90 to 119", "120 to 179", "180 to 364", "365 or more"]),
        (100, ["100 to 119", "120 to 179", "180 to 364", "365 or more"]),
        (120, ["120 to 179", "180 to 364", "365 or more"]),
        (400, ["400 or more"]),
    ],
)
def test_plan_as_markdown_histogram_begins_at_the_age_of_the_selection(min_days: int, labels: list[str]) -> None:
    assert [label for label, *_ in histogram_of(text_of([400], min_days=min_days))] == labels


def test_plan_as_markdown_unknown_and_younger_ages_are_not_hidden() -> None:
    text = text_of(["", "89", "1000"])
    first, *_, last = histogram_of(text)
    assert (first[:2], last[:2]) == (["less than 90", "1"], ["unknown", "1"])
    assert text.splitlines()[-5:] == ["```text", " 1000  PC-2", "   89  PC-1", "    ?  PC-0", "```"]


def test_plan_as_markdown_times_count_back_from_the_plan() -> None:
    table = [{"name": "PC-1", "status": "PLANNED", "reason": None}]
    summary = {"started_at": "2026-11-28T09:00:00+00:00", "instance": "acme", "limits": None, "map_index": -1}
    summary |= dict.fromkeys(("dag_id", "dag_run_id", "task_id"), "x")
    devices = [{"last_seen": "2026-08-20T09:00:00+00:00"}]
    assert "  100  PC-1" in plan_as_markdown(table, summary, devices, min_days_unseen=90)


def test_plan_as_markdown_lists_the_first_names_oldest_first() -> None:
    text = text_of([*range(90, 140)])
    assert text.splitlines()[-21:-1] == [f"  {90 + at:>3}  PC-{at}" for at in range(49, 29, -1)]


def test_plan_as_markdown_says_why_others_are_kept() -> None:
    kept: list[tuple[str, str | None]] = [("EXCLUDED", "excluded by 'SRV-*'")] * 3 + [("INVALID", None)]
    kept += [("EXCLUDED", f"excluded by 'PC-{at}'") for at in range(12)]
    text = text_of([100], kept=kept)
    block = (
        "16 devices on the list would not be sent:\n\n```text\n    3  EXCLUDED: excluded by 'SRV-*'\n    1  INVALID\n"
    )
    assert block in text
    assert "    4  for other reasons\n```" in text
    assert "would not be sent" not in text_of([100])


@pytest.mark.parametrize(("given", "shown"), [(None, "-1"), (3, "3")])
def test_plan_as_markdown_links_to_the_outcome_of_the_plan(given: int | None, shown: str) -> None:
    text = text_of([100], dag_id="a)dag [x](y)", map_index=given)
    (address,) = [line.partition("](")[2].removesuffix(")**") for line in text.splitlines() if "](" in line]
    parts = urlsplit(address)
    assert (parts.scheme, parts.netloc, parts.path) == ("", "", "plugin/nexthink-deletions")
    assert not set("()[]<> ") & set(address)
    assert parse_qs(parts.query) == {
        "dag_id": ["a)dag [x](y)"],
        "run_id": ["manual__2026-11-28T09:00:00+00:00"],
        "task_id": ["plan"],
        "map_index": [shown],
    }


@pytest.mark.parametrize(
    ("name", "shown", "fence"),
    [
        ("PC", "PC", "```"),
        ("a`b", "a`b", "```"),
        ("```", "```", "````"),
        ("````x`", "````x`", "`````"),
        ("a\n```\n# b", "a\\n```\\n# b", "````"),
        ("{{ 7*7 }}", "{{ 7*7 }}", "```"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>", "```"),
        ("PC-1\u202egpj", "PC-1\\u202egpj", "```"),
        ("Büro-株式会社", "Büro-株式会社", "```"),
    ],
)
def test_plan_as_markdown_shows_hostile_text_as_text(name: str, shown: str, fence: str) -> None:
    text = text_of([100], names=[name], kept=[("EXCLUDED", name)])
    assert f"\n{fence}text\n    1  EXCLUDED: {shown}\n{fence}\n" in text
    assert text.endswith(f"\n{fence}text\n  100  {shown}\n{fence}")


def test_plan_as_markdown_shows_a_hostile_tenant_as_text() -> None:
    text = text_of([100], instance="**[a](b)**\n# <img>`")
    assert "from \\*\\*\\[a\\]\\(b\\)\\*\\*\\\\n\\# \\<img\\>\\`**," in text.splitlines()[0]


def test_plan_as_markdown_another_list_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        plan_as_markdown(
            [{"name": "PC-1", "status": "PLANNED"}], {"started_at": "2026-11-28T09:00:00+00:00"}, [], min_days_unseen=90
        )
