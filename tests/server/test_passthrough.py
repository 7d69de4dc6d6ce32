"""A load balancer that passes TLS through: its preamble stands before the handshake, and is all that it may say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from ostiary.peer import PEER_CERTIFICATE
from ostiary.server import ListenerLimits, server_context
from ostiary.server.preamble import PREAMBLE_BYTES, SIGNATURE
from support.preamble import LOCAL, pinned, preamble
from support.server import PATIENCE, Client, Listener, Recorder, eventually, listener
from support.shipped import listener_limits
from support.tls import Pair, client_context, dns, root, workload

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [uvloop.new_event_loop, asyncio.new_event_loop]
SERVERS, CLIENTS = root("of servers"), root("of clients")
WEB = workload(CLIENTS)


@dataclass
class Contexts:
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def contexts(directory: Path) -> Contexts:
    certificate, key = SERVERS.issue(dns("localhost")).write(directory, "server")
    return Contexts(server_context(certificate=certificate, key=key, authorities=CLIENTS.pem.decode()))


class Wire:
    """A TLS client whose bytes are sent in pieces, or by somebody else."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """The first flight."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def finish(self, *, size: int = 1 << 16) -> None:
        """The rest of the handshake, in pieces of so many bytes."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send(size)
                self._receive()
            else:
                self._send(size)
                return

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)
        self._send(1 << 16)

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if not self._receive():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    def _send(self, size: int) -> None:
        data = self._outgoing.read()
        for start in range(0, len(data), size):
            self._sock.sendall(data[start : start + size])

    def _receive(self) -> bool:
        data = self._sock.recv(1 << 16)
        self._incoming.write(data)
        return bool(data)


def open_through(
    sock: socket.socket, directory: Path, before: bytes, *, size: int, shows: Pair | None = None
) -> Client:
    """A handshake right behind `before`, all in pieces of `size` bytes."""
    wire = Wire(sock, client_context(SERVERS, shows=shows, directory=directory))
    raw = before + wire.hello()
    for start in range(0, len(raw), size):
        sock.sendall(raw[start : start + size])
    wire.finish(size=size)
    return Client(wire)  # type: ignore[arg-type]  # as much of a socket as it needs


@contextlib.contextmanager
def behind(app: Recorder, contexts: Contexts, limits: ListenerLimits | None = None) -> Iterator[Listener]:
    with listener(app, limits, proxies=pinned("proxy-v2"), tls=contexts) as served:
        yield served


def cut(sock: socket.socket) -> bool:
    """Whether the connection ends without a byte."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("size", [1, 1 << 16], ids=["byte by byte", "in one segment"])
@pytest.mark.parametrize(
    ("before", "client"),
    [
        pytest.param(preamble(), ("203.0.113.9", 4711), id="ipv4"),
        pytest.param(preamble("2001:db8::9", 1), ("2001:db8::9", 1), id="ipv6"),
        pytest.param(preamble("::ffff:10.0.0.7"), ("10.0.0.7", 4711), id="mapped"),
        pytest.param(preamble(fields=b"\xea\x00\x60" + b"v" * 96), ("203.0.113.9", 4711), id="fields"),
        pytest.param(LOCAL, None, id="local"),
        pytest.param(preamble(command=0), None, id="local with addresses"),
    ],
)
def test_the_client_of_a_preamble_is_the_client(
    directory: Path,
    contexts: Contexts,
    before: bytes,
    client: tuple[str, int] | None,
    size: int,
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    app = Recorder()
    with (
        listener(app, proxies=pinned("proxy-v2"), tls=contexts, loop_factory=loop) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        through = open_through(sock, directory, before, size=size)
        through.sock.sendall(GET + GET)
        assert [through.response().body, through.response().body] == [b"/a", b"/a"]
        own = sock.getsockname()
        through.sock.sendall(b"GET /b HTTP/1.1\r\n\r\n")
        assert through.response().status == 400
    assert [seen.scope["client"] for seen in app.seen] == [client or own] * 2
    assert [seen.scope["scheme"] for seen in app.seen] == ["https"] * 2
    assert [facts.peer for _, facts in served.refused] == [(client or own)[0]]


def test_a_client_s_certificate_comes_through(directory: Path, contexts: Contexts) -> None:
    app = Recorder()
    with (
        behind(app, contexts) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock,
    ):
        sock.sendall(preamble())
        time.sleep(0.02)  # the handshake comes when the listener waits for it, for once
        through = open_through(sock, directory, b"", size=1 << 16, shows=WEB)
        through.sock.sendall(GET)
        assert through.response().status == 200
    (seen,) = app.seen
    assert seen.scope["client"] == ("203.0.113.9", 4711)
    assert seen.scope["extensions"][PEER_CERTIFICATE].chain == WEB.chain


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(b"", id="none"),
        pytest.param(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", id="version 1"),
        pytest.param(preamble(version=3), id="version 3"),
        pytest.param(preamble(family=0), id="no family"),
        pytest.param(preamble(family=0x31), id="a unix socket"),
        pytest.param(preamble(length=11), id="no room"),
        pytest.param(preamble(length=PREAMBLE_BYTES), id="too long"),
        pytest.param(SIGNATURE[:6], id="half of one"),
        pytest.param(preamble() + preamble("203.0.113.10"), id="two"),
    ],
)
def test_a_pinned_proxy_begins_with_a_preamble_or_is_cut(contexts: Contexts, before: bytes) -> None:
    """And what follows is a handshake, or there is no connection."""
    app = Recorder()
    two = before.count(SIGNATURE) == 2
    with (
        behind(app, contexts) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock,
    ):
        sock.sendall(before + Wire(sock, client_context(SERVERS)).hello())
        with contextlib.suppress(ConnectionError):
            while sock.recv(1 << 16):
                assert two, "an answer to what is no preamble"
        eventually(lambda: served.refused)
        eventually(lambda: not served.server.server_state.connections)
        assert [(refusal.reason, facts.phase, facts.peer, facts.target) for refusal, facts in served.refused] == [
            ("handshake-failed", "connection", "203.0.113.9", None)
            if two
            else ("message-malformed", "connection", "127.0.0.1", None)
        ]
    assert app.seen == []


def test_a_preamble_of_whom_is_not_pinned_is_no_handshake(directory: Path, contexts: Contexts) -> None:
    app = Recorder()
    with listener(app, proxies=pinned("proxy-v2", "127.0.0.9/32"), tls=contexts) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            sock.sendall(preamble() + Wire(sock, client_context(SERVERS)).hello())
            with contextlib.suppress(ConnectionError):
                while sock.recv(1 << 16):
                    pass
        eventually(lambda: served.refused)
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            through = open_through(sock, directory, b"", size=1 << 16)
            through.sock.sendall(GET)
            assert through.response().status == 200
            own = sock.getsockname()
    assert [(refusal.reason, facts.peer) for refusal, facts in served.refused] == [("handshake-failed", "127.0.0.1")]
    assert [seen.scope["client"] for seen in app.seen] == [own]


@pytest.mark.parametrize(
    ("begin", "reasons"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(SIGNATURE, ["request-timeout"], id="half a preamble"),
        pytest.param(LOCAL, [], id="local, and nothing"),
        pytest.param(preamble(), ["handshake-failed"], id="a preamble, and nothing"),
    ],
)
def test_a_preamble_has_a_deadline_and_so_has_the_handshake(
    contexts: Contexts, begin: bytes, reasons: list[str]
) -> None:
    with behind(Recorder(), contexts, listener_limits(header_timeout=0.5)) as served:
        started = time.monotonic()  # before there is a connection, whose time begins when the server has it
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            sock.sendall(begin)
            assert cut(sock)
        assert 0.45 < time.monotonic() - started < 5.0
        eventually(lambda: not served.server.server_state.connections)
    assert served.reasons == reasons  # what is refused is reported behind the end of its connection


def test_bytes_do_not_move_the_deadline_of_a_preamble(contexts: Contexts) -> None:
    with (
        behind(Recorder(), contexts, listener_limits(header_timeout=0.2)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock,
    ):
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in preamble(fields=b"\xea" * 4000):
                sock.sendall(bytes([byte]))
                time.sleep(0.01)
        assert time.monotonic() - started < 2.0
        eventually(lambda: served.reasons == ["request-timeout"])


@pytest.mark.parametrize("said", [b"", SIGNATURE, LOCAL], ids=["nothing", "half a preamble", "local"])
def test_a_health_check_that_goes_again_leaves_nothing_behind(contexts: Contexts, said: bytes) -> None:
    with behind(Recorder(), contexts) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            sock.sendall(said)
            eventually(lambda: served.server.server_state.connections)
        eventually(lambda: not served.server.server_state.connections)
        assert served.refused == []


def test_a_server_that_stops_waits_for_a_preamble_as_long_as_for_any_client(contexts: Contexts) -> None:
    with behind(Recorder(), contexts, listener_limits(drain_grace=0.1)) as served:
        sock = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        eventually(lambda: served.server.server_state.connections)
    with sock:
        assert cut(sock)
    assert served.refused == []


def test_connections_count_for_their_clients_before_their_handshake_and_are_counted_out(
    directory: Path, contexts: Contexts
) -> None:
    limits = listener_limits(connections_per_peer=2, connections=5, linger=0.1)
    with behind(Recorder(), contexts, limits) as served, contextlib.ExitStack() as opened:

        def dial() -> socket.socket:
            connected = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
            return opened.enter_context(connected)

        through = open_through(dial(), directory, preamble(), size=1 << 16)
        dial().sendall(preamble())  # and no handshake
        eventually(lambda: len(served.server.server_state.connections) == 2)
        third = dial()
        third.sendall(preamble())
        assert cut(third)
        assert [(refusal.reason, facts.peer) for refusal, facts in served.refused] == [("overloaded", "203.0.113.9")]

        for before in (preamble("203.0.113.10"), LOCAL, LOCAL):
            other = open_through(dial(), directory, before, size=1 << 16)
            other.sock.sendall(GET)
            assert other.response().status == 200
        sixth = dial()
        assert cut(sixth), "the listener has its five"
        assert [facts.peer for _, facts in served.refused] == ["203.0.113.9", "127.0.0.1"]
        through.sock.sendall(GET)
        assert through.response().status == 200
        opened.close()
        eventually(lambda: not served.server.server_state.connections)
        served.refused.clear()

        for _ in range(2):
            again = open_through(dial(), directory, preamble(), size=1 << 16)
            again.sock.sendall(GET)
            assert again.response().status == 200
        assert served.refused == []
