"""What an upstream may do wrong, and what becomes of the request and of the connection."""

from __future__ import annotations

import asyncio

import pytest

from ostiary.errors import (
    BodyTooLarge,
    ClientDisconnected,
    HeaderMalformed,
    MessageMalformed,
    Overloaded,
    RequestTimeout,
    UpstreamFailed,
    UpstreamTimeout,
)
from ostiary.exchange import BEGAN, Exchange
from ostiary.upstream.watch import Watched
from support.shipped import upstream_settings
from support.upstream import OK, SECRET, Seen, UpstreamConnection, answers, credential, forwarding, fronted, until

CHUNKED = b"2\r\nok\r\n0\r\n\r\n"

MALFORMED = {
    "a length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked and a length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + CHUNKED,
    "two lengths that differ": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "two lengths that agree": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "an unknown transfer encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "a transfer encoding before chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a bare carriage return": b"HTTP/1.1 302 Found\r\nLocation: /x\rSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a folded header": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nX-A: 1\x00\r\nContent-Length: 2\r\n\r\nok",
    "a control character in a header": b"HTTP/1.1 200 OK\r\nX-A: 1\x01\r\nContent-Length: 2\r\n\r\nok",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "status 000": b"HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok",
    "status 600": b"HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nok",
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00",
    "another protocol unnamed": b"HTTP/1.1 101 Switching\r\n\r\n" + OK,
    "interim responses for ever": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100 + OK,
    "a header section over the limit": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "a status line over the limit": b"HTTP/1.1 200 " + b"a" * 70_000,
    "very many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"Content-Length: 2\r\n\r\nok",
    "401 for the swapped credential": b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
    "407 for the swapped credential": b"HTTP/1.1 407 Proxy\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
    "nothing at all": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an interim response and the end": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("response", MALFORMED.values(), ids=[name.replace(" ", "-") for name in MALFORMED])
async def test_what_is_not_a_proper_response_is_502_and_ends_its_connection(response: bytes) -> None:
    async with forwarding(answers(response, close=True)) as (front, upstream):
        answer = await front.call()
        await front.settled(idle=0)
    assert (answer.status, answer.values("content-type")) == (502, ["application/problem+json"])
    assert [type(refusal).status for refusal in front.refusals] == [502]
    assert (upstream.connections, len(upstream.requests)) == (1, 1)


async def test_an_endless_header_section_is_cut_off_while_it_is_sent() -> None:
    sent = 0

    async def endless(connection: UpstreamConnection, seen: Seen) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"x-filler: 0123456789\r\n" * 100)
            sent += 2200
            await asyncio.sleep(0)

    async with forwarding(endless, response_header_bytes=16_384) as (front, _):
        assert (await front.call()).status == 502
    assert sent < 8 * 1024 * 1024  # what the sockets' buffers hold, and not for ever


@pytest.mark.parametrize("filler", [b"x-trailer: 0123456789\r\n", b"a" * 20], ids=["trailers", "chunk-extension"])
async def test_endless_trailers_and_chunk_extensions_abort_the_response(filler: bytes) -> None:
    async def endless(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await connection.send(b"0\r\n" if filler.endswith(b"\n") else b"2;")
        while True:
            await connection.send(filler * 100)
            await asyncio.sleep(0)

    async with forwarding(endless) as (front, _):
        answer = await front.call()
        await front.settled()
    assert (answer.status, answer.body, answer.complete) == (200, b"ok", False)
    assert [str(refusal) for refusal in front.refusals] == ["the upstream's header section is over the limit"]


@pytest.mark.parametrize(
    "surplus",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL", b"garbage", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["a-second-response", "garbage", "an-interim-response"],
)
async def test_surplus_bytes_are_not_relayed_and_end_their_connection(surplus: bytes) -> None:
    async with forwarding(answers(OK + surplus, OK)) as (front, upstream):
        got = [await front.call() for _ in range(2)]
    assert [(a.status, a.body) for a in got] == [(200, b"ok")] * 2
    assert [seen.connection for seen in upstream.requests] == [1, 2]


async def test_surplus_bytes_that_come_later_end_the_idle_connection() -> None:
    async def late(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(OK)
        await asyncio.sleep(0.05)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")

    async with forwarding(late) as (front, upstream):
        await front.call()
        await front.settled(idle=1)
        await front.settled(idle=0)
        assert (await front.call()).body == b"ok"
    assert [seen.connection for seen in upstream.requests] == [1, 2]


async def test_a_body_that_head_was_not_asked_for_ends_its_connection() -> None:
    async with forwarding(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL", OK)) as (front, upstream):
        head = await front.call("HEAD")
        assert (head.body, (await front.call()).body) == (b"", b"ok")
    assert [seen.connection for seen in upstream.requests] == [1, 2]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nxyz\r\n",
    ],
    ids=["length", "chunked", "no-end-of-trailers", "malformed-chunk"],
)
async def test_a_response_that_breaks_off_aborts_the_clients_too(response: bytes) -> None:
    async with forwarding(answers(response, close=True)) as (front, _):
        answer = await front.call()
        await front.settled()
        exchange = front.exchanges[0]
    assert (answer.status, answer.body, answer.complete) == (200, b"some", False)
    assert [type(refusal) for refusal in front.refusals] == [UpstreamFailed]
    assert (exchange.response_started, exchange.response_complete) == (True, False)


async def test_a_stale_connection_is_replaced_once_with_a_fresh_per_call_credential() -> None:
    async def one_each(connection: UpstreamConnection, seen: Seen) -> None:
        if len(upstream.requests) == 2:
            connection.writer.close()  # read, and not answered
        else:
            await connection.send(OK)

    async with forwarding(one_each, swap=lambda number: credential(number, per_call=True)) as (front, upstream):
        assert [(await front.call()).status for _ in range(2)] == [200, 200]
    assert [seen.connection for seen in upstream.requests] == [1, 1, 2]
    assert [seen.values("authorization") for seen in upstream.requests] == [
        [f"Bearer {SECRET.decode()}-{number}"] for number in range(3)
    ]


async def test_a_credential_that_may_be_used_again_is_sent_again() -> None:
    async def one_each(connection: UpstreamConnection, seen: Seen) -> None:
        if len(upstream.requests) == 2:
            connection.writer.close()
        else:
            await connection.send(OK)

    async with forwarding(one_each) as (front, upstream):
        assert [(await front.call()).status for _ in range(2)] == [200, 200]
    assert (len(upstream.requests), len(front.swaps)) == (3, 2)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_head_and_options_are_sent_again_as_well(method: str) -> None:
    async def one_each(connection: UpstreamConnection, seen: Seen) -> None:
        if len(upstream.requests) == 2:
            connection.writer.close()
        else:
            await connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with forwarding(one_each) as (front, upstream):
        assert [(await front.call(method)).status for _ in range(2)] == [204, 204]
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_method_that_changes_something_is_never_sent_twice(method: str) -> None:
    async def one_each(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.body(seen)
        if len(upstream.requests) == 2:
            connection.writer.close()
        else:
            await connection.send(OK)

    async with forwarding(one_each) as (front, upstream):
        assert [(await front.call(method)).status for _ in range(2)] == [200, 502]
    assert len(upstream.requests) == 2


async def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    async with forwarding(answers(b"", close=True)) as (front, upstream):
        assert (await front.call()).status == 502
    assert len(upstream.requests) == 1


async def test_a_second_stale_connection_is_502() -> None:
    async def never_again(connection: UpstreamConnection, seen: Seen) -> None:
        if len(upstream.requests) == 1:
            await connection.send(OK)
        else:
            connection.writer.close()

    async with forwarding(never_again) as (front, upstream):
        assert [(await front.call()).status for _ in range(2)] == [200, 502]
    assert len(upstream.requests) == 3


async def test_a_connection_that_breaks_after_one_byte_is_not_tried_again() -> None:
    async def break_off(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(OK if len(upstream.requests) == 1 else b"H")
        if len(upstream.requests) > 1:
            connection.writer.close()

    async with forwarding(break_off) as (front, upstream):
        assert [(await front.call()).status for _ in range(2)] == [200, 502]
    assert len(upstream.requests) == 2


async def test_a_refused_connection_is_502() -> None:
    async with fronted(upstream_settings(host="127.0.0.1", port=1)) as front:
        assert (await front.call()).status == 502
    assert [type(refusal) for refusal in front.refusals] == [UpstreamFailed]


async def _silent(connection: UpstreamConnection, seen: Seen) -> None:
    await connection.closed()


async def _stalled(connection: UpstreamConnection, seen: Seen) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nsome")
    await connection.closed()


async def _trickling_head(connection: UpstreamConnection, seen: Seen) -> None:
    while True:
        await connection.send(b"HTTP/1.1 200 OK\r\n" if not seen.body else b"a: b\r\n")
        seen.body = b"begun"
        await asyncio.sleep(0.02)


async def _endless(connection: UpstreamConnection, seen: Seen) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await connection.send(b"tick")
        await asyncio.sleep(0.02)


async def _deaf(connection: UpstreamConnection, seen: Seen) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("script", [_silent, _trickling_head], ids=["silent", "trickling"])
async def test_a_head_that_is_late_is_504(script: object) -> None:
    loop = asyncio.get_running_loop()
    async with forwarding(script, first_byte_timeout=0.2) as (front, _):  # type: ignore[arg-type]
        begun = loop.time()
        answer = await front.call()
        assert 0.2 <= loop.time() - begun < 0.6
        await front.settled()
    assert answer.status == 504
    assert [(type(refusal), str(refusal)) for refusal in front.refusals] == [
        (UpstreamTimeout, "the upstream did not answer in time")
    ]


async def test_a_body_that_stalls_aborts_the_response() -> None:
    async with forwarding(_stalled, idle_timeout=0.2) as (front, _):
        answer = await front.call()
        await front.settled()
    assert (answer.status, answer.body, answer.complete) == (200, b"some", False)
    assert [str(refusal) for refusal in front.refusals] == ["the upstream stopped sending its response"]


async def test_no_exchange_lasts_longer_than_it_may_in_all() -> None:
    async with forwarding(_endless, total_timeout=0.3) as (front, _):
        answer = await front.call()
        await front.settled()
    assert (answer.status, answer.complete, answer.body.startswith(b"ticktick")) == (200, False, True)
    assert [str(refusal) for refusal in front.refusals] == ["the exchange took longer than it may in all"]


async def test_an_upstream_that_does_not_take_the_body_is_504() -> None:
    async with forwarding(_deaf, idle_timeout=0.2, body_bytes=2**30) as (front, _):
        reader, writer = await front.open()
        writer.write(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 100000000\r\n\r\n")
        flood = asyncio.create_task(_flood(writer))
        raw = await reader.readuntil(b"\r\n\r\n")
        flood.cancel()
        writer.transport.abort()
        await front.settled()
    assert raw.startswith(b"HTTP/1.1 504")
    assert [str(refusal) for refusal in front.refusals] == ["the upstream stopped reading the request body"]


async def _flood(writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(bytes(65536))
            await writer.drain()
    except OSError:
        pass


@pytest.mark.parametrize("sent", [b"", b"some"], ids=["nothing", "something"])
async def test_a_client_that_does_not_send_its_body_is_408(sent: bytes) -> None:
    async with forwarding(_silent, client_idle_timeout=0.2) as (front, _):
        raw = await front.raw(b"POST /orders HTTP/1.1\r\nHost: orders.test\r\nContent-Length: 10\r\n\r\n" + sent)
        await front.settled()
    assert raw.startswith(b"HTTP/1.1 408")
    assert [type(refusal) for refusal in front.refusals] == [RequestTimeout]


async def test_a_client_that_does_not_read_its_response_is_given_up() -> None:
    async def flood(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.send(bytes(65536))

    async with forwarding(flood, client_idle_timeout=0.2) as (front, _):
        _, writer = await front.open()
        writer.write(b"GET /orders HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await until(lambda: bool(front.refusals))
        await front.settled()
        writer.transport.abort()
    assert [(type(refusal), str(refusal)) for refusal in front.refusals] == [
        (ClientDisconnected, "the client stopped reading the response")
    ]


async def test_connecting_that_takes_too_long_is_504() -> None:
    """A listener whose queue is full answers no further connection."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        try:
            async with fronted(upstream_settings(host="127.0.0.1", port=port, connect_timeout=0.2)) as front:
                answer = await front.call()
        finally:
            for filler in fillers:
                filler.close()
    assert (answer.status, [type(refusal) for refusal in front.refusals]) == (504, [UpstreamTimeout])


async def test_a_declared_body_over_the_limit_is_413_and_never_reaches_the_upstream() -> None:
    async with forwarding(answers(OK), body_bytes=10) as (front, upstream):
        assert (await front.call("POST", body=b"0123456789")).status == 200
        assert (await front.call("POST", body=b"0123456789x")).status == 413
    assert (len(upstream.requests), [type(refusal) for refusal in front.refusals]) == (1, [BodyTooLarge])


async def test_a_chunked_body_over_the_limit_is_413_and_the_upstream_never_gets_its_end() -> None:
    ended: list[bool] = []

    async def read(connection: UpstreamConnection, seen: Seen) -> None:
        try:
            await connection.body(seen)
        except asyncio.IncompleteReadError:
            ended.append(False)
            raise
        ended.append(True)

    async with forwarding(read, body_bytes=10) as (front, upstream):
        reader, writer = await front.open()
        writer.write(b"POST /o HTTP/1.1\r\nHost: orders.test\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n01234567\r\n")
        await until(lambda: bool(upstream.requests))
        writer.write(b"3\r\n890\r\n0\r\n\r\n")
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 413")
        writer.close()
        await front.settled()
        await until(lambda: bool(ended))
    assert ended == [False]


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n0123456789x", 502),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n", 200),
    ],
    ids=["declared", "chunked"],
)
async def test_a_response_over_the_limit_is_not_relayed_whole(response: bytes, status: int) -> None:
    async def send(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.send(response)
        await asyncio.sleep(0.05)
        await connection.send(b"7\r\n4567890\r\n0\r\n\r\n")
        await connection.closed()

    async with forwarding(send, response_body_bytes=10) as (front, _):
        answer = await front.call()
        await front.settled()
    assert (answer.status, answer.complete) == (status, status == 502)
    assert [type(refusal) for refusal in front.refusals] == [UpstreamFailed]


async def test_requests_wait_for_a_connection_in_turn_and_not_for_ever() -> None:
    free = asyncio.Event()

    async def hold(connection: UpstreamConnection, seen: Seen) -> None:
        await free.wait()
        await connection.send(OK)

    async with forwarding(hold, max_connections=1, max_waiting=2, wait_timeout=0.3) as (front, upstream):
        calls = [asyncio.create_task(front.call(path=f"/{number}")) for number in range(4)]
        await until(lambda: front.forwarder.facts()["orders"].waiting == 2 and bool(front.refusals))
        assert [str(refusal) for refusal in front.refusals] == [
            "too many requests wait for a connection to the upstream"
        ]
        free.set()
        assert sorted([(await call).status for call in calls]) == [200, 200, 200, 503]
        free.clear()
        held = asyncio.create_task(front.call())
        await asyncio.sleep(0.05)
        assert (await front.call()).status == 503
        assert str(front.refusals[-1]) == "no connection to the upstream became free in time"
        free.set()
        assert (await held).status == 200
    assert {type(refusal) for refusal in front.refusals} == {Overloaded}
    assert upstream.connections == 1


async def test_a_connection_that_is_discarded_makes_room_for_who_waits() -> None:
    async with forwarding(answers(b"HTTP/1.1 200 OK\r\n\r\nok", close=True), max_connections=2) as (front, upstream):
        got = await asyncio.gather(*(front.call() for _ in range(12)))
    assert [(a.status, a.body) for a in got] == [(200, b"ok")] * 12
    assert upstream.connections == 12


async def test_a_client_that_leaves_while_it_waits_gives_up_its_turn() -> None:
    free = asyncio.Event()

    async def hold(connection: UpstreamConnection, seen: Seen) -> None:
        await free.wait()
        await connection.send(OK)

    async with forwarding(hold, max_connections=1, wait_timeout=5) as (front, upstream):
        first = asyncio.create_task(front.call())
        await until(lambda: bool(upstream.requests))
        _, writer = await front.open()
        writer.write(b"GET /gone HTTP/1.1\r\nHost: orders.test\r\n\r\n")
        await until(lambda: bool(front.forwarder.facts()["orders"].waiting))
        writer.close()
        await until(lambda: bool(front.refusals))
        assert front.forwarder.facts()["orders"].waiting == 0
        free.set()
        assert ((await first).status, (await front.call()).status) == (200, 200)
    assert [type(refusal) for refusal in front.refusals] == [ClientDisconnected]
    assert ["GET /gone HTTP/1.1" in seen.line for seen in upstream.requests] == [False, False]


async def test_a_connection_header_that_names_framing_is_400() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        for name in ("Content-Length", "transfer-encoding", "HOST"):
            assert (await front.call(headers=f"Connection: {name}, close\r\n")).status == 400
    assert (upstream.requests, {type(refusal) for refusal in front.refusals}) == ([], {HeaderMalformed})


async def test_two_framings_are_refused_even_behind_a_listener_that_is_not_strict() -> None:
    async with forwarding(answers(OK)) as (front, upstream):
        raw = await front.raw(
            b"POST / HTTP/1.1\r\nHost: orders.test\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n"
            b"0\r\n\r\n"
        )
    assert raw.startswith(b"HTTP/1.1 400")
    assert (upstream.requests, [type(refusal) for refusal in front.refusals]) == ([], [MessageMalformed])


async def _nothing(*_: object) -> dict[str, object]:
    await asyncio.Event().wait()
    return {}


def exchange(**scope: object) -> Exchange:
    scope |= {"method": "GET", "raw_path": b"/", "query_string": b"", "headers": ()}
    return Exchange(scope, _nothing, _nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(("began", "late"), [(20.0, True), (5.0, False), (None, False)])
async def test_what_an_exchange_may_take_in_all_counts_from_its_first_byte(began: float | None, late: bool) -> None:
    """Not from when it was forwarded: its headers may have trickled, and it may have waited behind another."""
    loop = asyncio.get_running_loop()
    known = {} if began is None else {BEGAN: loop.time() - began}

    async def run() -> Watched:
        watched = Watched(exchange(**known), loop, total=10)
        try:
            watched.look(loop.time())
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            assert watched.settle() is watched.refusal
        watched.end()
        return watched

    watched = await loop.create_task(run())
    assert isinstance(watched.refusal, UpstreamTimeout) == late
