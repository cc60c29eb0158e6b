"""A short report of a run, for people: what was scheduled for deletion, what was stopped, what needs attention. ::

    from airflow_provider_nexthink.reports import headline, render

    subject = headline(summary)  # summary: the XCom of a NexthinkDeleteDevicesOperator
    text = render(summary, style="html")

Pass the text to a notifier of Airflow, such as those for SMTP, Slack and Apprise. Pure functions. Names, reasons and
messages come from elsewhere: they stay text in every style, and line breaks in them become blanks.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

from airflow_provider_nexthink.exceptions import NexthinkGuardError, NexthinkInputError, NexthinkPolicyError
from airflow_provider_nexthink.status import ACTION_REQUIRED, RETRYABLE, Status

_MAX_REASONS = 5
_MAX_CHARACTERS = 1000
_URL_CHARACTERS = ":/?#@!$&*+,;=%[]"  # none that ends an address in one of the styles

_STATUSES = {
    Status.SCHEDULED: "Nexthink removes them later, in the background",
    Status.PLANNED: "a dry run sends nothing",
    Status.INVALID: "the uid is malformed; correct the list",
    Status.REJECTED: "cannot be sent, or Nexthink refuses them; correct the list",
    Status.FAILED: "Nexthink could not schedule them; run the list again",
    Status.UNKNOWN: "sent, without an unambiguous response, so they may be scheduled; a retry soon after is harmless",
    Status.NOT_SENT: "the run ended before their turn, or the request never left",
    Status.EXCLUDED: "an exclusion or the protect list matched",
    Status.DUPLICATE: "the same device is earlier in the list",
}
_KEPT_BACK = (Status.EXCLUDED, Status.DUPLICATE)
_GUARDS = (NexthinkGuardError.__name__, NexthinkPolicyError.__name__)


class _Section(NamedTuple):
    title: str
    lines: list[str]


class _Report(NamedTuple):
    """A report before it has a style. Each line begins with a word or a number of ours.

    :param headline: the run in one line.
    :param facts: who, why, within what.
    :param sections: those without lines are left out.
    :param path: of the page with the outcome, below Airflow's address; None for none.
    """

    headline: str
    facts: list[str]
    sections: list[_Section]
    path: str | None = None


class _Style(NamedTuple):
    """How a report is written: templates, and what makes any text stay text."""

    escape: Callable[[str], str]
    headline: str
    title: str
    lines: str
    line: str
    link: str
    escape_url: Callable[[str], str]


# Entities where a backslash is not enough: not every Markdown takes "\<" for "<".
_MARKDOWN = {ord(character): f"\\{character}" for character in "\\`*_[]"}
_MARKDOWN |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord("~"): "&#126;"}
_escape_slack = partial(html.escape, quote=False)

_STYLES = {
    "markdown": _Style(
        escape=lambda text: text.translate(_MARKDOWN),
        headline="**{}**\n\n",
        title="**{}**\n\n",
        lines="{}\n",
        line="- {}\n",
        link="[{}]({})\n",
        escape_url=str,
    ),
    "html": _Style(
        escape=html.escape,
        headline="<h3>{}</h3>\n",
        title="<h4>{}</h4>\n",
        lines="<ul>\n{}</ul>\n",
        line="<li>{}</li>\n",
        link='<p><a href="{1}">{0}</a></p>\n',
        escape_url=html.escape,
    ),
    "slack": _Style(
        escape=_escape_slack,
        headline="*{}*\n",
        title="*{}*\n",
        lines="{}\n",
        line="• {}\n",
        link="<{1}|{0}>\n",
        escape_url=_escape_slack,
    ),
}


def render(
    summary: Mapping[str, Any] | None,
    *,
    unscheduled: Iterable[Mapping[str, Any]] | None = None,
    max_names: int = 0,
    airflow_url: str | None = None,
    style: Literal["markdown", "html", "slack"] = "markdown",
) -> str:
    """Return a report of a run.

    :param summary: the XCom ``summary`` of a deletion, a quarantine or a reconcile; None if the task has none, because
        it was skipped or an upstream task failed.
    :param unscheduled: the XCom ``unscheduled`` of a deletion: the report has its most frequent reasons. None, or no
        rows, for none.
    :param max_names: the maximum number of these devices that the report lists, with name and uid.
    :param airflow_url: the address of Airflow, such as ``https://airflow.example.com``, for a link to the outcome of
        each device; None for no link.
    :param style: ``markdown``, ``html`` (without a frame: no ``<html>``, no ``<body>``) or ``slack`` (its mrkdwn).
    :raises NexthinkInputError: if ``summary`` is something else, or there is no such style.
    """
    if style not in _STYLES:
        raise NexthinkInputError(f"style is {style!r}: there are {', '.join(_STYLES)}.")
    report, look = _report(summary, list(unscheduled or ()), max_names), _STYLES[style]
    parts = [look.headline.format(look.escape(report.headline))]
    for title, lines in (_Section("", report.facts), *report.sections):
        if lines:
            parts += [look.title.format(look.escape(title))] if title else []
            parts.append(look.lines.format("".join(look.line.format(look.escape(line)) for line in lines)))
    if airflow_url and report.path:
        address = quote(f"{airflow_url.rstrip('/')}/{report.path}", safe=_URL_CHARACTERS)
        parts.append(look.link.format("Outcome of each device", look.escape_url(address)))
    return "".join(parts).strip()


def headline(summary: Mapping[str, Any] | None) -> str:
    """Return a run in one line of plain text, such as for the subject of an e-mail.

    :param summary: as in ``render``.
    :raises NexthinkInputError: if ``summary`` is something else.
    """
    return _report(summary, [], 0).headline


def outcome_path(*, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return the path of the page with the outcome of each device, below Airflow's address.

    :param dag_id: the Dag.
    :param run_id: the run of the Dag.
    :param task_id: the task.
    :param map_index: which of the mapped tasks; -1 for a task that is not mapped.
    """
    query = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    return f"plugin/nexthink-deletions?{urlencode(query, errors='replace')}"


def _report(summary: Mapping[str, Any] | None, rows: list[Mapping[str, Any]], max_names: int) -> _Report:
    if summary is None:
        facts = ["The task did not run, or its XComs are gone. What was sent is not known here: see its log."]
        return _Report("Nexthink: no summary", facts, [])
    keys = summary.keys() if isinstance(summary, Mapping) else set()
    if {"requested", "SCHEDULED", "dry_run"} <= keys:
        return _deletion(summary, rows, max_names)
    if {"list_name", "due", "waiting"} <= keys:
        return _quarantine(summary)
    if {"requested", "gone", "still_present"} <= keys:
        return _reconcile(summary)
    raise NexthinkInputError(
        f"summary is a {type(summary).__name__} that is not the XCom 'summary' of a Nexthink task. Of mapped tasks, "
        "pass one at a time."
    )


def _deletion(summary: Mapping[str, Any], rows: list[Mapping[str, Any]], max_names: int) -> _Report:
    error = summary.get("error") or {}
    sent_nothing = error.get("sent_nothing") is True
    # Of a run that sent nothing, these rows need no attention of their own: what stopped the run does.
    attention = [status for status in Status if status in ACTION_REQUIRED and not _is_stopped(status, sent_nothing)]
    total = max(len(rows), sum(_number(summary.get(status)) for status in ACTION_REQUIRED))
    of_first = f" of the first {_plural(len(rows), 'device')}" if len(rows) < total else ""
    return _Report(
        f"{_prefix(summary)}{_deletion_headline(summary, error, attention)}",
        _origin(summary),
        [
            _Section("Scheduled for deletion", _counts(summary, [Status.SCHEDULED])),
            _Section("Planned, in a dry run", _counts(summary, [Status.PLANNED])),
            _Section("Stopped", _stopped(summary, error)),
            _Section("Need attention", _counts(summary, attention)),
            _Section(f"Most frequent reasons{of_first}", _reasons(rows)),
            _Section("Devices", _devices(rows, max(max_names, 0), total)),
            _Section("Kept back", _counts(summary, _KEPT_BACK)),
            _Section("Devices of earlier tries that are not in the list any more", _earlier_tries(summary)),
        ],
        _path(summary),
    )


def _is_stopped(status: Status, sent_nothing: bool) -> bool:
    return sent_nothing and status is Status.NOT_SENT


def _deletion_headline(summary: Mapping[str, Any], error: Mapping[str, Any], attention: Collection[Status]) -> str:
    requested, scheduled = _number(summary.get("requested")), _number(summary.get(Status.SCHEDULED))
    is_dry, sent_nothing = bool(summary.get("dry_run")), error.get("sent_nothing") is True
    scheduled_text = f"{scheduled:,} of {_plural(requested, 'device')} scheduled for deletion"
    if error:
        if not sent_nothing:
            return "failed; what was sent is not known here" if _is_unknown(summary) else f"stopped, {scheduled_text}"
        dry_run = "dry run " if is_dry else ""
        if _has_limit(error):
            planned, limit = _number(error["planned"]), _number(error["limit"])
            return f"{dry_run}blocked, {_plural(planned, 'device')}, limit {limit:,}; nothing was sent"
        return f"{dry_run}{'blocked' if error.get('type') in _GUARDS else 'failed'}; nothing was sent"
    if not requested:
        return "the list was empty"
    if is_dry:
        planned = _number(summary.get(Status.PLANNED))
        return f"dry run, {planned:,} of {_plural(requested, 'device')} would be sent"
    needs = sum(_number(summary.get(status)) for status in attention)
    return f"{scheduled_text}, {needs:,} need{'s' * (needs == 1)} attention" if needs else scheduled_text


def _is_unknown(summary: Mapping[str, Any]) -> bool:
    """Tell whether the summary does not say what was sent."""
    return summary.get("requested") is None or summary.get("earlier_tries", {}) is None


def _has_limit(error: Mapping[str, Any]) -> bool:
    return all(isinstance(error.get(key), int) for key in ("planned", "limit"))


def _stopped(summary: Mapping[str, Any], error: Mapping[str, Any]) -> list[str]:
    if not error:
        return []
    lines = [f"Error: {_text(error.get('type'))}: {_text(error.get('message'))}"]
    if _has_limit(error):
        lines.append(f"Planned: {_number(error['planned']):,}; limit: {_number(error['limit']):,}")
    if error.get("sent_nothing") is True:
        return [*lines, *_counts(summary, [Status.NOT_SENT]), "Nothing was sent."]
    if _is_unknown(summary):
        lines.append("What was sent is not known here: see the log.")
    return lines


def _origin(summary: Mapping[str, Any]) -> list[str]:
    """Return who, why, and in which task."""
    index, tries = summary.get("map_index"), summary.get("try_number")
    task = ".".join(_text(summary[key]) for key in ("dag_id", "task_id") if summary.get(key))
    if task and isinstance(index, int) and index >= 0:
        task += f", map index {index}"
    if task and isinstance(tries, int) and tries > 1:
        task += f", try {tries}"
    facts = {
        "Task": task,
        "Dag run": summary.get("dag_run_id"),
        "Started by": summary.get("triggered_by"),
        "Started at": summary.get("started_at"),
        "Reason": summary.get("reason"),
    }
    return [f"{label}: {_text(value)}" for label, value in facts.items() if value]


def _path(summary: Mapping[str, Any]) -> str | None:
    dag_id, run_id, task_id = (summary.get(key) for key in ("dag_id", "dag_run_id", "task_id"))
    if not (isinstance(dag_id, str) and isinstance(run_id, str) and isinstance(task_id, str)):
        return None  # outside Airflow
    index = summary.get("map_index")
    return outcome_path(
        dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=index if isinstance(index, int) else -1
    )


def _counts(summary: Mapping[str, Any], statuses: Iterable[Status]) -> list[str]:
    counts = {status: _number(summary.get(status)) for status in statuses}
    return [f"{count:,} {status}: {_STATUSES[status]}" for status, count in counts.items() if count]


def _reasons(rows: list[Mapping[str, Any]]) -> list[str]:
    counts = Counter((_status(row), _reason(row)) for row in rows if row.get("reason"))
    lines = [f"{count:,} {status}: {reason}" for (status, reason), count in counts.most_common(_MAX_REASONS)]
    return [*lines, *_more(len(counts) - len(lines), "reason")]


def _reason(row: Mapping[str, Any]) -> str:
    """Return a reason without what tells devices apart: a name, or an exclusion, which others' text may have."""
    reason = _text(row["reason"])
    return reason if row.get("status") in RETRYABLE else reason.partition(": ")[0]


def _devices(rows: list[Mapping[str, Any]], maximum: int, total: int) -> list[str]:
    if not rows or not maximum:
        return []
    lines = [
        f"{_status(row)}: {_text(row.get('name') or 'no name')} ({_text(row.get('uid') or 'no uid')})"
        + (f", {_text(row['reason'])}" if row.get("reason") else "")
        for row in rows[:maximum]
    ]
    return [*lines, *_more(total - len(lines), "device")]


def _status(row: Mapping[str, Any]) -> str:
    status = row.get("status")
    return str(status) if status in list(Status) else "No status"


def _earlier_tries(summary: Mapping[str, Any]) -> list[str]:
    if "earlier_tries" not in summary:
        return []
    earlier = summary["earlier_tries"]
    if earlier is None:
        return ["What earlier tries sent is not known here: see their logs."]
    return _counts(earlier, Status)


def _quarantine(summary: Mapping[str, Any]) -> _Report:
    due, waiting, marked, released = (_number(summary.get(key)) for key in ("due", "waiting", "marked", "released"))
    devices, gone, invalid = (_number(summary.get(key)) for key in ("devices", "deleted", "invalid"))
    unmarked = _number(summary.get("unmarked"))
    next_due = f"; the next can be due at {_text(summary['next_due_at'])}" if summary.get("next_due_at") else ""
    attention = _lines(
        (invalid, f"{_plural(invalid, 'row')} without a usable uid: never due; correct the list"),
        (
            released and not devices,
            "The list is empty: all devices that were waiting are released, and would start afresh.",
        ),
    )
    lines = _lines(
        (due, f"{due:,} due"),
        (waiting, f"{waiting:,} waiting{next_due}"),
        (marked, f"{marked:,} new: of those waiting, on the list for the first time"),
        (released, f"{released:,} released: not on the list any more"),
        (gone, f"{gone:,} left the list since they were scheduled for deletion"),
        (unmarked, f"{unmarked:,} not in quarantine any more: this is an earlier run, cleared"),
    )
    return _Report(
        f"{_prefix(summary)}quarantine, {due:,} due, {waiting:,} waiting",
        [f"List: {_text(summary.get('list_name'))}, {_plural(devices, 'device')}"],
        [_Section("Quarantine", lines), _Section("Need attention", attention)],
    )


def _reconcile(summary: Mapping[str, Any]) -> _Report:
    keys = ("requested", "gone", "still_present", "returned", "set_up_anew", "not_compared")
    requested, gone, present, returned, anew, not_compared = (_number(summary.get(key)) for key in keys)
    won, back, net = (_number(summary.get(key)) for key in ("seats_won", "seats_returned", "net"))
    facts = [f"Inventory: {_plural(_number(summary.get('devices')), 'device')} at {_text(summary.get('looked_at'))}"]
    facts.append(f"Seats won: {won:,}, less {back:,} that came back: {net:,}")
    if quota := summary.get("quota"):
        used, total, days, left = (_number(quota.get(key)) for key in ("used", "devices", "days", "left"))
        facts.append(f"Quota: {used:,} of {total:,} used in {_plural(days, 'day')}, {left:,} left")
    attention = _lines(
        (present, f"{present:,} still present: not removed yet, or never to be"),
        (returned, f"{returned:,} back again"),
        (anew, f"{anew:,} gone, while another device has their name: set up anew, or a namesake"),
        (not_compared, f"{not_compared:,} not compared: see the log"),
        (
            summary.get("looks_too_young"),
            "The ledger knows less than it did: was it restored from an older backup, or replaced?",
        ),
    )
    return _Report(
        f"{_prefix(summary)}{gone:,} of {_plural(requested, 'device')} that were to go are gone",
        facts,
        [_Section("Need attention", attention)],
    )


def _lines(*lines: tuple[object, str]) -> list[str]:
    """Return the lines that apply."""
    return [line for applies, line in lines if applies]


def _prefix(summary: Mapping[str, Any]) -> str:
    """Return the first words of a headline, with the tenant if it is known."""
    return f"Nexthink, {_text(summary['instance'])}: " if summary.get("instance") else "Nexthink: "


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _more(count: int, noun: str) -> list[str]:
    return [f"And {_plural(count, f'more {noun}')}"] if count > 0 else []


def _text(value: object) -> str:
    """Return a value as one line of text that can be shown and encoded, of limited length."""
    text = str(value)
    shown = "".join(character if character.isprintable() else " " for character in text[:_MAX_CHARACTERS])
    return " ".join(shown.split()) + "…" * (len(text) > _MAX_CHARACTERS)
