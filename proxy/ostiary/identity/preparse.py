"""Taking a compact JWS apart, before anything in it is believed (RFC 7515, RFC 8725).

What comes out is well-formed and bounded, and still **unverified**: nothing but choosing the issuer's rules and the
key may be done with it until the signature has been checked over `signing_input`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ostiary.errors import IdentityInvalid
from ostiary.identity.bearer import MAX_TOKEN_BYTES
from ostiary.models import Json
from ostiary.strictjson import NotStrict, read_object

# Three non-empty segments and no padding: one token has one spelling, and a JWE has five.
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

_MAX_HEADER_DEPTH: Final = 4
_MAX_PAYLOAD_DEPTH: Final = 16

# Members that bring a key or fetch one (RFC 7515 section 4.1), that change what is signed (RFC 7797), that compress
# (a decompression bomb), or that demand what is not understood here (`crit`; PyJWT CVE-2026-32597). Their mere
# presence refuses the token, whatever the value.
_REFUSED_MEMBERS: Final = ("jku", "jwk", "x5u", "x5c", "crit", "zip", "b64")

_PROOF_MEMBERS: Final = frozenset({"typ", "alg", "jwk"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedToken:
    """A token taken apart. `media_type` is the header's `typ` in its one comparable form, None where absent; `typ` is
    as it was written, and `members` are the names of all that the header has."""

    algorithm: str
    key_id: str
    media_type: str | None
    typ: str | None
    members: frozenset[str]
    unverified_claims: Mapping[str, Json] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedProof:
    """A DPoP proof taken apart. It brings the key that it is checked with: that proves possession, and nothing else."""

    algorithm: str
    jwk: Mapping[str, Json] = field(repr=False)
    unverified_claims: Mapping[str, Json] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def take_proof_apart(proof: bytes) -> UnverifiedProof:
    """The parts of a DPoP proof (RFC 9449 section 4.2). Raises `IdentityInvalid`, and nothing else."""
    segments = _COMPACT.fullmatch(proof)
    if segments is None:
        raise IdentityInvalid("DPoP: not a compact JWS")
    header = _read(segments[1], "DPoP header", _MAX_HEADER_DEPTH)
    if header.keys() != _PROOF_MEMBERS or header["typ"] != "dpop+jwt" or not isinstance(header["jwk"], dict):
        raise IdentityInvalid("DPoP: the header is not that of a proof")
    return UnverifiedProof(
        algorithm=_algorithm(header),
        jwk=header["jwk"],
        unverified_claims=_read(segments[2], "DPoP payload", _MAX_HEADER_DEPTH),
        signing_input=proof[: segments.end(2)],
        signature=_decode(segments[3], "DPoP signature"),
    )


def take_apart(token: bytes) -> UnverifiedToken:
    """The parts of a compact JWS whose payload is a JSON object. Raises `IdentityInvalid`, and nothing else."""
    if len(token) > MAX_TOKEN_BYTES:
        raise IdentityInvalid("token: too long")
    segments = _COMPACT.fullmatch(token)
    if segments is None:
        raise IdentityInvalid("token: not a compact JWS")
    header = _read(segments[1], "header", _MAX_HEADER_DEPTH)
    for name in _REFUSED_MEMBERS:
        if name in header:
            raise IdentityInvalid(f"header: {name} is refused")
    return UnverifiedToken(
        algorithm=_algorithm(header),
        key_id=_key_id(header),
        media_type=_media_type(header),
        typ=header.get("typ"),
        members=frozenset(header),
        unverified_claims=_read(segments[2], "payload", _MAX_PAYLOAD_DEPTH),
        signing_input=token[: segments.end(2)],
        signature=_decode(segments[3], "signature"),
    )


def media_type(typ: str) -> str:
    """A `typ` in the form that is compared: RFC 7515 section 4.1.9, and media types know no case (RFC 2045)."""
    lowered = typ.lower()
    return lowered if "/" in lowered else f"application/{lowered}"


def _algorithm(header: Mapping[str, Json]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise IdentityInvalid("header: alg")
    return algorithm


def _key_id(header: Mapping[str, Json]) -> str:
    key_id = header.get("kid")
    if not isinstance(key_id, str) or KEY_ID.fullmatch(key_id) is None:
        raise IdentityInvalid("header: kid")
    return key_id


def _media_type(header: Mapping[str, Json]) -> str | None:
    if "typ" not in header:
        return None
    typ = header["typ"]
    # ASCII: outside of it, folding the case would make equal what is not.
    if not isinstance(typ, str) or not typ.isascii() or not 1 <= len(typ) <= 64:
        raise IdentityInvalid("header: typ")
    return media_type(typ)


def _read(segment: bytes, part: str, max_depth: int) -> dict[str, Json]:
    try:
        return read_object(_decode(segment, part), max_depth=max_depth)
    except NotStrict as error:
        raise IdentityInvalid(f"{part}: {error}") from None


def _decode(segment: bytes, part: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise IdentityInvalid(f"{part}: not base64url") from None
    # Unused trailing bits could be anything: again more than one spelling.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise IdentityInvalid(f"{part}: not base64url")
    return decoded
