"""``python -m airflow_provider_nexthink``: the commands of ``airflow nexthink``, on every Airflow."""

import sys

from airflow_provider_nexthink.cli.definition import main

if __name__ == "__main__":
    sys.exit(main())
