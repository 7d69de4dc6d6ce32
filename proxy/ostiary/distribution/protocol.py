"""The listener of a bundle server: uvicorn's, with a deadline for heads, and the client's certificate in the scope."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ostiary.addresses import unmapped
from ostiary.distribution.access import certificate_names
from ostiary.server import Census

NAMES: Final = "ostiary.certificate-names"
"""An ASGI extension: the names in the certificate that the client showed, absent where it showed none."""

_HEAD: Final = 10.0
"""Seconds from a connection, or the first byte of a request, to the end of its head."""


def bundle_protocol(census: Census) -> type[BundleProtocol]:
    """The protocol of a listener on which so many connections may be."""
    return type("CountedBundleProtocol", (BundleProtocol,), {"census": census})


class BundleProtocol(HttpToolsProtocol):
    """A client that says nothing, or half of something, is not waited for longer than that. Made by `bundle_protocol`,
    because uvicorn makes the instances."""

    census: ClassVar[Census]
    _peer: str | None = None
    _counted = False
    _deadline: asyncio.TimerHandle | None = None
    _names: frozenset[str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self._peer, self._counted = unmapped(address[0]) if address else None, True
        if not self.census.enter(self._peer):
            transport.abort()
            return
        certificate = transport.get_extra_info("ssl_object")
        shown = None if certificate is None else certificate.getpeercert(binary_form=True)
        if shown is not None:
            self._names = _names_of(shown)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        if self._counted:
            self.census.leave(self._peer)
            self._counted = False
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._settle()
        self._expect()
        super().on_message_begin()
        if self._names is not None:
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"] = {NAMES: self._names}

    def on_headers_complete(self) -> None:
        self._settle()
        super().on_headers_complete()

    def _expect(self) -> None:
        self._deadline = self.loop.call_later(_HEAD, self.transport.abort)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _names_of(shown: bytes) -> frozenset[str]:
    try:
        return certificate_names(shown)
    except ValueError:  # OpenSSL took it, and may have been more generous
        return frozenset()
