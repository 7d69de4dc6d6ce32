"""The request body on its way to the upstream: framed anew, counted, and held back while the upstream is slow."""

from __future__ import annotations

import asyncio

from ostiary.errors import BodyTooLarge, MessageMalformed, RequestTimeout, UpstreamTimeout
from ostiary.exchange import Exchange
from ostiary.upstream.connection import Connection
from ostiary.upstream.request import Framing
from ostiary.upstream.settings import UpstreamSettings


class RequestBody:
    """What the client sends after the head. Never more than one piece of it is held.

    `next` gives pieces already framed for the upstream; the last one is known by `exchange.body_complete`.
    """

    __slots__ = ("_exchange", "_framing", "_received", "_settings")

    def __init__(self, exchange: Exchange, framing: Framing, settings: UpstreamSettings) -> None:
        self._exchange = exchange
        self._framing = framing
        self._settings = settings
        self._received = 0

    async def next(self) -> tuple[bytes, ...]:
        """Raises `RequestTimeout` (408), `BodyTooLarge` (413), `MessageMalformed` or `ClientDisconnected`."""
        try:
            async with asyncio.timeout(self._settings.client_idle_timeout):
                piece = await self._exchange.receive_body()
        except TimeoutError:
            raise RequestTimeout("the client stopped sending its body") from None
        self._received += len(piece)
        if self._framing == "chunked":
            if self._received > self._settings.body_bytes:
                raise BodyTooLarge(f"more than {self._settings.body_bytes} bytes came")
            ending = b"0\r\n\r\n" if self._exchange.body_complete else b""
            return (b"%x\r\n" % len(piece), piece, b"\r\n", ending) if piece else (ending,)
        if self._received != self._framing and (self._exchange.body_complete or self._received > (self._framing or 0)):
            raise MessageMalformed("the body is not as long as it was declared")
        return (piece,)

    async def pump(self, connection: Connection) -> None:
        """Send the rest. Raises as `next` does, or `UpstreamTimeout` when the upstream takes nothing any more."""
        while not self._exchange.body_complete:
            try:
                async with asyncio.timeout(self._settings.idle_timeout):
                    await connection.writable()
            except TimeoutError:
                raise UpstreamTimeout("the upstream stopped reading the request body") from None
            connection.write(*await self.next())
