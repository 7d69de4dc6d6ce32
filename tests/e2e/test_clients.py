"""The proxy with the clients that people have: curl and httpx."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import httpx
import pytest

from support.forwarding import PATIENCE, Request, replies, response
from support.proxy import RunningProxy
from support.upstream import RawUpstream, Script, UpstreamConnection

Orders = Callable[[Script], AbstractAsyncContextManager[RawUpstream]]


@dataclass
class Curled:
    status: int
    output: bytes
    errors: str


@pytest.fixture(scope="session")
def curl_binary() -> str:
    found = shutil.which("curl")
    assert found is not None, "these tests need curl"
    return found


class Curl:
    def __init__(self, binary: str, proxy: RunningProxy) -> None:
        self._binary = binary
        self._proxy = proxy

    def url(self, path: str) -> str:
        """As a person writes it: curl itself resolves what ends in .localhost (RFC 6761 section 6.3)."""
        return f"http://orders.localhost:{self._proxy.port}{path}"

    def command(self, *arguments: str, token: str | None) -> list[str]:
        given = [] if token is None else ["-H", f"Authorization: Bearer {token}"]
        return [self._binary, "-sS", "--noproxy", "*", "--max-time", "10", *given, *arguments]

    async def __call__(self, *arguments: str, token: str | None, stdin: bytes = b"") -> Curled:
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments, token=token),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(stdin)
        return Curled(process.returncode or 0, output, errors.decode())


@pytest.fixture
def curl(curl_binary: str, proxy: RunningProxy) -> Curl:
    return Curl(curl_binary, proxy)


@pytest.fixture
async def client(proxy: RunningProxy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=proxy.url(""), trust_env=False, timeout=PATIENCE) as client:
        yield client


async def echo(connection: UpstreamConnection, seen: Request) -> None:
    await connection.body(seen)
    await connection.send(response(seen.line.encode() + b"|" + seen.body))


async def test_curl_gets_and_posts(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    token = proxy.token()
    async with orders(echo) as upstream:
        got = await curl(curl.url("/orders/42"), token=token)
        posted = await curl("--json", '{"sku":"a"}', curl.url("/orders"), token=token)
    assert got == Curled(0, b"GET /orders/42 HTTP/1.1|", "")
    assert posted == Curled(0, b'POST /orders HTTP/1.1|{"sku":"a"}', "")
    assert upstream.requests[1].values("content-type") == ["application/json"]


async def test_curl_uploads_in_chunks(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    content = bytes(range(256)) * 4096
    async with orders(echo) as upstream:
        sent = await curl("-X", "POST", "-T", "-", curl.url("/orders"), token=proxy.token(), stdin=content)
    assert sent == Curled(0, b"POST /orders HTTP/1.1|" + content, "")
    assert upstream.requests[0].values("transfer-encoding") == ["chunked"]


async def test_curl_waits_for_the_continue(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    """With an answer to its Expect it need not wait for the time after which it would send all the same."""
    content = b"a" * 2_000_000
    arguments = ("-H", "Expect: 100-continue", "--expect100-timeout", "60", "--data-binary", "@-")
    async with orders(echo):
        sent = await curl(*arguments, curl.url("/orders"), token=proxy.token(), stdin=content)
        refused = await curl(
            *arguments, "-w", "|%{http_code}|%{size_upload}", curl.url("/orders/42"), token=proxy.token(), stdin=content
        )
    assert sent == Curled(0, b"POST /orders HTTP/1.1|" + content, "")
    assert refused.status == 0
    assert refused.output.endswith(b"|403|0")


async def test_curl_asks_for_the_head_alone(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    async with orders(replies(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\netag: x\r\n\r\n")):
        asked = await curl("-I", curl.url("/orders/42"), token=proxy.token())
    lines = asked.output.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert {"content-length: 12345", "etag: x"} <= set(lines)


async def test_curl_reuses_its_connection(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    pages = [curl.url(f"/orders/{number}") for number in range(5)]
    async with orders(replies(response(b""))) as upstream:
        done = await curl("-w", "%{http_code}:%{num_connects} ", *pages, token=proxy.token())
    assert done.output == b"200:1 200:0 200:0 200:0 200:0 "
    assert upstream.connections == 1


async def test_curl_resumes_a_download(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    """A range is between client and service."""
    raw = response(b"cde", status="206 Partial Content", headers="content-range: bytes 2-4/5\r\n")
    async with orders(replies(raw)) as upstream:
        done = await curl("-C", "2", curl.url("/orders/export"), token=proxy.token())
    assert done == Curled(0, b"cde", "")
    assert upstream.requests[0].values("range") == ["bytes=2-"]


async def test_curl_shows_why_it_was_refused(curl: Curl, proxy: RunningProxy) -> None:
    denied = await curl("-X", "DELETE", curl.url("/orders/42"), token=proxy.token())
    problem = json.loads(denied.output)
    assert problem.pop("decision_id")
    assert problem == {
        "type": "about:blank",
        "status": 403,
        "title": "No permission lets this caller use this endpoint.",
        "reasons": ["permission-missing"],
    }
    nobody = await curl("-i", curl.url("/orders/42"), token=None)
    assert nobody.output.startswith(b"HTTP/1.1 401 ")
    assert b'\r\nwww-authenticate: Bearer realm="ostiary"\r\n' in nobody.output


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--http2"], 400),  # h2c by upgrade
        (["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"], 400),
    ],
    ids=["h2c", "websocket"],
)
async def test_curl_is_told_that_a_connection_is_not_upgraded(
    curl: Curl, proxy: RunningProxy, orders: Orders, arguments: list[str], status: int
) -> None:
    async with orders(echo) as upstream:
        refused = await curl(*arguments, "-w", "|%{http_code}", curl.url("/orders/42"), token=proxy.token())
    document, _, code = refused.output.rpartition(b"|")
    assert int(code) == status
    assert json.loads(document)["reasons"] == ["upgrade-refused"]
    assert upstream.connections == 0


async def test_http2_without_asking_is_ended(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    async with orders(echo) as upstream:
        refused = await curl("--http2-prior-knowledge", curl.url("/orders/42"), token=proxy.token())
    assert refused.status != 0
    assert refused.output == b""
    assert upstream.connections == 0


async def test_curl_sees_events_as_they_come(curl: Curl, proxy: RunningProxy, orders: Orders) -> None:
    """Each event is sent only once curl has printed the one before."""
    printed = asyncio.Semaphore(0)

    async def stream(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number in range(3):
            event = b"data: %d\n\n" % number
            await connection.send(b"%x\r\n%s\r\n" % (len(event), event))
            await printed.acquire()
        await connection.send(b"0\r\n\r\n")

    async with orders(stream), asyncio.timeout(PATIENCE):
        process = await asyncio.create_subprocess_exec(
            *curl.command("-N", curl.url("/orders/42"), token=proxy.token()), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for number in range(3):
            assert await process.stdout.readuntil(b"\n\n") == b"data: %d\n\n" % number
            printed.release()
        assert await process.wait() == 0


async def test_httpx_streams_both_ways(client: httpx.AsyncClient, proxy: RunningProxy, orders: Orders) -> None:
    async def upload() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"a" * 65536

    async def double(connection: UpstreamConnection, seen: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        async for piece in connection.pieces(seen):
            await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        await connection.send(b"0\r\n\r\n")

    received = 0
    async with (
        orders(double),
        client.stream("POST", "/orders", headers=proxy.headers(), content=upload()) as answer,
    ):
        assert answer.status_code == 200
        async for piece in answer.aiter_raw():
            received += len(piece)
    assert received == 64 * 65536


async def test_many_httpx_requests_at_once_share_few_connections(
    client: httpx.AsyncClient, proxy: RunningProxy, orders: Orders
) -> None:
    headers = proxy.headers()
    async with orders(echo) as upstream:
        for _ in range(3):
            answers = await asyncio.gather(*(client.get(f"/orders/{n}", headers=headers) for n in range(32)))
            assert [answer.text for answer in answers] == [f"GET /orders/{n} HTTP/1.1|" for n in range(32)]
    assert len(upstream.requests) == 96
    assert upstream.connections <= 32


async def test_httpx_does_not_inflate_what_the_proxy_did_not(
    client: httpx.AsyncClient, proxy: RunningProxy, orders: Orders
) -> None:
    packed = gzip.compress(b"b" * 100_000)
    async with orders(replies(response(packed, headers="content-encoding: gzip\r\n"))):
        answer = await client.get("/orders/42", headers=proxy.headers())
    assert int(answer.headers["content-length"]) == len(packed)
    assert answer.content == b"b" * 100_000


async def test_a_request_that_httpx_gives_up_ends_at_the_service_too(
    client: httpx.AsyncClient, proxy: RunningProxy, orders: Orders
) -> None:
    ended = asyncio.Event()

    async def never(connection: UpstreamConnection, seen: Request) -> None:
        await connection.closed()
        ended.set()

    async with orders(never):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/orders/42", headers=proxy.headers(), timeout=0.3)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
