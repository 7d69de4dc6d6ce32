"""Every limit, each with a name and a safe default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ostiary.policy.model import Strict
from ostiary.policy.values import Duration, Size


class Limits(Strict):
    """What a request, a connection and a worker may use. Beyond a limit a request is refused, never queued."""

    header_bytes: Annotated[int, Size(least=1024, most=256 * 1024)] = 32 * 1024
    """A request's header section; more is 431."""
    header_count: Annotated[int, Field(ge=8, le=1000)] = 100
    """A request's header fields; more is 431."""
    target_bytes: Annotated[int, Size(least=256, most=64 * 1024)] = 8 * 1024
    """A request's target, path and query; more is 414."""
    body_bytes: Annotated[int, Size(least=0, most=1024**4)] = 4 * 1024**3
    """A request's body; more is 413."""
    header_timeout: Annotated[float, Duration(least=0.1, most=120)] = 10.0
    """From the first byte of a request (or the opening of a connection) to the end of its headers. A TLS handshake has
    the same time, before that."""
    keep_alive_timeout: Annotated[float, Duration(least=0.1, most=3600)] = 30.0
    """How long a connection may be idle between requests."""
    body_idle_timeout: Annotated[float, Duration(least=0.1, most=3600)] = 30.0
    """How long a request's body may pause."""
    body_rate: Annotated[int, Field(ge=1, le=1024**3)] = 256
    """Bytes a second that a request's body must bring, averaged over `body_idle_timeout`; less is 408."""
    write_timeout: Annotated[float, Duration(least=0.1, most=3600)] = 30.0
    """How long a client may take next to nothing of a response that waits for it."""
    pipelined: Annotated[int, Field(ge=1, le=1000)] = 32
    """Requests that may wait behind one another on a connection; with more it closes after they are answered."""
    connections_per_peer: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Open connections of one worker from one address, or one /64 of IPv6; more are closed. Those of `listen.proxies`
    are not counted as theirs: with `proxy-v2` each counts for its client, else none does."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Open connections of one worker; more are closed."""
    connect_timeout: Annotated[float, Duration(least=0.01, most=120)] = 3.0
    """To open a connection to an upstream, TLS included."""
    first_byte_timeout: Annotated[float, Duration(least=0.01, most=3600)] = 60.0
    """From the end of a request to the first byte of the upstream's response; later is 504."""
    idle_timeout: Annotated[float, Duration(least=0.01, most=3600)] = 60.0
    """How long a response may pause."""
    total_timeout: Annotated[float, Duration(least=0.1, most=7 * 86400)] = 3600.0
    """From a request's first byte to its response's last, streams and waiting behind other requests included; later is
    504."""
    upstream_connections: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Open connections of one worker to one service; beyond them a request is 503. One identity has at most half of
    them, and at least one; what it asks beyond that waits for a second, and is 429 then."""
    upstream_keep_alive: Annotated[float, Duration(least=0, most=3600)] = 4.0
    """How long an idle connection to an upstream is kept. It has to be less than what the service itself waits before
    it closes one (uvicorn and Node: 5 seconds; gunicorn: 2, so write `1s` there): a POST that meets a connection that
    is just being closed is 502, because nobody knows whether it was carried out."""
    upstream_connection_age: Annotated[float, Duration(least=0.1, most=7 * 86400)] = 300.0
    """How long a connection to an upstream is used at all, so that a service whose name leads to another address is
    found there."""
    response_header_bytes: Annotated[int, Size(least=1024, most=1024**2)] = 64 * 1024
    """A response's header section; more is 502."""
    response_body_bytes: Annotated[int, Size(least=0, most=1024**5)] | None = None
    """A response's body; a longer one is cut off, its connection aborted. No limit if null."""
    decisions_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Decisions that one worker waits for at a time, half of them for one identity; more are 429."""
    decisions_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 5000
    """Decisions that one worker asks for one identity, on average; twice as many at once. More are 429."""
    cached_decisions: Annotated[int, Field(ge=0, le=10_000_000)] = 100_000
    """Decisions that allow which one worker keeps, each for 5 seconds at most. 0 asks for every request."""
    cached_denials: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Decisions that deny which one worker keeps, apart from those that allow."""
    cached_per_identity: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Kept decisions that allow one identity something, in one worker."""
    drain_timeout: Annotated[float, Duration(least=0, most=3600)] = 30.0
    """How long requests in progress may take to end when the proxy stops."""
    drain_grace: Annotated[float, Duration(least=0, most=3600)] = 2.0
    """How long an idle connection is left open then for one more request, whose answer says that it is the last. It
    spares clients a connection that is closed as they use it."""
