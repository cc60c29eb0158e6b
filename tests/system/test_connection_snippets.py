"""The connection snippets of README and documentation: each gives the connection that its page describes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_nexthink.hooks.nexthink import NexthinkHook
from airflow_provider_nexthink.sandbox.server import Sandbox

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# The commands of a page find those of this environment.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def blocks(pattern: str) -> list[tuple[str, str]]:
    """Return the shell snippets with a pattern, after where they stand."""
    return [
        (f"{page.name}:{page.read_text()[: match.start()].count(chr(10)) + 1}", match[1])
        for page in PAGES
        for match in re.finditer(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        if re.search(pattern, match[1])
    ]


def exports() -> list[object]:
    """Return each line that exports a connection: a block may show several ways to set the same one."""
    return [
        pytest.param(statement, id=f"{where}-{number}")
        for where, block in blocks(r"export AIRFLOW_CONN_NEXTHINK")
        for number, statement in enumerate(re.findall(r"^export .*?'.*?'\n", block, re.DOTALL | re.MULTILINE))
    ]


def bash(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PATH": PATH, "COLUMNS": "400"}
    return subprocess.run(["bash", "-c", code], env=environment, check=False, capture_output=True, text=True)


def test_connection_snippets_are_found() -> None:
    assert len(exports()) >= 6
    assert len(blocks("airflow connections add nexthink_default")) == 1
    assert len(blocks("airflow connections test nexthink_default")) == 1


@pytest.mark.parametrize("statement", exports())
def test_connection_export_is_the_tenant_of_the_page(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = bash(f'{statement}printf %s "$AIRFLOW_CONN_NEXTHINK_DEFAULT"')
    assert shell.returncode == 0, shell.stderr
    monkeypatch.setenv("AIRFLOW_CONN_NEXTHINK_DEFAULT", shell.stdout)
    # The one of the page on certificates names a bundle that need not be on this machine.
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    if bundle in shell.stdout.replace("%2F", "/") and not Path(bundle).exists():
        pytest.skip(f"no {bundle}")
    with NexthinkHook("nexthink_default") as hook:
        settings = hook.get_conn().settings
        assert hook.get_connection("nexthink_default").login == "the-client-id"
    assert settings.base_url == "https://acme.api.eu.nexthink.cloud"
    assert settings.client_id == "the-client-id"
    assert settings.client_secret.get_secret_value() in ("the-client-secret", "s@cr:t-text")


def test_connection_command_line_stores_the_tenant_of_the_page(airflow_db: None) -> None:
    ((_, block),) = blocks("airflow connections add nexthink_default")
    added = bash(block.replace("nexthink_default", "from_the_page"))
    assert added.returncode == 0, added.stderr
    shown = bash("airflow connections get from_the_page --output json")
    (connection,) = json.loads(shown.stdout[shown.stdout.index("[{") :])
    fields = {name: connection[name] for name in ("conn_type", "host", "login", "password", "extra_dejson")}
    assert fields == {
        "conn_type": "nexthink",
        "host": "acme",
        "login": "the-client-id",
        "password": "the-client-secret",
        "extra_dejson": {"region": "eu"},
    }


def test_connection_stored_in_the_database_is_tested_as_the_page_says(airflow_db: None, sandbox: Sandbox) -> None:
    added = bash('airflow connections add stored --conn-json "$JSON"', JSON=sandbox.airflow_connection())
    assert added.returncode == 0, added.stderr

    ((_, block),) = blocks("airflow connections test nexthink_default")
    tested = bash(block.replace("nexthink_default", "stored"))
    assert "Connection success!" in tested.stdout, tested.stdout + tested.stderr

    script = bash(
        f'{sys.executable} -c "from airflow_provider_nexthink.hooks.nexthink import NexthinkHook as Hook\n'
        "Hook('stored').get_conn()\""
    )
    assert "The conn_id `stored` isn't defined" in script.stderr
