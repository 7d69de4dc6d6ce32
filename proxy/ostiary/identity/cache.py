"""The same answer, sooner: a token that was verified is not verified again while nothing it rests on changed.

An entry dies with the token's `exp`, with its issuer's key set (a rotation, or a set grown too old) and by the bound.
The expiry is looked at before the entry is used. Failures are never kept: a flood of bad tokens evicts nobody.

What is kept says that a token is good, and to what it is bound; that a request has what it is bound to is not looked at
here, but for every request (`BearerAuthenticator`). So no entry is of use to who has the token and not the proof.
"""

from __future__ import annotations

import hashlib

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.identity.jwt import Proof, TokenVerifier


class CachingVerifier:
    """Decorates a `TokenVerifier`. The map is this one's own, as the settings are: two listeners share nothing.

    Keys are SHA-256 digests: no token is kept in memory longer than its request.
    """

    def __init__(self, *, verifier: TokenVerifier, clock: Clock, capacity: int = 10_000) -> None:
        self._verifier = verifier
        self._clock = clock
        self._proofs: BoundedMap[bytes, Proof] = BoundedMap(capacity)

    def __len__(self) -> int:
        return len(self._proofs)

    async def verify(self, token: bytes, peer: str) -> Proof:
        digest = hashlib.sha256(token).digest()
        proof = self._kept(digest)
        if proof is None:
            proof = await self._verifier.verify(token, peer)
            self._proofs.put(digest, proof)
        return proof

    def _kept(self, digest: bytes) -> Proof | None:
        proof = self._proofs.get(digest)
        if proof is None:
            return None
        if self._clock.now() < proof.identity.expires_at and proof.store.current is proof.keys:
            return proof
        self._proofs.discard(digest)
        return None
