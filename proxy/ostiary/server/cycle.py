"""One request and its response on a connection: the ASGI side of the listener.

A leaner `RequestResponseCycle` than uvicorn's, and a stricter one: the framing of a response is decided here alone (the
application's `transfer-encoding` and `connection` are not passed on), no control character leaves in a header, and a
response that was not completed never looks complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from starlette.types import Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from ostiary.errors import AccessError, InternalError
from ostiary.exchange import WHOLE_RESPONSE, Header

_log = logging.getLogger("ostiary.server")

_JOINED: Final = 16 * 1024
"""Bytes of a piece of body up to which it is copied into one write with what stands around it."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONTROLS: Final = bytes(byte for byte in (*range(0x20), 0x7F) if byte != 0x09)  # a tab may stand in a value
_FRAMED_HERE: Final = frozenset({b"transfer-encoding", b"connection"})
_JUDGED: Final = _FRAMED_HERE | {b"content-length", b"date"}


class Connection(Protocol):
    """What a cycle needs of the connection it is on."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl

    def default_headers(self) -> Sequence[Header]: ...
    def write_last(self, data: bytes) -> None:
        """Write the end of a response, after which the connection stays open."""

    def resume_body(self) -> None:
        """The application wants more of the body."""

    def completed(self, cycle: Cycle) -> None:
        """The response is complete."""

    def aborted(self, cycle: Cycle) -> None:
        """The response will never be complete: the client must see that."""

    def answer(self, refusal: AccessError) -> None:
        """Answer in place of the application, which sent nothing, and close."""


class Cycle:
    """Request body in, response out. `disconnected` is set by the connection when the client has gone.

    `more_body` is whether the message is still arriving, `buffered` how many bytes of it wait for the application, and
    `received` how many have come in all. `until_close` says that only the end of the connection ends the response.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_connection",
        "_expects",
        "_head",
        "_news",
        "_pieces",
        "_remaining",
        "_wake",
        "buffered",
        "disconnected",
        "keep_alive",
        "more_body",
        "received",
        "response_complete",
        "response_started",
        "scope",
        "until_close",
    )

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, expects: bool) -> None:
        self._connection = connection
        self._expects = expects
        self._head = b""  # of the response, until its first piece of body is there or the turn of the loop is over
        self._pieces: list[bytes] = []
        self._news = False
        self._wake: asyncio.Event | None = None
        self._bodiless = False
        self._chunked = False
        self._remaining = 0
        self.scope = scope
        self.keep_alive = keep_alive
        self.more_body = True
        self.buffered = 0
        self.received = 0
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.until_close = False

    @property
    def held_back(self) -> bool:
        """Whether the client waits for 100-continue."""
        return self._expects and not self.response_started

    def feed(self, body: bytes) -> None:
        """A piece of the request body has arrived."""
        self._expects = False  # it did not wait
        self._pieces.append(body)
        self.buffered += len(body)
        self.received += len(body)
        self._news = True
        if self._wake is not None:
            self._wake.set()

    def feed_end(self) -> None:
        """The request has arrived entirely."""
        self._expects = False
        self.more_body = False
        self._news = True
        if self._wake is not None:
            self._wake.set()

    def disconnect(self) -> None:
        """There is nobody to answer any more."""
        self.disconnected = True
        if self._wake is not None:
            self._wake.set()

    async def run_asgi(self, app: object) -> None:
        """Call the application and clean up behind it, however it ends."""
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[operator]  # as uvicorn hands it over
        except asyncio.CancelledError:
            self._send_held_head()
            self._connection.aborted(self)
            raise
        except Exception:  # noqa: BLE001 # whatever it raises, the client's wait has to end
            _log.exception("the application failed")
            self._give_up()
        else:
            if not self.response_complete and not self.disconnected:
                if not self.response_started:
                    _log.error("the application returned without a response")
                self._give_up()

    def _give_up(self) -> None:
        if self.disconnected or self.response_complete:
            return
        if self.response_started:
            self._send_held_head()
            self._connection.aborted(self)
        else:
            self._connection.answer(InternalError("no response"))

    async def receive(self) -> Message:
        connection = self._connection
        if self._expects and not self.response_started and not self.disconnected:
            self._expects = False
            connection.transport.write(_CONTINUE)
        if not self._news and self.more_body:
            connection.resume_body()
        while not (self._news or self.disconnected or self.response_complete):
            if self._wake is None:
                self._wake = asyncio.Event()
            self._wake.clear()
            await self._wake.wait()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._news = False
        self._pieces = []
        self.buffered = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        flow = self._connection.flow
        if flow.write_paused and not self.disconnected:
            await flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started:
            if kind == WHOLE_RESPONSE:
                self._head = self._begin(message["status"], message["headers"])
                self._send_body(message["body"], more=False)
                return
            if kind != "http.response.start":
                raise RuntimeError(f"expected 'http.response.start', not {kind!r}")
            self._head = self._begin(message["status"], message.get("headers", ()))
            self._connection.loop.call_soon(self._send_held_head)
        elif self.response_complete:
            raise RuntimeError(f"{kind!r} after the response was complete")
        elif kind != "http.response.body":
            raise RuntimeError(f"expected 'http.response.body', not {kind!r}")
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: Iterable[Header]) -> bytes:
        """The response's head, by whose framing the body is sent."""
        if status < 200:
            raise RuntimeError("an application answers once, and not with an interim response")
        self._bodiless = status in (204, 304) or self.scope["method"] == "HEAD"
        if self._expects:
            self.keep_alive = False  # whether the body comes all the same cannot be known
        length: int | None = None
        dated = False
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            name = name.lower()  # noqa: PLW2901 # ASGI asks for lower case; framing must not depend on who obeys
            if name in _JUDGED:
                if name in _FRAMED_HERE:
                    if name == b"connection" and b"close" in value.lower():
                        self.keep_alive = False
                    continue
                if name == b"date":
                    dated = True
                elif status == 204:
                    continue  # RFC 9110 section 8.6
                elif length is not None or not value.isdigit():
                    raise RuntimeError("a response has one Content-Length, of digits, or none")
                else:
                    length = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        for name, value in self._connection.default_headers():
            if not (dated and name == b"date"):
                lines.append(b"%b: %b\r\n" % (name, value))
        if not self._bodiless:
            self._frame(length, lines)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if len(head) - len(head.translate(None, _CONTROLS)) != 2 * len(lines):  # the CR LF of each line, and no more
            raise RuntimeError("a response header holds a control character")
        self.response_started = True
        return head

    def _send_held_head(self) -> None:
        """Most heads have a body right behind them, and one write is a system call less; an event stream's head may
        have none for long, and is not held for it."""
        head, self._head = self._head, b""
        if head and not self.disconnected:
            self._connection.transport.write(head)

    def _frame(self, length: int | None, lines: list[bytes]) -> None:
        if length is not None:
            self._remaining = length
        elif self.scope["http_version"] == "1.1":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            self.until_close = True
            self.keep_alive = False

    def _send_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        ending = b""
        if self._bodiless:
            body = b""
        elif self._chunked:
            if body:
                head += b"%x\r\n" % len(body)
                ending = b"\r\n"
            if not more:
                ending += b"0\r\n\r\n"
        elif not self.until_close:
            self._remaining -= len(body)
            if self._remaining < 0 or (self._remaining and not more):
                self._head = head
                raise RuntimeError("the response is not as long as its Content-Length")
        # Joined only where that costs less than the system calls that it saves.
        if len(body) > _JOINED:
            self._connection.transport.writelines([piece for piece in (head, body, ending) if piece])
        elif whole := head + body + ending:
            if more or not self.keep_alive or self.more_body:
                self._connection.transport.write(whole)
            else:
                self._connection.write_last(whole)
        if not more:
            self.response_complete = True
            if self._wake is not None:
                self._wake.set()
            self._connection.completed(self)
