"""Settings that would believe too much are refused when they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.identity import Discovery, JwksUrl, KeyFile, RefreshSettings, build_authenticator
from support.identity import settings

KEYS = KeyFile(path=Path("keys.json"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"issuer": ""},
        {"issuer": "https://idp.test/ x"},
        {"issuer": "https://idp.t\u00e9st"},
        {"audience": ""},
        {"algorithms": ()},
        {"algorithms": ("none",)},
        {"algorithms": ("HS256",)},
        {"algorithms": ("RS256", "HS256")},
        {"algorithms": ("RS256", "ES256")},
        {"algorithms": ("RS256", "PS256")},
        {"types": ()},
        {"types": ("",)},
        {"leeway": -1},
        {"leeway": 31},
        {"max_lifetime": 0},
        {"max_lifetime": 86_401},
        {"claims": ("groups", "jti")},
        {"claims": ("exp",)},
        {"issuer": "http://idp.test", "keys": Discovery()},
        {"issuer": "idp", "keys": Discovery()},
        {"issuer": "https://idp.test?x=1", "keys": Discovery()},
    ],
    ids=str,
)
def test_an_issuer_that_would_be_believed_too_much_is_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"issuer|algorithms|https|URL"):
        settings(**{"keys": KEYS, **overrides})


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.test/jwks",
        "http://127.0.0.1.nip.io/jwks",
        "http://0.0.0.0/jwks",
        "http://[::ffff:10.0.0.1]/jwks",
        "ftp://127.0.0.1/jwks",
        "file:///etc/keys",
        "//idp.test/jwks",
        "https:///jwks",
        "https://user:secret@idp.test/jwks",
        "https://idp.test/jwks#x",
        "https://idp.test:99999/jwks",
        "https://idp.test/a b",
        "https://idp.test/\n",
        "https://idp.t\u00e9st/jwks",
        "",
    ],
)
def test_an_address_that_must_not_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        JwksUrl(url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://idp.test/jwks", "http://127.0.0.1:1/k", "http://[::1]/k", "http://idp.localhost/k"]
)
def test_https_and_loopback_are_fetched(url: str) -> None:
    assert JwksUrl(url=url).url == url


def test_no_issuer_and_one_twice_are_refused() -> None:
    for issuers in ([], [settings(KEYS), settings(KEYS, audience="other")]):
        with pytest.raises(ValueError, match="issuer"):
            build_authenticator(issuers, clock=ManualClock())


def test_keys_are_refreshed_before_they_are_dropped() -> None:
    with pytest.raises(ValueError, match="max_age"):
        RefreshSettings(interval=100, max_age=100)
