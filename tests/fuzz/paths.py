"""The canonicaliser, against the reference: what it takes, what it makes of it, and that doing it twice is once."""

from __future__ import annotations

import random
from collections.abc import Hashable

from fuzz import reference
from fuzz.target import demand
from ostiary.errors import AccessError
from ostiary.exchange import Exchange
from ostiary.models import Target as Aim
from ostiary.target import TARGET_BYTES, Targets, canonicalise, encode

PIECES = (
    b"orders", b"42", b"admin", b"Admin", b"%61dmin", b"%2e", b"%2E%2e", b"..", b".", b"...", b"%2f", b"%5c", b"%25",
    b"%252e", b"a%3bb", b"a;b", b"\\", b"", b"caf%C3%A9", b"cafe%CC%81", b"%EF%BC%8F", b"%E2%80%AE", b"%C0%AF",
    b"%ED%A0%80", b"%F4%90%80%80", b"a:b", b"a@b", b"a,b=c", b"!$&'()*+", b"%7f", b"%00", b"%u0041", b"%", b"%4",
    b"%E2%80%A4", b"%E2%80%A5", b"~a", b"-", b"_", b"a%20b", b"%E3%80%80", b"\xc3\xa9", b"%c3%a9", b"%30",
)  # fmt: skip
QUERIES = (
    b"", b"?", b"?a=1", b"?a=1&b=2", b"?a", b"?a=%2", b"?a+b", b"?a;b", b"?&", b"?a=1&", b"?access_token=x",
    b"?access%5Ftoken=x", b"?ACCESS.TOKEN=x", b"?a=%0a", b"?a=%C3%A9", b"?a=%FF", b"?a=b?c/d", b"?jwt", b"?a=#",
    b"?a b",
    b"?__jwt__", b"?a[apiKey]=x", b"?a[b].x-jwt[]", b"?accessToken", b"?token=x", b"?a=%20", b"?%", b"?a=%E2%80%AE",
)  # fmt: skip


async def _unused(*_: object) -> dict[str, object]:
    raise RuntimeError


def resolve(path: bytes, query: bytes) -> Aim:
    scope = {"method": "GET", "raw_path": path, "query_string": query, "headers": [(b"host", b"orders.test")]}
    return TARGETS.resolve(Exchange(scope, _unused, _unused))  # type: ignore[arg-type]


TARGETS = Targets(hosts={"orders.test": "orders"}, own_host="ostiary.localhost", ports=frozenset())


class Paths:
    name = "paths"
    share = 0.2
    words = (*PIECES, *QUERIES)

    def make(self, rng: random.Random) -> bytes:
        pieces = [rng.choice(PIECES) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 130)))]
        return b"/" + b"/".join(pieces) + rng.choice(QUERIES)

    def check(self, case: bytes) -> Hashable:
        path, _, query = case.partition(b"?")
        expected: Aim | None
        try:
            if len(path) + len(query) > TARGET_BYTES:
                raise reference.RefusedError("too long")  # noqa: TRY301
            segments = reference.segments(path)
            expected = Aim(
                service="orders",
                segments=segments,
                path=reference.written(segments),
                query=reference.query(query),
                pairs=reference.pairs(query),
            )
            outcome: str = f"{query != b''} {expected.pairs is None}"
        except reference.RefusedError as refused:
            expected = None
            outcome = str(refused)
        try:
            found = resolve(path, query)
        except AccessError as refusal:
            demand(expected is None, "what is clean is refused", case, refusal)
            return outcome, refusal.reason, str(refusal)[:20]
        demand(found == expected, "a target means something else", found, expected)
        again = resolve(*(part.encode() for part in found.request_target.partition("?")[::2]))
        demand(again == found, "the forwarded target is another one", again, found)
        demand(canonicalise(found.path.encode()) == found.segments, "the path has another reading", found)
        demand(encode(found.segments) == found.path, "the segments have another spelling", found)
        return outcome, found.path.count("%") > 0, len(found.segments)

    def close(self) -> None: ...
