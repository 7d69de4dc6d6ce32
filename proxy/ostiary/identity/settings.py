"""What is believed from whom: the settings of one issuer, and of how its keys are kept fresh."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from ostiary.addresses import is_localhost
from ostiary.identity.preparse import media_type
from ostiary.spiffe import is_trust_domain

# One family is one kind of signature over one kind of key. An issuer that mixes them is where confusion begins
# (PyJWT CVE-2022-29217, CVE-2026-48526, CVE-2026-102268). There is no symmetric one, and no `none`.
FAMILIES: Final = (
    frozenset({"RS256", "RS384", "RS512"}),
    frozenset({"PS256", "PS384", "PS512"}),
    frozenset({"ES256", "ES384", "ES512"}),
    frozenset({"EdDSA"}),
)

MAX_LEEWAY: Final = 30.0
_MAX_LIFETIME: Final = 86_400.0
_WITHHELD: Final = frozenset({"jti", "iat", "nbf", "exp"})
_ISSUER: Final = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksUrl:
    """Keys at a known address. `ca_file` replaces the public authorities; `token_file` holds the bearer token that
    the address wants (a Kubernetes API server). Both files are read again for each fetch."""

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        check_url(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Keys where the issuer's OpenID configuration says, as long as that shares the issuer's origin."""

    ca_file: Path | None = None
    token_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """Keys in a local file: a JWK Set, or public keys in PEM. Read again every few seconds."""

    path: Path


KeyOrigin: TypeAlias = JwksUrl | Discovery | KeyFile


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """The rules for the tokens of one issuer.

    `issuer` and `audience` are compared as exact strings. `types` are the accepted values of the header's `typ`,
    compared as media types; a token without one is accepted only with `allow_untyped` (Kubernetes sends none).
    `leeway` (at most 30; its whole seconds count) and `max_lifetime` are in seconds. `claims` are those that policy
    may see.

    With `use` set to `jwt-svid` these are the rules for JWT-SVIDs of a trust domain: `issuer` is that, as an ID
    (`spiffe://shop.test`), the keys are those of its bundle that are for JWT-SVIDs, and `types` has no meaning.

    Raises `ValueError` for settings that would believe too much.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    keys: KeyOrigin
    types: tuple[str, ...] = ("JWT", "at+jwt")
    allow_untyped: bool = False
    leeway: float = 5.0
    max_lifetime: float = 3600.0
    claims: tuple[str, ...] = ()
    use: Literal["jwt", "jwt-svid"] = "jwt"

    def __post_init__(self) -> None:
        is_domain = self.issuer.startswith("spiffe:")
        if is_domain != (self.use == "jwt-svid"):
            raise ValueError(f"issuer {self.issuer}: a trust domain is whose JWT-SVIDs are taken, and nothing else is")
        if is_domain and not is_trust_domain(self.issuer.removeprefix("spiffe://")):
            raise ValueError(f"issuer {self.issuer}: not a trust domain")
        if is_domain and (isinstance(self.keys, Discovery) or "EdDSA" in self.algorithms):
            raise ValueError(f"issuer {self.issuer}: a trust domain's keys are a bundle's, for RS, PS or ES signatures")
        if _ISSUER.fullmatch(self.issuer) is None:
            raise ValueError("an issuer is 1 to 512 printable ASCII characters without a space")
        if not self.audience:
            raise ValueError(f"issuer {self.issuer}: the audience is empty")
        if not any(self.algorithms and family.issuperset(self.algorithms) for family in FAMILIES):
            raise ValueError(f"issuer {self.issuer}: algorithms are one or more of one asymmetric family")
        if not all(self.types) or (not self.types and not self.allow_untyped):
            raise ValueError(f"issuer {self.issuer}: no token type is accepted")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ValueError(f"issuer {self.issuer}: the leeway is 0 to {MAX_LEEWAY:.0f} seconds")
        if not 0 < self.max_lifetime <= _MAX_LIFETIME:
            raise ValueError(f"issuer {self.issuer}: the longest lifetime is at most {_MAX_LIFETIME:.0f} seconds")
        if withheld := _WITHHELD.intersection(self.claims):
            raise ValueError(f"issuer {self.issuer}: policy never sees {', '.join(sorted(withheld))}")
        if isinstance(self.keys, Discovery) and check_url(self.issuer).query:
            raise ValueError(f"issuer {self.issuer}: an issuer with a query has no discovery document")

    @property
    def media_types(self) -> frozenset[str]:
        return frozenset(map(media_type, self.types))


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings:
    """How a key set is kept. Times in seconds.

    `interval`: between refreshes in the background. `cooldown`: between attempts, whatever their outcome.
    `deadline`: for one attempt, from name look-up to last byte. `max_age`: how long the last good set is used while
    refreshing fails. `wait`: how long a request waits for an attempt that may know its key. `max_waiting`: requests
    that wait at one time.
    """

    interval: float = 300.0
    cooldown: float = 30.0
    deadline: float = 5.0
    max_age: float = 86_400.0
    wait: float = 2.0
    max_waiting: int = 128

    def __post_init__(self) -> None:
        if self.max_age <= self.interval:
            raise ValueError("keys would be dropped before they are refreshed: max_age is to exceed interval")
        if min(self.interval, self.cooldown, self.deadline) <= 0:
            raise ValueError("interval, cooldown and deadline are above 0")


FILE_REFRESH: Final = RefreshSettings(interval=5.0, cooldown=2.0)
"""A local file costs nobody anything: it is looked at often."""


def check_url(url: str) -> SplitResult:
    """The parts of an address that may be fetched. Raises `ValueError`: plain http is for loopback alone."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{url!r} is not a URL") from None
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname or port == 0:
        raise ValueError(f"{url!r} is not an absolute URL")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a URL that is fetched holds no credentials and no fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_localhost(parts.hostname)):
        raise ValueError(f"{url!r}: https is demanded, except on loopback")
    return parts


def origin(parts: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port of an address, comparable (RFC 6454)."""
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default
