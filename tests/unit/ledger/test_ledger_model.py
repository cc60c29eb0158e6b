"""The ledger against a plain model of its rules: reservations, partial sends, losses, retries, waits, in any order."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from sqlalchemy import create_engine

from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.ledger.quota import Quota, quota_used
from airflow_provider_nexthink.ledger.reservation import LOST_AFTER
from airflow_provider_nexthink.status import Status
from tests.support.fake_time import FakeTime
from tests.support.ledgers import StepwiseRun, database_of, origin_of, rows_of

QUOTA = Quota(devices=12, days=3)
TASKS = 3
SENT = (Status.SCHEDULED, Status.INVALID, Status.FAILED, Status.UNKNOWN)


def outcomes_for(devices: list[int]) -> Outcomes:
    uids: list[Any] = [f"00000000-0000-4000-8000-{device:012d}" for device in devices]
    return Outcomes(make_plan(DeviceRows(uids, [f"PC-{device}" for device in devices], "uid", "name")))


@dataclass(eq=False)
class ModelRun:
    """What the rules say of a run.

    :param task: which task.
    :param devices: in the order of the run.
    :param released: how many of them may be sent.
    """

    task: int
    devices: list[int]
    released: int
    step: StepwiseRun
    heard_at: float
    state: str = "RUNNING"
    finished_at: float | None = None
    recorded: dict[int, str] = field(default_factory=dict)
    """The status of each device, by its place, that the ledger knows."""
    attempted: int = 0
    """So many devices, in order, have been sent."""

    def holds(self, at: int) -> bool:
        """Return whether a device counts, unless a later try of the task asks for it again."""
        return self.recorded.get(at) != "NOT_SENT"

    def close(self, now: float) -> None:
        if self.state == "RUNNING":
            self.state, self.finished_at = "LOST", min(now, self.heard_at + LOST_AFTER.total_seconds())
            for at in range(self.released, len(self.devices)):
                self.recorded.setdefault(at, "NOT_SENT")


class LedgerMachine(RuleBasedStateMachine):
    """Each rule is one transaction of one process."""

    alive = Bundle("alive")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.time = FakeTime()
        self.engine = create_engine(f"sqlite:///{Path(self.folder.name, 'ledger.db')}")
        self.database = database_of(self.engine, self.time.clock())
        self.database.open()
        self.runs: list[ModelRun] = []
        self.has_woken = False

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            self.folder.cleanup()

    # The rules of the model

    def counts(self, run: ModelRun, at: int) -> bool:
        """Return whether a device counts: this is the latest try of its task that has asked for it, or may have."""
        device = run.devices[at]
        return run.holds(at) and not any(
            later.task == run.task and device in later.devices and later.holds(later.devices.index(device))
            for later in self.runs[self.runs.index(run) + 1 :]
        )

    def charged(self, run: ModelRun) -> int:
        return sum(self.counts(run, at) for at in range(len(run.devices)))

    def used(self) -> int:
        return sum(
            self.charged(run)
            for run in self.runs
            if run.finished_at is None or run.finished_at > self.time.seconds - QUOTA.days * 86_400
        )

    # What processes do

    @rule(
        target=alive,
        task=st.integers(0, TASKS - 1),
        devices=st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True),
        released=st.integers(0, 6),
        knows_earlier=st.booleans(),
    )
    def reserve(self, task: int, devices: list[int], released: int, knows_earlier: bool) -> Any:
        now = self.time.seconds
        undo = [(run, run.state, run.finished_at, dict(run.recorded)) for run in self.runs]
        for run in self.runs:
            is_silent = run.heard_at < now - LOST_AFTER.total_seconds()
            if run.task == task or is_silent:
                run.close(now)
        earlier = None
        if knows_earlier:
            earlier = self.learn(task)
        step = StepwiseRun(self.database, outcomes_for(devices), origin_of(f"run-{task}"))
        run = ModelRun(task, devices, min(released, len(devices)), step, heard_at=now)
        self.runs.append(run)
        fits = self.used() <= QUOTA.devices
        left = QUOTA.devices - (self.used() - len(devices))
        try:
            step.reserve(released=released, quota=QUOTA, earlier=earlier)
        except NexthinkGuardError as error:
            assert not fits
            assert (error.planned, error.limit) == (len(devices), max(0, left))
            self.runs.pop()
            for each, state, finished_at, recorded in undo:
                each.state, each.finished_at, each.recorded = state, finished_at, recorded
            return multiple()
        assert fits
        return run

    def learn(self, task: int) -> Outcomes | None:
        """Return what the checkpoint of a task knows: the table of the latest try; the ledger learns it, too."""
        run = next((run for run in reversed(self.runs) if run.task == task), None)
        if run is None:
            return None
        table, found = run.step.outcomes, []
        for earlier in self.runs:
            if earlier.task == task:
                found += [
                    (earlier, at, table.status[run.devices.index(device)].value)
                    for at, device in enumerate(earlier.devices)
                    if device in run.devices
                    and self.counts(earlier, at)
                    and table.status[run.devices.index(device)] is not Status.NOT_SENT
                ]
        found = [each for each in found if each[2] != "NOT_SENT"]  # which may be about a later try
        for earlier, at, status in found:
            earlier.recorded.setdefault(at, status)
        return table

    @rule(run=alive, count=st.integers(1, 3), status=st.sampled_from(SENT), released=st.integers(0, 6))
    def send(self, run: ModelRun, count: int, status: Status, released: int) -> None:
        """Send some devices, within what is released, and record those that are settled."""
        places = range(run.attempted, min(run.attempted + count, run.released))
        run.step.settle(status, places)
        run.attempted = max(run.attempted, places.stop)
        wanted = max(run.released, min(released, len(run.devices)))
        settled = places if status in (Status.SCHEDULED, Status.INVALID) else range(0)
        is_running = run.step.keep(settled, released=wanted)
        assert is_running == (run.state == "RUNNING")
        if is_running:
            run.released, run.heard_at = wanted, self.time.seconds
        for at in settled:
            run.recorded.setdefault(at, status.value)

    @rule(run=consumes(alive))
    def finish(self, run: ModelRun) -> None:
        for at in range(len(run.devices)):
            run.recorded.setdefault(at, run.step.outcomes.status[at].value)
        # A process that was suspended, and wakes, may send what was released long ago: it counts from now on.
        self.has_woken |= run.state == "LOST"
        run.state, run.finished_at = "FINISHED", self.time.seconds
        run.step.finish()

    @rule(run=consumes(alive))
    def kill(self, run: ModelRun) -> None:
        """End a process: it says nothing more."""

    @rule(minutes=st.sampled_from([1, 9, 11, 60, 1439, 1440, 3 * 1440]))
    def wait(self, minutes: int) -> None:
        self.time.seconds += minutes * 60

    # What the ledger says

    @invariant()
    def ledger_is_as_the_rules_say(self) -> None:
        if not hasattr(self, "engine"):
            return
        rows = rows_of(self.engine, "runs")
        assert [(row["state"], row["charged"], row["released"]) for row in rows] == [
            (run.state, self.charged(run), run.released) for run in self.runs
        ]
        assert [row["finished_at"] for row in rows] == [
            run.finished_at if run.finished_at is None else self.time.start + timedelta(seconds=run.finished_at)
            for run in self.runs
        ]
        expected = [
            (run.step.run_id, at, run.step.outcomes.uid[at], run.recorded.get(at, "REQUESTED"))
            for run in self.runs
            for at in range(len(run.devices))
        ]
        devices = rows_of(self.engine, "deletions")
        assert [(row["run_id"], row["seq"], row["uid"], row["status"]) for row in devices] == expected

    @invariant()
    def quota_is_never_exceeded(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self.engine.connect() as connection:
            used = quota_used(connection, QUOTA, self.time.now())
        assert used == self.used()
        assert used <= QUOTA.devices or self.has_woken


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, report_multiple_bugs=False)
TestLedgerModel = pytest.mark.slow(LedgerMachine.TestCase)
