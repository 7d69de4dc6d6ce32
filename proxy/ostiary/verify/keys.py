"""The public keys of the proxy, by their id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from jwt.exceptions import InvalidKeyError

from ostiary.strictjson import NotStrict, read_object

_MAX_KEYS: Final = 100
_ES256: Final = ECAlgorithm(ECAlgorithm.SHA256, SECP256R1)
_EDDSA: Final = OKPAlgorithm()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the one algorithm it is for: a token does not choose (GHSA-jq35-7prp-9v3f)."""

    algorithm: str
    _public: Ed25519PublicKey | EllipticCurvePublicKey = field(repr=False)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        if isinstance(self._public, Ed25519PublicKey):
            return _EDDSA.verify(message, self._public, signature)
        return _ES256.verify(message, self._public, signature)


class KeySource(Protocol):
    async def key(self, key_id: str) -> VerificationKey | None:
        """The key of that id, or None if there is none. Raises `VerificationUnavailable` if that cannot be said."""


class KeySet:
    """A fixed set of keys."""

    def __init__(self, keys: Mapping[str, VerificationKey]) -> None:
        self._keys = MappingProxyType(dict(keys))

    @classmethod
    def parse(cls, document: bytes | str) -> KeySet:
        """Read a JWKS (RFC 7517). Keys of other kinds than the proxy's are passed over, as section 5 asks.

        Raises `ValueError` if it is not a JWKS, or names two keys alike.
        """
        try:
            entries = read_object(document.encode() if isinstance(document, str) else document)["keys"]
        except (NotStrict, KeyError) as error:
            raise ValueError('not a JWKS: {"keys": [...]}') from error
        if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
            raise ValueError(f"not a JWKS: keys is no list of at most {_MAX_KEYS}")
        keys: dict[str, VerificationKey] = {}
        for entry in entries:
            key_id = entry.get("kid") if isinstance(entry, dict) else None
            key = _key(entry) if isinstance(key_id, str) else None
            if key is None or not isinstance(key_id, str):
                continue
            if key_id in keys:
                raise ValueError(f"two keys have the id {key_id!r}")
            keys[key_id] = key
        return cls(keys)

    def get(self, key_id: str) -> VerificationKey | None:
        return self._keys.get(key_id)

    async def key(self, key_id: str) -> VerificationKey | None:
        return self._keys.get(key_id)


def _key(entry: Mapping[str, Any]) -> VerificationKey | None:
    """The key of a JWK, or None if it is of no kind that the proxy signs with."""
    match entry:
        case {"kty": "OKP", "crv": "Ed25519"}:
            algorithm = "EdDSA"
        case {"kty": "EC", "crv": "P-256"}:
            algorithm = "ES256"
        case _:
            return None
    if entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    try:
        public = (OKPAlgorithm if algorithm == "EdDSA" else ECAlgorithm).from_jwk(dict(entry))
    except (InvalidKeyError, ValueError, TypeError):
        return None
    if not isinstance(public, Ed25519PublicKey | EllipticCurvePublicKey):
        return None  # the JWK of a private key: whoever published it gave it away
    return VerificationKey(algorithm=algorithm, _public=public)
