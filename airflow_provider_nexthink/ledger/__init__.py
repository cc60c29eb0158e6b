"""Memory between runs: what a tenant was asked to delete, by whom, why, and what became of it."""
