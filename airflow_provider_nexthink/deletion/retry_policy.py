"""The retry policy: which action an error calls for. Pure: an error goes in, an action comes out."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from enum import Enum, auto

from airflow_provider_nexthink.backoff import RETRY_AFTER_CAP_SECONDS, jittered_backoff, wait_before_retry
from airflow_provider_nexthink.exceptions import (
    NexthinkApiError,
    NexthinkBatchSizeError,
    NexthinkError,
    NexthinkInvalidRequestError,
    NexthinkRateLimitError,
    NexthinkUnavailableError,
)

_PREVIEW_CHARACTERS = 200


class Action(Enum):
    """What to do after a request that settled nothing."""

    RETRY = auto()
    """The same batch once more, after a wait."""
    THROTTLE = auto()
    """The whole run waits, then the same batch once more."""
    HALVE = auto()
    """Smaller batches from now on."""
    SPLIT = auto()
    """The batch in two halves, to isolate the device that is refused."""
    REJECT = auto()
    """This very device is refused."""
    GIVE_UP = auto()
    """Still ambiguous, or not sent, after the last retry."""
    ABORT = auto()
    """The run ends."""


@dataclass(frozen=True)
class Step:
    """What to do now.

    :param action: the action.
    :param wait: seconds before that.
    """

    action: Action
    wait: float = 0.0


def next_step(error: BaseException, *, size: int, ambiguous: int, limited: int, rng: random.Random) -> Step:
    """Return the action that an error calls for.

    :param error: what the request ended with.
    :param size: how many devices the batch has.
    :param ambiguous: how many requests of this batch have failed or got an ambiguous response, this one included.
    :param limited: how many of them got a 429, this one included.
    :param rng: the source of chance.
    """
    if isinstance(error, NexthinkRateLimitError):
        wait = max(error.retry_after or 0.0, jittered_backoff(limited, rng))
        return Step(Action.THROTTLE, wait) if wait <= RETRY_AFTER_CAP_SECONDS else Step(Action.ABORT)
    if isinstance(error, NexthinkBatchSizeError):
        return Step(Action.HALVE if size > 1 else Action.ABORT)
    if isinstance(error, NexthinkInvalidRequestError):
        return Step(Action.SPLIT if size > 1 else Action.REJECT)
    if isinstance(error, NexthinkUnavailableError):
        retry = wait_before_retry(ambiguous, min(error.retry_after or 0.0, RETRY_AFTER_CAP_SECONDS), rng)
        return Step(Action.GIVE_UP) if retry is None else Step(Action.RETRY, retry)
    return Step(Action.ABORT)


FOLLOWS: dict[Action, tuple[int, str]] = {
    Action.RETRY: (logging.INFO, "retry in {wait:.1f} s"),
    Action.THROTTLE: (logging.INFO, "retry after a pause of {wait:.1f} s"),
    Action.HALVE: (logging.INFO, "retry in smaller batches, as all that follow"),
    Action.SPLIT: (logging.INFO, "retry in two parts, to find the device that is refused"),
    Action.REJECT: (logging.WARNING, "this device is refused"),
    Action.GIVE_UP: (logging.WARNING, "no further retry"),
    Action.ABORT: (logging.WARNING, "no other batch is sent"),
}
"""The log level of each action, and how a log line describes it."""


def reason_of(error: BaseException) -> str:
    """Return the cause of an error in a few words, for the reason of each row.

    :param error: any error.
    """
    if isinstance(error, NexthinkApiError) and error.status and not error.reason:
        return f"{error.status} {error.code}" if error.code else str(error.status)
    if isinstance(error, NexthinkError):
        return error.reason or str(error.args[0])[:_PREVIEW_CHARACTERS].rstrip(". ")
    return type(error).__name__  # its text may hold what belongs in no table
