"""``plan``: a dry run of a list, row by row."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TextIO

from airflow_provider_nexthink.cli.connections import nexthink_hook
from airflow_provider_nexthink.cli.output import print_rows
from airflow_provider_nexthink.cli.run import FAILED, OK, report
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.status import Status

if TYPE_CHECKING:
    from airflow_provider_nexthink.deletion.deletion import Deletion
    from airflow_provider_nexthink.deletion.outcome import Outcomes

_COLUMNS = ("uid", "name", "status", "reason")
_STOPPED = "a limit stops the run"


def plan(arguments: argparse.Namespace, out: TextIO) -> int:
    """Print what would become of each device of a list; beside it, in how many rows, and within which limits.

    :param arguments: ``file``, ``conn_id``, ``exclude``, ``protect``, ``max_devices``, ``uid_column``,
        ``name_column``, ``output``.
    :param out: where to print.
    :return: the exit code: 1 if a limit would stop the run.
    """
    stopped: NexthinkGuardError | None = None
    with nexthink_hook(arguments.conn_id) as hook:
        try:
            hook.delete_devices(
                arguments.file,
                exclude=arguments.exclude,
                protect=arguments.protect,
                max_devices=arguments.max_devices,
                uid_column=arguments.uid_column,
                name_column=arguments.name_column,
                dry_run=True,
            )
        except NexthinkGuardError as error:
            stopped = error
        deletion = hook.deletion
    assert deletion is not None  # noqa: S101 - a guard looks at a plan
    outcomes = deletion.outcomes
    print_rows(_rows(outcomes), _COLUMNS, arguments.output, out)
    report(_describe(deletion, outcomes))
    if stopped is None:
        return OK
    report(f"A limit stops this run. {stopped}")
    return FAILED


def _rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    return [
        {
            "uid": uid,
            "name": name,
            "status": status.value,
            "reason": reason or (_STOPPED if status is Status.NOT_SENT else None),
        }
        for uid, name, status, reason in zip(outcomes.uid, outcomes.name, outcomes.status, outcomes.reason, strict=True)
    ]


def _describe(deletion: Deletion, outcomes: Outcomes) -> str:
    """Return how many rows have which status, and which limits hold, in a few lines."""
    counts = [f"{count} {status}" for status, count in outcomes.counts().items() if count]
    limits = deletion.limits
    most = "no limit on the devices of a run"
    if limits["max_devices"] is not None:
        by = "the connection" if limits["max_devices_set_by"] == "connection" else "--max-devices"
        most = f"at most {limits['max_devices']} devices in a run (set by {by})"
    return (
        f"{len(outcomes)} rows (uid from {deletion.rows.uid_column!r}, name from {deletion.rows.name_column!r}): "
        f"{', '.join(counts) or 'none'}. Nothing was sent.\n"
        f"Limits: {most}. Policy of the connection: {deletion.policy.describe()}."
    )
