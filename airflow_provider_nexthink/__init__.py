"""Nexthink for Apache Airflow: pull stale devices, delete them, see what became of each."""

__version__ = "0.1.0"
