"""The hook's view of Airflow: files, metrics, traces, lineage, the supervisor, the state of a task."""
