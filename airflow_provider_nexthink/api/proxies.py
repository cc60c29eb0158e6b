"""Which requests go through a proxy: the connection's, or the one that the environment names.

The rules of HTTPS_PROXY, ALL_PROXY and NO_PROXY are implemented here and nowhere else. urllib's know no IPv6 literals
and no networks, and httpx's fail on some of them.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from ipaddress import ip_address, ip_network

import httpx
from pydantic import SecretStr

from airflow_provider_nexthink.exceptions import NexthinkSettingsError

_HTTPS_PORT = 443


class ProxyRules:
    """Says whether a request goes through a proxy, and through which.

    Only the variables that concern https are read: HTTP_PROXY has no effect.

    :param address: the proxy of the connection, which every request then goes through; None for the environment's.
    """

    def __init__(self, address: SecretStr | None) -> None:
        self._is_own = address is not None
        named = address.get_secret_value() if address else _environment("https_proxy") or _environment("all_proxy")
        self._address = SecretStr(named) if named else None
        self._exceptions = [] if self._is_own else re.split(r"[\s,]+", _environment("no_proxy"))

    def is_proxied(self, url: httpx.URL) -> bool:
        """Tell whether a request goes through the proxy.

        :param url: where it goes.
        """
        return self._address is not None and not is_exception(url.host, url.port or _HTTPS_PORT, self._exceptions)

    @cached_property
    def proxy(self) -> httpx.Proxy:
        """The proxy.

        :raises NexthinkSettingsError: if its address cannot be used.
        """
        address = self._address.get_secret_value() if self._address else ""
        try:
            proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
            if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
                raise ValueError("no proxy for HTTP")
        except (httpx.InvalidURL, ValueError):  # may repeat the address, which may hold a password
            source = "of the connection" if self._is_own else "that the environment names (HTTPS_PROXY, ALL_PROXY)"
            raise NexthinkSettingsError(
                f"The proxy {source} cannot be used: it must be an address that starts with http:// or https://."
            ) from None
        return proxy


def is_exception(host: str, port: int, exceptions: list[str]) -> bool:
    """Tell whether NO_PROXY excepts a host.

    :param host: the host: a name, or an IP address without brackets.
    :param port: the port.
    :param exceptions: the entries: ``*``, a name (which covers its subdomains too), ``.name``, ``*.name``, an IP
        address, a network such as ``10.0.0.0/8``; each also with a port.
    """
    host = host.lower().rstrip(".").strip("[]")
    return any(_matches(host, port, entry) for entry in exceptions if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    entry = re.sub(r"^[a-z][a-z0-9+.-]*://", "", entry.lower())
    if not _is_network(entry) and (
        match := re.fullmatch(r"(?P<host>\[[^]]*\](?:/\d+)?|[^:]*(?:/\d+)?):(?P<port>\d+)/?", entry)
    ):
        if int(match["port"]) != port:
            return False
        entry = match["host"]
    entry = entry.replace("[", "").replace("]", "")
    if _is_network(entry):
        try:
            return ip_address(host.partition("%")[0]) in ip_network(entry, strict=False)
        except ValueError:  # the host is a name
            return False
    if entry == "*":
        return True
    entry = entry.rstrip("/").rstrip(".")
    if "*" in entry.removeprefix("*"):
        return re.fullmatch(".*".join(map(re.escape, entry.split("*"))), host) is not None
    name = entry.removeprefix("*").lstrip(".")
    if not name:
        return False
    return host == name or (host.endswith(f".{name}") and not _is_network(host))


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _environment(name: str) -> str:
    """Return a variable of the environment; in lower case it comes first, also where it is empty."""
    return os.environ.get(name, os.environ.get(name.upper(), "")).strip()
