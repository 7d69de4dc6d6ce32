"""Who sends this, by a bearer JWT (RFC 9068 in spirit, RFC 8725 in strictness).

The signature algorithms are PyJWT's. Its `decode` is not used: it reads the machine's clock, takes the last of
duplicate members and lets the token name its algorithm; what it checks on top is checked here on one parsed object.

Order: form, issuer, header, claims, key, signature. Everything cheap is asked before a key is looked for, so that
only a token that is good but for its signature can cost a signature check or a fetch. Every cause is the same 401.

While an issuer's keys have never been loaded, or are too old to be used, its tokens are `identity-invalid` too: the
contract gives identity no 503, a stranger learns nothing about what is configured or down, and no token whose
signature cannot be checked is told apart from a bad one. Operators see it where they look: the refusal's detail in
the audit, the log, and the health of the proxy, whose `/readyz` keeps one without keys out of rotation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ostiary.clock import Clock
from ostiary.errors import AccessError, IdentityInvalid
from ostiary.exchange import Exchange
from ostiary.identity.bearer import bearer_token
from ostiary.identity.binding import Confirmation, Possession, confirmation_of
from ostiary.identity.claims import identity_of, trust_domain_of
from ostiary.identity.failures import FailureLimit
from ostiary.identity.keys import NO_KEYS, KeySet, VerificationKey
from ostiary.identity.preparse import UnverifiedToken, take_apart
from ostiary.identity.settings import IssuerSettings
from ostiary.marks import Mark, certificate_mark, digest_mark, key_mark, thumbprint_mark
from ostiary.models import Identity

_log = logging.getLogger("ostiary.identity")


class KeyStore(Protocol):
    @property
    def current(self) -> KeySet:
        """The keys in use now: the same object until they change, `NO_KEYS` when there are none."""

    async def find(self, key_id: str) -> tuple[KeySet, VerificationKey | None]:
        """The key of that id and the set it is in. May wait, boundedly, for an unknown one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRules:
    """An issuer's settings and where its keys are."""

    settings: IssuerSettings
    keys: KeyStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """An identity with what it rests on: it holds while `store.current` is `keys` and until `identity.expires_at`.

    It is nobody's who has not shown what `confirmation` demands, with the same request.
    """

    identity: Identity
    store: KeyStore
    keys: KeySet
    confirmation: Confirmation | None = None


class TokenVerifier(Protocol):
    """Who knows whether a token is good, whoever brings it."""

    async def verify(self, token: bytes, peer: str) -> Proof:
        """The proof that a token from this address gives, to whoever has what it is bound to.

        Raises `IdentityInvalid`, whatever happens, or `TooManyFailures` (429) without looking at the token.
        """


class BearerAuthenticator:
    """An `Authenticator` for bearer tokens: good ones, from who has what they are bound to."""

    def __init__(self, *, tokens: TokenVerifier, possession: Possession) -> None:
        self._tokens = tokens
        self._possession = possession

    async def identify(self, exchange: Exchange) -> Identity:
        """Prove who sends this. Raises as `verify`, `IdentityMissing`, or 400 for a doubled or repeated token."""
        proof = await self._tokens.verify(bearer_token(exchange), exchange.source_ip)
        return self._possession.proved(proof.identity, proof.confirmation, exchange)


class JwtVerifier:
    """A `TokenVerifier` for JWTs of several issuers. `failures` bounds what one peer may get wrong."""

    def __init__(self, *, issuers: Mapping[str, IssuerRules], clock: Clock, failures: FailureLimit) -> None:
        self._issuers = {name: rules for name, rules in issuers.items() if rules.settings.use == "jwt"}
        self._domains = {name: rules for name, rules in issuers.items() if rules.settings.use == "jwt-svid"}
        self._failures = failures
        self._media_types = {name: rules.settings.media_types for name, rules in self._issuers.items()}
        self._clock = clock

    async def verify(self, token: bytes, peer: str) -> Proof:
        self._failures.check(peer)
        try:
            return await self._guarded(token)
        except IdentityInvalid:
            self._failures.count(peer)
            raise

    async def _guarded(self, token: bytes) -> Proof:
        try:
            return await self._verify(token)
        except AccessError:
            raise
        except Exception as error:  # noqa: BLE001 - a token that breaks something is a bad token: 401, never 500
            # Only the kind: the texts of parsers and of PyJWT quote claims.
            _log.error("unforeseen %s while verifying a token", type(error).__name__)
            raise IdentityInvalid(f"token: unforeseen {type(error).__name__}") from None

    async def _verify(self, token: bytes) -> Proof:
        unverified = take_apart(token)
        rules = self._rules(unverified)
        self._check_header(unverified, rules.settings)
        identity = identity_of(unverified.unverified_claims, rules.settings, self._clock.now())
        confirmation = confirmation_of(unverified.unverified_claims)
        keys, key = await rules.keys.find(unverified.key_id)
        if self._clock.now() >= identity.expires_at:
            raise IdentityInvalid("claim: exp, expired")  # while it waited for the key
        if key is None:
            raise IdentityInvalid("key: unknown kid" if keys is not NO_KEYS else "key: the issuer's keys are not here")
        if key.algorithm != unverified.algorithm:
            raise IdentityInvalid("header: alg is not the key's")
        if not key.verifies(unverified.signature, unverified.signing_input):
            raise IdentityInvalid("signature")
        marks = _marks(identity.issuer, unverified, keys, key, confirmation)
        identity = replace(identity, proved_by=(*identity.proved_by, *marks))
        return Proof(identity=identity, store=rules.keys, keys=keys, confirmation=confirmation)

    def _rules(self, unverified: UnverifiedToken) -> IssuerRules:
        """Whose token it says that it is. That of a configured issuer is a plain one, whatever its subject looks like;
        otherwise it may be a JWT-SVID, whose trust domain stands in its subject, and whose `iss` says nothing."""
        issuer = unverified.unverified_claims.get("iss")
        rules = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if rules is None and self._domains:
            rules = self._domains.get(trust_domain_of(unverified.unverified_claims) or "")
        if rules is None:
            raise IdentityInvalid("claim: iss")
        return rules

    def _check_header(self, unverified: UnverifiedToken, settings: IssuerSettings) -> None:
        if unverified.algorithm not in settings.algorithms:
            raise IdentityInvalid("header: alg")
        if settings.use == "jwt-svid":
            # JWT-SVID section 2: `typ` may be left out, and what is not described there is not in the header.
            if unverified.typ not in (None, "JWT", "JOSE"):
                raise IdentityInvalid("header: typ")
            if not unverified.members <= {"alg", "kid", "typ"}:
                raise IdentityInvalid("header: a member that a JWT-SVID has not")
            return
        if unverified.media_type is None:
            if not settings.allow_untyped:
                raise IdentityInvalid("header: typ")
        elif unverified.media_type not in self._media_types[settings.issuer]:
            raise IdentityInvalid("header: typ")


def _marks(
    issuer: str,
    token: UnverifiedToken,
    keys: KeySet,
    key: VerificationKey,
    confirmation: Confirmation | None,
) -> list[Mark]:
    """Of the token, of the key that it is signed with, and of what it is bound to."""
    found = [digest_mark(token.signing_input), thumbprint_mark(key.thumbprint)]
    found += [key_mark(issuer, name) for name in keys.names(key)]
    if confirmation is not None and confirmation.key is not None:
        found.append(thumbprint_mark(confirmation.key))
    if confirmation is not None and confirmation.certificate is not None:
        found.append(certificate_mark(confirmation.certificate))
    return found
