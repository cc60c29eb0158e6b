"""Nexthink over HTTP. Knows no Airflow and no pandas: usable in a plain script or a notebook."""
