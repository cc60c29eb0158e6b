"""The ledger on the command line: ``python -m airflow_provider_nexthink.ledger report nexthink_default``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkInputError
from airflow_provider_nexthink.ledger.ledger import Ledger
from airflow_provider_nexthink.ledger.quota import Quota
from airflow_provider_nexthink.ledger.report import render_history, render_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code.

    :param arguments: those of the command line; None for those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_nexthink.ledger", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="seats won, what is still there, what came back, quarantine, quota")
    history = commands.add_parser("history", help="who deleted a device, when and why, and what became of it")
    prune = commands.add_parser("prune", help="remove uids, names and reasons of devices; all counts stay")
    for command in (report, history, prune):
        command.add_argument(
            "ledger", help="a connection of Airflow (that of Nexthink, or that of the ledger), or a URL of SQLAlchemy"
        )
    history.add_argument("device", help="the uid of a device, or its name")
    prune.add_argument("--older-than-days", type=float, required=True, help="of runs that ended so many days ago")
    given = parser.parse_args(arguments)
    try:
        ledger, quota = _open(given.ledger)
        if given.command == "report":
            sys.stdout.write(render_report(ledger.report(quota)))
        elif given.command == "history":
            sys.stdout.write(render_history(given.device, ledger.history(given.device), ledger.marks(given.device)))
        else:
            pruned = ledger.prune(_days(given.older_than_days))
            sys.stdout.write(
                f"Before {pruned.before:%Y-%m-%d %H:%M} UTC: {pruned.devices} devices pruned, {pruned.kept} kept that "
                f"are still needed, {pruned.marks} released from lists that are not used any more.\n"
            )
    except NexthinkError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _open(where: str) -> tuple[Ledger, Quota | None]:
    """Return a ledger that is there already, and the quota if the connection has one."""
    if "://" in where:
        try:
            return Ledger.existing(create_engine(where)), None
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise NexthinkInputError(f"The URL of the ledger cannot be used ({type(error).__name__}).") from None
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
    from airflow_provider_nexthink.utils.sql import ledger_engine
    from airflow_provider_nexthink.version_compat import AirflowException

    try:
        connection = NexthinkHook.get_connection(where)
    except AirflowException as error:
        raise NexthinkInputError(
            f"The connection {where!r} cannot be used: {error}. A command finds the connections of environment "
            "variables (AIRFLOW_CONN_...) and of a secrets backend; for one in Airflow's database pass the URL "
            "of the ledger."
        ) from None
    if connection.conn_type != NexthinkHook.conn_type:
        return Ledger.existing(ledger_engine(where)), None
    hook = NexthinkHook(where)
    policy = hook.get_conn().policy
    quota = None
    if policy.quota_devices is not None and policy.quota_days is not None:
        quota = Quota(policy.quota_devices, policy.quota_days)
    ledger = hook.get_ledger()
    if policy.ledger_conn_id is not None:
        Ledger.existing(ledger_engine(policy.ledger_conn_id))  # a command makes no tables
    return ledger, quota


def _days(days: float) -> timedelta:
    try:
        return timedelta(days=days)
    except (OverflowError, ValueError):
        raise NexthinkInputError(f"--older-than-days is {days}: it takes a number of days, 0 or more.") from None


if __name__ == "__main__":
    sys.exit(main())
