"""One connection to an upstream. It carries one exchange at a time, and is kept only while nothing about it is odd.

Whoever waits is woken once for everything that one read brought. Whatever arrives that no request asked for (surplus
bytes, a second response) ends the connection, so that it can never be taken for the answer to the next caller's
request (CVE-2026-2833 and its kin). What has reached this machine and was not read yet counts as arrived.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final

from ostiary.upstream.parser import ResponseParser
from ostiary.upstream.response import ResponseHead

BUFFERED: Final = 256 * 1024
"""Bytes of a response that may wait for a slow client before the upstream is no longer read."""


class Connection(asyncio.Protocol):
    """Use: `begin`, `write` the head and any body, `finish`; meanwhile `head()`, then `arrival()` and `take()` for the
    response's body.

    `on_lost` is told when the transport has ended, whoever ended it. `served` counts the exchanges begun.
    """

    __slots__ = (
        "_arrivals",
        "_busy",
        "_loop",
        "_on_lost",
        "_owing",
        "_parser",
        "_paused",
        "_reader",
        "_transport",
        "_writable",
        "idle_since",
        "lost",
        "opened",
        "served",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        header_limit: int,
        body_limit: int | None,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._parser = ResponseParser(header_limit=header_limit, body_limit=body_limit)
        self._on_lost = on_lost
        self._transport: Any = None
        self._arrivals = select.poll()
        self._reader: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._busy = False
        self._owing = False  # the rest of a request: what is sent next would be read as that
        self.lost = False
        self.opened = loop.time()
        self.idle_since = 0.0
        self.served = 0

    # What the forwarder and the pool call.

    def begin(self, *, to_head: bool) -> None:
        """Expect one response. `to_head`: to a HEAD request, whose response has no body."""
        self._parser.expect(to_head=to_head)
        self._busy = self._owing = True
        self.served += 1
        if self.lost:
            self._parser.ended(None)

    def write(self, *pieces: bytes) -> None:
        """Send these bytes; they are dropped if the connection has ended, which `head` and `body` then report."""
        if self.lost:
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def finish(self) -> None:
        """The whole request has been written. Without this the connection carries no other exchange."""
        self._owing = False

    async def writable(self) -> None:
        """Return once the upstream takes more, or nothing ever again."""
        if self._writable is not None:
            await self._writable

    async def head(self) -> ResponseHead:
        """The final response's head. Raises `UpstreamFailed`, of which `ClosedBeforeResponse` may be tried again."""
        parser = self._parser
        while parser.head is None:
            if parser.failure is not None:
                raise parser.failure
            self._reader = self._loop.create_future()
            await self._reader
        return parser.head

    async def arrival(self) -> bool:
        """Return once `take` has all the rest to give (false), or something after which more follows (true).

        Raises `UpstreamFailed` once everything that arrived before the failure has been taken.
        """
        parser = self._parser
        while not parser.pieces and not parser.complete:
            if parser.failure is not None:
                raise parser.failure
            self._reader = self._loop.create_future()
            await self._reader
        return not parser.complete

    def take(self) -> bytes:
        """What has arrived of the body since, in one piece; more is read from the upstream from now on."""
        parser = self._parser
        pieces = parser.pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        parser.buffered = 0
        if self._paused:
            self._paused = False
            if not self.lost:
                self._transport.resume_reading()
        return piece

    @property
    def complete(self) -> bool:
        """Whether the whole response has been read from the connection."""
        return self._parser.complete

    @property
    def ending(self) -> bool:
        """Whether nothing more than this response will come of the connection."""
        return not self._parser.persistent

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: this one is complete in both directions, and nothing about the
        connection was odd. An upstream that answered before it had the whole request still reads on for it.
        """
        parser = self._parser
        return parser.complete and not self._owing and parser.persistent and not self._transport.is_closing()

    @property
    def quiet(self) -> bool:
        """Whether it is still reusable and nothing has come that no request asked for, not even to the kernel: to be
        asked before `begin`.

        The event loop may not have read yet what an upstream sent on after its last response, or that it closed.
        """
        return self._parser.persistent and not self._transport.is_closing() and not self._arrivals.poll(0)

    def rest(self, now: float) -> None:
        """Stay open without an exchange."""
        self._busy = False
        self.idle_since = now

    def close(self) -> None:
        """End it at once; what is still unsent is dropped."""
        self._parser.persistent = False
        if not self.lost and self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if not self._busy or parser.complete or parser.failure is not None:
            self.close()  # nobody asked for this
            return
        if not parser.feed(data):
            self.close()
        elif parser.buffered > BUFFERED and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._parser.ended(error)
        self._parser.release()
        self.resume_writing()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._on_lost(self)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
