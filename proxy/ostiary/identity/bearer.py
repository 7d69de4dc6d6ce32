"""The bearer token of a request: `Authorization: Bearer <token>` (RFC 6750 section 2.1), and no other place.

Tokens in a form body or the query (RFC 6750 sections 2.2 and 2.3) are never taken from there. One that is repeated in
the request target is refused: with it the caller's credential would be in the policy's input, the audit's path, the
upstream's log and whatever `Referer` follows, under whatever name the parameter has.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from ostiary.errors import IdentityInvalid, IdentityMissing, TokenInQuery
from ostiary.exchange import Exchange

MAX_TOKEN_BYTES: Final = 8192

_PREFIX: Final = b"bearer "  # the scheme in any case, and exactly one space, where RFC 9110 section 11.4 allows several
_REMARKABLE: Final = 16  # bytes; what is shorter is no token, and could be in a target by chance
_SCHEME: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?: .*)?", re.DOTALL)


def bearer_token(exchange: Exchange) -> bytes:
    """The token as it was sent, at most `MAX_TOKEN_BYTES` long; its own grammar is the parser's to check.

    Raises `IdentityMissing` where there is no `Authorization`, or one of another scheme: RFC 6750 section 3.1 wants
    no error code for either. Raises `IdentityInvalid` for anything that is not exactly scheme, one space, token,
    `HeaderDuplicated` (400) where there are two, and `TokenInQuery` (400) where the target repeats the token.
    """
    value = exchange.header(b"authorization")
    if value is None:
        raise IdentityMissing("no Authorization header")
    if value[: len(_PREFIX)].lower() != _PREFIX:
        raise _no_bearer(value)
    token = value[len(_PREFIX) :]
    if len(token) > MAX_TOKEN_BYTES:
        raise IdentityInvalid("credentials: too long")
    if not token or b" " in token:
        raise IdentityInvalid("credentials: not one token")
    check_not_repeated(exchange, token)
    return token


def check_not_repeated(exchange: Exchange, token: bytes) -> None:
    """Raise `TokenInQuery` where the target of the request has the token in it, in whatever part."""
    raw_path, raw_query = exchange.raw_path, exchange.raw_query
    # Encoded, it is longer still: nearly every target is too short to hold it.
    if _REMARKABLE <= len(token) <= max(len(raw_path), len(raw_query)) and (
        _holds(raw_path, token) or _holds(raw_query, token)
    ):
        raise TokenInQuery("the request target repeats the bearer token")


def _holds(part: bytes, token: bytes) -> bool:
    """Whether a part of the target has the token in it, percent-encoded or not."""
    return token in part or (b"%" in part and token in unquote_to_bytes(part))


def _no_bearer(value: bytes) -> IdentityMissing | IdentityInvalid:
    scheme = _SCHEME.fullmatch(value[:MAX_TOKEN_BYTES])
    if scheme is None or scheme[1].lower() == _PREFIX.rstrip():
        return IdentityInvalid("credentials: malformed")
    return IdentityMissing("Authorization is of another scheme")
