"""Outcome tables in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyarrow import parquet


def read_table(manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the outcome table in the Parquet file of a manifest, by columns.

    :param manifest: of the table.
    """
    columns: dict[str, list[Any]] = parquet.read_table(manifest["path"]).to_pydict()
    assert manifest["rows"] == len(columns["uid"])
    assert {status: count for status, count in manifest["counts"].items() if count} == {
        status: columns["status"].count(status) for status in set(columns["status"])
    }
    return columns
