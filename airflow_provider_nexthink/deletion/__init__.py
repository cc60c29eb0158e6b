"""The domain: device rows, plan, guards, run and outcome. Knows no Airflow and no HTTP."""
