"""A connection that knows, to the moment, when a request was sent and when its answer had arrived."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`sent` and `received` are seconds of `time.monotonic`."""

    sent: float
    received: float
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Kept alive, with one request at a time. Answers have a length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._sent = 0.0
        self._data = b""

    async def ask(self, raw: bytes) -> Answer:
        if self._transport is None:
            raise SystemExit("the proxy has ended a connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._sent = time.monotonic()
        self._transport.write(raw)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the proxy has ended a connection"))

    def data_received(self, data: bytes) -> None:
        received = time.monotonic()
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head) or self._waiting is None:
            return
        self._data = b""
        answer = Answer(sent=self._sent, received=received, status=int(head[9:12]), body=body)
        if not self._waiting.done():
            self._waiting.set_result(answer)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def connected(port: int, worker: int, *, workers: Sequence[int], asking: bytes) -> Connection:
    """A connection to this worker: the others are stopped for the moment in which it is accepted."""
    others = [pid for pid in workers if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        await connection.ask(asking)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    return connection
