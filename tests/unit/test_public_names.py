"""No public name changes unnoticed."""

from __future__ import annotations

import subprocess
import sys
from difflib import unified_diff

from tests.tools.public_names import NAMES, REFERENCE, ROOT, XCOMS, public_names, referenced


def test_public_names_are_those_of_the_file() -> None:
    # In a process of its own: other tests replace constants that are the defaults of parameters.
    code = "from tests.tools.public_names import public_names; print(*public_names(), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    recorded = NAMES.read_text().splitlines()
    changes = "\n".join(
        unified_diff(recorded, found.splitlines(), "tests/public_names.txt", "the code", lineterm="", n=1)
    )
    assert not changes, (
        f"A public name has changed:\n{changes}\nIf that is meant: run `make public-names`, and say in CHANGELOG.md "
        "what users have to do. docs/stability.md says which version number it takes."
    )


def test_public_names_know_every_part_of_the_interface() -> None:
    names = set(public_names())
    for expected in (
        "airflow_provider_nexthink.operators.data_management.NexthinkDeleteDevicesOperator",
        "  max_devices=1000",
        "  fail_on=('FAILED', 'UNKNOWN', 'NOT_SENT')",
        "airflow_provider_nexthink.filters.not_seen_for",
        "  NexthinkGuardError (NexthinkInputError)",
        "  SCHEDULED",
        "  .raise_for_status",
        "  quota_devices",
        "Columns of the table nexthink_deletions",
    ):
        assert expected in names


def test_referenced_reads_which_members_the_page_shows() -> None:
    page = "::: a.B\n    options:\n      members: false\n\n::: a.C\n\n::: d\n    options:\n      members: [e, f]\n"
    assert list(referenced(page)) == [("a.B", []), ("a.C", None), ("d", ["e", "f"])]


def test_public_names_every_operator_on_the_reference_page_has_its_xcoms() -> None:
    operators = {
        path.rpartition(".")[2]
        for path, _ in referenced(REFERENCE.read_text())
        if path.split(".")[1] in ("operators", "sensors")
    }
    assert operators == set(XCOMS)
