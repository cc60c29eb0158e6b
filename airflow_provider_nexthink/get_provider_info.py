"""What Airflow reads about this provider. Imports nothing: every Airflow component loads it."""

from __future__ import annotations


def get_provider_info() -> dict[str, object]:
    """Return the provider's description, as Airflow's ``provider_info.schema.json`` defines it."""
    return {
        "package-name": "airflow-provider-nexthink",
        "name": "Nexthink",
        "description": "Delete stale devices from `Nexthink <https://nexthink.com/>`__, and see what became of each.",
        "versions": ["0.1.0"],
        "integrations": [
            {
                "integration-name": "Nexthink",
                "external-doc-url": "https://docs.nexthink.com/api/data-management",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": "Nexthink", "python-modules": ["airflow_provider_nexthink.hooks.nexthink"]}],
        "operators": [
            {
                "integration-name": "Nexthink",
                "python-modules": [
                    "airflow_provider_nexthink.operators.data_management",
                    "airflow_provider_nexthink.operators.nql",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "Nexthink",
                "python-modules": ["airflow_provider_nexthink.sensors.data_management"],
            }
        ],
        "triggers": [{"integration-name": "Nexthink", "python-modules": ["airflow_provider_nexthink.triggers.nql"]}],
        "transfers": [
            {
                "source-integration-name": "Common SQL",
                "target-integration-name": "Nexthink",
                "python-module": "airflow_provider_nexthink.transfers.sql_to_nexthink",
            }
        ],
        "task-decorators": [
            {
                "name": "nexthink_delete_devices",
                "class-name": (
                    "airflow_provider_nexthink.decorators.nexthink_delete_devices.nexthink_delete_devices_task"
                ),
            }
        ],
        "connection-types": [
            {
                "connection-type": "nexthink",
                "hook-class-name": "airflow_provider_nexthink.hooks.nexthink.NexthinkHook",
                "hook-name": "Nexthink",
                "ui-field-behaviour": {
                    "hidden-fields": ["port", "schema", "extra"],
                    "relabeling": {
                        "host": "Instance",
                        "login": "Client ID",
                        "password": "Client secret",
                    },
                    "placeholders": {
                        "host": "acme, or https://acme.eu.nexthink.cloud",
                        "login": "of an API credential with the permissions Data management and NQL API",
                    },
                },
                "conn-fields": {
                    "region": {
                        "label": "Region",
                        "description": "Where the tenant is. Not needed where the instance is a whole address.",
                        "schema": {"type": ["string", "null"], "enum": ["us", "eu", "pac", "meta", None]},
                    },
                    "base_url": {
                        "label": "API address",
                        "description": "Only where it is not https://<instance>.api.<region>.nexthink.cloud.",
                        "schema": {"type": ["string", "null"], "format": "url"},
                    },
                    "token_url": {
                        "label": "Token address",
                        "description": "Only where it is not the one that follows from instance and region.",
                        "schema": {"type": ["string", "null"], "format": "url"},
                    },
                    "timeout": {
                        "label": "Timeout",
                        "description": "Seconds to wait for a connection, and between two bytes of an answer.",
                        "schema": {"type": ["number", "null"], "default": 30},
                    },
                    "verify": {
                        "label": "Certificates",
                        "description": "The path of a CA bundle; or false, which anyone on the way can abuse.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "proxy": {
                        "label": "Proxy",
                        "description": "Address of a proxy. Empty: what the environment says.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                },
            }
        ],
    }
