"""A service behind the middleware: real uvicorn, real sockets, keys fetched over HTTP, real credentials."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ostiary.clock import SystemClock
from ostiary.credential import SigningKey, public_jwks
from ostiary.models import Credential
from ostiary.verify import KeySet, Verifier, VerifyMiddleware
from support.credential import ISSUER, access_request, allow, signed, swapper, token_of
from support.served import raw_exchange, served

JWKS = "/.well-known/jwks.json"
KEY = SigningKey.generate("ES256")
NEVER = 4_000_000_000
MISSING = {"type": "about:blank", "status": 401, "title": "This service is reached through its access proxy."}
INVALID = {"type": "about:blank", "status": 401, "title": "The credential is not valid for this request."}
UNAVAILABLE = {"type": "about:blank", "status": 503, "title": "The credential cannot be verified at the moment."}


async def credential(*, per_call: bool = False, query: str | None = None, **decision: Any) -> Credential:
    return await swapper(KEY, clock=SystemClock()).swap(
        access_request(token_ends=NEVER, query=query, method="HEAD" if "head-order" in decision.values() else "GET"),
        allow(per_call=per_call, **decision),
    )


def bearer(given: Credential) -> dict[str, str]:
    return {"authorization": f"Bearer {token_of(given)}"}


async def show(request: Request) -> JSONResponse:
    claims = request.scope["ostiary"]
    return JSONResponse({"subject": claims.subject, "caller": claims.caller, "endpoint": claims.endpoint})


@pytest.fixture
async def orders(httpserver: HTTPServer) -> AsyncIterator[httpx.AsyncClient]:
    """The service `orders` and a client of it, as somebody would who can reach it directly."""
    httpserver.expect_request(JWKS).respond_with_data(public_jwks([KEY.public]))
    verifier = Verifier(
        issuer=ISSUER, audience="orders", jwks_url=httpserver.url_for(JWKS), host_header="ostiary.localhost"
    )
    routes = [Route("/orders/{id}", show), Route("/orders/admin", show), Route("/healthz", show)]
    async with (
        served(VerifyMiddleware(Starlette(routes=routes), verifier)) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        yield client


async def test_what_the_proxy_sends_is_served(orders: httpx.AsyncClient, httpserver: HTTPServer) -> None:
    given = await credential()
    answers = await asyncio.gather(*(orders.get(f"/orders/{n}", headers=bearer(given)) for n in range(20)))
    expected = {"subject": "web", "caller": "web", "endpoint": "get-order"}
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, expected)] * 20
    (fetch,) = [request for request, _ in httpserver.log]
    assert fetch.headers["host"] == "ostiary.localhost"


async def test_without_a_credential_nothing_is_served(orders: httpx.AsyncClient) -> None:
    for path in ("/orders/42", "/healthz", "/", "/unknown"):
        answer = await orders.get(path)
        assert (answer.status_code, answer.json()) == (401, MISSING)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["www-authenticate"] == 'Bearer realm="orders"'


async def test_every_bad_credential_gets_one_and_the_same_answer(orders: httpx.AsyncClient) -> None:
    """Whoever probes learns nothing of what was wrong. The client's own token is one of these: no shadow path."""
    own_header = {"typ": "JWT", "alg": "ES256", "kid": "k1"}
    own_token = signed(SigningKey.generate("ES256"), own_header, {"iss": "https://idp.test", "sub": "web"})
    elsewhere = await swapper(KEY, clock=SystemClock()).swap(
        access_request(service="billing", method="POST", token_ends=NEVER),
        allow(service="billing", endpoint="charge"),
    )
    given = await credential()
    attempts = [
        await orders.get("/orders/42", headers={"authorization": f"Bearer {own_token}"}),
        await orders.get("/orders/42", headers=bearer(elsewhere)),
        await orders.get("/orders/42", headers={"authorization": "Bearer x"}),
        await orders.get(
            "/orders/42", headers=[("authorization", value) for value in [bearer(given)["authorization"]] * 2]
        ),
        await orders.get("/orders/admin", headers=bearer(given)),
        await orders.get("/orders", headers=bearer(given)),
        await orders.post("/orders/42", headers=bearer(given)),
        await orders.get("/orders/42", headers=bearer(await credential(endpoint="list-orders"))),
        await orders.get("/orders/42?x=1", headers=bearer(await credential(per_call=True))),
    ]
    for answer in attempts:
        assert (answer.status_code, answer.json()) == (401, INVALID)
        assert answer.headers["www-authenticate"] == 'Bearer realm="orders", error="invalid_token"'


async def test_a_per_call_credential_is_served_once(orders: httpx.AsyncClient) -> None:
    given = await credential(per_call=True, query="x=1")
    first = await orders.get("/orders/42?x=1", headers=bearer(given))
    again = await asyncio.gather(*(orders.get("/orders/42?x=1", headers=bearer(given)) for _ in range(5)))
    assert first.status_code == 200
    assert [answer.status_code for answer in again] == [401] * 5


async def test_of_many_at_once_a_per_call_credential_serves_one(orders: httpx.AsyncClient) -> None:
    given = await credential(per_call=True)
    answers = await asyncio.gather(*(orders.get("/orders/42", headers=bearer(given)) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 9


async def test_head_is_refused_without_a_body(orders: httpx.AsyncClient) -> None:
    answer = await orders.head("/orders/42", headers=bearer(await credential()))
    assert (answer.status_code, answer.content) == (401, b"")
    assert (await orders.head("/orders/42", headers=bearer(await credential(endpoint="head-order")))).status_code == 200


async def test_a_path_that_a_framework_would_decode_is_the_decoded_one(orders: httpx.AsyncClient) -> None:
    """The application routes by what uvicorn has decoded: `/orders/%61dmin` is its `/orders/admin`."""
    token = bearer(await credential())["authorization"]
    for path, status in (("/orders/%61dmin", 401), ("/orders/x%2f..%2fadmin", 401), ("/orders/%34%32", 200)):
        answer = await raw_exchange(
            str(orders.base_url),
            f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\nconnection: close\r\n\r\n",
        )
        assert answer.split(b" ", 2)[1] == str(status).encode(), path


async def test_a_token_in_a_trailer_is_no_token(orders: httpx.AsyncClient) -> None:
    token = bearer(await credential())["authorization"]
    answer = await raw_exchange(
        str(orders.base_url),
        "GET /orders/42 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        f"1\r\nx\r\n0\r\nauthorization: {token}\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_while_the_keys_cannot_be_had_nothing_is_served(unused_tcp_port: int) -> None:
    verifier = Verifier(issuer=ISSUER, audience="orders", jwks_url=f"http://127.0.0.1:{unused_tcp_port}/jwks")
    async with (
        served(VerifyMiddleware(Starlette(), verifier)) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        answer = await client.get("/orders/42", headers=bearer(await credential()))
    assert (answer.status_code, answer.json()) == (503, UNAVAILABLE)
    assert answer.headers["retry-after"] == "1"
    assert "www-authenticate" not in answer.headers


def given_keys() -> Verifier:
    return Verifier(issuer=ISSUER, audience="orders", keys=KeySet.parse(public_jwks([KEY.public])))


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the application was called")


async def test_a_websocket_is_closed_before_it_is_accepted() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    given = bearer(await credential())["authorization"].encode()
    scope = {"type": "websocket", "path": "/orders/42", "raw_path": b"/orders/42", "query_string": b"",
             "headers": [(b"authorization", given)]}  # fmt: skip
    await VerifyMiddleware(unreachable, given_keys())(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_scope_that_nobody_knows_is_not_passed_on() -> None:
    async def silent(*_: Any) -> Any:
        return {}

    with pytest.raises(ValueError, match="'webtransport'"):
        await VerifyMiddleware(unreachable, given_keys())({"type": "webtransport"}, silent, silent)


async def test_a_server_that_gives_no_raw_path_serves_nothing() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    given = bearer(await credential())["authorization"].encode()
    scope = {"type": "http", "method": "GET", "path": "/orders/42", "query_string": b"",
             "headers": [(b"authorization", given)]}  # fmt: skip
    await VerifyMiddleware(unreachable, given_keys())(scope, receive, send)
    assert sent[0]["status"] == 401


async def test_the_lifespan_of_the_application_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})

    async with served(VerifyMiddleware(app, given_keys())):
        assert seen == ["lifespan"]


async def test_the_log_says_why_and_not_what_was_sent(
    orders: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    given = await credential()
    with caplog.at_level(logging.INFO, "ostiary.verify"):
        await orders.get("/orders/admin", headers=bearer(given))
    (record,) = [record for record in caplog.records if record.name == "ostiary.verify"]
    assert record.getMessage() == "GET b'/orders/admin' is refused: for another path"


def test_an_audience_that_no_header_can_hold_is_refused() -> None:
    verifier = Verifier(issuer=ISSUER, audience='or"ders', keys=KeySet({}))
    with pytest.raises(ValueError, match="audience"):
        VerifyMiddleware(unreachable, verifier)


def test_a_service_needs_neither_the_server_nor_the_models() -> None:
    """What an upstream service imports stays small: it may run on another framework and server."""
    program = (
        "import json, sys\n"
        "import ostiary.verify\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE).stdout)
    unwanted = {"uvicorn", "pydantic", "starlette", "httpx", "orjson", "httptools", "uvloop", "aiohttp", "opa_client",
                "typer", "rich", "yaml"}  # fmt: skip
    assert sorted(unwanted & set(loaded)) == []
    assert {"jwt", "cryptography"} <= set(loaded)
