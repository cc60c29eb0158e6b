"""``check``: does a connection work, what may it do, and what does it allow?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from airflow_provider_nexthink.cli.connections import nexthink_hook
from airflow_provider_nexthink.cli.output import print_rows
from airflow_provider_nexthink.cli.run import FAILED, OK
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkInputError

if TYPE_CHECKING:
    from airflow_provider_nexthink.client import NexthinkClient
    from airflow_provider_nexthink.hooks.nexthink import NexthinkHook

Check = tuple[str, str, str]
"""What is checked; ``ok``, ``failed``, ``not set`` or ``not tried``; and what was found."""

_OK, _FAILED, _NOT_SET, _NOT_TRIED = "ok", "failed", "not set", "not tried"


def check(arguments: argparse.Namespace, out: TextIO) -> int:
    """Print the checks of a connection. Deletes nothing; the tables of a ledger are made, if it has none.

    :param arguments: ``conn_id``, ``output``.
    :param out: where to print.
    :return: the exit code: 1 if a check failed.
    """
    with nexthink_hook(arguments.conn_id) as hook:
        checks = list(_checks(hook))
    print_rows(
        [{"check": name, "result": result, "detail": " ".join(detail.split())} for name, result, detail in checks],
        ("check", "result", "detail"),
        arguments.output,
        out,
    )
    return FAILED if any(result == _FAILED for _, result, _ in checks) else OK


def _checks(hook: NexthinkHook) -> Iterator[Check]:
    from airflow_provider_nexthink.hooks.nexthink import unknown_extras

    try:
        client = hook.get_conn()
    except NexthinkInputError as error:
        yield "connection", _FAILED, str(error)
        return
    if unknown := unknown_extras(hook.get_connection(hook.nexthink_conn_id).extra_dejson):
        yield "connection", _FAILED, f"unknown extras, which have no effect: {', '.join(unknown)}. A typo?"
    else:
        yield "connection", _OK, f"{client.settings.instance} ({client.settings.base_url})"
    yield from _permissions(client)
    yield "policy", _OK, client.policy.describe()
    yield from _ledger(client)


def _permissions(client: NexthinkClient) -> Iterator[Check]:
    try:
        permissions = client.check_permissions()
    except NexthinkError as error:
        yield "token", _FAILED, str(error)
        yield "NQL API", _NOT_TRIED, ""
        yield "Data management", _NOT_TRIED, ""
        return
    yield "token", _OK, "Nexthink gives a token"
    for name, found in permissions.items():
        yield name, _OK if found == "permitted" else _FAILED, found


def _ledger(client: NexthinkClient) -> Iterator[Check]:
    from airflow_provider_nexthink.ledger.quota import Quota, quota_used

    policy = client.policy
    quota = Quota.of(policy.quota_devices, policy.quota_days)
    used = 0
    try:
        database = client.ledger
        if database is not None:
            with database.locked() as (connection, now):  # which writes
                used = quota_used(connection, quota, now) if quota else 0
    except NexthinkError as error:
        yield "ledger", _FAILED, str(error)
        if quota:
            yield "quota", _NOT_TRIED, "it is in the ledger"
        return
    if database is None:
        yield "ledger", _NOT_SET, "no ledger_conn_id: no memory between runs"
        return
    yield "ledger", _OK, f"{policy.ledger_conn_id} ({database.dialect}) can be read and written"
    if quota is None:
        yield "quota", _NOT_SET, "no quota_devices: no limit over all runs"
        return
    says = "{left} devices left: {used} of {devices} in {days} days are used"
    yield "quota", _OK, says.format(**quota.as_dict(used))
