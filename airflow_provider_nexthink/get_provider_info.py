"""The metadata of this provider. Imports nothing but the version: every Airflow component loads this module."""

from __future__ import annotations

from airflow_provider_nexthink import __version__


def get_provider_info() -> dict[str, object]:
    """Return the provider's description, as Airflow's ``provider_info.schema.json`` defines it."""
    return {
        "package-name": "airflow-provider-nexthink",
        "name": "Nexthink",
        "description": "Delete stale devices from `Nexthink <https://nexthink.com/>`__, and track the outcome of each.",
        "versions": [__version__],
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
                    "airflow_provider_nexthink.operators.ledger",
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
            },
            {
                "source-integration-name": "Common SQL",
                "target-integration-name": "Parquet",
                "python-module": "airflow_provider_nexthink.transfers.sql_to_parquet",
            },
        ],
        "task-decorators": [
            {
                "name": "nexthink_delete_devices",
                "class-name": (
                    "airflow_provider_nexthink.decorators.nexthink_delete_devices.nexthink_delete_devices_task"
                ),
            }
        ],
        "extra-links": [
            "airflow_provider_nexthink.links.nexthink.NexthinkTenantLink",
            "airflow_provider_nexthink.links.nexthink.NexthinkOutcomeLink",
            "airflow_provider_nexthink.links.nexthink.NexthinkDeletionDocsLink",
            "airflow_provider_nexthink.links.nexthink.NexthinkNqlDocsLink",
        ],
        # Airflow 3.2 on; 3.1 does not look at it.
        "cli": ["airflow_provider_nexthink.cli.definition.get_nexthink_cli_commands"],
        "asset-uris": [
            {
                "schemes": ["nexthink"],
                "handler": "airflow_provider_nexthink.assets.nexthink.sanitize_uri",
                "factory": "airflow_provider_nexthink.assets.nexthink.create_asset",
                "to_openlineage_converter": "airflow_provider_nexthink.assets.nexthink.convert_asset_to_openlineage",
            }
        ],
        "connection-types": [
            {
                "connection-type": "nexthink",
                "hook-class-name": "airflow_provider_nexthink.hooks.nexthink.NexthinkHook",
                "hook-name": "Nexthink",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "host": "Instance",
                        "login": "Client ID",
                        "password": "Client secret",
                        "port": "Port",
                    },
                    "placeholders": {
                        "host": "acme, or https://acme.eu.nexthink.cloud",
                        "login": "client id of the API credential",
                        "password": "shown once, when the API credential is created",
                        # Their Test button rejects a connection without a port (apache/airflow#73298).
                        "port": "443; needed only for the Test button of Airflow 3.3.1 and 3.3.2",
                        "extra": '{"region": "eu"}',  # Airflow 3.1 shows this field too
                    },
                },
                "conn-fields": {
                    "region": {
                        "label": "Region",
                        "description": (
                            "The region in the address of the tenant: <instance>.<region>.nexthink.cloud. "
                            "Not needed if the instance is such an address."
                        ),
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["us", "eu", "pac", "meta", None],
                            "values_display": {
                                "us": "us (United States)",
                                "eu": "eu (Europe)",
                                "pac": "pac (Asia-Pacific)",
                                "meta": "meta (Middle East, Turkey and Africa)",
                                "null": "not set",
                            },
                        },
                    },
                    "base_url": {
                        "label": "API address",
                        "description": "Only if it is not https://<instance>.api.<region>.nexthink.cloud.",
                        "schema": {"type": ["string", "null"], "format": "url"},
                    },
                    "login_url": {
                        "label": "Login address",
                        "description": (
                            "Only if it is not https://<instance>-login.<region>.nexthink.cloud/oauth2/default/"
                            "v1/token. Some tenants use https://<instance>.api.<region>.nexthink.cloud/api/v1/"
                            "token."
                        ),
                        "schema": {"type": ["string", "null"], "format": "url"},
                    },
                    "timeout": {
                        "label": "Timeout",
                        "description": (
                            "Seconds to wait for a connection, and between two bytes of a response. Empty: 30."
                        ),
                        "schema": {
                            "type": ["number", "null"],
                            "default": 30,
                            "exclusiveMinimum": 0,
                            "maximum": 86400,
                        },
                    },
                    "verify": {
                        "label": "Certificates",
                        "description": (
                            "The path of a CA bundle, on every worker, for a proxy that inspects TLS. Empty: the "
                            "default authorities. false: no verification; anyone on the network can read the secret."
                        ),
                        "schema": {
                            "type": ["string", "null"],
                            "examples": ["/etc/ssl/certs/ca-certificates.crt", "false"],
                        },
                    },
                    "proxy": {
                        "label": "Proxy",
                        "description": (
                            "Such as http://user:password@proxy.example:3128; hidden, because it may contain a "
                            "password. Empty: HTTPS_PROXY and NO_PROXY apply."
                        ),
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "deletions": {
                        "label": "Deletions",
                        "description": (
                            "What every Dag may do with this connection. Runs that are going look at it, too: they "
                            "stop within a minute. Empty: allowed."
                        ),
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["allowed", "dry_run_only", "off", None],
                            "values_display": {
                                "null": "not set",
                                "allowed": "allowed",
                                "dry_run_only": "dry_run_only (plans are made, nothing is sent)",
                                "off": "off (also for dry runs)",
                            },
                        },
                    },
                    "max_devices": {
                        "label": "Devices in a task",
                        "description": (
                            "How many devices one task may send at most, whatever its Dag says. Empty: what the "
                            "Dag says."
                        ),
                        "schema": {"type": ["integer", "null"], "minimum": 0},
                    },
                    "quota_devices": {
                        "label": "Quota: devices",
                        "description": (
                            "How many devices all runs together may send at most in any window of so many days. Needs "
                            "the days, and a ledger."
                        ),
                        "schema": {"type": ["integer", "null"], "minimum": 1},
                    },
                    "quota_days": {
                        "label": "Quota: days",
                        "description": "The length of that window in days, such as 30.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 3650},
                    },
                    "protected": {
                        "label": "Protected devices",
                        "description": (
                            "Globs on the name, such as SRV-*, and uids that are never sent: one a line. In a field of "
                            'one line, a JSON list: ["SRV-*", "VIP-*"].'
                        ),
                        "schema": {"type": ["string", "null"], "format": "multiline"},
                    },
                    "require_proof": {
                        "label": "Proof required",
                        "description": (
                            "Until a deletion has been seen to remove a device, no run sends more than 5 devices. "
                            "Needs a ledger."
                        ),
                        "schema": {"type": ["boolean", "null"]},
                    },
                    "ledger_conn_id": {
                        "label": "Ledger",
                        "description": (
                            "The id of a connection to PostgreSQL, MySQL, MariaDB or SQLite, in which each deletion is "
                            "recorded. Empty: no ledger."
                        ),
                        "schema": {"type": ["string", "null"], "examples": ["nexthink_ledger"]},
                    },
                },
            }
        ],
    }
