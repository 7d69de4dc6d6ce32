"""The service behind the proxy: it records every byte that reaches it, and answers what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

PROBE: Final = re.compile(r"/orders/probe-[0-9a-f]+")
"""Paths of the requests that the runner itself makes beside a case."""

_LINE: Final = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.1")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?(.*)", re.DOTALL)


@dataclass
class Received:
    """A request as it came. `unclean` says what of it is not one clean HTTP/1.1 request."""

    connection: int
    head: bytes
    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    answered: bool = False
    unclean: str = ""

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def is_probe(self) -> bool:
        return PROBE.fullmatch(self.target) is not None


Reply = Callable[["Received", asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; whether the connection may carry another."""


def answer(received: Received) -> bytes:
    """What the service answers unless it is told otherwise: it says what it was asked for."""
    body = f"the service was asked for {received.target}".encode("latin-1")
    content = b"" if received.method == "HEAD" else body
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\n\r\n%s" % (len(body), content)


@dataclass
class Service:
    """Use: `async with service.running()`. Probes are always answered as usual."""

    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    reply: Reply | None = None
    """For every request that is no probe, while it is set."""
    early: bytes | None = None
    """What is answered to the next such request as soon as its head is there. Its body is read afterwards."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _closing: bool = False

    @contextlib.asynccontextmanager
    async def running(self, host: str = "127.0.0.1") -> AsyncIterator[Service]:
        server = await asyncio.start_server(self._serve, host, self.port, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._closing = True
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # what was closed has ended then

    def since(self, mark: int) -> list[Received]:
        """The requests after the first `mark` that are no probes."""
        return [one for one in self.received[mark:] if not one.is_probe]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.connections += 1
        number = self.connections
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while (received := await self._request(reader, writer, number)) is not None:
                if not received.whole:
                    break
                if received.answered:
                    continue
                if self.reply is not None and not received.is_probe:
                    if not await self.reply(received, writer):
                        break
                else:
                    writer.write(answer(received))
                await writer.drain()
        if self._closing:
            writer.transport.abort()
        writer.close()

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> Received | None:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.received.append(Received(number, error.partial, unclean="bytes that are no whole request"))
            return None
        except asyncio.LimitOverrunError:
            self.received.append(Received(number, b"", unclean="a head without an end"))
            return None
        received = _parsed(number, raw)
        self.received.append(received)
        if received.unclean:
            return received
        if self.early is not None and not received.is_probe:
            writer.write(self.early)
            self.early, received.answered = None, True
        try:
            await self._body(reader, received)
        except (asyncio.IncompleteReadError, ConnectionError):
            received.unclean = "the body has no end"
        except (ValueError, asyncio.LimitOverrunError):
            received.unclean = "the body's chunks are malformed"
        else:
            received.whole = True
        return received

    async def _body(self, reader: asyncio.StreamReader, received: Received) -> None:
        lengths, codings = received.values("content-length"), received.values("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            received.unclean = "more than one framing"
        elif codings:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                received.body += await reader.readexactly(size)
                if await reader.readexactly(2) != b"\r\n":
                    raise ValueError
            if await reader.readexactly(2) != b"\r\n":
                received.unclean = "trailers"
        elif lengths:
            received.body = await reader.readexactly(int(lengths[0]))


def _parsed(number: int, raw: bytes) -> Received:
    line, *fields = raw[:-4].decode("latin-1").split("\r\n")
    received = Received(number, raw)
    found = _LINE.fullmatch(line)
    if found is None:
        received.unclean = f"the request line is {line[:80]!r}"
        return received
    received.method, received.target = found[1], found[2]
    for one in fields:
        header = _FIELD.fullmatch(one)
        if header is None or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", header[2]):
            received.unclean = f"the header line {one[:80]!r}"
            return received
        received.headers.append((header[1].lower(), header[2]))
    return received
