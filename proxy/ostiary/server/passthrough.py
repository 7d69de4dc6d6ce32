"""TLS behind a load balancer that passes it through: its preamble stands before the handshake, in the clear.

What `behind` does with preambles is done here too, and in the same order: a pinned proxy's connection is counted in
all, heard by a deadline, and counted for its client from then on. Only a refusal has no answer, because what is on the
connection next is to be a handshake: it is cut, and recorded.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ostiary.errors import MessageMalformed, RequestTimeout
from ostiary.server.behind import BehindPreamble
from ostiary.server.deadline import Deadline
from ostiary.server.preamble import Preamble, read_preamble
from ostiary.server.protocol import StrictProtocol
from ostiary.server.proxies import Proxies
from ostiary.server.tls import ContextSource, TlsFront


class PreambleFront(TlsFront):
    """A connection of a pinned proxy begins with a preamble, within `header_timeout`; of any other, with a handshake.

    A proxy that speaks for itself (LOCAL) may leave it at that: so it looks whether somebody listens, every few
    seconds, and a handshake that did not succeed in the audit each time would say something else.
    """

    proxies: ClassVar[Proxies]

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reading = Deadline(self._loop, self._overdue)
        self._pinned = False
        self._told: Preamble | None = None

    def _enter(self, counted: str | None) -> None:
        self._pinned = counted is not None and self.proxies.pins(counted)
        super()._enter(None if self._pinned else counted)

    def _begin(self) -> None:
        if self._pinned and self._told is None and not self._settled:
            self._reading.set(self._terms.limits.header_timeout)
        else:
            super()._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._greeting is None and not self._settled:
            self._hear(b"".join(self._early))

    def _hear(self, data: bytes) -> None:
        """Go on with all that has come before the handshake: a preamble, or a part of it, and what follows."""
        if self._told is None:
            try:
                preamble = read_preamble(data)
            except MessageMalformed as refusal:
                self._fail(refusal)
                return
            if preamble is None:
                self._early = [data]
                return
            self._told = preamble
            data = data[preamble.size :]
            self._early = [data]
            if preamble.client is None:
                self._reading.set(self._terms.limits.header_timeout)
            else:
                self._peer = preamble.client[0]
                self._terms.census.leave(self._counted)
                self._enter(self._peer)
        if data or self._told.client is not None:
            self._reading.clear()
            self._begin()

    def _overdue(self) -> None:
        cut_short = self._told is None and self._early
        self._fail(RequestTimeout("a PROXY protocol preamble") if cut_short else None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._greeting is None:
            self._fail(None)  # nobody has begun a handshake
        super().connection_lost(exc)

    def _settle(self) -> None:
        self._reading.stop()
        super()._settle()

    def _brief(self, inner: StrictProtocol) -> None:
        if isinstance(inner, BehindPreamble):
            inner.told = self._told


def tls_protocol(strict: type[StrictProtocol], *, contexts: ContextSource) -> type[TlsFront]:
    """The protocol class to give to `uvicorn.Config(http=...)` for TLS in front of one made by `strict_protocol`."""
    if issubclass(strict, BehindPreamble):
        told = {"strict": strict, "contexts": contexts, "proxies": strict.proxies}
        return type("ConfiguredPreambleFront", (PreambleFront,), told)
    return type("ConfiguredTlsFront", (TlsFront,), {"strict": strict, "contexts": contexts})
