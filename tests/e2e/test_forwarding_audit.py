"""What a request through the whole proxy leaves behind, and that it can be judged again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jwt
import pytest

from ostiary.demo.issuer import ISSUER
from support.forwarding import connected, replies, response
from support.proxy import OWN_HOST, RunningProxy
from support.upstream import Answer, RawUpstream, Script

Orders = Callable[[Script], AbstractAsyncContextManager[RawUpstream]]

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def raw(line: str, token: str | None, headers: str = "", *, host: str = "orders.localhost") -> bytes:
    given = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return f"{line} HTTP/1.1\r\nHost: {host}\r\n{given}{headers}\r\n".encode("latin-1")


async def send(proxy: RunningProxy, request: bytes, *, bodiless: bool = False) -> Answer:
    async with connected(proxy.port) as client:
        await client.send(request)
        return await client.response(bodiless=bodiless)


def token_id(token: str) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    return str(claims["jti"])


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    """The line without what differs from run to run, once that has been found to be of the right kind."""
    line = dict(line)
    assert INSTANT.fullmatch(line.pop("time"))
    assert len(line.pop("decision_id")) == 32
    assert line.pop("seq") > 1
    assert re.fullmatch("[0-9a-f]{64}", line.pop("mac"))
    for duration in ("duration_ms", "decision_ms"):
        if duration in line:
            assert 0 <= line.pop(duration) < 10_000
    return line


def question(
    method: str, segments: list[str], query: list[list[str]], time: int, *, endpoint: str, **claims: str
) -> dict[str, Any]:
    """The input of a request of `web` with these claims, for which this endpoint was predicted."""
    return {
        "subject": {
            "type": "workload",
            "id": "web",
            "properties": {"issuer": ISSUER, "method": "jwt", "claims": claims},
        },
        "action": {"name": method},
        "resource": {
            "type": "service",
            "id": "orders",
            "properties": {"segments": segments, "query": query, "endpoint": endpoint},
        },
        "context": {"time": time, "source_ip": "127.0.0.1", "actor": None, "grants": []},
    }


async def test_a_forwarded_request_leaves_its_decision_and_its_completion(proxy: RunningProxy, orders: Orders) -> None:
    token = proxy.token(tenant="asked-once")  # so that nobody has been answered the same a moment ago
    async with orders(replies(response(b"created"))) as upstream:
        request = raw("POST /orders?dry=1", token, "Content-Length: 11\r\n") + b'{"sku":"a"}'
        assert (await send(proxy, request)).status == 200
    decision, completion = await proxy.recorded(upstream.requests[0].values("ostiary-decision-id")[0], lines=2)
    revision = proxy.health()[1]["revision"]
    permission = decision["permission"]
    assert re.fullmatch(r"web/orders/create-order/[0-9a-f]{8}", permission)
    time = decision["input"]["context"]["time"]
    assert timeless(decision) == {
        "schema": 1,
        "kind": "decision",
        "caller": "web",
        "service": "orders",
        "endpoint": "create-order",
        "method": "POST",
        "path": "/orders",
        "reasons": [],
        "revision": revision,
        "permission": permission,
        "grant": None,
        "credential": decision["credential"],
        "cached": False,
        "identity": {"issuer": ISSUER, "subject": "web", "method": "jwt", "token_id": token_id(token)},
        "source_ip": "127.0.0.1",
        "input": question("POST", ["orders"], [["dry", "1"]], time, endpoint="create-order", tenant="asked-once"),
        "result": {
            "allow": True,
            "reasons": [],
            "caller": "web",
            "service": "orders",
            "endpoint": "create-order",
            "permission": permission,
            "grant": None,
            "credential": {"lifetime": 60, "per_call": False},
            "expires_at": None,
            "cache": decision["result"]["cache"],
            "requestable": None,
            "observed": False,
            "shadow": None,
        },
    }
    assert timeless(completion) == {
        "schema": 1,
        "kind": "completion",
        "outcome": "complete",
        "status": 200,
        "reasons": [],
        "detail": None,
        "bytes_received": 11,
        "bytes_sent": 7,
    }


async def test_a_denied_request_leaves_one_line_with_what_was_judged(proxy: RunningProxy) -> None:
    token = proxy.token(tenant="asked-once")
    answer = await send(proxy, raw("DELETE /orders/42", token))
    problem = json.loads(answer.body)
    assert problem == {
        "type": "about:blank",
        "status": 403,
        "title": "No permission lets this caller use this endpoint.",
        "reasons": ["permission-missing"],
        "decision_id": problem["decision_id"],
    }
    (line,) = await proxy.recorded(problem["decision_id"], lines=1)
    time = line["input"]["context"]["time"]
    assert timeless(line) == {
        "schema": 1,
        "kind": "refusal",
        "outcome": "refused",
        "status": 403,
        "reasons": ["permission-missing"],
        "detail": None,
        "caller": "web",
        "service": "orders",
        "endpoint": "delete-order",
        "method": "DELETE",
        "host": "orders.localhost",
        "path": "/orders/42",
        "revision": proxy.health()[1]["revision"],
        "permission": None,
        "grant": None,
        "cached": False,
        "identity": {"issuer": ISSUER, "subject": "web", "method": "jwt", "token_id": token_id(token)},
        "source_ip": "127.0.0.1",
        "bytes_received": 0,
        "bytes_sent": len(answer.body),
        "input": question("DELETE", ["orders", "42"], [], time, endpoint="delete-order", tenant="asked-once"),
        "result": {
            "allow": False,
            "reasons": ["permission-missing"],
            "caller": "web",
            "service": "orders",
            "endpoint": "delete-order",
            "permission": None,
            "grant": None,
            "credential": None,
            "expires_at": None,
            "cache": line["result"]["cache"],
            "requestable": None,
            "observed": False,
            "shadow": None,
        },
    }


NOBODY = {
    "schema": 1,
    "kind": "refusal",
    "outcome": "refused",
    "caller": None,
    "endpoint": None,
    "revision": None,
    "permission": None,
    "grant": None,
    "cached": None,
    "identity": None,
    "source_ip": "127.0.0.1",
    "bytes_received": 0,
    "input": None,
    "result": None,
}
"""What the lines of all strangers have in common."""


@pytest.mark.parametrize(
    ("method", "path", "host", "refusal"),
    [
        (
            "GET",
            "/orders/42",
            "orders.localhost",
            {"status": 401, "reasons": ["identity-missing"], "detail": "no Authorization header", "service": "orders"},
        ),
        (
            "GET",
            "/orders/42",
            "elsewhere.localhost",
            {"status": 421, "reasons": ["host-unknown"], "detail": "elsewhere.localhost", "service": None},
        ),
        (
            "GET",
            "/orders/%2e%2e/x",
            "orders.localhost",
            {
                "status": 400,
                "reasons": ["target-malformed"],
                "detail": "a segment consists of dots",
                "service": None,
            },
        ),
        (
            "TRACE",
            "/orders/42",
            "orders.localhost",
            {"status": 405, "reasons": ["method-refused"], "detail": "TRACE", "service": None},
        ),
    ],
    ids=["identity", "host", "target", "parser"],
)
async def test_a_stranger_leaves_one_line(
    proxy: RunningProxy, method: str, path: str, host: str, refusal: dict[str, Any]
) -> None:
    """What the parser refuses is recorded like what a stage refuses."""
    answer = await send(proxy, raw(f"{method} {path}", None, host=host))
    assert answer.status == refusal["status"]
    (line,) = await proxy.recorded(json.loads(answer.body)["decision_id"], lines=1)
    rest = timeless(line)
    assert rest.pop("bytes_sent") in (0, len(answer.body))  # a parser's refusal has not been sent when it is recorded
    assert rest == {**NOBODY, **refusal, "method": method, "host": host, "path": path}


async def test_what_the_proxy_answers_itself_leaves_one_line(proxy: RunningProxy) -> None:
    answer = await send(proxy, raw("GET /.well-known/jwks.json", None, host=OWN_HOST))
    assert answer.status == 200
    (line,) = await proxy.recorded(answer.values("ostiary-decision-id")[0], lines=1)
    assert timeless(line) == {
        "schema": 1,
        "kind": "answer",
        "outcome": "complete",
        "status": 200,
        "service": "ostiary",
        "method": "GET",
        "host": OWN_HOST,
        "path": "/.well-known/jwks.json",
        "source_ip": "127.0.0.1",
        "bytes_received": 0,
        "bytes_sent": len(answer.body),
    }


async def test_every_recorded_judgement_can_be_repeated(proxy: RunningProxy, orders: Orders, opa_binary: Path) -> None:
    """`opa eval` on the bundle, with a line's `input`, gives the line's `result`: allowed or not."""
    token = proxy.token()
    wanted: list[str] = []
    async with orders(replies(response())) as upstream:
        for request in (
            raw("GET /orders/42?a=1&a=2", token),
            raw("GET /orders/export", token),
            raw("POST /charges/7", token, "Content-Length: 0\r\n"),
            raw("GET /orders", proxy.token("reporting")),
        ):
            assert (await send(proxy, request)).status == 200
        wanted += [seen.values("ostiary-decision-id")[0] for seen in upstream.requests]
        for request in (
            raw("DELETE /orders/42", token),
            raw("GET /nowhere/%C3%A9?broken=%FF", token),
            raw("GET /orders/42", proxy.token("stranger")),
        ):
            answer = await send(proxy, request)
            assert answer.status == 403
            wanted.append(json.loads(answer.body)["decision_id"])
    judged = [(await proxy.recorded(one, lines=1))[0] for one in wanted]
    for line in judged:
        assert replayed(opa_binary, proxy.bundle, line["input"]) == line["result"]
    assert [line["result"]["allow"] for line in judged] == [True] * 4 + [False] * 3


def replayed(opa: Path, bundle: Path, document: dict[str, Any]) -> Any:
    command = [opa, "eval", "--bundle", bundle, "--strict-builtin-errors", "--stdin-input", "--format=json"]
    done = subprocess.run(
        [*command, "data.ostiary.authz.decision"],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=True,
    )
    (result,) = json.loads(done.stdout)["result"]
    (expression,) = result["expressions"]
    return expression["value"]


async def test_no_token_is_written_wherever_it_was_put(proxy: RunningProxy, orders: Orders) -> None:
    """In the query, the path, the host, the method, a header's name, a cookie, or half a message."""
    token = proxy.token()
    half = token[: len(token) // 2]
    async with orders(replies(response())):
        for request in (
            raw("GET /orders/42", token, f"Cookie: {token}\r\nX-Copy: {token}\r\nReferer: http://a/{token}\r\n"),
            raw(f"GET /orders/42?token={token}", token),
            raw(f"GET /orders/42?jwt={token}", token),
            raw(f"GET /orders/{token}", token),
            raw(f"GET /orders/Bearer%20{token}", token),
            raw(f"GET /{token}", None),
            raw(f"GET /orders#{token}", token),
            raw(f"GET http://orders.localhost/{token}", token),
            raw("GET /orders/42", token, host=token),
            raw("GET /orders/42", token + token),
            raw("GET /orders/42", f"{token}=="),
            raw("GET /orders/42", half),
            raw("GET /orders/42", token, f"{token}: 1\r\n"),
            raw("GET /orders/42", token, f" {token}\r\n"),
            raw("GET /orders/42", token, f"Authorization: Bearer {token}\r\n"),
            raw("GET /orders/42", token, f"Transfer-Encoding: {token}\r\n"),
            raw("GET /orders/42", token, f"Expect: {token}\r\n"),
            f"{token} /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\n\r\n".encode(),
            f"GET /orders/42 {token}\r\n\r\n".encode(),
        ):
            await send(proxy, request)
    tail = await send(proxy, raw("DELETE /orders/42", token))
    await proxy.recorded(json.loads(tail.body)["decision_id"], lines=1)
    assert proxy.leaked() == []
