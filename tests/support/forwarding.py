"""A client of exact bytes, and what tests of the whole proxy share besides the proxy itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

from support.upstream import Answer, Script, UpstreamConnection
from support.upstream import Seen as Request

PATIENCE = 30.0
"""Seconds after which a test that waits for something gives up."""


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port for upstreams of different tests, one after the other.

    Bound and not listened on: with SO_REUSEADDR another socket may listen there, and nothing else is given it.
    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class Client:
    """A connection to the proxy, and what has been read from it and not been used."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """A chunk of a chunked body; the last one if there are no data."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def head(self) -> Answer:
        """A status line and headers. `complete` means nothing yet."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (one.partition(": ") for one in fields)]
        return Answer(int(line.split(" ")[1]), headers, b"", complete=False)

    async def pieces(self, head: Answer) -> AsyncIterator[bytes]:
        """The body that a head announces, as it arrives; raises `IncompleteReadError` if it is cut off."""
        if head.values("transfer-encoding") == ["chunked"]:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return
        (length,) = head.values("content-length")
        left = int(length)
        while left:
            piece = await self.reader.read(min(left, 1 << 20))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    async def response(self, *, bodiless: bool = False) -> Answer:
        """A whole response, its framing followed to the letter. `bodiless`: it answers a HEAD."""
        head = await self.head()
        if not bodiless and head.status not in (204, 304) and head.status >= 200:
            async with asyncio.timeout(PATIENCE):
                head.body = b"".join([piece async for piece in self.pieces(head)])
        head.complete = True
        return head

    async def ended(self) -> bytes:
        """What still comes until the proxy ends the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""

    def abort(self) -> None:
        """Go away as a client does whose process dies."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(
    port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Client]:
    """A client of the proxy on this port. `receive_buffer` (bytes) makes it a slow reader's, `tls` a secured one."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        name = None if tls is None else "localhost"
        reader, writer = await asyncio.open_connection(sock=sock, limit=64 * 1024, ssl=tls, server_hostname=name)
    except BaseException:  # cancelled, too
        sock.close()
        raise
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def response(body: bytes = b"ok", *, status: str = "200 OK", headers: str = "") -> bytes:
    """The bytes of a response. `headers` are whole lines, each with its line end."""
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


def replies(raw: bytes) -> Script:
    """Reads each request whole and answers it with these bytes."""

    async def reply(connection: UpstreamConnection, seen: Request) -> None:
        await connection.body(seen)
        await connection.send(raw)

    return reply
