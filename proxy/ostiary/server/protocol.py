"""The strict HTTP/1.1 protocol of the data listener.

What is not one clean request never reaches the application: it is refused here, reported, and the connection closes.
Requests that are pipelined are decided one by one, in order; a refusal waits for the answers before it.

The parser takes more than one form of request line (several spaces, RTSP for HTTP), so what was read of each has to be
where the one form has it. It takes any number of empty lines before it, too, and anything for their ends; a few whole
ones are ignored here (RFC 9112 section 2.2), because some clients send one behind a body.

What costs more than it weighs, tiny chunks and empty lines in a chunked body, is worked off a little at a time, and
everybody else has a turn in between.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from ostiary.errors import (
    AccessError,
    BodyTooLarge,
    HeadersTooLarge,
    MessageMalformed,
    MethodRefused,
    TargetMalformed,
    TargetTooLong,
    UpgradeRefused,
)
from ostiary.exchange import BEGAN, WHOLE_RESPONSE
from ostiary.server.connection import Awaited, ListenerConnection
from ostiary.server.cycle import Cycle
from ostiary.server.head import check_headers, check_method, split_target

_HEAD_END: Final = b"\r\n\r\n"
_CR: Final = 0x0D
_LF: Final = 0x0A
_VERSION: Final = b" HTTP/1."
_LINE_OVERHEAD: Final = 4  # ": " and CR LF
_EMPTY_LINES: Final = 4
"""Before a request."""
_TURN: Final = 16
"""Pieces of what was read that are fed to the parser before others have a turn."""
_STRIDE: Final = 64 * 1024
_SMALL_STRIDE: Final = 256
"""Bytes of a chunked body that are fed at once; the latter once it has shown to be of `_CHUNKS` tiny ones."""
_CHUNKS: Final = 64
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/")
EXTENSIONS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({WHOLE_RESPONSE: MappingProxyType({})})
"""What every scope says that the listener can do."""


class _Enough(Exception):
    """Stops the parser: what follows on this connection is not read."""


class StrictProtocol(ListenerConnection):
    """Use `strict_protocol` to make one that can serve."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.extensions = EXTENSIONS
        self._header_count = self._limits.header_count
        self._target_bytes = self._limits.target_bytes
        self._head_begins = False  # the head that is being read began in the piece that is being fed
        self._head_fed = 0  # bytes of an unfinished head
        self._began = 0.0  # when the first byte of the message came that is being read
        self._piece = b""  # what is being fed to the parser
        self._begun = b""  # the head that is being read, before that piece, to the end of its first line at least
        self._line_open = False  # that line has not ended
        self._length: int | None = 0  # of the body that is being read; None for a chunked one
        self._overhead = 0  # bytes around the content of a chunked body
        self._chunks = 0  # of the piece that is being fed
        self._stride = _STRIDE
        self._empty_lines = 0  # before the request that comes next
        self._half_line = False  # the CR of one has come
        self._rest = b""  # what was read, of which the part from `_rest_at` on has not had its turn
        self._rest_at = 0

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._held:
            self.send_held()
        if self._rest:
            self._rest += data
            return
        if (
            data.endswith(_HEAD_END)
            and data.rfind(_HEAD_END, 0, -1) < 0
            and data[0] not in b"\r\n"
            and not self._in_message()
            and not self._half_line
        ):
            self._feed(data)  # one head, and nothing else: nearly always
        else:
            self._feed_in_pieces(data, 0)
        self._after_feeding()

    def _after_feeding(self) -> None:
        cycle = self._receiving
        if cycle is not None and cycle.more_body and not self._in_head and not self._deaf:
            self._body_unfinished(cycle)
        if self._waiting:
            if self._active is None:
                self._start_next()
            else:
                self._pause()

    def _in_message(self) -> bool:
        return self._in_head or (self._receiving is not None and self._receiving.more_body)

    def _feed_in_pieces(self, data: bytes, at: int) -> None:
        """Feed the parser so that no piece goes on behind the end of a message: it would not say where the next began.

        Heads and chunked bodies end where an empty line does, which a read can have cut. What is before `at` has been
        fed, and what is not when the turn is over is the rest.
        """
        fed = 0
        if at == 0 and self._in_message() and data[0] in b"\r\n":
            while at < min(len(_HEAD_END) - 1, len(data)) and self._in_message() and not self._deaf:
                self._feed(data[at : at + 1])
                at += 1
        while at < len(data) and not self._deaf:
            if fed == _TURN:
                self._leave(data, at)
                return
            if self._half_line or (data[at] in b"\r\n" and not self._in_message()):
                at = self._skip_empty_line(data, at)
                continue
            end = self._end_of_piece(data, at)
            self._feed(data[at:end])
            at = end
            fed += 1

    def _end_of_piece(self, data: bytes, at: int) -> int:
        cycle = self._receiving
        most = len(data)
        if not self._in_head and cycle is not None and cycle.more_body:
            if self._length is not None:
                return at + max(self._length - cycle.received, 1)
            most = min(at + self._stride, most)
        part = len(_HEAD_END) - 1  # of an end: fed already, if a read began with it, or standing behind `most`
        found = data.find(_HEAD_END, at if at > part else 0, most + part)
        return most if found < 0 else found + len(_HEAD_END)

    def _skip_empty_line(self, data: bytes, at: int) -> int:
        """Where it ends, which is the end of what was read if only its CR has come."""
        end = at if self._half_line else at + 1
        cr, self._half_line = self._half_line or data[at] == _CR, False
        if cr and end == len(data):
            self._half_line = True
            return end
        self._empty_lines += 1
        if not cr or data[end] != _LF or self._empty_lines > _EMPTY_LINES:
            with contextlib.suppress(_Enough):
                self.on_message_begin()  # so that nothing is told of the request before
            self._refuse(MessageMalformed("empty lines before the request line"), "head")
        return end + 1

    def _leave(self, data: bytes, at: int) -> None:
        """Go on there when others have had a turn. More is read after that."""
        self._rest, self._rest_at = data, at
        self.flow.pause_reading()
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        rest, self._rest = self._rest, b""
        if not self.transport.is_closing():
            self.flow.resume_reading()  # also if it is not listened to: that the client goes is read
            if not self._deaf:
                self._feed_in_pieces(rest, self._rest_at)
                self._after_feeding()

    def _resume(self) -> None:
        if not self._rest:
            super()._resume()

    def _feed(self, piece: bytes) -> None:
        self._piece = piece
        self._chunks = 0
        try:
            self.parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unparsed(error, piece)
        else:
            if self._in_head:
                self._head_unfinished(piece)
            elif self._length is None:
                self._overhead_grew(len(piece))
        self._piece = b""

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
        self._empty_lines = 0
        self._began = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self.url = url = self.url + url if self.url else url
        if len(url) > self._target_bytes:
            raise TargetTooLong

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: httptools reports them like headers
        headers = self.headers
        if len(headers) >= self._header_count:
            raise HeadersTooLarge("too many headers")
        headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self.parser
        limits = self._limits
        headers = self.headers
        fed = len(self._piece)
        if fed > limits.header_bytes or not self._head_begins:
            self._check_size()
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise MessageMalformed(f"HTTP version {version}")
        verbatim = parser.get_method()
        method = check_method(verbatim)
        target_end = len(verbatim) + 1 + len(self.url)
        if self._piece[target_end : target_end + 8] != _VERSION or not self._head_begins:
            self._check_request_line(target_end)
        raw_path, query = split_target(self.url)
        framing = check_headers(method, version, headers, limits.body_bytes)
        path = raw_path.decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "extensions": self.extensions,
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
            BEGAN: self._began,
        }
        self._in_head = False
        self._awaited = None
        self._reading.clear()
        self._overhead = -fed  # of this piece, what is head does not count
        self._length = framing.length
        self._stride = _STRIDE
        self._receiving = cycle = Cycle(
            self,
            scope,
            keep_alive=version == "1.1" and parser.should_keep_alive() and not self._draining,
            expects=framing.expects,
        )
        self._waiting.append(cycle)

    def on_body(self, body: bytes) -> None:
        cycle = self._receiving
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return
        self._window += len(body)
        self._chunks += 1
        self._overhead -= 8 * len(body)
        if cycle.received + len(body) > self._limits.body_bytes:
            raise BodyTooLarge
        cycle.feed(body)
        if cycle.buffered > HIGH_WATER_LIMIT:
            self._pause()

    def on_message_complete(self) -> None:
        cycle = self._receiving
        if cycle is None:
            return
        cycle.feed_end()
        if self._awaited is Awaited.BODY:
            self._await_nothing()
        if not cycle.keep_alive:
            self._deaf = True

    def _check_size(self) -> None:
        size = sum(len(name) + len(value) + _LINE_OVERHEAD for name, value in self.headers)
        if size > self._limits.header_bytes:
            raise HeadersTooLarge

    def _check_request_line(self, target_end: int) -> None:
        """Of a head that came in several pieces."""
        head = self._piece if self._head_begins else self._begun + self._piece
        self._begun = b""
        if not head.startswith(_VERSION, target_end):
            raise MessageMalformed("the request line")

    def _head_unfinished(self, piece: bytes) -> None:
        limits = self._limits
        if self._head_begins:
            self._head_begins = False
            self._await(Awaited.HEAD, limits.header_timeout)
            self._begun = piece
        elif self._line_open:
            self._begun += piece
        self._line_open = not self.headers
        self._head_fed += len(piece)
        if self._head_fed > limits.header_bytes + limits.target_bytes:
            self._refuse(HeadersTooLarge("an unfinished header section"), "head")

    def _overhead_grew(self, fed: int) -> None:
        if self._chunks > _CHUNKS:
            self._stride = _SMALL_STRIDE
        # Chunk extensions and trailers cost the client nothing and us time and memory (as CVE-2023-39326 of Go).
        self._overhead = max(self._overhead + fed, 0)
        cycle = self._receiving
        if self._overhead > self._limits.header_bytes and cycle is not None and cycle.more_body:
            self._refuse_message(cycle, MessageMalformed("more framing than content"))

    def _body_unfinished(self, cycle: Cycle) -> None:
        if self._awaited is None and not self.flow.read_paused and not cycle.held_back:
            self._await_body()

    def _unparsed(self, error: Exception, piece: bytes) -> None:
        cause = error.__context__
        if self._deaf or isinstance(cause, _Enough):
            return  # what follows the last request
        if isinstance(cause, AccessError):
            refusal = cause
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            refusal = MethodRefused("unknown to the parser")
            if (line := _REQUEST_LINE.match(piece)) is not None:
                self._method, self.url = line.groups()  # the parser says nothing of what it does not take
        elif isinstance(error, httptools.HttpParserInvalidURLError):
            refusal = TargetMalformed(str(error))
            if self._head_begins and not self.url:
                self.url = _second_word(piece)  # the parser says nothing of what it does not take
        elif isinstance(error, httptools.HttpParserUpgrade):
            refusal = UpgradeRefused()
        else:
            refusal = MessageMalformed(str(error))
        cycle = self._receiving
        if not self._in_head and cycle is not None and cycle.more_body:
            self._refuse_message(cycle, refusal)
        else:
            self._refuse(refusal, "head")


def _second_word(piece: bytes) -> bytes:
    line = piece.partition(b"\r\n")[0]
    return line.partition(b" ")[2].rpartition(b" ")[0]
