"""Verification keys: from a JWK Set (RFC 7517) or PEM to a set whose members can do one thing each.

A key is bound to one algorithm when it is read (GHSA-jq35-7prp-9v3f): verifying never asks the token which one to use.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from ostiary.identity.preparse import KEY_ID
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_DOCUMENT_BYTES: Final = 256 * 1024
"""Of a document that holds keys, or says where they are."""
MAX_KEYS: Final = 64
_MAX_DEPTH: Final = 8
_RSA_BITS: Final = range(2048, 8193)  # NIST SP 800-131A below; above, one signature costs too much

_EXPONENT_BITS: Final = 32
"""Of a client's own RSA key. What is signed is checked with it, and a large one is as slow as signing."""

# RFC 7518 sections 6.2.2, 6.3.2 and 6.4. A published private key is known to everybody: it proves nothing.
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

# RFC 7518 section 3.1, RFC 8037: for each algorithm the type of its key, and the curve (cryptography's name).
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_READERS: Final[Mapping[str, type[Any]]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
_PEM: Final = re.compile(rb"-----BEGIN (?:RSA )?PUBLIC KEY-----.*?-----END (?:RSA )?PUBLIC KEY-----", re.DOTALL)


class KeySourceError(Exception):
    """Keys, or another document that is fetched as they are, could not be had.

    `cause` is one kebab-case word; the message is for the log and holds no secret.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class NoSuchDocument(KeySourceError):
    """The server says that it has none (404)."""


class KeyUnusable(Exception):
    """One key of a set cannot be used here. The message is a fixed text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the one algorithm it verifies. `thumbprint` is RFC 7638's, SHA-256."""

    id: str
    algorithm: str
    public_key: PublicKey = field(repr=False)
    verifier: Algorithm = field(repr=False, compare=False)
    thumbprint: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "thumbprint", key_digests(self.public_key)[0])

    def verifies(self, signature: bytes, signing_input: bytes) -> bool:
        return self.verifier.verify(signing_input, self.public_key, signature)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeySet:
    """The usable keys of one issuer, by their id, and for how many there was no use. A PEM key has two ids."""

    keys: Mapping[str, VerificationKey]
    fingerprint: bytes
    ignored: int = 0

    @property
    def count(self) -> int:
        """How many keys there are, whatever the number of their ids."""
        return len({_der(key.public_key) for key in self.keys.values()})

    def names(self, key: VerificationKey) -> list[str]:
        """All ids that this key has here."""
        return [name for name, one in self.keys.items() if one.thumbprint == key.thumbprint]


NO_KEYS: Final = KeySet(keys=MappingProxyType({}), fingerprint=b"")


class KeyReader:
    """Reads key sets for one issuer: only keys that fit its algorithms come out.

    `use` is what a JWK has to be for. `sig` need not be said; `jwt-svid` must, because a trust domain's bundle holds
    keys for other uses too (SPIFFE Trust Domain and Bundle, section 4.2), and it is no PEM file.
    """

    def __init__(self, *, algorithms: Iterable[str], use: Literal["sig", "jwt-svid"] = "sig") -> None:
        self._use = use
        known = get_default_algorithms()
        self._verifiers = {name: known[name] for name in algorithms}

    def read(self, document: bytes) -> KeySet:
        """The usable keys of a JWK Set or of public keys in PEM.

        Raises `KeySourceError`: `malformed`, or `no-usable-key`, so that a set gone empty never replaces a good one.
        """
        if self._use == "sig" and document.lstrip().startswith(b"-----BEGIN "):
            keys, ignored = self._read_pem(document)
        else:
            keys, ignored = self._read_jwks(document)
        if not keys:
            raise KeySourceError("no-usable-key", f"none of {ignored} keys fits {', '.join(self._verifiers)}")
        return KeySet(keys=MappingProxyType(keys), fingerprint=_fingerprint(keys.values()), ignored=ignored)

    def _read_jwks(self, document: bytes) -> tuple[dict[str, VerificationKey], int]:
        try:
            members = read_object(document, max_depth=_MAX_DEPTH).get("keys")
        except NotStrict as error:
            raise KeySourceError("malformed", f"not a JWK Set: {error}") from None
        if not isinstance(members, list):
            raise KeySourceError("malformed", "not a JWK Set: it has no list of keys")
        if len(members) > MAX_KEYS:
            raise KeySourceError("malformed", f"more than {MAX_KEYS} keys")
        usable: list[VerificationKey] = []
        for jwk in members:
            try:
                usable.append(self._read_jwk(jwk))
            except KeyUnusable:
                continue
        # Of two keys with one id nobody can tell which is meant: neither is used, the others are.
        occurrences = Counter(key.id for key in usable)
        keys = {key.id: key for key in usable if occurrences[key.id] == 1}
        return keys, len(members) - len(keys)

    def _read_jwk(self, jwk: Json) -> VerificationKey:
        if not isinstance(jwk, dict):
            raise KeyUnusable("not an object")
        if jwk.get("use", "sig") != self._use:
            raise KeyUnusable("not for signatures")
        operations = jwk.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            raise KeyUnusable("not for verifying")
        key_id = jwk.get("kid")
        if not isinstance(key_id, str) or KEY_ID.fullmatch(key_id) is None:
            raise KeyUnusable("no key id that a token could name")
        return self._bind(key_id, _public_key(jwk), jwk.get("alg"))

    def _bind(self, key_id: str, public_key: object, declared: Json) -> VerificationKey:
        """Bind a key to its own algorithm; one that declares none, to the only accepted one that fits it."""
        fitting = [name for name in self._verifiers if _fits(name, public_key)]
        if declared is not None:
            fitting = [name for name in fitting if name == declared]
        if len(fitting) != 1 or not isinstance(public_key, PublicKey):
            raise KeyUnusable("no one accepted algorithm fits")
        name = fitting[0]
        return VerificationKey(id=key_id, algorithm=name, public_key=public_key, verifier=self._verifiers[name])

    def _read_pem(self, document: bytes) -> tuple[dict[str, VerificationKey], int]:
        if document.count(b"-----BEGIN ") != len(blocks := _PEM.findall(document)):
            # A private key or a certificate where public keys belong is a mistake to hear about.
            raise KeySourceError("malformed", "the PEM file holds something else than public keys")
        if len(blocks) > MAX_KEYS:
            raise KeySourceError("malformed", f"more than {MAX_KEYS} keys")
        keys: dict[str, VerificationKey] = {}
        ignored = 0
        for block in blocks:
            try:
                public_key = load_pem_public_key(block)
                keys |= {name: self._bind(name, public_key, None) for name in pem_key_ids(public_key)}
            except (KeyUnusable, UnsupportedAlgorithm, ValueError):
                ignored += 1
        return keys, ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofKey:
    """A key that a client chose itself."""

    key: VerificationKey

    @property
    def thumbprint(self) -> bytes:
        return self.key.thumbprint

    def verifies(self, signature: bytes, signing_input: bytes) -> bool:
        return self.key.verifies(signature, signing_input)


class ProofKeyReader:
    """Reads the keys that DPoP proofs bring along."""

    def __init__(self, *, algorithms: Iterable[str]) -> None:
        known = get_default_algorithms()
        self._verifiers = {name: known[name] for name in algorithms}

    def read(self, jwk: Json, algorithm: str) -> ProofKey:
        """The key, for the algorithm that its proof names. Raises `KeyUnusable`."""
        verifier = self._verifiers.get(algorithm)
        if verifier is None:
            raise KeyUnusable("an algorithm that is not accepted")
        public_key = _public_key(jwk)
        if not isinstance(public_key, PublicKey) or not _fits(algorithm, public_key):
            raise KeyUnusable("the algorithm is not the key's")
        if isinstance(public_key, RSAPublicKey) and public_key.public_numbers().e.bit_length() > _EXPONENT_BITS:
            raise KeyUnusable("an exponent that makes signatures costly to check")
        return ProofKey(
            key=VerificationKey(id="", algorithm=algorithm, public_key=public_key, verifier=verifier),
        )


def _public_key(jwk: Json) -> object:
    if not _PRIVATE_MEMBERS.isdisjoint(jwk):
        raise KeyUnusable("private or symmetric")
    kind = jwk.get("kty")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise KeyUnusable("unknown type")
    try:
        return reader.from_jwk(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise KeyUnusable("not a key") from None


def pem_key_ids(public_key: object) -> tuple[str, ...]:
    """The ids by which a token may name a key that came without one.

    The JWK thumbprint (RFC 7638), and the SHA-256 of the DER form, which is what Kubernetes puts in its tokens.
    """
    return tuple(base64.urlsafe_b64encode(digest).rstrip(b"=").decode() for digest in key_digests(public_key))


def key_digests(public_key: object) -> tuple[bytes, bytes]:
    """SHA-256 of the JWK's required members (RFC 7638), and of the DER form."""
    if isinstance(public_key, RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(public_key, as_dict=True)
    elif isinstance(public_key, EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(public_key, as_dict=True)
    elif isinstance(public_key, Ed25519PublicKey):
        jwk = OKPAlgorithm.to_jwk(public_key, as_dict=True)
    else:
        raise KeyUnusable("unknown type")
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    thumbprint = json.dumps(required, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(thumbprint).digest(), hashlib.sha256(_der(public_key)).digest()


def _fits(algorithm: str, public_key: object) -> bool:
    if isinstance(public_key, RSAPublicKey):
        return algorithm[:2] in {"RS", "PS"} and public_key.key_size in _RSA_BITS
    if isinstance(public_key, EllipticCurvePublicKey):
        return _CURVES.get(algorithm) == public_key.curve.name
    return algorithm == "EdDSA" and isinstance(public_key, Ed25519PublicKey)


def _fingerprint(keys: Iterable[VerificationKey]) -> bytes:
    """Equal for equal keys, in whatever order and with whatever other members they were published."""
    members = sorted([key.id, key.algorithm, _der(key.public_key).hex()] for key in keys)
    return hashlib.sha256(json.dumps(members).encode()).digest()


def _der(public_key: PublicKey) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
