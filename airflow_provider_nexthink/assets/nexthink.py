"""The assets of a tenant: its inventory, ``nexthink://acme/devices``, and its saved queries, ``nexthink://acme/nql/...``.

The functions are those that ``asset-uris`` of the provider info names; importing them imports nothing heavy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.providers.common.compat.openlineage.facet import Dataset

SCHEME = "nexthink"

_INSTANCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_PATH = re.compile(r"/devices|/nql/[a-z0-9_]{2,255}")


def create_asset(*, instance: str, query_id: str | None = None, extra: dict[str, Any] | None = None) -> Asset:
    """Return the asset of a tenant's inventory, or of a saved query.

    :param instance: the tenant's name, as in the connection (``acme``).
    :param query_id: the id of a saved query, such as ``#stale_devices``; None for the inventory.
    :param extra: stored by Airflow with the asset; plain JSON values.
    :return: the asset.
    :raises ValueError: if the names of tenant and query are not valid.
    """
    path = "devices" if query_id is None else f"nql/{query_id.removeprefix('#')}"
    return Asset(uri=f"{SCHEME}://{instance}/{path}", extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Return the canonical form of an asset URI; Airflow calls this for every ``nexthink://`` URI.

    :param uri: the split URI.
    :return: the canonical URI.
    :raises ValueError: if it is not the URI of a tenant's inventory or of a saved query.
    """
    instance = uri.netloc.lower()
    if instance.endswith(".nexthink.cloud") or not _INSTANCE.fullmatch(instance):
        raise ValueError(
            f"{uri.netloc!r} is not a Nexthink instance: use the tenant's name alone, as in nexthink://acme/devices."
        )
    if uri.query or not _PATH.fullmatch(uri.path):
        raise ValueError(
            "A Nexthink asset is nexthink://<instance>/devices, or nexthink://<instance>/nql/<id of a saved query "
            "without its #>."
        )
    return uri._replace(netloc=instance)


def convert_asset_to_openlineage(asset: Asset, lineage_context: object) -> Dataset:  # noqa: ARG001 - as Airflow calls it
    """Return the OpenLineage dataset of an asset; the tenant is the namespace.

    :param asset: an asset with a ``nexthink://`` URI.
    :param lineage_context: the hook that reported it.
    :return: the dataset.
    """
    from urllib.parse import urlsplit

    from airflow.providers.common.compat.openlineage.facet import Dataset

    uri = urlsplit(asset.uri)
    return Dataset(namespace=f"{SCHEME}://{uri.netloc}", name=uri.path.removeprefix("/"))
