"""The addresses of a tenant and the credential for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

import httpx
from pydantic import SecretStr

from airflow_provider_nexthink.exceptions import NexthinkSettingsError

REGIONS = ("us", "eu", "pac", "meta")
"""Nexthink's cloud regions (API documentation, "API host")."""

TOKEN_PATH = "/oauth2/default/v1/token"  # noqa: S105 - a path, not a password

# With "-login" behind it, it is one label of a host name: 63 characters at most.
_INSTANCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,55}[a-z0-9])?", re.IGNORECASE)
# The addresses that people copy: of the browser, of the API, of the login page.
_TENANT_HOST = re.compile(
    r"(?P<instance>[a-z0-9-]+?)(-login)?(\.api)?\.(?P<region>[a-z]+)\.nexthink\.cloud", re.IGNORECASE
)
_API_HOST = re.compile(r"(?P<instance>[a-z0-9-]+)\.api\.(?P<region>[a-z]+)\.nexthink\.cloud", re.IGNORECASE)

_MAX_TIMEOUT_SECONDS = 86_400.0


@dataclass(frozen=True)
class NexthinkSettings:
    """One tenant and one API credential of it. Make it with ``resolve``.

    :param instance: the tenant's name, for logs and the summary.
    :param base_url: the API host, no slash at the end.
    :param login_url: where the token is fetched.
    :param client_id: the API credential's client id.
    :param client_secret: its secret.
    :param timeout: seconds to wait for a connection, and between two bytes of a response.
    :param verify: True for the usual certificate authorities, the path of a CA bundle, or False.
    :param proxy: address of a proxy, or None for what the environment says. May hold a password.
    """

    instance: str
    base_url: str
    login_url: str
    client_id: str
    client_secret: SecretStr
    timeout: float = 30.0
    verify: bool | str = True
    proxy: SecretStr | None = None

    @property
    def tenant(self) -> str:
        """What tells the tenant from any other, whatever the credential."""
        return "\0".join((self.base_url, self.instance)).lower()

    @property
    def browser_url(self) -> str | None:
        """The tenant's web address: ``https://acme.eu.nexthink.cloud``; None for another API host than its own.

        The form of the address is that of Nexthink's documentation ("API host" without ``api``).
        """
        address = _API_HOST.fullmatch(httpx.URL(self.base_url).host)
        return f"https://{address['instance']}.{address['region']}.nexthink.cloud" if address else None

    @classmethod
    def resolve(
        cls,
        *,
        instance: str | None,
        client_id: str | None,
        client_secret: SecretStr | str | None,
        region: str | None = None,
        base_url: str | None = None,
        login_url: str | None = None,
        timeout: float | str | None = None,
        verify: bool | str | None = None,
        proxy: str | None = None,
    ) -> NexthinkSettings:
        """Turn the fields of a connection into settings, or say what is wrong with them.

        :param instance: the tenant's name, or an address of it as copied from a browser.
        :param client_id: the API credential's client id.
        :param client_secret: its secret.
        :param region: one of ``REGIONS``; not needed where an address names it.
        :param base_url: another API host than the one that follows from instance and region.
        :param login_url: another login address than the one that follows from instance and region.
        :param timeout: seconds, as a number or text.
        :param verify: a boolean, its text, or the path of a CA bundle.
        :param proxy: address of a proxy.
        :raises NexthinkSettingsError: if something is missing or cannot be right.
        """
        if isinstance(client_secret, str):  # from here on no local variable shows it, as a traceback may
            client_secret = SecretStr(client_secret)
        region = _checked_text("region", region)
        base_url = _checked_text("base_url", base_url)
        login_url = _checked_text("login_url", login_url)
        if not client_id or client_secret is None or not client_secret.get_secret_value():
            missing = "client id (login)" if not client_id else "client secret (password)"
            raise NexthinkSettingsError(f"The Nexthink connection has no {missing}.")
        name, region = _read_instance(_checked_text("host", instance) or "", region)
        if not (base_url and login_url):
            region = _checked_region(name, region, base_url)
        host = f"https://{name}.api.{region}.nexthink.cloud"
        login = f"https://{name}-login.{region}.nexthink.cloud{TOKEN_PATH}"
        checked_base_url = checked_url(base_url or host, "base_url")
        return cls(
            instance=name or httpx.URL(checked_base_url).host,
            base_url=checked_base_url,
            login_url=checked_url(login_url or login, "login_url"),
            client_id=client_id,
            client_secret=client_secret,
            timeout=_checked_timeout(timeout),
            verify=_checked_verify(verify),
            proxy=_checked_proxy(_checked_text("proxy", proxy)),
        )


def read_instance(host: object) -> str | None:
    """Return the name of the tenant, also where the other fields of a connection are wrong; None where it has none.

    :param host: the field of the connection: a name, or an address as copied from a browser.
    """
    try:
        return _read_instance(_checked_text("host", host) or "", None)[0] or None
    except NexthinkSettingsError:
        return None


def checked_url(url: str, option: str) -> str:
    """Return the address without a slash at its end, if secrets may be sent there.

    :param url: the address.
    :param option: the name of the option that holds the address.
    :raises NexthinkSettingsError: if it is no http(s) address, holds a password or a query, or is plain
        http to another machine.
    """
    parsed = _parsed(url, option)
    if parsed.scheme not in ("http", "https"):
        raise NexthinkSettingsError(f"{option} must be an address that starts with https://.")
    if parsed.userinfo or "?" in url or "#" in url:
        raise NexthinkSettingsError(f"{option} must be a plain address, without user, password, '?' or '#'.")
    if not is_private_enough(parsed):
        raise NexthinkSettingsError(
            f"{option} is {parsed}: plain http would show the client secret and the token to everyone on "
            "the way. Use https (http is accepted for this machine's own loopback addresses only)."
        )
    return str(parsed).rstrip("/")


def _parsed(url: str, option: str) -> httpx.URL:
    """Parse an address; the error does not repeat it, since it may hold a password."""
    try:
        parsed = httpx.URL(url.strip())
        host = parsed.host
        parsed.raw_host.decode("ascii").encode("idna")  # as the socket will: no label is empty or too long
    except (httpx.InvalidURL, ValueError):
        host = ""
    if not host:
        raise NexthinkSettingsError(f"{option} is not an address.")
    return parsed


def is_private_enough(url: httpx.URL) -> bool:
    """Tell whether a secret may travel to this address: https, or plain http on this very machine."""
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_text(option: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise NexthinkSettingsError(f"{option} is a {type(value).__name__}: it takes text.")
    return value.strip()


def _checked_proxy(proxy: str | None) -> SecretStr | None:
    if proxy is None:
        return None
    if _parsed(proxy, "proxy").scheme not in ("http", "https"):
        raise NexthinkSettingsError("proxy must be an address that starts with http:// or https://.")
    return SecretStr(proxy)


def _read_instance(instance: str, region: str | None) -> tuple[str, str | None]:
    """Take the tenant's name, and the region where a copied address names it."""
    text = re.sub(r"^https?://", "", instance, flags=re.IGNORECASE).split("/")[0]
    address = _TENANT_HOST.fullmatch(text)
    name = address["instance"] if address else text
    if name and not _INSTANCE.fullmatch(name):
        raise NexthinkSettingsError(
            f"The host {text.rpartition('@')[2]!r} is no Nexthink instance: it takes the tenant's name, such as "
            "'acme', or its address, such as 'https://acme.eu.nexthink.cloud'. Another API host goes into the extra "
            "'base_url'."
        )
    if address is None:
        return name, region or None
    if region and region.lower() != address["region"].lower():
        raise NexthinkSettingsError(
            f"The host {text!r} names the region {address['region']!r}, the extra 'region' says {region!r}. "
            "Remove the one that is wrong."
        )
    return name, address["region"]


def _checked_region(name: str, region: str | None, base_url: str | None) -> str:
    """Return the region that the addresses are made of."""
    if not name:
        only = " The extra 'base_url' alone is not enough: set 'login_url' too." if base_url else ""
        raise NexthinkSettingsError(
            f"The Nexthink connection has no instance (host): the tenant's name, such as 'acme'.{only}"
        )
    region = (region or "").lower()
    if region not in REGIONS:
        what = f"an unknown region {region!r}" if region else "no region"
        raise NexthinkSettingsError(
            f"The Nexthink connection has {what}: set the extra 'region' to one of {', '.join(REGIONS)}, or "
            "set both 'base_url' and 'login_url'."
        )
    return region


def _checked_timeout(timeout: float | str | None) -> float:
    if timeout is None or timeout == "":
        return NexthinkSettings.timeout
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError):
        seconds = 0.0
    if not 0 < seconds <= _MAX_TIMEOUT_SECONDS:
        raise NexthinkSettingsError(f"timeout is {timeout!r}: it takes a number of seconds, above 0 and up to a day.")
    return seconds


def _checked_verify(verify: bool | str | None) -> bool | str:
    """Read a boolean, its text as it comes from a URI, or the path of a CA bundle."""
    if verify is None or verify == "":
        return True
    if isinstance(verify, bool):
        return verify
    if not isinstance(verify, str):
        raise NexthinkSettingsError(f"verify is {verify!r}: it takes true, false or the path of a CA bundle.")
    return {"true": True, "false": False}.get(verify.strip().lower(), verify)
