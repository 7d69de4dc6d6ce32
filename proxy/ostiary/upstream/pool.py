"""The connections to one upstream: those that carry an exchange, and those kept alive for the next one."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final

from ostiary import addresses
from ostiary.errors import Overloaded, UpstreamFailed, UpstreamTimeout
from ostiary.upstream.connection import Connection
from ostiary.upstream.settings import UpstreamSettings

_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What keeps this machine from connecting, whatever the upstream does: descriptors, memory, local ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """`open` connections, of which `idle` ones wait for a request; `waiting` requests wait for a connection."""

    open: int
    idle: int
    waiting: int


class Pool:
    """At most `max_connections`, the most recently used first, so that those not needed grow old and are closed.

    Who takes or acquires a connection must release it. A waiting request is handed what it waits for directly, a
    connection or the right to make one, so that none that came later can be quicker.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        encrypted = settings.scheme == "https"
        self._context: ssl.SSLContext | None = settings.tls.context() if encrypted else None
        self._server_name = (settings.tls.server_name or settings.host) if encrypted else None
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._idle: deque[Connection] = deque()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False

    def facts(self) -> PoolFacts:
        return PoolFacts(open=len(self._connections), idle=len(self._idle), waiting=len(self._waiting))

    def take(self) -> Connection | None:
        """A kept-alive connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.quiet:
                return connection
            connection.close()
        return None

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """A connection, kept alive (it has `served` before) or new. `fresh`: none that has been idle.

        Raises `Overloaded` (503) when too many wait, or this one for too long, or this machine has nothing left to
        connect with; `UpstreamTimeout` (504) when connecting takes too long; `UpstreamFailed` (502) when it fails, TLS
        verification included.
        """
        if self._closed:
            raise Overloaded("the proxy is closing")
        if not fresh and (connection := self.take()) is not None:
            return connection
        if len(self._connections) + self._connecting < self._settings.max_connections:
            self._connecting += 1
        else:
            if self._idle:
                self._idle.popleft().close()  # makes room as soon as it has ended
            connection = await self._wait()
            if connection is not None:
                if connection.quiet:
                    return connection
                connection.close()
                return await self.acquire(fresh=fresh)
        return await self._connect()

    def release(self, connection: Connection, now: float) -> None:
        """Give it back: kept if another exchange may follow on it, closed otherwise.

        One that is always in use would never see that the upstream's name leads elsewhere by now: it has a greatest
        age.
        """
        if self._closed or not connection.reusable or now - connection.opened >= self._settings.connection_age:
            connection.close()
            return
        connection.rest(now)
        waiter = self._next_waiter()
        if waiter is None:
            self._idle.append(connection)
        else:
            waiter.set_result(connection)

    def sweep(self, now: float) -> bool:
        """Close what has been idle for too long; true while any is left."""
        oldest = now - self._settings.keep_alive
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.popleft().close()
        return bool(self._idle)

    def close(self) -> None:
        """Close the idle connections and turn away who waits; connections in use end with their exchange."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(Overloaded("the proxy is closing"))

    async def _wait(self) -> Connection | None:
        """One's turn: a connection, or None for a place that is already counted in `_connecting`."""
        if len(self._waiting) >= self._settings.max_waiting:
            raise Overloaded("too many requests wait for a connection to the upstream")
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._settings.wait_timeout):
                return await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(turn.result())  # it came too late for this one
            if isinstance(error, TimeoutError):
                raise Overloaded("no connection to the upstream became free in time") from None
            raise

    def _pass_on(self, turn: Connection | None) -> None:
        if turn is not None:
            self.release(turn, asyncio.get_running_loop().time())
            return
        self._connecting -= 1
        self._offer_place()

    def _offer_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            self._connecting += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _lost(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._offer_place()

    async def _connect(self) -> Connection:
        """Turn one place of `_connecting` into a connection, or give it to the next who waits."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                connection = await self._establish()
        except TimeoutError as error:
            self._pass_on(None)
            raise UpstreamTimeout("connecting to the upstream took too long") from error
        except (OSError, UnicodeError) as error:
            self._pass_on(None)
            if isinstance(error, OSError) and error.errno in _OURS:
                raise Overloaded(f"no connection to the upstream can be made here: {error}") from error
            raise UpstreamFailed(f"no connection to the upstream: {error}") from error
        except BaseException:
            self._pass_on(None)
            raise
        if connection.lost:
            self._pass_on(None)
        else:
            self._connecting -= 1
            self._connections.add(connection)
        return connection

    async def _establish(self) -> Connection:
        loop = asyncio.get_running_loop()
        failure: OSError | UpstreamFailed | None = None
        for ip in await self._addresses(loop):
            refused = addresses.refusal(ip)
            if refused is not None:
                failure = failure or UpstreamFailed(f"{ip} is no address of an upstream: {refused}")
                continue
            try:
                # The address that was judged is the one connected to: no second look-up in between.
                _, connection = await loop.create_connection(
                    self._make, ip, self._settings.port, ssl=self._context, server_hostname=self._server_name
                )
            except OSError as error:
                failure = error
                continue
            return connection
        raise failure or UpstreamFailed("the upstream's name has no address")

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        host = self._settings.host
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            found = await loop.getaddrinfo(host, self._settings.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    def _make(self) -> Connection:
        return Connection(
            asyncio.get_running_loop(),
            header_limit=self._settings.response_header_bytes,
            body_limit=self._settings.response_body_bytes,
            on_lost=self._lost,
        )
