"""What a request's header section must be, and what it says about the body (SECURITY sections 1 to 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ostiary.errors import (
    BodyNotAllowed,
    BodyTooLarge,
    ExpectationFailed,
    HeaderDuplicated,
    HeaderMalformed,
    MessageMalformed,
    MethodRefused,
    TargetMalformed,
    UpgradeRefused,
)
from ostiary.exchange import Header
from ostiary.routes import METHODS

_METHODS: Final = {method.encode(): method for method in METHODS}
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_SINGLETONS: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"x-forwarded-client-cert",
    }
)
_UPGRADES: Final = frozenset({b"upgrade", b"http2-settings"})
_WATCHED: Final = _SINGLETONS | _UPGRADES | {b"connection", b"expect"}

# What a Connection header may not ask to be removed: the next hop would read another message (RFC 9110 section 7.6.1).
_NOT_HOP_BY_HOP: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})


class Framing(NamedTuple):
    """`length` is the body's in bytes, None for a chunked one; `expects` whether the client waits for 100-continue."""

    length: int | None
    expects: bool


_NO_BODY: Final = Framing(0, expects=False)


def check_method(method: bytes) -> str:
    """The method as text; `MethodRefused` (405) for all that are not on the list. Case matters."""
    known = _METHODS.get(method)
    if known is None:
        raise MethodRefused(method[:32].decode("latin-1"))
    return known


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Raw path and raw query of an origin-form target; every other form is `TargetMalformed`.

    absolute-form names an authority that Host could contradict, and a fragment is seen by some servers as part of the
    path and by others not (CVE-2021-32779, CVE-2026-6790).
    """
    if not target.startswith(b"/") or target.startswith(b"//"):
        raise TargetMalformed("not origin-form: a path that starts with one slash")
    if b"#" in target:
        raise TargetMalformed("a fragment in the request target")
    if not target.isascii():
        raise TargetMalformed("a byte beyond ASCII in the request target")
    path, _, query = target.partition(b"?")
    return path, query


def check_headers(method: str, version: str, headers: Iterable[Header], body_bytes: int) -> Framing:
    """Look at every header once and say how the body is framed, or refuse. Names are in lower case."""
    found: dict[bytes, bytes] = {}
    expects = False
    for name, value in headers:
        if name not in _WATCHED:
            continue
        if name in _SINGLETONS:
            if name in found:
                raise HeaderDuplicated(name.decode("ascii"))
            found[name] = value
        elif name == b"connection":
            _check_connection(value)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise ExpectationFailed
            expects = version == "1.1"  # RFC 9110 section 10.1.1: ignored in an HTTP/1.0 request
        else:
            raise UpgradeRefused(name.decode("ascii"))
    if b"host" not in found:
        raise MessageMalformed("a request without Host")
    if b"content-length" not in found and b"transfer-encoding" not in found:
        return _NO_BODY
    length = _body_length(version, found)
    if length != 0 and method in _BODILESS:
        raise BodyNotAllowed(method)
    if length is not None and length > body_bytes:
        raise BodyTooLarge(f"a body of {length} bytes is announced")
    return Framing(length, expects and length != 0)


def _check_connection(value: bytes) -> None:
    for token in value.lower().split(b","):
        if token.strip(b" \t") in _NOT_HOP_BY_HOP:
            raise HeaderMalformed("Connection names a header that is not hop-by-hop")


def _body_length(version: str, found: dict[bytes, bytes]) -> int | None:
    """At most one of `Content-Length: digits` and `Transfer-Encoding: chunked`; neither is no body, and not asked."""
    coding = found.get(b"transfer-encoding")
    length = found.get(b"content-length", b"")
    if coding is None:
        if not length.isdigit() or len(length) > 19:
            raise MessageMalformed("Content-Length is not a number")
        return int(length)
    if b"content-length" in found:
        raise MessageMalformed("both Content-Length and Transfer-Encoding")
    if version != "1.1":
        raise MessageMalformed("Transfer-Encoding in an HTTP/1.0 request")
    if coding.lower() != b"chunked":
        raise MessageMalformed("a transfer coding other than chunked")
    return None
