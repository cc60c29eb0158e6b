"""Every form of the connection in docs/connection.md, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_nexthink.api.settings import NexthinkSettings
from airflow_provider_nexthink.hooks.nexthink import _EXTRAS, NexthinkHook
from airflow_provider_nexthink.sandbox.server import Sandbox

PAGE = (Path(__file__).parents[2] / "docs" / "connection.md").read_text()
VARIABLE = "AIRFLOW_CONN_NEXTHINK_DEFAULT"

API = "https://acme.api.eu.nexthink.cloud"
TOKEN = "https://acme-login.eu.nexthink.cloud/oauth2/default/v1/token"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


EXPORTS = [f"export {VARIABLE}={value}" for block in blocks("bash") for value in block.split(f"export {VARIABLE}=")[1:]]
(COMMAND,) = [block for block in blocks("bash") if "airflow connections add" in block]
ADDRESSES = re.findall(r"^    (\S*nexthink\.cloud\S*)$", PAGE, re.MULTILINE)


def settings() -> NexthinkSettings:
    with NexthinkHook() as hook:
        return hook.get_conn().settings


def assert_acme(found: NexthinkSettings) -> None:
    assert (found.instance, found.base_url, found.login_url) == ("acme", API, TOKEN)
    assert found.browser_url == "https://acme.eu.nexthink.cloud"
    assert found.client_id == "the-client-id"


def test_connection_page_has_as_many_forms_as_are_tested() -> None:
    assert PAGE.count(VARIABLE) == len(EXPORTS) == 4
    assert len(ADDRESSES) == 4
    assert len(blocks("python")) == len(blocks("json")) == 1


@pytest.mark.parametrize("export", EXPORTS)
def test_connection_form_environment_variables_works(export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = subprocess.run(
        ["bash", "-c", f'{export}\nprintf %s "${VARIABLE}"'], check=True, capture_output=True, text=True
    )
    monkeypatch.setenv(VARIABLE, shell.stdout)
    found = settings()
    assert_acme(found)
    special = "proxy" in export
    assert found.client_secret.get_secret_value() == ("s@cr:t-text" if special else "the-client-secret")
    assert found.timeout == (60.0 if "timeout" in export else 30.0)
    assert (found.proxy.get_secret_value() if found.proxy else None) == (
        "http://proxy.acme.example:3128" if special else None
    )
    assert found.verify == ("/etc/ssl/certs/ca-certificates.crt" if special else True)


@pytest.mark.parametrize("address", ADDRESSES)
def test_connection_form_pasted_addresses_works(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"conn_type": "nexthink", "host": address, "login": "the-client-id", "password": "the-client-secret"}
    monkeypatch.setenv(VARIABLE, json.dumps(fields))
    assert_acme(settings())


def test_connection_form_command_line_works(airflow_db: None) -> None:
    from airflow.cli.cli_parser import get_parser
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    arguments = get_parser().parse_args(shlex.split(COMMAND.replace("\\\n", " "))[1:])
    arguments.func(arguments)
    with create_session() as session:
        stored = session.scalars(select(Connection).where(Connection.conn_id == "nexthink_default")).one()
        found = NexthinkHook()._settings(stored, stored.extra_dejson)
        session.delete(stored)
    assert_acme(found)


def test_connection_form_other_token_address_works(monkeypatch: pytest.MonkeyPatch) -> None:
    (extra,) = blocks("json")
    fields = {"conn_type": "nexthink", "host": "acme", "login": "the-client-id", "password": "the-client-secret"}
    monkeypatch.setenv(VARIABLE, json.dumps({**fields, "extra": json.loads(extra)}))
    assert settings().login_url == "https://acme.api.eu.nexthink.cloud/api/v1/token"


def test_connection_form_test_in_python_works(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "docs/connection.md", "exec"), {})
    documented = re.search(r"^    (Authentication: works .*)$", PAGE, re.MULTILINE)
    assert documented is not None
    assert documented[1].replace("acme", "sandbox") in capsys.readouterr().out


def test_connection_form_of_airflow_is_read(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form stores every field, the empty ones as null."""
    fields: dict[str, Any] = json.loads(sandbox.airflow_connection())
    fields["extra"] = dict.fromkeys(_EXTRAS) | fields["extra"]
    fields |= {"port": 0, "schema": ""}
    monkeypatch.setenv(VARIABLE, json.dumps(fields))
    with NexthinkHook() as hook:
        assert hook.test_connection()[0]
    assert os.environ[VARIABLE]
