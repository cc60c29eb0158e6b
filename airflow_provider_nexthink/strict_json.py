"""JSON, read strictly: an object that names a key twice is an error. Python's own reader takes the last value."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from typing import Any


class RepeatedKeyError(ValueError):
    """A JSON object names a key twice. The message has the key only; a response may hold secrets.

    :param key: the key.
    :param preview: the keys and values of the object, shortened.
    """

    def __init__(self, key: str, preview: str) -> None:
        super().__init__(key, preview)
        self.key = key
        self.preview = preview

    def __str__(self) -> str:
        return f"a JSON object names the key {self.key[:60]!r} twice"


def read_json(text: str | bytes, **options: Any) -> Any:
    """Read JSON.

    :param text: the JSON.
    :param options: for ``json.loads``.
    :raises RepeatedKeyError: if an object, however deep inside, names a key twice.
    :raises ValueError: if it is not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(text, object_pairs_hook=_as_dict, **options)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise RepeatedKeyError(next(key for key, count in counts.items() if count > 1), reprlib.repr(pairs))
    return read
