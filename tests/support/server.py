"""A strict listener on a real socket, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.errors import AccessError
from ostiary.problem import Problems
from ostiary.server import (
    ContextSource,
    Gate,
    ListenerLimits,
    Proxies,
    Refused,
    refuse_unless_strict,
    strict_protocol,
    tls_protocol,
)
from support.shipped import listener_limits

ATTACKS = Path(__file__).parent.parent / "attacks" / "attacks.json"
PATIENCE = 20.0
"""Seconds after which a test that waits for something gives up."""


def attacks() -> list[dict[str, Any]]:
    """The cases that are one exact message."""
    return [case for case in json.loads(ATTACKS.read_text()) if "HTTP/" in case["raw_request"].partition("\\r\\n")[0]]


def message(raw_request: str, token: str = "t") -> bytes:
    """The bytes of a case (SECURITY says how they are written)."""
    raw = raw_request.encode("ascii").decode("unicode_escape").encode("latin-1")
    return raw.replace(b"{TOKEN}", token.encode())


@dataclass
class Seen:
    """One request as an application got it."""

    scope: Scope
    body: bytes = b""
    disconnected: bool = False


@dataclass
class Recorder:
    """An application that reads the whole body, answers 200 with what `answer` makes, and remembers everything."""

    answer: Callable[[Seen], bytes] = lambda seen: seen.scope["raw_path"]
    seen: list[Seen] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = Seen(scope)
        self.seen.append(seen)
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                seen.disconnected = True
                return
            seen.body += event["body"]
            more = event["more_body"]
        body = self.answer(seen)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})


async def _no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("not asked for")


class _Server(uvicorn.Server):
    """Tells when it serves."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second, which would be most of the tests' time.
        while not await self.on_tick(0):  # noqa: ASYNC110 # what is waited for is a plain flag
            await asyncio.sleep(0.01)


@dataclass
class Listener:
    port: int
    refused: list[tuple[AccessError, Refused]]
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server

    @contextlib.contextmanager
    def connect(self, *, receive_buffer: int | None = None, source: str | None = None) -> Iterator[Client]:
        """`source` is the client's own address."""
        sock = socket.socket()
        if source is not None:
            sock.bind((source, 0))
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        with sock:
            yield Client(sock)

    def exchange(self, raw: bytes) -> list[Response]:
        """Send bytes on a new connection and read all that is answered."""
        with self.connect() as client:
            client.send(raw)
            return client.responses(several=raw.count(b" HTTP/1.") > 1)

    @property
    def reasons(self) -> list[str]:
        return [refusal.reason for refusal, _ in self.refused]


@dataclass(frozen=True)
class Response:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, found
        return found[0] if found else None

    @property
    def problem(self) -> dict[str, Any]:
        document = json.loads(self.body)
        assert len(document.pop("decision_id")) == 32
        return document


class Client:
    """A socket, and what has been read from it and not yet been used."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def rest(self) -> bytes:
        """Everything until the server closes."""
        while data := self.sock.recv(65536):
            self._buffer += data
        found, self._buffer = self._buffer, b""
        return found

    def response(self, *, head: bool = False) -> Response:
        """One response, its framing followed to the letter."""
        status, *lines = self.read_until(b"\r\n\r\n")[:-4].split(b"\r\n")
        headers = tuple((line.partition(b": ")[0], line.partition(b": ")[2]) for line in lines)
        answer = Response(int(status.split(b" ")[1]), headers, b"")
        length = answer.header(b"content-length")
        if head or answer.status in (100, 204, 304):
            return answer
        if answer.header(b"transfer-encoding") == b"chunked":
            assert length is None
            return Response(answer.status, headers, b"".join(self.chunks()))
        body = self.rest() if length is None else self.read(int(length))
        return Response(answer.status, headers, body)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.read_until(b"\r\n"), 16):
            yield self.read(size)
            assert self.read(2) == b"\r\n"
        assert self.read(2) == b"\r\n"

    def responses(self, *, several: bool) -> list[Response]:
        """The first response and, unless there can be but one, those that follow it shortly."""
        found = [self.response()]
        if several and found[0].header(b"connection") != b"close":
            self.sock.settimeout(0.5)
            with contextlib.suppress(EOFError, ConnectionResetError, TimeoutError):
                while True:
                    found.append(self.response())
        return found

    def closed(self) -> bool:
        """Whether the server ends the connection without another byte."""
        try:
            return self._buffer == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def listener(
    app: ASGIApp,
    limits: ListenerLimits | None = None,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    on_refused: Callable[[AccessError, Refused], None] | None = None,
    proxies: Proxies | None = None,
    tls: ContextSource | None = None,
) -> Iterator[Listener]:
    """Serve the application from a thread of its own, as a worker would; with `tls`, over TLS."""
    refused: list[tuple[AccessError, Refused]] = []
    report = on_refused or (lambda refusal, facts: refused.append((refusal, facts)))
    strict = strict_protocol(limits or listener_limits(), problems=Problems(), on_refused=report, proxies=proxies)
    config = uvicorn.Config(
        Gate(http=app, lifespan=_no_lifespan),
        http=strict if tls is None else tls_protocol(strict, contexts=tls),
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    refuse_unless_strict(config)
    ready = threading.Event()
    server = _Server(config, ready)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server._serve([sock])

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield Listener(sock.getsockname()[1], refused, loops[0], server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        sock.close()
        assert not thread.is_alive()


async def respond(send: Send, body: bytes = b"", *headers: tuple[bytes, bytes], status: int = 200) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def disconnected(receive: Receive) -> None:
    """Return once the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def eventually(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
