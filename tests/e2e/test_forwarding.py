"""Requests and responses through the whole proxy, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from support.forwarding import PATIENCE, Client, Request, connected, replies, response
from support.proxy import RunningProxy, memory
from support.upstream import RawUpstream, Script, UpstreamConnection, until

Orders = Callable[[Script], AbstractAsyncContextManager[RawUpstream]]


def head(proxy: RunningProxy, method: str = "GET", path: str = "/orders/42", headers: str = "") -> bytes:
    """A request of `web`. `headers` are whole lines, each with its line end."""
    lines = f"Host: orders.localhost\r\nAuthorization: Bearer {proxy.token()}\r\n{headers}"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


async def test_the_upstream_sees_one_clean_request(proxy: RunningProxy, orders: Orders, orders_port: int) -> None:
    """The canonical target, the query as it was sent, the client's harmless headers, and what the proxy adds."""
    request = (
        f"GET /orders/%34%32?b=2&a=%201 HTTP/1.1\r\nHost: ORDERS.localhost:{proxy.port}\r\n"
        f"Authorization: Bearer {proxy.token()}\r\nAccept: text/plain\r\nX-Request-Id: r-1\r\n"
        "TE: trailers\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n\r\n"
    )
    async with orders(replies(response())) as upstream, connected(proxy.port) as client:
        await client.send(request.encode())
        assert (await client.response()).status == 200
    (seen,) = upstream.requests
    (decision,) = seen.values("ostiary-decision-id")
    assert seen.line == "GET /orders/42?b=2&a=%201 HTTP/1.1"
    (credential,) = seen.values("authorization")
    assert seen.headers == [
        ("host", f"127.0.0.1:{orders_port}"),
        ("via", "1.1 ostiary"),
        ("x-forwarded-host", f"ORDERS.localhost:{proxy.port}"),
        ("accept", "text/plain"),
        ("x-request-id", "r-1"),
        ("authorization", credential),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("ostiary-decision-id", decision),
    ]
    assert credential.startswith("Bearer ")
    assert credential.removeprefix("Bearer ") not in proxy.tokens


async def test_the_client_gets_the_response_as_the_service_made_it(proxy: RunningProxy, orders: Orders) -> None:
    """Status, headers, their repetition and an encoded body are relayed; what is of the inner hop is not."""
    body = b"\x1f\x8b not inflated, whatever it says"
    lines = (
        'Content-Type: text/plain\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: "x"\r\n'
        'Keep-Alive: timeout=5\r\nConnection: X-Inner\r\nX-Inner: 1\r\nAlt-Svc: h3=":443"\r\n'
        "Ostiary-Decision-Id: forged\r\n"
    )
    made = response(body, status="201 Made", headers=lines)
    async with orders(replies(made)) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy))
        answer = await client.response()
    assert answer.status == 201
    assert answer.body == body
    (decision,) = upstream.requests[0].values("ostiary-decision-id")
    assert answer.headers == [
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("etag", '"x"'),
        ("content-length", str(len(body))),
        ("ostiary-decision-id", decision),  # what client, service and audit know the request by
        ("date", dict(answer.headers)["date"]),
    ]


async def test_a_body_with_a_length_arrives_with_that_length(proxy: RunningProxy, orders: Orders) -> None:
    body = bytes(range(256)) * 1000
    async with orders(replies(response())) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, "POST", "/orders", f"Content-Length: {len(body)}\r\n") + body)
        assert (await client.response()).status == 200
    (seen,) = upstream.requests
    assert seen.values("content-length") == [str(len(body))]
    assert seen.values("transfer-encoding") == []
    assert seen.body == body


async def test_a_chunked_body_streams_up_piece_by_piece(proxy: RunningProxy, orders: Orders) -> None:
    """The service has the first piece before the client sends the second. Extensions and trailers do not pass."""
    arrived = asyncio.Queue[bytes]()

    async def collect(connection: UpstreamConnection, seen: Request) -> None:
        async for piece in connection.pieces(seen):
            await arrived.put(piece)
        await connection.send(response())

    async with orders(collect) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, "POST", "/orders", "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n"))
        for piece in (b"one", b"two", b"three"):
            await client.send(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
            async with asyncio.timeout(PATIENCE):
                assert await arrived.get() == piece
        await client.send(b"0\r\nAuthorization: Bearer forged\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.response()).status == 200
        (seen,) = upstream.requests
        assert seen.values("transfer-encoding") == ["chunked"]
        assert seen.values("content-length") == seen.values("trailer") == seen.values("x-trailer") == []
        assert len(seen.values("authorization")) == 1
        await client.send(head(proxy))  # and the connection is good for another
        assert (await client.response()).status == 200


async def test_events_arrive_as_they_are_sent(proxy: RunningProxy, orders: Orders) -> None:
    """The service sends an event only when the client has the one before: nothing is held back anywhere."""
    received = asyncio.Semaphore(0)
    sent: list[float] = []
    loop = asyncio.get_running_loop()

    async def stream(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for number in range(20):
            event = b"data: %d\n\n" % number
            sent.append(loop.time())
            await connection.send(b"%x\r\n%s\r\n" % (len(event), event))
            await received.acquire()
        await connection.send(b"0\r\n\r\n")

    delays = []
    async with orders(stream), connected(proxy.port) as client:
        await client.send(head(proxy, headers="Accept: text/event-stream\r\n"))
        answer = await client.head()
        assert answer.values("content-type") == ["text/event-stream"]
        async with asyncio.timeout(PATIENCE):
            number = 0
            async for piece in client.pieces(answer):
                delays.append(loop.time() - sent[number])
                assert piece == b"data: %d\n\n" % number
                number += 1
                received.release()
    assert number == 20
    assert sorted(delays)[10] < 0.05


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_status_without_a_body_ends_with_its_headers(proxy: RunningProxy, orders: Orders, status: str) -> None:
    raw = f'HTTP/1.1 {status}\r\nETag: "x"\r\n\r\n'.encode()
    async with orders(replies(raw)) as upstream, connected(proxy.port) as client:
        for _ in range(3):
            await client.send(head(proxy, headers='If-None-Match: "x"\r\n'))
            answer = await client.response()
            assert answer.status == int(status[:3])
            assert answer.values("etag") == ['"x"']
            assert answer.values("content-length") == answer.values("transfer-encoding") == []
    assert upstream.connections == 1


async def test_head_has_the_length_and_no_body(proxy: RunningProxy, orders: Orders) -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"
    async with orders(replies(raw)) as upstream, connected(proxy.port) as client:
        for _ in range(3):
            await client.send(head(proxy, "HEAD"))
            answer = await client.response(bodiless=True)
            assert answer.status == 200
            assert answer.values("content-length") == ["12345"]
    assert [seen.line for seen in upstream.requests] == ["HEAD /orders/42 HTTP/1.1"] * 3
    assert upstream.connections == 1


async def test_head_needs_an_endpoint_of_its_own(proxy: RunningProxy, orders: Orders) -> None:
    """`GET /orders` is permitted and `HEAD /orders` is not; the refusal has no body either."""
    async with orders(replies(response())) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, "HEAD", "/orders"))
        answer = await client.response(bodiless=True)
        assert answer.status == 403
        await client.send(head(proxy, "GET", "/orders"))
        assert (await client.response()).body == b"ok"
    assert [seen.line for seen in upstream.requests] == ["GET /orders HTTP/1.1"]


async def test_connections_are_kept_on_both_sides(proxy: RunningProxy, orders: Orders) -> None:
    async with orders(replies(response())) as upstream:
        async with connected(proxy.port) as client:
            for _ in range(20):
                await client.send(head(proxy))
                assert (await client.response()).status == 200
        for _ in range(5):
            async with connected(proxy.port) as client:
                await client.send(head(proxy))
                assert (await client.response()).status == 200
        assert len(upstream.requests) == 25
        assert upstream.connections == 1


async def test_pipelined_requests_are_decided_alone_and_answered_in_order(proxy: RunningProxy, orders: Orders) -> None:
    async def echo(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(response(seen.line.encode()))

    stranger = (
        b"GET /orders/2 HTTP/1.1\r\nHost: orders.localhost\r\nAuthorization: Bearer "
        + proxy.token("stranger").encode()
        + b"\r\n\r\n"
    )
    async with orders(echo) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, path="/orders/1") + stranger + head(proxy, path="/orders/3"))
        answers = [await client.response() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 403, 200]
    assert [answers[0].body, answers[2].body] == [b"GET /orders/1 HTTP/1.1", b"GET /orders/3 HTTP/1.1"]
    assert [seen.line for seen in upstream.requests] == ["GET /orders/1 HTTP/1.1", "GET /orders/3 HTTP/1.1"]


async def test_the_body_is_asked_for_once_the_request_is_allowed(proxy: RunningProxy, orders: Orders) -> None:
    async with orders(replies(response())) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, "POST", "/orders", "Content-Length: 5\r\nExpect: 100-continue\r\n"))
        assert (await client.head()).status == 100
        await client.send(b"hello")
        assert (await client.response()).status == 200
    (seen,) = upstream.requests
    assert seen.body == b"hello"
    assert seen.values("expect") == []


async def test_the_body_of_a_refused_request_is_never_asked_for(proxy: RunningProxy, orders: Orders) -> None:
    async with orders(replies(response())) as upstream, connected(proxy.port) as client:
        request = head(proxy, "POST", "/orders/42", "Content-Length: 5\r\nExpect: 100-continue\r\n")
        await client.send(request)
        answer = await client.response()
        assert answer.status == 403
        assert answer.values("connection") == ["close"]
        assert await client.ended() == b""
    assert upstream.connections == 0


async def test_an_answer_before_the_body_is_relayed_at_once(proxy: RunningProxy, orders: Orders) -> None:
    """A service that has read enough says so; the client learns it while it is still sending."""

    async def refuse(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(response(b"no", status="422 No", headers="connection: close\r\n"))
        await connection.closed()

    async with orders(refuse), connected(proxy.port) as client:
        await client.send(head(proxy, "POST", "/orders", "Content-Length: 1000000\r\n") + b"a" * 1000)
        answer = await client.response()
        assert answer.status == 422
        assert answer.body == b"no"
        assert answer.values("connection") == ["close"]


async def test_a_response_that_ends_with_its_connection_becomes_chunked(proxy: RunningProxy, orders: Orders) -> None:
    async def old(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        connection.writer.close()

    async with orders(old), connected(proxy.port) as client:
        for _ in range(2):
            await client.send(head(proxy))
            answer = await client.response()
            assert answer.values("transfer-encoding") == ["chunked"]
            assert answer.body == b"all of it"


@pytest.mark.parametrize("framing", ["content-length: 100", "transfer-encoding: chunked"])
async def test_a_response_that_breaks_off_never_looks_complete(
    proxy: RunningProxy, orders: Orders, framing: str
) -> None:
    async def die(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\nfour\r\n".encode())
        await asyncio.sleep(0.05)
        connection.writer.transport.abort()

    async with orders(die) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy))
        answer = await client.head()
        assert answer.status == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            async for _ in client.pieces(answer):
                pass
    (decision,) = upstream.requests[0].values("ostiary-decision-id")
    lines = await proxy.recorded(decision, lines=2)
    assert (lines[1]["outcome"], lines[1]["status"]) == ("aborted", 200)


async def _before_the_answer(connection: UpstreamConnection, seen: Request) -> None:
    await connection.closed()


async def _in_the_answer(connection: UpstreamConnection, seen: Request) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    await connection.closed()


@pytest.mark.parametrize("script", [_before_the_answer, _in_the_answer])
async def test_a_client_that_goes_away_takes_the_upstream_call_with_it(
    proxy: RunningProxy, orders: Orders, script: Script
) -> None:
    ended = asyncio.Event()
    decisions: list[str] = []

    async def watched(connection: UpstreamConnection, seen: Request) -> None:
        decisions.extend(seen.values("ostiary-decision-id"))
        await script(connection, seen)
        ended.set()

    async with orders(watched), connected(proxy.port) as client:
        await client.send(head(proxy))
        await until(lambda: bool(decisions))
        if script is _in_the_answer:
            await client.head()
        client.abort()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    lines = await proxy.recorded(decisions[0], lines=2)
    assert lines[1]["kind"] == "completion"
    assert lines[1]["reasons"] == ["client-disconnected"]


async def test_a_client_that_goes_away_while_it_sends_takes_the_upstream_call_with_it(
    proxy: RunningProxy, orders: Orders
) -> None:
    ended = asyncio.Event()

    async def read(connection: UpstreamConnection, seen: Request) -> None:
        await connection.closed()
        ended.set()

    async with orders(read) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy, "POST", "/orders", "Transfer-Encoding: chunked\r\n"))
        await client.chunk(b"some")
        await until(lambda: bool(upstream.requests))
        client.abort()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


async def test_interim_answers_and_trailers_of_the_service_end_at_the_proxy(
    proxy: RunningProxy, orders: Orders
) -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
        b"trailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\nset-cookie: a=1\r\n\r\n"
    )
    async with orders(replies(raw)) as upstream, connected(proxy.port) as client:
        for _ in range(2):
            await client.send(head(proxy))
            answer = await client.response()
            assert (answer.status, answer.body) == (200, b"ok")
            names = [name for name, _ in answer.headers]
            assert sorted(names) == ["date", "ostiary-decision-id", "transfer-encoding"]
    assert upstream.connections == 1


async def test_what_a_service_says_unasked_is_nobodys_answer(proxy: RunningProxy, orders: Orders) -> None:
    """Bytes behind a response end its connection: they never become the response of the next caller."""
    poison = response(b"mine") + response(b"poison")
    async with orders(replies(poison)) as upstream, connected(proxy.port) as client:
        for _ in range(5):
            await client.send(head(proxy))
            answer = await client.response()
            assert (answer.status, answer.body) in ((200, b"mine"), (502, answer.body))
            assert b"poison" not in answer.body
    assert upstream.connections == 5


async def test_a_service_does_not_switch_protocols(proxy: RunningProxy, orders: Orders) -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with orders(replies(raw)), connected(proxy.port) as client:
        await client.send(head(proxy))
        assert (await client.response()).status == 502


async def test_a_client_of_http_1_0_is_answered_and_its_connection_ended(proxy: RunningProxy, orders: Orders) -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with orders(replies(raw)) as upstream, connected(proxy.port) as client:
        await client.send(head(proxy).replace(b" HTTP/1.1", b" HTTP/1.0"))
        answer = await client.head()
        assert answer.values("transfer-encoding") == []
        assert await client.ended() == b"ok"
    assert upstream.requests[0].line == "GET /orders/42 HTTP/1.1"


async def test_two_clients_share_nothing(proxy: RunningProxy, orders: Orders) -> None:
    """A cookie that a service sets for one caller is not sent with another's request."""
    async with orders(replies(response(headers="Set-Cookie: session=web\r\n"))) as upstream:
        for _ in range(2):
            async with connected(proxy.port) as client:
                await client.send(head(proxy))
                assert (await client.response()).values("set-cookie") == ["session=web"]
    assert [seen.values("cookie") for seen in upstream.requests] == [[], []]


async def _stalled(count: Callable[[], int], quiet: float = 0.5) -> int:
    """The count, once it has not grown for `quiet` seconds."""
    last, since = -1, asyncio.get_running_loop().time()
    async with asyncio.timeout(PATIENCE * 2):
        while True:
            now = asyncio.get_running_loop().time()
            if count() != last:
                last, since = count(), now
            elif now - since > quiet:
                return last
            await asyncio.sleep(0.02)


BUFFERS = 24 << 20
"""More than the kernel's socket buffers of both hops can hold, and the proxy's with them."""


async def test_a_slow_reader_holds_the_service_back(proxy: RunningProxy, orders: Orders) -> None:
    sent = 0
    block = b"10000\r\n" + b"a" * 65536 + b"\r\n"

    async def pour(connection: UpstreamConnection, seen: Request) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await connection.send(block)
            sent += 65536

    (worker,) = proxy.worker_pids
    async with orders(pour), connected(proxy.port, receive_buffer=65536) as client:
        before = memory(worker, "VmRSS")
        await client.send(head(proxy))
        answer = await client.head()
        held = await _stalled(lambda: sent)
        assert held < BUFFERS
        assert memory(worker, "VmRSS") - before < 8 << 20
        read = 0
        async with asyncio.timeout(PATIENCE):
            async for piece in client.pieces(answer):
                read += len(piece)
                if read > held + BUFFERS:
                    break
        assert sent > held
        client.abort()


async def test_a_slow_service_holds_the_client_back(proxy: RunningProxy, orders: Orders) -> None:
    total, sent = 64 << 20, 0
    go = asyncio.Event()

    async def wait(connection: UpstreamConnection, seen: Request) -> None:
        await go.wait()
        size = await connection.body(seen, keep=False)
        await connection.send(response(b"%d" % size))

    async def upload(client: Client) -> None:
        nonlocal sent
        while sent < total:
            await client.send(b"a" * 65536)
            sent += 65536

    (worker,) = proxy.worker_pids
    async with orders(wait), connected(proxy.port) as client:
        before = memory(worker, "VmRSS")
        await client.send(head(proxy, "POST", "/orders", f"Content-Length: {total}\r\n"))
        uploading = asyncio.create_task(upload(client))
        assert await _stalled(lambda: sent) < BUFFERS
        assert memory(worker, "VmRSS") - before < 8 << 20
        go.set()
        await uploading
        assert (await client.response()).body == b"%d" % total
