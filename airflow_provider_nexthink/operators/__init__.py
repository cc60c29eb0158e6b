"""The operators: the hook, plus Airflow."""
