"""A list of devices, in whatever form it comes. No Airflow, no HTTP."""
