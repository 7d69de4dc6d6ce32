"""Services that do wrong, behind the whole proxy: what the client gets, what it never gets, what is recorded, and that
the next request is served as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.forwarding import connected, replies, reserved_port, response
from support.proxy import RunningProxy, running_proxy
from support.upstream import RawUpstream, Script, Seen, UpstreamConnection, parse, until

LIMITS = "limits: {first_byte_timeout: 300ms, idle_timeout: 300ms, response_header_bytes: 16KiB}\n"
EVIL = b"EVIL-0123456789"
"""What a service sends that must reach nobody."""
CHUNKED = b"4\r\nsome\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def proxy(opa_binary: object, port: int) -> Iterator[RunningProxy]:
    with running_proxy(upstreams={"orders": port}, config_extra=LIMITS) as running:
        yield running


def sends(*pieces: bytes, then: str = "hangs", reads: bool = True) -> Script:
    """Reads the request, sends these pieces one after the other, then `hangs`, `closes`, `resets` or `stays` open for
    the next request."""

    async def act(connection: UpstreamConnection, seen: Seen) -> None:
        if reads:
            await connection.body(seen)
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(0.02)
        if then == "hangs":
            await connection.closed()
        elif then == "closes":
            connection.writer.close()
        elif then == "resets":
            connection.writer.transport.abort()

    return act


def without_end(opening: bytes, filler: bytes) -> Script:
    """Sends without ever stopping, as fast as it is read."""

    async def act(connection: UpstreamConnection, seen: Seen) -> None:
        await connection.body(seen)
        await connection.send(opening)
        while not connection.writer.is_closing():
            await connection.send(filler * 50)
            await asyncio.sleep(0)

    return act


async def _drips_headers(connection: UpstreamConnection, seen: Seen) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\n")
    while not connection.writer.is_closing():
        await connection.send(b"x-drip: 1\r\n")
        await asyncio.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What a service does, and what becomes of it. `body` is what the client may have had of a response that began;
    with None it gets the proxy's refusal instead."""

    script: Script
    status: int
    reason: str
    body: bytes | None = None


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"content-length: 100\r\n\r\n"
STREAM = OK + b"transfer-encoding: chunked\r\n\r\n"

WRONG = {
    # Hanging.
    "hangs before its answer": Wrong(script=sends(), status=504, reason="upstream-timeout"),
    "hangs before it reads": Wrong(script=sends(reads=False), status=504, reason="upstream-timeout"),
    "hangs inside the status line": Wrong(script=sends(b"HTTP/1.1 20"), status=504, reason="upstream-timeout"),
    "hangs inside the headers": Wrong(script=sends(OK + b"x-half: " + EVIL), status=504, reason="upstream-timeout"),
    "hangs after an interim answer": Wrong(
        script=sends(b"HTTP/1.1 103 Early Hints\r\nx: %b\r\n\r\n" % EVIL), status=504, reason="upstream-timeout"
    ),
    "drips headers": Wrong(script=_drips_headers, status=504, reason="upstream-timeout"),
    "hangs inside a body": Wrong(script=sends(LENGTH + b"some"), status=200, reason="upstream-timeout", body=b"some"),
    "hangs before a body": Wrong(script=sends(LENGTH), status=200, reason="upstream-timeout", body=b""),
    "hangs between chunks": Wrong(script=sends(STREAM + CHUNKED), status=200, reason="upstream-timeout", body=b"some"),
    "hangs before the last chunk's end": Wrong(
        script=sends(STREAM + CHUNKED + b"0\r\n"), status=200, reason="upstream-timeout", body=b"some"
    ),
    # Closing early.
    "closes at once": Wrong(script=sends(then="closes", reads=False), status=502, reason="upstream-failed"),
    "closes before its answer": Wrong(script=sends(then="closes"), status=502, reason="upstream-failed"),
    "resets before its answer": Wrong(script=sends(then="resets"), status=502, reason="upstream-failed"),
    "closes inside the headers": Wrong(
        script=sends(OK + b"x-half: " + EVIL, then="closes"), status=502, reason="upstream-failed"
    ),
    "closes inside a body": Wrong(
        script=sends(LENGTH + b"some", then="closes"), status=200, reason="upstream-failed", body=b"some"
    ),
    "resets inside a body": Wrong(
        script=sends(LENGTH + b"some", then="resets"), status=200, reason="upstream-failed", body=b"some"
    ),
    "closes between chunks": Wrong(
        script=sends(STREAM + CHUNKED, then="closes"), status=200, reason="upstream-failed", body=b"some"
    ),
    # Framing.
    "says a length and chunked": Wrong(
        script=sends(OK + b"content-length: 15\r\ntransfer-encoding: chunked\r\n\r\nf\r\n%b\r\n0\r\n\r\n" % EVIL),
        status=502,
        reason="upstream-failed",
    ),
    "says chunked and a length": Wrong(
        script=sends(OK + b"transfer-encoding: chunked\r\ncontent-length: 15\r\n\r\nf\r\n%b\r\n0\r\n\r\n" % EVIL),
        status=502,
        reason="upstream-failed",
    ),
    "says two lengths": Wrong(
        script=sends(OK + b"content-length: 15\r\ncontent-length: 4\r\n\r\n" + EVIL),
        status=502,
        reason="upstream-failed",
    ),
    "says a coding that is not chunked": Wrong(
        script=sends(OK + b"transfer-encoding: gzip, chunked\r\n\r\nf\r\n%b\r\n0\r\n\r\n" % EVIL),
        status=502,
        reason="upstream-failed",
    ),
    "breaks off its chunks": Wrong(
        script=sends(STREAM + CHUNKED + b"zz\r\n" + EVIL), status=200, reason="upstream-failed", body=b"some"
    ),
    # What is no answer.
    "speaks no HTTP": Wrong(script=sends(b"220 mail.test ESMTP " + EVIL), status=502, reason="upstream-failed"),
    "speaks HTTP/0.9": Wrong(script=sends(b"<html>" + EVIL, then="closes"), status=502, reason="upstream-failed"),
    "speaks HTTP/2": Wrong(script=sends(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"), status=502, reason="upstream-failed"),
    "speaks TLS": Wrong(script=sends(b"\x15\x03\x03\x00\x02\x02\x28"), status=502, reason="upstream-failed"),
    "switches protocols": Wrong(
        script=sends(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + EVIL),
        status=502,
        reason="upstream-failed",
    ),
    # Without end.
    "sends headers without end": Wrong(
        script=without_end(OK, b"x-filler: %b\r\n" % EVIL), status=502, reason="upstream-failed"
    ),
    "sends one header without end": Wrong(script=without_end(OK + b"x: ", EVIL), status=502, reason="upstream-failed"),
    "sends a status line without end": Wrong(
        script=without_end(b"HTTP/1.1 200 ", EVIL), status=502, reason="upstream-failed"
    ),
    "sends interim answers without end": Wrong(
        script=without_end(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), status=502, reason="upstream-failed"
    ),
    "sends 100 without end": Wrong(
        script=without_end(b"", b"HTTP/1.1 100 Continue\r\nx: %b\r\n\r\n" % EVIL),
        status=502,
        reason="upstream-failed",
    ),
    "sends trailers without end": Wrong(
        script=without_end(STREAM + CHUNKED + b"0\r\n", b"x-trailer: %b\r\n" % EVIL),
        status=200,
        reason="upstream-failed",
        body=b"some",
    ),
    "sends a chunk extension without end": Wrong(
        script=without_end(STREAM + CHUNKED + b"4;", EVIL), status=200, reason="upstream-failed", body=b"some"
    ),
}


def request(
    proxy: RunningProxy,
    path: str = "/orders/42",
    *,
    subject: str = "web",
    service: str = "orders",
    close: bool = False,
) -> bytes:
    ending = "Connection: close\r\n\r\n" if close else "\r\n"
    lines = f"Host: {service}.localhost\r\nAuthorization: Bearer {proxy.token(subject)}\r\n{ending}"
    return f"GET {path} HTTP/1.1\r\n{lines}".encode()


async def raw_answer(proxy: RunningProxy, *, subject: str = "web") -> bytes:
    """All that a client gets until the proxy ends the connection."""
    async with connected(proxy.port) as client:
        await client.send(request(proxy, subject=subject, close=True))
        return await client.ended()


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_service_that_does_wrong(proxy: RunningProxy, port: int, wrong: Wrong) -> None:
    """Its client gets a refusal, or a response that cannot be taken for a whole one; nothing that was not a response,
    and not the credential; the record says what was; and the next request is answered."""
    async with RawUpstream(wrong.script, port=port).running() as upstream:
        raw = await raw_answer(proxy)
    seen = upstream.requests[0]
    answer = parse(raw)
    assert answer.status == wrong.status
    if wrong.body is None:
        assert json.loads(answer.body)["reasons"] == [wrong.reason]
    else:
        assert (answer.body, answer.complete) == (wrong.body, False)
    (authorization,) = seen.values("authorization")
    assert EVIL not in raw
    assert authorization.removeprefix("Bearer ").encode() not in raw

    assert len(upstream.requests) == 1
    lines = await proxy.recorded(seen.values("ostiary-decision-id")[0], lines=2)
    assert [line["kind"] for line in lines] == ["decision", "completion"]
    outcome = "refused" if wrong.body is None else "aborted"
    assert (lines[1]["outcome"], lines[1]["status"], lines[1]["reasons"]) == (outcome, wrong.status, [wrong.reason])

    async with RawUpstream(replies(response(b"well")), port=port).running():
        again = parse(await raw_answer(proxy))
    assert (again.status, again.body, again.complete) == (200, b"well", True)


@pytest.mark.parametrize(
    "surplus",
    [
        pytest.param(OK + b"content-length: 15\r\n\r\n" + EVIL, id="another answer"),
        pytest.param(EVIL, id="garbage"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="an interim answer"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
async def test_surplus_bytes_are_nobodys_answer(proxy: RunningProxy, port: int, surplus: bytes, *, late: bool) -> None:
    """Each request that is sent after they have come has its own answer, over a connection of its own."""
    came = asyncio.Event()

    async def act(connection: UpstreamConnection, seen: Seen) -> None:
        number = b"%d" % len(upstream.requests)
        own = OK + b"content-length: %d\r\n\r\n" % len(number) + number
        if late:
            await connection.send(own)
            await asyncio.sleep(0.02)
            await connection.send(surplus)
        else:
            await connection.send(own + surplus)
        came.set()
        await connection.closed()

    upstream = RawUpstream(act, port=port)
    async with upstream.running(), connected(proxy.port) as client:
        got = []
        for _ in range(4):
            came.clear()
            await client.send(request(proxy))
            got.append(await client.response())
            await came.wait()
    assert [(answer.status, answer.body) for answer in got] == [(200, b"%d" % number) for number in range(1, 5)]
    assert [seen.connection for seen in upstream.requests] == [1, 2, 3, 4]


async def test_a_service_that_refuses_connections_is_502_until_it_is_back(proxy: RunningProxy, port: int) -> None:
    """The kept-alive connections that died with it cost nothing either: the first request finds the new one."""
    async with RawUpstream(replies(response(b"before")), port=port).running():
        assert parse(await raw_answer(proxy)).body == b"before"
    for _ in range(3):
        raw = await raw_answer(proxy)
        answer = parse(raw)
        problem = json.loads(answer.body)
        assert (answer.status, problem["reasons"]) == (502, ["upstream-failed"])
        assert str(port).encode() not in raw  # where services are is nobody's business
        _, completion = await proxy.recorded(problem["decision_id"], lines=2)
        assert (completion["outcome"], completion["status"]) == ("refused", 502)
        assert "no connection to the upstream" in completion["detail"]
    async with RawUpstream(replies(response(b"after")), port=port).running():
        assert parse(await raw_answer(proxy)).body == b"after"


async def test_a_service_that_hangs_holds_up_nobody_else(opa_binary: object) -> None:
    """Requests to another service are answered while every connection to the one that hangs waits."""
    limits = "limits: {first_byte_timeout: 3s, upstream_connections: 4}\n"
    async with (
        RawUpstream(sends()).running() as hanging,
        RawUpstream(replies(response(b"well"))).running() as well,
        running_proxy(
            upstreams={"orders": hanging.port, "billing": well.port}, permissions=TWO_SERVICES, config_extra=limits
        ) as proxy,
    ):
        stuck = [
            asyncio.create_task(raw_answer(proxy, subject=subject))
            for subject in ("web", "reporting", "support", "billing")
            for _ in range(2)
        ]
        await until(lambda: len(hanging.requests) == 4)
        async with connected(proxy.port) as client:
            for _ in range(20):
                await client.send(request(proxy, "/bills", service="billing"))
                answer = await client.response()
                assert (answer.status, answer.body) == (200, b"well")
        answers = [parse(raw) for raw in await asyncio.gather(*stuck)]
        # Four waited for the service; the others for a connection to it, for a second.
        assert sorted(answer.status for answer in answers) == [503] * 4 + [504] * 4
        assert len(hanging.requests) == 4


TWO_SERVICES = """\
services:
  orders: {endpoints: {get-order: "GET /orders/{order_id}"}}
  billing: {endpoints: {list-bills: GET /bills}}
callers:
  web: {issuer: http://idp.localhost, subject: web}
  reporting: {issuer: http://idp.localhost, subject: reporting}
  support: {issuer: http://idp.localhost, subject: support}
  billing: {issuer: http://idp.localhost, subject: billing}
permissions:
  - {caller: web, service: orders, endpoints: [get-order]}
  - {caller: reporting, service: orders, endpoints: [get-order]}
  - {caller: support, service: orders, endpoints: [get-order]}
  - {caller: billing, service: orders, endpoints: [get-order]}
  - {caller: web, service: billing, endpoints: [list-bills]}
"""
