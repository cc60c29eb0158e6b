"""The plan decides on each row: to send, or why not."""

from __future__ import annotations

import unicodedata
import uuid
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_provider_nexthink.deletion.plan import Plan, check_guards, make_plan
from airflow_provider_nexthink.devices.identity import canonical_uid, normalize_name
from airflow_provider_nexthink.devices.reader import DeviceRows
from airflow_provider_nexthink.exceptions import NexthinkGuardError
from airflow_provider_nexthink.status import Status

A = "0fbd5a5c-0000-4000-8000-00000000000a"
B = "0fbd5a5c-0000-4000-8000-00000000000b"


def plan_of(*rows: tuple[Any, Any], exclude: list[str] | None = None) -> Plan:
    return make_plan(DeviceRows([uid for uid, _ in rows], [name for _, name in rows], "uid", "name"), exclude or [])


@pytest.mark.parametrize(
    "uid", [A, A.upper(), A.replace("-", ""), f"  {A}\n", uuid.UUID(A), np.str_(A)], ids=lambda uid: repr(uid)[:20]
)
def test_make_plan_uid_in_any_form_is_sent_in_canonical_form(uid: object) -> None:
    plan = plan_of((uid, "PC-1"))
    assert plan.uids == [A]
    assert type(plan.uids[0]) is str
    assert plan.to_send == [0]


@pytest.mark.parametrize("uid", ["x", "1234", f"{{{A}}}", f"urn:uuid:{A}", A[:-1], f"{A}0", A[:-1] + "g", 7, 1.5, True])
def test_make_plan_malformed_uid_is_invalid_and_not_sent(uid: object) -> None:
    plan = plan_of((uid, "PC-1"), (B, "PC-2"))
    assert plan.statuses == [Status.INVALID, None]
    assert plan.to_send == [1]


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", "  ", "\t\n"])
def test_make_plan_blank_or_missing_uid_or_name_rejects_only_its_row(missing: object) -> None:
    plan = plan_of((missing, "PC-1"), (A, missing), (B, "PC-2"))
    assert plan.statuses == [Status.REJECTED, Status.REJECTED, None]
    assert "uid is" in (plan.reasons[0] or "")
    assert "name is" in (plan.reasons[1] or "")
    assert plan.to_send == [2]


@pytest.mark.parametrize("name", [123, 1e10, True, ["PC-1"], {"a": 1}, b"PC-1"])
def test_make_plan_name_that_is_not_text_is_rejected_and_not_converted(name: object) -> None:
    plan = plan_of((A, name))
    assert plan.statuses == [Status.REJECTED]
    assert f"not text but of type {type(name).__name__}" in (plan.reasons[0] or "")


@pytest.mark.parametrize(
    "name", ["NA", "None", "null", "nan", "00123", "1E10", " PC ", "Büro-ä", "{{ 1 }}", "株式会社"]
)
def test_make_plan_name_is_sent_unchanged(name: str) -> None:
    plan = plan_of((A, name))
    assert plan.names == [name]
    assert plan.to_send == [0]


@pytest.mark.parametrize("name", ["PC\ud800", "PC\0"])
def test_make_plan_name_that_cannot_be_encoded_is_rejected(name: str) -> None:
    plan = plan_of((A, name))
    assert plan.statuses == [Status.REJECTED]
    (plan.names[0] or "").encode()
    assert "\0" not in (plan.names[0] or "")


def test_make_plan_uid_with_two_names_is_rejected_in_every_row() -> None:
    plan = plan_of((A, "PC-1"), (B, "PC-2"), (A.upper(), "PC-3"), (A, "PC-1"))
    assert plan.statuses == [Status.REJECTED, None, Status.REJECTED, Status.REJECTED]


def test_make_plan_repeated_device_is_a_duplicate() -> None:
    plan = plan_of((A, "PC-1"), (A.upper(), "PC-1"), (A, None), (B, "PC-1"))
    assert plan.statuses == [None, Status.DUPLICATE, Status.REJECTED, None]
    assert plan.to_send == [0, 3]


def test_make_plan_exclusion_matches_names_in_any_case_and_uids_in_any_form() -> None:
    rows = [(A, "vip-1"), (B, "PC-1"), (uuid.uuid4().hex, "PC-VIP-1"), (uuid.uuid4().hex, "SRV[1]")]
    plan = plan_of(*rows, exclude=["VIP-*", B.upper().replace("-", ""), "srv[[]1]"])
    assert plan.statuses == [Status.EXCLUDED, Status.EXCLUDED, None, Status.EXCLUDED]
    assert plan.reasons[0] == "excluded by 'VIP-*'"


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("LAB[3]", "LAB[3]"),
        (" SRV-*", "SRV-1"),
        ("SRV-1", "SRV-1 "),
        ("B\u00dcRO-*", "Bu\u0308ro-1"),
        (f"{{{A}}}", "PC-1"),
        (f"urn:uuid:{A}".upper(), "PC-1"),
        ("SRV-?", "srv-1"),
    ],
)
def test_make_plan_ambiguous_exclusion_matches(entry: str, name: str) -> None:
    assert plan_of((A, name), exclude=[entry]).statuses == [Status.EXCLUDED]


HYPHENS = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d\u2043\u02d7\u30fc\u058a\u2796"
INVISIBLE = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\ufeff\u00ad\u034f\u180e\u3164\ufe0f\x01\x7f\U000e0001"
)
CONTROLS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85"
BLANKS = " \u00a0\u2002\u2003\u2009\u202f\u3000\t\u2028"


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("SRV-*", "\uff33\uff32\uff36-1"),
        ("SRV-*", "\uff33\uff32\uff36\uff0d\uff11"),
        ("\uff33\uff32\uff36-\uff0a", "srv-1"),
        ("SRV-*", "𝐒𝐑𝐕-1"),
        ("SRV-*", "ⓢⓡⓥ-1"),
        ("SRV-?", "SRV-①"),
        ("SRV ?", "SRV\u00a01"),
        ("Istanbul-*", "İstanbul-1"),
        ("Istanbul-*", "İSTANBUL-1"),
        ("Istanbul-*", "I\u0307stanbul-1"),
        ("Istanbul-*", "istanbul-1"),
        ("Istanbul-*", "ıstanbul-1"),
        ("İstanbul-*", "ISTANBUL-1"),
        ("ISPARTA-*", "ısparta-1"),
        ("ısparta-*", "ISPARTA-1"),
        ("DİYARBAKIR-*", "Diyarbakır-1"),
        ("BÜRO-*", "\uff42u\u0308\uff52\uff4f-1"),
        ("ﬁnance-*", "FINANCE-1"),
        ("STRASSE-*", "straße-1"),
        ("ΣΊΣΥΦΟΣ-*", "σίσυφος-1"),
        ("ｻｰﾊﾞ-*", "サーバ-1"),
        ("LAB\uff3b3\uff3d*", "LAB\uff3b3\uff3d-1"),
        ("STRA?E-*", "STRAßE-1"),
        ("STRA[ß]E-*", "STRAßE-1"),
        ("[!a]IP", "ßIP"),
        ("LAB-?", "LAB-ŉ"),
        ("?nance", "ﬁnance"),
        ("[ﬁ]x", "ﬁx"),
        ("İ?mir", "İzmir"),
        ("SRV[_\u2013.]1", "SRV.1"),
        ("SRV[_\u2013.]1", "SRV_1"),
        ("SRV[_\u2013.]1", "SRV\u20131"),
        *((A.replace("-", hyphen), "PC") for hyphen in HYPHENS),
        *((f"{letter}{A}{letter}", "PC") for letter in INVISIBLE + BLANKS),
        ("\uff10" + A[1:], "PC"),
        *(
            (form.format(A), "PC")
            for form in (
                "({})",
                "<{}>",
                '"{}"',
                "'{}'",
                "\u201c{}\u201d",
                "urn:uuid:{{{}}}",
                "{},",
                "[{}]",
                "uuid:{}",
                '["{}"]',
            )
        ),
        *((A.replace("-", between), "PC") for between in ("_", " ", "\u00ad")),
        (A.replace("-", "", 2), "PC"),
        *((f"{hyphen}SRV{hyphen}*", "-SRV-1") for hyphen in HYPHENS),
        *(("-SRV-*", f"{hyphen}SRV{hyphen}1") for hyphen in HYPHENS),
        *(("SRV-*", f"{letter}S{letter}RV{letter}-1") for letter in INVISIBLE),
        *((f"{letter}SR{letter}V-*", "SRV-1") for letter in INVISIBLE),
        *(("SRV-*", f"SRV{letter}-1") for letter in CONTROLS),
        *((f"SRV{letter}-*", "SRV-1") for letter in CONTROLS),
        *(("SRV *", f"SRV{letter}1") for letter in CONTROLS),
        *(("MY SRV", f"{blank}my{blank}srv{blank}") for blank in BLANKS),
    ],
)
def test_make_plan_exclusion_matches_names_that_look_the_same(entry: str, name: str) -> None:
    assert plan_of((A, name), (B, "PC-1"), exclude=[entry]).statuses == [Status.EXCLUDED, None]


@pytest.mark.parametrize("name", ["\u0421RV-1", "SRV1", "S-RV-1", "SRV_1", "SŔV-1", "PC\u2011SRV-1"])
def test_make_plan_exclusion_does_not_match_other_letters(name: str) -> None:
    assert plan_of((A, name), exclude=["SRV-*"]).statuses == [None]


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("SRV-*", "SRV\u00ad1"),
        ("SRV\u00ad*", "SRV-1"),
        ("SRV-1", "srv\u00ad1"),
        ("SRV-LAB-*", "SRV\u00adLAB\u20111"),
        ("SRV-*", "\uff33\uff32\uff36\u00ad\uff11"),
        ("SRV1", "SRV\u00ad1"),
        ("SRV\u00ad1", "SRV1"),
        ("SRV[\u00ad_]1", "SRV-1"),
    ],
)
def test_make_plan_exclusion_matches_soft_hyphen_as_hyphen_and_as_nothing(entry: str, name: str) -> None:
    assert plan_of((A, name), exclude=[entry]).statuses == [Status.EXCLUDED]


LOOKS = st.text(st.sampled_from("sSrRvViIıİ\u0307\u0308üÜßﬁ-*?[]!_. " + HYPHENS + INVISIBLE + BLANKS), max_size=6)


@given(LOOKS | st.text(max_size=6), LOOKS | st.text(max_size=6))
@example("[_\u2013.]", ".")
@example("\uff3b3\uff3d", "\uff3b3\uff3d")
@example("?", "\x1b")
def test_make_plan_exclusion_matches_names_that_differ_only_in_case_or_composition(entry: str, name: str) -> None:
    assume(entry.strip() and name.strip() and "\0" not in name)
    if fnmatchcase(name.strip().lower(), entry.strip().lower()) and len(name.lower()) == len(name):
        assert plan_of((A, name), exclude=[entry]).statuses == [Status.EXCLUDED]
    old = [unicodedata.normalize("NFC", text).casefold().strip() for text in (entry, name)]
    if fnmatchcase(old[1], old[0]) or old[0] == old[1]:
        assert plan_of((A, name), exclude=[entry]).statuses == [Status.EXCLUDED]
        assert old[0] != old[1] or normalize_name(entry) == normalize_name(name)


@given(st.text())
def test_normalize_name_every_unicode_form_gives_the_same_name(name: str) -> None:
    normal = normalize_name(name)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert normalize_name(unicodedata.normalize(form, name)) == normal
    assert normalize_name(f"\ufeff\u200b {name}\u2060\u3000") == normal
    assert normalize_name(normal) == normal


def test_make_plan_second_row_of_an_excluded_device_is_not_sent() -> None:
    assert plan_of((A, "VIP-1"), (A, "VIP-1"), exclude=["VIP-*"]).to_send == []


def test_check_guards_max_devices_counts_devices_to_send() -> None:
    plan = plan_of((A, "PC-1"), (B, "PC-2"), (A, "PC-1"), ("x", "PC-3"))
    check_guards(len(plan.to_send), max_devices=2)
    check_guards(len(plan.to_send), max_devices=None)
    with pytest.raises(NexthinkGuardError, match=r"2 devices.*max_devices=1.*This try sent nothing") as error:
        check_guards(len(plan.to_send), max_devices=1)
    assert (error.value.planned, error.value.limit) == (2, 1)


def test_check_guards_max_share_counts_the_share_of_the_fleet() -> None:
    plan = plan_of((A, "PC-1"), (B, "PC-2"))
    check_guards(len(plan.to_send), max_devices=None, max_share=0.5, fleet_size=4)
    for planned in range(1, 101):  # 29 of 100 is 0.29, although 0.29 * 100 is 28.999...
        rows = plan_of(*((f"{number:032x}", "PC") for number in range(planned)))
        check_guards(len(rows.to_send), max_devices=None, max_share=planned / 100, fleet_size=100)
        with pytest.raises(NexthinkGuardError):
            check_guards(len(rows.to_send), max_devices=None, max_share=planned / 100, fleet_size=99)
    with pytest.raises(NexthinkGuardError, match=r"2 of 5 devices \(40.0%\).*max_share=0.3 .*raise max_share") as error:
        check_guards(len(plan.to_send), max_devices=None, max_share=0.3, fleet_size=5)
    assert (error.value.planned, error.value.limit) == (2, 1)
    assert "fleet_size=5 is the task's" in str(error.value)
    with pytest.raises(
        NexthinkGuardError, match=r"The 5 devices are what #all \(fleet_query_id\) has counted just now"
    ):
        check_guards(len(plan.to_send), max_devices=None, max_share=0.3, fleet_size=5, fleet_query_id="#all")


@pytest.mark.parametrize("guard", ["max_devices", "max_share"])
def test_check_guards_earlier_tries_of_the_task_count(guard: str) -> None:
    plan = plan_of((A, "PC-1"), (B, "PC-2"))

    def check(sent_before: int) -> None:
        if guard == "max_devices":
            check_guards(len(plan.to_send), max_devices=5, sent_before=sent_before)
        else:
            check_guards(len(plan.to_send), max_devices=None, max_share=0.05, fleet_size=100, sent_before=sent_before)

    check(3)
    with pytest.raises(NexthinkGuardError, match=r"2 now, 4 others sent or maybe sent by earlier tries") as error:
        check(4)
    assert (error.value.planned, error.value.limit) == (6, 5)
    assert "This try sent nothing." in str(error.value)


NAMES = st.one_of(st.sampled_from(["PC-1", "PC-2", "VIP-1", "", " ", "NA"]), st.text(), st.none(), st.integers())
UIDS = st.one_of(
    st.sampled_from([A, B, A.upper(), B.replace("-", ""), "", "x"]), st.uuids(), st.text(), st.none(), st.floats()
)


@given(st.lists(st.tuples(UIDS, NAMES), max_size=30), st.lists(st.text(min_size=1), max_size=3))
def test_make_plan_every_row_is_decided_once_and_no_device_is_sent_twice(
    rows: list[tuple[Any, Any]], exclude: list[str]
) -> None:
    plan = plan_of(*rows, exclude=exclude)
    assert [position for position, status in enumerate(plan.statuses) if status is None] == plan.to_send
    sent = [plan.uids[position] for position in plan.to_send]
    assert len(set(sent)) == len(sent)
    for position in plan.to_send:
        uid, name = rows[position]
        assert plan.uids[position] == canonical_uid(uid)
        assert plan.names[position] == name
        assert name.strip()
        for at, (_, other) in enumerate(rows):
            if plan.uids[at] == plan.uids[position] and isinstance(other, str) and other.strip() and "\0" not in other:
                assert other == name
    for position, status in enumerate(plan.statuses):
        assert (status is None) == (plan.reasons[position] is None)


def test_make_plan_exclusion_matches_a_soft_hyphen_in_either_reading() -> None:
    for name, pattern in (("SRV\u00ad1", "SRV-*"), ("SR\u00adV-1", "SRV-*"), ("S\u00adRV\u00ad1", "S-RV-*")):
        plan = make_plan(DeviceRows(["0fbd5a5c-0000-4000-8000-000000000001"], [name], "uid", "name"), [pattern])
        assert plan.to_send == []
