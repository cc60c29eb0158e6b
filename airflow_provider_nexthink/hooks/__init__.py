"""The hook: an Airflow connection becomes a signed-in client."""
