"""A ledger on each database that it can be in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Engine

from tests.support.ledgers import LEDGERS, engine_of, ledger_database


@pytest.fixture(params=LEDGERS)
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    """The address of an empty database."""
    with ledger_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def ledger_engine(ledger_url: URL) -> Iterator[Engine]:
    """An engine on an empty database."""
    with engine_of(ledger_url) as engine:
        yield engine


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty file of SQLite."""
    with ledger_database("sqlite", tmp_path) as url, engine_of(url) as engine:
        yield engine
