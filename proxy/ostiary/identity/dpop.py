"""Proofs of possession: a small JWT that the client signs for each request (RFC 9449).

Order: token first, proof second, the store of what has been used last. So only who has a good token costs a signature
check of a key that it chose itself, and only a proof that is good but for being used is remembered: strangers cannot
fill the store.

What a proof says is compared with what was received and configured: the method as it was sent; the address by which
clients reach the service, whose scheme, host and port come from the configuration and never from a forwarding header,
and whose path is in the one canonical form that policy sees; the token, by its digest; the instant. A proof is used
once, in all workers of the machine together. Server-provided nonces are not asked for.

Every cause is the same 401, as for tokens. One that told a bad proof from a bad token would tell a thief that the token
is good.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from ostiary.clock import Clock
from ostiary.errors import AccessError, IdentityInvalid
from ostiary.exchange import Exchange
from ostiary.identity.bearer import MAX_TOKEN_BYTES, check_not_repeated
from ostiary.identity.binding import Possession
from ostiary.identity.claims import TOKEN_ID
from ostiary.identity.failures import FailureLimit
from ostiary.identity.jwt import Proof, TokenVerifier
from ostiary.identity.keys import KeyUnusable, ProofKeyReader
from ostiary.identity.preparse import UnverifiedProof, take_proof_apart
from ostiary.interfaces import Authenticator
from ostiary.models import Identity, Json
from ostiary.target import canonicalise

SCHEME: Final = b"dpop "
MAX_PROOF_BYTES: Final = 4096

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"[!-~]{1,16384}")


class ReplayStore(Protocol):
    """What has been used, for all workers of the machine."""

    async def spend(self, digest: bytes, *, issued_at: int, expires_at: int, now: float) -> bool:
        """True for at most one call with this digest, atomically and for ever; a digest has one `issued_at`.

        Times are Unix seconds. False too for what has expired, and where it cannot be known whether it was used: a
        proof from before the store began, or from no later than another that it forgot. Raises `Overloaded` (503) where
        there is no room or no answer in time.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DpopSettings:
    """`algorithms` are those that a proof may have; a proof may be `window` seconds old, and `leeway` ahead of us.

    `origins` is, by host in lower case, the origin by which clients reach what answers there, where that is not the
    listener's own scheme with the host and port of the request.
    """

    algorithms: tuple[str, ...] = ("ES256", "EdDSA")
    window: int = 60
    leeway: int = 5
    origins: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.algorithms or not 0 < self.window <= 300 or not 0 <= self.leeway <= 30:
            raise ValueError("proofs have an algorithm, live at most 300 seconds, and clocks differ by at most 30")


class DpopAuthenticator:
    """An `Authenticator` for the scheme `DPoP`; requests with any other go to `bearers`."""

    def __init__(
        self,
        *,
        bearers: Authenticator,
        tokens: TokenVerifier,
        possession: Possession,
        store: ReplayStore,
        settings: DpopSettings,
        failures: FailureLimit,
        clock: Clock,
    ) -> None:
        self._failures = failures
        self._bearers = bearers
        self._tokens = tokens
        self._possession = possession
        self._store = store
        self._settings = settings
        self._keys = ProofKeyReader(algorithms=settings.algorithms)
        self._origins = {host: _origin(origin) for host, origin in settings.origins.items()}
        self._clock = clock

    async def identify(self, exchange: Exchange) -> Identity:
        value = exchange.header(b"authorization")
        if value is None or value[: len(SCHEME)].lower() != SCHEME:
            return await self._bearers.identify(exchange)
        token = value[len(SCHEME) :]
        if not 0 < len(token) <= MAX_TOKEN_BYTES or b" " in token:
            raise IdentityInvalid("credentials: not one token")
        check_not_repeated(exchange, token)
        shown = exchange.header(b"dpop")
        if shown is None:
            raise IdentityInvalid("DPoP: no proof")
        proof = await self._tokens.verify(token, exchange.source_ip)
        try:
            return await self._proved(proof, shown, token, exchange)
        except IdentityInvalid:
            self._failures.count(exchange.source_ip)
            raise

    async def _proved(self, proof: Proof, shown: bytes, token: bytes, exchange: Exchange) -> Identity:
        self._failures.check(exchange.source_ip)
        key, digest, issued_at = self._verify(shown, token, exchange)
        identity = self._possession.proved(proof.identity, proof.confirmation, exchange, proved_key=key)
        now = self._clock.now()
        expires_at = issued_at + self._settings.window + self._settings.leeway + 1
        if not await self._store.spend(digest, issued_at=issued_at, expires_at=expires_at, now=now):
            raise IdentityInvalid("DPoP: the proof was used already, or cannot be told to be new")
        if self._clock.now() >= proof.identity.expires_at:
            raise IdentityInvalid("claim: exp, expired")  # while it waited
        return identity

    def _verify(self, shown: bytes, token: bytes, exchange: Exchange) -> tuple[bytes, bytes, int]:
        """The thumbprint of the proof's key, the proof's own digest, and when it was made. RFC 9449 section 4.3."""
        try:
            return self._verified(shown, token, exchange)
        except AccessError:
            raise
        except Exception as error:  # noqa: BLE001 - a proof that breaks something is a bad one: 401, never 500
            raise IdentityInvalid(f"DPoP: unforeseen {type(error).__name__}") from None

    def _verified(self, shown: bytes, token: bytes, exchange: Exchange) -> tuple[bytes, bytes, int]:
        if len(shown) > MAX_PROOF_BYTES:
            raise IdentityInvalid("DPoP: too long")
        proof = take_proof_apart(shown)
        issued_at, token_id = self._check_claims(proof, token, exchange)
        try:
            key = self._keys.read(proof.jwk, proof.algorithm)
        except KeyUnusable as error:
            raise IdentityInvalid(f"DPoP: jwk, {error}") from None
        if not key.verifies(proof.signature, proof.signing_input):
            raise IdentityInvalid("DPoP: signature")
        # Two clients may choose the same id: with the key it is one client's own.
        return key.thumbprint, hashlib.sha256(key.thumbprint + token_id.encode()).digest(), issued_at

    def _check_claims(self, proof: UnverifiedProof, token: bytes, exchange: Exchange) -> tuple[int, str]:
        claims = proof.unverified_claims
        if claims.get("htm") != exchange.method:
            raise IdentityInvalid("DPoP: htm")
        if not self._is_here(claims.get("htu"), exchange):
            raise IdentityInvalid("DPoP: htu")
        digest = urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode()
        if not isinstance(claims.get("ath"), str) or not hmac.compare_digest(claims["ath"].encode(), digest.encode()):
            raise IdentityInvalid("DPoP: ath")
        issued_at = claims.get("iat")
        now = self._clock.now()
        if type(issued_at) is not int or not now - self._settings.window <= issued_at <= now + self._settings.leeway:
            raise IdentityInvalid("DPoP: iat")
        for name in ("exp", "nbf"):  # not of a proof; one that has them says more than is looked at
            if name in claims:
                raise IdentityInvalid(f"DPoP: {name}")
        token_id = claims.get("jti")
        if not isinstance(token_id, str) or TOKEN_ID.fullmatch(token_id) is None:
            raise IdentityInvalid("DPoP: jti")
        return issued_at, token_id

    def _is_here(self, address: Json, exchange: Exchange) -> bool:
        """Whether `htu` is the address of this request, query and fragment aside (RFC 9449 section 4.3, point 9)."""
        if not isinstance(address, str) or _URL.fullmatch(address) is None:  # urlsplit would drop tabs and line feeds
            return False
        try:
            parts = urlsplit(address)
            said = _origin(f"{parts.scheme}://{parts.netloc}")
            path = canonicalise((parts.path or "/").encode("ascii"))
        except (ValueError, AccessError):
            return False
        return said == self._origin(exchange) and path == canonicalise(exchange.raw_path)

    def _origin(self, exchange: Exchange) -> tuple[str, str, int]:
        """How clients reach what this request is aimed at. Its Host is one of those that are configured by now."""
        host = (exchange.header(b"host") or b"").decode("latin-1").lower()
        configured = self._origins.get(_without_port(host))
        return configured or _origin(f"{exchange.scope.get('scheme', 'http')}://{host}")


def _without_port(host: str) -> str:
    name, mark, port = host.rpartition(":")
    return name if mark and port.isdigit() else host


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port, comparable. Raises `ValueError`."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an address of http or https")
    port = parts.port  # raises ValueError too
    return scheme, parts.hostname.lower(), _DEFAULT_PORTS[scheme] if port is None else port
