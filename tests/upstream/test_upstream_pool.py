"""A pooled connection is handed out only while nothing has come that nobody asked for, read or not yet read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from ostiary.upstream.connection import Connection
from ostiary.upstream.pool import Pool
from support.shipped import upstream_settings
from support.upstream import OK

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"


class SlowListener:
    """An upstream that acts only when it is told to, without the event loop running in between."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        self._listener.settimeout(5)
        found, _ = self._listener.accept()
        self.accepted.append(found)
        return found

    def close(self) -> None:
        for each in (self._listener, *self.accepted):
            with contextlib.suppress(OSError):
                each.close()


@pytest.fixture
def listener() -> Iterator[SlowListener]:
    made = SlowListener()
    yield made
    made.close()


async def _served(pool: Pool, listener: SlowListener) -> tuple[Connection, socket.socket]:
    """A connection on which one exchange is complete, and the upstream's end of it."""
    connection = await pool.acquire()
    upstream = listener.accept()
    connection.begin(to_head=False)
    connection.write(b"GET / HTTP/1.1\r\n\r\n")
    connection.finish()
    upstream.sendall(OK)
    await connection.head()
    await connection.arrival()
    assert connection.take() == b"ok"
    return connection, upstream


@pytest.mark.parametrize("surplus", [EVIL, b"HTTP/1.1 100 Continue\r\n\r\n", None], ids=["response", "interim", "end"])
async def test_what_the_kernel_holds_already_ends_an_idle_connection(
    listener: SlowListener, surplus: bytes | None
) -> None:
    """A second response that arrived just before the next request was never that request's answer."""
    pool = Pool(upstream_settings(host="127.0.0.1", port=listener.port))
    connection, upstream = await _served(pool, listener)
    pool.release(connection, 0.0)
    if surplus is None:
        upstream.close()
    else:
        upstream.sendall(surplus)
    assert pool.take() is None  # the event loop has had no turn to read it
    pool.close()


async def test_a_connection_that_is_passed_on_to_who_waits_is_looked_at_again(listener: SlowListener) -> None:
    pool = Pool(upstream_settings(host="127.0.0.1", port=listener.port, max_connections=1))
    connection, upstream = await _served(pool, listener)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert pool.facts().waiting == 1
    pool.release(connection, 0.0)
    upstream.sendall(EVIL)
    other = await waiting
    assert other is not connection
    assert (other.served, other.quiet) == (0, True)
    pool.release(other, 0.0)
    pool.close()


async def test_a_quiet_connection_is_used_again(listener: SlowListener) -> None:
    pool = Pool(upstream_settings(host="127.0.0.1", port=listener.port))
    connection, _ = await _served(pool, listener)
    pool.release(connection, 0.0)
    assert pool.take() is connection
    pool.release(connection, 0.0)
    pool.close()
