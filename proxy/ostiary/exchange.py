"""One request and its response, over ASGI.

The headers are a snapshot taken when the request arrives: what uvicorn appends to its list afterwards (trailers, which
httptools reports as headers) is never seen. Bytes are counted here, so that the audit and the limits agree.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Final

from ostiary.errors import ClientDisconnected, HeaderDuplicated

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send  # not at run time: services import this by `ostiary.verify`

Header = tuple[bytes, bytes]

UNIX_PEER: Final = "0.0.0.0"
"""The address of a peer that has none (a unix socket): it is in no network that a condition could name usefully."""

DECISION_ID: Final = b"ostiary-decision-id"
"""What upstream and client find the request's record by. Of the same name, only the proxy's own is ever passed on."""

GRANT_EXPIRES: Final = b"ostiary-grant-expires"
"""When the grant ends that let a request through, on responses in its last minutes. Of the same name, an upstream's is
never passed on."""

WHOLE_RESPONSE: Final = "ostiary.response"
"""An ASGI extension of the listener's: one message with `status`, `headers` and `body` that is all of a response.

Two messages cost 3 µs more: each is a call through every layer, and the head has to be held for the body."""

BEGAN: Final = "ostiary.began"
"""The member of the listener's scopes that says when the request's first byte came, by the clock of the event loop."""

TRACE_ID: Final = "ostiary.trace_id"
"""The member of a scope that names the trace which its request belongs to, in hexadecimal, where traces are made."""

_ID_BYTES: Final = 16
_IDS_AT_ONCE: Final = 256


class _Ids:
    """Random ids, from as many random bytes at once as make the system call cheap."""

    def __init__(self) -> None:
        self._random = ""
        self._next = 0

    def __call__(self) -> str:
        if self._next >= len(self._random):
            self._random = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex()
            self._next = 0
        begin = self._next
        self._next = begin + 2 * _ID_BYTES
        return self._random[begin : self._next]


_new_id: Final = _Ids()


class Exchange:
    """A request as it arrived, and the means to answer it once.

    `id` is the decision id. `method` is verbatim. `raw_path` and `raw_query` are the bytes of the request line.
    `headers` are lower-case names with their values, in order. `source_ip` is the client's address: the peer's, or the
    one that a pinned proxy speaks for; IPv4-mapped IPv6 is unmapped by the listener. `began` is when the first byte
    came, in seconds of the event loop's clock; None if the listener does not say. `trace_id` is the trace that it
    belongs to, None where none are made. `own` is what the proxy itself says on the response: the decision's id, and
    when the grant ends that lets it through, if that is soon.
    """

    __slots__ = (
        "_receive",
        "_send",
        "_whole",
        "began",
        "body_complete",
        "bytes_received",
        "bytes_sent",
        "decorations",
        "headers",
        "id",
        "method",
        "own",
        "raw_path",
        "raw_query",
        "response_complete",
        "response_started",
        "scope",
        "source_ip",
        "status",
        "trace_id",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        self.scope = scope
        self.id = _new_id()
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.raw_query: bytes = scope["query_string"]
        self.headers: tuple[Header, ...] = tuple(scope["headers"])
        self.source_ip: str = client[0] if client else UNIX_PEER
        self.began: float | None = scope.get(BEGAN)
        self.trace_id: str | None = scope.get(TRACE_ID)
        self.decorations: list[Header] = []
        self.own: list[Header] = [(DECISION_ID, self.id.encode())]
        self.status: int | None = None
        self.response_started = False
        self.response_complete = False
        self.body_complete = False
        self.bytes_received = 0
        self.bytes_sent = 0
        self._receive = receive
        self._send = send
        self._whole = WHOLE_RESPONSE in scope.get("extensions", ())

    def header(self, name: bytes) -> bytes | None:
        """The value of a header that may occur once; raises `HeaderDuplicated` if it occurs more often."""
        found: bytes | None = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    raise HeaderDuplicated(name.decode("latin-1"))
                found = value
        return found

    async def receive_body(self) -> bytes:
        """The next piece of the request body, b"" possible; sets `body_complete` with the last one.

        Raises `ClientDisconnected`. Reading only when the upstream can take more is what holds the client back.
        """
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        body: bytes = message.get("body", b"")
        self.bytes_received += len(body)
        if not message.get("more_body", False):
            self.body_complete = True
        return body

    async def wait_disconnect(self) -> None:
        """Return when the client has gone. Only to be used once the request body is complete."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start_response(self, status: int, headers: Iterable[Header]) -> None:
        """Send status and headers, with `decorations` (those of CORS) and `own` added to them."""
        self.response_started = True
        self.status = status
        sent = [*headers, *self.decorations, *self.own]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})

    async def send_body(self, body: bytes, *, more: bool) -> None:
        """Send a piece of the response body; waits while the client reads slowly."""
        self.bytes_sent += len(body)
        if not more:
            self.response_complete = True
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def send_response(self, status: int, headers: Iterable[Header], body: bytes) -> Awaitable[None]:
        """`start_response` and the only `send_body`."""
        if not self._whole:
            return self._send_in_two(status, headers, body)
        self.response_started = self.response_complete = True
        self.status = status
        self.bytes_sent += len(body)
        sent = [*headers, *self.decorations, *self.own]
        return self._send({"type": WHOLE_RESPONSE, "status": status, "headers": sent, "body": body})

    async def _send_in_two(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        await self.start_response(status, headers)
        await self.send_body(body, more=False)

    async def respond(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Answer in one piece. A HEAD request gets the headers alone."""
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self.send_response(status, headers, b"" if self.method == "HEAD" else body)
