"""Runs a command: its errors become a line for people and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import TextIO

from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkPolicyError,
)

OK, FAILED, USAGE = 0, 1, 2
"""The exit codes: good; a check failed, or a limit stops the plan; what was given is wrong."""

_INTERRUPTED = 130
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


def run_function(path: str, arguments: argparse.Namespace) -> int:
    """Run the function of a command; return the exit code.

    :param path: ``module:function``; the function takes the arguments and where to print, and returns the code.
    :param arguments: what was given.
    """
    module, _, name = path.partition(":")
    try:
        with _command_settings() as out:
            code = int(getattr(import_module(module), name)(arguments, out))
            out.flush()
    except NexthinkError as error:
        report(" ".join(str(error).split()))
        is_usage = isinstance(error, NexthinkInputError) and not isinstance(
            error, NexthinkGuardError | NexthinkPolicyError
        )
        return USAGE if is_usage else FAILED
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        return OK
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


@contextmanager
def _command_settings() -> Iterator[TextIO]:
    """Set Airflow up for a command, as its own commands do; give where to print.

    Logs and warnings are kept out of the output, and connections are found in Airflow's database, too, which is not for
    tasks (Airflow's ``connections test`` sets the same variable).
    """
    out = sys.stdout
    context = os.environ.get(_CONTEXT)
    try:
        os.environ[_CONTEXT] = "server"
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield out
    finally:
        logging.disable(logging.NOTSET)
        if context is None:
            del os.environ[_CONTEXT]
        else:
            os.environ[_CONTEXT] = context


def report(line: str) -> None:
    """Say something to the person, beside the output.

    :param line: what to say.
    """
    print(line, file=sys.stderr, flush=True)
