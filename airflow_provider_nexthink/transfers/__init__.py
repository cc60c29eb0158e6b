"""Operators that take devices from another system to Nexthink."""
