"""Reading responses off a connection, strictly: what is not one clean HTTP/1.x response is a failure.

Callbacks of the parser change state and nothing else. No socket is known here.
"""

from __future__ import annotations

from typing import Any, Final

import httptools

from ostiary.errors import UpstreamFailed
from ostiary.exchange import Header
from ostiary.upstream.response import ResponseHead

INTERIM_RESPONSES: Final = 16
"""1xx responses that may come before a final one. They are discarded, but not for ever."""


class ClosedBeforeResponse(UpstreamFailed):
    """The connection ended before one byte of the response: a request that may be repeated may be sent again."""


class ResponseParser:
    """One response at a time: `expect`, then `feed` what arrives and look at the state.

    `head` is the final response's, None until it is complete. `pieces` is the part of the body that nobody has taken.
    `complete` is true after the last byte. `failure` says why this response will never be complete. `persistent` turns
    false for ever as soon as anything forbids that another response follows on the same connection.
    """

    __slots__ = (
        "_body_bytes",
        "_body_limit",
        "_fed",
        "_header_bytes",
        "_header_limit",
        "_headers",
        "_interim",
        "_parser",
        "_to_head",
        "_until_close",
        "buffered",
        "complete",
        "failure",
        "head",
        "persistent",
        "pieces",
    )

    def __init__(self, *, header_limit: int, body_limit: int | None) -> None:
        self._header_limit = header_limit
        self._body_limit = body_limit
        self._parser: Any = None
        self.persistent = True
        self._to_head = False
        self._until_close = False
        self._headers: list[Header] = []
        self._header_bytes = 0
        self._body_bytes = 0
        self._fed = 0
        self._interim = 0
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.buffered = 0
        self.complete = False
        self.failure: UpstreamFailed | None = None

    def expect(self, *, to_head: bool) -> None:
        """The next response. `to_head`: to a HEAD request, so it has no body whatever its headers say."""
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._to_head = to_head
        self._until_close = False
        self._headers = []
        self._header_bytes = self._body_bytes = self._interim = self.buffered = 0
        self.head = self.failure = None
        self.pieces = []
        self.complete = False

    def feed(self, data: bytes) -> bool:
        """Whether the response is still what it should be; if not, nothing more is to be fed."""
        had = self._body_bytes
        if self.head is None and not self._header_bytes and data[:1] != b"H":
            # The parser also takes RTSP and ICE, and empty lines before any of them.
            self.fail("the upstream's response does not begin as one in HTTP")
            return False
        self._fed = self._header_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("the upstream switched protocols")
        except httptools.HttpParserError as error:
            self.fail(f"the upstream's response is malformed: {error}")
        if self.complete or self.failure is not None:
            return self.failure is None
        if self._body_bytes != had:
            self._header_bytes = 0
            return True
        # A header section that goes on and on, interim ones added up; or trailers, or a chunk extension.
        self._header_bytes = self._fed
        if self._header_bytes > self._header_limit:
            self.fail("the upstream's header section is over the limit")
            return False
        return True

    def ended(self, error: Exception | None) -> None:
        """The connection is at its end, properly or with an error."""
        self.persistent = False
        if self.complete or self.failure is not None:
            return
        if self._until_close and error is None:
            self.complete = True
        elif self.head is None and not self._header_bytes:
            self.failure = ClosedBeforeResponse("the upstream closed the connection before it answered")
        else:
            self.failure = UpstreamFailed("the upstream closed the connection in the middle of its response")

    def fail(self, detail: str) -> None:
        """The connection is of no more use; nor is this response, unless it was complete before."""
        self.persistent = False
        if not self.complete and self.failure is None:
            self.failure = UpstreamFailed(detail)

    def release(self) -> None:
        """Let go of the parser, which refers back to this object."""
        self._parser = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            self.persistent = False  # a response that nobody asked for
        else:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:  # later ones are trailers, which are discarded
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete or self.failure is not None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > INTERIM_RESPONSES:
                self.fail(f"the upstream answered {status}, or too often so")
            return
        version = self._parser.get_http_version()
        if status > 599 or version not in ("1.1", "1.0"):
            self.fail(f"the upstream answered {status} in HTTP/{version}")
            return
        headers = self._headers
        if self._fed > self._header_limit and _size(headers) > self._header_limit:
            self.fail("the upstream's header section is over the limit")
            return
        self.head = ResponseHead(status, version, headers)
        if self._to_head:
            self.complete = True
            self.persistent = self.persistent and _stays_open(version, headers)
            self._parser = None  # this one waits for a body that does not come
        elif not self._parser.should_keep_alive():
            self.persistent = False
            self._until_close = status not in (204, 304) and not any(
                name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers
            )

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self.persistent = False
        elif self.failure is None:
            size = len(body)
            self._body_bytes += size
            if self._body_limit is not None and self._body_bytes > self._body_limit:
                self.fail("the response is larger than the limit")
                return
            self.buffered += size
            self.pieces.append(body)

    def on_message_complete(self) -> None:
        if self.head is not None and self.failure is None:
            self.complete = True


def _size(headers: list[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _stays_open(version: str, headers: list[Header]) -> bool:
    """Whether a response to HEAD leaves its connection open; its framing headers have no say in it."""
    return version == "1.1" and not any(
        name.lower() == b"connection" and b"close" in value.lower() for name, value in headers
    )
