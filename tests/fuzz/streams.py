"""What clients send: streams of requests that are right, nearly right, or two things at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fuzz.paths import PIECES, QUERIES

TOKEN = b"{TOKEN}"
"""Stands for a good token, which is as long as it has to be and another one each time."""

METHODS = (b"GET", b"GET", b"GET", b"POST", b"POST", b"POST", b"PUT", b"PATCH", b"HEAD", b"DELETE", b"OPTIONS")
ODD_METHODS = (b"get", b"TRACE", b"CONNECT", b"PRI", b"PROPFIND", b"BREW", b"SOURCE", b"PLAY", b"M-SEARCH", b"G@T", b"")
HOSTS = (b"orders.test", b"orders.test", b"orders.test", b"billing.test", b"ORDERS.test:80", b"ostiary.localhost")
ODD_HOSTS = (
    b"evil.test",
    b"orders.test:81",
    b"orders.test, billing.test",
    b"orders.test@evil",
    b"",
    b"orders.test.",
    b"[::1]",
)
VERSIONS = (b"HTTP/1.1",) * 12 + (b"HTTP/1.0",)
ODD_VERSIONS = (b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"RTSP/1.1", b"HTTP/1", b"")
ODD_SPACES = (b"  ", b"\t", b" \t ", b"")
CLEAN_PATHS = (
    b"/orders/42",
    b"/orders",
    b"/orders/",
    b"/charges/7",
    b"/denied/1",
    b"/a/b/c?x=1&y=2",
    b"/",
    b"/orders/%61?q",
)
EXTRAS = (
    b"Accept: */*", b"Content-Type: text/plain", b"X-Request-Id: 1", b"Connection: keep-alive", b"Connection: close",
    b"Connection: X-Request-Id", b"Expect: 100-continue", b"TE: trailers", b"Trailer: x", b"X_User: a", b"X:",
    b"Cookie: a=b",
    b"X-Forwarded-For: 1.1.1.1", b"X-HTTP-Method-Override: DELETE", b"X-Original-URL: /admin",
    b"Ostiary-Decision-Id: f",
    b"Origin: https://app.test", b"Access-Control-Request-Method: GET", b"Proxy: x", b"X: \xff\xfe",
)  # fmt: skip
ODD_EXTRAS = (
    b"Connection: host", b"Connection: content-length", b"Expect: x", b"Connection: Authorization", b"Connection: via",
    b"Upgrade: websocket", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked",
    b"Content-Length: 0",
    b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length : 5", b"Content_Length: 5",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x00", b"X: a\r\n b", b" X: a", b"X\x00: a",
    b"X: a\rb",
    b"X: a\nY: b", b": a", b"X", b"Host: billing.test", b"Authorization: Bearer x", b"X: \x7f", b"Content-Length: 005",
)  # fmt: skip
CHUNK_SIZES = (b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a=b")
ODD_CHUNK_SIZES = (
    b"%x;",
    b"%x ",
    b"0x%x",
    b"+%x",
    b"%x\t",
    b'%x;a="\r\n"',
    b"%x;\n",
    b"00000000000000000%x",
    b"-%x",
    b"%x\n",
)
TRAILERS = (b"",) * 5 + (b"X-Trailer: 1\r\n", b"Authorization: Bearer evil\r\n", b"Host: evil\r\nContent-Length: 5\r\n")
ODD_ENDS = (b"\n", b"\r", b"\r\r\n", b"", b"\n\r", b"\r\n\r\n")
BODIES = (
    b"",
    b"hello",
    b"a" * 1000,
    b"\r\n",
    b"0\r\n\r\n",
    b"GET /orders/666 HTTP/1.1\r\nHost: orders.test\r\n\r\n",
    b"\x00\xff" * 20,
)
LARGE_BODY = b"x" * 70000  # above what a listener takes before the application asks for it  # fmt: skip
WORDS = (
    *METHODS, *ODD_METHODS, *HOSTS, *ODD_HOSTS, *VERSIONS, *ODD_VERSIONS, *CLEAN_PATHS, *EXTRAS, *ODD_EXTRAS,
    *PIECES, *QUERIES, TOKEN, b"\r\n\r\n", b"0\r\n\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n", b"\r\nContent-Length: 5\r\n",
    b"GET /orders/666 HTTP/1.1\r\nHost: orders.test\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


class Noise:
    """What goes wrong, and how often. `odds` 0 makes right streams, of which most get through to the upstream."""

    def __init__(self, rng: random.Random, odds: float) -> None:
        self.rng = rng
        self.odds = odds

    def pick(self, usual: Sequence[bytes], odd: Sequence[bytes]) -> bytes:
        return self.rng.choice(odd if self.rng.random() < self.odds else usual)

    def end(self) -> bytes:
        return self.pick((b"\r\n",), ODD_ENDS)

    def strikes(self) -> bool:
        return self.rng.random() < self.odds


def target(noise: Noise) -> bytes:
    if not noise.strikes():
        return noise.rng.choice(CLEAN_PATHS)
    path = (
        b"/"
        + b"/".join(noise.rng.choice(PIECES) for _ in range(noise.rng.choice((1, 2, 3))))
        + noise.rng.choice(QUERIES)
    )
    odd = (b"//" + path, b"http://orders.test" + path, b"*", path + b"#x", path[1:], b"@evil" + path)
    return noise.pick((path,), odd)


def chunked(body: bytes, noise: Noise) -> bytes:
    rng = noise.rng
    out = b""
    while body:
        size = min(len(body), rng.choice((1, 3, 16, 1000, 100000)))
        out += (noise.pick(CHUNK_SIZES, ODD_CHUNK_SIZES) % size) + noise.end() + body[:size] + noise.end()
        body = body[size:]
    return out + b"0" + noise.end() + noise.pick(TRAILERS, (b"X\r\n", b" X: a\r\n")) + noise.end()


def request(noise: Noise) -> bytes:
    rng = noise.rng
    method = noise.pick(METHODS, ODD_METHODS)
    spaces = [noise.pick((b" ",), ODD_SPACES) for _ in range(2)]
    line = method + spaces[0] + target(noise) + spaces[1] + noise.pick(VERSIONS, ODD_VERSIONS)
    lines = [b"Host: " + noise.pick(HOSTS, ODD_HOSTS), b"Authorization: Bearer " + TOKEN]
    if noise.strikes():
        del lines[rng.randrange(2)]
    lines += [noise.pick(EXTRAS, ODD_EXTRAS) for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))]
    body = (
        (LARGE_BODY if rng.random() < 0.02 else rng.choice(BODIES))
        if method in (b"POST", b"PUT", b"PATCH") or noise.strikes()
        else b""
    )
    if body and rng.random() < 0.5:
        lines.append(b"Content-Length: %d" % (len(body) + (rng.choice((-1, 1, 5)) if noise.strikes() else 0)))
    elif body or noise.strikes():
        lines.append(b"Transfer-Encoding: chunked")
        body = chunked(body, noise)
    if rng.random() < 0.3:
        rng.shuffle(lines)
    return b"".join(part + noise.end() for part in (line, *lines, b"")) + body


def stream(rng: random.Random) -> bytes:
    noise = Noise(rng, rng.choice((0, 0, 0, 0.01, 0.03, 0.1)))
    requests = [request(noise) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6)))]
    return noise.pick((b"",), (b"\r\n", b"\n", b"\x00")) + b"".join(requests)
