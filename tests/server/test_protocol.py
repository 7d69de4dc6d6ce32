"""The strict listener, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from ostiary.addresses import unmapped
from ostiary.errors import AccessError
from ostiary.server import ListenerLimits, Refused
from support.server import Client, Listener, Recorder, Seen, eventually, listener
from support.shipped import listener_limits

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def problem(status: int, reason: str, title: str) -> dict[str, Any]:
    return {"type": "about:blank", "status": status, "title": title, "reasons": [reason]}


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Recorder, Listener]]:
    recorder = Recorder()
    with listener(recorder) as running:
        yield recorder, running


@pytest.fixture
def served(shared: tuple[Recorder, Listener]) -> Listener:
    shared[1].refused.clear()
    return shared[1]


@pytest.fixture
def recorder(shared: tuple[Recorder, Listener]) -> Recorder:
    shared[0].seen.clear()
    return shared[0]


# What the application sees.


def test_the_scope_is_what_was_sent() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        client.send(
            b"POST /a%2Fb%20c?q=%41&r HTTP/1.1\r\nHOST: h:80 \t\r\nX-A:  b \r\nX-a: c\r\nContent-Length: 2\r\n\r\nok"
        )
        assert client.response().status == 200
        (seen,) = app.seen
        local = client.sock.getsockname()
        assert seen == Seen(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "extensions": {"ostiary.response": {}},
                "http_version": "1.1",
                "server": ("127.0.0.1", served.port),
                "client": local,
                "scheme": "http",
                "method": "POST",
                "root_path": "",
                "path": "/a/b c",
                "raw_path": b"/a%2Fb%20c",
                "query_string": b"q=%41&r",
                "headers": [(b"host", b"h:80"), (b"x-a", b"b"), (b"x-a", b"c"), (b"content-length", b"2")],
                "state": {},
                "ostiary.began": seen.scope["ostiary.began"],
            },
            b"ok",
        )


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("::FFFF:10.0.0.7", "10.0.0.7"),
        ("::ffff:a00:7", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_mapped_peer_is_the_ipv4_address_that_it_is(address: str, plain: str) -> None:
    assert unmapped(address) == plain


@pytest.mark.parametrize("pause", [False, True])
def test_trailers_are_never_headers(*, pause: bool) -> None:
    """Not in one segment with the head, and not in a later one."""
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        client.send(CHUNKED + b"3\r\nabc\r\n")
        if pause:
            eventually(lambda: app.seen)
        client.send(b"0\r\nAuthorization: Bearer evil\r\nX-Forwarded-Client-Cert: evil\r\n\r\n")
        assert client.response().status == 200
        client.send(GET)
        assert client.response().status == 200
    assert [(seen.body, seen.scope["headers"]) for seen in app.seen] == [
        (b"abc", [(b"host", b"h"), (b"transfer-encoding", b"chunked")]),
        (b"", [(b"host", b"h")]),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_how_a_message_is_cut_into_segments_makes_no_difference(size: int) -> None:
    raw = b"\r\n" + CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n" + GET
    app = Recorder(lambda seen: seen.scope["raw_path"] + b" " + seen.body)
    with listener(app) as served, served.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(raw), size):
            client.send(raw[start : start + size])
            time.sleep(0.0005)
        assert [client.response().body, client.response().body] == [b"/a abcde", b"/a "]
    assert served.refused == []


BEFORE = pytest.mark.parametrize(
    "before",
    [b"", GET, b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"],
    ids=["nothing", "a request", "a body"],
)


@contextlib.contextmanager
def sent_behind_empty_lines(before: bytes, lines: bytes, size: int) -> Iterator[tuple[Listener, Client]]:
    """A request behind such lines behind another, cut into segments of this size; what was before has its answer."""
    raw = before + lines + b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    with listener(Recorder()) as served, served.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(raw), size):
                client.send(raw[start : start + size])
                if size < 1000:
                    time.sleep(0.0005)
        if before:
            assert client.response().body == b"/a"
        yield served, client


@pytest.mark.parametrize("size", [1, 3, 1000])
@BEFORE
@pytest.mark.parametrize("count", [1, 4])
def test_a_few_empty_lines_before_a_request_are_ignored(before: bytes, count: int, size: int) -> None:
    """RFC 9112, section 2.2."""
    with sent_behind_empty_lines(before, b"\r\n" * count, size) as (served, client):
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"/b")
        client.send(GET)
        assert client.response().body == b"/a"
    assert served.refused == []


@pytest.mark.parametrize("size", [1, 3, 1000])
@BEFORE
@pytest.mark.parametrize(
    "lines",
    [b"\r\n" * 5, b"\r\n" * 100_000, b"\n", b"\r", b"\r\n\n", b"\r\r\n"],
    ids=["five", "many", "LF", "CR", "LF behind one", "CR before one"],
)
def test_more_of_them_or_others_are_refused(before: bytes, lines: bytes, size: int) -> None:
    """They cost a client nothing, so any number would keep a worker from everybody else."""
    with sent_behind_empty_lines(before, lines[: size * 100], size) as (served, client):
        assert client.response().status == 400
        assert client.closed()
    told = [(refusal.reason, facts.phase, facts.method, facts.target) for refusal, facts in served.refused]
    assert told == [("message-malformed", "head", None, None)]


@pytest.mark.parametrize(
    ("chunk", "count"),
    [(b"1\r\nx\r\n", 60_000), (b"4000\r\n" + b"\r\n\r\n" * 4096 + b"\r\n", 8)],
    ids=["tiny", "empty"],
)
def test_a_body_that_costs_more_than_it_weighs_is_worked_off_beside_the_others(chunk: bytes, count: int) -> None:
    """The others have a turn after a few pieces of it, however much of it has come at once."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    took: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ticking, began = asyncio.create_task(tick()), turns
        await recorder(scope, receive, send)
        took.append(turns - began)
        ticking.cancel()

    recorder = Recorder(lambda seen: str(len(seen.body)).encode())
    with listener(app) as served, served.connect() as client:
        client.send(CHUNKED + chunk * count + b"0\r\n\r\n" + GET)
        content = count if len(chunk) < 10 else count * 16384
        assert client.response().body == str(content).encode()
        assert client.response().status == 200
    assert took[0] > 40
    assert served.refused == []


CUT = [
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 21\r\n\r\naaaaaaaaaaaaa HTTP/1.",
    CHUNKED + b"6\r\n\r\n\r\nab\r\n1;x=y\r\n\n\r\n0\r\nT: u\r\n\r\n",
    b"\r\n" + CHUNKED + b"0\r\n\r\n",
]
"""Messages whose end can be taken for another's."""


@pytest.mark.parametrize("last", [GET, b"GET   /b   HTTP/1.1\r\nHost: h\r\n\r\n"], ids=["clean", "not"])
@pytest.mark.parametrize("message", CUT, ids=["length", "chunked", "empty"])
def test_where_reads_cut_messages_makes_no_difference(message: bytes, last: bytes) -> None:
    """Above all not within what ends one, where it could be taken for a part of what comes next."""
    raw = message + last
    expected = [200, 200 if last == GET else 400]
    with listener(Recorder(), listener_limits(linger=0.01)) as served:
        for cut in range(1, len(raw)):
            for second in {cut, min(cut + 4, len(raw) - 1)}:
                with served.connect() as client:
                    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for piece in (raw[:cut], raw[cut:second], raw[second:]):
                        client.send(piece)
                        time.sleep(0.001)
                    answers = [client.response().status, client.response().status]
                    assert answers == expected, (raw[:cut], raw[cut:second])


def test_a_connection_serves_one_request_after_the_other() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        for _ in range(50):
            client.send(GET)
            assert client.response().body == b"/a"
        assert served.server.server_state.total_requests == 50


# Refusals.


def test_a_refusal_is_a_problem_document_and_is_reported() -> None:
    with listener(Recorder()) as served, served.connect() as client:
        client.send(b"GET /a?token=secret#secret HTTP/1.1\r\nHost: h.test\r\nAuthorization: secret\r\n\r\n" + GET)
        answer = client.response()
        peer = client.sock.getsockname()[0]
        assert client.closed()
    assert answer.status == 400
    names = [b"content-type", b"cache-control", b"ostiary-decision-id", b"content-length", b"connection"]
    assert [name for name, _ in answer.headers] == names
    assert answer.header(b"content-type") == b"application/problem+json"
    assert answer.header(b"connection") == b"close"
    assert answer.problem == problem(
        400, "target-malformed", "The request target is not in the one form that is accepted."
    )
    ((refusal, facts),) = served.refused
    assert refusal.reason == "target-malformed"
    assert facts == Refused(id=facts.id, phase="head", peer=peer, method="GET", target=b"/a", host=b"h.test")
    assert answer.header(b"ostiary-decision-id") == facts.id.encode()
    assert facts.id.encode() in answer.body
    assert "secret" not in repr(facts)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (b"\r\nGET /a\xff b\x01?secret HTTP/1.1\r\nHost: h\r\n\r\n", b"/a\xff b\x01"),
        (b"GET @evil/a HTTP/1.1\r\nHost: h\r\n\r\n", b"@evil/a"),
        (b"GET \x01", None),
    ],
)
def test_a_target_that_cannot_be_parsed_is_reported_as_it_came(raw: bytes, target: bytes | None) -> None:
    with listener(Recorder()) as served, served.connect() as client:
        client.send(raw)
        assert client.response().status == 400
    ((refusal, facts),) = served.refused
    assert refusal.reason == "target-malformed"
    assert (facts.method, facts.target) == ("GET" if target else None, target)


@pytest.mark.parametrize(
    ("raw", "status", "reason"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.0\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.2\r\nHost: h\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, "header-duplicated"),
        (b"GET /a HTTP/1.1\r\nHost: h" + b"\r\nX-Forwarded-Client-Cert: a" * 2 + b"\r\n\r\n", 400, "header-duplicated"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n", 400, "header-duplicated"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive,HOST\r\n\r\n", 400, "header-malformed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: x, transfer-encoding\r\n\r\n", 400, "header-malformed"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "message-malformed"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999999999999\r\n\r\n", 413, "body-too-large"),
        (b"POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "message-malformed"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "message-malformed"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", 400, "body-not-allowed"),
        (b"HEAD /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "body-not-allowed"),
        (b"DELETE /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", 400, "body-not-allowed"),
        (b"OPTIONS /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", 400, "body-not-allowed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n", 400, "upgrade-refused"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nHTTP2-Settings: x\r\n\r\n", 400, "upgrade-refused"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", 417, "expectation-failed"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue, x\r\n\r\n", 417, "expectation-failed"),
        (b"PROPFIND /a HTTP/1.1\r\nHost: h\r\n\r\n", 405, "method-refused"),
        (b"Get /a HTTP/1.1\r\nHost: h\r\n\r\n", 405, "method-refused"),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 405, "method-refused"),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400, "target-malformed"),
        (b"GET //h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400, "target-malformed"),
        (b"GET /a\x80 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "target-malformed"),
        (b"GET http://u:secret@h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400, "target-malformed"),
        (b"GET /a HTTP/1.1\nHost: h\n\n", 400, "message-malformed"),
        (b"GET /a RTSP/1.1\r\nHost: h\r\n\r\n", 400, "message-malformed"),
        (b"GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", 400, "message-malformed"),
        (b"GET /a  HTTP/1.1\r\nHost: h\r\n\r\n", 400, "message-malformed"),
        (b"\r\nGET  /a HTTP/1.1\r\nHost: h\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400, "message-malformed"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", 400, "message-malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 405, "method-refused"),
        (b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "message-malformed"),
    ],
)  # fmt: skip
def test_what_is_not_one_clean_request_is_refused(
    recorder: Recorder, served: Listener, raw: bytes, status: int, reason: str
) -> None:
    with served.connect() as client:
        client.send(raw)
        answer = client.response(head=raw.startswith(b"HEAD"))
        assert (answer.status, answer.header(b"connection")) == (status, b"close")
        assert client.closed()
    assert served.reasons == [reason]
    assert recorder.seen == []
    assert "secret" not in repr(served.refused)
    if status == 405:
        assert answer.header(b"allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize("piece", [1, 5, 17, 1000])
@pytest.mark.parametrize("odd", [b"GET /b RTSP/1.1", b"GET  /b HTTP/1.1", b"GET /b  HTTP/1.1"])
@pytest.mark.parametrize("good", [GET, b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"])
def test_a_request_line_is_looked_at_wherever_it_stands(
    recorder: Recorder, served: Listener, good: bytes, odd: bytes, piece: int
) -> None:
    """Behind another message, and cut into pieces. The parser takes these lines."""
    raw = good + odd + b"\r\nHost: h\r\n\r\n"
    with served.connect() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(raw), piece):
            client.send(raw[start : start + piece])
        assert [client.response().status, client.response().status] == [200, 400]
        assert client.closed()
    assert [(refusal.reason, facts.target) for refusal, facts in served.refused] == [("message-malformed", b"/b")]
    assert [seen.scope["raw_path"] for seen in recorder.seen] == [b"/a"]


@pytest.mark.parametrize(
    ("raw", "method", "target"),
    [
        (b"BREW /pot?secret HTTP/1.1\r\nHost: h\r\n\r\n", "BREW", b"/pot"),
        (b"\r\nBREW /pot HTTP/1.1\r\nHost: h\r\n\r\n", "BREW", b"/pot"),
        (b"GET/pot HTTP/1.1\r\nHost: h\r\n\r\n", None, None),
        (b"\x16\x03\x01\x02\x00\x01", None, None),
    ],
)
def test_a_method_that_the_parser_does_not_know_is_reported_with_its_target(
    raw: bytes, method: str | None, target: bytes | None
) -> None:
    with listener(Recorder()) as served, served.connect() as client:
        client.send(GET)
        assert client.response().status == 200
        client.send(raw)
        assert client.response().status == 405
    assert [(facts.method, facts.target, facts.host) for _, facts in served.refused] == [(method, target, None)]


def test_legal_oddities_are_taken() -> None:
    app = Recorder()
    with listener(app) as served, served.connect() as client:
        for raw in (
            b"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            b"DELETE /a HTTP/1.1\r\nHost: h\r\nConnection: X-A , keep-alive\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0003\r\n\r\nabc",
            b"GET /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
        ):
            client.send(raw)
            assert client.response().status == 200
    assert served.refused == []


def test_a_refusal_whose_report_fails_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be recorded is not answered either; the connection is dropped."""

    def full(refusal: AccessError, facts: Refused) -> None:
        raise OSError("the disk is full")

    app = Recorder()
    with caplog.at_level(logging.CRITICAL), listener(app, on_refused=full) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\n\r\n")
        assert client.closed()
    assert app.seen == []


# Sizes.


def sized(**limits: Any) -> ListenerLimits:
    return listener_limits(**{"header_bytes": 2048, "target_bytes": 512, "linger": 0.2} | limits)


def test_sizes_up_to_the_limits_are_taken() -> None:
    app = Recorder(lambda _: b"")
    target = b"/" + b"a" * 511
    headers = b"".join(b"X-%02d: %s\r\n" % (n, b"b" * 13) for n in range(99))[:-1]
    raw = b"GET %s HTTP/1.1\r\nHost: h\r\n%s\n\r\n" % (target, headers)
    with listener(app, sized(header_bytes=99 * 21 + 10)) as served:
        assert [response.status for response in served.exchange(raw)] == [200]
    assert len(app.seen[0].scope["headers"]) == 100


@pytest.mark.parametrize("piece", [1 << 20, 100])
@pytest.mark.parametrize(
    ("raw", "status", "reason"),
    [
        (b"GET /" + b"a" * 512 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "target-too-long"),
        (b"GET /" + b"a" * 100_000, 414, "target-too-long"),
        (b"GET /a?" + b"a" * 512 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "target-too-long"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 2048 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100_000, 431, "headers-too-large"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 100 + b"\r\n", 431, "headers-too-large"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 100_000, 431, "headers-too-large"),
        (b"GET /a HTTP/1.1\r\nHost: h\r\n" + (b"X: " + b"a" * 60 + b"\r\n") * 40 + b"\r\n", 431, "headers-too-large"),
    ],
    ids=["target", "target-endless", "query", "header", "header-endless", "count", "count-endless", "sum"],
)
def test_sizes_above_the_limits_are_refused_while_they_arrive(raw: bytes, status: int, reason: str, piece: int) -> None:
    app = Recorder()
    with listener(app, sized(linger=2)) as served, served.connect() as client:
        for start in range(0, len(raw), piece):
            try:
                client.send(raw[start : start + piece])
            except (BrokenPipeError, ConnectionResetError):
                break
            if served.refused:
                break
        assert client.response().status == status
    assert served.reasons == [reason]
    assert app.seen == []


def test_a_body_above_the_limit_is_refused_before_it_is_read() -> None:
    app = Recorder()
    with listener(app, sized(body_bytes=10)) as served:
        answer = served.exchange(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n")[0]
        assert answer.problem == problem(413, "body-too-large", "The body is larger than the limit.")
        assert app.seen == []
        assert [
            r.status for r in served.exchange(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789")
        ] == [200]


def test_a_chunked_body_above_the_limit_ends_the_request() -> None:
    app = Recorder()
    with listener(app, sized(body_bytes=10)) as served, served.connect() as client:
        client.send(CHUNKED + b"a\r\n0123456789\r\n")
        eventually(lambda: app.seen and app.seen[0].body)
        client.send(b"1\r\nx\r\n")
        assert client.response().status == 413
        eventually(lambda: app.seen[0].disconnected)
        assert client.closed()
    assert [(refusal.reason, facts.phase) for refusal, facts in served.refused] == [("body-too-large", "body")]


@pytest.mark.parametrize(
    "flood",
    [b"1;" + b"x" * 1000 + b"\r\na\r\n", b"0\r\n" + b"T: " + b"x" * 100_000, b"1;" + b"x" * 100_000],
    ids=["extensions", "trailer", "extension"],
)
def test_a_chunked_body_cannot_be_mostly_framing(flood: bytes) -> None:
    app = Recorder()
    with listener(app, sized(linger=2)) as served, served.connect() as client:
        client.send(CHUNKED + b"1\r\na\r\n")
        eventually(lambda: app.seen and app.seen[0].body)
        for start in range(0, 100_000, 1000):
            if not served.refused:
                client.send((flood * 100)[start : start + 1000])
                time.sleep(0.0005)
        assert client.response().status == 400
        eventually(lambda: app.seen[0].disconnected)
    assert served.reasons == ["message-malformed"]


def test_connections_are_counted_for_each_peer_and_in_all() -> None:
    limits = listener_limits(connections=3, connections_per_peer=2, linger=0.2)
    with listener(Recorder(), limits) as served:
        with served.connect() as one, served.connect() as two:
            for client in (one, two):
                client.send(GET)
                assert client.response().status == 200
            with served.connect() as three:
                assert three.response().problem == problem(503, "overloaded", "The proxy is at its limit.")
                assert three.closed()
            ((refusal, facts),) = served.refused
            assert refusal.reason == "overloaded"
            assert facts == Refused(id=facts.id, phase="connection", peer="127.0.0.1")
        eventually(lambda: not served.server.server_state.connections)
        with served.connect() as client:
            client.send(GET)
            assert client.response().status == 200
