"""The token by itself: its form, signature, issuer, audience and time. `binding` compares it with the request.

Everything that is there must be known: an unknown header member may change what the signature covers (RFC 7515
section 4.1.11), and an unknown claim or detail (RFC 9396 section 5) may be a limit that this version would not enforce.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import Any, Final

from ostiary.strictjson import NotStrict, read_object
from ostiary.verify.keys import VerificationKey
from ostiary.verify.refusals import CredentialInvalid, CredentialMissing

MAX_TOKEN: Final = 16_384
"""Bytes."""
MAX_LIFETIME: Final = 3600
"""Seconds. The proxy's credentials live for a minute or so: one that lives for hours is not one of them."""

_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_MAX_DEPTH: Final = 8
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADER: Final = frozenset({"typ", "alg", "kid"})
_CLAIMS: Final = frozenset(
    {"iss", "aud", "sub", "sub_id", "client_id", "authorization_details", "jti", "iat", "exp"},
)
_DETAIL: Final = frozenset({"type", "service", "endpoint", "method", "path"})
_PER_CALL: Final = frozenset({"single_use", "target_sha256"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a credential of the proxy says: who (`subject`, of `subject_issuer`), as which `caller`, may use what.

    `issuer` is the proxy, `service` this service. `endpoint` is a name of the permission map, with its `method` and
    `path` template; `beside` are templates that narrow which paths that template matches. `issued_at` and
    `expires_at` are Unix seconds. `target_sha256` is set on per-call credentials alone.
    """

    issuer: str
    subject: str
    subject_issuer: str
    caller: str
    service: str
    endpoint: str
    method: str
    path: str
    beside: tuple[str, ...]
    jti: str
    issued_at: int
    expires_at: int
    target_sha256: str | None

    @property
    def single_use(self) -> bool:
        """Whether this credential is for one request only."""
        return self.target_sha256 is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a token must say to be for this service. `leeway` is in seconds, for clocks that differ."""

    issuer: str
    audience: str
    leeway: float

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("a verifier expects one issuer and one audience")
        if not 0 <= self.leeway <= 30:
            raise ValueError(f"the leeway is between 0 and 30 seconds, not {self.leeway}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A compact JWS whose signature has not been looked at."""

    key_id: str
    algorithm: str
    _message: bytes = field(repr=False)
    _payload: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, authorization: bytes | str | None) -> Token:
        """Take the token out of the value of an Authorization header (RFC 6750 section 2.1)."""
        if authorization is None:
            raise CredentialMissing("no authorization header")
        value = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization
        scheme, _, compact = value.partition(b" ")
        if scheme.lower() != b"bearer":
            raise CredentialMissing("the authorization is of another scheme than Bearer")
        parts = _COMPACT.fullmatch(compact) if len(compact) <= MAX_TOKEN else None
        if parts is None:
            raise CredentialInvalid("not a compact JWS of acceptable size")
        header = _object(_decode(parts[1]), "header")
        if header.keys() != _HEADER or header["typ"] != "at+jwt":
            raise CredentialInvalid("the header is not that of a credential of the proxy")
        key_id, algorithm = header["kid"], header["alg"]
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id) or not isinstance(algorithm, str):
            raise CredentialInvalid("the header's kid or alg is not one")
        return cls(
            key_id=key_id,
            algorithm=algorithm,
            _message=compact[: parts.end(2)],
            _payload=parts[2],
            _signature=_decode(parts[3]),
        )

    def claims(self, key: VerificationKey | None, expected: Expectation, now: float) -> Claims:
        """What the token says, if `key` signed it and it is for this service now (Unix seconds)."""
        if key is None:
            raise CredentialInvalid("no key has the id that the token names")
        if self.algorithm != key.algorithm:
            raise CredentialInvalid("the algorithm is not the key's")
        if not key.verifies(self._message, self._signature):
            raise CredentialInvalid("the signature is not the key's")
        claims = _claims(_object(_decode(self._payload), "payload"))
        if claims.issuer != expected.issuer:
            raise CredentialInvalid("another issuer")
        if claims.service != expected.audience:
            raise CredentialInvalid("another audience")
        if claims.issued_at > now + expected.leeway:
            raise CredentialInvalid("issued in the future")
        if claims.expires_at + expected.leeway <= now:
            raise CredentialInvalid("expired")
        if not 0 < claims.expires_at - claims.issued_at <= MAX_LIFETIME:
            raise CredentialInvalid("its lifetime is not a credential's")
        return claims


def _decode(part: bytes) -> bytes:
    try:
        return urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error:
        raise CredentialInvalid("not base64url") from None


def _object(text: bytes, part: str) -> dict[str, Any]:
    try:
        return read_object(text, max_depth=_MAX_DEPTH)
    except NotStrict as error:
        raise CredentialInvalid(f"{part}: {error}") from None


def _claims(payload: dict[str, Any]) -> Claims:
    if payload.keys() != _CLAIMS:
        raise CredentialInvalid("the claims are not those of a credential of the proxy")
    details, subject = payload["authorization_details"], payload["sub_id"]
    if not isinstance(details, list) or len(details) != 1:
        raise CredentialInvalid("not exactly one authorization detail")
    detail = details[0]
    if not isinstance(detail, dict) or detail.get("type") != "ostiary-endpoint":
        raise CredentialInvalid("the authorization detail is of another type")
    limits = detail.keys() - _DETAIL - {"beside"}
    if not detail.keys() >= _DETAIL or (limits and limits != _PER_CALL):
        raise CredentialInvalid("the authorization detail has not the members of its type")
    if not isinstance(subject, dict) or subject.keys() != {"format", "iss", "sub"} or subject["format"] != "iss_sub":
        raise CredentialInvalid("the sub_id is not an issuer and subject")
    claims = Claims(
        issuer=_text(payload, "iss"),
        subject=_text(payload, "sub"),
        subject_issuer=_text(subject, "iss"),
        caller=_text(payload, "client_id"),
        service=_text(payload, "aud"),
        endpoint=_text(detail, "endpoint"),
        method=_text(detail, "method"),
        path=_text(detail, "path"),
        beside=_texts(detail.get("beside", [])),
        jti=_text(payload, "jti"),
        issued_at=_instant(payload, "iat"),
        expires_at=_instant(payload, "exp"),
        target_sha256=_text(detail, "target_sha256") if limits else None,
    )
    if subject["sub"] != claims.subject or detail["service"] != claims.service:
        raise CredentialInvalid("the token contradicts itself")
    if limits and detail["single_use"] is not True:
        raise CredentialInvalid("bound to one target and not to single use")
    return claims


def _text(members: dict[str, Any], name: str) -> str:
    value = members[name]
    if not isinstance(value, str) or not value:
        raise CredentialInvalid(f"{name} is not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CredentialInvalid("beside is not a list of texts")
    return tuple(value)


def _instant(members: dict[str, Any], name: str) -> int:
    value = members[name]
    if type(value) is not int or not 0 <= value < 2**53:  # a bool is an int, and neither it nor a float is a date
        raise CredentialInvalid(f"{name} is not a date")
    return value
