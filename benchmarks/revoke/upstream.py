"""The service behind the proxies, in a process of its own: `python -m benchmarks.revoke.upstream` prints its port.

It answers with two bytes, and `/events` with a stream that has no end.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import Final

import uvloop

from benchmarks.processes import ALL, started

_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_STREAM: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT: Final = b"5\r\nevent\r\n"
_BETWEEN: Final = 0.05
"""Seconds between two events: more than the time within which a stream has to be cut, so that none of them helps."""


class _Service(asyncio.Protocol):
    """Requests have no body."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            if b" /events " in head.partition(b"\r\n")[0]:
                self._send(_STREAM)
                self._stream()
            else:
                self._send(_ANSWER)

    def _stream(self) -> None:
        self._send(_EVENT)
        self._next = asyncio.get_running_loop().call_later(_BETWEEN, self._stream)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Its port."""
    with started([sys.executable, "-m", "benchmarks.revoke.upstream"], ALL) as process:
        if process.stdout is None or not (port := process.stdout.readline().strip()):
            raise SystemExit("the upstream did not start")
        yield int(port)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Service, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
