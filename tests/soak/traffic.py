"""The permission maps of the soak, the requests that are made under them, and the clients that make them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ostiary.demo.issuer import ISSUER
from soak.oracle import Asked, Oracle
from support.forwarding import Client, connected
from support.upstream import Answer

REGO = """\
package policy

condition("ends_with", suffix, request) if {
	segments := request.resource.properties.segments
	endswith(segments[count(segments) - 1], suffix)
}
"""


def permissions(*, second: bool) -> str:
    """The map, and the other one that it is swapped for: two permissions less, and one more."""
    hour = time.gmtime().tm_hour
    around = f'{{from: "{max(hour - 2, 0):02}:00", to: "{min(hour + 3, 23):02}:59", timezone: UTC}}'
    away = f'{{from: "{(begin := "00" if hour >= 2 else "22")}:00", to: "{begin}:01", timezone: UTC}}'
    lines = f"""\
  - {{caller: web, service: orders, endpoints: [list-orders, get-order, stream]}}
  - {{caller: web, service: orders, endpoints: [create-order], when: {{source: [127.0.0.0/8]}}}}
  - {{caller: web, service: orders, endpoints: [archive], when: {{source: [10.0.0.0/8]}}}}
  - {{caller: night, service: orders, endpoints: [get-order], when: {{hours: {away}}}}}
  - {{caller: day, service: orders, endpoints: [get-order], when: {{hours: {around}}}}}
  - {{caller: support, service: orders, endpoints: [get-order, head-order], when: {{read_only: true}}}}
  - {{caller: support, service: orders, endpoints: [list-orders],
     when: {{query: {{status: [open, paid], page: "*"}}}}}}
  - {{caller: tenant, service: orders, endpoints: [of-tenant], when: {{path: {{tenant_id: {{claim: tenant}}}}}}}}
  - {{caller: tenant, service: orders, endpoints: [admin], when: {{claims: {{tenant: acme}}}}}}
  - {{caller: day, service: orders, endpoints: [document], when: {{custom: {{ends_with: pdf}}}}}}
"""
    if second:
        lines = lines.replace("[list-orders, get-order, stream]", "[list-orders, stream]").replace(
            "endpoints: [admin]", "endpoints: [admin, replace-order]"
        )
    return f"""\
services:
  orders:
    endpoints:
      list-orders: GET /orders
      create-order: POST /orders
      get-order: GET /orders/{{order_id}}
      head-order: HEAD /orders/{{order_id}}
      replace-order: PUT /orders/{{order_id}}
      admin: GET /orders/admin
      stream: GET /orders/{{order_id}}/events
      archive: GET /archive/**
      of-tenant: GET /tenants/{{tenant_id}}/orders
      document: GET /documents/{{document}}
callers:
  web: {{issuer: {ISSUER}, subject: web}}
  day: {{issuer: {ISSUER}, subject: day}}
  night: {{issuer: {ISSUER}, subject: night}}
  support: {{issuer: {ISSUER}, claims: {{groups: support}}}}
  tenant: {{issuer: {ISSUER}, claims: {{groups: tenants}}}}
permissions:
{lines}"""


PEOPLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("web", {}),
    ("day", {}),
    ("night", {}),
    ("ann", {"groups": ["support"]}),
    ("day", {"groups": ["support", "tenants"], "tenant": "acme"}),
    ("bob", {"groups": ["tenants"], "tenant": "acme"}),
    ("eve", {"groups": ["tenants"], "tenant": "other"}),
    ("stranger", {"groups": "none"}),
)

_TARGETS: tuple[tuple[str, str], ...] = (
    ("GET", "/orders"),
    ("GET", "/orders?status=open"),
    ("GET", "/orders?status=open&page=2"),
    ("GET", "/orders?status=lost"),
    ("GET", "/orders?status=open&status=paid"),
    ("POST", "/orders"),
    ("GET", "/orders/42"),
    ("GET", "/orders/a-b_c"),
    ("HEAD", "/orders/42"),
    ("PUT", "/orders/42"),
    ("DELETE", "/orders/42"),
    ("GET", "/orders/admin"),
    ("GET", "/orders/Admin"),
    ("GET", "/orders/"),
    ("GET", "/orders/42/events"),
    ("GET", "/archive/2020/01"),
    ("GET", "/tenants/acme/orders"),
    ("GET", "/tenants/other/orders"),
    ("GET", "/documents/a-pdf"),
    ("GET", "/documents/a-doc"),
    ("GET", "/nowhere"),
)

_WRONG: tuple[tuple[str, int], ...] = (
    ("GET /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\n\r\n", 401),
    ("GET /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\nAuthorization: Bearer a.b.c\r\n\r\n", 401),
    ("GET /orders/42 HTTP/1.1\r\nHost: elsewhere.localhost\r\n\r\n", 421),
    ("GET /orders/../42 HTTP/1.1\r\nHost: orders.localhost\r\n\r\n", 400),
    ("TRACE /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\n\r\n", 405),
    ("POST /orders HTTP/1.1\r\nHost: orders.localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
)
"""What never is a request of the service's, and its status."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one request. `status` is None where the connection ended first, `complete` whether all of a
    response came."""

    sent: float
    got: float
    mark: str
    status: int | None
    complete: bool
    decision_id: str | None
    may: frozenset[bool]  # what a right decision could be: both while the bundle is swapped
    required: int | None  # the status of what is wrong, whatever the policy says


@dataclass
class World:
    """What clients know: the time at which each map came into force and ended. `tokens` makes a person's token."""

    port: int
    tokens: Callable[[str, dict[str, Any]], str]
    oracles: list[tuple[float, float, Oracle]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    mixed_up: list[str] = field(default_factory=list)
    allowed: dict[str, frozenset[bool]] = field(default_factory=dict)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0

    def verdicts(self, asked: Asked, since: float, until: float) -> frozenset[bool]:
        return frozenset(oracle.allows(asked) for begin, end, oracle in self.oracles if begin <= until and since <= end)


@dataclass(frozen=True, kw_only=True)
class Request:
    raw: bytes
    method: str
    mark: str
    asked: Asked | None
    required: int | None = None


class Requests:
    """Random ones, the same for the same seed."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    def next(self) -> Request:
        self._world.number += 1
        mark = f"mark-{self._world.number}"
        wanted = self._chance.random() < 0.5
        while True:
            subject, claims = self._chance.choice(PEOPLE)
            method, target = self._chance.choice(_TARGETS)
            path, _, query = target.partition("?")
            asked = Asked(issuer=ISSUER, subject=subject, claims=claims, method=method, path=path, query=query)
            if not wanted or self._world.oracles[0][2].allows(asked):
                break
        head = f"{method} {target} HTTP/1.1\r\nHost: orders.localhost\r\nX-Mark: {mark}\r\n"
        head += f"Authorization: Bearer {self._world.tokens(subject, claims)}\r\n"
        body = b""
        if method in ("POST", "PUT"):
            size = self._chance.choice((0, 5, 2000, 100_000))
            if self._chance.random() < 0.5:
                body = b"%x\r\n%s\r\n" % (size, b"b" * size) * bool(size) + b"0\r\n\r\n"
                head += "Transfer-Encoding: chunked\r\n"
                self._world.kinds["chunked bodies"] += 1
            else:
                body = b"b" * size
                head += f"Content-Length: {size}\r\n"
                self._world.kinds["bodies with a length"] += 1
        return Request(raw=head.encode() + b"\r\n" + body, method=method, mark=mark, asked=asked)

    def wrong(self) -> Request:
        self._world.number += 1
        text, status = self._chance.choice(_WRONG)
        self._world.kinds["messages that are no request"] += 1
        return Request(
            raw=text.encode(), method=text.split(" ")[0], mark=f"mark-{self._world.number}", asked=None, required=status
        )


async def client(world: World, chance: random.Random) -> None:
    """One client after the other, of any kind, until the end."""
    requests = Requests(world, chance)
    while not world.stopping.is_set():
        kind = chance.choices(("kept", "short", "pipelined", "wrong"), (6, 3, 2, 1))[0]
        world.kinds[f"connections: {kind}"] += 1
        count = {"kept": chance.randrange(2, 60), "short": 1, "pipelined": chance.randrange(2, 6), "wrong": 1}[kind]
        batch = [requests.wrong() if kind == "wrong" else requests.next() for _ in range(count)]
        try:
            async with connected(world.port) as connection:
                if kind == "pipelined":
                    await _pipelined(world, connection, batch)
                else:
                    for request in batch:
                        await asyncio.sleep(chance.random() * 0.06)
                        if world.stopping.is_set() or await _one(world, connection, request):
                            break
        except OSError:  # no connection at all
            now = time.monotonic()
            world.outcomes.append(_lost(world, batch[0], now))
            await asyncio.sleep(0.1)


async def _one(world: World, connection: Client, request: Request) -> bool:
    """Ask; whether the connection is of no more use."""
    sent = time.monotonic()
    if request.asked is not None:
        world.allowed[request.mark] = frozenset()  # to be known once it is over
    with contextlib.suppress(OSError):  # a refusal may have come before the body was sent
        await connection.send(request.raw)
    return await _answer(world, connection, request, sent)


async def _pipelined(world: World, connection: Client, batch: list[Request]) -> None:
    sent = time.monotonic()
    world.kinds["pipelined requests"] += len(batch)
    with contextlib.suppress(OSError):
        await connection.send(b"".join(request.raw for request in batch))
    for index, request in enumerate(batch):
        if await _answer(world, connection, request, sent):
            for other in batch[index + 1 :]:  # never answered, and none of them was looked at
                _remember(world, other, sent)
            break


async def _answer(world: World, connection: Client, request: Request, sent: float) -> bool:
    head: Answer | None = None
    complete = False
    try:
        async with asyncio.timeout(60):
            head = await connection.head()
            if request.method != "HEAD" and head.status not in (204, 304):
                head.body = b"".join([piece async for piece in connection.pieces(head)])
            complete = True
    except (OSError, EOFError, TimeoutError):
        pass
    got = time.monotonic()
    may = _remember(world, request, sent)
    if head is None:
        world.outcomes.append(_lost(world, request, sent, may))
        return True
    told = head.status == 200 and request.method != "HEAD" and (complete or head.body)
    if told and not head.body.startswith(request.mark.encode()):
        world.mixed_up.append(f"{request.mark} got {head.body[:40]!r}")
    world.outcomes.append(
        Outcome(
            sent=sent, got=got, mark=request.mark, status=head.status, complete=complete,
            decision_id=(head.values("ostiary-decision-id") or [None])[0],  # type: ignore[list-item]
            may=may, required=request.required,
        )
    )  # fmt: skip
    return not complete or "close" in head.values("connection")


def _remember(world: World, request: Request, sent: float) -> frozenset[bool]:
    if request.asked is None:
        return frozenset()
    may = world.allowed[request.mark] = world.verdicts(request.asked, sent, time.monotonic())
    return may


def _lost(world: World, request: Request, sent: float, may: frozenset[bool] | None = None) -> Outcome:
    return Outcome(
        sent=sent, got=time.monotonic(), mark=request.mark, status=None, complete=False, decision_id=None,
        may=_remember(world, request, sent) if may is None else may, required=request.required,
    )  # fmt: skip
