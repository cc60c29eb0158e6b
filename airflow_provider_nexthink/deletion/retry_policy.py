"""What follows from a response that settles nothing. Pure: an error goes in, an action comes out."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from enum import Enum, auto

from airflow_provider_nexthink.backoff import RETRY_AFTER_CAP_SECONDS, full_jitter, wait_before_retry
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
    """What follows from a response that settles nothing."""

    RETRY = auto()
    """The same batch once more, after a wait."""
    THROTTLE = auto()
    """The whole run waits, then the same batch once more."""
    HALVE = auto()
    """Smaller batches from now on."""
    SPLIT = auto()
    """Two batches instead of one, to find the device that is refused."""
    REJECT = auto()
    """It is this device."""
    GIVE_UP = auto()
    """No clear response, also after the retries."""
    ABORT = auto()
    """The run ends."""


@dataclass(frozen=True)
class Step:
    """What to do now.

    :param action: what follows.
    :param wait: seconds before that.
    """

    action: Action
    wait: float = 0.0


def next_step(error: BaseException, *, size: int, unanswered: int, limited: int, rng: random.Random) -> Step:
    """Decide what follows from a request that ended without a clear 202.

    :param error: what it ended with.
    :param size: how many devices the batch has.
    :param unanswered: how many times this batch has ended without a response to rely on, this time included.
    :param limited: how many times it was answered 429, this time included.
    :param rng: the source of chance.
    """
    if isinstance(error, NexthinkRateLimitError):
        wait = max(error.retry_after or 0.0, full_jitter(limited, rng))
        return Step(Action.THROTTLE, wait) if wait <= RETRY_AFTER_CAP_SECONDS else Step(Action.ABORT)
    if isinstance(error, NexthinkBatchSizeError):
        return Step(Action.HALVE if size > 1 else Action.ABORT)
    if isinstance(error, NexthinkInvalidRequestError):
        return Step(Action.SPLIT if size > 1 else Action.REJECT)
    if isinstance(error, NexthinkUnavailableError):
        retry = wait_before_retry(unanswered, error.retry_after, rng)
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
"""The log level of each action, and its words at the end of a log line."""


def reason_of(error: BaseException) -> str:
    """Return the cause of an error in a few words: they are in every row that it is the reason of.

    :param error: any.
    """
    if isinstance(error, NexthinkApiError) and error.status:
        return f"{error.status} {error.code}" if error.code else str(error.status)
    if isinstance(error, NexthinkError):
        return error.reason or str(error.args[0])[:_PREVIEW_CHARACTERS].rstrip(". ")
    return f"{type(error).__name__}: {error}"[:_PREVIEW_CHARACTERS].rstrip(": ")
