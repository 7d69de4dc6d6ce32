"""Carrying a request to its upstream and the response back, streamed in both directions.

Who waits for whom: the client is read only when the upstream takes more, and the upstream only when the client does.
Requests without a body, nearly all of them, need no task besides the one that they arrive in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from ostiary.errors import (
    AccessError,
    ClientDisconnected,
    InternalError,
    Overloaded,
    UpstreamFailed,
    UpstreamTimeout,
)
from ostiary.exchange import Exchange
from ostiary.interfaces import Renew
from ostiary.models import Credential, Identity, Owner, Target
from ostiary.upstream.body import RequestBody
from ostiary.upstream.connection import Connection
from ostiary.upstream.fairness import Turns
from ostiary.upstream.parser import ClosedBeforeResponse
from ostiary.upstream.pool import Pool, PoolFacts
from ostiary.upstream.request import OutboundRequest, RequestWriter
from ostiary.upstream.response import ResponseHead, ResponseReader
from ostiary.upstream.settings import UpstreamSettings
from ostiary.upstream.watch import Watch, Watched

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods: sending one twice asks for nothing that once would not (RFC 9110 section 9.2.2)."""

_CLOSE: Final = (b"connection", b"close")


class _Origin:
    """One upstream: its pool, whose turn it is, and what renders its requests and judges its responses."""

    __slots__ = ("pool", "reader", "settings", "turns", "writer")

    def __init__(self, settings: UpstreamSettings, internal: frozenset[str]) -> None:
        self.settings = settings
        self.pool = Pool(settings)
        self.turns = Turns(settings)
        self.writer = RequestWriter(settings)
        self.reader = ResponseReader(settings, internal=internal)


class Forwarder:
    """The `Upstream` of the request path, one per worker. `upstreams` maps services to where they are.

    Raises `ConfigurationError` where a TLS file cannot be used. `start` and `close` belong to the worker's event loop;
    `close` lets exchanges in flight end for `drain_timeout` seconds, then aborts them.
    """

    def __init__(self, upstreams: Mapping[str, UpstreamSettings], *, drain_timeout: float = 10.0) -> None:
        internal = frozenset(settings.authority for settings in upstreams.values())
        self._origins = {service: _Origin(settings, internal) for service, settings in upstreams.items()}
        self._drain_timeout = drain_timeout
        self._watch = Watch(sweep=self._sweep)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        for origin in self._origins.values():
            origin.pool.close()
        try:
            async with asyncio.timeout(self._drain_timeout):
                await self._watch.empty()
        except TimeoutError:
            self._watch.abort_all(lambda: UpstreamFailed("the proxy is closing"))
            await self._watch.empty()
        self._watch.close()

    def facts(self) -> dict[str, PoolFacts]:
        """The state of every service's connections, for health and metrics."""
        return {service: origin.pool.facts() for service, origin in self._origins.items()}

    def forward(
        self, exchange: Exchange, target: Target, identity: Identity, credential: Credential, renew: Renew
    ) -> Coroutine[Any, Any, None]:
        """Forward the exchange and relay the answer.

        `renew` gives a fresh credential, recorded like the first: it is asked for when a request must be sent again and
        its credential was for one call only.

        Raises `UpstreamFailed` (502) and `UpstreamTimeout` (504), `Overloaded` (503), `TooManyRequests` (429),
        `BodyTooLarge` (413), `RequestTimeout` (408), `MalformedRequest` (400) and `ClientDisconnected`. Raised after
        the response started (`exchange.response_started`), it says why the response remains incomplete.
        """
        origin = self._origins.get(target.service)
        if origin is None:
            raise UpstreamFailed(f"no upstream is configured for the service {target.service!r}")
        loop = self._loop
        if loop is None:
            raise Overloaded("the proxy is closing")
        return _Call(exchange, target, identity.owner, credential, renew, origin, loop).run(self._watch)

    def _sweep(self, now: float) -> bool:
        more = False
        for origin in self._origins.values():
            more = origin.pool.sweep(now) or more
        return more


class _Call(Watched):
    """One exchange on its way."""

    __slots__ = (
        "_body",
        "_connection",
        "_credential",
        "_entered",
        "_loop",
        "_origin",
        "_owner",
        "_renew",
        "_target",
        "_upload",
    )

    def __init__(
        self,
        exchange: Exchange,
        target: Target,
        owner: Owner,
        credential: Credential,
        renew: Renew,
        origin: _Origin,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(exchange, loop, total=origin.settings.total_timeout)
        self._target = target
        self._owner = owner
        self._credential = credential
        self._renew = renew
        self._origin = origin
        self._loop = loop
        self._entered = False
        self._body: RequestBody | None = None
        self._upload: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    async def run(self, watch: Watch) -> None:
        watch.add(self, self._loop)
        try:
            outbound = self._origin.writer.write(self.exchange, self._target, self._credential)
            # From here on, and while it waits: who looks whether the client has gone would take its body for that.
            self.uploading = outbound.framing is not None
            if not self._origin.turns.enter(self._owner):
                await self._origin.turns.wait(self._owner)
            self._entered = True
            opening: tuple[bytes, ...] = (outbound.head,)
            if outbound.framing is not None:
                # Wanting the body is what makes the listener send 100 Continue. What has come with the head goes
                # with it.
                self._body = RequestBody(self.exchange, outbound.framing, self._origin.settings)
                opening += await self._body.next()
            pool = self._origin.pool
            connection = pool.take() or await pool.acquire()
            self._send(connection, opening)
            try:
                head = await connection.head()
            except ClosedBeforeResponse:
                # Kept alive, and gone as it was used: the upstream read nothing of this request, or shows no sign of
                # it.
                if connection.served == 1 or self._body is not None or self.exchange.method not in _REPEATABLE:
                    raise
                connection = await self._send_again(outbound)
                head = await connection.head()
            await self._relay(connection, head)
        except asyncio.CancelledError:
            refusal = self.settle()
            if refusal is None:
                raise
            raise refusal from None
        finally:
            watch.discard(self)
            self._end()

    def _end(self) -> None:
        """Whatever happened: nothing of this exchange goes on."""
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
        self._release()  # a connection on which the upstream is owed the rest of a body is closed by that
        if self._entered:
            self._origin.turns.leave(self._owner)

    def _send(self, connection: Connection, opening: tuple[bytes, ...]) -> None:
        self._connection = connection
        connection.begin(to_head=self.exchange.method == "HEAD")
        connection.write(*opening)
        if self._body is not None and not self.exchange.body_complete:
            self._upload = self._loop.create_task(self._send_body(self._body, connection))
        else:
            self._sent(connection)

    async def _send_again(self, outbound: OutboundRequest) -> Connection:
        """Send it on another connection, once, and never a credential twice that is for one call."""
        self._release()
        if self._credential.per_call:
            self._credential = await self._renew()
            outbound = self._origin.writer.write(self.exchange, self._target, self._credential)
        connection = await self._origin.pool.acquire(fresh=True)
        self._send(connection, (outbound.head,))
        return connection

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._origin.pool.release(connection, self._loop.time())

    async def _send_body(self, body: RequestBody, connection: Connection) -> None:
        try:
            await body.pump(connection)
        except AccessError as refusal:
            self.abort(refusal)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task: what is not told here is told nowhere
            self.abort(InternalError(type(error).__name__))
        else:
            self._sent(connection)

    def _sent(self, connection: Connection) -> None:
        """The request is complete: now the upstream is awaited."""
        connection.finish()
        self.uploading = False
        if self.exchange.response_started:
            self.quiet_since = self._loop.time()
        else:
            self.expect(self._origin.settings.first_byte_timeout, _no_first_byte, self._loop.time())

    async def _relay(self, connection: Connection, head: ResponseHead) -> None:
        exchange, settings, loop = self.exchange, self._origin.settings, self._loop
        headers = self._origin.reader.relayed(head, self._credential, exchange.decorations)
        if self._upload is not None and not self._upload.done():
            # An early response. The client cannot count on the rest of its body being read.
            headers.append(_CLOSE)
            if head.status >= 400 or connection.ending:
                self._stop_sending()
        self.expect(settings.client_idle_timeout, _client_quiet, loop.time())
        if connection.complete:  # it came with its head, as most do
            await exchange.send_response(head.status, headers, connection.take())
            return
        await exchange.start_response(head.status, headers)
        more = True
        while more:
            self.expect(settings.idle_timeout, _upstream_quiet, loop.time())
            more = await connection.arrival()
            self.expect(settings.client_idle_timeout, _client_quiet, loop.time())
            await exchange.send_body(connection.take(), more=more)

    def _stop_sending(self) -> None:
        if self._upload is not None:
            self._upload.cancel()
        self.uploading = False


def _no_first_byte() -> AccessError:
    return UpstreamTimeout("the upstream did not answer in time")


def _upstream_quiet() -> AccessError:
    return UpstreamTimeout("the upstream stopped sending its response")


def _client_quiet() -> AccessError:
    return ClientDisconnected("the client stopped reading the response")
