"""What Airflow reads about the provider."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse, FastAPIAppResponse
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.log import redact  # type: ignore[attr-defined]

from airflow_provider_nexthink import __version__
from airflow_provider_nexthink.api.settings import REGIONS, NexthinkSettings
from airflow_provider_nexthink.deletion.policy import DELETIONS
from airflow_provider_nexthink.get_provider_info import get_provider_info
from airflow_provider_nexthink.hooks.nexthink import _EXTRAS, NexthinkHook
from airflow_provider_nexthink.operators.data_management import NexthinkDeleteDevicesOperator
from airflow_provider_nexthink.operators.ledger import NexthinkQuarantineOperator, NexthinkReconcileOperator
from airflow_provider_nexthink.operators.nql import NexthinkNqlOperator
from airflow_provider_nexthink.sensors.data_management import NexthinkDevicesGoneSensor
from airflow_provider_nexthink.transfers.sql_to_nexthink import SqlToNexthinkDeleteDevicesOperator

INFO: dict[str, Any] = get_provider_info()
SCHEMAS = Path(airflow.__file__).parent


def test_it_fits_the_schema_that_airflow_checks_when_it_runs() -> None:
    jsonschema.validate(INFO, json.loads((SCHEMAS / "provider_info.schema.json").read_text()))


@pytest.mark.parametrize("key", INFO)
def test_each_part_fits_the_strict_schema_too(key: str) -> None:
    strict = json.loads((SCHEMAS / "provider.yaml.schema.json").read_text())["properties"]
    if key in strict:
        jsonschema.validate(INFO[key], strict[key])


def test_the_entry_point_leads_to_it() -> None:
    (entry,) = entry_points(group="apache_airflow_provider").select(
        name="provider_info", module=get_provider_info.__module__
    )
    assert entry.load()() == INFO


def test_the_versions_agree() -> None:
    assert [__version__] == INFO["versions"] == [version("airflow-provider-nexthink")]


def test_every_name_in_it_can_be_imported() -> None:
    for kind in ("hooks", "operators"):
        for entry in INFO[kind]:
            for module in entry["python-modules"]:
                import_module(module)
    for connection in INFO["connection-types"]:
        module, _, name = connection["hook-class-name"].rpartition(".")
        hook = getattr(import_module(module), name)
        assert (hook.conn_type, hook.hook_name) == (connection["connection-type"], connection["hook-name"])


def test_every_link_can_be_imported_and_is_on_an_operator() -> None:
    operators: list[Any] = [
        NexthinkDeleteDevicesOperator,
        SqlToNexthinkDeleteDevicesOperator,
        NexthinkNqlOperator,
        NexthinkQuarantineOperator,
        NexthinkReconcileOperator,
        NexthinkDevicesGoneSensor,
    ]
    shown = {type(link) for operator in operators for link in operator.operator_extra_links}
    listed = set()
    for path in INFO["extra-links"]:
        module, _, name = path.rpartition(".")
        listed.add(getattr(import_module(module), name))
    assert listed == shown


def test_the_form_names_what_the_hook_reads() -> None:
    (connection,) = INFO["connection-types"]
    assert set(connection["conn-fields"]) == set(_EXTRAS)
    for name, field in connection["conn-fields"].items():
        assert field["label"], name
        assert field["description"].endswith("."), name
    region = connection["conn-fields"]["region"]["schema"]
    assert region["enum"] == [*REGIONS, None]
    assert set(region["values_display"]) == {*REGIONS, "null"}
    assert connection["conn-fields"]["timeout"]["schema"]["default"] == NexthinkSettings.timeout
    deletions = connection["conn-fields"]["deletions"]["schema"]
    assert deletions["enum"] == [*DELETIONS, None]
    assert set(deletions["values_display"]) == {*DELETIONS, "null"}


def test_the_form_of_airflow_3_1_has_the_same_words() -> None:
    declared = INFO["connection-types"][0]["ui-field-behaviour"]
    asked = NexthinkHook.get_ui_field_behaviour()
    schema = json.loads((SCHEMAS / "customized_form_field_behaviours.schema.json").read_text())
    jsonschema.validate(asked, schema)
    assert asked["relabeling"] == declared["relabeling"]
    assert json.loads(asked["placeholders"]["extra"]) == {"region": "eu"}


def test_the_form_of_airflow_3_1_has_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API server replaces wtforms by these classes."""
    service = HookMetaService
    fields = {
        "BooleanField": service.MockBooleanField,
        "IntegerField": service.MockIntegerField,
        "PasswordField": service.MockPasswordField,
        "StringField": service.MockStringField,
    }
    monkeypatch.setitem(sys.modules, "wtforms", SimpleNamespace(**fields))
    validators = SimpleNamespace(Optional=service.MockOptional, any_of=service.MockEnum)
    monkeypatch.setitem(sys.modules, "wtforms.validators", validators)
    widgets = NexthinkHook.get_connection_form_widgets()
    declared = INFO["connection-types"][0]["conn-fields"]
    assert list(widgets) == list(declared)
    for name, widget in widgets.items():
        kind = declared[name]["schema"]["type"][0].replace("number", "integer")
        assert widget.param.dump()["schema"]["type"] == [kind, "null"], name
    assert widgets["deletions"].param.dump()["schema"]["enum"] == list(DELETIONS)


def test_every_command_can_be_made() -> None:
    (path,) = INFO["cli"]
    module, _, name = path.rpartition(".")
    (group,) = getattr(import_module(module), name)()
    assert [command.name for command in group.subcommands] == ["check", "plan", "ledger", "sandbox"]


def test_describing_the_commands_imports_the_standard_library_only() -> None:
    added = modules_after("import airflow_provider_nexthink.cli.definition")
    assert not {name.partition(".")[0] for name in added} & {"airflow", "httpx", "pandas", "pydantic", "sqlalchemy"}


@pytest.mark.slow
def test_reading_the_commands_imports_nothing_heavy() -> None:
    plain = modules_after("import airflow.cli.cli_config")
    added = modules_after(
        "import airflow.cli.cli_config\n"
        "from airflow_provider_nexthink.cli.definition import get_nexthink_cli_commands\n"
        "get_nexthink_cli_commands()"
    )
    assert added - plain - {"airflow_provider_nexthink"} == {
        "airflow_provider_nexthink.cli",
        "airflow_provider_nexthink.cli.definition",
    }


def test_the_plugin_is_registered_where_airflow_always_looks() -> None:
    (entry,) = [entry for entry in entry_points(group="airflow.plugins") if "nexthink" in entry.name]
    plugin = entry.load()
    assert issubclass(plugin, AirflowPlugin)
    assert "plugins" not in INFO  # registered twice, it would be reported as an import error
    (view,) = plugin.external_views
    (app,) = plugin.fastapi_apps
    assert app["url_prefix"] == f"/{view['href'].rstrip('/')}"
    assert ExternalViewResponse(**view).destination == "nav"
    assert FastAPIAppResponse(**{**app, "app": "an app"}).name == view["name"]


@pytest.mark.slow
def test_loading_the_plugin_imports_nothing_heavy() -> None:
    plain = modules_after("import airflow.plugins_manager")
    added = modules_after("import airflow_provider_nexthink.plugins.deletions") - plain
    assert added - {"airflow_provider_nexthink"} == {
        "airflow_provider_nexthink.plugins",
        "airflow_provider_nexthink.plugins.deletions",
    }


@pytest.mark.parametrize("extra", _EXTRAS)
def test_an_extra_is_not_masked_unless_it_may_hold_a_password(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = f"https://{extra.replace('_', '-')}.masked.example"  # Airflow masks by the name, in all logs from then on
    connection = {"conn_type": "nexthink", "extra": {extra: value}}
    monkeypatch.setenv("AIRFLOW_CONN_MASKED", json.dumps(connection))
    assert NexthinkHook.get_connection("masked").extra_dejson == {extra: value}
    shown = str(redact(f"No response from {value}."))
    assert value in shown or extra == "proxy"


def test_an_empty_field_of_the_form_is_no_error() -> None:
    for connection in INFO["connection-types"]:
        for field in connection["conn-fields"].values():
            jsonschema.validate(None, field["schema"])


@pytest.mark.slow
def test_the_api_server_gives_the_form_as_described_and_warns_of_nothing() -> None:
    # In a process of its own: Airflow 3.1 puts mocks into sys.modules for this.
    code = """
import json, warnings
from airflow.exceptions import AirflowProviderDeprecationWarning
warnings.simplefilter("error", AirflowProviderDeprecationWarning)
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(form,) = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "nexthink"]
print(form.model_dump_json())
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    form = json.loads(output.splitlines()[-1])
    (described,) = INFO["connection-types"]
    behaviour = described["ui-field-behaviour"]
    for field, title in behaviour["relabeling"].items():
        assert form["standard_fields"][field]["title"] == title
        assert form["standard_fields"][field]["placeholder"] == behaviour["placeholders"].get(field)
    assert form["standard_fields"]["url_schema"]["hidden"]
    assert list(form["extra_fields"]) == list(described["conn-fields"])
    plain = ("base_url", "login_url", "protected")  # in the form of Airflow 3.1
    for name, field in described["conn-fields"].items():
        shown = form["extra_fields"][name]
        assert shown["schema"]["title"] == field["label"]
        assert shown["value"] == field["schema"].get("default")
        assert shown["schema"].get("format") == field["schema"].get("format") or name in plain
    assert set(form["extra_fields"]["region"]["schema"]["enum"]) - {None} == {"us", "eu", "pac", "meta"}


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return set(output.split())


def test_reading_the_provider_info_imports_nothing_else() -> None:
    code = "import airflow_provider_nexthink.get_provider_info as it; it.get_provider_info()"
    ours = {name for name in modules_after(code) if name.startswith(("airflow", "pydantic", "httpx", "pandas"))}
    assert ours == {"airflow_provider_nexthink", "airflow_provider_nexthink.get_provider_info"}


def modules_for_dag_files() -> list[str]:
    """Return every module that a Dag file may import operators from, or helpers."""
    names = ["airflow_provider_nexthink.chunks", "airflow_provider_nexthink.reports"]
    for kind in ("operators", "transfers", "decorators", "sensors"):
        package = import_module(f"airflow_provider_nexthink.{kind}")
        names += [f"{package.__name__}.{module.name}" for module in iter_modules(package.__path__)]
    return names


@pytest.mark.slow
def test_parsing_a_dag_file_imports_nothing_heavy() -> None:
    names = modules_for_dag_files()
    assert len(names) >= 5
    plain = modules_after(
        "import airflow.sdk.exceptions, airflow.sdk.bases.decorator\n"
        "from airflow.sdk import BaseOperator, BaseSensorOperator, XComArg, Context"
    )
    operators = modules_after("\n".join(f"import {name}" for name in names))
    added = operators - plain
    assert not {name.partition(".")[0] for name in added}.intersection(
        {"pandas", "numpy", "httpx", "httpcore", "pyarrow", "pydantic", "starlette", "fsspec"}
    )
    # What only a run needs: it would cost each parse of each Dag file.
    ours = {name for name in added if name.startswith("airflow_provider_nexthink.")}
    late = ("api.models", "api.http", "hooks", "devices.reader", "deletion.plan", "deletion.run")
    assert not {name for name in ours if name.removeprefix("airflow_provider_nexthink.").startswith(late)}
