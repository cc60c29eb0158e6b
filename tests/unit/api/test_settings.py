"""What a person fills in becomes settings, or a message that says what is wrong."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_nexthink.api.settings import REGIONS, NexthinkSettings, is_private_enough
from airflow_provider_nexthink.exceptions import NexthinkSettingsError

API = "https://acme.api.eu.nexthink.cloud"
LOGIN = "https://acme-login.eu.nexthink.cloud/oauth2/default/v1/token"


def resolve(**given_: Any) -> NexthinkSettings:
    return NexthinkSettings.resolve(
        **{"instance": "acme", "region": "eu", "client_id": "id", "client_secret": "made-up-secret", **given_}
    )


def refusal(**given_: Any) -> str:
    with pytest.raises(NexthinkSettingsError) as error:
        resolve(**given_)
    assert "made-up-secret" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("region", REGIONS)
def test_resolve_instance_and_region_give_the_addresses(region: str) -> None:
    settings = resolve(region=region)

    assert settings.instance == "acme"
    assert settings.base_url == f"https://acme.api.{region}.nexthink.cloud"
    assert settings.login_url == f"https://acme-login.{region}.nexthink.cloud/oauth2/default/v1/token"


@pytest.mark.parametrize(
    "pasted",
    [
        "https://acme.eu.nexthink.cloud",
        "https://acme.eu.nexthink.cloud/",
        "https://acme.eu.nexthink.cloud/main/#/investigations?id=1",
        " acme.eu.nexthink.cloud ",
        "acme.eu.nexthink.cloud/login",
        "https://acme.api.eu.nexthink.cloud",
        "acme.api.eu.nexthink.cloud/api/v1",
        "https://acme-login.eu.nexthink.cloud/oauth2/default/v1/token",
        "acme.EU.Nexthink.Cloud",
    ],
)
@pytest.mark.parametrize("region", [None, "", "eu", " EU "])
def test_resolve_copied_address_gives_instance_and_region(pasted: str, region: str | None) -> None:
    settings = resolve(instance=pasted, region=region)

    assert (settings.instance, settings.base_url, settings.login_url) == ("acme", API, LOGIN)


@pytest.mark.parametrize(
    ("host", "instance"), [("my-acme-2", "my-acme-2"), ("api", "api"), ("a", "a"), (" acme ", "acme")]
)
def test_resolve_instance_may_be_any_label(host: str, instance: str) -> None:
    assert resolve(instance=host).base_url == f"https://{instance}.api.eu.nexthink.cloud"
    assert resolve(instance=f"{instance}.eu.nexthink.cloud", region=None).instance == instance


def test_resolve_instance_length_fits_the_login_host() -> None:
    settings = resolve(instance="a" * 57)

    assert len(httpx.URL(settings.login_url).host.split(".")[0]) == 63


@pytest.mark.parametrize("label", ["a" * 58, "a" * 64, "-acme"])
def test_resolve_invalid_instance_in_an_address_is_refused(label: str) -> None:
    assert refusal(instance=f"{label}.eu.nexthink.cloud")


def test_resolve_contradicting_regions_are_refused() -> None:
    message = refusal(instance="https://acme.eu.nexthink.cloud", region="us")

    assert "'eu'" in message
    assert "'us'" in message
    assert "acme.eu.nexthink.cloud" in message


@pytest.mark.parametrize("instance", ["a.b", "acme.example.com", "-acme", "acme-", "ac me", "acmé", "a_b", "a" * 58])
def test_resolve_invalid_instance_is_refused(instance: str) -> None:
    assert "is no Nexthink instance" in refusal(instance=instance)


@pytest.mark.parametrize("nothing", [None, ""])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("client_id", "no client id (login)"),
        ("client_secret", "no client secret (password)"),
        ("region", "no region: set the extra 'region' to one of us, eu, pac, meta"),
        ("instance", "no instance (host)"),
    ],
)
def test_resolve_missing_field_is_named(what: str, message: str, nothing: str | None) -> None:
    assert message in refusal(**{what: nothing})


@pytest.mark.parametrize("given_", [{"region": "moon"}, {"instance": "acme.moon.nexthink.cloud", "region": None}])
def test_resolve_unknown_region_is_named(given_: dict[str, Any]) -> None:
    assert "an unknown region 'moon'" in refusal(**given_)


def test_resolve_both_addresses_need_no_instance() -> None:
    settings = resolve(instance=None, region=None, base_url="https://nx.example/", login_url="https://in.example/t")

    assert settings.instance == "nx.example"
    assert settings.base_url == "https://nx.example"
    assert settings.login_url == "https://in.example/t"


def test_resolve_one_address_leaves_the_other_to_the_instance() -> None:
    assert resolve(base_url="https://nx.example/nexthink/").login_url == LOGIN
    assert resolve(base_url="https://nx.example/nexthink/").base_url == "https://nx.example/nexthink"
    assert resolve(login_url="https://in.example/t").base_url == API
    assert "set 'login_url' too" in refusal(instance=None, base_url="https://nx.example")
    assert "no region" in refusal(region=None, login_url="https://in.example")


@pytest.mark.parametrize("option", ["base_url", "login_url"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9", "LOCALHOST:8080"])
def test_checked_url_plain_http_to_loopback_is_allowed(option: str, host: str) -> None:
    assert getattr(resolve(**{option: f"http://{host}/x/"}), option) == f"http://{host.lower()}/x"


@pytest.mark.parametrize("option", ["base_url", "login_url"])
@pytest.mark.parametrize(
    "host",
    ["nx.example", "10.0.0.1", "128.0.0.1", "[::2]", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"],
)
def test_checked_url_plain_http_to_another_machine_is_refused(option: str, host: str) -> None:
    message = refusal(**{option: f"http://{host}/x"})

    assert message.startswith(f"{option} is http://{host}/x")
    assert "Use https" in message


@pytest.mark.parametrize("option", ["base_url", "login_url"])
@pytest.mark.parametrize(
    "address",
    [
        "https://user:hush@nx.example",
        "https://hush@nx.example",
        "https://nx.example/?key=hush",
        "https://nx.example/#hush",
    ],
)
def test_checked_url_with_credentials_is_refused(option: str, address: str) -> None:
    message = refusal(**{option: address})

    assert message.startswith(f"{option} must be a plain address")
    assert "hush" not in message


@pytest.mark.parametrize("option", ["base_url", "login_url"])
@pytest.mark.parametrize("mark", ["?", "#", "/?", "/#", "/x?"])
def test_checked_url_query_is_refused(option: str, mark: str) -> None:
    message = refusal(**{option: f"https://nx.example{mark}"})

    assert message.startswith(f"{option} must be a plain address")


@pytest.mark.parametrize("option", ["base_url", "login_url"])
@pytest.mark.parametrize(
    "address",
    [
        "nx.example",
        "ftp://nx.example",
        "https://",
        "https:///path",
        "file:///etc/passwd",
        "https://nx.example:x",
        "https://xn--/",
        "https://nx.example/\0",
    ],
)
def test_checked_url_invalid_address_is_refused(option: str, address: str) -> None:
    assert refusal(**{option: address}).startswith(option)


@pytest.mark.parametrize("option", ["region", "base_url", "login_url", "proxy"])
@pytest.mark.parametrize("value", [5, 0, True, 1.5, ["https://nx.example"], {"eu": "us"}, b"eu"])
def test_resolve_value_that_is_not_text_is_refused(option: str, value: object) -> None:
    assert refusal(**{option: value}).startswith(f"{option} is")


@pytest.mark.parametrize(
    ("address", "private"),
    [("https://x", True), ("http://localhost", True), ("http://x", False), ("ftp://localhost", False)],
)
def test_is_private_enough_https_or_loopback(address: str, private: bool) -> None:
    assert is_private_enough(httpx.URL(address)) is private


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(None, 30), ("", 30), (5, 5), ("2.5", 2.5), (" 7 ", 7), (86_400, 86_400)]
)
def test_resolve_timeout_as_number_or_text(timeout: object, seconds: float) -> None:
    assert resolve(timeout=timeout).timeout == seconds


@pytest.mark.parametrize(
    "timeout",
    [
        0,
        "0",
        -1,
        "-1",
        "soon",
        "inf",
        "nan",
        float("inf"),
        [1],
        86_401,
        "1e300",
        pytest.param(10**400, id="400 digits"),
    ],
)
def test_resolve_invalid_timeout_is_refused(timeout: object) -> None:
    assert refusal(timeout=timeout).startswith(f"timeout is {timeout!r}")


@pytest.mark.parametrize(
    ("verify", "read"),
    [
        (None, True),
        ("", True),
        (True, True),
        (False, False),
        ("true", True),
        ("False", False),
        (" FALSE ", False),
        ("/etc/ssl/proxy.pem", "/etc/ssl/proxy.pem"),
    ],
)
def test_resolve_verify_as_boolean_text_or_path(verify: object, read: object) -> None:
    assert resolve(verify=verify).verify == read
    assert type(resolve(verify=verify).verify) is type(read)


@pytest.mark.parametrize("verify", [0, 1, ["x"]])
def test_resolve_verify_of_another_type_is_refused(verify: object) -> None:
    assert refusal(verify=verify).startswith("verify is")


def test_settings_repr_shows_no_secret() -> None:
    settings = resolve(proxy="http://me:made-up-proxy-password@proxy.example:3128")

    assert settings.client_secret.get_secret_value() == "made-up-secret"
    assert settings.proxy is not None
    assert settings.proxy.get_secret_value() == "http://me:made-up-proxy-password@proxy.example:3128"
    assert "made-up" not in f"{settings} {settings!r} {vars(settings)}"


@pytest.mark.parametrize("proxy", [None, ""])
def test_resolve_without_proxy_is_none(proxy: str | None) -> None:
    assert resolve(proxy=proxy).proxy is None


@pytest.mark.parametrize(
    "proxy",
    [
        "garbage",
        "hush",
        "me:hush@proxy.example:3128",
        "ftp://me:hush@proxy.example",
        "http://me:hush@",
        "http://me:hush@proxy.example:hush",
        "http://me:hu/sh@proxy.example",
        "http://me:hush\0@proxy.example",
        "http://me:hush@xn--/",
        ["http://me:hush@proxy.example"],
        {"https": "http://me:hush@proxy.example"},
        b"http://me:hush@proxy.example",
    ],
)
def test_resolve_invalid_proxy_is_refused_and_its_password_not_shown(proxy: object) -> None:
    message = refusal(proxy=proxy)

    assert message.startswith("proxy ")
    assert "hu" not in message


anything = st.none() | st.text() | st.tuples(st.sampled_from(["https://", "http://", "acme."]), st.text()).map("".join)


@given(
    instance=anything | st.just("acme"),
    region=anything | st.sampled_from(REGIONS),
    client_id=anything,
    client_secret=anything,
    base_url=anything,
    login_url=anything,
    timeout=anything,
    verify=anything,
    proxy=anything,
)
def test_resolve_arbitrary_fields_are_read_or_refused(**filled_in: str | None) -> None:
    try:
        settings = NexthinkSettings.resolve(**filled_in)
    except NexthinkSettingsError:
        return
    assert settings.instance
    assert settings.timeout > 0
    assert is_private_enough(httpx.URL(settings.base_url))
    assert is_private_enough(httpx.URL(settings.login_url))
