"""TLS before the strict protocol, on real sockets: what is spoken, who is counted, what reaches the application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from ostiary.peer import PEER_CERTIFICATE, PeerCertificate
from ostiary.server import UnsafeListener, refuse_unless_strict, server_context
from ostiary.server.tls import TlsFront
from support.server import PATIENCE, Client, Recorder, Seen, eventually, listener
from support.shipped import listener_limits
from support.tls import Pair, client_context, dial, dns, root, workload

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [uvloop.new_event_loop, asyncio.new_event_loop]


@dataclass
class Contexts:
    """What the listener asks for each connection."""

    context: ssl.SSLContext


@dataclass
class Place:
    """A directory with a server's certificate, and those who stand above it and above its clients."""

    directory: Path
    authority: Pair
    clients: Pair

    def contexts(self, *, least: str = "TLSv1.2", asks: bool = True) -> Contexts:
        certificate, key = self.authority.issue(dns("localhost")).write(self.directory, "server")
        authorities = self.clients.pem.decode() if asks else ""
        return Contexts(server_context(certificate=certificate, key=key, authorities=authorities, least=least))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, root("of servers"), root("of clients"))


def peer(seen: Seen) -> PeerCertificate | None:
    found = seen.scope["extensions"].get(PEER_CERTIFICATE)
    assert found is None or isinstance(found, PeerCertificate)
    return found


def turned_away(port: int, place: Place, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None) -> bool:
    """Whether a client is refused before it is answered: with TLS 1.3 it learns of that when it first reads."""
    try:
        with dial(port, trusted=place.authority, context=context, session=session) as dialled:
            dialled.sock.sendall(GET)
            dialled.client.response()
    except (ssl.SSLError, ConnectionError, EOFError):
        return True
    return False


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_requests_come_over_tls_and_are_known_to(
    place: Place, version: ssl.TLSVersion, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    app = Recorder()
    with (
        listener(app, tls=place.contexts(), loop_factory=loop) as served,
        dial(served.port, trusted=place.authority, version=version) as dialled,
    ):
        for _ in range(2):
            dialled.sock.sendall(GET)
            assert dialled.client.response().body == b"/a"
    assert [one.scope["scheme"] for one in app.seen] == ["https", "https"]
    assert [peer(one) for one in app.seen] == [None, None]
    assert served.refused == []


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_a_client_s_chain_is_in_every_scope_of_its_connection_and_the_same_object(
    place: Place, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    intermediate = place.clients.issue(subject="between", authority=True)
    client = workload(intermediate)
    app = Recorder()
    with (
        listener(app, tls=place.contexts(), loop_factory=loop) as served,
        dial(served.port, trusted=place.authority, shows=client, directory=place.directory) as dialled,
    ):
        for _ in range(2):
            dialled.sock.sendall(GET)
            assert dialled.client.response().status == 200
    first, second = (peer(one) for one in app.seen)
    assert first is not None
    assert first is second
    assert first.chain == client.chain
    assert first.verdict is None


def test_pipelined_requests_right_behind_the_handshake_are_all_answered(place: Place) -> None:
    app = Recorder()
    with (
        listener(app, tls=place.contexts()) as served,
        dial(served.port, trusted=place.authority) as dialled,
    ):
        dialled.sock.sendall(GET * 5)
        assert [dialled.client.response().status for _ in range(5)] == [200] * 5


def test_a_certificate_that_no_authority_vouches_for_ends_the_handshake_and_is_recorded(place: Place) -> None:
    stranger = workload(root("of strangers"))
    app = Recorder()
    with listener(app, tls=place.contexts()) as served:
        context = client_context(place.authority, shows=stranger, directory=place.directory)
        assert turned_away(served.port, place, context)
        eventually(lambda: served.reasons == ["handshake-failed"])
        refusal, facts = served.refused[0]
        assert refusal.detail.startswith("the client's certificate: ")
        assert (facts.phase, facts.peer, facts.target) == ("connection", "127.0.0.1", None)
    assert app.seen == []


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        pytest.param(GET, "http request", id="plain HTTP"),
        pytest.param(b"\x00" * 64, "", id="noise"),
        pytest.param(b"", "", id="nothing, and gone"),
    ],
)
def test_what_is_no_handshake_is_closed_and_recorded(place: Place, sent: bytes, cause: str) -> None:
    app = Recorder()
    with listener(app, tls=place.contexts()) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            sock.sendall(sent)
            if not sent:
                sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):
                    pass
        eventually(lambda: served.reasons == ["handshake-failed"])
        assert cause in served.refused[0][0].detail
    assert app.seen == []


def test_a_handshake_has_the_time_of_a_head(place: Place) -> None:
    with (
        listener(Recorder(), listener_limits(header_timeout=0.2), tls=place.contexts()) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock,
    ):
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        eventually(lambda: served.reasons == ["handshake-failed"])


def test_connections_are_counted_before_their_handshake_and_counted_out_again(place: Place) -> None:
    """A flood of handshakes that never end meets the limit of connections."""
    limits = listener_limits(connections=2)
    with listener(Recorder(), limits, tls=place.contexts()) as served:
        idle = [socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) for _ in range(2)]
        eventually(lambda: len(served.server.server_state.connections) == 2)
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as third:
            with contextlib.suppress(ConnectionError):
                assert third.recv(1) == b""
            eventually(lambda: served.reasons == ["overloaded"])
        for sock in idle:
            sock.close()
        eventually(lambda: not served.server.server_state.connections)
        with dial(served.port, trusted=place.authority) as dialled:
            dialled.sock.sendall(GET)
            assert dialled.client.response().status == 200
        eventually(lambda: not served.server.server_state.connections)
        with dial(served.port, trusted=place.authority), dial(served.port, trusted=place.authority) as dialled:
            dialled.sock.sendall(GET)
            assert dialled.client.response().status == 200


def test_a_server_that_stops_waits_for_a_handshake_as_long_as_for_any_client(place: Place) -> None:
    with listener(Recorder(), listener_limits(drain_grace=0.1), tls=place.contexts()) as served:
        sock = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        eventually(lambda: served.server.server_state.connections)
    with sock, contextlib.suppress(ConnectionError):
        assert sock.recv(1) == b""
    assert served.refused == []


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_a_handshake_that_a_server_meets_when_it_stops_is_ended_and_one_request_is_answered(
    place: Place, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with listener(Recorder(), tls=place.contexts(), loop_factory=loop) as served:
        sock = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        eventually(lambda: served.server.server_state.connections)
        served.server.should_exit = True
        eventually(lambda: not served.server.servers[0].sockets)
        with client_context(place.authority).wrap_socket(sock, server_hostname="localhost") as secured:
            client = Client(secured)
            secured.sendall(GET)
            answer = client.response()
            assert (answer.status, answer.header(b"connection")) == (200, b"close")
            assert secured.recv(1) == b""


def test_a_new_context_is_for_new_connections_and_leaves_the_others_alone(place: Place) -> None:
    contexts = place.contexts()
    with (
        listener(Recorder(), tls=contexts) as served,
        dial(served.port, trusted=place.authority) as before,
    ):
        before.sock.sendall(GET)
        assert before.client.response().status == 200
        successor = Place(place.directory, root("the next one"), place.clients)
        contexts.context = successor.contexts().context
        with dial(served.port, trusted=successor.authority) as after:
            after.sock.sendall(GET)
            assert after.client.response().status == 200
        with pytest.raises(ssl.SSLCertVerificationError), dial(served.port, trusted=place.authority):
            pass
        before.sock.sendall(GET)
        assert before.client.response().status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_no_session_outlives_the_authorities_it_was_made_under(place: Place, version: ssl.TLSVersion) -> None:
    """There are no tickets, and a session that the server itself remembers is gone with its context."""
    contexts = place.contexts()
    app = Recorder()
    context = client_context(place.authority, shows=workload(place.clients), directory=place.directory, version=version)
    with listener(app, tls=contexts) as served:
        with dial(served.port, trusted=place.authority, context=context) as dialled:
            dialled.sock.sendall(GET)
            assert dialled.client.response().status == 200
            session = dialled.sock.session
            assert session is None or not session.has_ticket
        contexts.context = Place(place.directory, place.authority, root("somebody else")).contexts().context
        assert turned_away(served.port, place, context, session=session)
    assert len(app.seen) == 1


def test_only_http_1_1_is_negotiated(place: Place) -> None:
    context = client_context(place.authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        listener(Recorder(), tls=place.contexts()) as served,
        dial(served.port, trusted=place.authority, context=context) as dialled,
    ):
        assert dialled.sock.selected_alpn_protocol() == "http/1.1"


def test_an_older_version_than_configured_is_refused(place: Place) -> None:
    with listener(Recorder(), tls=place.contexts(least="TLSv1.3")) as served:
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            dial(served.port, trusted=place.authority, version=ssl.TLSVersion.TLSv1_2),
        ):
            pass
        eventually(lambda: served.reasons == ["handshake-failed"])


def test_what_the_listener_refuses_by_itself_is_answered_over_tls(place: Place) -> None:
    with (
        listener(Recorder(), tls=place.contexts()) as served,
        dial(served.port, trusted=place.authority) as dialled,
    ):
        dialled.sock.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n")
        assert dialled.client.response().status == 400
        assert dialled.client.closed()
        assert served.reasons == ["upgrade-refused"]


def test_a_large_body_goes_both_ways(place: Place) -> None:
    body = bytes(range(256)) * 4096
    with (
        listener(Recorder(lambda seen: seen.body), tls=place.contexts()) as served,
        dial(served.port, trusted=place.authority) as dialled,
    ):
        dialled.sock.sendall(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert dialled.client.response().body == body


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(place: Place) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    server = place.authority.issue(dns("localhost"))
    certificate, key = server.write(place.directory, "server")
    key.write_bytes(server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")))
    started = time.monotonic()
    with pytest.raises((OSError, ValueError)):
        server_context(certificate=certificate, key=key)
    assert time.monotonic() - started < PATIENCE


def test_a_front_without_a_strict_protocol_behind_it_cannot_serve() -> None:
    import uvicorn

    with pytest.raises(UnsafeListener):
        refuse_unless_strict(uvicorn.Config(Recorder(), http=TlsFront, interface="asgi3", ws="none"))
