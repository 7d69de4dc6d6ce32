"""One request there, one response back."""

from __future__ import annotations

import asyncio

import pytest

from ostiary.errors import ClientDisconnected, Overloaded, UpstreamFailed
from ostiary.upstream import Forwarder, PoolFacts
from support.shipped import upstream_settings
from support.upstream import (
    OK,
    SECRET,
    Seen,
    UpstreamConnection,
    answers,
    credential,
    forwarding,
    fronted,
    identity,
    parse,
    until,
)


async def test_a_get_arrives_as_exactly_one_clean_request() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        answer = await front.call(
            "GET", "/orders/1?page=2&q=%20x", headers="User-Agent: curl\r\nAuthorization: Bearer the-callers-own\r\n"
        )
        exchange = front.exchanges[0]
    assert (answer.status, answer.headers, answer.body) == (
        200,
        [("content-length", "2"), ("connection", "close")],
        b"ok",
    )
    (seen,) = upstream.requests
    assert seen.line == "GET /orders/1?page=2&q=%20x HTTP/1.1"
    assert seen.headers == [
        ("host", f"127.0.0.1:{upstream.port}"),
        ("via", "1.1 ostiary"),
        ("x-forwarded-host", "orders.test"),
        ("user-agent", "curl"),
        ("authorization", f"Bearer {SECRET.decode()}-0"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("ostiary-decision-id", exchange.id),
    ]
    assert (exchange.status, exchange.bytes_sent, exchange.response_complete) == (200, 2, True)


async def test_a_body_with_a_length_arrives_with_that_length() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        answer = await front.call("POST", body=b"hello")
    assert answer.status == 200
    (seen,) = upstream.requests
    assert (seen.values("content-length"), seen.values("transfer-encoding"), seen.body) == (["5"], [], b"hello")


async def test_a_body_of_length_zero_keeps_its_length() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        assert (await front.call("POST", body=b"")).status == 200
    assert upstream.requests[0].values("content-length") == ["0"]


async def test_a_chunked_body_arrives_chunked_and_without_its_trailers() -> None:
    body = b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nAuthorization: Bearer trailing\r\nX-Trailer: 1\r\n\r\n"
    request = (
        b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body
    )
    async with forwarding(answers(OK)) as (front, upstream):
        assert (await front.raw(request)).startswith(b"HTTP/1.1 200")
    (seen,) = upstream.requests
    assert (seen.values("content-length"), seen.values("transfer-encoding"), seen.body) == ([], ["chunked"], b"abcdefg")


async def test_connections_to_the_upstream_are_kept_alive_and_used_again() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        for _ in range(5):
            assert (await front.call()).status == 200
        assert front.forwarder.facts() == {"orders": PoolFacts(open=1, idle=1, waiting=0)}
    assert (upstream.connections, [seen.connection for seen in upstream.requests]) == (1, [1, 1, 1, 1, 1])


async def test_an_idle_connection_is_closed_when_its_time_is_over() -> None:
    async with forwarding(answers(OK), keep_alive=0.1) as (front, upstream):
        await front.call()
        await front.settled(idle=1)
        await front.settled(idle=0)
        await front.call()
    assert upstream.connections == 2


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_the_upstream_gives_up_is_not_used_again(response: bytes) -> None:
    async with forwarding(answers(response)) as (front, upstream):
        assert [(await front.call()).body for _ in range(2)] == [b"ok", b"ok"]
    assert upstream.connections == 2


async def test_a_body_that_ends_with_its_connection_is_relayed_whole() -> None:
    async with forwarding(answers(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True)) as (front, _):
        answer = await front.call()
    assert (answer.body, answer.complete, answer.values("transfer-encoding")) == (b"until the end", True, ["chunked"])


async def test_a_chunked_response_is_framed_anew_and_its_trailers_are_discarded() -> None:
    response = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
        b"2;a=b\r\nab\r\n3\r\ncde\r\n0\r\nx-sum: 1\r\nset-cookie: a=b\r\n\r\n"
    )
    async with forwarding(answers(response)) as (front, upstream):
        answers_ = [await front.call() for _ in range(2)]
    assert [(a.body, a.complete, a.headers) for a in answers_] == [
        (b"abcde", True, [("connection", "close"), ("transfer-encoding", "chunked")])
    ] * 2
    assert upstream.connections == 1


async def test_the_response_to_head_keeps_its_length_has_no_body_and_keeps_its_connection() -> None:
    length = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    bare = b"HTTP/1.1 200 OK\r\n\r\n"
    async with forwarding(answers(length, chunked, bare, OK)) as (front, upstream):
        heads = [await front.call("HEAD") for _ in range(3)]
        assert (await front.call()).body == b"ok"
    assert [(h.status, h.values("content-length"), h.body) for h in heads] == [
        (200, ["1000"], b""),
        (200, [], b""),
        (200, [], b""),
    ]
    assert upstream.connections == 1


async def test_a_head_response_that_closes_is_not_kept() -> None:
    async with forwarding(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nConnection: Close\r\n\r\n")) as (front, up):
        for _ in range(2):
            await front.call("HEAD")
    assert up.connections == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_is_relayed_without_a_length(status: int) -> None:
    response = f"HTTP/1.1 {status} X\r\ncontent-length: 7\r\netag: a\r\n\r\n".encode()
    async with forwarding(answers(response)) as (front, upstream):
        got = [await front.call() for _ in range(2)]
    assert [(a.status, a.headers, a.body) for a in got] == [(status, [("etag", "a"), ("connection", "close")], b"")] * 2
    assert upstream.connections == 1


async def test_interim_responses_are_discarded() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\nx-hint: 1\r\n\r\n"
    async with forwarding(answers(interim + OK)) as (front, upstream):
        got = [await front.call() for _ in range(2)]
    assert [(a.status, a.values("link"), a.values("x-hint"), a.body) for a in got] == [(200, [], [], b"ok")] * 2
    assert upstream.connections == 1


async def test_100_continue_is_sent_when_the_body_is_wanted() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        reader, writer = await front.open()
        writer.write(
            b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
    (seen,) = upstream.requests
    assert (seen.body, seen.values("expect")) == (b"body", [])


async def test_server_sent_events_pass_as_they_are_sent() -> None:
    async def events(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(4):
            await asyncio.sleep(0.1)
            event = b"data: %d\n\n" % number
            await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
        await connection.send(b"0\r\n\r\n")

    loop = asyncio.get_running_loop()
    async with forwarding(events) as (front, _):
        reader, writer = await front.open()
        begun = loop.time()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert loop.time() - begun < 0.09  # the head does not wait for the first event
        for number in range(4):
            await reader.readuntil(b"data: %d\n\n\r\n" % number)
            assert (number + 1) * 0.1 <= loop.time() - begun + 0.01 < (number + 1) * 0.1 + 0.09
        writer.close()


async def test_both_directions_stream_at_the_same_time() -> None:
    """An upstream that answers while it reads: each piece comes back before the next one is sent."""

    async def echo(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        async for piece in connection.pieces(seen):
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await connection.send(b"0\r\n\r\n")

    async with forwarding(echo) as (front, _):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            writer.write(b"4\r\nno-%d\r\n" % number)
            await reader.readuntil(b"no-%d\r\n" % number)
        writer.write(b"0\r\n\r\n")
        assert await reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"
        writer.close()


async def test_an_early_response_is_relayed_and_ends_both_connections() -> None:
    async def refuse(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 422 Unprocessable\r\ncontent-length: 2\r\n\r\nno")
        await connection.closed()

    async with forwarding(refuse) as (front, upstream):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 1000000\r\n\r\nbegin")
        raw = await reader.read(-1)  # to the end: the client's connection is closed too
        writer.close()
        await front.settled(idle=0)
    answer = parse(raw)
    assert (answer.status, answer.headers, answer.body) == (
        422,
        [("content-length", "2"), ("connection", "close")],
        b"no",
    )
    assert (upstream.connections, front.refusals) == (1, [])


@pytest.mark.parametrize("status", ["422 Unprocessable", "200 OK"])
async def test_a_connection_that_is_owed_the_rest_of_a_request_carries_no_other(status: str) -> None:
    """What is sent on it next is read as that rest: another caller's request, with its credential."""
    received: list[bytes] = []

    async def answer_early(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(f"HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nno".encode())
        await asyncio.sleep(0.05)  # the end of the response is another read than its head
        await connection.send(b"no")
        while piece := await connection.reader.read(65536):
            received.append(piece)

    async def answer(connection: UpstreamConnection, seen: Seen) -> None:
        if seen.line.startswith("POST"):
            await answer_early(connection, seen)
        else:
            await connection.send(OK)

    async with forwarding(answer, keep_alive=60) as (front, upstream):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 1000000\r\n\r\nbegin")
        assert (await reader.readuntil(b"nono")).endswith(b"nono")
        if status == "200 OK":
            writer.close()  # and the client leaves, with the rest unsent
        else:
            await reader.read(-1)
            writer.close()
        await front.settled(idle=0)
        assert (await front.call("GET", "/orders/42")).status == 200
    assert upstream.connections == 2
    assert b"".join(received) in (b"", b"begin")


async def test_an_upload_that_fails_while_the_client_reads_slowly_ends_the_connection() -> None:
    """The response is complete, and the request will never be."""
    size = 20_000_000

    async def answer(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await connection.closed()

    async with forwarding(answer, body_bytes=1000, keep_alive=60) as (front, _):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        await reader.readexactly(1000)
        writer.write(b"800\r\n" + b"y" * 0x800 + b"\r\n")  # more than there may be
        while await reader.read(1 << 20):
            pass
        writer.close()
        await front.settled(idle=0)


async def test_a_request_of_an_unconfigured_service_is_refused() -> None:
    forwarder = Forwarder({})
    await forwarder.start()
    async with fronted(upstream_settings(host="127.0.0.1", port=1)) as front:
        await front.call()
        exchange = front.exchanges[0]

    async def renew() -> object:
        raise AssertionError("nothing is sent again")

    from ostiary.models import Target

    target = Target(service="billing", segments=(), path="/", query=None, pairs=())
    with pytest.raises(UpstreamFailed, match="no upstream is configured"):
        await forwarder.forward(exchange, target, identity(exchange), credential(), renew)  # type: ignore[arg-type]


async def test_a_client_that_leaves_ends_the_upstream_call_while_it_waits() -> None:
    gone = asyncio.Event()

    async def silent(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.closed()
        gone.set()

    async with forwarding(silent) as (front, upstream):
        _, writer = await front.open()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await until(lambda: bool(upstream.requests))
        writer.close()
        async with asyncio.timeout(0.5):
            await gone.wait()
        await front.settled()
    assert [type(refusal) for refusal in front.refusals] == [ClientDisconnected]


async def test_a_client_that_leaves_ends_a_stream_that_is_quiet() -> None:
    gone = asyncio.Event()

    async def stream(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await connection.closed()
        gone.set()

    async with forwarding(stream) as (front, _):
        reader, writer = await front.open()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await reader.readuntil(b"a\r\n")
        writer.close()
        async with asyncio.timeout(0.5):
            await gone.wait()
        await front.settled()
    assert [type(refusal) for refusal in front.refusals] == [ClientDisconnected]


async def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_upstream_call() -> None:
    gone = asyncio.Event()

    async def read(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.closed()
        gone.set()

    async with forwarding(read) as (front, upstream):
        _, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 1000\r\n\r\nsome")
        await until(lambda: bool(upstream.requests))
        writer.close()
        async with asyncio.timeout(0.5):
            await gone.wait()
        await front.settled()
    assert [type(refusal) for refusal in front.refusals] == [ClientDisconnected]


async def test_closing_lets_an_exchange_end_and_takes_no_new_one() -> None:
    answering = asyncio.Event()

    async def slow(connection: UpstreamConnection, seen: Seen) -> None:
        await answering.wait()
        await connection.send(OK)

    async with forwarding(slow) as (front, upstream):
        first = asyncio.create_task(front.call())
        await until(lambda: bool(upstream.requests))
        closing = asyncio.create_task(front.forwarder.close())
        await asyncio.sleep(0.02)
        late = await front.call()
        answering.set()
        assert (await first).body == b"ok"
        await closing
        assert front.forwarder.facts() == {"orders": PoolFacts(open=0, idle=0, waiting=0)}
    assert (late.status, [type(refusal) for refusal in front.refusals]) == (503, [Overloaded])


async def test_closing_aborts_what_does_not_end_in_time() -> None:
    async def silent(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.closed()

    async with forwarding(silent) as (front, upstream):
        call = asyncio.create_task(front.call())
        await until(lambda: bool(upstream.requests))
        await front.forwarder.close()
        assert (await call).status == 502
