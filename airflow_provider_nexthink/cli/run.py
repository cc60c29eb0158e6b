"""Runs a command: its errors become a line for people and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkGuardError,
    NexthinkInputError,
    NexthinkPolicyError,
)

OK, FAILED, USAGE = 0, 1, 2
"""The exit codes: good; a check failed, or a limit stops the plan; what was given is wrong."""

_INTERRUPTED = 130


def run_function(path: str, arguments: argparse.Namespace) -> int:
    """Run the function of a command; return the exit code.

    :param path: ``module:function``; the function takes the arguments and returns the code.
    :param arguments: what was given.
    """
    module, _, name = path.partition(":")
    try:
        code = int(getattr(import_module(module), name)(arguments))
        sys.stdout.flush()
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


def report(line: str) -> None:
    """Say something to the person, beside the output.

    :param line: what to say.
    """
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
