"""``python -m airflow_provider_nexthink.sandbox``: run the sandbox until Ctrl-C."""

import argparse
import shlex
import threading

from airflow_provider_nexthink.sandbox.server import Sandbox


def main() -> None:
    """Parse the arguments, start the sandbox, print how to use it, and wait."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_nexthink.sandbox",
        description="A local Nexthink tenant with a generated fleet. It deletes nothing real.",
    )
    parser.add_argument("--devices", type=_count, default=5000, help="devices in the fleet (%(default)s)")
    parser.add_argument("--stale", type=_count, default=400, help="devices not seen for 90 days or more (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the generated fleet (%(default)s)")
    parser.add_argument("--port", type=_port, default=8765, help="port to listen on; 0 for any free one (%(default)s)")
    parser.add_argument(
        "--removal-delay",
        type=_seconds,
        default=5.0,
        help="seconds until a queued device is removed (%(default)s)",
    )
    parser.add_argument(
        "--max-batch", type=_positive, default=100, help="maximum number of devices in a deletion request (%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.stale > arguments.devices:
        parser.error(f"--stale {arguments.stale} is more than --devices {arguments.devices}")

    try:
        with Sandbox(**vars(arguments)) as sandbox:
            print(_welcome(sandbox), flush=True)
            threading.Event().wait()
    except OSError as error:
        parser.error(f"cannot listen on port {arguments.port}: {error.strerror}")
    except KeyboardInterrupt:
        print("\nStopped.")


def _welcome(sandbox: Sandbox) -> str:
    counts = sandbox.tenant.counts()
    fault = '{"path": "deletions", "kind": "status", "status": 429, "headers": {"retry-after": "3"}}'
    return f"""\
A Nexthink tenant with {counts["devices"]} devices, {counts["stale"]} of them stale, at {sandbox.url}

Use it from Airflow:
  export AIRFLOW_CONN_NEXTHINK_DEFAULT={shlex.quote(sandbox.airflow_connection())}

Show the fleet:
  curl {sandbox.url}/sandbox/fleet

Inject a fault, and clear all faults:
  curl -X POST {sandbox.url}/sandbox/faults -d {shlex.quote(fault)}
  curl -X DELETE {sandbox.url}/sandbox/faults

Move its clock a week forward: devices age, and those queued for deletion are removed:
  curl -X POST {sandbox.url}/sandbox/clock -d '{{"days": 7}}'

Press Ctrl-C to stop it."""


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return value


if __name__ == "__main__":
    main()
