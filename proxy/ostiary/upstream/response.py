"""The response as the client reads it: what of the upstream's head is relayed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ostiary.errors import UpstreamFailed
from ostiary.exchange import Header
from ostiary.models import Credential
from ostiary.upstream.headers import RESPONSE_REMOVED, remarkable
from ostiary.upstream.settings import UpstreamSettings

_LOCATIONS: Final = frozenset({b"location", b"content-location"})
_SPECIAL: Final = RESPONSE_REMOVED | _LOCATIONS | {b"content-length"}
_CORS: Final = b"access-control-"
_REFUSED: Final = frozenset({401, 407})
"""They refuse the swapped credential. Relayed, they would seem to refuse the client's own."""

_BODYLESS: Final = frozenset({204, 304})

_ABSOLUTE: Final = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#\\]*)(.*)", re.DOTALL)
# What browsers read as an authority all the same: slashes the other way, one of them, none (URL standard, section 4.4).
_SLOPPY: Final = re.compile(rb"(?:https?:|[/\\][/\\])[/\\]*([^/\\?#]*)", re.IGNORECASE)


@dataclass(slots=True)
class ResponseHead:
    """A final response head as it was parsed. `version` is `1.1` or `1.0`; names are as the upstream wrote them."""

    status: int
    version: str
    headers: list[Header]


class ResponseReader:
    """Judges the response heads of one upstream.

    `internal` holds the authorities (`host:port`, lower case) of every upstream of this proxy: addresses that a client
    is not to learn.
    """

    def __init__(self, settings: UpstreamSettings, *, internal: Iterable[str]) -> None:
        own = {settings.authority, f"{settings.host}:{settings.port}"}
        self._own = frozenset(authority.lower().encode() for authority in own)
        self._internal = frozenset(authority.lower().encode() for authority in internal) | self._own
        self._body_bytes = settings.response_body_bytes

    def relayed(self, head: ResponseHead, credential: Credential, decorations: list[Header]) -> list[Header]:
        """The headers for the client. Raises `UpstreamFailed` for a head that is not relayed.

        A header that repeats the credential is left out, whatever its name. Where the proxy answers for CORS
        (`decorations`), the upstream does not.
        """
        status = head.status
        if status in _REFUSED:
            raise UpstreamFailed(f"the upstream refused the swapped credential: {status}")
        secret = remarkable(credential.header[1])
        size = 0 if secret is None else len(secret)
        decorated = {name for name, _ in decorations if name != b"vary"} if decorations else None
        relayed: list[Header] = []
        named: set[bytes] | None = None
        coded = False
        for name, value in head.headers:
            name = name.lower()  # noqa: PLW2901 - the parser keeps the upstream's spelling
            if secret is not None and len(value) >= size and secret in value:
                continue
            if name not in _SPECIAL:
                if decorated is None or (name not in decorated and not name.startswith(_CORS)):
                    relayed.append((name, value))
            elif name == b"content-length":
                self._check_length(value)
                if status not in _BODYLESS:
                    relayed.append((name, value))
            elif name in _LOCATIONS:
                location = self._location(value)
                if location is not None:
                    relayed.append((name, location))
            elif name == b"connection":
                named = (named or set()).union(token.strip().lower() for token in value.split(b","))
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or head.version != "1.1" or coded:
                    raise UpstreamFailed("the upstream's transfer encoding is not chunked, once")
                coded = True
        if named:
            relayed = [pair for pair in relayed if pair[0] not in named or pair[0] == b"content-length"]
        return relayed

    def _check_length(self, value: bytes) -> None:
        if self._body_bytes is not None and int(value) > self._body_bytes:
            raise UpstreamFailed(f"the response declares {int(value)} bytes")

    def _location(self, value: bytes) -> bytes | None:
        """The upstream's own origin is taken off; another internal address is not told at all."""
        absolute = _ABSOLUTE.fullmatch(value)
        if absolute is None:
            sloppy = _SLOPPY.match(value.lstrip(b"\t\x00 "))
            return None if sloppy is not None and self._is_internal(sloppy[1]) else value
        authority = absolute[1].lower().rpartition(b"@")[2]
        if authority not in self._internal:
            return value
        relative: bytes = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if authority not in self._own or relative.startswith((b"//", b"/\\")):
            return None  # `//host` by itself would be read as another origin
        return relative

    def _is_internal(self, authority: bytes) -> bool:
        return authority.lower().rpartition(b"@")[2] in self._internal
