"""Public keys as JWKs (RFC 7517), and the document at `/.well-known/jwks.json`.

Two algorithms exist: EdDSA with Ed25519 (RFC 8037) and ES256 (RFC 7518). A key's id is its thumbprint (RFC 7638), so
that replicas that share a mounted key agree on its name without being told.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from jwt.exceptions import InvalidKeyError

from ostiary.errors import ConfigurationError
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

SigningAlgorithm: TypeAlias = Literal["EdDSA", "ES256"]
"""The `alg` of a credential. Asymmetric only: a service that can verify must not be able to sign."""

_MAX_FILE: Final = 65_536
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# RFC 7518 section 6 and RFC 8037 section 2: the members that hold private or symmetric material.
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})


def base64url(value: bytes) -> bytes:
    """Unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One verification key. `members` are those of its JWK that say what it is: `kty`, `crv`, `x` and perhaps `y`."""

    id: str
    algorithm: SigningAlgorithm
    members: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def of(cls, key: object, key_id: str | None = None) -> PublicKey:
        """The record of a `cryptography` public key; `ValueError` if it is of no type that is used here.

        Without `key_id`, the id is the RFC 7638 thumbprint.
        """
        algorithm: SigningAlgorithm
        if isinstance(key, Ed25519PublicKey):
            algorithm = "EdDSA"
            x = base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
            members = [("crv", "Ed25519"), ("kty", "OKP"), ("x", x)]
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            algorithm = "ES256"
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            x, y = base64url(point[1:33]).decode(), base64url(point[33:65]).decode()
            members = [("crv", "P-256"), ("kty", "EC"), ("x", x), ("y", y)]
        else:
            raise ValueError("neither an Ed25519 nor a P-256 key")  # noqa: TRY004 - a key of a wrong kind is a value
        # RFC 7638 section 3: the required members alone, in the order of their names, without white space.
        thumbprint = base64url(hashlib.sha256(orjson.dumps(dict(members))).digest()).decode()
        return cls(id=key_id or thumbprint, algorithm=algorithm, members=tuple(members))

    def document(self) -> dict[str, Json]:
        """The JWK as it is published."""
        return {**dict(self.members), "kid": self.id, "alg": self.algorithm, "use": "sig"}


def public_jwks(keys: Iterable[PublicKey], extra: Iterable[Path] = ()) -> bytes:
    """The JWKS document (RFC 7517 section 5) of these keys and of those in `extra`, in this order, each once.

    `extra` are files for rotation: the key that signs next, or the one that signed before. Each is a PEM public key
    or a JWKS. Raises `ConfigurationError` naming the file if it is neither, if it holds private or symmetric
    material (which would be published), or if it gives another key the id of one that is there.
    """
    published: dict[str, PublicKey] = {}
    mistakes: list[str] = []
    for key in keys:
        published[key.id] = key
    for path in extra:
        try:
            found = _read(path)
        except ConfigurationError as error:
            mistakes.extend(error.mistakes)
            continue
        mistakes.extend(
            f"{path}: another key has the id {key.id!r}"
            for key in found
            if published.setdefault(key.id, key).members != key.members
        )
    if mistakes:
        raise ConfigurationError(mistakes)
    return orjson.dumps({"keys": [key.document() for key in published.values()]})


def _read(path: Path) -> tuple[PublicKey, ...]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(text) > _MAX_FILE:
        raise ConfigurationError([f"{path}: larger than {_MAX_FILE} bytes"])
    if b"PRIVATE KEY" in text:
        raise ConfigurationError([f"{path}: holds a private key, and everything in it would be published"])
    if text.lstrip().startswith(b"{"):
        return _jwks(path, text)
    try:
        return (PublicKey.of(load_pem_public_key(text)),)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError([f"{path}: neither a PEM public key (Ed25519 or P-256) nor a JWKS"]) from error


def _jwks(path: Path, text: bytes) -> tuple[PublicKey, ...]:
    try:
        entries = read_object(text)["keys"]
    except (NotStrict, KeyError) as error:
        raise ConfigurationError([f'{path}: not a JWKS: {{"keys": [...]}}']) from error
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError([f"{path}: the JWKS has no keys"])
    mistakes: list[str] = []
    keys: list[PublicKey] = []
    for position, entry in enumerate(entries):
        try:
            keys.append(_jwk(entry))
        except ValueError as error:
            mistakes.append(f"{path}: keys[{position}]: {error}")
    if mistakes:
        raise ConfigurationError(mistakes)
    return tuple(keys)


def _jwk(entry: Json) -> PublicKey:
    """One JWK; `ValueError` says what is wrong, without the value."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")  # noqa: TRY004 - it is the file that is wrong
    if not _SECRET_MEMBERS.isdisjoint(entry):
        raise ValueError("holds private material, and everything in it would be published")
    key_id = entry.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
        raise ValueError("its kid is not one: 1 to 128 letters, digits, '.', '_' or '-'")
    try:
        if entry.get("kty") == "OKP":
            key = PublicKey.of(OKPAlgorithm.from_jwk(entry), key_id)
        else:
            key = PublicKey.of(ECAlgorithm.from_jwk(entry), key_id)
    except (InvalidKeyError, ValueError, TypeError) as error:
        raise ValueError("neither an Ed25519 nor a P-256 key") from error
    if entry.get("alg", key.algorithm) != key.algorithm or entry.get("use", "sig") != "sig":
        raise ValueError(f"its alg and use do not say {key.algorithm} and sig")
    return key
