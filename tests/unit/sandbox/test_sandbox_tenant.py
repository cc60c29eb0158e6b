from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_nexthink.sandbox.queries import QUERIES, run_query
from airflow_provider_nexthink.sandbox.tenant import Tenant
from tests.support.fake_time import FakeTime


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime(seconds=1_800_000_000.0)


@pytest.fixture
def tenant(clock: FakeTime) -> Tenant:
    return Tenant(devices=20, stale=10, removal_delay=5.0, clock=lambda: clock.seconds)


def test_queue_deletion_removes_after_the_delay(tenant: Tenant, clock: FakeTime) -> None:
    device = next(device for device in tenant.devices() if device.days_since_last_seen >= 90)

    assert tenant.queue_deletion(device.uid.upper())
    assert tenant.counts() == {"devices": 20, "stale": 10, "queued": 1, "removed": 0}

    clock.seconds += 4.9
    assert device in tenant.devices()

    clock.seconds += 0.1
    assert device not in tenant.devices()
    assert tenant.counts() == {"devices": 19, "stale": 9, "queued": 0, "removed": 1}


def test_queue_deletion_again_does_not_delay_the_removal(tenant: Tenant, clock: FakeTime) -> None:
    device = tenant.devices()[0]
    tenant.queue_deletion(device.uid)
    clock.seconds += 4
    tenant.queue_deletion(device.uid)
    clock.seconds += 1

    assert device not in tenant.devices()
    assert tenant.queued == [device.uid, device.uid]


def test_queue_deletion_without_delay_removes_at_once(tenant: Tenant) -> None:
    tenant.removal_delay = 0.0
    device = tenant.devices()[0]

    tenant.queue_deletion(device.uid)

    assert device not in tenant.devices()


def test_queue_deletion_of_unknown_uid_removes_nothing(tenant: Tenant, clock: FakeTime) -> None:
    collector_uid = tenant.devices()[0].collector_uid

    assert tenant.queue_deletion(collector_uid)
    clock.seconds += 60

    assert tenant.queued == [collector_uid]
    assert tenant.counts() == {"devices": 20, "stale": 10, "queued": 0, "removed": 0}


@pytest.mark.parametrize(
    "uid",
    [
        "x",
        "0123456789abcdef0123456789abcdef",
        "{01234567-89ab-cdef-0123-456789abcdef}",
        "01234567-89ab-cdef-0123-456789abcdeg",
        "01234567-89ab-cdef-0123-456789abcdef\n",
        " 01234567-89ab-cdef-0123-456789abcdef",
    ],
)
def test_queue_deletion_of_malformed_uid_is_refused(tenant: Tenant, uid: str) -> None:
    assert not tenant.queue_deletion(uid)
    assert tenant.queued == []


def test_export_has_the_devices_of_its_request(tenant: Tenant) -> None:
    tenant.removal_delay = 0.0
    export_id = tenant.start_export(run_query(QUERIES["#all_devices"], {}, tenant.devices()), "NONE")
    tenant.queue_deletion(tenant.devices()[0].uid)

    assert len(tenant.poll_export(export_id)[1].result.cells) == 20
    assert len(tenant.devices()) == 19


def test_poll_export_without_pending_polls_is_completed(tenant: Tenant) -> None:
    tenant.pending_polls = 0
    export_id = tenant.start_export(run_query(QUERIES["#all_devices"], {}, tenant.devices()), "NONE")

    assert tenant.poll_export(export_id)[0] == "COMPLETED"


def test_tokens_expire_and_can_be_revoked(tenant: Tenant, clock: FakeTime) -> None:
    old = tenant.issue_token()
    clock.seconds += 899
    assert tenant.accepts_token(old)
    clock.seconds += 1
    assert not tenant.accepts_token(old)

    new = tenant.issue_token()
    assert tenant.accepts_token(new)
    tenant.revoke_tokens()
    assert not tenant.accepts_token(new)


def test_tenant_with_concurrent_threads_loses_no_device(clock: FakeTime) -> None:
    tenant = Tenant(devices=500, stale=0, removal_delay=0.0, clock=lambda: clock.seconds)
    uids = [device.uid for device in tenant.devices()]

    def queue_and_look(uid: str) -> int:
        tenant.queue_deletion(uid)
        return tenant.counts()["devices"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(queue_and_look, uids))

    assert sorted(tenant.queued) == sorted(uids)
    assert tenant.counts() == {"devices": 0, "stale": 0, "queued": 0, "removed": 500}


def ages(tenant: Tenant) -> dict[str, int]:
    return {device.uid: device.days_since_last_seen for device in tenant.devices()}


def test_advance_ages_devices_and_removes_those_that_are_due(tenant: Tenant) -> None:
    before = ages(tenant)
    (queued, *others) = before
    tenant.queue_deletion(queued)
    tenant.advance(seconds=4.9)
    assert ages(tenant).keys() == before.keys()

    tenant.advance(days=7)

    assert ages(tenant) == {uid: before[uid] + 7 for uid in others}


def test_advance_in_parts_ages_as_at_once(tenant: Tenant) -> None:
    before = ages(tenant)
    for _ in range(48):
        tenant.advance(seconds=3600)
    assert ages(tenant) == {uid: age + 2 for uid, age in before.items()}


def test_advance_expires_tokens(tenant: Tenant) -> None:
    token = tenant.issue_token()
    tenant.advance(seconds=899)
    assert tenant.accepts_token(token)
    tenant.advance(seconds=1)
    assert not tenant.accepts_token(token)


@pytest.mark.parametrize("step", [{}, {"days": -1}, {"seconds": -0.5}, {"days": float("nan")}, {"days": 1e9}])
def test_advance_by_no_time_forward_is_an_error(tenant: Tenant, step: dict[str, float]) -> None:
    now = tenant.now()
    with pytest.raises(ValueError, match="not a time forward"):
        tenant.advance(**step)
    assert tenant.now() == now


def test_mark_seen_starts_the_age_anew(tenant: Tenant) -> None:
    (seen, other, *_) = ages(tenant)
    age = ages(tenant)[other]
    tenant.advance(days=3)
    tenant.mark_seen([seen])
    tenant.advance(days=2)
    assert (ages(tenant)[seen], ages(tenant)[other]) == (2, age + 5)


def test_bring_back_returns_removed_devices_under_the_same_uid(tenant: Tenant) -> None:
    (removed, waiting, *_) = ages(tenant)
    tenant.queue_deletion(removed)
    tenant.advance(days=1)
    tenant.queue_deletion(waiting)
    tenant.mark_seen([removed])
    assert removed not in ages(tenant)

    tenant.bring_back([removed, waiting])
    tenant.advance(days=1)

    assert (ages(tenant)[removed], ages(tenant)[waiting]) == (1, 1)
    tenant.queue_deletion(removed)
    tenant.advance(days=1)
    assert removed not in ages(tenant)


def test_set_up_anew_adds_a_device_of_the_same_name(tenant: Tenant) -> None:
    old = tenant.devices()[0]
    tenant.queue_deletion(old.uid)
    tenant.advance(days=1)

    (uid,) = tenant.set_up_anew([old.uid])

    present = {device.uid: device for device in tenant.devices()}
    assert old.uid not in present
    assert (present[uid].name, present[uid].days_since_last_seen) == (old.name, 0)
    assert present[uid].collector_uid != old.collector_uid
    assert tenant.counts()["removed"] == 1


@pytest.mark.parametrize("change", ["mark_seen", "bring_back", "set_up_anew"])
def test_changes_of_unknown_devices_change_none(tenant: Tenant, change: str) -> None:
    before = tenant.devices()
    with pytest.raises(KeyError):
        getattr(tenant, change)([before[0].uid, "0fbd5a5c-0000-4000-8000-000000000000"])
    assert tenant.devices() == before
