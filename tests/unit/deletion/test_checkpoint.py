"""What a later try finds of the tries before it."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion import checkpoint as checkpoint_module
from airflow_provider_nexthink.deletion import journal as journal_module
from airflow_provider_nexthink.deletion.checkpoint import (
    SAVE_EVERY_RESPONSES,
    Checkpoint,
)
from airflow_provider_nexthink.deletion.journal import LOST, EarlierTries, fingerprint
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan, make_plan
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import (
    NexthinkError,
    NexthinkInputError,
    NexthinkPermissionError,
    NexthinkTryOverError,
)
from airflow_provider_nexthink.status import RESUMABLE, Status
from tests.support.fake_time import FakeTime
from tests.support.interrupts import Line, TaskTimeout, interrupted_at_new_line
from tests.support.runs import Tenant, device_rows, new_run, unavailable
from tests.support.store import Store

ACME = "https://acme.example"


@dataclass
class Try:
    """One try of a task, as the hook makes it."""

    outcomes: Outcomes
    checkpoint: Checkpoint
    sent_before: int
    error: BaseException | None = None
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def others(self) -> dict[str, int]:
        return self.checkpoint.earlier.counts()


def one_try(
    tenant: Tenant,
    store: Store,
    plan: Plan,
    concurrency: int = 1,
    batch_size: int = 100,
    *,
    where: str = ACME,
    is_killed: bool = False,
) -> Try:
    """One try of a task; a killed one records nothing at its end."""
    outcomes, clock = Outcomes(plan), FakeTime().clock()
    checkpoint = Checkpoint(store, clock)
    this = Try(outcomes, checkpoint, checkpoint.resume(outcomes, plan.to_send, where))
    to_send = [position for position in plan.to_send if outcomes.status[position] is Status.NOT_SENT]
    checkpoint.begin(to_send, tenant=where, instance="acme", uid_column="uid", name_column="name")
    run = new_run(
        outcomes,
        to_send,
        tenant.send,
        batch_size,
        concurrency,
        checkpoint=checkpoint,
        last_batch=checkpoint.last_batch,
        clock=clock,
    )
    this.error = run.run()
    if not is_killed:
        checkpoint.finish()
    return this


def earlier_tries(store: Store) -> EarlierTries:
    return Checkpoint(store, FakeTime().clock()).load()


def rows(start: int, stop: int) -> DeviceRows:
    """Devices of a fleet of which each number is another one."""
    every = device_rows(stop)
    return DeviceRows(every.uids[start:], every.names[start:], "uid", "name")


def stopped_after(batches: int) -> list[NexthinkError | None]:
    return [*[None] * batches, NexthinkPermissionError("no", status=403)]


def test_retry_same_list_sends_only_unsettled_rows_and_has_the_whole_table() -> None:
    plan, store = make_plan(device_rows(1000)), Store()
    first = Tenant(stopped_after(3))
    before = one_try(first, store, plan).outcomes
    assert Counter(before.status) == {Status.SCHEDULED: 300, Status.NOT_SENT: 700}
    second = Tenant()
    this = one_try(second, store, plan)
    assert set(this.outcomes.status) == {Status.SCHEDULED}
    assert this.outcomes.rows()[:300] == before.rows()[:300]
    assert set((first.queued + second.queued).values()) == {1}
    assert (this.others, this.sent_before) == ({}, 0)
    assert min(batch for batch in this.outcomes.batch[300:] if batch) == 5  # numbers are not used twice


def test_retry_unsettled_rows_are_sent_again() -> None:
    plan, store = make_plan(device_rows(30)), Store()
    one_try(Tenant([unavailable()] * 5, failing=Counter({"PC-15": 9})), store, plan, batch_size=10)
    second = Tenant()
    outcomes = one_try(second, store, plan, batch_size=10).outcomes
    assert set(outcomes.status) == {Status.SCHEDULED}
    assert sorted(second.queued) == sorted(plan.uids[position] or "" for position in (*range(10), 15))


def test_retry_other_list_sends_no_settled_device_again_and_reports_the_others() -> None:
    store, first, second = Store(), Tenant(stopped_after(2)), Tenant()
    before = one_try(first, store, make_plan(rows(0, 300))).outcomes
    this = one_try(second, store, make_plan(rows(150, 250)))
    assert first.queued.keys() & second.queued.keys() == set()
    assert len(this.outcomes) == 100
    assert set(this.outcomes.status) == {Status.SCHEDULED}
    assert this.outcomes.rows()[:50] == before.rows()[150:200]
    assert this.others == {"SCHEDULED": 150, "NOT_SENT": 50}
    assert this.checkpoint.earlier.rows() == before.rows([*range(150), *range(250, 300)])
    assert this.sent_before == 150


@pytest.mark.parametrize("change", ["name", "tenant"])
def test_retry_device_is_the_same_only_if_tenant_uid_and_name_are(change: str) -> None:
    store, plan = Store(), make_plan(device_rows(3))
    one_try(Tenant(stopped_after(1)), store, plan)
    second = Tenant()
    if change == "name":
        plan = make_plan(DeviceRows(plan.uids, ["PC-0", "PC-1", "renamed"], "uid", "name"))
        this = one_try(second, store, plan)
        assert (list(second.queued), this.others, this.sent_before) == ([plan.uids[2]], {"SCHEDULED": 1}, 0)
    else:
        this = one_try(second, store, plan, where="https://other.example")
        assert (len(second.queued), this.others, this.sent_before) == (3, {"SCHEDULED": 3}, 3)


def test_third_try_knows_the_first_and_the_second() -> None:
    store = Store()
    one_try(Tenant(), store, make_plan(rows(0, 10)))
    one_try(Tenant(failing=Counter({"PC-15": 99})), store, make_plan(rows(10, 20)))
    this = one_try(tenant := Tenant(), store, make_plan(rows(5, 17)))
    assert sorted(tenant.queued) == [make_plan(device_rows(16)).uids[15]]
    assert this.others == {"SCHEDULED": 8}
    assert this.sent_before == 8


def test_killed_try_devices_without_a_recorded_outcome_may_have_been_sent() -> None:
    store = Store()
    tenant = Tenant()
    tenant.hook = lambda: setattr(store, "broken", len(tenant.sent) > 2)  # what comes after is never recorded
    one_try(tenant, store, make_plan(rows(0, 1000)), is_killed=True)
    store.broken = False
    earlier = earlier_tries(store)
    assert earlier.counts()["UNKNOWN"] == 1000 - earlier.counts().get("SCHEDULED", 0)
    assert {row["reason"] for row in earlier.rows() if row["status"] == "UNKNOWN"} == {LOST}
    assert "what was sent is not known here" in LOST
    this = one_try(Tenant(), store, make_plan(rows(1000, 1002)))
    assert this.sent_before == 1000
    assert len(this.outcomes) == 2


def test_ended_try_devices_that_never_left_count_in_no_limit() -> None:
    store = Store()
    one_try(Tenant([None, None, *[unavailable()] * 5, *stopped_after(0)]), store, make_plan(rows(0, 1000)))
    earlier = earlier_tries(store)
    assert earlier.counts() == {"SCHEDULED": 200, "UNKNOWN": 100, "NOT_SENT": 700}
    assert one_try(Tenant(), store, make_plan(rows(1000, 1001))).sent_before == 300


def test_retry_row_before_whose_turn_it_ends_keeps_its_earlier_outcome() -> None:
    plan, store = make_plan(device_rows(30)), Store()
    before = one_try(Tenant([unavailable()] * 5), store, plan, batch_size=10).outcomes
    assert Counter(before.status) == {Status.UNKNOWN: 10, Status.SCHEDULED: 20}
    for _ in range(2):
        this = one_try(Tenant(stopped_after(0)), store, plan, batch_size=10)
        assert this.outcomes.rows() == before.rows()
        assert earlier_tries(store).counts() == {"UNKNOWN": 10, "SCHEDULED": 20}


def test_killed_retry_keeps_the_request_of_each_device() -> None:
    plan, store = make_plan(device_rows(10)), Store()
    before = one_try(Tenant([unavailable()] * 5), store, plan).outcomes
    one_try(Tenant([unavailable()] * 5), store, plan, is_killed=True)
    (first, *_) = earlier_tries(store).rows()
    assert (first["status"], first["reason"]) == ("UNKNOWN", LOST)
    assert (first["request_id"], first["attempts"]) == (before.request_id[0], before.attempts[0])


@pytest.mark.slow
@settings(deadline=None)
@given(
    lists=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=4),
    faults=st.lists(st.sampled_from([None, None, "down", "no", "lost"]), max_size=12),
    batch_size=st.integers(1, 9),
    concurrency=st.sampled_from([1, 4]),
    killed=st.lists(st.booleans(), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_killed_try_at_any_moment_has_what_was_sent_in_the_journal(
    lists: list[tuple[int, int]],
    faults: list[str | None],
    batch_size: int,
    concurrency: int,
    killed: list[bool],
    seed: int,
) -> None:
    script: dict[str | None, Callable[[], NexthinkError | None]] = {
        None: lambda: None,
        "down": unavailable,
        "lost": unavailable,
        "no": lambda: NexthinkPermissionError("no", status=403),
    }
    store, sent, moments = Store(), set[str](), list[tuple[dict[str, str], set[str]]]()
    asked: Counter[str] = Counter()
    choose = random.Random(seed)
    for (start, count), is_killed in zip(lists, killed, strict=False):
        tenant = Tenant([script[choose.choice(faults)]() if faults else None for _ in faults])

        def at_each_request(tenant: Tenant = tenant) -> None:
            if not (tenant.script and isinstance(tenant.script[0], NexthinkPermissionError)):  # refused, and not done
                sent.update(device["uid"] for device in tenant.sent[-1][0])
            moments.append((dict(store), set(sent)))

        tenant.hook = at_each_request
        plan = make_plan(rows(start, start + count))
        settled = {(row["uid"], row["name"]) for row in earlier_tries(store).rows() if row["status"] in RESUMABLE}
        this = one_try(tenant, store, plan, concurrency, batch_size, is_killed=is_killed)
        assert len(this.outcomes) == count
        assert not settled & {(device["uid"], device["name"]) for devices, _ in tenant.sent for device in devices}
        sent_now = {device["uid"] for devices, _ in tenant.sent for device in devices}
        listed = {plan.uids[position] for position in plan.to_send}
        assert this.sent_before >= len(sent - sent_now - listed)
        if not any(killed):
            assert this.sent_before == len(sent - listed)
        for uid, status in zip(this.outcomes.uid, this.outcomes.status, strict=True):
            assert uid not in sent or status is not Status.NOT_SENT or is_killed
        asked.update(tenant.queued)
    for kept, sent_by_then in [*moments, (dict(store), sent)]:
        snapshot = Store(kept)
        known = {row["uid"] for row in earlier_tries(snapshot).rows() if row["status"] != "NOT_SENT"}
        assert sent_by_then <= known


def test_fingerprint_differs_by_tenant_and_does_not_contain_it() -> None:
    assert fingerprint("https://a.example\0a") != fingerprint("https://b.example\0a")
    store = Store()
    one_try(Tenant(), store, make_plan(device_rows(3)), where="https://a.example\0a")
    assert "a.example" not in "".join(store.values())


@pytest.mark.slow
def test_checkpoint_of_a_large_run_takes_few_bytes_and_few_calls() -> None:
    choose = random.Random(1)
    count = 100_000
    uids = [f"{choose.getrandbits(128):032x}" for _ in range(count)]
    names = [f"LAPTOP-{choose.randrange(10**6):06d}" for _ in range(count)]
    plan, store = make_plan(DeviceRows(uids, names, "uid", "name")), Store()
    calls: list[int] = []
    tenant = Tenant()
    tenant.hook = lambda: calls.append(store.writes) if not calls else None
    outcomes = one_try(tenant, store, plan).outcomes  # one worker: nothing waits, so no virtual time passes
    assert calls[0] <= 50  # the intent
    assert store.writes - calls[0] <= 1000 / SAVE_EVERY_RESPONSES
    assert sum(len(value) for value in store.values()) / count < 30
    assert max(len(value) for value in store.values()) < 65_535  # beyond, Airflow warns
    assert earlier_tries(store).rows() == outcomes.rows()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["long names", "every other one failed", "every row has a reason of its own"])
def test_checkpoint_no_value_grows_too_large(kind: str) -> None:
    choose = random.Random(1)
    plan, store = make_plan(device_rows(20_000)), Store()
    if kind == "long names":
        names: list[Any] = ["".join(chr(choose.randrange(0x4E00, 0x9FFF)) for _ in range(200)) for _ in range(3000)]
        plan = make_plan(DeviceRows(device_rows(3000).uids, names, "uid", "name"))
    outcomes, clock = Outcomes(plan), FakeTime().clock()
    checkpoint = Checkpoint(store, clock)
    checkpoint.resume(outcomes, plan.to_send, ACME)
    checkpoint.begin(plan.to_send, tenant=ACME, instance="acme")
    for position in plan.to_send:
        if kind == "every row has a reason of its own":
            outcomes.status[position], outcomes.reason[position] = Status.REJECTED, f"{choose.getrandbits(256):x}"
        elif position % 2 and choose.random() < 0.7:
            outcomes.status[position] = Status.FAILED
    checkpoint.finish()
    assert max(len(value) for value in store.values()) < 65_535
    restored = earlier_tries(store)
    assert restored.rows() == outcomes.rows()
    second = Checkpoint(store, clock)
    second.resume(again := Outcomes(plan), plan.to_send, ACME)
    second.begin(plan.to_send[::2], tenant=ACME, instance="acme")
    second.finish()
    assert max(len(value) for value in store.values()) < 65_535
    assert len(again) == len(restored)


def test_store_down_never_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    plan, store = make_plan(device_rows(1000)), Store()
    store.broken = True
    this = one_try(Tenant(), store, plan)
    assert set(this.outcomes.status) == {Status.SCHEDULED}
    assert "cannot be read (RuntimeError: the API server is away)" in caplog.text
    assert "what was sent is not known here" in caplog.text
    assert not this.checkpoint.is_earlier_known


def test_store_down_at_first_keeps_the_records_of_earlier_tries() -> None:
    store = Store()
    before = one_try(Tenant(stopped_after(1)), store, make_plan(device_rows(300))).outcomes
    kept, tenant = dict(store), Tenant()
    store.broken = True
    tenant.hook = lambda: setattr(store, "broken", False)
    one_try(tenant, store, make_plan(rows(300, 900)))
    assert dict(store) == kept
    assert earlier_tries(store).rows() == before.rows()


def test_store_that_comes_back_has_everything_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    plan, store, tenant = make_plan(device_rows(1000)), Store(), Tenant()
    outcomes, clock = Outcomes(plan), FakeTime().clock()
    checkpoint = Checkpoint(store, clock)
    checkpoint.resume(outcomes, plan.to_send, ACME)
    store.broken = True
    checkpoint.begin(plan.to_send, tenant=ACME, instance="acme")
    assert "cannot be recorded just now" in caplog.text
    tenant.hook = lambda: setattr(store, "broken", len(tenant.sent) < 7)
    new_run(outcomes, plan.to_send, tenant.send, 100, 1, checkpoint=checkpoint, clock=clock).run()
    assert earlier_tries(store).rows() == outcomes.rows()


@pytest.mark.parametrize("when", ["at the intent", "later"])
def test_store_that_reports_the_try_as_over_ends_the_run(when: str) -> None:
    class Over(Store):
        def set(self, key: str, value: Any) -> None:
            if when == "at the intent" or "rows" in value:
                raise NexthinkTryOverError("another try has taken its place")
            super().set(key, value)

    tenant, store = Tenant(), Over()
    if when == "at the intent":
        with pytest.raises(NexthinkTryOverError):
            one_try(tenant, store, make_plan(device_rows(5000)))
        assert tenant.sent == []
        return
    this = one_try(tenant, store, make_plan(device_rows(5000)))
    assert isinstance(this.error, NexthinkTryOverError)
    assert len(tenant.sent) <= 3 * SAVE_EVERY_RESPONSES  # of 50
    assert this.checkpoint.is_over
    counts = Counter(this.outcomes.status)
    assert counts[Status.SCHEDULED] == sum(tenant.queued.values())
    this.checkpoint.save()  # it said so once; what follows is quiet
    this.checkpoint.clear()
    assert len(store) > 0


def packed(value: Any) -> str:
    return base64.b85encode(zlib.compress(json.dumps(value).encode())).decode()


GOOD = [[[0, 3]], "SCHEDULED", None, 1, "r", "t", 1, "now"]


@pytest.mark.parametrize(
    "value",
    [
        {"rows": "???"},
        {"rows": packed({})},
        {"rows": packed(None)},
        {"rows": packed([GOOD[:-1]])},
        {"rows": packed([[*GOOD, 1]])},
        {"rows": packed([[[[-5, 3]], *GOOD[1:]]])},
        {"rows": packed([[[[8, 3]], *GOOD[1:]]])},
        {"rows": packed([[[[0, 10**12]], *GOOD[1:]]])},
        {"rows": packed([[GOOD[0], "DELETED", *GOOD[2:]]])},
        {"rows": packed([[GOOD[0], ["SCHEDULED"], *GOOD[2:]]])},
        {"rows": packed([[*GOOD[:3], "one", *GOOD[4:]]])},
        {"rows": packed([[*GOOD[:6], None, "now"]])},
        {"intent": {}},
        {"intent": "all"},
        {},
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_journal_unreadable_is_replaced_with_a_warning(
    value: dict[str, Any], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    plan, store = make_plan(device_rows(10)), Store()
    one_try(Tenant(stopped_after(0)), store, plan)
    journal = store.get("nexthink_deletions_0")["journal"]
    store.set(f"nexthink_deletions_{number}", {"journal": journal, **value})
    this = one_try(tenant := Tenant(), store, plan)
    assert len(tenant.queued) == 10
    assert not this.checkpoint.is_earlier_known
    assert "what was sent is not known here" in caplog.text
    assert earlier_tries(store).rows() == this.outcomes.rows()


@pytest.mark.parametrize("value", ["text", 7, [], {"plan": "0", "run": "1", "answers": "x"}])
def test_journal_value_of_another_type_is_replaced(value: Any) -> None:
    store = Store()
    store.set("nexthink_deletions_0", value)
    this = one_try(tenant := Tenant(), store, make_plan(device_rows(10)))
    assert len(tenant.queued) == 10
    assert earlier_tries(store).rows() == this.outcomes.rows()


def test_journal_values_of_an_older_journal_are_ignored() -> None:
    plan, store = make_plan(device_rows(300)), Store()
    one_try(Tenant(), store, plan, batch_size=1)
    assert len(store) == 4  # the intent, and three parts of rows
    del store["nexthink_deletions_0"]  # as when clearing it was cut off, or its time was up
    one_try(Tenant(stopped_after(1)), store, plan, batch_size=10)
    tenant = Tenant()
    one_try(tenant, store, plan)
    assert len(tenant.queued) == 290


def test_clear_deletes_everything_the_first_value_last() -> None:
    plan, store = make_plan(device_rows(300)), Store()
    one_try(Tenant(stopped_after(150)), store, plan, batch_size=1)
    this = one_try(Tenant(), store, plan, batch_size=1)
    kept = list(store)
    deleted: list[str] = []

    def delete(key: str) -> None:
        deleted.append(key)
        del store[key]

    store.delete = delete  # type: ignore[method-assign]
    this.checkpoint.clear()
    assert store == {}
    assert deleted == sorted(kept, key=lambda key: -int(key.rpartition("_")[2]))
    assert len(earlier_tries(store)) == 0


def test_interrupted_last_save_keeps_the_table_and_is_repeated() -> None:
    class TaskTimeout(BaseException):
        """As Airflow's own timeout is one."""

    interruptions = [TaskTimeout()]

    class Interrupted(Store):
        def set(self, key: str, value: Any) -> None:
            if interruptions and "rows" in value:
                raise interruptions.pop()
            super().set(key, value)

    plan, store = make_plan(device_rows(200)), Interrupted()
    assert set(one_try(Tenant(), store, plan).outcomes.status) == {Status.SCHEDULED}
    tenant = Tenant()
    assert set(one_try(tenant, store, plan).outcomes.status) == {Status.SCHEDULED}
    assert tenant.queued == {}


@given(
    cuts=st.lists(st.integers(0, 30), max_size=4),
    count=st.integers(0, 60),
    batch_size=st.integers(1, 9),
    refused=st.sets(st.integers(0, 59), max_size=3),
    concurrency=st.sampled_from([1, 4]),
)
def test_tries_cut_off_at_random_accept_each_device_once(
    cuts: list[int], count: int, batch_size: int, refused: set[int], concurrency: int
) -> None:
    plan, store = make_plan(device_rows(count)), Store()
    queued: Counter[str] = Counter()
    names = frozenset(f"PC-{number}" for number in refused)
    for cut in cuts:
        tenant = Tenant(stopped_after(cut), refused=names)
        one_try(tenant, store, plan, concurrency, batch_size)
        queued += tenant.queued
    last = Tenant(refused=names)
    outcomes = one_try(last, store, plan, concurrency, batch_size).outcomes
    queued += last.queued
    for position, status in enumerate(outcomes.status):
        expected = Status.REJECTED if position in refused else Status.SCHEDULED
        assert status is expected
        assert queued[plan.uids[position] or ""] == (expected is Status.SCHEDULED)
    assert len(outcomes.rows()) == count


@pytest.mark.slow
@pytest.mark.parametrize("has_store_failed", [False, True])
def test_interrupt_at_any_line_leaves_a_journal_of_every_try(
    has_store_failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "DEVICES_IN_AN_ENTRY", 4)
    monkeypatch.setattr(journal_module, "_RESPONSES_IN_AN_ENTRY", 2)
    monkeypatch.setattr(checkpoint_module, "INDICES_IN_AN_ENTRY", 3)
    before = Store()
    one_try(Tenant([unavailable()] * 5), before, make_plan(rows(0, 6)), batch_size=2)
    known = earlier_tries(before)
    assert known.counts() == {"SCHEDULED": 4, "UNKNOWN": 2}
    plan = make_plan(rows(0, 16))
    seen, number = set[Line](), -1
    while len(seen) > number:
        number = len(seen)
        store, clock = Store(), FakeTime().clock()
        store.update(before)
        outcomes, checkpoint = Outcomes(plan), Checkpoint(store, clock)
        checkpoint.resume(outcomes, plan.to_send, ACME)
        to_send = [position for position in plan.to_send if outcomes.status[position] is Status.NOT_SENT]
        store.broken, has_begun = has_store_failed, False
        try:
            with interrupted_at_new_line(seen, {"checkpoint.py", "journal.py"}, times=1000):
                checkpoint.begin(to_send, tenant=ACME, instance="acme")
                has_begun = True
                store.broken = False
                for start in range(2, 12, 2):  # those before, which are known, are not got to
                    part = to_send[start : start + 2]
                    for position in part:
                        outcomes.status[position], outcomes.batch[position] = Status.SCHEDULED, 9
                        outcomes.request_id[position], outcomes.attempts[position] = "r", 1
                    checkpoint.record(part)
                checkpoint.finish()
        except TaskTimeout:
            store.broken = False
            checkpoint.save()  # as the run does
            assert earlier_tries(store).tenants, number  # killed now, it can be replayed
            checkpoint.finish()  # as the result of the deletion does
        later = Checkpoint(store, clock)
        found = later.load()
        assert later.is_earlier_known, number
        assert len(found) in (6, 16), number
        assert len(found) == 16 or not has_begun
        found_rows = {row["uid"]: row for row in found.rows()}
        for row in known.rows():
            assert found_rows[row["uid"]] == row or row["status"] == "UNKNOWN"
        for row in outcomes.rows():
            found_row = found_rows.get(row["uid"])
            assert found_row is None or found_row["status"] == row["status"] or found_row["reason"] == LOST
            if row["status"] == "SCHEDULED":
                assert found_row is not None
                assert (found_row["status"], found_row["request_id"]) == (row["status"], row["request_id"]), number
            if row["status"] == "UNKNOWN":
                assert row == next(each for each in known.rows() if each["uid"] == row["uid"]), number
    assert number > 200


def test_checkpoint_of_another_run_is_refused() -> None:
    store = Store()
    first = one_try(Tenant(), store, make_plan(rows(0, 3)))
    other = make_plan(rows(3, 5))
    with pytest.raises(NexthinkInputError, match="new Checkpoint"):
        first.checkpoint.resume(Outcomes(other), other.to_send, ACME)
