"""Taking a token apart, against another JSON parser: one token has one reading, and nothing but a refusal gets out."""

from __future__ import annotations

import base64
import random
from collections.abc import Hashable

import orjson

from fuzz.target import demand
from ostiary.errors import IdentityInvalid
from ostiary.identity.preparse import take_apart

HEADERS = (
    b'{"alg":"ES256","kid":"k1","typ":"JWT"}', b'{"alg":"none","kid":"k1"}',
    b'{"alg":"ES256","kid":"k1","typ":"at+jwt"}',
    b'{"alg":"ES256","kid":"k1","crit":["b64"],"b64":false}', b'{"alg":"ES256","alg":"none","kid":"k"}',
    b'{"alg":"ES256","\\u0061lg":"none","kid":"k"}', b'{"alg":"ES256","kid":"../k"}', b'{"alg":"ES256","kid":1}',
    b'{"alg":"ES256","kid":"k1","jwk":{}}', b'[1]', b'{"alg":"ES256","kid":"k1","typ":"\xc4\xb0"}',
)  # fmt: skip
PAYLOADS = (
    b'{"iss":"https://idp.test","aud":"proxy","sub":"web","iat":1790000000,"exp":1790000300}', b"{}", b"null",
    b'{"a":NaN}',
    b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":123456789012345678901234567890}',
    b'{"a":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}',
    b'{"sub":"a","sub":"b"}', b'{"a":{"b":1,"b":2}}', b'\xef\xbb\xbf{}',
    b'{"a":18446744073709551615,"b":-9223372036854775808}',
    b'{"a":1.0,"b":-0,"c":-0.0,"d":1E5}', b' {"a" : [1 , true,null ]}\n', b'{"a":"\\u0000"}', b'{"a":"\x7f"}',
    b"{'a':1}",
)  # fmt: skip


def b64(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def unb64(part: bytes) -> bytes:
    """By the alphabet, bit by bit (RFC 4648 section 5); ValueError for whatever has another spelling."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bits = "".join(f"{alphabet.index(byte):06b}" for byte in part)
    whole = len(bits) // 8 * 8
    if "1" in bits[whole:] or len(bits) - whole >= 6:
        raise ValueError("trailing bits")
    return bytes(int(bits[at : at + 8], 2) for at in range(0, whole, 8))


class Tokens:
    """A case is header, payload and signature as text, a line each, which are then encoded; or one whole token."""

    name = "tokens"
    share = 0.1
    words = (*HEADERS, *PAYLOADS, b'"kid"', b'"alg"', b"\\u0000", b"\\ud800", b"e99", b"NaN", b"{", b"[", b"}")

    def make(self, rng: random.Random) -> bytes:
        case = b"\r\n".join([rng.choice(HEADERS), rng.choice(PAYLOADS), rng.randbytes(rng.choice((1, 2, 3, 64)))])
        return self._token(case) if rng.random() < 0.2 else case

    def _token(self, case: bytes) -> bytes:
        return b".".join(map(b64, case.split(b"\r\n", 2))) if b"\r\n" in case else case

    def check(self, case: bytes) -> Hashable:
        token = self._token(case)
        try:
            found = take_apart(token)
        except IdentityInvalid as refusal:
            return refusal.detail
        header, payload, signature = token.split(b".")
        demand(found.signing_input == header + b"." + payload, "something else is signed", token)
        demand(found.signature == unb64(signature), "another signature", token)
        read = orjson.loads(unb64(header))
        demand((read["alg"], read["kid"]) == (found.algorithm, found.key_id), "another header", token)
        demand("crit" not in read and "jwk" not in read, "a header that changes the meaning", token)
        claims = orjson.loads(unb64(payload))
        demand(claims == found.unverified_claims, "the payload has another reading", claims, found.unverified_claims)
        demand(repr(claims) == repr(found.unverified_claims), "numbers of another kind", claims)
        return found.media_type is None, len(claims)

    def close(self) -> None: ...
