"""The rules of the environment's proxies, in all the spellings that other tools know."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from airflow_provider_nexthink.api.proxies import ProxyRules, is_exception
from airflow_provider_nexthink.exceptions import NexthinkSettingsError

PROXY = "http://proxy.example:3128"
API = "https://acme.api.eu.nexthink.cloud"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "acme.api.eu.nexthink.cloud",
        "ACME.api.eu.Nexthink.cloud",
        "acme.api.eu.nexthink.cloud.",
        "acme.api.eu.nexthink.cloud:443",
        "https://acme.api.eu.nexthink.cloud/",
        "https://acme.api.eu.nexthink.cloud:443/",
        "nexthink.cloud",
        "nexthink.cloud:443",
        ".nexthink.cloud",
        ".nexthink.cloud:443",
        "*.nexthink.cloud",
        "*.nexthink.cloud:443",
        "*nexthink.cloud",
        "acme.*.nexthink.cloud",
        "other.example, nexthink.cloud",
        "other.example nexthink.cloud",
        " other.example ,, nexthink.cloud , ",
        "[::1],10.0.0.0/8,fd00::/8,nexthink.cloud",
    ],
)
def test_proxy_rules_name_in_no_proxy_is_direct(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", entry)
    assert not ProxyRules(None).is_proxied(httpx.URL(API))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ",",
        ".",
        "*.",
        "*.other.example",
        "acme.api.eu.nexthink.cloud:8443",
        ".nexthink.cloud:80",
        "thinker.cloud",
        "think.cloud",
        "api.eu.nexthink.cloud.example",
        "cloud:1",
        "10.0.0.0/8",
        "::/0",
        "0.0.0.0/0",
        "[::1]",
        "[",
        "]",
        "[::1",
        "10.0.0.0/99",
        "http://",
        ":443",
    ],
)
def test_proxy_rules_name_not_in_no_proxy_is_proxied(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", entry)
    assert ProxyRules(None).is_proxied(httpx.URL(API))


@pytest.mark.parametrize(
    ("url", "entry", "excepted"),
    [
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.9.9.9/8", True),
        ("https://10.1.2.3", "10.0.0.0/8:443", True),
        ("https://10.1.2.3:8443", "10.0.0.0/8:443", False),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3", "10.1.2.3:443", True),
        ("https://10.1.2.3", "10.1.2.3:444", False),
        ("https://10.1.2.3", "10.1.2.*", True),
        ("https://10.1.2.3", "11.0.0.0/8", False),
        ("https://10.1.2.3", "2.3", False),
        ("https://[fd00::1]", "fd00::1", True),
        ("https://[fd00::1]", "[fd00::1]", True),
        ("https://[fd00::1]", "[fd00::1]:443", True),
        ("https://[fd00::1]", "[fd00::1]:444", False),
        ("https://[fd00::1]", "fd00:0:0::0001", True),
        ("https://[fd00::1]", "FD00::/8", True),
        ("https://[fd00::1]", "[fd00::]/8", True),
        ("https://[fd00::1]", "[fd00::/8]:443", True),
        ("https://[fd00::1]", "fe80::/10", False),
        ("https://[fd00::1]", "10.0.0.0/8", False),
        ("https://[::1]:8443", "::1", True),
        ("https://[::1]:8443", "[::1]", True),
        ("https://[::1]:8443", "localhost", False),
        ("https://localhost:8443", "localhost:8443", True),
    ],
)
def test_proxy_rules_addresses_and_networks_are_excepted(
    monkeypatch: pytest.MonkeyPatch, url: str, entry: str, excepted: bool
) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", entry)
    assert ProxyRules(None).is_proxied(httpx.URL(url)) != excepted


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other.example:1"}, PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ({"ALL_PROXY": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY, "ALL_PROXY": "socks5://x"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "HTTP_PROXY": "socks5://x"}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTP_PROXY": "socks5://["}, None),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, "http://[::1]:3128"),
    ],
)
def test_proxy_rules_read_the_variables_for_https_only(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rules = ProxyRules(None)
    assert rules.is_proxied(httpx.URL(API)) == (proxy is not None)
    if proxy is not None:
        assert str(rules.proxy.url) == proxy


def test_proxy_rules_broken_proxy_matters_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:hush@x")
    monkeypatch.setenv("NO_PROXY", "nexthink.cloud")
    rules = ProxyRules(None)
    assert not rules.is_proxied(httpx.URL(API))
    assert rules.is_proxied(httpx.URL("https://other.example"))
    with pytest.raises(NexthinkSettingsError, match="HTTPS_PROXY, ALL_PROXY") as caught:
        _ = rules.proxy
    assert "hush" not in str(caught.value)


def test_proxy_rules_proxy_of_the_connection_knows_no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://x")
    monkeypatch.setenv("NO_PROXY", "*")
    rules = ProxyRules(SecretStr(PROXY))
    assert rules.is_proxied(httpx.URL(API))
    assert str(rules.proxy.url) == PROXY


@given(st.text(), st.sampled_from(["acme.example", "10.0.0.1", "fd00::1"]))
def test_is_exception_arbitrary_entry_is_no_error(entry: str, host: str) -> None:
    assert is_exception(host, 443, [entry]) in (True, False)


@pytest.mark.parametrize("entry", ["*.api.*.nexthink.cloud", "*.nexthink.*", "*api.eu*", "acme.*.cloud", "*:443"])
def test_no_proxy_stars_match_anywhere(entry: str) -> None:
    assert is_exception("acme.api.eu.nexthink.cloud", 443, [entry])
    assert not is_exception("other.example", 8443, [entry])
