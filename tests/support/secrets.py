"""Airflow's secrets masker, which keeps every secret as long as its process lives."""

from __future__ import annotations

import sys


def reset_secrets_maskers() -> None:
    """Forget the secrets of what has run before in this process.

    Every token is one more pattern for every line that is logged: after hundreds of runs a run takes ten times as long.
    """
    for name in ("airflow._shared.secrets_masker", "airflow.sdk._shared.secrets_masker"):
        if module := sys.modules.get(name):
            module.reset_secrets_masker()
