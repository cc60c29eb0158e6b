"""``@task.nexthink_delete_devices`` in a real Airflow: a function returns devices, and they are deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from airflow.sdk import DAG, Param, task
from airflow.serialization.helpers import serialize_template_field

from airflow_provider_nexthink.decorators.nexthink_delete_devices import nexthink_delete_devices_task
from airflow_provider_nexthink.exceptions import NexthinkInputError
from airflow_provider_nexthink.sandbox.server import Sandbox
from tests.support.dags import Run

RunDag = Callable[..., Run]

NATIVE = pytest.mark.parametrize("native", [False, True], ids=["as text", "natively"])
SHAPES: dict[str, Callable[[list[dict[str, str]]], Any]] = {
    "records": lambda rows: rows,
    "DataFrame": pd.DataFrame,
    "generator": iter,
    "one mapping": lambda rows: rows[0],
}


def devices_of(sandbox: Sandbox, count: int) -> list[dict[str, str]]:
    return [{"uid": device.uid, "name": device.name} for device in sandbox.tenant.devices()[:count]]


@NATIVE
@pytest.mark.parametrize("shape", SHAPES)
def test_decorator_deletes_the_devices_that_the_function_returns(
    sandbox: Sandbox, run_dag: RunDag, shape: str, native: bool
) -> None:
    rows = devices_of(sandbox, 120)
    with DAG("plain", render_template_as_native_obj=native) as dag:

        @task.nexthink_delete_devices(max_devices="{{ 60 * 2 }}", exclude=["SRV-*"])
        def delete() -> Any:
            return SHAPES[shape](rows)

        delete()
    run = run_dag(dag)
    assert run.state == "success"
    table = run.xcom("delete")
    assert [(row["uid"], row["name"]) for row in table] == [
        (row["uid"], row["name"]) for row in (rows[:1] if shape == "one mapping" else rows)
    ]
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in table if row["status"] == "SCHEDULED")
    assert run.xcom("delete", "summary")["requested"] == len(table)


def test_decorator_without_parentheses_passes_arguments_and_context(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("bare", params={"count": 3}) as dag:

        @task
        def start() -> int:
            return 2

        @task.nexthink_delete_devices
        def delete(first: Any, *, params: Any = None, ti: Any = None) -> dict[str, Any]:
            rows = devices_of(sandbox, first + params["count"])
            assert ti.task_id == "delete"
            return {"uid": [row["uid"] for row in rows], "name": [row["name"] for row in rows]}

        @task
        def count(table: Any) -> int:
            return len(table)

        count(delete(start()))
    run = run_dag(dag)
    assert run.states == {"start": "success", "delete": "success", "count": "success"}
    assert run.xcom("count") == 5


async def listed(rows: list[dict[str, str]]) -> Any:
    await asyncio.sleep(0)
    return rows


async def yielded(rows: list[dict[str, str]]) -> Any:
    for row in rows:
        await asyncio.sleep(0)
        yield row


def returns_a_coroutine(rows: list[dict[str, str]]) -> Any:
    return listed(rows)


def returns_a_generator(rows: list[dict[str, str]]) -> Any:
    return yielded(rows)


@pytest.mark.parametrize("function", [listed, yielded, returns_a_coroutine, returns_a_generator])
def test_decorator_awaits_an_async_function(sandbox: Sandbox, run_dag: RunDag, function: Any) -> None:
    rows = devices_of(sandbox, 3)
    with DAG("awaited", default_args={"execution_timeout": timedelta(minutes=1)}) as dag:

        @task
        def pull() -> list[dict[str, str]]:
            return rows

        task.nexthink_delete_devices(task_id="delete")(function)(pull())
    run = run_dag(dag)
    assert run.state == "success"
    assert sorted(sandbox.tenant.queued) == sorted(row["uid"] for row in rows)


@pytest.mark.parametrize(
    ("raised", "tries"), [(NexthinkInputError("The form is empty."), 1), (ConnectionError("the CMDB is away"), 2)]
)
def test_decorator_async_function_that_raises_fails_the_task(
    sandbox: Sandbox, run_dag: RunDag, raised: Exception, tries: int
) -> None:
    with DAG("raises", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:

        @task.nexthink_delete_devices
        async def delete() -> Any:
            await asyncio.sleep(0)
            raise raised

        delete()
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", tries)
    assert str(raised) in str(run.errors[-1])


def test_decorator_async_function_that_hangs_ends_with_the_timeout(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("late") as dag:

        @task.nexthink_delete_devices(execution_timeout=timedelta(seconds=1))
        async def delete() -> Any:
            await asyncio.Event().wait()

        delete()
    run = run_dag(dag)
    assert run.state == "failed"
    assert "Timeout" in type(run.errors[0]).__name__
    assert sandbox.requests == []


def test_decorator_with_override_partial_and_expand_deletes(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("mapped") as dag:

        @nexthink_delete_devices_task(dry_run=True, columns=["uid", "name"], max_devices=2)
        def delete(count: int, prefix: str = "") -> list[tuple[str, str]]:
            return [(row["uid"], prefix + row["name"]) for row in devices_of(sandbox, count)]

        delete(1)
        delete.override(task_id="really", dry_run=False)(2)
        delete.override(task_id="mapped").expand(count=[1, 2])
        delete.override(task_id="partly").partial(prefix="x-").expand(count=[2])
    run = run_dag(dag)
    assert run.state == "success"
    assert [row["status"] for row in run.xcom("delete")] == ["PLANNED"]
    assert [row["status"] for row in run.xcom("really")] == ["SCHEDULED"] * 2
    assert [len(run.xcom("mapped", map_index=at)) for at in (0, 1)] == [1, 2]
    assert run.xcom("partly", map_index=0)[0]["name"].startswith("x-")
    assert len(sandbox.tenant.queued) == 2


def test_decorator_guard_exceeded_sends_nothing(sandbox: Sandbox, run_dag: RunDag) -> None:
    with DAG("guarded", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:

        @task.nexthink_delete_devices(max_devices=2)
        def delete() -> list[dict[str, str]]:
            return devices_of(sandbox, 3)

        delete()
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", 1)
    assert "3 devices, more than max_devices=2" in run.error
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("given", "tries", "says"),
    [
        (None, 1, "delete returned nothing: it must return the devices, or an empty list. This try sent nothing."),
        ("no list", 1, "text that is not JSON"),
        ([], 1, "no rows"),
        (NexthinkInputError("The form is empty."), 1, "The form is empty."),
        (ConnectionError("the CMDB is away"), 2, "the CMDB is away"),
    ],
)
def test_decorator_without_devices_fails(sandbox: Sandbox, run_dag: RunDag, given: Any, tries: int, says: str) -> None:
    with DAG("nothing", default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:

        @task.nexthink_delete_devices(on_empty="fail")
        def delete() -> Any:
            if isinstance(given, Exception):
                raise given
            return given

        delete()
    run = run_dag(dag)
    assert (run.state, run.tries("delete")) == ("failed", tries)
    assert says in str(run.errors[-1])
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": []}, "devices is no option of @task.nexthink_delete_devices"),
        ({"multiple_outputs": True}, "multiple_outputs is no option"),
        ({"max_share": 0.5}, "max_share needs fleet_size"),
    ],
)
def test_decorator_wrong_option_fails_the_parsing_of_the_dag(options: dict[str, Any], says: str) -> None:
    def make() -> None:
        @task.nexthink_delete_devices(**options)  # type: ignore[untyped-decorator]
        def delete() -> list[Any]:
            return []

        delete()

    with DAG("wrong"), pytest.raises(NexthinkInputError, match=says):
        make()


def test_decorator_imported_is_the_registered_one() -> None:
    assert task.nexthink_delete_devices is nexthink_delete_devices_task


@pytest.mark.parametrize("mapped", [False, True])
def test_decorator_table_argument_is_not_in_the_rendered_view(sandbox: Sandbox, run_dag: RunDag, mapped: bool) -> None:
    rows = devices_of(sandbox, 4)
    seen: list[Any] = []
    with DAG("arguments") as dag:

        @task
        def pull() -> list[dict[str, str]]:
            return rows

        @nexthink_delete_devices_task(on_success_callback=lambda context: seen.append(context["task"]))
        def delete(found: Any, prefix: str, kept: Any = None) -> Any:
            assert kept == [{"uid": "{{ 1 }}", "name": "{{ 2 }}"}]  # no name is run as a template
            assert prefix == "3"
            return found

        fixed: dict[str, Any] = {"prefix": "{{ 1 + 2 }}", "kept": [{"uid": "{{ 1 }}", "name": "{{ 2 }}"}]}
        if mapped:
            delete.partial(**fixed).expand(found=[rows[:2], rows[2:]])
        else:
            delete(pull(), **fixed)
    run = run_dag(dag)
    assert run.state == "success"
    assert len(sandbox.tenant.queued) == 4
    for each in seen:
        shown = json.dumps(
            [serialize_template_field(getattr(each, field), field) for field in ("op_args", "op_kwargs")]
        )
        assert ("2 rows (list)" if mapped else "4 rows (list)") in shown
        assert "1 rows (list)" in shown
        assert rows[0]["uid"] not in shown
        assert "{{" not in shown
        assert " at 0x" not in shown
    assert len(seen) == (2 if mapped else 1)


def slashed(rows: object) -> str:
    return json.dumps(rows).replace("/", r"\/")  # as PHP and others write it


@NATIVE
@pytest.mark.parametrize("where", ["the Dag", "the task"])
def test_decorator_json_text_argument_keeps_its_names(
    sandbox: Sandbox, run_dag: RunDag, where: str, native: bool
) -> None:
    names = ["SITE/PC1", "C:\\new", "\\x41", "Kiosk-\u20ac", "'", '"', "1e10"]
    rows = [{**row, "name": name} for row, name in zip(devices_of(sandbox, len(names)), names, strict=True)]
    given: dict[str, tuple[Any, Any]] = {
        "template": ("{{ params.text }}", rows),
        "blanks": (" {{ params.text }}\n", rows),
        "columns": ("{{ params.columns }}", rows),
        "written": (slashed(rows), rows),
        "tojson": ("{{ params.rows | tojson }}", rows),
        "nested": (["{{ params.text }}", "{{ params.rows | tojson }}"], [*rows, *rows]),
    }
    params = {
        "rows": Param(rows),
        "text": Param(slashed(rows)),
        "columns": Param(slashed({key: [row[key] for row in rows] for key in ("uid", "name")})),
    }
    with DAG("json", params=params, render_template_as_native_obj=native and where == "the Dag") as dag:
        for task_id, (argument, _) in given.items():

            @task.nexthink_delete_devices(
                task_id=task_id,
                dry_run=True,
                render_template_as_native_obj=native if where == "the task" else None,
            )
            def delete(found: Any, named: Any) -> Any:
                lists = [json.loads(text) if isinstance(text, str) else text for text in (found, named)]
                if isinstance(found, list) and isinstance(found[0], str | list):
                    return [row for text in found for row in (json.loads(text) if isinstance(text, str) else text)]
                assert lists[0] == lists[1]
                return found

            delete(argument, named=argument)
    run = run_dag(dag)
    assert run.state == "success"
    for task_id, (_, wanted) in given.items():
        found = [(row["uid"], row["name"]) for row in run.xcom(task_id)]
        assert found == [(row["uid"], row["name"]) for row in wanted], task_id


@NATIVE
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[{"uid": "%s", "name": "a", "name": "b"}]', "names the key 'name' twice"),
        ('{"uid": ["%s"], "name": ["a"], "name": ["b"]}', "names the key 'name' twice"),
        ("[{'uid': '%s', 'name': 'a', 'name': 'b'}]", "looks like Python, not JSON"),
        (r"""[{"uid": "%s", "name": "SITE\x41"}]""", "not JSON"),
    ],
)
def test_decorator_ambiguous_text_argument_is_refused(
    sandbox: Sandbox, run_dag: RunDag, text: str, says: str, native: bool
) -> None:
    params = {"text": Param(text % devices_of(sandbox, 1)[0]["uid"])}
    with DAG("ambiguous", params=params, render_template_as_native_obj=native) as dag:

        @task.nexthink_delete_devices
        def delete(found: Any) -> Any:
            return found

        delete("{{ params.text }}")
    run = run_dag(dag)
    assert run.state == "failed"
    assert says in run.error
    assert sandbox.requests == []


def test_decorator_other_arguments_are_rendered_as_by_airflow(sandbox: Sandbox, run_dag: RunDag) -> None:
    templates = {
        "number": ("{{ 1 + 2 }}", 3),
        "padded number": (" {{ 1 + 2 }} ", " 3 "),
        "digits": ("{{ '7' }}", 7),
        "truth": ("{{ params.count == 2 }}", True),
        "text": ("{{ 'PC' }}-*", "PC-*"),
        "nothing": ("{% if false %}x{% endif %}", None),
        "none": ("{{ none }}", None),
        "names": ("['{{ params.count }}', 'b']", ["2", "b"]),
        "numbers": ("[{{ params.count }}, 3]", [2, 3]),
        "range": ("{{ range(params.count) | list }}", [0, 1]),
        "tuple": ("({{ params.count }}, 'b')", (2, "b")),
        "options": ("{{ {'prefix': params.count} }}", {"prefix": 2}),
        "nested": (["{{ 1 + 2 }}", {"a": "{{ 'b' }}"}], [3, {"a": "b"}]),
        "when": ("{{ logical_date is none }}", False),
    }
    seen: dict[str, Any] = {}
    with DAG("others", params={"count": 2}, render_template_as_native_obj=True) as dag:

        @task.nexthink_delete_devices(on_empty="succeed")
        def delete(arguments: Any, **context: Any) -> Any:
            seen.update(arguments)
            return []

        delete({name: template for name, (template, _) in templates.items()})
    assert run_dag(dag).state == "success"
    assert seen == {name: value for name, (_, value) in templates.items()}
    assert {name: type(value) for name, value in seen.items()} == {
        name: type(value) for name, (_, value) in templates.items()
    }


@pytest.mark.parametrize("mapped", [False, True])
def test_decorator_text_of_an_xcom_argument_is_not_rendered(sandbox: Sandbox, run_dag: RunDag, mapped: bool) -> None:
    rows = [{**row, "name": r"{{ 7*7 }} / \x41"} for row in devices_of(sandbox, 2)]
    with DAG("xcom", render_template_as_native_obj=True) as dag:

        @task
        def found() -> Any:
            return [slashed(rows)] if mapped else slashed(rows)

        @task.nexthink_delete_devices(dry_run=True)
        def delete(text: Any) -> Any:
            assert text == slashed(rows)
            return text

        delete.expand(text=found()) if mapped else delete(found())
    table = run_dag(dag).xcom("delete", map_index=0 if mapped else -1)
    assert [(row["uid"], row["name"]) for row in table] == [(row["uid"], row["name"]) for row in rows]
