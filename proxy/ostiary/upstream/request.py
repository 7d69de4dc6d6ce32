"""The request as the upstream reads it: a head rendered once, and the framing of the body that follows it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from ostiary.errors import BodyTooLarge, CredentialUnavailable, HeaderMalformed, MessageMalformed, TargetMalformed
from ostiary.exchange import Exchange
from ostiary.models import Credential, Target
from ostiary.upstream.headers import FRAMING, REMOVED, HeaderRules, remarkable
from ostiary.upstream.settings import UpstreamSettings

Framing: TypeAlias = int | Literal["chunked"] | None
"""A declared length in bytes, `chunked`, or None where the request has no body and says nothing of one."""

_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_CR, _LF = b"\r\n"
_CHUNKED: Final = "transfer-encoding: chunked\r\n"

_HARMLESS: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})
"""What nearly every `Connection` header says: it names no other header."""

_INDIVISIBLE: Final = FRAMING | {b"transfer-encoding"}
"""Dropping one of these because `Connection` names it would let a client reframe its own request."""


@dataclass(slots=True)
class OutboundRequest:
    """`head` ends with the empty line and holds the credential."""

    head: bytes = field(repr=False)
    framing: Framing


class RequestWriter:
    """Renders the requests of one upstream. What is the same in all of them is rendered once."""

    def __init__(self, settings: UpstreamSettings) -> None:
        host = settings.authority.encode("ascii")
        self._opening = b" HTTP/1.1\r\nhost: " + host + b"\r\nvia: 1.1 ostiary\r\n"
        self._body_bytes = settings.body_bytes
        self._kept = settings.keep_headers
        self._rules = HeaderRules(kept=self._kept)
        self._special: dict[frozenset[bytes], HeaderRules] = {}

    def write(self, exchange: Exchange, target: Target, credential: Credential) -> OutboundRequest:
        """Raises `AccessError` (400, 413, 503) for what cannot be sent as exactly one clean request."""
        request_target = target.request_target
        if not (request_target.startswith("/") and request_target.isascii() and request_target.isprintable()) or (
            " " in request_target
        ):
            raise TargetMalformed("not a request line")
        name, value = credential.header
        if not value or _CR in value or _LF in value or 0 in value:
            raise CredentialUnavailable("the credential is no header value")
        parts = [f"{exchange.method} {request_target}".encode("ascii"), self._opening]
        framing = self._keep(exchange, self._rules_for(credential), parts)
        ending = "" if framing is None else _CHUNKED if framing == "chunked" else f"content-length: {framing}\r\n"
        scheme = "https" if exchange.scope.get("scheme") == "https" else "http"
        ours = (
            f"\r\nx-forwarded-for: {exchange.source_ip}\r\nx-forwarded-proto: {scheme}\r\n"
            f"ostiary-decision-id: {exchange.id}\r\n{ending}\r\n"
        )
        parts += (name, b": ", value, ours.encode("ascii"))
        return OutboundRequest(b"".join(parts), framing)

    def _keep(self, exchange: Exchange, rules: HeaderRules, parts: list[bytes]) -> Framing:
        """Add the client's headers that go on, and the host it asked for. How the body is framed towards the upstream.

        The listener has refused what is not exactly one framing; this refuses it again, because what is decided here
        goes out on a connection that other callers share.
        """
        begin = len(parts)
        known, keeps = rules.known, rules.keeps
        framing: Framing = None
        named: set[bytes] | None = None
        secret: bytes | None = None
        longest = 0
        for name, value in exchange.headers:
            kept = known.get(name)
            if kept or (kept is None and keeps(name)):
                parts += (name, b": ", value, b"\r\n")
                if len(value) > longest:
                    longest = len(value)
            elif name == b"host":
                parts += (b"x-forwarded-host: ", value, b"\r\n")
            elif name == b"authorization":
                secret = remarkable(value)
            elif name == b"content-length":
                if framing is not None or not value.isdigit() or len(value) > 19:
                    raise MessageMalformed("content-length")
                framing = int(value)
                if framing > self._body_bytes:
                    raise BodyTooLarge(f"{framing} bytes are declared")
            elif name == b"transfer-encoding":
                if framing is not None or value.lower() != b"chunked":
                    raise MessageMalformed("transfer-encoding")
                framing = "chunked"
            elif name == b"connection" and value not in _HARMLESS:
                named = (named or set()) | _named(value)
        if named or (secret is not None and longest >= len(secret)):
            del parts[begin:]
            for name, value in exchange.headers:
                if name == b"host":
                    parts += (b"x-forwarded-host", b": ", value, b"\r\n")
                elif keeps(name) and not (named and name in named) and (secret is None or secret not in value):
                    # A token repeated in a header that no list knows must not get there that way either.
                    parts += (name, b": ", value, b"\r\n")
        return framing

    def _rules_for(self, credential: Credential) -> HeaderRules:
        name = credential.header[0].lower()
        if not credential.remove and name in REMOVED:
            return self._rules
        replaced = credential.remove | {name}
        rules = self._special.get(replaced)
        if rules is None:
            if _FIELD_NAME.fullmatch(name) is None:
                raise CredentialUnavailable("the credential's header has no proper name")
            rules = self._special[replaced] = HeaderRules(replaced, self._kept)
        return rules


def _named(connection: bytes) -> set[bytes]:
    """The headers that a `Connection` header declares to be for this hop only (RFC 9110 section 7.6.1)."""
    named = {token.strip().lower() for token in connection.split(b",")}
    if not named.isdisjoint(_INDIVISIBLE):
        raise HeaderMalformed("Connection names a header that frames or addresses the message")
    return named
