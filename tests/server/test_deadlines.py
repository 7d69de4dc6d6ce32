"""The deadlines of the listener."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ostiary.server import ListenerLimits
from support.server import Recorder, disconnected, eventually, listener, respond
from support.shipped import listener_limits

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def problem(status: int, reason: str, title: str) -> dict[str, Any]:
    return {"type": "about:blank", "status": status, "title": title, "reasons": [reason]}


def timed(**limits: Any) -> ListenerLimits:
    return listener_limits(
        **{"header_timeout": 0.3, "keep_alive_timeout": 0.3, "body_timeout": 0.3, "linger": 0.1} | limits
    )


def test_a_connection_without_a_first_byte_is_closed() -> None:
    with listener(Recorder(), timed()) as served, served.connect() as client:
        started = time.monotonic()
        assert client.closed()
        assert 0.2 < time.monotonic() - started < 1.0
    assert served.refused == []


def test_a_header_section_has_a_deadline_that_bytes_do_not_move() -> None:
    with listener(Recorder(), timed()) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX:")
        started = time.monotonic()
        client.sock.settimeout(0.05)
        answer = b""
        while time.monotonic() - started < 2:
            try:
                client.send(b"X")
                data = client.sock.recv(65536)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
            if not data:
                break
            answer += data
        assert 0.2 < time.monotonic() - started < 1.0
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert served.reasons == ["request-timeout"]


def test_an_empty_line_before_a_request_moves_no_deadline() -> None:
    with (
        listener(Recorder(), timed(header_timeout=1.0, keep_alive_timeout=1.0)) as served,
        served.connect() as client,
    ):
        started = time.monotonic()
        for _ in range(3):
            time.sleep(0.28)
            client.send(b"\r\n")
        assert client.closed()
        assert 0.9 < time.monotonic() - started < 1.8  # and not a second after the last of them
    assert served.refused == []


def test_an_idle_connection_is_closed_and_a_used_one_is_not() -> None:
    with listener(Recorder(), timed()) as served, served.connect() as client:
        for _ in range(4):
            client.send(GET)
            assert client.response().status == 200
            time.sleep(0.15)
        started = time.monotonic()
        assert client.closed()
        assert time.monotonic() - started < 1.0


def test_a_request_may_take_longer_than_all_deadlines_for_messages() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.8)
        await respond(send, b"at last")

    with listener(slow, timed()) as served, served.connect() as client:
        client.send(GET)
        assert client.response().body == b"at last"


def test_a_body_that_trickles_ends_the_request() -> None:
    app = Recorder()
    with listener(app, timed(body_rate=1000)) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
        started = time.monotonic()
        client.sock.settimeout(0.05)
        answer = b""
        while time.monotonic() - started < 3 and not answer:
            try:
                client.send(b"x")
                answer = client.sock.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 1.0
        eventually(lambda: app.seen[0].disconnected)
    assert [(refusal.reason, facts.phase) for refusal, facts in served.refused] == [("request-timeout", "body")]


def test_a_body_that_flows_may_take_its_time() -> None:
    app = Recorder()
    with listener(app, timed(body_rate=100)) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            client.send(b"x" * 100)
            time.sleep(0.1)
        assert client.response().status == 200
    assert len(app.seen[0].body) == 1000


def test_a_client_that_is_held_back_is_not_late() -> None:
    """The clock of the body stands still while the application does not read."""

    async def hesitant(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        await asyncio.sleep(0.8)
        while True:
            event = await receive()
            size += len(event.get("body", b""))
            if not event.get("more_body", False):
                break
        await respond(send, str(size).encode())

    with listener(hesitant, timed(body_rate=1000)) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n")
        client.send(b"x" * 8_000_000)
        assert client.response().body == b"8000000"


def endless(gone: threading.Event) -> ASGIApp:
    """A response that goes on until the client has gone, which it tells."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting = asyncio.ensure_future(disconnected(receive))
        while not waiting.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        gone.set()

    return app


def test_a_client_that_takes_nothing_is_dropped() -> None:
    gone = threading.Event()
    with (
        listener(endless(gone), listener_limits(write_timeout=0.3)) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        client.send(GET)
        assert gone.wait(2)


def test_a_client_that_takes_a_response_byte_by_byte_is_dropped() -> None:
    """It does take something all the time, only next to nothing."""
    gone = threading.Event()
    with (
        listener(endless(gone), listener_limits(write_timeout=0.5)) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        client.send(GET)
        started = time.monotonic()
        while not gone.is_set() and time.monotonic() - started < 5:
            client.sock.recv(1)
            time.sleep(0.01)
        assert gone.is_set()


def test_a_request_began_with_its_first_byte() -> None:
    """Also one that waited behind another: what the whole of it may take counts from then."""
    app = Recorder()
    with listener(app, timed(header_timeout=2)) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHo")
        time.sleep(0.3)
        client.send(b"st: h\r\n\r\n")
        assert client.response().status == 200
        now = asyncio.run_coroutine_threadsafe(_now(), served.loop).result()
        assert now - app.seen[0].scope["ostiary.began"] >= 0.29


async def _now() -> float:
    return asyncio.get_running_loop().time()
