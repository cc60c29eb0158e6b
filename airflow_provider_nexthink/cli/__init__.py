"""The command line: ``airflow nexthink`` (Airflow 3.2 on), and ``python -m airflow_provider_nexthink``."""
