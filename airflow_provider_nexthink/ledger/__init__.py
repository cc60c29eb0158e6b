"""Memory between runs: what a tenant was asked to delete, by whom, why, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_nexthink.ledger.ledger import Ledger

__all__ = ["Ledger"]


def __getattr__(name: str) -> object:
    """Import ``Ledger`` on first use: SQLAlchemy is not for the parsing of a Dag file."""
    if name == "Ledger":
        from airflow_provider_nexthink.ledger.ledger import Ledger

        return Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
