"""The commands and their arguments. Light: Airflow imports this module for each of its own commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


class Argument(NamedTuple):
    """An argument of a command.

    :param flags: its name, or its flags: the short one before the long one.
    :param options: as ``ArgumentParser.add_argument`` takes them.
    """

    flags: tuple[str, ...]
    options: dict[str, Any]


class Command(NamedTuple):
    """A command, or a group of commands.

    :param name: what is typed.
    :param help: what it does, in a line.
    :param arguments: of a command.
    :param run: the module and the function that run it, ``module:function``; empty for a group.
    :param commands: of a group.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    run: str = ""
    commands: tuple[Command, ...] = ()


def _argument(*flags: str, **options: Any) -> Argument:
    return Argument(flags, options)


def _number(convert: Callable[[str], float], least: float, most: float, takes: str) -> Callable[[str], float]:
    """Return what reads a number of the command line.

    :param convert: ``int`` or ``float``.
    :param least: the smallest number allowed.
    :param most: the largest number allowed.
    :param takes: what is allowed, in words.
    """

    def read(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} must be {takes}")
        return value

    return read


_MANY = sys.maxsize
_COUNT = _number(int, 0, _MANY, "a whole number, 0 or more")


def _output(default: str) -> Argument:
    return _argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml", "plain"),
        metavar="(table, json, yaml, plain)",
        help=f"Output format. Allowed values: json, yaml, plain, table (default: {default})",
    )


_OUTPUT = _output("table on a terminal, else plain")
_LEDGER_OUTPUT = _output("text for people")
_LEDGER = _argument(
    "ledger", help="A connection of Airflow (that of Nexthink, or that of the ledger), or a URL of SQLAlchemy"
)

NEXTHINK = Command(
    "nexthink",
    "Check a Nexthink connection, plan a deletion, ask the ledger, start a sandbox",
    commands=(
        Command(
            "check",
            "Check a connection: token, permissions, policy, ledger, quota. Deletes nothing",
            (_argument("conn_id", help="The id of a connection of the type nexthink"), _OUTPUT),
            "airflow_provider_nexthink.cli.check:check",
        ),
        Command(
            "plan",
            "Show what would become of each device of a list, and why. Sends nothing",
            (
                _argument("file", help="The list: a .csv, .jsonl or .parquet file, local or on object storage"),
                _argument(
                    "-c",
                    "--conn-id",
                    default="nexthink_default",
                    help="The Nexthink connection, whose policy and ledger limit the plan (default: %(default)s)",
                ),
                _argument(
                    "-e",
                    "--exclude",
                    action="append",
                    default=[],
                    metavar="GLOB_OR_UID",
                    help="Devices that are never sent: a glob on the name, or a uid; may be given several times",
                ),
                _argument("-p", "--protect", metavar="FILE", help="A file with devices that are never sent"),
                _argument(
                    "-m",
                    "--max-devices",
                    type=_COUNT,
                    default=1000,
                    help="How many devices may be sent at most (default: %(default)s)",
                ),
                _argument("-u", "--uid-column", help="The column with the uid (default: found by its name)"),
                _argument("-n", "--name-column", help="The column with the name (default: found by its name)"),
                _OUTPUT,
            ),
            "airflow_provider_nexthink.cli.plan:plan",
        ),
        Command(
            "ledger",
            "Ask the ledger who deleted what, when and why, and what became of it",
            commands=(
                Command(
                    "history",
                    "Who deleted a device, when and why, and what became of it",
                    (_LEDGER, _argument("device", help="The uid of a device, or its name"), _LEDGER_OUTPUT),
                    "airflow_provider_nexthink.cli.ledger:history",
                ),
                Command(
                    "report",
                    "Seats won, what is still there, what came back, quarantine, quota",
                    (_LEDGER, _LEDGER_OUTPUT),
                    "airflow_provider_nexthink.cli.ledger:report",
                ),
                Command(
                    "prune",
                    "Remove uids, names and reasons of devices; all counts stay",
                    (
                        _LEDGER,
                        _argument(
                            "-d",
                            "--older-than-days",
                            type=_number(float, 0, 36500, "a number of days, 0 or more"),
                            required=True,
                            help="Of runs that ended so many days ago",
                        ),
                        _LEDGER_OUTPUT,
                    ),
                    "airflow_provider_nexthink.cli.ledger:prune",
                ),
            ),
        ),
        Command(
            "sandbox",
            "Start a local Nexthink tenant with a generated fleet. It deletes nothing real",
            (
                _argument("-d", "--devices", type=_COUNT, default=5000, help="Devices in the fleet (%(default)s)"),
                _argument(
                    "-s",
                    "--stale",
                    type=_COUNT,
                    default=400,
                    help="Devices not seen for 90 days or more (%(default)s)",
                ),
                _argument("--seed", type=int, default=1, help="Seed of the generated fleet (%(default)s)"),
                _argument(
                    "-p",
                    "--port",
                    type=_number(int, 0, 65535, "a port, from 0 to 65535"),
                    default=8765,
                    help="Port to listen on; 0 for any free one (%(default)s)",
                ),
                _argument(
                    "--removal-delay",
                    type=_number(float, 0, _MANY, "a number of seconds, 0 or more"),
                    default=5.0,
                    help="Seconds until a queued device is removed (%(default)s)",
                ),
                _argument(
                    "--max-batch",
                    type=_number(int, 1, _MANY, "a whole number, 1 or more"),
                    default=100,
                    help="Maximum number of devices in a deletion request (%(default)s)",
                ),
            ),
            "airflow_provider_nexthink.cli.sandbox:sandbox",
        ),
    ),
)


def get_nexthink_cli_commands() -> list[CLICommand]:
    """Return the commands as Airflow 3.2 and newer add them to ``airflow``."""
    return [_for_airflow(NEXTHINK)]


def _for_airflow(command: Command) -> CLICommand:
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    if command.commands:
        return GroupCommand(command.name, command.help, [_for_airflow(each) for each in command.commands])

    def run_and_exit(arguments: argparse.Namespace) -> None:
        sys.exit(run(command, arguments))

    return ActionCommand(
        command.name,
        command.help,
        run_and_exit,
        [Arg(each.flags, **each.options) for each in command.arguments],  # type: ignore[no-untyped-call]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command without Airflow's own command line; return the exit code.

    :param arguments: those of the command line; None for those of this process.
    :raises SystemExit: with the code 2 if they are wrong.
    """
    given = make_parser().parse_args(arguments)
    return run(given.command, given)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments without Airflow's own command line."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_nexthink", description=NEXTHINK.help)
    _add(parser, NEXTHINK.commands)
    return parser


def _add(parser: argparse.ArgumentParser, commands: Sequence[Command]) -> None:
    group = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in commands:
        added = group.add_parser(command.name, help=command.help, description=command.help)
        added.set_defaults(command=command)
        for argument in command.arguments:
            added.add_argument(*argument.flags, **argument.options)
        if command.commands:
            _add(added, command.commands)


def run(command: Command, arguments: argparse.Namespace) -> int:
    """Run a command; return the exit code.

    :param command: the command.
    :param arguments: what was given.
    """
    from airflow_provider_nexthink.cli.run import run_function

    return run_function(command.run, arguments)
