"""JSON whose meaning is ambiguous is not read."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.strict_json import RepeatedKeyError, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans())
def test_read_json_reads_what_is_written(value: object, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert read_json(text) == value


@given(st.dictionaries(st.text(), VALUES, min_size=1), st.data())
def test_read_json_of_a_repeated_key_is_an_error_wherever_it_is(pairs: dict[str, object], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(pairs)))
    twice = f"{json.dumps(pairs)[:-1]}, {json.dumps(key)}: {json.dumps(pairs[key])}}}"
    for text in (twice, f'[1, {{"rows": [{twice}]}}]'):
        with pytest.raises(RepeatedKeyError) as caught:
            read_json(text)
        assert caught.value.key == key


def test_a_repeated_key_error_shows_the_key_and_no_value() -> None:
    with pytest.raises(RepeatedKeyError, match=r"names the key 'u' twice") as caught:
        read_json('{"u": "secret", "name": 1, "\\u0075": "other secret"}')
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_deep_nesting_is_a_value_error(depth: int) -> None:
    for text in ("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
            read_json(text)


def test_repeated_key_error_can_be_pickled() -> None:
    with pytest.raises(RepeatedKeyError) as caught:
        read_json('{"uid": 1, "uid": 2}')
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.key, again.preview) == (str(caught.value), "uid", caught.value.preview)
