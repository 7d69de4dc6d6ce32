"""What a service is given in place of the caller's credential, through the whole proxy."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ostiary.demo.issuer import ISSUER
from ostiary.verify import Verifier, VerifyMiddleware
from support.forwarding import connected, replies, response
from support.proxy import OWN_HOST, RunningProxy, running_proxy
from support.served import served
from support.upstream import RawUpstream, Script, Seen

Orders = Callable[[Script], AbstractAsyncContextManager[RawUpstream]]

SPOOFED = (
    "Forwarded: for=10.0.0.1;host=evil",
    "Proxy: http://evil",
    "Proxy-Authorization: Basic YTpi",
    "Cookie: session=1",
    "Remote-User: root",
    "True-Client-IP: 10.0.0.1",
    "Via: 1.0 evil",
    "X-Api-Key: k",
    "X-Forwarded-Client-Cert: URI=spiffe://shop.test/root",
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Proto: https",
    "X-Forwarded-User: root",
    "x_forwarded_user: root",
    "X.Forwarded.User: root",
    "X-HTTP-Method-Override: DELETE",
    "X-Original-URL: /orders/admin",
    "X-Real-IP: 10.0.0.1",
    "X-Rewrite-URL: /orders/admin",
    "X-User-Id: root",
    "Ostiary-Decision-Id: forged",
    "X-Ostiary-User: root",
    "X-Hasura-Role: admin",
    "X-Client-S-DN: CN=root",
    "X-Org-Id: other",
    "X-Bearer-Token: abcdefgh",
    "X-HTTP-Host-Override: evil",
    "x!user: root",
    "X~Remote~User: root",
)


def credential_of(seen: Seen) -> str:
    (value,) = seen.values("authorization")
    scheme, _, credential = value.partition(" ")
    assert scheme == "Bearer"
    return credential


def published(proxy: RunningProxy) -> dict[str, Any]:
    answer = httpx.get(proxy.url("/.well-known/jwks.json"), headers={"host": OWN_HOST}, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jwk-set+json"
    document: dict[str, Any] = answer.json()
    return document


def claims_of(credential: str, keys: dict[str, Any], *, service: str = "orders") -> dict[str, Any]:
    """The claims, verified with what the proxy publishes."""
    header = jwt.get_unverified_header(credential)
    (key,) = [key for key in keys["keys"] if key["kid"] == header["kid"]]
    assert header == {"typ": "at+jwt", "alg": "EdDSA", "kid": key["kid"]}
    claims: dict[str, Any] = jwt.decode(
        credential, jwt.PyJWK(key).key, algorithms=["EdDSA"], audience=service, issuer=f"https://{OWN_HOST}"
    )
    return claims


def raw(line: str, token: str, headers: str = "") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: orders.localhost\r\nAuthorization: Bearer {token}\r\n{headers}\r\n".encode()


async def send(proxy: RunningProxy, *requests: bytes) -> list[int]:
    """The statuses of requests that are sent one after the other on one connection."""
    statuses = []
    async with connected(proxy.port) as client:
        for request in requests:
            await client.send(request)
            statuses.append((await client.response()).status)
    return statuses


def test_the_keys_are_published_without_an_identity_and_hold_nothing_private(proxy: RunningProxy) -> None:
    document = published(proxy)
    (key,) = document["keys"]
    assert document == {
        "keys": [{"kty": "OKP", "crv": "Ed25519", "x": key["x"], "kid": key["kid"], "alg": "EdDSA", "use": "sig"}]
    }


async def test_the_service_gets_exactly_one_credential_for_exactly_this(proxy: RunningProxy, orders: Orders) -> None:
    token = proxy.token()
    async with orders(replies(response())) as upstream:
        assert await send(proxy, raw("GET /orders/42?page=2", token)) == [200]
    (seen,) = upstream.requests
    claims = claims_of(credential_of(seen), published(proxy))
    assert claims == {
        "iss": f"https://{OWN_HOST}",
        "aud": "orders",
        "sub": "web",
        "client_id": "web",
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "web"},
        "authorization_details": [
            {
                "type": "ostiary-endpoint",
                "service": "orders",
                "endpoint": "get-order",
                "method": "GET",
                "path": "/orders/{order_id}",
                "beside": ["/orders/export"],
            }
        ],
        "jti": claims["jti"],
        "iat": claims["iat"],
        "exp": claims["iat"] + 60,
    }
    lines = await proxy.recorded(seen.values("ostiary-decision-id")[0], lines=2)
    assert lines[0]["credential"] == {"jti": claims["jti"], "per_call": False, "expires_at": claims["exp"]}
    assert -1 <= lines[0]["input"]["context"]["time"] - claims["iat"] <= 30  # reused until half its life


async def test_no_credential_outlives_the_token_it_stands_in_for(proxy: RunningProxy, orders: Orders) -> None:
    expires_at = int(time.time()) + 20
    async with orders(replies(response())) as upstream:
        assert await send(proxy, raw("GET /orders/42", proxy.token(exp=expires_at))) == [200]
    assert claims_of(credential_of(upstream.requests[0]), published(proxy))["exp"] == expires_at


async def test_a_credential_is_reused_for_the_same_caller_and_endpoint_and_for_no_other(
    proxy: RunningProxy, orders: Orders
) -> None:
    token = proxy.token()
    async with orders(replies(response())) as upstream:
        statuses = await send(
            proxy,
            raw("GET /orders/1", token),
            raw("GET /orders/2", token),
            raw("GET /orders", token),
            raw("GET /orders", proxy.token("reporting")),
        )
    assert statuses == [200] * 4
    first, again, other_endpoint, other_caller = map(credential_of, upstream.requests)
    assert first == again
    assert len({first, other_endpoint, other_caller}) == 3


async def test_a_per_call_credential_is_new_each_time_and_bound_to_its_target(
    proxy: RunningProxy, orders: Orders
) -> None:
    request = raw("POST /charges/7?currency=eur", proxy.token(), "Content-Length: 0\r\n")
    async with orders(replies(response())) as upstream:
        assert await send(proxy, request, request) == [200, 200]
    keys = published(proxy)
    first, second = (claims_of(credential_of(seen), keys) for seen in upstream.requests)
    bound = base64.urlsafe_b64encode(hashlib.sha256(b"/charges/7?currency=eur").digest()).rstrip(b"=").decode()
    for claims in (first, second):
        assert claims["authorization_details"] == [
            {
                "type": "ostiary-endpoint",
                "service": "orders",
                "endpoint": "charge",
                "method": "POST",
                "path": "/charges/{charge_id}",
                "single_use": True,
                "target_sha256": bound,
            }
        ]
        assert claims["exp"] - claims["iat"] == 30
    assert first["jti"] != second["jti"]


async def test_the_service_never_sees_the_clients_token(proxy: RunningProxy, orders: Orders) -> None:
    """Not in Authorization, and not where a client repeats it; a cookie goes too."""
    token = proxy.token()
    copies = (
        f"Cookie: t={token}\r\nX-Copy: {token}\r\nX-Id-Token: {token}\r\nReferer: http://a.test/?t={token}\r\n"
        f"Connection: X-Copy\r\nAccept: text/plain\r\n"
    )
    async with orders(replies(response())) as upstream:
        assert await send(proxy, raw("GET /orders/42", token, copies)) == [200]
    (seen,) = upstream.requests
    assert token not in repr(seen)
    assert seen.values("accept") == ["text/plain"]
    assert [name for name, _ in seen.headers] == [
        *("host", "via", "x-forwarded-host", "accept", "authorization"),
        *("x-forwarded-for", "x-forwarded-proto", "ostiary-decision-id"),
    ]


async def test_a_token_in_the_query_is_refused(proxy: RunningProxy, orders: Orders) -> None:
    token = proxy.token()
    async with orders(replies(response())) as upstream:
        assert await send(proxy, raw(f"GET /orders/42?access_token={token}", token)) == [400]
    assert upstream.connections == 0


async def test_what_a_client_says_about_itself_never_arrives(
    proxy: RunningProxy, orders: Orders, orders_port: int
) -> None:
    headers = "".join(f"{line}\r\n" for line in SPOOFED)
    async with orders(replies(response())) as upstream:
        assert await send(proxy, raw("GET /orders/42", proxy.token(), headers)) == [200]
    (seen,) = upstream.requests
    (decision,) = seen.values("ostiary-decision-id")
    assert seen.headers == [
        ("host", f"127.0.0.1:{orders_port}"),
        ("via", "1.1 ostiary"),
        ("x-forwarded-host", "orders.localhost"),
        ("authorization", f"Bearer {credential_of(seen)}"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("ostiary-decision-id", decision),
    ]


async def test_a_service_has_the_headers_that_its_configuration_keeps(opa_binary: Path) -> None:
    extra = {"orders": "keep_headers: [X-Tenant-Id, x-csrf-token]"}
    asked = ("X-Tenant-Id: acme", "X-Csrf-Token: c", "X-Client-Id: root", "X-Device-Token: d", *SPOOFED)
    headers = "".join(f"{line}\r\n" for line in asked)
    async with (
        RawUpstream(replies(response())).running() as upstream,
        running_proxy(upstreams={"orders": upstream.port}, service_extra=extra) as proxy,
    ):
        assert await send(proxy, raw("GET /orders/42", proxy.token(), headers)) == [200]
    (seen,) = upstream.requests
    assert seen.headers[3:5] == [("x-tenant-id", "acme"), ("x-csrf-token", "c")]
    assert len(seen.headers) == 9  # with what the proxy adds


async def test_a_service_that_repeats_its_credential_does_not_tell_the_client(
    proxy: RunningProxy, orders: Orders
) -> None:
    async def echo(connection: Any, seen: Seen) -> None:
        value = seen.values("authorization")[0]
        await connection.send(response(headers=f"X-Saw: {value}\r\nWWW-Authenticate: Bearer\r\nX-Fine: yes\r\n"))

    async with orders(echo) as upstream, connected(proxy.port) as client:
        await client.send(raw("GET /orders/42", proxy.token()))
        answer = await client.response()
    assert [name for name, _ in answer.headers] == ["x-fine", "content-length", "ostiary-decision-id", "date"]
    assert credential_of(upstream.requests[0]) not in repr(answer)


async def test_a_service_that_refuses_the_credential_is_not_a_client_that_lacks_one(
    proxy: RunningProxy, orders: Orders
) -> None:
    raw_answer = response(b"who?", status="401 Unauthorized", headers="WWW-Authenticate: Bearer realm=inner\r\n")
    async with orders(replies(raw_answer)), connected(proxy.port) as client:
        await client.send(raw("GET /orders/42", proxy.token()))
        answer = await client.response()
    assert answer.status == 502
    assert answer.values("www-authenticate") == []
    assert b"inner" not in answer.body


# A service that accepts nothing else.


def service(proxy: RunningProxy, seen: list[str]) -> Starlette:
    async def echo(request: Request) -> JSONResponse:
        seen.append(request.headers["authorization"].removeprefix("Bearer "))
        claims = request.scope["ostiary"]
        body = await request.body()
        return JSONResponse({"caller": claims.caller, "endpoint": claims.endpoint, "received": len(body)})

    verifier = Verifier(
        issuer=f"https://{OWN_HOST}",
        audience="orders",
        jwks_url=proxy.url("/.well-known/jwks.json"),
        host_header=OWN_HOST,
    )
    return Starlette(
        routes=[Route("/{path:path}", echo, methods=["GET", "POST"])],
        middleware=[Middleware(VerifyMiddleware, verifier=verifier)],
    )


@pytest.fixture
async def client() -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def test_a_service_that_verifies_is_reached_through_the_proxy_alone(
    proxy: RunningProxy, orders_port: int, client: httpx.AsyncClient
) -> None:
    credentials: list[str] = []
    async with served(service(proxy, credentials), port=orders_port) as direct:
        headers = proxy.headers("web")
        through = await client.get(proxy.url("/orders/42"), headers=headers)
        assert (through.status_code, through.json()) == (
            200,
            {"caller": "web", "endpoint": "get-order", "received": 0},
        )
        (credential,) = credentials

        async def shadow(path: str, bearer: str | None, method: str = "GET") -> int:
            given = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
            return (await client.request(method, f"{direct}{path}", headers=given)).status_code

        assert await shadow("/orders/42", None) == 401
        assert await shadow("/orders/42", headers["authorization"].removeprefix("Bearer ")) == 401
        assert await shadow("/orders/export", credential) == 401
        assert await shadow("/orders", credential) == 401
        assert await shadow("/orders/42", credential, "POST") == 401
        assert await shadow("/orders/43", credential) == 200  # its own endpoint, which is what it is for


async def test_a_per_call_credential_is_good_once(
    proxy: RunningProxy, orders_port: int, client: httpx.AsyncClient
) -> None:
    credentials: list[str] = []
    async with served(service(proxy, credentials), port=orders_port) as direct:
        for _ in range(2):
            through = await client.post(proxy.url("/charges/7"), headers=proxy.headers("web"), content=b"{}")
            assert through.json() == {"caller": "web", "endpoint": "charge", "received": 2}
        for credential in credentials:
            given = {"authorization": f"Bearer {credential}"}
            assert (await client.post(f"{direct}/charges/7", headers=given)).status_code == 401
    assert len(set(credentials)) == 2
