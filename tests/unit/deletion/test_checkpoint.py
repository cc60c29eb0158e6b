"""What a retry finds of the tries before it."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.checkpoint import SAVE_EVERY_ANSWERS, Checkpoint, fingerprint
from airflow_provider_nexthink.deletion.outcome import Outcomes
from airflow_provider_nexthink.deletion.plan import Plan, make_plan
from airflow_provider_nexthink.deletion.words import Status
from airflow_provider_nexthink.exceptions import NexthinkError, NexthinkPermissionError
from tests.support.runs import FakeTime, Store, Tenant, device_rows, new_run, unavailable


def one_try(tenant: Tenant, store: Store, plan: Plan, concurrency: int = 1, batch_size: int = 100) -> Outcomes:
    """One try of a task: what is settled before is not sent again."""
    outcomes, clock = Outcomes(plan), FakeTime().clock()
    checkpoint = Checkpoint(store, fingerprint(plan, "https://acme.example"), outcomes, clock)
    last_batch = checkpoint.restore()
    new_run(
        outcomes,
        [position for position in plan.to_send if outcomes.status[position] is Status.NOT_SENT],
        tenant.send,
        batch_size,
        concurrency,
        checkpoint=checkpoint,
        last_batch=last_batch,
        clock=clock,
    ).run()
    return outcomes


def test_a_retry_sends_only_what_is_not_settled_and_its_table_is_whole() -> None:
    plan, store = make_plan(device_rows(1000)), Store()
    script: list[NexthinkError | None] = [None, None, None, NexthinkPermissionError("no", status=403)]
    first = Tenant(script)
    before = one_try(first, store, plan)
    assert Counter(before.status) == {Status.SCHEDULED: 300, Status.NOT_SENT: 700}
    second = Tenant()
    after = one_try(second, store, plan)
    assert set(after.status) == {Status.SCHEDULED}
    assert after.rows()[:300] == before.rows()[:300]
    assert set((first.queued + second.queued).values()) == {1}
    assert sorted(set(after.batch)) == [*range(1, 11)]  # type: ignore[type-var]


def test_what_is_not_settled_is_sent_again() -> None:
    plan, store = make_plan(device_rows(30)), Store()
    one_try(Tenant([unavailable()] * 5, failing=Counter({"PC-15": 9})), store, plan, batch_size=10)
    second = Tenant()
    outcomes = one_try(second, store, plan, batch_size=10)
    assert set(outcomes.status) == {Status.SCHEDULED}
    assert sorted(second.queued) == sorted(plan.uids[position] or "" for position in (*range(10), 15))


def test_another_list_is_a_fresh_start(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    one_try(Tenant([None, NexthinkPermissionError("no", status=403)]), store, make_plan(device_rows(200)))
    tenant = Tenant()
    one_try(tenant, store, make_plan(device_rows(201)))
    assert len(tenant.queued) == 201
    assert "another list of devices" in caplog.text


def test_the_fingerprint_tells_plans_and_tenants_apart() -> None:
    rows = device_rows(3)
    prints = {
        fingerprint(make_plan(rows), "https://a.example"),
        fingerprint(make_plan(rows), "https://b.example"),
        fingerprint(make_plan(rows, ["PC-1"]), "https://a.example"),
        fingerprint(make_plan(device_rows(2)), "https://a.example"),
    }
    assert len(prints) == 4
    assert fingerprint(make_plan(device_rows(3)), "https://a.example") in prints


def test_it_is_compact_and_saved_every_few_answers() -> None:
    plan, store = make_plan(device_rows(100_000)), Store()
    outcomes = one_try(Tenant(), store, plan, concurrency=8)
    size = sum(len(value) for value in store.values())
    assert size / 100_000 < 1.5
    assert max(len(value) for value in store.values()) < 64_000
    restored = Outcomes(plan)
    Checkpoint(store, fingerprint(plan, "https://acme.example"), restored, FakeTime().clock()).restore()
    assert restored.rows() == outcomes.rows()
    assert store.writes == 1000 / SAVE_EVERY_ANSWERS


def test_a_store_that_fails_never_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    plan, store = make_plan(device_rows(1000)), Store()
    store.broken = True
    outcomes = one_try(Tenant(), store, plan)
    assert set(outcomes.status) == {Status.SCHEDULED}
    assert "cannot be read" in caplog.text
    assert "cannot be kept" in caplog.text


def packed(answers: Any) -> str:
    return base64.b85encode(zlib.compress(json.dumps(answers).encode())).decode()


GOOD = [[[0, 3]], "SCHEDULED", None, 1, "r", "t", 1, "now"]


@pytest.mark.parametrize(
    "answers",
    [
        "???",
        packed({}),
        packed(None),
        packed([GOOD[:-1]]),
        packed([[*GOOD, 1]]),
        packed([[[[-5, 3]], *GOOD[1:]]]),
        packed([[[[8, 3]], *GOOD[1:]]]),
        packed([[[[0, 10**12]], *GOOD[1:]]]),
        packed([[GOOD[0], "PLANNED", *GOOD[2:]]]),
        packed([[GOOD[0], ["SCHEDULED"], *GOOD[2:]]]),
        packed([[*GOOD[:3], "one", *GOOD[4:]]]),
        packed([GOOD, [[[5, 1]], "DELETED", *GOOD[2:]]]),
    ],
)
@pytest.mark.parametrize("part", [0, 1])
def test_what_cannot_be_read_is_sent_again_all_of_it(answers: str, part: int) -> None:
    plan, store = make_plan(device_rows(10)), Store()
    value = {"plan": fingerprint(plan, "https://acme.example"), "run": "a run"}
    store.set("nexthink_deletions_0", value | {"answers": packed([GOOD])})
    store.set(f"nexthink_deletions_{part}", value | {"answers": answers})
    tenant = Tenant()
    outcomes = one_try(tenant, store, plan)
    assert len(tenant.queued) == 10
    assert set(outcomes.status) == {Status.SCHEDULED}
    assert one_try(Tenant(), store, plan).rows() == outcomes.rows()


def test_what_a_run_before_has_left_behind_is_not_believed() -> None:
    plan, store = make_plan(device_rows(300)), Store()
    one_try(Tenant(), store, plan, batch_size=1)
    del store["nexthink_deletions_0"]  # as when clearing it was cut off, or its time was up
    one_try(Tenant([None, NexthinkPermissionError("no", status=403)]), store, plan, batch_size=10)
    tenant = Tenant()
    one_try(tenant, store, plan)
    assert len(tenant.queued) == 290


def test_clearing_takes_the_first_part_last() -> None:
    plan, store = make_plan(device_rows(300)), Store()
    outcomes = one_try(Tenant(), store, plan, batch_size=1)
    deleted: list[str] = []
    store.delete = deleted.append  # type: ignore[method-assign, assignment]
    Checkpoint(store, "any", outcomes, FakeTime().clock()).clear()
    assert deleted == ["nexthink_deletions_2", "nexthink_deletions_1", "nexthink_deletions_0"]


def test_an_interruption_of_the_last_save_keeps_the_table_and_is_saved_all_the_same() -> None:
    class TaskTimeout(BaseException):
        """As Airflow's own timeout is one."""

    interruptions = [TaskTimeout()]

    class Interrupted(Store):
        def set(self, key: str, value: Any) -> None:
            if interruptions:
                raise interruptions.pop()
            super().set(key, value)

    plan, store = make_plan(device_rows(200)), Interrupted()
    assert set(one_try(Tenant(), store, plan).status) == {Status.SCHEDULED}
    tenant = Tenant()
    assert set(one_try(tenant, store, plan).status) == {Status.SCHEDULED}
    assert tenant.queued == {}


def test_clearing_forgets_every_part() -> None:
    plan, store = make_plan(device_rows(300)), Store()
    outcomes = one_try(Tenant(), store, plan, batch_size=1)
    assert len(store) == 3
    Checkpoint(store, "any", outcomes, FakeTime().clock()).clear()
    assert store == {}


@given(
    cuts=st.lists(st.integers(0, 30), max_size=4),
    count=st.integers(0, 60),
    batch_size=st.integers(1, 9),
    refused=st.sets(st.integers(0, 59), max_size=3),
    concurrency=st.sampled_from([1, 4]),
)
def test_however_often_it_is_cut_off_each_device_is_accepted_once(
    cuts: list[int], count: int, batch_size: int, refused: set[int], concurrency: int
) -> None:
    plan, store = make_plan(device_rows(count)), Store()
    queued: Counter[str] = Counter()
    names = frozenset(f"PC-{number}" for number in refused)
    for cut in cuts:
        script: list[NexthinkError | None] = [*[None] * cut, NexthinkPermissionError("no", status=403)]
        tenant = Tenant(script, refused=names)
        one_try(tenant, store, plan, concurrency, batch_size)
        queued += tenant.queued
    last = Tenant(refused=names)
    outcomes = one_try(last, store, plan, concurrency, batch_size)
    queued += last.queued
    for position, status in enumerate(outcomes.status):
        expected = Status.REJECTED if position in refused else Status.SCHEDULED
        assert status is expected
        assert queued[plan.uids[position] or ""] == (expected is Status.SCHEDULED)
    assert len(outcomes.rows()) == count
