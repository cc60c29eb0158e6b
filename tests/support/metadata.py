"""Airflow's metadata database, in SQLite."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path


@cache
def empty_database() -> Path:
    """Make the metadata database of this process, once; return a copy of what it is like then, for other Airflows."""
    from airflow.utils.db import initdb

    initdb()
    home = Path(os.environ["AIRFLOW_HOME"])
    with closing(sqlite3.connect(home / "airflow.db")) as made, closing(sqlite3.connect(home / "empty.db")) as copy:
        made.backup(copy)
    return home / "empty.db"
