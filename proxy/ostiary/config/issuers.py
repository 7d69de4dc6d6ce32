"""Issuers of the tokens that callers present, and how their keys are found (SECURITY section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema, model_validator

from ostiary.addresses import is_localhost
from ostiary.config.fields import UNIQUE, DistinctOrEmpty, FilePath, Frozen, OneText, SecureUrl, split_url
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict
from ostiary.policy.values import FILLED, ClaimName, Distinct, Duration, Text, mistake, mistakes_at
from ostiary.policy.words import closest, quoted
from ostiary.spiffe import is_trust_domain

_FAMILIES: Final = {
    "RS256": "RSASSA-PKCS1-v1_5",
    "RS384": "RSASSA-PKCS1-v1_5",
    "RS512": "RSASSA-PKCS1-v1_5",
    "PS256": "RSASSA-PSS",
    "PS384": "RSASSA-PSS",
    "PS512": "RSASSA-PSS",
    "ES256": "ECDSA",
    "ES384": "ECDSA",
    "ES512": "ECDSA",
    "EdDSA": "EdDSA",
}
"""JWS algorithm to its family (RFC 7518 section 3.1, RFC 8037). The two of RSA differ in their padding, so no token
may choose between them."""

_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})


def _algorithm(value: str) -> str:
    if value in _FAMILIES:
        return value
    if value in _SYMMETRIC:
        raise mistake(f"{quoted(value)} is symmetric: whoever can verify a token could make one")
    raise mistake(f"{quoted(value)} is not an algorithm for signatures that is accepted{closest(value, _FAMILIES)}")


def _one_family(values: tuple[str, ...]) -> tuple[str, ...]:
    families = sorted({_FAMILIES[value] for value in values})
    if len(families) > 1:
        # A second family lets a token choose how it is verified (the confusions of SECURITY section 5).
        raise mistake(f"the algorithms are of one family, and these are of {' and '.join(families)}")
    return values


def _only_true(value: Any) -> Any:
    if value is False:
        raise mistake("is true or left out")
    return value


STAND_IN: Final = {"issuer": "stand-in", "audience": "stand-in", "key_file": "stand-in", "algorithms": ["ES256"]}
"""What takes the place of a missing list's item."""

Algorithm: TypeAlias = Annotated[str, AfterValidator(_algorithm), WithJsonSchema({"enum": list(_FAMILIES)})]


class Issuer(Strict):
    """Whose tokens are accepted. Its keys come from exactly one of `jwks_url`, `discovery` and `key_file`."""

    issuer: Annotated[Text, StandIn("https://stand-in.invalid")]
    """The token's `iss`, compared exactly. With `use: jwt-svid` the trust domain, `spiffe://shop.test`."""
    use: Literal["jwt", "jwt-svid"] = "jwt"
    """What its tokens are: JWTs, or JWT-SVIDs of a SPIFFE trust domain. Their subjects are that domain's workloads,
    whatever their `iss` says; the keys are those of its bundle whose `use` is `jwt-svid`."""
    audience: Annotated[Text, OneText, StandIn("stand-in")]
    """What the token's `aud` must be: this proxy, under the name that the issuer knows it by."""
    jwks_url: Annotated[SecureUrl | None, StandIn("https://stand-in.invalid")] = None
    """Where its keys are published. https, except on a loopback host."""
    discovery: Annotated[bool, BeforeValidator(_only_true), WithJsonSchema({"const": True})] = False
    """Find the keys by OpenID Connect Discovery, at the issuer's own origin."""
    key_file: Annotated[FilePath | None, StandIn("stand-in")] = None
    """A local file with its keys: a JWK set, or public keys in PEM. PEM has no key ids, so the `kid` of a token's
    header must be the key's RFC 7638 thumbprint (SHA-256), or the SHA-256 of the key's DER form
    (SubjectPublicKeyInfo) as Kubernetes writes it: both in base64url without padding."""
    ca_file: FilePath | None = None
    """PEM file of the authorities that are trusted when its keys are fetched; the system's if left out."""
    token_file: FilePath | None = None
    """A file with the bearer token to fetch its keys with, read each time: for a Kubernetes API server."""
    algorithms: Annotated[
        tuple[Algorithm, ...], Frozen, Distinct, AfterValidator(_one_family), FILLED, StandIn(["ES256"])
    ]
    """The signature algorithms that are accepted: asymmetric, of one family."""
    types: Annotated[tuple[Text, ...], Frozen, Distinct, FILLED] = ("JWT", "at+jwt")
    """The header types (`typ`) that are accepted."""
    allow_untyped: bool = False
    """Whether a token whose header has no `typ` is accepted too: those of Kubernetes service accounts have none."""
    leeway: Annotated[int, Duration(least=0, most=30, whole=True)] = 5
    """How far its clock may be from ours. Whole seconds."""
    max_lifetime: Annotated[int, Duration(least=1, most=86400, whole=True)] = 3600
    """The longest that a token may be good for, from `iat` to `exp`. Whole seconds."""
    claims: Annotated[tuple[ClaimName, ...], Frozen, DistinctOrEmpty, UNIQUE] = ()
    """The claims that policy may see; no others are passed on."""

    @model_validator(mode="after")
    def _keys_come_from_one_place(self) -> Issuer:
        self._check_use()
        sources = [self.jwks_url is not None, self.discovery, self.key_file is not None]
        if sum(sources) != 1:
            lacking = () if any(sources) else ("jwks_url", "discovery", "key_file")
            raise mistake("needs exactly one of 'jwks_url', 'discovery' and 'key_file'", lacking=lacking)
        if self.key_file is not None:
            fetching = [name for name in ("ca_file", "token_file") if getattr(self, name) is not None]
            if fetching:
                raise mistakes_at(
                    ((name,), "is for keys that are fetched, and these come from a file") for name in fetching
                )
        if self.discovery and self.use == "jwt":
            parts = split_url(self.issuer)
            if parts.scheme != "https" and not is_localhost(parts.hostname or ""):
                raise mistake("discovery needs an issuer with https, except on a loopback host", lacking=())
        return self

    def _check_use(self) -> None:
        if self.use == "jwt":
            if self.issuer.startswith("spiffe:"):
                told = "a trust domain is no issuer of plain tokens: JWT-SVIDs need 'use: jwt-svid'"
                raise mistakes_at([(("issuer",), told)], lacking=("use",))
            return
        found: list[tuple[tuple[int | str, ...], str]] = []
        if not is_trust_domain(self.issuer.removeprefix("spiffe://")) or not self.issuer.startswith("spiffe://"):
            found.append((("issuer",), "JWT-SVIDs are of a trust domain, which is written spiffe://shop.test"))
        if self.discovery:
            found.append((("discovery",), "a trust domain has a bundle: name it by 'jwks_url' or 'key_file'"))
        # What the specification says, nobody configures (JWT-SVID sections 2.1 and 2.3).
        found.extend(
            ((name,), "is for plain tokens: a JWT-SVID's header has the type JWT or JOSE, or none")
            for name in ("types", "allow_untyped")
            if name in self.model_fields_set
        )
        found.extend(
            (("algorithms", index), "is no algorithm of JWT-SVIDs, which are RS, PS and ES")
            for index, name in enumerate(self.algorithms)
            if name == "EdDSA"
        )
        if found:
            raise mistakes_at(found, lacking=())
