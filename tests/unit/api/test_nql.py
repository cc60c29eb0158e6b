"""Queries: run at once or exported, with every value as the text that it is in Nexthink."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.http import Transport
from airflow_provider_nexthink.api.nql import (
    EXECUTE_ROWS,
    NqlRows,
    NqlStream,
    execute,
    export_status,
    fetch_export,
    read_export,
    start_export,
    wait_for_export,
)
from airflow_provider_nexthink.api.query import check_query_id
from airflow_provider_nexthink.api.result_file import ResultLimits
from airflow_provider_nexthink.exceptions import (
    NexthinkExportError,
    NexthinkFinalError,
    NexthinkInputError,
    NexthinkNotFoundError,
    NexthinkPermissionError,
    NexthinkResultLimitError,
    NexthinkRetryableError,
    NexthinkTruncatedError,
)
from tests.support.tenant import API, SETTINGS, shown_by
from tests.support.tenant import HttpTenant as Nexthink

STATUS = f"{API}/api/v1/nql/status/e-1"
ODD_NAMES = [
    "NA",
    "None",
    "null",
    "nan",
    "00123",
    "1E10",
    "-0",
    "TRUE",
    "",
    " ",
    'q"u,o"te',
    "l1\nl2",
    "c\r\nd",
    "Zoë 🖥",
]


@pytest.fixture
def nexthink() -> Nexthink:
    return Nexthink(lifetime=1e9)


@pytest.fixture
def transport(nexthink: Nexthink) -> Iterator[Transport]:
    with nexthink.transport() as transport:
        yield transport


def asked(nexthink: Nexthink) -> list[str]:
    return [f"{request.method} {request.url}" for request in nexthink.received]


def status(word: str, *, http: int = 200, **more: object) -> httpx.Response:
    return httpx.Response(http, json={"status": word, **more}, headers={"x-request-id": "their-id"})


def completed(file: str = "one", *, http: int = 200) -> httpx.Response:
    return status("COMPLETED", http=http, resultsFileUrl=f"https://store.example/{file}?s=made-up-signature")


def stored(content: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(200, headers=headers, stream=httpx.ByteStream(content))


# --- the query


@pytest.mark.parametrize("query_id", ["#ab", "#stale_devices_90", "#__", "#" + "a" * 254])
def test_check_query_id_valid_id_is_returned(query_id: str) -> None:
    assert check_query_id(query_id) == query_id


@pytest.mark.parametrize(
    "query_id",
    [
        "",
        "#",
        "#a",
        "ab",
        "#Ab",
        "#a-b",
        "#a b",
        "#ab\n",
        "##ab",
        "#é" * 2,
        "#" + "a" * 255,
        "devices | list name",
        None,
        1,
        b"#ab",
    ],
)
@pytest.mark.parametrize("run", [execute, start_export])
def test_query_invalid_id_is_not_sent(
    nexthink: Nexthink, transport: Transport, query_id: Any, run: Callable[[Transport, str], object]
) -> None:
    with pytest.raises(NexthinkInputError, match="is not an NQL query id"):
        run(transport, query_id)

    assert nexthink.received == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        np.True_,
        ["a"],
        {"a": "b"},
        b"x",
        object(),
        float("nan"),
        float("inf"),
        Decimal("sNaN"),
        Fraction(1, 3),
    ],
)
@pytest.mark.parametrize("run", [execute, start_export])
def test_query_parameter_of_another_type_is_refused(
    nexthink: Nexthink, transport: Transport, value: Any, run: Callable[..., object]
) -> None:
    with pytest.raises(NexthinkInputError, match="NQL parameter 'days' is"):
        run(transport, "#ab", {"name": "x", "days": value})

    assert nexthink.received == []


@pytest.mark.parametrize("parameters", [["a"], "abc", [("name", "x")], {"a"}, 1])
@pytest.mark.parametrize("run", [execute, start_export])
def test_query_parameters_not_a_mapping_are_refused(
    nexthink: Nexthink, transport: Transport, parameters: Any, run: Callable[..., object]
) -> None:
    with pytest.raises(NexthinkInputError, match="parameters is a .* a mapping of names to text"):
        run(transport, "#ab", parameters)

    assert nexthink.received == []


@pytest.mark.parametrize(
    ("parameters", "sent"),
    [
        (None, {}),
        ({}, {}),
        ({"name": "00123", "empty": ""}, {"parameters": {"name": "00123", "empty": ""}}),
        ({"days": 90, "share": 0.5}, {"parameters": {"days": "90", "share": "0.5"}}),
        ({"days": np.int64(90), "share": np.float32(0.5)}, {"parameters": {"days": "90", "share": "0.5"}}),
        ({"days": Decimal(90), "share": Decimal("0.50")}, {"parameters": {"days": "90", "share": "0.50"}}),
        ({"days": 90.0, "share": 1e-7}, {"parameters": {"days": "90", "share": "0.0000001"}}),
    ],
)
def test_query_request_is_as_documented(
    nexthink: Nexthink, transport: Transport, parameters: Any, sent: dict[str, object]
) -> None:
    nexthink.responses = [httpx.Response(200, json={"data": []}), httpx.Response(200, json={"exportId": "e-1"})]
    execute(transport, "#ab", parameters)
    start_export(transport, "#ab", parameters, "ZSTD")

    assert asked(nexthink) == [f"POST {API}/api/v2/nql/execute", f"POST {API}/api/v1/nql/export"]
    first, second = nexthink.received
    assert json.loads(first.content) == {"queryId": "#ab", **sent}
    assert json.loads(second.content) == {"queryId": "#ab", "compression": "ZSTD", **sent}
    assert first.headers["Accept"] == "application/json"
    assert first.headers["x-utc-times"] == "true"


@pytest.mark.parametrize("run", [execute, start_export])
@pytest.mark.parametrize(
    ("http", "kind", "hint"),
    [
        (403, NexthinkPermissionError, "Tick the permission 'NQL API'"),
        (404, NexthinkNotFoundError, "Nexthink has no saved query #ab"),
    ],
)
def test_query_refused_has_a_hint(
    nexthink: Nexthink, transport: Transport, run: Callable[..., object], http: int, kind: type[Exception], hint: str
) -> None:
    nexthink.responses = [httpx.Response(http)]
    with pytest.raises(kind, match=hint):
        run(transport, "#ab")


# --- at once


def executed(nexthink: Nexthink, transport: Transport, body: str | bytes) -> NqlRows:
    nexthink.responses = [httpx.Response(200, content=body)]
    return execute(transport, "#ab")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0", "-0"),
        ("1E10", "1E10"),
        ("1e-7", "1e-7"),
        ("1.50", "1.50"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("1" * 5000, "1" * 5000),
        ("NaN", "NaN"),
        ("null", ""),
        ("true", "true"),
        ("false", "false"),
        ('""', ""),
        ('"null"', "null"),
        ('"00123"', "00123"),
        ('"a\\u00e9\\n\\"b"', 'aé\n"b'),
        ('["Zoë", null, true]', '["Zoë", null, true]'),
        ('{"a": {"b": "c"}}', '{"a": {"b": "c"}}'),
        ("[]", "[]"),
    ],
)
def test_execute_json_value_becomes_its_text(nexthink: Nexthink, transport: Transport, value: str, text: str) -> None:
    rows = executed(nexthink, transport, f'{{"data": [{{"device.name": {value}}}]}}'.encode())

    assert rows == [{"device.name": text}]


@given(names=st.lists(st.text() | st.sampled_from(ODD_NAMES)))
def test_execute_every_name_survives(names: list[str]) -> None:
    nexthink = Nexthink()
    with Transport(SETTINGS, http_transport=httpx.MockTransport(nexthink)) as transport:
        rows = executed(nexthink, transport, json.dumps({"data": [{"device.name": name} for name in names]}))

    assert [row["device.name"] for row in rows] == names


def test_execute_columns_are_those_of_all_rows(nexthink: Nexthink, transport: Transport) -> None:
    rows = executed(nexthink, transport, '{"data": [{"b": 1, "a": 2}, {"b": 3, "c": 4}], "rows": 2}')

    assert rows.columns == ["b", "a", "c"]
    assert rows.truncated is False
    assert executed(nexthink, transport, '{"data": []}').columns == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": [1]}',
        b"\xff",
        b'{"data": [{"a"',
        pytest.param(b'{"data": ' + b"[" * 100_000, id="nested and cut off"),
        *(
            pytest.param(b'{"data": [{"a": ' + b"[" * depth + b"]" * depth + b"}]}", id=f"nested {depth} deep")
            for depth in (100_000, 1_000_000)
        ),
        b'{"data": [{"uid": "a", "name": "b", "uid": "c"}]}',
        b'{"data": [{"uid": "a", "u\\u0069d": "a"}]}',
        b'{"data": [], "data": [{"uid": "a"}]}',
        b'{"data": [{"tags": [{"a": 1, "a": 2}]}]}',
        b'{"data": [], "more": {"a": 1, "a": 2}}',
    ],
)
def test_execute_invalid_result_is_refused(nexthink: Nexthink, transport: Transport, body: bytes) -> None:
    with pytest.raises(NexthinkExportError, match="not as the NQL API documents it") as caught:
        executed(nexthink, transport, body)

    assert caught.value.status == 200


@pytest.mark.parametrize(("rows", "warned"), [(EXECUTE_ROWS - 1, False), (EXECUTE_ROWS, True)])
def test_execute_result_of_maximum_size_is_a_warning(
    nexthink: Nexthink, transport: Transport, caplog: pytest.LogCaptureFixture, rows: int, warned: bool
) -> None:
    executed(nexthink, transport, json.dumps({"data": [{"a": "b"}] * rows}))

    assert ("#ab gave 1000 rows" in caplog.text) is warned


# --- exported


def test_export_start_to_rows(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [
        httpx.Response(200, json={"exportId": "e-1"}),
        status("SUBMITTED"),
        status("IN_PROGRESS"),
        status("IN_PROGRESS"),
        completed(),
        completed(),
        stored(gzip.compress("device.name,device.uid\r\n00123,u1\r\nNA,u2\r\n".encode("utf-8-sig"))),
    ]
    export_id = start_export(transport, "#ab")
    wait_for_export(transport, export_id, poll_interval=4, timeout=60)
    rows = fetch_export(transport, export_id)

    assert rows == [{"device.name": "00123", "device.uid": "u1"}, {"device.name": "NA", "device.uid": "u2"}]
    assert (rows.columns, rows.truncated) == (["device.name", "device.uid"], False)
    assert nexthink.sleeps == [4, 6, 9]
    assert asked(nexthink) == [
        f"POST {API}/api/v1/nql/export",
        *[f"GET {STATUS}"] * 5,
        "GET https://store.example/one?s=made-up-signature",
    ]
    assert json.loads(nexthink.received[0].content)["compression"] == "GZIP"
    assert "authorization" not in nexthink.received[-1].headers


@pytest.mark.parametrize(("first", "waits"), [(20, [20, 30, 45, 60, 60]), (60, [60] * 5), (100, [100] * 5)])
def test_wait_for_export_waits_grow_to_a_minute(
    nexthink: Nexthink, transport: Transport, first: float, waits: list[float]
) -> None:
    nexthink.responses = [*(status("IN_PROGRESS") for _ in waits), completed()]
    wait_for_export(transport, "e-1", poll_interval=first, timeout=1000)

    assert nexthink.sleeps == waits


def test_wait_for_export_ends_at_the_timeout(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [status("IN_PROGRESS") for _ in range(3)]
    with pytest.raises(NexthinkExportError, match="export e-1 was not ready in time") as caught:
        wait_for_export(transport, "e-1", poll_interval=10, timeout=25)

    assert isinstance(caught.value, NexthinkRetryableError)
    assert nexthink.sleeps == [10, 15]
    assert nexthink.responses == []


def test_wait_for_export_long_interval_polls_once_more_at_the_timeout(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [status("IN_PROGRESS"), completed()]
    wait_for_export(transport, "e-1", poll_interval=60, timeout=10)

    assert nexthink.sleeps == [10]
    assert nexthink.responses == []


@pytest.mark.parametrize(("said", "shown"), [("out of luck", "out of luck"), (None, "no reason given")])
def test_export_status_error_is_an_export_error(
    nexthink: Nexthink, transport: Transport, said: str | None, shown: str
) -> None:
    nexthink.responses = [status("SUBMITTED"), status("ERROR", errorDescription=said)]
    with pytest.raises(NexthinkExportError, match=f"export e-1.*{shown}") as caught:
        wait_for_export(transport, "e-1", poll_interval=1, timeout=60)

    assert caught.value.request_id == nexthink.received[-1].headers["x-request-id"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"status": "DONE"}',
        b'{"status": "COMPLETED", "resultsFileUrl": ["made-up-url"]}',
        b'{"status": "IN_PROGRESS", "status": "COMPLETED", "resultsFileUrl": "made-up-url"}',
        b'{"status": "COMPLETED", "resultsFileUrl": "made-up-url", "resultsFileUrl": "made-up-other"}',
    ],
)
def test_export_status_unreadable_is_an_export_error(nexthink: Nexthink, transport: Transport, body: bytes) -> None:
    nexthink.responses = [httpx.Response(200, content=body)]
    with pytest.raises(NexthinkExportError, match="not as the NQL API documents it") as caught:
        export_status(transport, "e-1")

    assert "made-up" not in str(caught.value)


@pytest.mark.parametrize("depth", range(50, 1200, 50))
def test_execute_nested_value_is_text_or_refused(nexthink: Nexthink, transport: Transport, depth: int) -> None:
    value = "[" * depth + "]" * depth
    try:
        assert executed(nexthink, transport, f'{{"data": [{{"a": {value}}}]}}') == [{"a": value}]
    except NexthinkExportError as error:
        assert "not as the NQL API documents it" in str(error)


def test_export_status_address_of_the_file_is_not_shown(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed()]

    assert "made-up" not in repr(export_status(transport, "e-1"))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"exportId": ""}', b'{"exportId": 1}', b'{"exportId": "a", "exportId": "b"}']
)
def test_start_export_without_id_is_an_export_error(nexthink: Nexthink, transport: Transport, body: bytes) -> None:
    nexthink.responses = [httpx.Response(200, content=body)]
    with pytest.raises(NexthinkExportError, match="not as the NQL API documents it"):
        start_export(transport, "#ab")


def test_export_status_id_is_quoted(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [status("SUBMITTED")]
    export_status(transport, "../a?b#c")

    assert asked(nexthink) == [f"GET {API}/api/v1/nql/status/..%2Fa%3Fb%23c"]


def test_export_status_unknown_export_is_an_export_error(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [httpx.Response(404)]
    with pytest.raises(NexthinkExportError, match=r"does not know the export e-1 \(any more\)"):
        export_status(transport, "e-1")


def test_fetch_export_truncated_is_an_error(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(http=206)]
    with pytest.raises(NexthinkTruncatedError, match="allow_truncated=True") as caught:
        fetch_export(transport, "e-1")

    assert caught.value.status == 206
    assert isinstance(caught.value, NexthinkFinalError)
    assert asked(nexthink) == [f"GET {STATUS}"]


def test_fetch_export_truncated_and_allowed_says_so(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(http=206), stored(b"a\r\n1\r\n")]
    rows = fetch_export(transport, "e-1", allow_truncated=True)

    assert (rows, rows.truncated) == ([{"a": "1"}], True)


def test_fetch_export_expired_address_is_requested_again(
    nexthink: Nexthink, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    nexthink.responses = [completed("one"), httpx.Response(403), completed("two"), stored(b"a\r\n1\r\n")]

    assert fetch_export(transport, "e-1") == [{"a": "1"}]
    assert asked(nexthink) == [
        f"GET {STATUS}",
        "GET https://store.example/one?s=made-up-signature",
        f"GET {STATUS}",
        "GET https://store.example/two?s=made-up-signature",
    ]
    assert len(nexthink.sleeps) == 1
    assert 1 <= nexthink.sleeps[0] <= 2
    assert "returned 403" in caplog.text
    assert "made-up" not in caplog.text


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([completed, lambda: httpx.Response(403)], "store.example returned 403"),
        ([completed, lambda: stored(gzip.compress(b"a\r\n1\r\n", mtime=0)[:-4])], "cannot be read"),
        ([lambda: status("COMPLETED")], "The export e-1 names no file"),
        ([lambda: status("COMPLETED", resultsFileUrl=None)], "The export e-1 names no file"),
    ],
)
def test_fetch_export_unreadable_file_is_fetched_three_times(
    nexthink: Nexthink, transport: Transport, responses: list[Callable[[], httpx.Response]], message: str
) -> None:
    nexthink.responses = [response() for _ in range(3) for response in responses]
    with pytest.raises(NexthinkExportError, match=message) as caught:
        fetch_export(transport, "e-1")

    assert "made-up" not in shown_by(caught.value)
    assert nexthink.responses == []
    assert len(nexthink.sleeps) == 2


def test_fetch_export_content_encoding_gzip_is_read(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(), stored(gzip.compress(b"a\r\n1\r\n", mtime=0), **{"content-encoding": "gzip"})]

    assert fetch_export(transport, "e-1") == [{"a": "1"}]


def test_fetch_export_content_encoding_gzip_cut_off_is_refused(nexthink: Nexthink, transport: Transport) -> None:
    # All bytes of the first half come out, to the end of a row: only the end of the stream is missing.
    gzipped = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    cut = gzipped.compress(b"a,b\r\n" + b"1,2\r\n" * 2500) + gzipped.flush(zlib.Z_FULL_FLUSH)
    nexthink.responses = [
        response for _ in range(3) for response in (completed(), stored(cut, **{"content-encoding": "gzip"}))
    ]
    with pytest.raises(NexthinkExportError, match="it ends too early"):
        fetch_export(transport, "e-1")


@pytest.mark.parametrize("body", [b'{"message": "Access denied"}', b"<html>\n<p>\n</html>\n", b"", b"Access Denied\n"])
def test_fetch_export_of_an_error_page_is_an_error_and_never_zero_rows(
    nexthink: Nexthink, transport: Transport, body: bytes
) -> None:
    nexthink.responses = [response for _ in range(3) for response in (completed(), stored(body))]
    with pytest.raises(NexthinkExportError, match="not a CSV table"):
        fetch_export(transport, "e-1")


def test_fetch_export_shorter_than_its_length_is_retried(nexthink: Nexthink, transport: Transport) -> None:
    cut, whole = b"uid,name\r\n1,PC", b"uid,name\r\n1,PC-1"
    length = {"content-length": str(len(whole))}
    nexthink.responses = [completed(), stored(cut, **length), completed(), stored(whole, **length)]
    assert fetch_export(transport, "e-1") == [{"uid": "1", "name": "PC-1"}]


def test_fetch_export_of_unknown_length_must_end_with_a_line(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(), stored(b"uid,name\r\n1,PC"), completed(), stored(b"uid,name\r\n1,PC-1\r\n")]
    assert fetch_export(transport, "e-1") == [{"uid": "1", "name": "PC-1"}]


def test_fetch_export_beyond_a_limit_is_not_fetched_again(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(), stored(b"a\r\n1\r\n2\r\n")]
    with pytest.raises(NexthinkResultLimitError, match="more than 1 rows"):
        fetch_export(transport, "e-1", limits=ResultLimits(rows=1))
    assert nexthink.sleeps == []


def test_export_error_description_is_scrubbed_and_short(nexthink: Nexthink, transport: Transport) -> None:
    description = f"you sent Bearer made-up-token-1 {'x' * 5000}"
    nexthink.responses = [httpx.Response(200, json={"status": "ERROR", "errorDescription": description})]
    with pytest.raises(NexthinkExportError) as caught:
        export_status(transport, "e-1")
    assert "made-up-token" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_read_export_after_a_failed_download_reads_all_rows_again(nexthink: Nexthink, transport: Transport) -> None:
    cut = b"a,b\r\n1,2\r\n3"
    nexthink.responses = [completed(), stored(cut), completed(), stored(b"a,b\r\n1,2\r\n3,4\r\n")]
    read: list[list[str]] = []

    def write(result: NqlStream) -> list[str]:
        read.clear()
        read.extend(result.rows)
        return result.columns

    assert read_export(transport, "e-1", write) == ["a", "b"]
    assert read == [["1", "2"], ["3", "4"]]


def test_read_export_error_of_the_reader_is_not_retried(nexthink: Nexthink, transport: Transport) -> None:
    nexthink.responses = [completed(), stored(b"a\r\n1\r\n")]

    def write(result: NqlStream) -> None:
        raise OSError(f"disk full at row {next(result.rows)}")

    with pytest.raises(OSError, match="disk full at row"):
        read_export(transport, "e-1", write)
    assert nexthink.responses == []
