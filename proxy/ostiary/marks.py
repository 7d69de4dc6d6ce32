"""Marks: by what an identity can be blocked. Who proves an identity says what it was proved by, once, when it is made.

A mark is a tuple of texts, whose first says what it is. Two are equal if and only if they mean the same, so whether
something is blocked is one look-up for each mark of an identity, however much is blocked.

    ("subject", issuer, subject)    who it is; also whoever acts for it, and a proxy in front that vouches for it
    ("token", issuer, jti)          the token
    ("digest", SHA-256)             the token, by what was signed of it, in hexadecimal digits
    ("key", issuer, kid)            the issuer's key that the token is signed with, under each name that it has there
    ("thumbprint", RFC 7638)        that key, the client's own that a token is bound to, or the one of a certificate
    ("certificate", SHA-256)        the client's certificate, in hexadecimal digits

A token's digest leaves the signature out: of an ECDSA signature anybody makes a second one that is as good.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import TypeAlias

Mark: TypeAlias = tuple[str, ...]


def subject_mark(issuer: str, subject: str) -> Mark:
    return ("subject", issuer, subject)


def token_mark(issuer: str, token_id: str) -> Mark:
    return ("token", issuer, token_id)


def digest_mark(signing_input: bytes) -> Mark:
    """`signing_input` is the token up to its second dot (RFC 7515 section 5.1)."""
    return ("digest", hashlib.sha256(signing_input).hexdigest())


def key_mark(issuer: str, key_id: str) -> Mark:
    return ("key", issuer, key_id)


def thumbprint_mark(thumbprint: bytes) -> Mark:
    return ("thumbprint", urlsafe_b64encode(thumbprint).rstrip(b"=").decode("ascii"))


def certificate_mark(digest: bytes) -> Mark:
    """`digest` is the SHA-256 of its DER form."""
    return ("certificate", digest.hex())
