"""A client that proves possession of a key, rightly or wrongly in any way (RFC 9449)."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ostiary.clock import Clock
from support.identity import ABSENT, SigningKey, b64, merged

_numbers = itertools.count()


@dataclass(kw_only=True)
class Prover:
    """Makes proofs. Each override replaces a member, or leaves it out with `ABSENT`."""

    clock: Clock
    key: SigningKey = field(default_factory=lambda: SigningKey(algorithm="ES256", material="a client"))

    @property
    def jwk(self) -> dict[str, Any]:
        return self.key.jwk(kid=ABSENT, alg=ABSENT, use=ABSENT)

    @property
    def thumbprint(self) -> str:
        """RFC 7638, worked out from the specification alone."""
        required = {name: self.jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in self.jwk}
        return b64(hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest())

    @property
    def cnf(self) -> dict[str, str]:
        return {"jkt": self.thumbprint}

    def proof(
        self,
        token: str,
        *,
        method: str = "GET",
        url: str = "http://orders.test/orders/123",
        header: Mapping[str, Any] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        claims: Mapping[str, Any] | bytes | None = None,
    ) -> bytes:
        head = merged({"typ": "dpop+jwt", "alg": self.key.algorithm, "jwk": self.jwk}, header or {})
        said = {
            "jti": f"p-{next(_numbers)}",
            "htm": method,
            "htu": url,
            "iat": int(self.clock.now()),
            "ath": b64(hashlib.sha256(token.encode()).digest()),
        }
        body = claims if isinstance(claims, bytes) else json.dumps(merged(said, claims or {})).encode()
        signing_input = f"{b64(json.dumps(head).encode())}.{b64(body)}"
        return f"{signing_input}.{b64((sign or self.key.sign)(signing_input.encode()))}".encode()
