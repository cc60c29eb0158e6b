"""``sandbox``: a local Nexthink tenant, until Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import threading
from typing import TextIO

from airflow_provider_nexthink.cli.run import OK
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.sandbox.server import Sandbox

_OPTIONS = ("devices", "stale", "seed", "port", "removal_delay", "max_batch")


def sandbox(arguments: argparse.Namespace, out: TextIO) -> int:
    """Start the sandbox, print how to use it, and wait.

    :param arguments: ``devices``, ``stale``, ``seed``, ``port``, ``removal_delay``, ``max_batch``.
    :param out: where to print.
    :return: the exit code.
    """
    if arguments.stale > arguments.devices:
        raise NexthinkInputError(f"--stale {arguments.stale} is more than --devices {arguments.devices}.")
    try:
        with Sandbox(**{option: getattr(arguments, option) for option in _OPTIONS}) as started:
            print(_welcome(started), file=out, flush=True)
            threading.Event().wait()
    except OSError as error:
        raise NexthinkInputError(
            f"The sandbox cannot listen on port {arguments.port}: {error.strerror}. --port takes another one."
        ) from None
    except KeyboardInterrupt:
        print("\nStopped.", file=out)
    return OK


def _welcome(started: Sandbox) -> str:
    counts = started.tenant.counts()
    fault = '{"path": "deletions", "kind": "status", "status": 429, "headers": {"retry-after": "3"}}'
    return f"""\
A Nexthink tenant with {counts["devices"]} devices, {counts["stale"]} of them stale, at {started.url}

Use it from Airflow:
  export AIRFLOW_CONN_NEXTHINK_DEFAULT={shlex.quote(started.airflow_connection())}

Show the fleet:
  curl {started.url}/sandbox/fleet

Inject a fault, and clear all faults:
  curl -X POST {started.url}/sandbox/faults -d {shlex.quote(fault)}
  curl -X DELETE {started.url}/sandbox/faults

Move its clock a week forward: devices age, and those queued for deletion are removed:
  curl -X POST {started.url}/sandbox/clock -d '{{"days": 7}}'

Press Ctrl-C to stop it."""
