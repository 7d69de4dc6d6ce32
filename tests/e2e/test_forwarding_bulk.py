"""Bodies of a gigabyte, both ways, in constant memory."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest

from support.proxy import RunningProxy, forget_peak, memory

GIB = 1 << 30
BLOCK = memoryview(bytes(1 << 20))
GROWTH = 16 << 20
"""More than all buffers on the way, far less than a body."""


@contextlib.contextmanager
def blocking_upstream(port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """One connection, served in a thread: the fastest that plain Python has."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(10)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            thread.join(30)
            assert not thread.is_alive()


def read_lines(reader: BinaryIO) -> list[bytes]:
    """A message's head, line by line."""
    return list(iter(reader.readline, b"\r\n"))


def read_through(reader: BinaryIO, size: int) -> int:
    """Read at most `size` bytes, or until the other side ends; how many there were."""
    space, got = memoryview(bytearray(1 << 20)), 0
    while got < size and (count := reader.readinto(space[: size - got])):
        got += count
    return got


def content(reader: BinaryIO) -> int:
    """Read a chunked body; how many bytes of content it had."""
    got = 0
    while size := int(reader.readline(), 16):
        got += read_through(reader, size)
        assert reader.read(2) == b"\r\n"
    assert reader.read(2) == b"\r\n"
    return got


def send_all(connection: socket.socket, size: int, *, chunked: bool = False) -> None:
    for _ in range(size // len(BLOCK)):
        if chunked:
            connection.sendmsg([b"%x\r\n" % len(BLOCK)], [], socket.MSG_MORE)
        connection.sendall(BLOCK)
        if chunked:
            connection.sendall(b"\r\n")
    if chunked:
        connection.sendall(b"0\r\n\r\n")


@contextlib.contextmanager
def flat(proxy: RunningProxy, note: Callable[[str, object], None]) -> Iterator[None]:
    """The worker's memory, at its peak, does not grow with what it carries."""
    (worker,) = proxy.worker_pids
    forget_peak(worker)
    before, began = memory(worker), time.monotonic()
    yield
    grown = memory(worker) - before
    note("seconds", round(time.monotonic() - began, 2))
    note("grown_bytes", grown)
    assert grown < GROWTH


def request(proxy: RunningProxy, line: str, headers: str = "") -> bytes:
    lines = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n{headers}"
    return f"{line} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode()


def test_a_gigabyte_down(
    proxy: RunningProxy, orders_port: int, record_testsuite_property: Callable[[str, object], None]
) -> None:
    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb", buffering=0) as reader:
            read_lines(reader)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % GIB)
        send_all(connection, GIB)

    with (
        flat(proxy, record_testsuite_property),
        blocking_upstream(orders_port, serve),
        socket.create_connection(("127.0.0.1", proxy.port), 30) as client,
    ):
        client.sendall(request(proxy, "GET /orders/export"))
        with client.makefile("rb", buffering=1 << 20) as reader:
            assert read_lines(reader)[0].startswith(b"HTTP/1.1 200 ")
            assert read_through(reader, 2 * GIB) == GIB


@pytest.mark.parametrize("framing", [f"Content-Length: {GIB}", "Transfer-Encoding: chunked"])
def test_a_gigabyte_up(
    proxy: RunningProxy,
    orders_port: int,
    record_testsuite_property: Callable[[str, object], None],
    framing: str,
) -> None:
    chunked = "chunked" in framing
    received = []

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb", buffering=1 << 20) as reader:
            head = read_lines(reader)
            assert (b"transfer-encoding: chunked\r\n" in head) is chunked
            received.append(content(reader) if chunked else read_through(reader, GIB))
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with (
        flat(proxy, record_testsuite_property),
        blocking_upstream(orders_port, serve),
        socket.create_connection(("127.0.0.1", proxy.port), 30) as client,
    ):
        client.sendall(request(proxy, "POST /orders", f"{framing}\r\n"))
        send_all(client, GIB, chunked=chunked)
        with client.makefile("rb") as reader:
            assert read_lines(reader)[0].startswith(b"HTTP/1.1 200 ")
            assert reader.read() == b"ok"
    assert received == [GIB]
