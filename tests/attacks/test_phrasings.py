"""What cases may say, and how they may say it: each of these is understood, so that a corpus by others is tried whole.

That the reading is the right one, `ours.json` tries on proxies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from attacks.runner.corpus import Case
from attacks.runner.generators import planned

GET = "GET /orders/123 HTTP/1.1\r\nHost: proxy.test\r\n\r\n"
WITH_TOKEN = GET.replace("\r\n\r\n", "\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
WITH_JWT = WITH_TOKEN.replace("TOKEN", "JWT")

SEQUENCES = [
    # Who it is.
    "bearer sub=web -> 200 / mTLS CN=web",
    "token web -> 200 / client cert CN=web",
    "token for web -> 200 / token for other",
    "token of web GET /orders/123 -> 200 / same path, token of nobody",
    "A: GET /orders/123 -> 200 / B: GET /orders/123",
    "caller web -> 200 / user other GET /orders/123",
    "jwt web -> 200 / xfcc web",
    "method jwt sub=web -> 200 / method mtls sub=web",
    "method=jwt sub=web -> 200 / method=mtls sub=spiffe://corp/sa/web",
    "XFCC spiffe://corp/sa/web from spiffe://corp/proxy -> 200 / XFCC URI=spiffe://corp/sa/web from spiffe://corp/sa/other",
    "XFCC URI=spiffe://corp/sa/web via proxy -> 200 / XFCC spiffe://corp/sa/web from an unpinned peer",
    "token with cnf of spiffe://corp/sa/web over mTLS spiffe://corp/sa/web -> 200 / same token without a certificate",
    "aud=proxy sub=web -> 200 / aud=proxy sub=other",
    "token with scope read -> 200 / token without scope",
    "token scope=admin -> 200 / token scope=none, same sub",
    "act=svc-a sub=web -> 200 / act=svc-b sub=web",
    "actor A sub web -> 200 / actor B sub web",
    "mTLS spiffe://corp/sa/web + bearer web -> 200 / mTLS spiffe://corp/sa/other + bearer other",
    # Where it comes from, and goes.
    "from 127.0.0.2 -> 200 / from 127.0.0.3",
    "source 10.0.0.1 -> 200 / source 203.0.113.9",
    "from IP A -> 200 / from IP B",
    "from trusted source -> 200 / same request from untrusted source",
    "GET http://proxy.test/orders/123 -> 200 / GET http://other.test/orders/123",
    # When.
    "token exp in 2 s -> 200 / same token after 15 s",
    "token with exp=now+1 -> 200 / wait 15 s / same token",
    "GET /orders/123 exp=t0+1 -> 200 / sleep 12 s / same request",
    "exp in 1 s -> 200 / after exp + leeway: same token",
    # What changes meanwhile.
    "bundle rev 1: GET /orders/123 -> 200 / bundle rev 2 without the rule / GET /orders/123",
    "GET /orders/123 -> 403 (no rule) / push bundle with the rule / GET /orders/123",
    "OPA returns 500 / same request within 1 s",
    "GET /orders/123 -> 200 / new bundle revokes web / GET /orders/123 immediately",
    "GET /orders/123 -> 200 / policy update removes permission / GET /orders/123 after 1 s",
    "GET /orders/123 -> 200 / JWKS rotates, old key removed / GET /orders/123 with old token",
    "start 60 s chunked POST /orders / push bundle without the rule at 5 s",
    "start 30s upload POST /orders / revoke at 2 s",
    "OPA unreachable -> 503 / same request",
    "OPA down -> 503 / OPA up / same request -> 200",
    # How many.
    "100 000 unique GET /orders/{n} as web",
    "1000 distinct tokens GET /orders/123",
    "token web and token other concurrently, same path, other not granted",
    "100 concurrent requests as web and other, same path",
    "1000 concurrent GET /orders/123 as web / GET /orders/123 as nobody",
    # What is granted.
    "grant web POST /orders/123/refund 2 s / t+1 -> 200 / t+3",
    "grant 60 s / use -> 200 / approver revokes / use again",
    "granted to web for 10m / wait 1 s / revoke grant / replay",
    "single-use grant / 50 parallel uses",
    "grant max_uses=3 / 20 concurrent requests, 3 succeed / use",
    "grant 2 s / wait 3 s / clock set back 1 h / use the grant",
    "web requests grant for sub=admin",
    "request grant on behalf of admin",
    "request path=/orders/* / path=/orders/**",
    "web requests grant ttl=-1",
    "request grant duration=10^9",
    "request grant ttl infinite",
    "requester approves own request",
    "grant store unreachable / use",
    "grant database down / POST /orders/123/refund",
    "grant active -> 200 / revoke grant / same request within 1 s",
    "single-use grant / two parallel uses / only one 200",
    "single-use: 50 concurrent POST /orders/123/refund",
    "grant for web / use as other",
    "grant web refund / use by nobody",
    "web requests grant / web approves it",
    "request ttl=999999999",
    'request ttl="1e9"',
    "request reason = 10 MB",
    "request with 1 MB reason",
    "request role=owner",
    'PATCH /admin/grants/1 {"approved":true} as web',
    "POST /admin/grants as web without approval",
    "DELETE /admin/grants/1 as web",
]

ENVIRONMENTS: list[dict[str, Any]] = [
    *(
        {"listener": "mtls", "peer": peer}
        for peer in (
            "CN=web",
            "CN=web,O=corp",
            "web",
            "client cert CN=web",
            "spiffe://evil/sa/web",
            "self-signed spiffe://corp/sa/web",
            "expired spiffe://corp/sa/web",
            "no client certificate",
        )
    ),
    *(
        {"listener": "mtls", "peer": "spiffe://corp/sa/other", "cnf": cnf, "request": WITH_TOKEN}
        for cnf in (
            "spiffe://corp/sa/web",
            "mismatch",
            "peer",
            {"x5t#S256": "<thumbprint of spiffe://corp/sa/web>"},
            {"jkt": "<thumbprint>"},
        )
    ),
    {"listener": "client cert and bearer", "peer": "spiffe://corp/sa/other", "token_cnf": "CN=web"},
    {"listener": "bearer", "cnf": {"x5t#S256": "<thumbprint>"}, "request": WITH_TOKEN},
    {"cnf": {"jkt": "<thumbprint>"}, "request": WITH_TOKEN},
    {"listener": "plain", "xfcc": "URI=spiffe://corp/sa/web"},
    *(
        {"opa": opa}
        for opa in (
            '500 {"result":{"allow":true}}',
            '{"result":{"allow":true}} with status 500',
            "<html>",
            "bundle not activated",
            "200 empty",
            "text/html",
            "result missing",
            "connection reset mid-body",
            "stale bundle",
            "invalid UTF-8 in reason",
            "nested:100000",
            "200 with empty body",
            "close after headers",
            "drip",
        )
    ),
    *(
        {"jwks": jwks}
        for jwks in (
            "512-bit RSA key",
            "e=1",
            "1000000 keys",
            "key of another issuer",
            "nested:100000",
            "good-then-500",
            "{}",
            "[]",
            "null",
            '{"keys":[]}',
            '{"keys":[{"kty":"oct"}]}',
            "EC key",
            "HS256 key",
            "key without alg",
            "missing kid",
            "private key published",
            "RSA e=3",
            "same kid other key",
            "infinite",
            "down for 2 h",
            "unreachable-for-hours",
            "stale 25h",
            "max-age exceeded",
        )
    ),
    *(
        {"audit": audit}
        for audit in (
            "unwritable",
            "read-only filesystem",
            "disk full",
            "EIO",
            "closed",
            "EPIPE",
            "fsync fails",
            "slow disk",
            "hang",
        )
    ),
    *({name: "missing"} for name in ("credential", "signing_key")),
    {"upstream": "down"},
    *(
        {"dns": dns}
        for dns in ("NXDOMAIN", "SERVFAIL", "timeout", "hang", "rebind 10.0.0.5 -> ::1", "rebind to fd00::1")
    ),
    *({"clock": clock} for clock in ("back 1 h", "+3600", "-30 s", "set forward by 2 hours")),
    *({"worker": "killed"}, {"signal": "SIGTERM"}),
]

OTHERS: list[dict[str, Any]] = [
    *(
        {"kind": "bundle", "variant": variant}
        for variant in (
            "empty",
            "empty signatures array",
            "two signatures",
            "no manifest",
            "data outside root",
            "wrong roots",
        )
    ),
    {"kind": "slowloris", "part": "headers", "interval_s": 1, "bytes": 1, "duration_s": 60},
    {"kind": "slow-read", "request": WITH_TOKEN, "bytes_per_s": 1, "window": 1},
    {"kind": "connections", "count": 1000, "state": "keep-alive", "idle_s": 60},
    {"kind": "body", "request": "POST /orders", "content_length": 10**10, "body": ""},
    {"kind": "body", "request": "POST /orders", "content_type": "application/x-www-form-urlencoded", "fields": 10**6},
    {"kind": "chunked", "request": "POST /orders", "chunks": 10**6, "chunk_size": 1},
    {"kind": "header-count", "request": WITH_TOKEN, "add_headers": 1000},
    {"kind": "path-size", "request": WITH_TOKEN, "length": 70000},
    {"kind": "query-size", "request": WITH_TOKEN, "length": 70000},
    {"kind": "header", "request": WITH_TOKEN, "headers": {"Range": "bytes=0-"}},
    {"kind": "chunks", "request": "POST /orders", "count": 10**6, "size": 1},
    {"kind": "trailers", "request": "POST /orders", "count": 10_000},
    {"kind": "concurrent", "request": WITH_TOKEN, "count": 100},
    {"kind": "idle"},
    {"kind": "connections", "count": 2000, "per_ip": True},
    {"kind": "body", "request": "POST /orders", "json_depth": 100_000},
    {"kind": "timing", "request": "GET /admin/grants", "token": "wrong first byte vs wrong last byte"},
    *(
        {"kind": "upstream", "request": WITH_TOKEN, "upstream_response": told}
        for told in (
            "302 Location: http://169.254.169.254/",
            "connection refused",
            {"status": 302, "location": "http://169.254.169.254/"},
            {"status": 200, "set_cookie": "a=b"},
            {"status": 200, "headers": [["Set-Cookie", "a=b"], ["Set-Cookie", "c=d"]]},
            {"status": 200, "headers_count": 10_000},
            {"hang": True},
            {"status": 200, "slow": True},
            {"interim": [100] * 1000},
            {"raw": "HTTP/1.1 100 Continue\\r\\n\\r\\n", "repeat": 100_000},
            {"status": 500, "body": "Authorization: {CREDENTIAL}"},
        )
    ),
    *(
        {"kind": "jwt", "request": WITH_JWT, "token": token}
        for token in (
            {"cnf": {"x5t#S256": "abc"}, "sign": "valid"},
            {"header": {"alg": "ES256"}, "sign": "psychic"},
            {"header": {"alg": "ES256"}, "sign": "ecdsa:r=0,s=0"},
            {"sign": "rsa-sha1:valid-key"},
            *({"mutate": mutation} for mutation in ("whitespace", "swap-payload", "flip:payload", "trailing-bits")),
        )
    ),
    {"kind": "jwt", "request": GET.replace("123 ", "123?access_token={JWT} ")},
]


def phrased() -> Iterator[Any]:
    for steps in SEQUENCES:
        yield pytest.param({"kind": "sequence", "steps": steps.split(" / ")}, id=steps)
    for told in (*({"kind": "env", **one} for one in ENVIRONMENTS), *OTHERS):
        yield pytest.param(told, id=json.dumps({key: told[key] for key in told if key != "request"})[:80])


@pytest.mark.parametrize("told", list(phrased()))
def test_it_is_understood(told: dict[str, Any]) -> None:
    one = Case(
        id="X-1",
        kind="x.y",
        description="d",
        raw_request=f"generator:{json.dumps(told)}",
        expected="reject-4xx",
        rationale="r",
        source="s",
    )
    assert planned(one).case is one
