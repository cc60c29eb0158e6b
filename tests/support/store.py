"""Airflow's task state store, in memory."""

from __future__ import annotations

import json
from typing import Any


class Store(dict[str, str]):
    """Keeps JSON, as Airflow's task state store does. While it is ``broken`` every call fails."""

    broken = False
    writes = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.check()
        return json.loads(self[key]) if key in self else default

    def set(self, key: str, value: Any) -> None:
        self.check()
        self.writes += 1
        self[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self.check()
        del self[key]

    def check(self) -> None:
        if self.broken:
            raise RuntimeError("the API server is away")
