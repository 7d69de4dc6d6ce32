"""A connection of the listener: its requests one after the other, its deadlines, its refusals and its end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ostiary.addresses import unmapped
from ostiary.errors import AccessError, Overloaded, RequestTimeout
from ostiary.exchange import Header
from ostiary.problem import Problems
from ostiary.server.cycle import Cycle
from ostiary.server.deadline import Deadline
from ostiary.server.limits import Census, ListenerLimits
from ostiary.server.outbox import Outbox
from ostiary.server.refused import HOST_SHOWN, OnRefused, Phase, Refused, answer, shown

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing sends RST


class Awaited(Enum):
    """What the reading deadline is for."""

    FIRST_BYTE = auto()
    PREAMBLE = auto()
    HEAD = auto()
    BODY = auto()
    NEXT_REQUEST = auto()
    CLIENT_CLOSE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all connections of a listener share."""

    limits: ListenerLimits
    problems: Problems
    on_refused: OnRefused
    census: Census
    outbox: Outbox


class ListenerConnection(HttpToolsProtocol):
    """What a connection does besides parsing. `protocol.StrictProtocol` feeds it messages.

    `terms` are the class's, because uvicorn makes the instances, and knows what it gives them.
    """

    terms: ClassVar[Terms | None] = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.terms is None:
            raise TypeError("a listener's protocol is made by strict_protocol()")
        self._terms = self.terms
        self._limits = self.terms.limits
        self._reading = Deadline(self.loop, self._overdue)
        self._writing = Deadline(self.loop, self._stuck)
        self._awaited: Awaited | None = None
        self._peer: str | None = None  # whom a refusal is reported of
        self._counted: str | None = None

        self.url = b""
        self._method: bytes | None = None  # one that the parser does not know
        self._deaf = False  # nothing more that arrives is read
        self._draining = False  # no response that begins from now on keeps the connection
        self._in_head = False
        self._window = 0  # body bytes since the deadline was set

        self._receiving: Cycle | None = None  # the one whose message arrived last
        self._active: Cycle | None = None  # the one the application works on
        self._waiting: deque[Cycle] = deque()
        self._farewell: bytes | None = None
        self._held = b""  # a whole response; it leaves before anything else happens on this connection

        self._due: Cycle | None = None  # the one that the runner takes up next
        self._runner: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None  # what the runner waits for between two requests

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if self.client is not None:
            self.client = (unmapped(self.client[0]), self.client[1])
            self._peer = self.client[0]
        self._enter(self._peer)

    def _enter(self, counted: str | None) -> None:
        """Go on as a connection of this peer, which None keeps out of the count for each peer, or refuse."""
        self._counted = counted
        if not self._terms.census.enter(counted):
            self._refuse(Overloaded("connections"), "connection")
            return
        self._await(Awaited.FIRST_BYTE, self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._terms.census.leave(self._counted)
        self._reading.stop()
        self._writing.stop()
        self._deaf = True
        self._held = b""
        self._client_gone()
        super().connection_lost(exc)
        self._wake()

    def eof_received(self) -> None:
        self.send_held()
        self._client_gone()  # now, and not when the last byte for it has been flushed; the transport closes itself

    def _client_gone(self) -> None:
        for cycle in (self._active, *self._waiting):
            if cycle is not None:
                cycle.disconnect()
        self._waiting.clear()

    def pause_writing(self) -> None:
        self._writing.set(self._limits.write_timeout)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._writing.clear()
        super().resume_writing()

    def shutdown(self) -> None:
        """Answer what has been asked, and what a client asks before it is told that it was the last.

        A response whose head is out has not told it: another request may be on its way, and is answered too.
        """
        self.send_held()
        if self._draining:
            return
        self._draining = True
        last = self._waiting[-1] if self._waiting else self._active
        if last is not None:
            if not last.response_started:
                last.keep_alive = False
                if not last.more_body:
                    self._deaf = True
        elif self._awaited in (Awaited.FIRST_BYTE, Awaited.NEXT_REQUEST):
            self._await_last()

    # Requests, one after the other.

    def _start_next(self) -> None:
        """Go on with the request that waits longest; with none, say farewell or wait for the next one."""
        if self._waiting:
            self._active = self._due = self._waiting.popleft()
            if self._runner is None:
                self._runner = self.loop.create_task(self._run())
                self.tasks.add(self._runner)
            else:
                self._wake()
            if not self._waiting and self.flow.read_paused:
                self._resume()
        elif self._farewell is not None:
            self.transport.write(self._farewell)
            self._close(linger=True)
        else:
            self._resume()
            if self._awaited is None and not self._in_head:
                if self._draining:
                    self._await_last()
                else:
                    self._await(Awaited.NEXT_REQUEST, self._limits.keep_alive_timeout)

    async def _run(self) -> None:
        """Take up one request after the other: a task for each of them costs 3 µs more.

        Among `tasks`, which a stopping server waits for or cancels, only while there is a request.
        """
        runner = self._runner
        if runner is None:
            return
        try:
            cycle = self._take_due()
            while cycle is not None:
                await cycle.run_asgi(self.app)
                cycle = self._take_due()
                if cycle is None and not self.transport.is_closing():
                    self.tasks.discard(runner)
                    self._idle = self.loop.create_future()
                    await self._idle
                    self.tasks.add(runner)
                    cycle = self._take_due()
        finally:
            self._idle = self._runner = None
            self.tasks.discard(runner)

    def _take_due(self) -> Cycle | None:
        due, self._due = self._due, None
        return due

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def write_last(self, data: bytes) -> None:
        # Together with others' responses, if there are others, and if nothing is due here that has to stand behind it.
        if len(self.tasks) > 1 and not self._waiting and self._farewell is None:
            self._held = data
            self._terms.outbox.add(self, self.loop)
        else:
            self.transport.write(data)

    def send_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.transport.write(held)

    def default_headers(self) -> Sequence[Header]:
        return self.server_state.default_headers

    def resume_body(self) -> None:
        if not self._waiting:
            self._resume()
            if self._awaited is None:
                self._await_body()

    def completed(self, cycle: Cycle) -> None:
        self.server_state.total_requests += 1
        self._active = None
        if self.transport.is_closing():
            return
        if cycle.more_body or not cycle.keep_alive:
            self._close(linger=cycle.more_body)
        else:
            self._start_next()

    def aborted(self, cycle: Cycle) -> None:
        self._client_gone()
        self._deaf = True
        if self.transport.is_closing():
            return
        if not cycle.until_close:
            self._close(linger=False)  # the missing last chunk, or the missing bytes, tell
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # The end of the connection would be the end of the response: only a reset says that it is none. uvloop's
            # stand-in for the socket has no setsockopt, so the descriptor is borrowed.
            borrowed = socket.socket(fileno=os.dup(sock.fileno()))
            with borrowed:
                borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # Refusals.

    def answer(self, refusal: AccessError) -> None:
        if not self.transport.is_closing():
            self._client_gone()
            self.transport.write(self._render(refusal, os.urandom(16).hex()))
            self._close(linger=True)

    def _refuse(self, refusal: AccessError, phase: Phase) -> None:
        """Refuse what is not yet a request of the application's, once those before it are answered."""
        self._deaf = True
        farewell = self._report(refusal, phase)
        if self._active is None and not self._waiting:
            self.transport.write(farewell)
            self._close(linger=True)
        else:
            self._farewell = farewell

    def _refuse_message(self, cycle: Cycle, refusal: AccessError) -> None:
        """Refuse a request whose body turned out wrong."""
        if cycle is not self._active:
            if self._waiting and self._waiting[-1] is cycle:
                self._waiting.pop()
                self._refuse(refusal, "head")
            return
        self._deaf = True
        farewell = self._report(refusal, "body")
        if cycle.response_started:
            self.aborted(cycle)
            return
        self._client_gone()
        self.transport.write(farewell)
        self._close(linger=True)

    def _report(self, refusal: AccessError, phase: Phase) -> bytes:
        method = self._method or self.parser.get_method()
        refused = Refused(
            id=os.urandom(16).hex(),
            phase=phase,
            peer=self._peer,
            method=method.decode("latin-1") if phase != "connection" and self.url else None,
            target=shown(self.url) if phase != "connection" else None,
            host=self._host() if phase != "connection" else None,
        )
        self._terms.on_refused(refusal, refused)
        return self._render(refusal, refused.id, head_only=refused.method == "HEAD")

    def _host(self) -> bytes | None:
        for name, value in self.headers or ():
            if name == b"host":
                return value[:HOST_SHOWN]
        return None

    def _render(self, refusal: AccessError, exchange_id: str, *, head_only: bool = False) -> bytes:
        headers, body = answer(self._terms.problems, refusal, exchange_id)
        lines = [STATUS_LINE[refusal.status]]
        lines += [name + b": " + value + b"\r\n" for name, value in (*self.default_headers(), *headers)]
        lines.append(b"connection: close\r\n\r\n")
        return b"".join(lines) + (b"" if head_only else body)

    # Time, and the end.

    def _await(self, awaited: Awaited, seconds: float) -> None:
        self._awaited = awaited
        self._reading.set(seconds)

    def _await_last(self) -> None:
        """One more request may come within the grace."""
        if self._limits.drain_grace:
            self._await(Awaited.NEXT_REQUEST, self._limits.drain_grace)
        else:
            self._close(linger=False)

    def _await_body(self) -> None:
        cycle = self._receiving
        if cycle is not None and cycle.more_body and not cycle.held_back:
            self._window = 0
            self._await(Awaited.BODY, self._limits.body_timeout)

    def _await_nothing(self) -> None:
        self._awaited = None
        self._reading.clear()

    def _pause(self) -> None:
        self._await_nothing()  # a client that is held back is not late
        self.flow.pause_reading()

    def _resume(self) -> None:
        if not self.flow.read_paused:
            return
        self.flow.resume_reading()
        if self._in_head:
            self._await(Awaited.HEAD, self._limits.header_timeout)
        else:
            self._await_body()

    def _overdue(self) -> None:
        awaited, self._awaited = self._awaited, None
        if self.transport.is_closing():
            return
        if awaited is Awaited.HEAD:
            self._refuse(RequestTimeout("headers"), "head")
        elif awaited is Awaited.PREAMBLE:
            self._refuse(RequestTimeout("a PROXY protocol preamble"), "connection")
        elif awaited is Awaited.BODY:
            if self._window >= self._limits.body_rate * self._limits.body_timeout:
                self._await_body()
            elif self._receiving is not None:
                self._refuse_message(self._receiving, RequestTimeout("body"))
        else:
            self._close(linger=False)

    def _stuck(self) -> None:
        self.transport.abort()

    def _close(self, *, linger: bool) -> None:
        """No more is read. With `linger`, what the client still sends is thrown away for a while, unread."""
        self._deaf = True
        self.send_held()
        if not linger:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._writing.set(self._limits.write_timeout)
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._await(Awaited.CLIENT_CLOSE, self._limits.linger)
