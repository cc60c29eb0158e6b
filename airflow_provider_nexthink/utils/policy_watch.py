"""The red button: a policy that forbids deletions, set on the connection while a run is going, ends that run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.policy import ALLOWED, DeletionPolicy
from airflow_provider_nexthink.exceptions import NexthinkInputError, NexthinkPolicyError
from airflow_provider_nexthink.utils.task_state import timeout_deferred
from airflow_provider_nexthink.version_compat import AirflowNotFoundException

LOOK_SECONDS = 20.0
"""How often the connection is read while a run is going."""

log = logging.getLogger(__name__)


class PolicyWatch:
    """Reads the policy of a connection again and again, and ends the run once it forbids deletions.

    :param read: reads the policy as it is now; called by the thread that calls ``look``.
    :param clock: time.
    """

    def __init__(self, read: Callable[[], DeletionPolicy], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._looked_at = -inf
        self._has_warned = False
        self._reason = ""  # why the run must end, for the rows
        self._message = ""

    def check(self) -> None:
        """Say whether the run may go on. For any thread.

        :raises NexthinkPolicyError: if not.
        """
        if self._message:
            error = NexthinkPolicyError(self._message)
            error.reason = self._reason
            raise error

    def look(self) -> None:
        """Read the policy, if the last time is long enough ago. For the thread that may call Airflow.

        A connection that cannot be read just now is a warning: the run was allowed when it began. One that is deleted
        ends the run.
        """
        now = self._clock.monotonic()
        if now - self._looked_at < LOOK_SECONDS or self._message:
            return
        self._looked_at = now
        try:
            with timeout_deferred():
                policy = self._read()
        except AirflowNotFoundException:
            self._refuse("the connection was deleted while the run was going")
        except NexthinkInputError as error:  # in doubt, nothing is deleted
            self._refuse("the policy of the connection cannot take effect any more", str(error))
        except Exception as error:  # noqa: BLE001 - of any secrets backend
            if not self._has_warned:
                log.warning(
                    "The connection cannot be read just now (%s: %s): whether its policy still allows deletions is not "
                    "known, and the run continues.",
                    type(error).__name__,
                    error,
                )
            self._has_warned = True
        else:
            if policy.deletions != ALLOWED:
                self._refuse(f"the connection was set to deletions={policy.deletions} while the run was going")

    def _refuse(self, reason: str, detail: str = "") -> None:
        sentences = [f"No other batch is sent: {reason}.", detail, "What was sent before is in the outcome table."]
        self._reason = reason
        self._message = " ".join(filter(None, sentences))  # last: other threads read it
