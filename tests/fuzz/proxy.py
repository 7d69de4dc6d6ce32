"""The real proxy around one client connection: the listener's protocol on a transport in memory, the whole pipeline
with an authorizer that writes down what it judges, the real forwarder, and upstreams on loopback that keep what they
receive.
"""

from __future__ import annotations

import asyncio
import ipaddress
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httptools
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from fuzz.target import FindingError
from ostiary.access import AccessRequestBuilder, NoBlocklist, NoGrants, NoKeeper, NoPrediction, NoReception, NoRecourse
from ostiary.audit.memory import MemoryAuditLog
from ostiary.clock import ManualClock
from ostiary.concierge import JWKS_PATH, ProxyConcierge
from ostiary.credential import CachingSwapper, MintedSwapper, Minter, SigningKey, Swapper
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.scripted import ScriptedAuthorizer, allow, deny
from ostiary.decision.warden import PolicyWarden
from ostiary.errors import AccessError
from ostiary.identity import FailureLimit, KeyFile, build_authenticator
from ostiary.interfaces import TargetResolver
from ostiary.interfaces import Upstream as InterfaceUpstream
from ostiary.models import AccessRequest, Decision
from ostiary.pipeline import Pipeline
from ostiary.problem import Problems
from ostiary.server import Gate, Proxies, Refused, StrictProtocol, strict_protocol
from ostiary.server.preamble import SIGNATURE
from ostiary.target import Targets
from ostiary.upstream import Forwarder
from support.credential import Catalog, Facts
from support.identity import Issuer, jwks, settings
from support.identity import SigningKey as IssuerKey
from support.shipped import listener_limits, upstream_settings

SERVICES: Final = ("orders", "billing")
CLIENT: Final = ("203.0.113.9", 4711)
PINNED: Final = ("10.0.0.1", 4712)
"""A load balancer that speaks the PROXY protocol, and the preamble by which it speaks for the client:"""
PREAMBLE: Final = (
    SIGNATURE + bytes.fromhex("2111000f") + bytes((203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0, 80, 4, 0, 0))
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_QUIET: Final = 40
"""Turns of the loop without anything new, after which nothing is going to happen by itself."""
_TURNS: Final = 20_000


class MemoryTransport(asyncio.Transport):
    """The proxy's end of a connection. The client takes everything at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": ("192.0.2.1", 80)})
        self._loop = loop
        self._protocol = protocol
        self.written = bytearray()
        self.reading = True
        self.ended = False  # the proxy sends no more
        self.closed = False

    def write(self, data: Any) -> None:
        if self.ended or self.closed:
            raise FindingError(f"written after the end: {bytes(data)!r}")
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading


class UpstreamConnection(asyncio.Protocol):
    """One connection that the forwarder opened. Answers each request with its own decision id, as `behave` says."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.raw = bytearray()
        self.open = True
        self._id = b""
        self._answered = False
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._upstream.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._upstream.count += 1

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self._upstream.count += 1
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()  # what was received is looked at afterwards

    def on_message_begin(self) -> None:
        self._id = b""
        self._answered = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"ostiary-decision-id":
            self._id = value

    def on_headers_complete(self) -> None:
        if self._upstream.behaviour == "early":
            self._answer(b"HTTP/1.1 403 Forbidden\r\n", b"")

    def on_message_complete(self) -> None:
        behaviour = self._upstream.behaviour
        if self._answered:
            return
        if behaviour == "gone":
            self._transport.abort()
        elif behaviour == "closing":
            self._answer(b"HTTP/1.1 200 OK\r\n", b"Connection: close\r\n")
            self._transport.close()
        else:
            self._answer(b"HTTP/1.1 200 OK\r\n", b"")
            if behaviour == "surplus":
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    def _answer(self, status: bytes, headers: bytes) -> None:
        self._answered = True
        body = b"" if self._parser.get_method() == b"HEAD" else b"answer to " + self._id
        if self._upstream.behaviour == "chunked" and body:
            framing = b"Transfer-Encoding: chunked\r\n"
            body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Trailer: 1\r\n\r\n"
        else:
            framing = b"Content-Length: %d\r\n" % (len(body) or len(b"answer to ") + 32)
        self._transport.write(status + headers + framing + b"X-Echo: " + self._id + b"\r\n\r\n" + body)


BEHAVIOURS: Final = ("plain",) * 10 + ("chunked", "chunked", "closing", "early", "gone", "surplus")


@dataclass
class Upstream:
    """A service, and what it received since the case began."""

    behaviour: str = "plain"
    connections: list[UpstreamConnection] = field(default_factory=list)
    count: int = 0

    def forget(self) -> None:
        self.connections = [connection for connection in self.connections if connection.open]
        for connection in self.connections:
            connection.raw.clear()


@dataclass
class Seen:
    """What happened in one case. `judged` are the questions, in order, `scopes` the requests that were let in."""

    scopes: list[Scope]
    judged: list[AccessRequest]
    refused: list[tuple[AccessError, Refused]]
    documents: list[dict[str, Any]]
    written: bytes
    closed: bool
    """Whether the proxy ended the connection."""
    received: dict[str, list[bytes]]
    """By service: the bytes on each connection."""


class FuzzedProxy:
    """Use within its own event loop: `start`, `run` for each case, `close`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._folder = tempfile.TemporaryDirectory(prefix="ostiary-fuzz-")
        key = IssuerKey(algorithm="ES256")
        keys = Path(self._folder.name) / "jwks.json"
        keys.write_bytes(jwks(key))
        self.token = Issuer(clock=self.clock, key=key).token(claims={"exp": int(self.clock.now()) + 3000}).encode()
        self.upstreams = {name: Upstream() for name in SERVICES}
        self._audit = MemoryAuditLog(clock=self.clock)
        self._judged: list[AccessRequest] = []
        self._scopes: list[Scope] = []
        self._refused: list[tuple[AccessError, Refused]] = []
        self._running = 0
        self.errors: list[str] = []
        self._authenticator = build_authenticator(
            [settings(KeyFile(path=keys), algorithms=("ES256",))],
            clock=self.clock,
            failures=FailureLimit(clock=self.clock, rate=1e9, burst=10**9),
        )

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        self._servers = [
            await self._loop.create_server(lambda upstream=upstream: UpstreamConnection(upstream), "127.0.0.1", 0)
            for upstream in self.upstreams.values()
        ]
        ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        self._forwarder = Forwarder(
            {
                name: upstream_settings(host="127.0.0.1", port=port, keep_alive=3600, body_bytes=100_000)
                for name, port in zip(SERVICES, ports, strict=True)
            }
        )
        await self._forwarder.start()
        await self._authenticator.start()
        self._state = ServerState()
        self._config = uvicorn.Config(
            Gate(http=self._pipeline(), lifespan=_none),
            http=self.listener(),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        self._config.load()

    async def close(self) -> None:
        await self._forwarder.close()
        await self._authenticator.close()
        for server in self._servers:
            server.close()
            await server.wait_closed()
        self._folder.cleanup()

    # What tests plant faults in.

    def listener(self) -> type[asyncio.Protocol]:
        limits = listener_limits(header_bytes=4096, header_count=30, target_bytes=1024, body_bytes=100_000, pipelined=4)
        proxies = Proxies(networks=[ipaddress.ip_network(PINNED[0])], header="proxy-v2")
        return strict_protocol(limits, problems=Problems(), on_refused=self._on_refused, proxies=proxies)

    def targets(self) -> TargetResolver:
        return Targets(
            hosts={f"{name}.test": name for name in SERVICES},
            own_host="ostiary.localhost",
            ports=frozenset({80}),
            target_bytes=1024,
        )

    def upstream(self, forwarder: Forwarder) -> InterfaceUpstream:
        return forwarder

    def _pipeline(self) -> Callable[[Scope, Receive, Send], Any]:
        catalog = Catalog({(name, method.lower()): Facts(method, "/**") for name in SERVICES for method in _METHODS})
        minter = Minter(key=SigningKey.generate("EdDSA"), issuer="https://ostiary.localhost")
        strategies = {
            name: MintedSwapper(minter=minter, catalog=catalog, clock=self.clock, lifetime=600) for name in SERVICES
        }
        requests = AccessRequestBuilder(clock=self.clock, grants=NoGrants(), endpoints=NoPrediction())
        authorizer = ScriptedAuthorizer([self._judge], repeat=True)
        horizon = PolicyHorizon()
        horizon.saw("1-scripted", asked=0)
        pipeline = Pipeline(
            audit=self._audit,
            targets=self.targets(),
            concierge=ProxyConcierge(cors={}, documents={JWKS_PATH: (b"application/json", b"{}")}),
            authenticator=self._authenticator,
            blocklist=NoBlocklist(),
            requests=requests,
            reception=NoReception(),
            authorizer=authorizer,
            warden=PolicyWarden(authorizer=authorizer, requests=requests, horizon=horizon, clock=self.clock),
            recourse=NoRecourse(),
            keeper=NoKeeper(),
            swapper=CachingSwapper(Swapper(strategies), clock=self.clock),
            upstream=self.upstream(self._forwarder),
            problems=Problems(),
        )

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._scopes.append(scope)
            self._running += 1
            try:
                await pipeline(scope, receive, send)
            finally:
                self._running -= 1

        return counted

    def _judge(self, request: AccessRequest) -> Decision:
        self._judged.append(request)
        if request.target.segments[0] == "denied" or request.target.service not in SERVICES:
            return deny()(request)
        return allow(endpoint=request.method.lower(), per_call=request.target.segments[0] == "charges")(request)

    def _on_refused(self, refusal: AccessError, facts: Refused) -> None:
        self._refused.append((refusal, facts))

    async def run(self, pieces: Iterable[bytes], *, behaviour: str, pinned: bool) -> Seen:
        """One client connection: these bytes, one after the other, and then the client closes. `pinned`: it comes
        through the load balancer, and the bytes begin with its preamble."""
        for upstream in self.upstreams.values():
            upstream.behaviour = behaviour
            upstream.forget()
        for kept in (self._judged, self._scopes, self._refused, self._audit.documents, self.errors):
            kept.clear()
        protocol: StrictProtocol = self._config.http_protocol_class(  # type: ignore[operator,assignment]
            config=self._config, server_state=self._state, app_state={}, _loop=self._loop
        )
        transport = MemoryTransport(self._loop, protocol, PINNED if pinned else CLIENT)
        protocol.connection_made(transport)
        for piece in pieces:
            if transport.closed or transport.ended or not await self._wait(transport, lambda: transport.reading):
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        await self._wait(transport, lambda: False)
        closed = transport.closed or transport.ended
        transport.close()
        await self._settle()
        return Seen(
            scopes=list(self._scopes),
            judged=list(self._judged),
            refused=list(self._refused),
            documents=list(self._audit.documents),
            written=bytes(transport.written),
            closed=closed,
            received={
                name: [bytes(connection.raw) for connection in upstream.connections if connection.raw]
                for name, upstream in self.upstreams.items()
            },
        )

    async def _wait(self, transport: MemoryTransport, condition: Callable[[], bool]) -> bool:
        """Let things happen until the condition holds (true), or nothing does any more."""
        before: object = None
        quiet = 0
        for _ in range(_TURNS):
            if condition():
                return True
            now = (len(transport.written), transport.closed, transport.reading, len(self._scopes), self._running,
                   *(upstream.count for upstream in self.upstreams.values()), len(self._audit.documents))  # fmt: skip
            quiet = quiet + 1 if now == before else 0
            if quiet > (_QUIET if self._running else 3):
                return False
            before = now
            await asyncio.sleep(0)
        raise FindingError("it does not come to an end")

    async def _settle(self) -> None:
        """Until nothing of the case is left: no exchange, no connection that is open on one side only."""
        for turn in range(_TURNS):
            facts = self._forwarder.facts()
            if (
                self._running == 0
                and not self._state.connections
                and all(
                    facts[name].open == facts[name].idle == sum(connection.open for connection in upstream.connections)
                    for name, upstream in self.upstreams.items()
                )
            ):
                return
            await asyncio.sleep(0 if turn < 1000 else 0.001)
        raise FindingError(f"something is left: {self._running} exchanges, {self._forwarder.facts()}")


async def _none(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("there is no lifespan")
