"""Responses, aborts and the order of messages on a connection."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from support.server import PATIENCE, Recorder, disconnected, eventually, listener, respond
from support.shipped import listener_limits

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LOOPS = [pytest.param(uvloop.new_event_loop, id="uvloop"), pytest.param(asyncio.new_event_loop, id="asyncio")]
MEGABYTE = 1 << 20


def get(path: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/" + version, b"Host: h", *lines, b"", b""])


def answering(status: int, headers: list[tuple[bytes, bytes]], *bodies: bytes) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for body in bodies[:-1]:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": bodies[-1] if bodies else b""})

    return app


LENGTH_3 = (b"content-length", b"3")


@pytest.mark.parametrize(
    ("request_", "app", "raw"),
    [
        (get(b"/"), answering(200, [LENGTH_3], b"a", b"bc"), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
        (
            get(b"/"),
            answering(200, [(b"X", b"y")], b"a", b"", b"bc"),
            b"HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        ),
        (
            get(b"/"),
            answering(200, [(b"Transfer-Encoding", b"chunked"), (b"Connection", b"keep-alive")], b"a", b""),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ),
        (
            get(b"/"),
            answering(200, [(b"Content-Length", b"3"), (b"connection", b"Close")], b"abc"),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        ),
        (
            get(b"/", b"Connection: close"),
            answering(200, [LENGTH_3], b"abc"),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        ),
        (get(b"/"), answering(204, [LENGTH_3], b"abc"), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (get(b"/"), answering(304, [LENGTH_3], b"abc"), b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n"),
        (get(b"/", method=b"HEAD"), answering(200, [LENGTH_3]), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"),
        (get(b"/", method=b"HEAD"), answering(200, [], b"abc"), b"HTTP/1.1 200 OK\r\n\r\n"),
        (
            get(b"/", version=b"1.0"),
            answering(200, [LENGTH_3], b"abc"),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc",
        ),
        (
            get(b"/", b"Connection: keep-alive", version=b"1.0"),
            answering(200, [], b"a", b"bc"),
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc",
        ),
    ],
    ids=[
        *("length", "chunked", "reframed", "app closes", "client closes", "204", "304", "head", "head without length"),
        *("1.0 length", "1.0 until close"),
    ],
)
def test_a_response_is_framed_for_its_request(request_: bytes, app: ASGIApp, raw: bytes) -> None:
    with listener(app) as served, served.connect() as client:
        client.send(request_)
        assert client.read(len(raw)) == raw
        if b"connection: close" in raw:
            assert client.closed()
        else:
            client.send(request_)
            assert client.read(len(raw)) == raw


@pytest.mark.parametrize(
    ("app", "status"),
    [
        (answering(200, [(b"x", b"a\r\nset-cookie: b")]), 500),
        (answering(200, [(b"x\r\ny", b"a")]), 500),
        (answering(200, [(b"x", b"a\x00")]), 500),
        (answering(200, [(b"content-length", b"x")]), 500),
        (answering(200, [(b"content-length", b"1"), (b"content-length", b"1")]), 500),
        (answering(101, []), 500),
        (answering(200, [(b"x", b"a\tb \xe9")]), 200),
    ],
    ids=["header split", "name split", "nul", "length", "two lengths", "interim", "legal"],
)
def test_a_response_that_cannot_be_sent_safely_is_500(
    app: ASGIApp, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), listener(app) as served, served.connect() as client:
        client.send(GET)
        answer = client.response()
        assert answer.status == status
        if status == 500:
            assert answer.problem == {
                "type": "about:blank",
                "status": 500,
                "title": "The proxy failed.",
                "reasons": ["internal-error"],
            }
            assert client.closed()


def test_an_application_that_fails_or_says_nothing_is_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/raise":
            raise LookupError("oh")

    with listener(broken) as served:
        for path in (b"/raise", b"/return"):
            (answer,) = served.exchange(get(path))
            assert (answer.status, answer.header(b"connection")) == (500, b"close")
    assert [record.getMessage() for record in caplog.records] == [
        "the application failed",
        "the application returned without a response",
    ]


# Aborts: what was not completed never looks complete.


def aborting(headers: list[tuple[bytes, bytes]], how: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await asyncio.sleep(0.05)  # the client has it
        if how == "raises":
            raise LookupError("oh")

    return app


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("how", ["returns", "raises"])
def test_an_aborted_response_never_looks_complete(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with listener(aborting([], how), loop_factory=loop_factory) as served:
        with served.connect() as client:
            client.send(GET + GET)
            assert client.read_until(b"\r\n\r\n2\r\nab\r\n")
            assert client.closed()  # without the last chunk, and without the next response
        with served.connect() as client:
            client.send(get(b"/", version=b"1.0"))
            client.read_until(b"\r\n\r\nab")
            with pytest.raises(ConnectionResetError):
                client.rest()  # the end would have been the end of the body
    with listener(aborting([LENGTH_3], how), loop_factory=loop_factory) as served, served.connect() as client:
        client.send(GET)
        assert client.read_until(b"\r\n\r\nab")
        assert client.closed()
    assert len(caplog.records) == (0 if how == "returns" else 3)


def test_a_response_shorter_or_longer_than_announced_is_an_abort(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        for bodies in ([b"ab"], [b"ab", b"cd"]):
            with listener(answering(200, [LENGTH_3], *bodies)) as served, served.connect() as client:
                client.send(GET)
                client.read_until(b"\r\n\r\n")
                assert len(client.rest()) < 3


# The client goes away.


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("when", ["before the response", "during the response", "during the body", "half-closed"])
def test_the_application_learns_at_once_that_the_client_has_gone(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    started, gone = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if when == "during the response":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        started.set()
        await disconnected(receive)
        gone.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})  # to nobody: no error

    with listener(app, loop_factory=loop_factory) as served:
        with served.connect() as client:
            client.send(GET if when != "during the body" else CHUNKED + b"1\r\na\r\n")
            assert started.wait(2)
            if when == "half-closed":
                client.sock.shutdown(1)
                assert gone.wait(0.5)
        assert gone.wait(0.5)
    assert caplog.records == []


# One connection, several messages.


def test_pipelined_requests_are_answered_in_order_and_worked_on_one_by_one() -> None:
    running: list[int] = [0, 0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running[0] += 1
        running[1] = max(running)
        while (await receive())["more_body"]:
            pass
        await asyncio.sleep(0.02 if scope["path"] in ("/0", "/3") else 0)
        running[0] -= 1
        await respond(send, scope["raw_path"])

    with listener(app) as served, served.connect() as client:
        client.send(
            b"".join(get(b"/%d" % n) if n % 2 else CHUNKED.replace(b"/a", b"/%d" % n) + b"0\r\n\r\n" for n in range(8))
        )
        assert [client.response().body for _ in range(8)] == [b"/%d" % n for n in range(8)]
        client.send(get(b"/9"))
        assert client.response().body == b"/9"
    assert running == [0, 1]


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.get_running_loop().run_in_executor(None, release.wait)
        await respond(send, scope["raw_path"])

    with listener(app) as served, served.connect() as client:
        client.send(get(b"/1") + get(b"/2") + b"GET /3 HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n" + get(b"/4"))
        eventually(lambda: served.refused)
        release.set()
        assert [client.response().body, client.response().body] == [b"/1", b"/2"]
        answer = client.response()
        assert answer.problem["reasons"] == ["upgrade-refused"]
        assert client.closed()
    assert served.reasons == ["upgrade-refused"]


def test_nothing_behind_a_last_request_is_looked_at() -> None:
    app = Recorder()
    with listener(app) as served:
        for last in (get(b"/1", b"Connection: close"), get(b"/1", version=b"1.0")):
            for more in (get(b"/2"), b"garbage"):
                with served.connect() as client:
                    client.send(last + more)
                    assert client.response().body == b"/1"
                    assert client.closed()
    assert [seen.scope["path"] for seen in app.seen] == ["/1"] * 4
    assert served.refused == []


def test_a_body_that_breaks_in_the_same_segment_is_refused_before_the_application_starts() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        client.send(GET + CHUNKED + b"3\r\nabc\r\nzz\r\n")
        assert client.response().status == 200
        assert client.response().problem["reasons"] == ["message-malformed"]
        assert client.closed()
    assert [seen.body for seen in app.seen] == [b""]


def test_a_body_that_breaks_later_is_refused_and_the_application_told() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        client.send(CHUNKED + b"3\r\nabc\r\n")
        eventually(lambda: app.seen and app.seen[0].body)
        client.send(b"zz\r\n")
        assert client.response().problem["reasons"] == ["message-malformed"]
        assert client.closed()
        eventually(lambda: app.seen[0].disconnected)
    assert [(refusal.reason, facts.phase) for refusal, facts in served.refused] == [("message-malformed", "body")]


def test_so_many_requests_may_wait_and_no_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await disconnected(receive) if scope["path"] == "/never" else await respond(send, scope["raw_path"])

    with listener(app, listener_limits(pipelined=4)) as served:
        with served.connect() as client:
            client.send(b"".join(get(b"/%d" % n) for n in range(1000)))
            answers = [client.response() for _ in range(4)]
            assert [answer.body for answer in answers] == [b"/0", b"/1", b"/2", b"/3"]
            assert answers[-1].header(b"connection") == b"close"
            assert client.closed()
        with served.connect() as client:  # a waiting application does not let more in
            client.send(get(b"/never"))
            for _ in range(100):
                client.send(get(b"/x") * 100)
            eventually(lambda: len(served.server.server_state.connections) == 1)  # the first one is gone
            (protocol,) = served.server.server_state.connections
            assert len(protocol._waiting) <= 4


# 100-continue.


def test_a_client_is_asked_for_its_body_when_the_application_wants_it() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        for _ in range(2):
            client.send(get(b"/a", b"Expect: 100-Continue", b"Content-Length: 2", method=b"POST"))
            assert client.response().status == 100
            client.send(b"ok")
            assert client.response().status == 200
    assert [seen.body for seen in app.seen] == [b"ok", b"ok"]


def test_a_client_that_does_not_wait_is_not_asked() -> None:
    with listener(Recorder()) as served, served.connect() as client:
        client.send(get(b"/a", b"Expect: 100-continue", b"Content-Length: 2", method=b"POST") + b"ok")
        assert client.response().status == 200
        client.send(get(b"/a", b"Expect: 100-continue", b"Content-Length: 2", method=b"POST", version=b"1.0") + b"ok")
        assert client.response().status == 200
        assert client.closed()


def test_an_answer_without_the_body_closes_because_it_may_still_come() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no", status=403)

    with listener(app) as served, served.connect() as client:
        client.send(get(b"/a", b"Expect: 100-continue", b"Content-Length: 2", method=b"POST"))
        answer = client.response()
        assert (answer.status, answer.header(b"connection")) == (403, b"close")
        assert client.closed()


def test_a_client_that_waits_for_100_is_not_late() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.6)
        await receive()
        await respond(send)

    limits = listener_limits(body_timeout=0.2, header_timeout=0.2, keep_alive_timeout=0.2)
    with listener(slow, limits) as served, served.connect() as client:
        client.send(get(b"/a", b"Expect: 100-continue", b"Content-Length: 2", method=b"POST"))
        assert client.response().status == 100
        client.send(b"ok")
        assert client.response().status == 200


# Large bodies, both ways.


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_arrives_whole_and_is_never_held_whole(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], *, chunked: bool
) -> None:
    largest = [0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        digest = hashlib.sha256()
        await asyncio.sleep(0.1)
        more = True
        while more:
            event = await receive()
            largest[0] = max(largest[0], len(event["body"]))
            digest.update(event["body"])
            more = event["more_body"]
        await respond(send, digest.hexdigest().encode())

    piece = bytes(range(256)) * 256
    with listener(app, loop_factory=loop_factory) as served, served.connect() as client:
        if chunked:
            client.send(CHUNKED)
            for _ in range(320):
                client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        else:
            client.send(get(b"/", b"Content-Length: %d" % (320 * len(piece)), method=b"POST"))
            for _ in range(320):
                client.send(piece)
        assert client.response().body == hashlib.sha256(piece * 320).hexdigest().encode()
    assert largest[0] < MEGABYTE


def test_an_application_that_does_not_read_holds_the_client_back() -> None:
    release = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.get_running_loop().run_in_executor(None, release.wait)
        await respond(send)

    with listener(app) as served, served.connect() as client:
        client.send(get(b"/", b"Content-Length: %d" % (100 * MEGABYTE), method=b"POST"))
        client.sock.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100 * MEGABYTE:
                sent += client.sock.send(b"x" * 65536)
        (protocol,) = served.server.server_state.connections
        assert protocol._receiving.buffered < MEGABYTE
        assert sent < 32 * MEGABYTE  # what the two kernels hold
        release.set()


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_client_that_reads_slowly_holds_the_application_back(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    sent = [0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1024):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent[0] += 65536
        await send({"type": "http.response.body", "body": b""})

    with listener(app, loop_factory=loop_factory) as served, served.connect(receive_buffer=65536) as client:
        client.send(GET)
        client.read_until(b"\r\n\r\n")
        time.sleep(0.2)
        assert 0 < sent[0] < 32 * MEGABYTE
        assert sum(map(len, client.chunks())) == 64 * MEGABYTE


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_an_early_answer_reaches_a_client_that_is_still_sending(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"no" * 1000, status=403)

    with listener(app, loop_factory=loop_factory) as served, served.connect() as client:
        client.send(get(b"/", b"Content-Length: %d" % (100 * MEGABYTE), method=b"POST"))
        for _ in range(20):
            client.send(b"x" * 65536)
            time.sleep(0.005)
        assert client.response().body == b"no" * 1000
        assert client.closed()


# The end of the server.


def test_what_is_in_flight_is_finished_when_the_server_stops() -> None:
    started = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await asyncio.sleep(0.3)
        await respond(send, b"done")

    with (
        listener(app, listener_limits(drain_grace=0.2)) as served,
        served.connect() as idle,
        served.connect() as client,
    ):
        idle.send(GET)
        client.send(GET)
        assert idle.response().body == b"done"
        started.clear()
        client.response()
        client.send(GET)
        assert started.wait(2)
        served.server.should_exit = True
        answer = client.response()
        assert (answer.body, answer.header(b"connection")) == (b"done", b"close")
        assert client.closed()
        assert idle.closed()


# Responses that are written together.


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("then", ["a refusal", "the next request", "half-closed", "shut down"])
def test_a_response_that_is_held_back_leaves_before_anything_else_happens(
    then: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """With another request in flight it is held back; what the client sends meanwhile is read before it has left."""
    flying, answered, sent = threading.Event(), threading.Event(), threading.Event()
    landing = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/flying":
            flying.set()
            await landing.wait()
        if scope["path"] == "/held":
            landing.set()  # which the other request's task hears after this one
        await respond(send, scope["raw_path"])
        if scope["path"] == "/held":
            answered.set()
            sent.wait(PATIENCE)  # the event loop stands still

    limits = listener_limits(drain_grace=0.2)
    with listener(app, limits, loop_factory=loop) as served, served.connect() as other, served.connect() as client:
        other.send(get(b"/flying"))
        assert flying.wait(PATIENCE)
        client.send(get(b"/held"))
        assert answered.wait(PATIENCE)
        if then == "a refusal":
            client.send(b"GET /refused HTTP/1.1\r\n\r\n")
        elif then == "the next request":
            client.send(get(b"/next"))
        elif then == "half-closed":
            client.sock.shutdown(socket.SHUT_WR)
        else:
            served.server.should_exit = True
        sent.set()
        assert client.response().body == b"/held"
        if then == "a refusal":
            assert client.response().problem["reasons"] == ["message-malformed"]
        elif then == "the next request":
            assert client.response().body == b"/next"
        if then != "the next request":
            assert client.closed()
        assert other.response().body == b"/flying"
