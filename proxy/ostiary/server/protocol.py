"""The strict HTTP/1.1 protocol of the data listener.

What is not one clean request never reaches the application: it is refused here, reported, and the connection closes.
Requests that are pipelined are decided one by one, in order; a refusal waits for the answers before it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ostiary.errors import (
    AccessError,
    BodyTooLarge,
    HeadersTooLarge,
    MessageMalformed,
    MethodRefused,
    Overloaded,
    RequestTimeout,
    TargetMalformed,
    TargetTooLong,
    UpgradeRefused,
)
from ostiary.exchange import Header
from ostiary.interfaces import Scope
from ostiary.problem import Problems
from ostiary.server.cycle import Cycle
from ostiary.server.deadline import Deadline
from ostiary.server.head import check_headers, check_method, split_target
from ostiary.server.limits import Census, ListenerLimits
from ostiary.server.refused import HOST_SHOWN, OnRefused, Phase, Refused, answer, shown

_LINE_OVERHEAD: Final = 4  # ": " and CR LF
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing sends RST


class _Awaited(Enum):
    """What the reading deadline is for."""

    FIRST_BYTE = auto()
    HEAD = auto()
    BODY = auto()
    NEXT_REQUEST = auto()
    CLIENT_CLOSE = auto()


class _Enough(Exception):
    """Stops the parser: what follows on this connection is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    limits: ListenerLimits
    problems: Problems
    on_refused: OnRefused
    census: Census


class StrictProtocol(HttpToolsProtocol):
    """Use `strict_protocol` to make one that can serve."""

    terms: ClassVar[_Terms | None] = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        if self.terms is None:
            raise TypeError("a listener's protocol is made by strict_protocol()")
        self._terms = self.terms
        self._limits = self.terms.limits
        self._reading = Deadline(self.loop, self._overdue)
        self._writing = Deadline(self.loop, self._stuck)
        self._awaited: _Awaited | None = None
        self._peer: str | None = None

        self.url = b""
        self._deaf = False  # nothing more that arrives is read
        self._in_head = False
        self._head_begins = False  # the head that is being read began in the data that is being fed
        self._head_fed = 0  # bytes of an unfinished head; at most one read's more have come
        self._fed = 0  # bytes of the data that are being fed
        self._ended = False  # a message ended in them
        self._window = 0  # body bytes since the deadline was set
        self._overhead = 0  # bytes around the content of a chunked body

        self._receiving: Cycle | None = None  # the one whose message arrived last
        self._active: Cycle | None = None  # the one the application works on
        self._waiting: deque[Cycle] = deque()
        self._farewell: bytes | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if self.client is not None:
            self.client = (_unmapped(self.client[0]), self.client[1])
            self._peer = self.client[0]
        if not self._terms.census.enter(self._peer):
            self._refuse(Overloaded("connections"), "connection")
            return
        self._await(_Awaited.FIRST_BYTE, self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._terms.census.leave(self._peer)
        self._reading.stop()
        self._writing.stop()
        self._deaf = True
        self._client_gone()
        super().connection_lost(exc)

    def eof_received(self) -> None:
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
        """Finish what has been asked, and nothing else."""
        last = self._waiting[-1] if self._waiting else self._active
        if last is None:
            self.transport.close()
            return
        last.keep_alive = False
        if not last.more_body:
            self._deaf = True

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fed = len(data)
        self._ended = False
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unparsed(error)
        else:
            if self._in_head:
                self._head_unfinished()
            elif (receiving := self._receiving) is not None and receiving.more_body:
                self._body_unfinished(receiving)
        if self._waiting:
            if self._active is None:
                self._start_next()
            else:
                self._pause()

    # The parser's side. An AccessError raised here stops the parser and is answered.

    def on_message_begin(self) -> None:
        if self._deaf:
            raise _Enough
        if len(self._waiting) >= self._limits.pipelined:
            self._waiting[-1].keep_alive = False
            self._deaf = True
            raise _Enough
        self.url = b""
        self.headers = []
        self._in_head = True
        self._head_begins = True
        self._head_fed = 0

    def on_url(self, url: bytes) -> None:
        self.url = url = self.url + url if self.url else url
        if len(url) > self._limits.target_bytes:
            raise TargetTooLong

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: httptools reports them like headers
        headers = self.headers
        if len(headers) >= self._limits.header_count:
            raise HeadersTooLarge("too many headers")
        headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self.parser
        limits = self._limits
        headers = self.headers
        if self._fed > limits.header_bytes or not self._head_begins:
            self._check_size()
        version = parser.get_http_version()
        method = check_method(parser.get_method())
        if version not in ("1.1", "1.0"):
            raise MessageMalformed(f"HTTP version {version}")
        raw_path, query = split_target(self.url)
        framing = check_headers(method, version, headers, limits.body_bytes)
        path = raw_path.decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        self._in_head = False
        self._awaited = None
        self._reading.clear()
        self._overhead = -self._fed  # of these data, what is head does not count
        self._receiving = cycle = Cycle(
            self, scope, keep_alive=version == "1.1" and parser.should_keep_alive(), expects=framing.expects
        )
        self._waiting.append(cycle)

    def on_body(self, body: bytes) -> None:
        cycle = self._receiving
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return
        self._window += len(body)
        self._overhead -= 8 * len(body)
        if cycle.received + len(body) > self._limits.body_bytes:
            raise BodyTooLarge
        cycle.feed(body)
        if cycle.buffered > HIGH_WATER_LIMIT:
            self._pause()

    def on_message_complete(self) -> None:
        self._ended = True
        cycle = self._receiving
        if cycle is None:
            return
        cycle.feed_end()
        if self._awaited is _Awaited.BODY:
            self._await_nothing()
        if not cycle.keep_alive:
            self._deaf = True

    def _check_size(self) -> None:
        size = sum(len(name) + len(value) + _LINE_OVERHEAD for name, value in self.headers)
        if size > self._limits.header_bytes:
            raise HeadersTooLarge

    def _head_unfinished(self) -> None:
        limits = self._limits
        if self._head_begins:
            self._head_begins = False
            self._await(_Awaited.HEAD, limits.header_timeout)
            self._head_fed = 0 if self._ended else self._fed
        else:
            self._head_fed += self._fed
        if self._head_fed > limits.header_bytes + limits.target_bytes:
            self._refuse(HeadersTooLarge("an unfinished header section"), "head")

    def _body_unfinished(self, cycle: Cycle) -> None:
        # Chunk extensions and trailers cost the client nothing and us time and memory (as CVE-2023-39326 of Go).
        self._overhead = max(self._overhead + self._fed, 0)
        if self._overhead > self._limits.header_bytes:
            self._refuse_message(cycle, MessageMalformed("more framing than content"))
        elif self._awaited is None and not self.flow.read_paused and not cycle.held_back:
            self._await_body()

    def _unparsed(self, error: Exception) -> None:
        cause = error.__context__
        if self._deaf or isinstance(cause, _Enough):
            return  # what follows the last request
        if isinstance(cause, AccessError):
            refusal = cause
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            refusal = MethodRefused("unknown to the parser")
        elif isinstance(error, httptools.HttpParserInvalidURLError):
            refusal = TargetMalformed(str(error))
        elif isinstance(error, httptools.HttpParserUpgrade):
            refusal = UpgradeRefused()
        else:
            refusal = MessageMalformed(str(error))
        cycle = self._receiving
        if not self._in_head and cycle is not None and cycle.more_body:
            self._refuse_message(cycle, refusal)
        else:
            self._refuse(refusal, "head")

    # Requests, one after the other.

    def _start_next(self) -> None:
        """Go on with the request that waits longest; with none, say farewell or wait for the next one."""
        if self._waiting:
            self._active = cycle = self._waiting.popleft()
            self._start_asgi_task(cycle, self.app)  # type: ignore[arg-type]  # it has the run_asgi that is called
            if not self._waiting and self.flow.read_paused:
                self._resume()
        elif self._farewell is not None:
            self.transport.write(self._farewell)
            self._close(linger=True)
        else:
            self._resume()
            if self._awaited is None and not self._in_head:
                self._await(_Awaited.NEXT_REQUEST, self._limits.keep_alive_timeout)

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
        refused = Refused(
            id=os.urandom(16).hex(),
            phase=phase,
            peer=self._peer,
            method=self.parser.get_method().decode("latin-1") if phase != "connection" and self.url else None,
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

    def _await(self, awaited: _Awaited, seconds: float) -> None:
        self._awaited = awaited
        self._reading.set(seconds)

    def _await_body(self) -> None:
        cycle = self._receiving
        if cycle is not None and cycle.more_body and not cycle.held_back:
            self._window = 0
            self._await(_Awaited.BODY, self._limits.body_timeout)

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
            self._await(_Awaited.HEAD, self._limits.header_timeout)
        else:
            self._await_body()

    def _overdue(self) -> None:
        awaited, self._awaited = self._awaited, None
        if self.transport.is_closing():
            return
        if awaited is _Awaited.HEAD:
            self._refuse(RequestTimeout("headers"), "head")
        elif awaited is _Awaited.BODY:
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
        if not linger:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._writing.set(self._limits.write_timeout)
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._await(_Awaited.CLIENT_CLOSE, self._limits.linger)


def strict_protocol(
    limits: ListenerLimits | None = None, *, problems: Problems, on_refused: OnRefused
) -> type[StrictProtocol]:
    """The protocol class to give to `uvicorn.Config(http=...)`. Connections are counted for each class made."""
    limits = limits or ListenerLimits()
    census = Census(limit=limits.connections, per_peer=limits.connections_per_peer)
    terms = _Terms(limits=limits, problems=problems, on_refused=on_refused, census=census)
    return type("ConfiguredStrictProtocol", (StrictProtocol,), {"terms": terms})


def _unmapped(address: str) -> str:
    """`::ffff:10.0.0.7`, which a dual-stack socket reports, is 10.0.0.7 to every network condition."""
    if not address.lower().startswith("::ffff:"):
        return address
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return address if mapped is None else str(mapped)
