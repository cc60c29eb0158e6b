"""The fault matrix: each fault, at the first, a middle and the last batch, one request at a time and eight at once.

After each run the same must hold: a row for every row; no device was sent that is not in the list; SCHEDULED means
that the tenant queued it; a device is queued twice only after an ambiguous response.

``pytest tests/system/test_fault_matrix.py --write-docs`` writes the table of docs/reliability.md from the run.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.client import NexthinkClient
from airflow_provider_nexthink.clock import Clock
from airflow_provider_nexthink.deletion.outcome import DeletionResult
from airflow_provider_nexthink.sandbox.faults import Fault
from airflow_provider_nexthink.sandbox.server import Sandbox

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
START, END = "<!-- the table below is written from the run of the fault matrix -->\n", "<!-- end of the table -->\n"

GOOD, BATCH = 50, 10
UNSENT_STATUSES = {"INVALID": 2, "REJECTED": 3, "DUPLICATE": 1}
HTML = {"content-type": "text/html"}


def response(status: int, body: str = "", times: int = 1, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(path="deletions", kind="status", status=status, body=body, headers=named, times=times)


def coded(status: int, code: str, times: int = 1) -> Fault:
    return response(status, json.dumps({"code": code, "message": "as scripted"}), times)


def does(kind: str, **options: Any) -> Fault:
    return Fault(path="deletions", kind=kind, **{"status": 502, **options})


@dataclass(frozen=True)
class Case:
    """A fault, and what it must lead to.

    :param name: as the table of the documentation shows it.
    :param faults: what the tenant does, from the batch on that the fault hits.
    :param statuses: the statuses that may come out for the devices that can be sent.
    :param error: the class of what stops the run, or None.
    :param ambiguous: whether some response leaves open if devices were queued.
    :param maximum: how many devices the tenant takes in a request.
    """

    name: str
    faults: tuple[Fault, ...]
    statuses: frozenset[str] = frozenset({"SCHEDULED"})
    error: str | None = None
    ambiguous: bool = False
    maximum: int = 100


def case(name: str, *faults: Fault, **expected: Any) -> Case:
    if "statuses" in expected:
        expected["statuses"] = frozenset(expected["statuses"].split())
    return Case(name, faults, **expected)


STOPPED = "SCHEDULED NOT_SENT"
DATE = (datetime.now(UTC) + timedelta(seconds=20)).strftime("%a, %d %b %Y %H:%M:%S GMT")
ODD_STATUS = '{"scheduledCount": 1, "status": "ACCEPTED", "devices": [{"uid": "x", "name": "x", "status": "DELETED"}]}'

NO_COUNT = '{"scheduledCount": 0, "status": "REFUSED", "devices": []}'

CASES = [
    case("none"),
    case("400 `BATCH_SIZE_EXCEEDED`: the tenant takes 3", maximum=3),
    case(
        "400 `INVALID_REQUEST` for one device",
        does("refuse_names", names=["set by the run"]),
        statuses="SCHEDULED REJECTED",
    ),
    case("400 `EMPTY_TENANT`", coded(400, "EMPTY_TENANT"), statuses=STOPPED, error="NexthinkRequestError"),
    case("400 `EMPTY_REQUEST`", coded(400, "EMPTY_REQUEST"), statuses=STOPPED, error="NexthinkRequestError"),
    case("400 without Nexthink's body", response(400, "<html>"), statuses=STOPPED, error="NexthinkRequestError"),
    case("401, token revoked", does("revoke_tokens")),
    case("401, again and again", response(401, times=-1), statuses=STOPPED, error="NexthinkAuthenticationError"),
    case(
        "403 `FEATURE_NOT_ENABLED`",
        coded(403, "FEATURE_NOT_ENABLED"),
        statuses=STOPPED,
        error="NexthinkPermissionError",
    ),
    case("403 of a proxy", response(403, "<html>"), statuses=STOPPED, error="NexthinkProxyError"),
    case("404", response(404), statuses=STOPPED, error="NexthinkNotFoundError"),
    case("405", response(405), statuses=STOPPED, error="NexthinkRequestError"),
    case("413: too large for a proxy", response(413)),
    case(
        "307, a redirect",
        response(307, location="http://127.0.0.1:1/"),
        statuses=STOPPED,
        error="NexthinkRequestError",
    ),
    case("408", response(408), ambiguous=True),
    case("429, `Retry-After: 7`", response(429, Retry_After="7")),
    case("429, `Retry-After` as a date", response(429, Retry_After=DATE)),
    case("429 without `Retry-After`", response(429)),
    case("429, three times", response(429, Retry_After="1", times=3)),
    case(
        "429, `Retry-After: 86400`",
        response(429, Retry_After="86400"),
        statuses=STOPPED,
        error="NexthinkRateLimitError",
    ),
    case("429 for ever", response(429, times=-1), statuses=STOPPED, error="NexthinkRateLimitError"),
    case("500 `INTERNAL_ERROR`", coded(500, "INTERNAL_ERROR"), ambiguous=True),
    case("502", response(502), ambiguous=True),
    case("503, `Retry-After: 3`", response(503, Retry_After="3"), ambiguous=True),
    case("504, twice", response(504, times=2), ambiguous=True),
    case("503, five times", response(503, times=5), statuses="SCHEDULED UNKNOWN", ambiguous=True),
    case(
        "503 for ever",
        response(503, times=-1),
        statuses="SCHEDULED UNKNOWN NOT_SENT",
        error="NexthinkUnavailableError",
        ambiguous=True,
    ),
    case("connection cut before anything is done", does("drop"), ambiguous=True),
    case("connection cut after the devices were queued", does("drop_after"), ambiguous=True),
    case("502 after the devices were queued", does("status_after"), ambiguous=True),
    case("no response within the timeout", does("slow", seconds=2.5), ambiguous=True),
    case("202 with one device missing", does("short"), ambiguous=True),
    case("202 in another order", does("reorder"), ambiguous=True),
    case("202 with other devices", does("other"), ambiguous=True),
    case("202 without JSON", does("not_json"), ambiguous=True),
    case("202 without a body", response(202), ambiguous=True),
    case("202 with an unknown status", response(202, ODD_STATUS), ambiguous=True),
    case("202 that counts none of them as scheduled", response(202, NO_COUNT), ambiguous=True),
    case("200 instead of 202", response(200, "{}"), ambiguous=True),
    case("202 with one device missing, for ever", does("short", times=-1), statuses="SCHEDULED UNKNOWN NOT_SENT",
         error="NexthinkUnavailableError", ambiguous=True),
    case("`FAILED`, once", does("failed_rows")),
    case("`FAILED`, always", does("failed_rows", times=-1), statuses="SCHEDULED FAILED"),
    case("502, then 403", response(502), coded(403, "FEATURE_NOT_ENABLED"), statuses="SCHEDULED NOT_SENT UNKNOWN",
         error="NexthinkPermissionError", ambiguous=True),
    case("401, then 502, 429 and `FAILED`", does("revoke_tokens"), response(502), response(429, Retry_After="2"),
         does("failed_rows"), ambiguous=True),
    case("`BATCH_SIZE_EXCEEDED` and a connection cut", does("drop_after"), maximum=3, ambiguous=True),
    case(
        "401, and then no token: the login address returns 500",
        does("revoke_tokens"),
        Fault(path="token", kind="status", status=500, times=-1),
        statuses=STOPPED,
        error="NexthinkTokenError",
    ),
]  # fmt: skip


@dataclass
class SkippingTime:
    """Real time, in which a sleep takes none."""

    skipped: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: time.monotonic() + self.skipped,
            now=lambda: datetime.now(UTC) + timedelta(seconds=self.skipped),
            sleep=lambda seconds, _: self.sleep(seconds),
            wait=lambda _, seconds: self.sleep(seconds),
            rng=random.Random(1),
        )


@dataclass
class Ran:
    """A run, and what the tenant saw of it."""

    rows: list[dict[str, Any]]
    result: DeletionResult
    queued: Counter[str]
    sent: list[list[dict[str, str]]]
    refused: set[str] = field(default_factory=set)

    @property
    def good(self) -> list[dict[str, Any]]:
        """The rows of the table that are about devices which can be sent."""
        return [row for row in self.result.table if row["attempts"] or row["status"] not in UNSENT_STATUSES]

    @property
    def error(self) -> str | None:
        return type(self.result.error).__name__ if self.result.error else None


def device_list(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return good devices, with rows among them that must not be sent."""
    good: list[dict[str, Any]] = [
        {"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:GOOD]
    ]
    bad = [
        {"uid": "no-uid", "name": "a"},
        {"uid": good[0]["uid"][:-1], "name": "b"},
        {"uid": None, "name": "c"},
        {"uid": good[1]["uid"], "name": " "},
        {"uid": good[2]["uid"], "name": 12},
        dict(good[3]),
    ]
    return [*good[:20], *bad, *good[20:]]


def run_with(sandbox: Sandbox, faults: tuple[Fault, ...], *, skip: int, concurrency: int, maximum: int = 100) -> Ran:
    """Run a deletion against a tenant that does this from its request ``skip`` + 1 on."""
    rows = device_list(sandbox)
    refused: set[str] = set()
    sandbox.faults.clear()
    sandbox.requests.clear()
    sandbox.tenant.queued.clear()
    sandbox.tenant.max_batch = maximum
    for fault in faults:
        options = dict(vars(fault))
        if fault.kind == "refuse_names":
            good = [row["name"] for row in rows if row["name"] not in ("a", "b", "c", " ", 12)]
            refused = {good[skip * BATCH]}
            options |= {"names": list(refused)}
        elif fault.path == "deletions":
            options |= {"skip": skip}
        else:
            options |= {"skip": 1}  # the first token is fetched before the first batch
        sandbox.faults.add(Fault(**options))
    connection = json.loads(sandbox.airflow_connection())
    tenant = NexthinkSettings.resolve(
        instance="sandbox",
        client_id=connection["login"],
        client_secret=connection["password"],
        timeout=2.0 if any(fault.kind == "slow" for fault in faults) else 60,
        **connection["extra"],
    )
    with NexthinkClient(tenant, clock=SkippingTime().clock()) as client:
        client.get_token()
        result = client.delete_devices(rows, batch_size=BATCH, max_concurrency=concurrency)
    sent = [json.loads(r.body)["devices"] for r in sandbox.requests if "deletions" in r.path]
    return Ran(rows, result, Counter(sandbox.tenant.queued), sent, refused)


def assert_invariants(ran: Ran, *, ambiguous: bool) -> None:
    table = ran.result.table
    assert len(table) == len(ran.rows)
    for row, given_row in zip(table, ran.rows, strict=True):
        if row["attempts"]:
            assert (row["uid"], row["name"]) == (given_row["uid"], given_row["name"])
    asked = {row["uid"]: row["name"] for row in table if row["attempts"]}
    for devices in ran.sent:
        assert len(devices) <= BATCH
        for device in devices:
            assert asked[device["uid"]] == device["name"]
    for row in table:
        if row["status"] == "SCHEDULED":
            assert ran.queued[row["uid"]] >= 1
        if not ambiguous and row["attempts"]:
            assert ran.queued[row["uid"]] == (row["status"] == "SCHEDULED")
    assert set(ran.queued) <= set(asked)
    statuses = Counter(row["status"] for row in table)
    assert {status: ran.result.summary[status] for status in statuses} == statuses
    assert sum(ran.result.counts.values()) == len(ran.rows)
    assert ran.result.counters.requests == len(ran.sent)


@pytest.fixture(autouse=True)
def _short_waits() -> None:
    """The waits are as they are: nobody waits for them, see ``SkippingTime``."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(devices=120, stale=100, removal_delay=1e9) as sandbox:
        yield sandbox


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("hit", ["first", "middle", "last"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_fault_gives_the_documented_outcome(sandbox: Sandbox, case: Case, hit: str, concurrency: int) -> None:
    skip = {"first": 0, "middle": 2, "last": GOOD // BATCH - 1}[hit]
    ran = run_with(sandbox, case.faults, skip=skip, concurrency=concurrency, maximum=case.maximum)
    assert_invariants(ran, ambiguous=case.ambiguous)
    if case.error == "NexthinkUnavailableError" and hit == "last":
        assert ran.error is None  # the circuit breaker takes several failed batches
    else:
        assert ran.error == case.error
    assert {row["status"] for row in ran.good} <= case.statuses
    assert Counter(row["status"] for row in ran.result.table if not row["attempts"]) >= Counter(UNSENT_STATUSES)
    assert {row["name"] for row in ran.good if row["status"] == "REJECTED"} == ran.refused


RANDOM_FAULTS = st.builds(
    lambda fault, skip: Fault(**{**vars(fault), "skip": skip}),
    st.sampled_from([fault for case in CASES for fault in case.faults if fault.kind not in ("slow", "refuse_names")]),
    st.integers(0, 8),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    faults=st.lists(RANDOM_FAULTS, max_size=5), concurrency=st.sampled_from([1, 8]), maximum=st.sampled_from([3, 100])
)
def test_fault_any_mixture_keeps_the_invariants(
    sandbox: Sandbox, faults: list[Fault], concurrency: int, maximum: int
) -> None:
    sandbox.faults.clear()
    ran = run_with(sandbox, tuple(faults), skip=0, concurrency=concurrency, maximum=maximum)
    assert_invariants(ran, ambiguous=True)


def matrix(sandbox: Sandbox) -> str:
    """Return the table of the documentation: each fault at the middle batch, one request at a time."""
    lines = [
        "| what the tenant does | what becomes of the 50 devices | requests | what stops the run |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        ran = run_with(sandbox, case.faults, skip=2, concurrency=1, maximum=case.maximum)
        counts = Counter(row["status"] for row in ran.result.table if row["status"] not in ("INVALID", "DUPLICATE"))
        counts["REJECTED"] -= UNSENT_STATUSES["REJECTED"]
        became = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        stopped = f"`{ran.error}`" if ran.error else ""
        lines.append(f"| {case.name} | {became} | {ran.result.counters.requests} | {stopped} |")
    return "\n".join([*lines, ""])


def test_fault_matrix_of_the_docs_is_up_to_date(sandbox: Sandbox, pytestconfig: pytest.Config) -> None:
    before, _, rest = PAGE.read_text().partition(START)
    shown, _, after = rest.partition(END)
    table = f"\n{matrix(sandbox)}\n"
    if pytestconfig.getoption("--write-docs"):
        PAGE.write_text(before + START + table + END + after)
    else:
        assert shown == table
