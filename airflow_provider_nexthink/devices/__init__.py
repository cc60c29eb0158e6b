"""Read a list of devices in any form. No Airflow, no HTTP."""
