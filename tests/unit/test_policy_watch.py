"""The red button: what is set on the connection while a run is going."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_nexthink.deletion.policy import DeletionPolicy
from airflow_provider_nexthink.exceptions import NexthinkPolicyError
from airflow_provider_nexthink.utils.policy_watch import LOOK_SECONDS, PolicyWatch
from tests.support.fake_time import FakeTime


class Connection:
    """A connection with a policy, and how often it was read."""

    def __init__(self) -> None:
        self.extras: dict[str, object] = {}
        self.error: Exception | None = None
        self.reads = 0

    def read(self) -> DeletionPolicy:
        self.reads += 1
        if self.error:
            raise self.error
        return DeletionPolicy.resolve(self.extras)


def watch_of(connection: Connection) -> tuple[PolicyWatch, FakeTime]:
    time = FakeTime()
    return PolicyWatch(connection.read, time.clock()), time


def test_policy_watch_reads_the_connection_at_intervals_only() -> None:
    watch, time = watch_of(connection := Connection())
    for _ in range(100):
        watch.look()
        time.seconds += 1.0
    assert connection.reads == 5  # the first one before the first request
    assert LOOK_SECONDS == 20.0
    watch.check()


@pytest.mark.parametrize("deletions", ["off", "dry_run_only"])
def test_policy_watch_with_deletions_forbidden_ends_the_run_for_good(deletions: str) -> None:
    watch, time = watch_of(connection := Connection())
    connection.extras = {"deletions": deletions}
    watch.check()
    time.seconds += LOOK_SECONDS
    watch.look()
    connection.extras = {}
    time.seconds += LOOK_SECONDS
    watch.look()
    with pytest.raises(NexthinkPolicyError, match="No other batch is sent: the connection was set to ") as raised:
        watch.check()
    assert raised.value.reason == f"the connection was set to deletions={deletions} while the run was going"


def test_policy_watch_with_a_policy_that_cannot_be_right_ends_the_run() -> None:
    watch, time = watch_of(connection := Connection())
    connection.extras = {"deletions": "of"}
    time.seconds += LOOK_SECONDS
    watch.look()
    with pytest.raises(NexthinkPolicyError, match="The extra deletions of the connection is 'of'"):
        watch.check()


def test_policy_watch_with_an_unreadable_connection_warns_once_and_keeps_looking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, time = watch_of(connection := Connection())
    connection.error = RuntimeError("no response")
    for _ in range(3):
        time.seconds += LOOK_SECONDS
        watch.look()
        watch.check()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "RuntimeError: no response" in caplog.text
    connection.error, connection.extras = None, {"deletions": "off"}
    time.seconds += LOOK_SECONDS
    watch.look()
    with pytest.raises(NexthinkPolicyError):
        watch.check()
