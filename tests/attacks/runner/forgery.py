"""Tokens that are right, or wrong in the way that a case says.

A recipe is the `token` of a case: `{"header": {…}, "claims": {…}, "sign": "hmac:public-pem", "mutate": "append:=="}`.
Its members are taken one by one; a word that is not known here is an error of the case.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from attacks.runner.amounts import repeated
from attacks.runner.corpus import Spec, Unintelligible

ISSUER: Final = "https://idp.test"
AUDIENCE: Final = "proxy"
KEY_ID: Final = "k1"

_DIGESTS: Final = {"1": hashes.SHA1(), "256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_NOW: Final = re.compile(r"now(?:\s*([+-])\s*(\d+))?")
_NESTED: Final = re.compile(r"nested(?:-(arrays?|objects?))?:(\d+)")
_ASYMMETRIC: Final = re.compile(r"(rsa-pss|rsa|pss|ps|rs|ecdsa|ec|es|eddsa|ed25519)(?:-?(?:sha)?-?(1|256|384|512))?")
_HMAC: Final = re.compile(r"(?:hmac|hs)(?:-?(?:sha)?-?(256|384|512))?")
_KEYS: Final = {
    "": "issuer", "valid": "issuer", "valid-key": "issuer", "k1": "issuer", "issuer": "issuer", "issuer-key": "issuer",
    "original": "issuer", "attacker": "attacker", "attacker-key": "attacker", "evil": "attacker", "other": "other",
    "other-key": "other", "another-key": "other", "enc": "enc", "enc-key": "enc", "old": "old", "old-key": "old",
    "retired-key": "old", "rotated-key": "old", "removed-key": "old", "weak": "1024", "weak-key": "1024",
    "small-key": "1024", "short-key": "1024", "1024": "1024", "rsa-1024": "1024", "new-key": "new", "k2": "new",
}  # fmt: skip
"""What cases call a key, and which of ours that is."""


_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


_loaded: Final[dict[str, rsa.RSAPrivateKey]] = {}


def load_rsa_key(name: str, pem: bytes) -> None:
    """A key that somebody else made. Raises ValueError."""
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("it is of another kind")  # noqa: TRY004 - of the file's content
    _loaded[name] = key


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One key per name for the whole run; a name that is a number is its size in bits."""
    if name in _loaded:
        return _loaded[name]
    return rsa.generate_private_key(public_exponent=65537, key_size=int(name) if name.isdigit() else 2048)


@functools.cache
def _ec_key(name: str, bits: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({"256": ec.SECP256R1, "384": ec.SECP384R1, "512": ec.SECP521R1}[bits]())


@functools.cache
def _ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(name: str = "issuer", **members: Any) -> dict[str, Any]:
    """The public half of a key as issuers publish it. A member that is None is left out."""
    numbers = rsa_key(name).public_key().public_numbers()
    jwk = {
        "kty": "RSA",
        "kid": KEY_ID,
        "alg": "RS256",
        "use": "sig",
        "n": b64(_bytes(numbers.n)),
        "e": b64(b"\x01\x00\x01"),
    }
    return {key: value for key, value in {**jwk, **members}.items() if value is not None}


def private_jwk(name: str = "issuer") -> dict[str, Any]:
    """What no issuer should publish: the private half, too."""
    numbers = rsa_key(name).private_numbers()
    parts = {"d": numbers.d, "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
    return {**public_jwk(name), **{part: b64(_bytes(number)) for part, number in parts.items()}}


def curve_jwk(name: str = "issuer") -> dict[str, Any]:
    """A key of another family: for ES256."""
    numbers = _ec_key(name, "256").public_key().public_numbers()
    point = {member: b64(number.to_bytes(32, "big")) for member, number in (("x", numbers.x), ("y", numbers.y))}
    return {"kty": "EC", "crv": "P-256", "kid": KEY_ID, "alg": "ES256", "use": "sig", **point}


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    return {"keys": list(keys) or [public_jwk()]}


def private_pem(name: str) -> bytes:
    return rsa_key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(name: str) -> bytes:
    return rsa_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@functools.cache
def _certificate() -> str:
    """One that the attacker made for itself, as `x5c` has it."""
    key = rsa_key("attacker")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attacker")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


@dataclass
class Forge:
    """Makes the tokens of one issuer. Whatever it made is in `made`, and must be found nowhere.

    `key` is what the private key is called. `given` is a token that somebody else made, for proxies whose issuer's key
    is not known here: then it is the answer to everything but a recipe that is a token itself.
    """

    issuer: str = ISSUER
    audience: str = AUDIENCE
    key: str = "issuer"
    key_id: str = KEY_ID
    made: list[str] = field(default_factory=list, repr=False)
    given: str | None = field(default=None, repr=False)
    ahead: float = 0.0
    """Seconds by which the clock of the proxy runs ahead of the runner's."""

    def header(self) -> dict[str, Any]:
        return {"alg": "RS256", "kid": self.key_id, "typ": "JWT"}

    def claims(self, **claims: Any) -> dict[str, Any]:
        now = int(time.time() + self.ahead)
        # Unlike any other, so that no decision is kept for one case and used for the next.
        base = {"iss": self.issuer, "aud": self.audience, "sub": "web", "iat": now, "exp": now + 300}
        return {**base, "jti": os.urandom(9).hex(), "nonce": os.urandom(9).hex(), **claims}

    def token(self, subject: str = "web", **claims: Any) -> str:
        """A good one."""
        return self.forged({"claims": {"sub": subject, **claims}})

    def forged(self, recipe: Mapping[str, Any] | None) -> str:
        """The token that a recipe describes. Raises `Unintelligible`."""
        if self.given is not None and not (recipe and "raw" in recipe):
            return self.given
        token = _Recipe(self, dict(recipe or {})).token()
        self.made.append(token)
        return token


class _Recipe:
    def __init__(self, forge: Forge, recipe: dict[str, Any]) -> None:
        self._forge = forge
        spec = Spec(recipe)
        self._raw = spec.take("raw", "literal")
        self._header = spec.take("header", default={})
        self._claims = spec.take("claims", "payload", default={})
        self._header_raw = spec.take("header_raw")
        self._claims_raw = spec.take("claims_raw", "payload_raw")
        self._header_more = spec.take("header_raw_append", "header_append", default="")
        self._claims_more = spec.take("claims_raw_append", "claims_append", default="")
        self._sign = spec.take("sign", "signature", default="valid")
        self._mutations = spec.take("mutate", "mutation", default=[])
        if (bound := spec.take("cnf")) is not None:
            self._claims = {**self._claims, "cnf": bound}
        spec.done()

    def token(self) -> str:
        if self._raw is not None:
            return self._mutated(repeated(self._raw))
        plain_header, plain_claims = self._forge.header(), self._forge.claims()
        header = self._document(self._header_raw, self._header_more, plain_header, self._header, _header_value)
        claims = self._document(self._claims_raw, self._claims_more, plain_claims, self._claims, _claim_value)
        signing_input = f"{b64(header)}.{b64(claims)}".encode()
        original = f"{b64(json.dumps(plain_header).encode())}.{b64(json.dumps(plain_claims).encode())}".encode()
        algorithm = {**plain_header, **self._header}.get("alg")
        signature = self._signature(self._sign, signing_input, original, str(algorithm))
        return self._mutated(f"{signing_input.decode()}.{b64(signature)}")

    def _document(
        self,
        raw: str | None,
        more: str,
        base: dict[str, Any],
        changes: Mapping[str, Any],
        value: Callable[[str, Any], str | None],
    ) -> bytes:
        """The JSON of a header or of claims. Written by hand, since cases want what no JSON writer makes."""
        if raw is not None:
            return _raw_document(raw)
        members = {name: json.dumps(member) for name, member in base.items()}
        for name, change in changes.items():
            written = value(name, change)
            if written is None:
                members.pop(name, None)
            else:
                members[name] = written
        text = ",".join(f"{json.dumps(name)}:{member}" for name, member in members.items())
        return f"{{{text}{more}}}".encode()

    def _signature(self, how: str, signing_input: bytes, original: bytes, algorithm: str) -> bytes:
        word, _, key = how.partition(":")
        word = word.strip().lower()
        if word in ("empty", "none", "stripped", "") and not key:
            return b""
        if word == "random":
            return os.urandom(256)
        if word in ("zero", "zeros", "zeroes", "null", "psychic") or key.replace(" ", "") in ("r=0,s=0", "0,0"):
            return bytes(64 if algorithm.startswith("ES") else 256)
        if word in ("original", "other", "other-token", "swapped", "reused"):
            return self._asymmetric("rs", "256", self._forge.key, original)
        if word == "valid":
            return self._asymmetric("rs", "256", self._forge.key, signing_input)
        if word in ("truncated", "half"):
            return self._asymmetric("rs", "256", self._forge.key, signing_input)[:128]
        if symmetric := _HMAC.fullmatch(word):
            bits = symmetric[1] or (algorithm[2:] if algorithm[2:] in _DIGESTS else "256")
            signer = hmac.HMAC(_hmac_key(key, self._forge.key) or b"\0", _DIGESTS[bits])
            signer.update(signing_input)
            return signer.finalize()
        if asymmetric := _ASYMMETRIC.fullmatch(word):
            if key.strip().lower() not in _KEYS:
                raise Unintelligible(f"{key!r} is not a key that this runner has")
            name = _KEYS[key.strip().lower()]
            name = self._forge.key if name == "issuer" else name
            return self._asymmetric(asymmetric[1], asymmetric[2] or "256", name, signing_input)
        raise Unintelligible(f"{how!r} is not a way to sign that this runner has")

    def _asymmetric(self, kind: str, bits: str, name: str, message: bytes) -> bytes:
        digest = _DIGESTS[bits]
        if kind in ("rsa", "rs"):
            return rsa_key(name).sign(message, padding.PKCS1v15(), digest)
        if kind in ("rsa-pss", "pss", "ps"):
            pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.DIGEST_LENGTH)
            return rsa_key(name).sign(message, pss, digest)
        if kind in ("ecdsa", "ec", "es"):
            key = _ec_key(name, bits)
            size = (key.key_size + 7) // 8
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        return _ed_key(name).sign(message)

    def _mutated(self, token: str) -> str:
        mutations = [self._mutations] if isinstance(self._mutations, str) else self._mutations
        for mutation in mutations:
            token = _mutated(token, mutation)
        return token


def _raw_document(raw: str) -> bytes:
    if nested := _NESTED.fullmatch(raw):
        depth = int(nested[2])
        if nested[1] and nested[1].startswith("array"):
            return b"[" * depth + b"]" * depth
        return b'{"a":' * depth + b"1" + b"}" * depth
    return repeated(raw).encode()


def _header_value(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if value == "random":
        return json.dumps(os.urandom(12).hex())
    return _written(value)


def _claim_value(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and (instant := _NOW.fullmatch(value)):
        offset = int(instant[2] or 0)
        return str(int(time.time()) + (-offset if instant[1] == "-" else offset))
    return _written(value)


def _written(value: Any) -> str:
    """A member's JSON: `json:…` is taken as it is, `a*500` is that many, `<…>` is what the attacker has of the kind."""
    if isinstance(value, str) and value.startswith("json:"):
        return repeated(value.removeprefix("json:"))
    return json.dumps(_own(value))


def _own(value: Any) -> Any:
    if isinstance(value, list):
        return [_own(item) for item in value]
    if isinstance(value, dict):
        return {name: _own(item) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"<[^<>]*>", value):
        words = value.lower()
        if "cert" in words or "x5c" in words:
            return _certificate()
        if "thumbprint" in words or "x5t" in words:
            return b64(os.urandom(32))
        if "jwks" in words:
            return jwks(public_jwk("attacker"))
        if "jwk" in words or "key" in words:
            return public_jwk("attacker")
        raise Unintelligible(f"{value!r} is nothing that this runner has")
    return repeated(value)


def _hmac_key(told: str, name: str) -> bytes:
    """What a verifier that is confused takes for the secret. A word that is not one of these is the secret itself."""
    public = rsa_key(name).public_key()
    word = told.lower()
    if word in ("", "empty"):
        return b""
    if word in ("der", "public-der"):
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if word in ("jwk", "public-jwk"):
        return json.dumps(public_jwk(name)).encode()
    if word in ("jwks", "public-jwks"):
        return json.dumps(jwks(public_jwk(name))).encode()
    if word in ("n", "modulus"):
        return _bytes(public.public_numbers().n)
    if "pem" in word or "pkcs1" in word:
        form = PublicFormat.PKCS1 if "pkcs1" in word else PublicFormat.SubjectPublicKeyInfo
        pem = public.public_bytes(Encoding.PEM, form)
        if "crlf" in word:
            return pem.replace(b"\n", b"\r\n")
        if any(end in word for end in ("strip", "trim", "no-newline")):
            return pem.strip()
        if "pem" in word.split("-") or word == "pkcs1":
            return pem
    return told.encode()


def _mutated(token: str, mutation: str) -> str:
    word, _, argument = mutation.partition(":")
    word = word.strip().lower()
    header, _, rest = token.partition(".")
    if word == "append":
        return token + argument
    if word == "prepend":
        return argument + token
    if word == "insert":
        return f"{header}{argument}.{rest}"
    if word in ("pad", "padding"):
        return ".".join(part + "=" * (-len(part) % 4) for part in token.split("."))
    if word in ("space", "whitespace", "newline", "crlf", "tab"):
        return f"{header}{ {'newline': chr(10), 'crlf': chr(13) + chr(10), 'tab': chr(9)}.get(word, ' ') }.{rest}"
    if word in ("trailing-bits", "non-canonical", "non-canonical-base64", "unused-bits"):
        # 2048 bits in 342 characters: four of the last one's are nobody's.
        return token[:-1] + _ALPHABET[_ALPHABET.index(token[-1]) ^ 1]
    if word in ("swap-payload", "swap-claims", "replace-payload"):
        payload, _, signature = rest.partition(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return f"{header}.{b64(json.dumps({**claims, 'sub': argument or 'admin'}).encode())}.{signature}"
    if part := re.fullmatch(r"flip[-: ]+(header|payload|claims|signature)", mutation.strip().lower()):
        index = {"header": len(header) // 2, "signature": -10}.get(part[1], len(header) + 10)
        return token[:index] + ("A" if token[index] != "A" else "B") + (token[index:][1:])
    if word.startswith("flip"):
        last = token[-1] if word.endswith(("last", "char")) or argument.startswith("last") else None
        index = len(token) - 1 if last is not None else len(token) - 10
        other = "A" if token[index] != "A" else "B"
        return token[:index] + other + token[index + 1 :]
    if word in ("truncate", "cut", "drop"):
        return token[: -int(argument or 1)]
    if word in ("upper", "uppercase"):
        return token.upper()
    if word in ("lower", "lowercase"):
        return token.lower()
    if word in ("standard-base64", "std-base64", "base64"):
        return token.replace("-", "+").replace("_", "/")
    if word in ("percent-encode", "url-encode", "urlencode"):
        return token.replace(".", "%2e")
    if word == "replace":
        old, arrow, new = argument.partition("->")
        if arrow:
            return token.replace(old, new)
    raise Unintelligible(f"{mutation!r} is not a change that this runner can make")
