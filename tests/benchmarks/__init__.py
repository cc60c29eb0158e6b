"""How fast, at what cost: measured side by side, written to docs/speed.md. Run by ``make bench``."""
