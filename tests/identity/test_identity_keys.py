"""Which keys of a published set are used, and for what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import build_authenticator
from ostiary.identity.keys import KeyReader, KeySourceError, pem_key_ids
from ostiary.identity.settings import FAMILIES
from support.identity import ABSENT, Issuer, SigningKey, bearing, jwks, key_file, settings

ALGORITHMS = sorted(name for family in FAMILIES for name in family)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_identifies_and_refuses(tmp_path: Path, clock: ManualClock, algorithm: str) -> None:
    """A token of each algorithm is accepted, and with another key of the same kind refused."""
    issuer = Issuer(clock=clock, key=SigningKey(algorithm=algorithm))
    stranger = SigningKey(algorithm=algorithm, material="stranger")
    keys = key_file(tmp_path, jwks(issuer.key))
    built = build_authenticator([settings(keys, algorithms=(algorithm,))], clock=clock)
    await built.start()
    assert (await built.identify(bearing(issuer.token()))).subject == "web"
    with pytest.raises(IdentityInvalid, match="signature"):
        await built.identify(bearing(issuer.token(sign=stranger.sign)))
    await built.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_without_alg_is_bound_to_the_one_accepted_algorithm_that_fits(algorithm: str) -> None:
    key = SigningKey(algorithm=algorithm)
    found = KeyReader(algorithms=[algorithm]).read(jwks(key.jwk(alg=ABSENT)))
    assert {name: bound.algorithm for name, bound in found.keys.items()} == {"k1": algorithm}


def test_a_key_without_alg_that_fits_several_is_not_used() -> None:
    with pytest.raises(KeySourceError) as caught:
        KeyReader(algorithms=["RS256", "RS512"]).read(jwks(SigningKey().jwk(alg=ABSENT)))
    assert caught.value.cause == "no-usable-key"


UNUSABLE = [
    pytest.param({"use": "enc"}, id="JWT-064 for encryption"),
    pytest.param({"use": None}, id="use null"),
    pytest.param({"use": ["sig"]}, id="use list"),
    pytest.param({"key_ops": ["encrypt"]}, id="key_ops without verify"),
    pytest.param({"key_ops": []}, id="key_ops empty"),
    pytest.param({"key_ops": "verify"}, id="key_ops a string"),
    pytest.param({"alg": "RS512"}, id="another algorithm"),
    pytest.param({"alg": "HS256"}, id="a symmetric algorithm"),
    pytest.param({"alg": ["RS256"]}, id="alg list"),
    pytest.param({"kid": ABSENT}, id="no key id"),
    pytest.param({"kid": 5}, id="key id a number"),
    pytest.param({"kid": "a b"}, id="key id with a space"),
    pytest.param({"kty": "EC"}, id="another type than its members"),
    pytest.param({"kty": ABSENT}, id="no type"),
    pytest.param({"kty": ["RSA"]}, id="type list"),
    pytest.param({"n": ABSENT}, id="no modulus"),
    pytest.param({"n": 5}, id="modulus a number"),
    pytest.param({"n": "!"}, id="modulus not base64url"),
    pytest.param({"e": "Ag"}, id="even exponent"),
    pytest.param({"d": "AQAB"}, id="a private member"),
    pytest.param({"k": "AQAB"}, id="a symmetric member"),
    pytest.param({"d": None}, id="a private member, null"),
]


@pytest.mark.parametrize("overrides", UNUSABLE)
def test_a_key_that_cannot_be_trusted_is_left_out_and_the_others_stay(overrides: dict[str, Any]) -> None:
    good = SigningKey(id="good", material="good")
    found = KeyReader(algorithms=["RS256"]).read(jwks(SigningKey().jwk(**overrides), good))
    assert (sorted(found.keys), found.ignored) == (["good"], 1)


def test_small_and_symmetric_and_foreign_keys_are_left_out() -> None:
    keys: list[Any] = [
        SigningKey(id="weak", material="1024").jwk(),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"},
        SigningKey(id="ec", algorithm="ES256").jwk(),
        SigningKey(id="wrong-curve", algorithm="ES384").jwk(alg="ES256"),
        "text",
        None,
    ]
    good = SigningKey(id="good", material="good")
    found = KeyReader(algorithms=["RS256"]).read(jwks(*keys, good))
    assert (sorted(found.keys), found.ignored) == (["good"], 6)


def test_a_curve_is_bound_to_its_algorithm() -> None:
    with pytest.raises(KeySourceError):
        KeyReader(algorithms=["ES256"]).read(jwks(SigningKey(algorithm="ES384").jwk(alg="ES256")))


def test_two_keys_with_one_id_are_both_left_out() -> None:
    keys = [SigningKey(), SigningKey(material="other"), SigningKey(id="k2", material="second")]
    found = KeyReader(algorithms=["RS256"]).read(jwks(*keys))
    assert (sorted(found.keys), found.ignored) == (["k2"], 2)


def test_an_encryption_key_does_not_shadow_the_signing_key_of_its_id() -> None:
    found = KeyReader(algorithms=["RS256"]).read(jwks(SigningKey(), SigningKey(material="enc").jwk(use="enc")))
    assert found.keys["k1"].public_key == SigningKey().private.public_key()


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        (b"", "malformed"),
        (b"<html>", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "malformed"),
        (b'{"keys": {}}', "malformed"),
        (b'{"keys": null}', "malformed"),
        (b'{"keys": [], "keys": []}', "malformed"),
        (b'{"keys": [%s]}' % b",".join([b"{}"] * 65), "malformed"),
        (b'{"keys": []}', "no-usable-key"),
        (b'{"keys": [{}]}', "no-usable-key"),
        (b"-----BEGIN NONSENSE-----", "malformed"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no-usable-key"),
    ],
)
def test_a_document_without_a_usable_key_is_an_error(document: bytes, cause: str) -> None:
    with pytest.raises(KeySourceError) as caught:
        KeyReader(algorithms=["RS256"]).read(document)
    assert caught.value.cause == cause


def test_the_fingerprint_is_of_the_keys_and_not_of_their_spelling() -> None:
    reader = KeyReader(algorithms=["RS256"])
    one, two = SigningKey(), SigningKey(id="k2", material="second")
    first = reader.read(jwks(one, two))
    second = reader.read(json.dumps({"x": 1, "keys": [two.jwk(), one.jwk(x5t="abc")]}, indent=2).encode())
    renamed = reader.read(jwks(one, SigningKey(id="k3", material="second")))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != renamed.fingerprint


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("which", [0, 1])
async def test_a_pem_key_is_named_by_its_thumbprint(
    tmp_path: Path, clock: ManualClock, algorithm: str, which: int
) -> None:
    """By RFC 7638, or as Kubernetes names its service account keys."""
    key = SigningKey(algorithm=algorithm)
    issuer = Issuer(clock=clock, key=key)
    keys = key_file(tmp_path, SigningKey(algorithm="ES384").pem() + key.pem())
    built = build_authenticator([settings(keys, algorithms=(algorithm,))], clock=clock)
    await built.start()
    name = pem_key_ids(key.private.public_key())[which]
    assert (await built.identify(bearing(issuer.token(header={"kid": name})))).subject == "web"
    await built.close()


def test_a_pem_key_has_two_names_and_counts_once() -> None:
    found = KeyReader(algorithms=["ES256"]).read(SigningKey(algorithm="ES256").pem())
    assert (len(found.keys), found.count) == (2, 1)


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 7638 section 3.1."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs"
        "tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn"
        "1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    jwk = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    key = KeyReader(algorithms=["RS256"]).read(jwks(jwk)).keys["2011-04-29"]
    assert pem_key_ids(key.public_key)[0] == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_a_private_key_in_the_key_file_is_refused() -> None:
    private = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    with pytest.raises(KeySourceError, match="something else than public keys"):
        KeyReader(algorithms=["RS256"]).read(SigningKey().pem() + private)
