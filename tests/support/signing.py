"""Somebody who signs bundles."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary.opa.archive import Algorithm, Verification
from ostiary.policy.archive import pack, sign
from ostiary.policy.rego import Opa
from support.opa import REVISION, write_bundle

KEYS: Mapping[str, Callable[[], Any]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@dataclasses.dataclass
class Signer:
    """Somebody with a key, who publishes bundles signed with it as `release`, for `ostiary`."""

    place: Path
    opa: Path
    algorithm: Algorithm = "ES256"

    def __post_init__(self) -> None:
        self.place.mkdir()
        key = KEYS[self.algorithm]()
        self.private, self.public = self.place / "key.pem", self.place / "key.pub.pem"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    @property
    def verification(self) -> Verification:
        return Verification(key=self.public, key_id="release", scope="ostiary", algorithm=self.algorithm)

    def publish(
        self, out: Path, *, revision: str = REVISION, key_id: str = "release", scope: str = "ostiary", **of_bundle: Any
    ) -> Path:
        directory = self.place / "bundle"
        if directory.exists():
            shutil.rmtree(directory)
        archive = self.place / "new.tar.gz"
        pack(write_bundle(directory, revision=revision, **of_bundle), archive)
        sign(archive, key=self.private, key_id=key_id, scope=scope, algorithm=self.algorithm, opa=Opa(self.opa))
        archive.replace(out)
        return out
