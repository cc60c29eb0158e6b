"""Reports: what they say of each kind of run, and that text from elsewhere stays text in each style."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Literal, get_args, get_type_hints
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown import markdown

from airflow_provider_nexthink.deletion.outcome import DeletionResult, Outcomes, RunCounters
from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError, NexthinkPolicyError
from airflow_provider_nexthink.origin import RunOrigin
from airflow_provider_nexthink.plugins.deletions import URL_ROUTE
from airflow_provider_nexthink.reports import headline, render
from airflow_provider_nexthink.status import ACTION_REQUIRED, Status

Style = Literal["markdown", "html", "slack"]
STYLES: tuple[Style, ...] = get_args(Style)
AIRFLOW = "https://airflow.example.com"
OUR_TAGS = {"h3", "h4", "ul", "li", "p", "a"}


def summary_of(error: BaseException | None = None, *, is_dry: bool = False, sent: bool = True, **counts: int) -> Any:
    """Return the summary of a deletion, made as the operator makes it."""
    statuses = [Status(status) for status, count in counts.items() for _ in range(count)]
    size = len(statuses)
    outcomes = Outcomes.empty()
    outcomes.status = statuses
    outcomes.uid = [None] * size
    at = datetime(2026, 11, 22, 15, tzinfo=UTC)
    result = DeletionResult(
        outcomes,
        error=error,
        counters=RunCounters(requests=int(sent)),
        dry_run=is_dry,
        uid_column="uid",
        name_column="name",
        instance="acme",
        started_at=at,
        finished_at=at,
        origin=RunOrigin(
            dag_id="clean_up",
            dag_run_id="manual__2026-11-22T15:00:00+00:00",
            task_id="delete_devices",
            try_number=2,
            triggered_by="Anna",
        ),
        reason="CHG-17",
    )
    return result.summary


class Page(HTMLParser):
    """The tags, the links and the lines of text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.lines: list[str] = [""]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h3", "h4", "li", "p"):
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        self.lines[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(f"a declaration: {decl}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")

    @property
    def text(self) -> list[str]:
        return [" ".join(line.split()) for line in self.lines if line.strip()]


def read_html(text: str) -> list[str]:
    page = Page(text)
    assert page.tags <= OUR_TAGS
    assert all(name == "href" and str(value).startswith(AIRFLOW) for name, value in page.attributes)
    return page.text


def read_markdown(text: str) -> list[str]:
    page = Page(markdown(text, extensions=["nl2br", "tables"]))
    assert page.tags <= {"p", "strong", "ul", "li", "a"}
    assert all(name == "href" and str(value).startswith(AIRFLOW) for name, value in page.attributes)
    return page.text


def read_slack(text: str) -> list[str]:
    """Read mrkdwn, as far as an escape can take away what a character means there: ``& < >``."""
    lines = []
    for line in filter(None, text.split("\n")):
        if link := re.fullmatch(r"<[^<>|]+\|([^<>|]+)>", line):
            plain = link[1]
        elif line.startswith("*"):
            plain = line.removeprefix("*").removesuffix("*")
        else:
            plain = line.removeprefix("• ")
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", plain), line
        lines.append(" ".join(html.unescape(plain).split()))
    return lines


READERS = {"html": read_html, "markdown": read_markdown, "slack": read_slack}


def lines_of(summary: Any, *, style: Style = "html", **options: Any) -> list[str]:
    return READERS[style](render(summary, style=style, **options))


# What it says


def test_headline_run_says_how_many_of_how_many_and_what_needs_attention() -> None:
    assert headline(summary_of(SCHEDULED=3)) == "Nexthink, acme: 3 of 3 devices scheduled for deletion"
    assert headline(summary_of(SCHEDULED=1200, EXCLUDED=1, UNKNOWN=1)) == (
        "Nexthink, acme: 1,200 of 1,202 devices scheduled for deletion, 1 needs attention"
    )
    assert headline(summary_of(INVALID=1, FAILED=1)).endswith("0 of 2 devices scheduled for deletion, 2 need attention")


def test_render_run_says_who_why_and_in_which_task() -> None:
    assert lines_of(summary_of(SCHEDULED=1))[1:6] == [
        "Task: clean_up.delete_devices, try 2",
        "Dag run: manual__2026-11-22T15:00:00+00:00",
        "Started by: Anna",
        "Started at: 2026-11-22T15:00:00+00:00",
        "Reason: CHG-17",
    ]


def test_render_dry_run_says_that_it_is_one() -> None:
    lines = lines_of(summary_of(is_dry=True, sent=False, PLANNED=4, EXCLUDED=1))
    assert lines[0] == "Nexthink, acme: dry run, 4 of 5 devices would be sent"
    assert "Planned, in a dry run" in lines
    assert "Scheduled for deletion" not in lines


def test_render_guard_says_planned_limit_and_that_nothing_was_sent() -> None:
    error = NexthinkGuardError("The list is too long. Raise max_devices.", planned=1200, limit=1000)
    lines = lines_of(summary_of(error, sent=False, NOT_SENT=1200, EXCLUDED=2))
    assert lines[0] == "Nexthink, acme: blocked, 1,200 devices, limit 1,000; nothing was sent"
    assert lines[lines.index("Stopped") :][:5] == [
        "Stopped",
        "Error: NexthinkGuardError: The list is too long. Raise max_devices.",
        "Planned: 1,200; limit: 1,000",
        "1,200 NOT_SENT: the run ended before their turn, or the request never left",
        "Nothing was sent.",
    ]
    assert "Need attention" not in lines


def test_headline_guard_in_a_dry_run_says_so() -> None:
    error = NexthinkGuardError("Too long", planned=2, limit=1)
    assert headline(summary_of(error, is_dry=True, sent=False, PLANNED=2)) == (
        "Nexthink, acme: dry run blocked, 2 devices, limit 1; nothing was sent"
    )


def test_headline_policy_blocks_and_other_errors_fail() -> None:
    assert headline(summary_of(NexthinkPolicyError("off"), sent=False)).endswith(": blocked; nothing was sent")
    assert headline(summary_of(NexthinkInputError("no list"), sent=False)).endswith(": failed; nothing was sent")


def test_render_run_that_ended_early_says_what_went_and_what_did_not() -> None:
    lines = lines_of(summary_of(NexthinkPolicyError("Deletions are off"), SCHEDULED=5, NOT_SENT=7))
    assert lines[0] == "Nexthink, acme: stopped, 5 of 12 devices scheduled for deletion"
    assert "Nothing was sent." not in lines
    assert "Need attention" in lines


@pytest.mark.parametrize("missing", [{"requested": None}, {"earlier_tries": None}])
def test_render_unknown_outcome_does_not_claim_that_nothing_was_sent(missing: dict[str, None]) -> None:
    lines = lines_of(summary_of(NexthinkInputError("no list")) | missing)
    assert lines[0] == "Nexthink, acme: failed; what was sent is not known here"
    assert "What was sent is not known here: see the log." in lines
    assert "Nothing was sent." not in lines


def test_render_failure_before_the_list_was_read() -> None:
    summary = summary_of(NexthinkInputError("no such file"), sent=False)
    summary |= dict.fromkeys(["requested", "instance", "dry_run", "reason", "limits", "uid_column", "triggered_by"])
    assert lines_of(summary)[0] == "Nexthink: failed; nothing was sent"


def test_headline_empty_list_says_so() -> None:
    assert headline(summary_of(sent=False)) == "Nexthink, acme: the list was empty"


def test_render_earlier_tries_are_counted_apart() -> None:
    lines = lines_of(summary_of(SCHEDULED=1) | {"earlier_tries": {"SCHEDULED": 12, "UNKNOWN": 3, "FAILED": 0}})
    at = lines.index("Devices of earlier tries that are not in the list any more")
    assert [line.split(":")[0] for line in lines[at + 1 :]] == ["12 SCHEDULED", "3 UNKNOWN"]
    unknown = lines_of(summary_of(SCHEDULED=1) | {"earlier_tries": None})
    assert "What earlier tries sent is not known here: see their logs." in unknown


def test_render_mapped_task_says_which() -> None:
    assert "Task: clean_up.delete_devices, map index 0, try 2" in lines_of(summary_of() | {"map_index": 0})


def test_render_no_summary_claims_nothing() -> None:
    assert headline(None) == "Nexthink: no summary"
    assert "not known here" in render(None)


def test_render_link_leads_to_the_page_of_the_outcome() -> None:
    for address in (AIRFLOW, f"{AIRFLOW}/base/"):
        page = Page(render(summary_of(SCHEDULED=1), airflow_url=address, style="html"))
        ((_, link),) = page.attributes
        parts = urlsplit(link or "")
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{address.rstrip('/')}/plugin/{URL_ROUTE}"
        assert parse_qs(parts.query) == {
            "dag_id": ["clean_up"],
            "run_id": ["manual__2026-11-22T15:00:00+00:00"],
            "task_id": ["delete_devices"],
            "map_index": ["-1"],
        }


def test_render_no_link_without_an_address_or_outside_airflow() -> None:
    assert "href" not in render(summary_of(SCHEDULED=1), style="html")
    outside = summary_of(SCHEDULED=1) | dict.fromkeys(["dag_id", "dag_run_id", "task_id"])
    assert "href" not in render(outside, airflow_url=AIRFLOW, style="html")


def test_render_something_else_is_an_error() -> None:
    for other in ({}, {"requested": 1}, [summary_of()], "a text"):
        with pytest.raises(NexthinkInputError, match="not the XCom 'summary'"):
            render(other)  # type: ignore[arg-type]
    with pytest.raises(NexthinkInputError, match="markdown, html, slack"):
        render(summary_of(), style="text")  # type: ignore[arg-type]
    assert set(STYLES) == set(get_args(get_type_hints(render)["style"]))


# Devices, only if asked for

ROWS = [
    {
        "uid": f"uid-{number}",
        "name": f"PC-{number}",
        "status": "UNKNOWN",
        "reason": f"sent, without a response: {cause}",
    }
    for number, cause in enumerate([503] * 5 + [429] * 2)
] + [{"uid": None, "name": "PC-7", "status": "REJECTED", "reason": "Nexthink refuses this device: PC-7 is odd"}]


@pytest.mark.parametrize("style", STYLES)
def test_render_rows_without_names_has_the_reasons_only(style: Style) -> None:
    lines = lines_of(summary_of(UNKNOWN=7, REJECTED=1), unscheduled=ROWS, style=style)
    at = lines.index("Most frequent reasons")
    assert lines[at + 1 :] == [
        "5 UNKNOWN: sent, without a response: 503",
        "2 UNKNOWN: sent, without a response: 429",
        "1 REJECTED: Nexthink refuses this device",
    ]
    assert not [line for line in lines if "PC-" in line or "uid-" in line]


def test_render_names_are_limited_and_the_rest_is_counted() -> None:
    lines = lines_of(summary_of(UNKNOWN=7, REJECTED=1), unscheduled=iter(ROWS), max_names=2)
    assert lines[lines.index("Devices") + 1 :] == [
        "UNKNOWN: PC-0 (uid-0), sent, without a response: 503",
        "UNKNOWN: PC-1 (uid-1), sent, without a response: 503",
        "And 6 more devices",
    ]


def test_render_rows_that_are_only_the_first_are_not_taken_for_all() -> None:
    lines = lines_of(summary_of(UNKNOWN=19, REJECTED=1), unscheduled=ROWS, max_names=7)
    assert "Most frequent reasons of the first 8 devices" in lines
    assert lines[-1] == "And 13 more devices"


def test_render_many_reasons_are_limited() -> None:
    rows = [{"status": "FAILED", "reason": f"reason {number}"} for number in range(9)]
    lines = lines_of(summary_of(FAILED=9), unscheduled=rows)
    assert len([line for line in lines if line.startswith("1 FAILED: reason")]) == 5
    assert "And 4 more reasons" in lines


@pytest.mark.parametrize("rows", [None, [], ()])
def test_render_no_rows_has_no_sections_of_them(rows: Any) -> None:
    lines = lines_of(summary_of(UNKNOWN=1), unscheduled=rows, max_names=5)
    assert not {"Most frequent reasons", "Devices"}.intersection(lines)


# Any summary, in any style

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</li></ul><!-- ",
    "<!channel>",
    "<https://evil.example|Outcome of each device>",
    "[Outcome](https://evil.example) ![x](y) [a]: b",
    "**bold** __bold__ *i* _i_ `code` ~~no~~ \\* \\",
    "# heading\n# heading\r\n- item\n1. item\n> quote\n\n---\n| a | b |\n|---|---|",
    "&lt;b&gt; &amp; & &#60; {{ 7 * 7 }} {% raw %}",
    "a\0b\x1b[31m\u202e\u2028\ud800\x02klzzwxh:0000\x03",
    "x" * 5000,
]
texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=30), st.lists(st.sampled_from(HOSTILE[:-1]), max_size=3).map("".join)
)
optional = st.one_of(st.none(), texts)
numbers = st.integers(0, 10_000_000)
counts = st.fixed_dictionaries({str(status): st.one_of(st.just(0), numbers) for status in Status})
errors = st.fixed_dictionaries(
    {"type": texts, "message": texts, "sent_nothing": st.booleans()},
    optional={"planned": st.one_of(st.none(), numbers), "limit": st.one_of(st.none(), numbers)},
)
deletions = st.builds(
    lambda counted, others: {**counted, **others},
    counts,
    st.fixed_dictionaries(
        {
            "requested": st.one_of(st.none(), numbers),
            "dry_run": st.one_of(st.none(), st.booleans()),
            "instance": optional,
            "reason": optional,
            "triggered_by": optional,
            "dag_id": optional,
            "dag_run_id": optional,
            "task_id": optional,
            "map_index": st.integers(-1, 5),
            "try_number": st.one_of(st.none(), st.integers(1, 9)),
            "started_at": texts,
        },
        optional={"error": errors, "earlier_tries": st.one_of(st.none(), counts)},
    ),
)
rows = st.lists(
    st.fixed_dictionaries(
        {"uid": optional, "name": optional, "reason": optional, "status": st.one_of(st.sampled_from(Status), texts)}
    ),
    max_size=4,
)


def worst_case(text: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(Status, 1),
        **dict.fromkeys(["instance", "reason", "triggered_by", "dag_id", "dag_run_id", "task_id", "started_at"], text),
        "requested": 9,
        "dry_run": False,
        "error": {"type": text, "message": text, "sent_nothing": False},
    }


@given(deletions, rows)
@example(worst_case("".join(HOSTILE[:9])), [dict.fromkeys(["uid", "name", "reason", "status"], HOSTILE[7])])
def test_render_any_deletion_says_the_same_in_each_style_and_has_no_markup_but_ours(
    summary: dict[str, Any], unscheduled: list[dict[str, Any]]
) -> None:
    options: dict[str, Any] = {"unscheduled": unscheduled, "max_names": 3, "airflow_url": AIRFLOW}
    lines = lines_of(summary, style="html", **options)
    assert lines_of(summary, style="markdown", **options) == lines
    assert lines_of(summary, style="slack", **options) == lines
    assert lines[0] == " ".join(headline(summary).split())
    for status in Status:
        said = [line for line in lines if line.startswith(f"{summary[status]:,} {status}: ")]
        assert said or not summary[status]
    assert "deleted" not in " ".join(lines).lower()
    for style in STYLES:
        render(summary, style=style, **options).encode()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("style", STYLES)
def test_render_hostile_text_is_shown_as_it_is(text: str, style: Style) -> None:
    printable = "".join(character if character.isprintable() else " " for character in text[:1000])
    expected = " ".join(printable.split())
    row = {"uid": text, "name": text, "status": "FAILED", "reason": text}
    lines = lines_of(worst_case(text), unscheduled=[row], max_names=1, style=style)
    end = "…" if len(text) > 1000 else ""
    assert f"Reason: {expected}{end}" in lines
    assert f"FAILED: {expected}{end} ({expected}{end}), {expected}{end}" in lines


# The other operators

QUARANTINE = {
    "instance": "acme",
    "list_name": "stale",
    "devices": 50,
    "due": 12,
    "waiting": 38,
    "marked": 5,
    "released": 3,
    "deleted": 7,
    "invalid": 2,
    "unmarked": 0,
    "next_due_at": "2026-12-06T15:00:00+00:00",
}
RECONCILE = {
    "instance": "acme",
    "looked_at": "2026-11-28T15:00:12+00:00",
    "devices": 4970,
    "requested": 30,
    "gone": 25,
    "still_present": 4,
    "returned": 1,
    "set_up_anew": 2,
    "not_compared": 6,
    "seats_won": 26,
    "seats_returned": 3,
    "net": 23,
    "quota": {"devices": 1000, "days": 6, "used": 30, "left": 970},
    "looks_too_young": True,
}


def test_render_quarantine_says_what_is_due_and_what_waits() -> None:
    lines = lines_of(QUARANTINE)
    assert lines == [
        "Nexthink, acme: quarantine, 12 due, 38 waiting",
        "List: stale, 50 devices",
        "Quarantine",
        "12 due",
        "38 waiting; the next can be due at 2026-12-06T15:00:00+00:00",
        "5 new: of those waiting, on the list for the first time",
        "3 released: not on the list any more",
        "7 left the list since they were scheduled for deletion",
        "Need attention",
        "2 rows without a usable uid: never due; correct the list",
    ]


def test_render_quarantine_of_an_empty_list_warns() -> None:
    lines = lines_of(QUARANTINE | dict.fromkeys(["devices", "due", "waiting", "deleted", "invalid"], 0))
    assert lines[-1].startswith("The list is empty: ")


def test_render_reconcile_says_what_is_gone_and_what_is_not() -> None:
    lines = lines_of(RECONCILE)
    assert lines[:4] == [
        "Nexthink, acme: 25 of 30 devices that were to go are gone",
        "Inventory: 4,970 devices at 2026-11-28T15:00:12+00:00",
        "Seats won: 26, less 3 that came back: 23",
        "Quota: 30 of 1,000 used in 6 days, 970 left",
    ]
    assert [line.split(" ")[0] for line in lines[5:]] == ["4", "1", "2", "6", "The"]


@given(st.sampled_from([QUARANTINE, RECONCILE]), st.data())
def test_render_any_quarantine_or_reconcile_says_the_same_in_each_style(
    summary: dict[str, Any], data: st.DataObject
) -> None:
    values = {key: numbers if isinstance(value, int) else texts for key, value in summary.items() if key != "quota"}
    changed = summary | data.draw(st.fixed_dictionaries(values))
    lines = lines_of(changed)
    assert lines_of(changed, style="markdown") == lines
    assert lines_of(changed, style="slack") == lines
    text = " ".join(lines)
    assert "deleted" not in text.lower()
    counted = {key: value for key, value in changed.items() if isinstance(value, int) and key != "looks_too_young"}
    assert not [key for key, value in counted.items() if value and f"{value:,}" not in text]


def test_statuses_all_have_words_and_attention_is_that_of_the_xcom() -> None:
    each: dict[str, Any] = dict.fromkeys(Status, 1)
    lines = lines_of(summary_of(**each))
    at = lines.index("Need attention")
    assert {line.split()[1].rstrip(":") for line in lines[at + 1 :][: len(ACTION_REQUIRED)]} == ACTION_REQUIRED
