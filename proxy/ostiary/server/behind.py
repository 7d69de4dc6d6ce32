"""The strict protocol behind pinned proxies: the client is whom they speak for, and not whose socket it is.

Everything further in takes the client from the scope, so `source` conditions, limits on failures, the audit and what
the upstream is told follow. A pinned proxy's own connections are counted in all only; with a preamble, each counts for
its client from then on.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from ostiary.errors import MessageMalformed
from ostiary.problem import Problems
from ostiary.server.connection import Awaited, Terms
from ostiary.server.limits import Census, ListenerLimits
from ostiary.server.outbox import Outbox
from ostiary.server.preamble import Preamble, read_preamble
from ostiary.server.protocol import StrictProtocol
from ostiary.server.proxies import PREAMBLE, Client, Proxies
from ostiary.server.refused import OnRefused


class BehindProxy(StrictProtocol):
    """What both ways have in common. `proxies` is the class's, like `terms`."""

    proxies: ClassVar[Proxies]

    _pinned = False

    def _enter(self, counted: str | None) -> None:
        self._pinned = counted is not None and self.proxies.pins(counted)
        super()._enter(None if self._pinned else counted)


class BehindPreamble(BehindProxy):
    """A connection of a pinned proxy begins with a preamble, within `header_timeout`; no other connection may.

    Over TLS it stands before the handshake, and whoever read it there says so in `told`.
    """

    told: Preamble | None = None
    _preamble: bytes | None = None  # what has come of it; None where none is awaited

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if not self._pinned or self._deaf:
            return
        if self.told is None:
            self._preamble = b""
        elif self.told.client is not None:
            self._speaks_for(self.told.client)

    def data_received(self, data: bytes) -> None:
        if self._preamble is not None:
            if self._deaf:
                return
            data = self._read_preamble(self._preamble + data)
            if not data:
                return
        super().data_received(data)

    def _read_preamble(self, data: bytes) -> bytes:
        """Take a preamble off these bytes; nothing is left of them while it is incomplete, or if it is refused."""
        try:
            preamble = read_preamble(data)
        except MessageMalformed as refusal:
            self._refuse(refusal, "connection")
            return b""
        if preamble is None:
            self._preamble = data
            self._awaited = Awaited.PREAMBLE  # by the same instant
            return b""
        self._preamble = None
        if preamble.client is None:
            self._await(Awaited.FIRST_BYTE, self._limits.header_timeout)
        else:
            self._speaks_for(preamble.client)
        return data[preamble.size :]

    def _speaks_for(self, client: Client) -> None:
        self.client = client
        self._peer = client[0]
        self._terms.census.leave(self._counted)
        self._enter(client[0])


class BehindHeader(BehindProxy):
    """A request of a pinned proxy says in a header for whom it is; one connection may carry those of many clients."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._socket_client = self.client

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_for(self._socket_client)  # until this one's headers say

    def on_headers_complete(self) -> None:
        if self._pinned:
            self._is_for(self.proxies.client(self.headers))
        super().on_headers_complete()

    def _is_for(self, client: Client | None) -> None:
        self.client = client
        self._peer = None if client is None else client[0]


def strict_protocol(
    limits: ListenerLimits,
    *,
    problems: Problems,
    on_refused: OnRefused,
    proxies: Proxies | None = None,
) -> type[StrictProtocol]:
    """The protocol class to give to `uvicorn.Config(http=...)`. Connections are counted for each class made.

    Without `proxies` nobody is believed: a client is whose socket it is.
    """
    census = Census(limit=limits.connections, per_peer=limits.connections_per_peer)
    terms = Terms(limits=limits, problems=problems, on_refused=on_refused, census=census, outbox=Outbox())
    if proxies is None:
        return type("ConfiguredStrictProtocol", (StrictProtocol,), {"terms": terms})
    base = BehindPreamble if proxies.header == PREAMBLE else BehindHeader
    return type("ConfiguredStrictProtocol", (base,), {"terms": terms, "proxies": proxies})
