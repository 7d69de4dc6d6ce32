"""The header rules: whatever headers a request has, its head goes upstream as one, clean, without what is removed."""

from __future__ import annotations

import random
import re
from collections.abc import Hashable

import h11

from fuzz.target import FindingError, demand
from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.models import Credential
from ostiary.models import Target as Aim
from ostiary.upstream.headers import ADDED, KEEPABLE_NAMES, KEEPABLE_SUFFIXES, NAMESAKES, PREFIXES, REMOVED, SUFFIXES
from ostiary.upstream.request import RequestWriter
from support.shipped import upstream_settings

TOKEN = b"caller-token-0123456789"
SWAPPED = b"Bearer swapped-0123456789"
NAMES = (
    b"accept", b"content-type", b"x-request-id", b"traceparent", b"connection", b"content-length", b"transfer-encoding",
    b"x-forwarded-for", b"x_forwarded_for", b"x.user", b"x~user", b"user_agent", b"te", b"trailer", b"upgrade",
    b"cookie",
    b"proxy", b"x-http-method-override", b"authorization", b"x-original-url", b"ostiary-decision-id", b"keep-alive",
    b"via",
    b"host", b"range", b"if-none-match", b"x-my-thing",
)  # fmt: skip
VALUES = (
    b"", b"a", b"*/*", b"close", b"keep-alive, x-request-id", b"x-forwarded-for, authorization", b"host", b"chunked",
    b"0", b"5",
    b"Bearer " + TOKEN, b"say " + TOKEN + b" again", b"\xe9", b"a\tb", b"HTTP/1.1", b"1, 2",
)  # fmt: skip

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]{1,200}")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t -\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_ONCE = frozenset({b"authorization", b"host", b"content-type", b"x-forwarded-client-cert"})
_REMOVED = REMOVED | KEEPABLE_NAMES
_SUFFIXES = (*SUFFIXES, *KEEPABLE_SUFFIXES)
_OURS = frozenset(ADDED) | {b"authorization", b"content-length", b"transfer-encoding"}


async def _unused(*_: object) -> dict[str, object]:
    raise RuntimeError


class Headers:
    """A case is a header a line, `name: value`, as the listener may hand them on."""

    name = "headers"
    share = 0.1
    words = (*NAMES, *VALUES, b"-", b"_", b"connection: ")

    def __init__(self) -> None:
        self._writer = RequestWriter(upstream_settings(host="127.0.0.1", port=9001, body_bytes=1000))
        self._aim = Aim(service="orders", segments=("a",), path="/a", query=None, pairs=())
        self._credential = Credential(header=(b"authorization", SWAPPED), id="c", expires_at=2**40)

    def make(self, rng: random.Random) -> bytes:
        names = rng.choices(
            [*NAMES, *sorted(_REMOVED), *(begin + b"x" for begin in PREFIXES), *(b"x" + end for end in _SUFFIXES)],
            k=rng.choice((1, 2, 5, 20)),
        )
        lines = [self._disguised(name, rng) + b": " + rng.choice(VALUES) for name in names]
        return b"\r\n".join([b"host: orders.test", b"authorization: Bearer " + TOKEN, *lines])

    def _disguised(self, name: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.7:
            return name
        return bytes(rng.choice(b"-_.~+!|") if byte == 0x2D else byte for byte in name)

    def check(self, case: bytes) -> Hashable:
        headers = []
        for line in case.split(b"\r\n"):
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            once = name in _ONCE and name in dict(headers)
            if _NAME.fullmatch(name) and _VALUE.fullmatch(value) and not once:  # nothing else gets past the listener
                headers.append((name, value))
        scope = {
            "method": "POST",
            "raw_path": b"/a",
            "query_string": b"",
            "headers": headers,
            "client": ("10.0.0.1", 1),
        }
        exchange = Exchange(scope, _unused, _unused)  # type: ignore[arg-type]
        try:
            outbound = self._writer.write(exchange, self._aim, self._credential)
        except AccessError as refusal:
            return refusal.reason, str(refusal)[:20]
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(outbound.head)
        event = connection.next_event()
        if not isinstance(event, h11.Request):
            raise FindingError(f"not a request: {event!r}")
        demand((event.method, event.target) == (b"POST", b"/a"), "another request line", outbound.head)
        demand(
            outbound.head.count(b"\r\n\r\n") == 1 and outbound.head.endswith(b"\r\n\r\n"), "not one head", outbound.head
        )
        self._check(headers, list(event.headers), outbound.head)
        return (
            outbound.framing,
            len(event.headers),
            sum(self._named(headers)[name] > 0 for name in self._named(headers)),
        )

    def _check(self, sent: list[tuple[bytes, bytes]], got: list[tuple[bytes, bytes]], head: bytes) -> None:
        named = self._named(sent)
        secrets = [value[7:] for name, value in sent if name == b"authorization" and value[:7].lower() == b"bearer "]
        for ours in ADDED:
            if ours != b"x-forwarded-host":
                demand(sum(name == ours for name, _ in got) == 1, "what is added is there once", ours, got)
        demand([value for name, value in got if name == b"authorization"] == [SWAPPED], "the credential", got)
        demand(dict(got)[b"x-forwarded-for"] == b"10.0.0.1", "the client's address", got)
        demand(dict(got)[b"host"] == b"127.0.0.1:9001", "the host", got)
        for name, value in got:
            if name in _OURS:
                continue
            demand((name, value) in sent, "a header that nobody sent", name)
            demand(b"_" not in name and b"." not in name, "an alias", name)
            folded = re.sub(rb"[^a-z0-9]", b"-", name)
            for read in (folded, folded.removeprefix(b"x-")):
                demand(read not in _REMOVED, "what is removed", name)
                family = read.startswith(PREFIXES) or read.endswith(_SUFFIXES)
                demand(not family or folded in NAMESAKES, "what is removed", name)
            demand(name not in named, "what Connection names", name)
        for secret in secrets:  # a token has dots, so that it is no name that goes on
            values = [value for name, value in got if name not in _OURS]
            demand(len(secret) < 8 or not any(secret in value for value in values), "the caller's token", head)

    def _named(self, sent: list[tuple[bytes, bytes]]) -> dict[bytes, int]:
        tokens = b",".join(value for name, value in sent if name == b"connection").lower().split(b",")
        return {token.strip(b" \t"): 1 for token in tokens}

    def close(self) -> None: ...
