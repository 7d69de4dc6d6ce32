"""What the listener puts up with."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ostiary.addresses import owner


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """Every limit of one listener process. Sizes in bytes, times in seconds, all above zero (else `ValueError`) but
    `drain_grace`, which may be zero.

    `header_timeout` holds twice: for the first byte of a new connection, and for a header section once it has begun.
    A request body must bring `body_rate` bytes a second, averaged over each `body_timeout`; the clock stands still
    while the application holds the client back. `write_timeout` is how long a client may take next to nothing of a
    response that waits for it. `linger` is how long a connection that is given up is still read, so that the answer is
    not lost to a reset (RFC 9112 section 9.6). After `pipelined` requests that wait behind one another the connection
    closes; a client repeats what was not answered (RFC 9112 section 9.3.2). `connections_per_peer` counts those of an
    IPv4 address, or of a /64 of IPv6. When the listener stops, an idle connection is left open for `drain_grace`: a
    client that sends another request just then gets its answer, and is told in it that no other follows.
    """

    header_bytes: int
    header_count: int
    target_bytes: int
    body_bytes: int
    header_timeout: float
    keep_alive_timeout: float
    body_timeout: float
    body_rate: int
    write_timeout: float
    linger: float = 1.0
    connections: int
    connections_per_peer: int
    pipelined: int
    drain_grace: float

    def __post_init__(self) -> None:
        if self.drain_grace < 0:
            raise ValueError(f"the limit drain_grace must not be below zero: {self.drain_grace!r}")
        for limit in fields(self):
            if limit.name != "drain_grace" and not getattr(self, limit.name) > 0:
                raise ValueError(f"the limit {limit.name} must be above zero, not {getattr(self, limit.name)!r}")


class Census:
    """How many connections there are, in all and from each peer. A peer without an address counts in all only."""

    __slots__ = ("_limit", "_peers", "_per_peer", "_total")

    def __init__(self, *, limit: int, per_peer: int) -> None:
        self._limit = limit
        self._per_peer = per_peer
        self._total = 0
        self._peers: dict[str, int] = {}

    def enter(self, peer: str | None) -> bool:
        """Count a connection in, and say whether there is room for it. It has to `leave` in either case."""
        self._total += 1
        if peer is None:
            return self._total <= self._limit
        counted = owner(peer)
        mine = self._peers[counted] = self._peers.get(counted, 0) + 1
        return self._total <= self._limit and mine <= self._per_peer

    def leave(self, peer: str | None) -> None:
        self._total -= 1
        if peer is None:
            return
        counted = owner(peer)
        left = self._peers[counted] - 1
        if left:
            self._peers[counted] = left
        else:
            del self._peers[counted]
