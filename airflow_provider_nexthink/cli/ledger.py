"""``ledger``: who deleted a device, seats won, and housekeeping."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import timedelta
from typing import TextIO

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from airflow_provider_nexthink.cli.connections import find_connection
from airflow_provider_nexthink.cli.output import TABLES, print_data, print_rows, print_text
from airflow_provider_nexthink.cli.run import OK
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.ledger.ledger import Ledger
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.report import as_data, render_history, render_report

# The columns of -o table and -o plain; JSON and YAML have everything.
_HISTORY_COLUMNS = (
    *("requested_at", "status", "uid", "name", "triggered_by", "dag_id", "task_id", "dag_run_id"),
    *("gone_at", "returned_at", "why"),
)
_SEATS_COLUMNS = ("month", "scheduled", "gone", "returned", "net")


def history(arguments: argparse.Namespace, out: TextIO) -> int:
    """Print the deletions of a device, and the lists in quarantine that it is on.

    :param arguments: ``ledger``, ``device``, ``output``.
    :param out: where to print.
    :return: the exit code.
    """
    ledger, _ = _open(arguments.ledger)
    deletions, marks = ledger.history(arguments.device), ledger.marks(arguments.device)
    if arguments.output is None:
        print_text(render_history(arguments.device, deletions, marks), out)
    elif arguments.output in TABLES:
        print_rows(deletions, _HISTORY_COLUMNS, arguments.output, out)
    else:
        print_data({"device": arguments.device, "deletions": deletions, "marks": marks}, arguments.output, out)
    return OK


def report(arguments: argparse.Namespace, out: TextIO) -> int:
    """Print what the ledger knows.

    :param arguments: ``ledger``, ``output``.
    :param out: where to print.
    :return: the exit code.
    """
    ledger, quota = _open(arguments.ledger)
    made = ledger.report(quota)
    if arguments.output is None:
        print_text(render_report(made), out)
    elif arguments.output in TABLES:
        print_rows(made.seats, _SEATS_COLUMNS, arguments.output, out)
    else:
        print_data(as_data(made), arguments.output, out)
    return OK


def prune(arguments: argparse.Namespace, out: TextIO) -> int:
    """Remove uids, names and reasons of devices, and print of how many.

    :param arguments: ``ledger``, ``older_than_days``, ``output``.
    :param out: where to print.
    :return: the exit code.
    """
    ledger, _ = _open(arguments.ledger)
    pruned = ledger.prune(timedelta(days=arguments.older_than_days))
    if arguments.output is None:
        text = (
            f"Before {pruned.before:%Y-%m-%d %H:%M} UTC: {pruned.devices} devices pruned, {pruned.kept} kept that "
            f"are still needed, {pruned.marks} released from lists that are not used any more."
        )
        print_text(text, out)
    elif arguments.output in TABLES:
        print_rows([asdict(pruned)], ("before", "devices", "kept", "marks"), arguments.output, out)
    else:
        print_data(asdict(pruned), arguments.output, out)
    return OK


def _open(where: str) -> tuple[Ledger, Quota | None]:
    """Return a ledger that is there already, and the quota if the connection has one."""
    if "://" in where:
        try:
            return Ledger.existing(create_engine(where)), None
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise NexthinkInputError(f"The URL of the ledger cannot be used ({type(error).__name__}).") from None
    connection = find_connection(where)
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.utils.sql import ledger_engine

    if connection.conn_type != NexthinkHook.conn_type:
        return Ledger.existing(ledger_engine(where)), None
    hook = NexthinkHook(where)
    policy = hook.get_conn().policy
    ledger = hook.get_ledger()
    if policy.ledger_conn_id is not None:
        Ledger.existing(ledger_engine(policy.ledger_conn_id))  # a command makes no tables
    return ledger, Quota.of(policy.quota_devices, policy.quota_days)
