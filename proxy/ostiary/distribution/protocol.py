"""The listener of a bundle server: uvicorn's, with a deadline for heads, and the client's certificate in the scope."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ostiary.distribution.access import certificate_names

NAMES: Final = "ostiary.certificate-names"
"""An ASGI extension: the names in the certificate that the client showed, absent where it showed none."""

_HEAD: Final = 10.0
"""Seconds from a connection, or the first byte of a request, to the end of its head."""


class BundleProtocol(HttpToolsProtocol):
    """A client that says nothing, or half of something, is not waited for longer than that."""

    _deadline: asyncio.TimerHandle | None = None
    _names: frozenset[str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        certificate = transport.get_extra_info("ssl_object")
        shown = None if certificate is None else certificate.getpeercert(binary_form=True)
        if shown is not None:
            self._names = _names_of(shown)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
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
