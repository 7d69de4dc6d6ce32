"""The signing key: made once by the supervisor, or mounted so that replicas share it.

The file is an unencrypted PKCS #8 PEM that nobody else can read (`keyfile`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ostiary.credential.jwk import PublicKey, SigningAlgorithm
from ostiary.disk import sync_directory
from ostiary.errors import ConfigurationError
from ostiary.keyfile import read_key_file

_MAX_FILE: Final = 65_536
_ES256: Final = ECDSA(SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key that signs credentials. Neither `str()` nor a log shows it."""

    public: PublicKey
    sign: Callable[[bytes], bytes] = field(repr=False)
    """The JWS signature of a message: 64 bytes for either algorithm (RFC 8037 section 3.1, RFC 7518 section 3.4)."""
    _private: Ed25519PrivateKey | EllipticCurvePrivateKey = field(repr=False)

    @property
    def algorithm(self) -> SigningAlgorithm:
        return self.public.algorithm

    @property
    def id(self) -> str:
        """The `kid`: the RFC 7638 thumbprint of the public key."""
        return self.public.id

    @classmethod
    def generate(cls, algorithm: SigningAlgorithm) -> SigningKey:
        """A new key, from the operating system's randomness."""
        match algorithm:
            case "EdDSA":
                return cls.of(Ed25519PrivateKey.generate())
            case "ES256":
                return cls.of(generate_private_key(SECP256R1()))
            case _:
                raise ValueError(f"credentials are signed with EdDSA or ES256, not {algorithm!r}")

    @classmethod
    def of(cls, private: object) -> SigningKey:
        """The key that a `cryptography` private key is; `ValueError` if it is of no type that is used here."""
        if isinstance(private, Ed25519PrivateKey):
            return cls(public=PublicKey.of(private.public_key()), sign=private.sign, _private=private)
        if isinstance(private, EllipticCurvePrivateKey):
            return cls(public=PublicKey.of(private.public_key()), sign=_es256(private), _private=private)
        raise ValueError("neither an Ed25519 nor a P-256 key")

    def pem(self) -> bytes:
        """The private key as it is written to its file. A secret."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def derive(self, purpose: bytes) -> bytes:
        """A symmetric key of 32 bytes for another purpose (HKDF, RFC 5869): the same wherever this key is. A secret."""
        private = self._private
        if isinstance(private, Ed25519PrivateKey):
            secret = private.private_bytes_raw()
        else:
            secret = private.private_numbers().private_value.to_bytes(32, "big")
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not pickled: hand over the path of its file")


def _es256(private: EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(private.sign(message, _ES256))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def load_signing_key(
    path: Path, *, algorithm: SigningAlgorithm | None = None, group_readable: bool = False
) -> SigningKey:
    """Read a signing key, mounted or made before.

    `algorithm`, if given, is the one it must have. `group_readable` is as in `keyfile.examine`.

    Raises `ConfigurationError` that names the file and never what is in it.
    """
    try:
        # A longer file is not a key, and does not parse as one.
        text = read_key_file(path, what="the signing key", limit=_MAX_FILE, group_readable=group_readable)
    except OSError as error:
        raise ConfigurationError([f"{path}: the signing key cannot be read: {error.strerror}"]) from error
    return _parse(path, text, algorithm)


def _parse(path: Path, text: bytes, algorithm: SigningAlgorithm | None) -> SigningKey:
    try:
        key = SigningKey.of(load_pem_private_key(text, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: what a parser says about a secret may quote it.
        raise ConfigurationError(
            [f"{path}: not a signing key: an unencrypted PKCS #8 PEM with an Ed25519 or P-256 key is expected"]
        ) from None
    if algorithm is not None and key.algorithm != algorithm:
        raise ConfigurationError([f"{path}: the signing key is for {key.algorithm}, and {algorithm} is configured"])
    return key


def ensure_signing_key(
    path: Path, algorithm: SigningAlgorithm = "EdDSA", *, group_readable: bool = False
) -> SigningKey:
    """The key in this file, made if there is none. Several processes that start together end up with one key.

    A directory that is made for it has mode 0700; one that exists must not be writable by others. Raises
    `ConfigurationError` as `load_signing_key` does, and if the file cannot be made.
    """
    try:
        if not os.path.lexists(path):
            _create(path, SigningKey.generate(algorithm))
    except OSError as error:
        raise ConfigurationError([f"{path}: the signing key cannot be made: {error.strerror}"]) from error
    return load_signing_key(path, algorithm=algorithm, group_readable=group_readable)


def _create(path: Path, key: SigningKey) -> None:
    directory = path.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(directory.stat().st_mode) & 0o022:
        raise ConfigurationError([f"{directory}: others may write to the directory of the signing key: chmod 700"])
    # Written whole under another name and then linked: the link fails if the name is taken, as O_EXCL does, and no
    # process that starts at the same time, nor the next one after a crash, ever finds half a key.
    draft = directory / f".{path.name}.{token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(key.pem())
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was first: its key is the one
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_directory(directory)
