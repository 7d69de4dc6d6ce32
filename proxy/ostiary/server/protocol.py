"""The strict HTTP/1.1 protocol of the data listener.

What is not one clean request never reaches the application: it is refused here, reported, and the connection closes.
Requests that are pipelined are decided one by one, in order; a refusal waits for the answers before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

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
from ostiary.exchange import WHOLE_RESPONSE
from ostiary.problem import Problems
from ostiary.server.connection import Awaited, ListenerConnection, Terms
from ostiary.server.cycle import Cycle
from ostiary.server.head import check_headers, check_method, split_target
from ostiary.server.limits import Census, ListenerLimits
from ostiary.server.refused import OnRefused

_LINE_OVERHEAD: Final = 4  # ": " and CR LF
_EXTENSIONS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({WHOLE_RESPONSE: MappingProxyType({})})


class _Enough(Exception):
    """Stops the parser: what follows on this connection is not read."""


class StrictProtocol(ListenerConnection):
    """Use `strict_protocol` to make one that can serve."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._header_count = self._limits.header_count
        self._target_bytes = self._limits.target_bytes
        self._head_begins = False  # the head that is being read began in the data that is being fed
        self._head_fed = 0  # bytes of an unfinished head; at most one read's more have come
        self._fed = 0  # bytes of the data that are being fed
        self._ended = False  # a message ended in them
        self._overhead = 0  # bytes around the content of a chunked body

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._fed = len(data)
        self._ended = False
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._unparsed(error, data)
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
            "extensions": _EXTENSIONS,
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
        if self._awaited is Awaited.BODY:
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
            self._await(Awaited.HEAD, limits.header_timeout)
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

    def _unparsed(self, error: Exception, data: bytes) -> None:
        cause = error.__context__
        if self._deaf or isinstance(cause, _Enough):
            return  # what follows the last request
        if isinstance(cause, AccessError):
            refusal = cause
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            refusal = MethodRefused("unknown to the parser")
        elif isinstance(error, httptools.HttpParserInvalidURLError):
            refusal = TargetMalformed(str(error))
            if self._head_begins and not self._ended and not self.url:
                self.url = _second_word(data)  # the parser says nothing of what it does not take
        elif isinstance(error, httptools.HttpParserUpgrade):
            refusal = UpgradeRefused()
        else:
            refusal = MessageMalformed(str(error))
        cycle = self._receiving
        if not self._in_head and cycle is not None and cycle.more_body:
            self._refuse_message(cycle, refusal)
        else:
            self._refuse(refusal, "head")


def strict_protocol(
    limits: ListenerLimits | None = None, *, problems: Problems, on_refused: OnRefused
) -> type[StrictProtocol]:
    """The protocol class to give to `uvicorn.Config(http=...)`. Connections are counted for each class made."""
    limits = limits or ListenerLimits()
    census = Census(limit=limits.connections, per_peer=limits.connections_per_peer)
    terms = Terms(limits=limits, problems=problems, on_refused=on_refused, census=census)
    return type("ConfiguredStrictProtocol", (StrictProtocol,), {"terms": terms})


def _second_word(data: bytes) -> bytes:
    line = data.lstrip(b"\r\n").partition(b"\r\n")[0]
    return line.partition(b" ")[2].rpartition(b" ")[0]
