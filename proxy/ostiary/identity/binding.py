"""Tokens that are bound to a key: what they demand of the request that they come with (RFC 7800, RFC 8705, RFC 9449).

A bound token is worth nothing without its proof, so whoever finds one in a log or a cache gains nothing by it. The
proof is looked at for every request, whatever else is remembered of the token: what is kept is that the token is good,
never that its bearer was its owner.

- `cnf.x5t#S256`: the client's certificate, by its thumbprint. It has to be one that is trusted now, on this connection
  or, where a pinned proxy in front ended TLS, by that one's word.
- `cnf.jkt`: a key, by its RFC 7638 thumbprint, which signs a DPoP proof of each request.
- Both: both.
- Anything else in `cnf`, or nothing: a demand that cannot be met, so the token is refused. A demand that is not
  understood would otherwise be one that nobody checks.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ostiary.bounded import BoundedMap
from ostiary.errors import IdentityInvalid, IdentityMissing
from ostiary.exchange import Exchange
from ostiary.identity.mtls import CertificateSource
from ostiary.models import Identity, Json

_CERTIFICATE: Final = "x5t#S256"
_KEY: Final = "jkt"
_SHA256: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")  # 32 bytes; the last character has two bits unused


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a token is bound to: SHA-256 digests, of a certificate, of a key, or of both."""

    certificate: bytes | None
    key: bytes | None


def confirmation_of(claims: Mapping[str, Json]) -> Confirmation | None:
    """What these claims bind their token to; None where they say nothing of it. Raises `IdentityInvalid`."""
    if "cnf" not in claims:
        return None
    members = claims["cnf"]
    if not isinstance(members, dict) or not members:
        raise IdentityInvalid("claim: cnf")
    if unknown := members.keys() - {_CERTIFICATE, _KEY}:
        raise IdentityInvalid(f"claim: cnf, bound in {len(unknown)} ways that are not understood")
    return Confirmation(certificate=_digest(members, _CERTIFICATE), key=_digest(members, _KEY))


def _digest(members: Mapping[str, Json], name: str) -> bytes | None:
    if name not in members:
        return None
    value = members[name]
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise IdentityInvalid(f"claim: cnf, {name} is no SHA-256 thumbprint")
    return urlsafe_b64decode(value + "=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Possession:
    """What a listener demands beside a good token. `certificates` knows whose certificate a request came with, if this
    listener knows any; with `required`, a token that is bound to nothing is refused.

    `_shown` are the identities of tokens with the marks of the certificate that they came with, by the ids of both,
    which an entry holds: each is made once."""

    certificates: CertificateSource | None = None
    required: bool = False
    _shown: BoundedMap[tuple[int, int], tuple[Identity, Identity, Identity]] = field(
        default_factory=lambda: BoundedMap(10_000), init=False, repr=False, compare=False
    )

    def proved(
        self,
        identity: Identity,
        confirmation: Confirmation | None,
        exchange: Exchange,
        *,
        proved_key: bytes | None = None,
    ) -> Identity:
        """The identity of a token that is bound so, if this request may use it. Raises `IdentityInvalid`.

        It can be blocked by whatever proves the certificate that the token is bound to: its key, its subject, and a
        proxy in front that vouches for it. `proved_key` is the thumbprint of the key that a verified DPoP proof was
        signed with.
        """
        shown = self._check(confirmation, exchange, proved_key=proved_key)
        if shown is None:
            return identity
        key = (id(identity), id(shown))
        found = self._shown.get(key)
        if found is None:
            found = (identity, shown, replace(identity, proved_by=(*identity.proved_by, *shown.marks)))
            self._shown.put(key, found)
        return found[2]

    def _check(
        self, confirmation: Confirmation | None, exchange: Exchange, *, proved_key: bytes | None
    ) -> Identity | None:
        """That of the certificate, where the token is bound to one."""
        if confirmation is None:
            if self.required:
                raise IdentityInvalid("token: bound to nothing, and this listener takes bound ones alone")
            if proved_key is not None:
                raise IdentityInvalid("DPoP: the token is bound to no key")  # RFC 9449 section 7.1
            return None
        if confirmation.key is None:
            if proved_key is not None:
                raise IdentityInvalid("DPoP: the token is bound to no key")
        elif proved_key is None:
            raise IdentityInvalid("claim: cnf, bound to a key, and no proof of it came along")
        elif not hmac.compare_digest(confirmation.key, proved_key):
            raise IdentityInvalid("claim: cnf, bound to another key")
        if confirmation.certificate is None:
            return None
        return self._check_certificate(confirmation.certificate, exchange)

    def _check_certificate(self, thumbprint: bytes, exchange: Exchange) -> Identity:
        if self.certificates is None:
            raise IdentityInvalid("claim: cnf, bound to a certificate, and this listener asks for none")
        try:
            shown = self.certificates.certified(exchange)
        except IdentityMissing:
            raise IdentityInvalid("claim: cnf, bound to a certificate that did not come along") from None
        if shown.thumbprint is None or not hmac.compare_digest(thumbprint, shown.thumbprint):
            raise IdentityInvalid("claim: cnf, bound to another certificate")
        return shown.identity
