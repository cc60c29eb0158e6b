"""The documentation: every Python snippet runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nexthink_api.Models.nxt_settings import NxtSettings
from sqlalchemy import create_engine

from airflow_provider_nexthink.ledger import Ledger
from airflow_provider_nexthink.sandbox.server import Sandbox

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets() -> list[object]:
    """Return every Python snippet with where it stands; those that show a whole Dag are tested as that file."""
    found: list[object] = []
    dags = {dag.read_text() for dag in (ROOT / "dags").glob("*.py")}
    for page in PAGES:
        for match in re.finditer(r"^( *)```python\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE):
            if match[2] in dags:
                continue
            line = page.read_text()[: match.start()].count("\n") + 1
            code = re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE)
            found.append(pytest.param(code, id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.parametrize("code", snippets())
def test_docs_snippet_runs(code: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTHINK_CLIENT_ID", sandbox.client_id)
    monkeypatch.setenv("NEXTHINK_CLIENT_SECRET", sandbox.client_secret)
    if "Ledger.existing(" in code:
        Ledger(create_engine("sqlite:///ledger.db"), tenant="acme", instance="acme").open()
    if '"devices.csv"' in code:
        laptops = [device for device in sandbox.tenant.devices() if device.name.startswith("LAPTOP")]
        rows = [f"{device.uid},{device.name}" for device in laptops[:120]]  # more than a batch
        Path("devices.csv").write_text("\n".join(["device.uid,device.name", *rows]), encoding="utf-8")
    # The one thing that is changed: the tenant of the snippets is not there.
    monkeypatch.setattr(NxtSettings, "base_url", sandbox.url)
    monkeypatch.setattr(NxtSettings, "login_base_url", sandbox.url)
    code = code.replace('region="eu",', f'base_url="{sandbox.url}", login_url="{sandbox.login_url}",')
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
