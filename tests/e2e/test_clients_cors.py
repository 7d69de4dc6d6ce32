"""What a browser asks before and with a page's request, byte by byte (the Fetch standard's CORS protocol)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.forwarding import connected, replies, reserved_port, response
from support.proxy import RunningProxy, running_proxy
from support.upstream import Answer, RawUpstream

PAGE = "https://shop.test"
OTHER = "https://evil.test"


@pytest.fixture(scope="module")
def shop_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def shop(opa_binary: Path, shop_port: int) -> Iterator[RunningProxy]:
    """The default map, and a page that may use `orders`."""
    allowed = "methods: [GET, POST, DELETE], headers: [authorization, x-mine], expose: [x-total]"
    extra = {"orders": f"cors: {{origins: [{PAGE}], {allowed}}}"}
    with running_proxy(upstreams={"orders": shop_port}, service_extra=extra) as running:
        yield running


async def ask(proxy: RunningProxy, line: str, headers: str) -> Answer:
    async with connected(proxy.port) as client:
        await client.send(f"{line} HTTP/1.1\r\nHost: orders.localhost\r\n{headers}\r\n".encode())
        return await client.response()


def cors(answer: Answer) -> list[tuple[str, str]]:
    """What a browser goes by."""
    return [(name, value) for name, value in answer.headers if name.startswith("access-control-") or name == "vary"]


async def test_a_preflight_is_answered_without_an_identity_and_never_forwarded(
    shop: RunningProxy, shop_port: int
) -> None:
    async with RawUpstream(replies(response()), port=shop_port).running() as upstream:
        answer = await ask(
            shop,
            "OPTIONS /orders/42",
            f"Origin: {PAGE}\r\nAccess-Control-Request-Method: GET\r\n"
            "Access-Control-Request-Headers: authorization\r\n",
        )
    assert answer.status == 204
    assert cors(answer) == [
        ("access-control-allow-methods", "GET, POST, DELETE"),
        ("access-control-allow-headers", "authorization, x-mine"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
        ("access-control-allow-origin", PAGE),
    ]
    assert upstream.connections == 0


async def test_a_preflight_from_elsewhere_is_refused_without_a_word_a_page_could_read(
    shop: RunningProxy, shop_port: int
) -> None:
    async with RawUpstream(replies(response()), port=shop_port).running() as upstream:
        for origin in (OTHER, "null", "https://shop.test.evil.test", "http://shop.test", "https://shop.test:8443"):
            answer = await ask(
                shop, "OPTIONS /orders/42", f"Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\n"
            )
            assert answer.status == 403
            assert json.loads(answer.body)["reasons"] == ["origin-refused"]
            assert cors(answer) == [("vary", "Origin")]
    assert upstream.connections == 0


async def test_the_page_can_read_the_answer_and_the_service_has_no_say(shop: RunningProxy, shop_port: int) -> None:
    """The service's own CORS headers are left out: there is one authority, and no header twice."""
    theirs = (
        "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nX-Total: 7\r\n"
        "Vary: Accept-Encoding\r\n"
    )
    async with RawUpstream(replies(response(headers=theirs)), port=shop_port).running() as upstream:
        answer = await ask(shop, "GET /orders/42", f"Origin: {PAGE}\r\nAuthorization: Bearer {shop.token()}\r\n")
    assert (answer.status, answer.body) == (200, b"ok")
    assert cors(answer) == [
        ("vary", "Accept-Encoding"),
        ("vary", "Origin"),
        ("access-control-allow-origin", PAGE),
        ("access-control-expose-headers", "x-total"),
    ]
    assert answer.values("x-total") == ["7"]
    assert upstream.requests[0].values("origin") == [PAGE]


async def test_the_page_can_read_a_refusal_too(shop: RunningProxy) -> None:
    for headers, status in (("", 401), (f"Authorization: Bearer {shop.token('stranger')}\r\n", 403)):
        answer = await ask(shop, "GET /orders/42", f"Origin: {PAGE}\r\n{headers}")
        assert answer.status == status
        assert ("access-control-allow-origin", PAGE) in cors(answer)


async def test_another_page_gets_an_answer_that_its_browser_keeps_from_it(shop: RunningProxy, shop_port: int) -> None:
    """CORS is no access control: who has a token is answered, and the browser shows the page nothing."""
    async with RawUpstream(replies(response(headers="Access-Control-Allow-Origin: *\r\n")), port=shop_port).running():
        answer = await ask(shop, "GET /orders/42", f"Origin: {OTHER}\r\nAuthorization: Bearer {shop.token()}\r\n")
    assert answer.status == 200
    assert cors(answer) == [("vary", "Origin")]


async def test_an_options_request_that_is_no_preflight_needs_an_identity(shop: RunningProxy) -> None:
    answer = await ask(shop, "OPTIONS /orders/42", f"Origin: {PAGE}\r\n")
    assert answer.status == 401


async def test_a_service_without_cors_has_no_preflights(proxy: RunningProxy) -> None:
    answer = await ask(proxy, "OPTIONS /orders/42", f"Origin: {PAGE}\r\nAccess-Control-Request-Method: GET\r\n")
    assert answer.status == 401
    assert cors(answer) == []
