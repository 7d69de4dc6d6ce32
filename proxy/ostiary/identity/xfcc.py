"""Who sends this, by the word of a proxy in front: `X-Forwarded-Client-Cert`, as Envoy writes it.

The header is looked at on a listener that is declared for it, and there only from peers that are pinned: by the
certificates that they show on this very connection, over mutual TLS. On every other listener it is dropped like
anything else a client writes about itself.

Read strictly, and refused at any doubt: names in certificates are text of strangers, which some proxies have copied
into the header as it was (envoy GHSA-w5w5-487h-qv8q). Exactly one element, because a second one is somebody else's
word; each key once, but for `DNS` and `By`, of which a certificate can have several; exactly one `URI`, which has to be
the SPIFFE ID of a workload of a trust domain that is configured, compared as text and never decoded. `By` is the proxy
itself and is never an identity. `Hash` is the certificate's SHA-256, which tokens can be bound to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ostiary.bounded import BoundedMap
from ostiary.errors import IdentityInvalid, IdentityMissing
from ostiary.exchange import Exchange
from ostiary.identity.certificates import Certified
from ostiary.identity.mtls import CertificateSource
from ostiary.marks import certificate_mark
from ostiary.models import Identity
from ostiary.spiffe import SpiffeId

HEADER: Final = b"x-forwarded-client-cert"

_MAX_BYTES: Final = 16 * 1024  # certificates may stand in it, URL-encoded
_REMEMBERED: Final = 10_000
"""Headers that were read, each with what is certified by it."""
_KEYS: Final = frozenset({"by", "hash", "cert", "chain", "subject", "uri", "dns"})
_REPEATED: Final = frozenset({"by", "dns"})
# In quotes, a quote is escaped by a backslash, and backslashes are not: `\\"` has two readings and matches nothing.
_PAIR: Final = re.compile(
    r"""([A-Za-z]{2,7})=(?:"((?:[ !#-\[\]-~]|\\["#+,;<=> ]|\\[0-9A-Fa-f]{2})*)"|([!#-+\--:<>-\[\]-~]*))(;|,|\Z)"""
)
_HASH: Final = re.compile(r"[0-9a-f]{64}")


def forwarded(value: bytes) -> tuple[SpiffeId, bytes | None]:
    """The workload that the header names, and the SHA-256 of its certificate where it says that.

    Raises `IdentityInvalid` for whatever is not exactly one element with exactly one SPIFFE ID.
    """
    found = _pairs(value)
    try:
        name = SpiffeId.parse(found["uri"])
    except (KeyError, ValueError):
        raise IdentityInvalid("xfcc: not one URI that is a workload's SPIFFE ID") from None
    thumbprint = found.get("hash")
    if thumbprint is None:
        return name, None
    if _HASH.fullmatch(thumbprint) is None:
        raise IdentityInvalid("xfcc: Hash is no SHA-256")
    return name, bytes.fromhex(thumbprint)


def _pairs(value: bytes) -> dict[str, str]:
    """The key-value pairs of the one element; of those that may be repeated, the last."""
    if len(value) > _MAX_BYTES or not value.isascii():
        raise IdentityInvalid("xfcc: too long, or not ASCII")
    text = value.decode("ascii")
    found: dict[str, str] = {}
    at = 0
    while True:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise IdentityInvalid("xfcc: malformed")
        key, quoted, bare, end = pair[1].lower(), pair[2], pair[3], pair[4]
        if end == ",":
            raise IdentityInvalid("xfcc: more than one element")
        if key not in _KEYS or (key in found and key not in _REPEATED):
            raise IdentityInvalid("xfcc: a key that is unknown, or there twice")
        content = bare if quoted is None else quoted
        if key != "uri" and "uri=" in content.lower():
            raise IdentityInvalid("xfcc: a name that looks like another part of the header")
        found[key] = content
        if not end:
            return found
        at = pair.end()


class XfccAuthenticator:
    """An `Authenticator`, and a `CertificateSource`, for what pinned proxies forward.

    `peers` are issuer and subject of their own identities, which `connections` proves. `trust_domains` are those whose
    workloads they may name. An identity that was forwarded ends with the certificate of the peer that said so: the
    header tells no end, and is believed anew for each request.
    """

    def __init__(
        self,
        *,
        connections: CertificateSource,
        peers: Iterable[tuple[str, str]],
        trust_domains: Iterable[str],
    ) -> None:
        self._connections = connections
        self._peers = frozenset(peers)
        self._trust_domains = frozenset(trust_domains)
        if not self._peers or not self._trust_domains:
            raise ValueError("nobody may forward, or nobody's name: nobody could be identified")
        self._known: BoundedMap[tuple[bytes, int, bytes | None], Certified] = BoundedMap(_REMEMBERED)

    async def identify(self, exchange: Exchange) -> Identity:
        return self.certified(exchange).identity

    def certified(self, exchange: Exchange) -> Certified:
        shown = self._connections.certified(exchange)
        peer = shown.identity
        if (peer.issuer, peer.subject) not in self._peers:
            raise IdentityInvalid("xfcc: this peer is not one that may forward")
        value = exchange.header(HEADER)
        if value is None:
            raise IdentityMissing("a pinned peer forwarded no certificate")
        key = (value, peer.expires_at, shown.thumbprint)
        known = self._known.get(key)
        if known is None:
            known = self._read(value, peer)
            self._known.put(key, known)
        return known

    def _read(self, value: bytes, peer: Identity) -> Certified:
        name, thumbprint = forwarded(value)
        if name.trust_domain not in self._trust_domains:
            raise IdentityInvalid("xfcc: of a trust domain that may not be forwarded")
        marks = () if thumbprint is None else (certificate_mark(thumbprint),)
        identity = Identity(
            issuer=name.issuer,
            subject=name.text,
            method="xfcc",
            expires_at=peer.expires_at,
            proved_by=(*marks, *peer.marks),  # whom a blocked proxy forwards is nobody
        )
        return Certified(identity=identity, thumbprint=thumbprint)
