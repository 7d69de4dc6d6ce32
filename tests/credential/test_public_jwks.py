"""The document that services fetch: our keys, those of a rotation, and nothing secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt import PyJWKSet

from ostiary.credential import PublicKey, SigningKey, public_jwks
from ostiary.errors import ConfigurationError


def public_pem(key: SigningKey) -> bytes:
    return load_private(key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private(key: SigningKey) -> Any:
    return load_pem_private_key(key.pem(), password=None)


def test_the_key_id_is_the_thumbprint_of_rfc_8037_appendix_a3() -> None:
    published = PublicKey.of(
        ed25519.Ed25519PublicKey.from_public_bytes(
            bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        )
    )
    assert published.document() == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "alg": "EdDSA",
        "use": "sig",
    }


def test_the_document_holds_our_keys_then_the_extra_ones_each_once(tmp_path: Path) -> None:
    signing, following, former = (SigningKey.generate(name) for name in ("EdDSA", "ES256", "EdDSA"))
    pem_file = tmp_path / "next.pem"
    pem_file.write_bytes(public_pem(following))
    jwks_file = tmp_path / "former.json"
    jwks_file.write_bytes(public_jwks([former.public, signing.public]))

    document = json.loads(public_jwks([signing.public], [pem_file, jwks_file]))
    assert document == {"keys": [key.public.document() for key in (signing, following, former)]}
    assert {key.key_id for key in PyJWKSet.from_dict(document).keys} == {signing.id, following.id, former.id}
    assert all(member not in entry for entry in document["keys"] for member in ("d", "k", "p"))


def test_a_key_keeps_the_id_that_its_jwks_gives_it(tmp_path: Path) -> None:
    key = SigningKey.generate("ES256")
    path = tmp_path / "extra.json"
    path.write_text(json.dumps({"keys": [{**key.public.document(), "kid": "partner.1"}]}))
    assert json.loads(public_jwks([], [path])) == {"keys": [{**key.public.document(), "kid": "partner.1"}]}
    unnamed = {name: value for name, value in key.public.document().items() if name not in ("kid", "alg", "use")}
    path.write_text(json.dumps({"keys": [unnamed]}))
    assert json.loads(public_jwks([], [path])) == {"keys": [key.public.document()]}


def test_a_pem_key_that_is_read_back_is_the_one_that_was_written(tmp_path: Path) -> None:
    key = SigningKey.generate("EdDSA")
    assert PublicKey.of(load_pem_public_key(public_pem(key))) == key.public


PUBLIC = SigningKey.generate("ES256").public.document()
RSA_PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)
P384_PEM = (
    ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)
PRIVATE = "holds private material, and everything in it would be published"


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (SigningKey.generate("EdDSA").pem(), ": holds a private key, and everything in it would be published"),
        (b"garbage", ": neither a PEM public key (Ed25519 or P-256) nor a JWKS"),
        (RSA_PEM, ": neither a PEM public key (Ed25519 or P-256) nor a JWKS"),
        (P384_PEM, ": neither a PEM public key (Ed25519 or P-256) nor a JWKS"),
        (b"x" * 70_000, ": larger than 65536 bytes"),
        (b"{", ': not a JWKS: {"keys": [...]}'),
        (b'{"key": []}', ': not a JWKS: {"keys": [...]}'),
        (b'{"keys": [], "keys": []}', ': not a JWKS: {"keys": [...]}'),
        (b'{"keys": []}', ": the JWKS has no keys"),
        (b'{"keys": {}}', ": the JWKS has no keys"),
        ({"keys": [[]]}, ": keys[0]: not an object"),
        ({"keys": [PUBLIC, {**PUBLIC, "d": "AAAA"}]}, f": keys[1]: {PRIVATE}"),
        ({"keys": [{"kty": "oct", "k": "AAAA"}]}, f": keys[0]: {PRIVATE}"),
        (
            {"keys": [{**PUBLIC, "kid": "a b"}]},
            ": keys[0]: its kid is not one: 1 to 128 letters, digits, '.', '_' or '-'",
        ),
        ({"keys": [{**PUBLIC, "kid": 7}]}, ": keys[0]: its kid is not one: 1 to 128 letters, digits, '.', '_' or '-'"),
        ({"keys": [{**PUBLIC, "alg": "EdDSA"}]}, ": keys[0]: its alg and use do not say ES256 and sig"),
        ({"keys": [{**PUBLIC, "use": "enc"}]}, ": keys[0]: its alg and use do not say ES256 and sig"),
        ({"keys": [{**PUBLIC, "x": "AA"}]}, ": keys[0]: neither an Ed25519 nor a P-256 key"),
        ({"keys": [{**PUBLIC, "x": 1}]}, ": keys[0]: neither an Ed25519 nor a P-256 key"),
        ({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}, ": keys[0]: neither an Ed25519 nor a P-256 key"),
    ],
)
def test_an_extra_file_that_cannot_be_published_is_refused(tmp_path: Path, content: Any, mistake: str) -> None:
    path = tmp_path / "extra"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ConfigurationError) as error:
        public_jwks([], [path])
    assert error.value.mistakes == (f"{path}{mistake}",)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"garbage")
    with pytest.raises(ConfigurationError) as error:
        public_jwks([], [tmp_path / "none", bad])
    assert error.value.mistakes == (
        f"{tmp_path}/none: cannot be read: No such file or directory",
        f"{bad}: neither a PEM public key (Ed25519 or P-256) nor a JWKS",
    )


def test_two_keys_with_one_id_are_refused(tmp_path: Path) -> None:
    """A verifier could only pick one of them."""
    key, other = SigningKey.generate("EdDSA"), SigningKey.generate("EdDSA")
    path = tmp_path / "extra.json"
    path.write_text(json.dumps({"keys": [{**other.public.document(), "kid": key.id}]}))
    with pytest.raises(ConfigurationError) as error:
        public_jwks([key.public], [path])
    assert error.value.mistakes == (f"{path}: another key has the id {key.id!r}",)
