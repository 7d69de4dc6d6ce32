"""Services that the active bundle only observes: looked at, and said in the log for as long as there are some.

What is observed is decided by the policy alone, by the time of each request. Nothing here has a part in that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from typing import Final, Protocol

from ostiary.clock import Clock, written_instant
from ostiary.decision.query import Answer
from ostiary.errors import PolicyUnavailable
from ostiary.models import Json
from ostiary.opa.background import Background

_log = logging.getLogger("ostiary.opa")

_AGAIN: Final = 600.0
"""Seconds after which it is said again."""
_PAUSE: Final = 1.0
"""Seconds between two looks at least, unless something is new."""


class ObservationSource(Protocol):
    async def observed(self) -> Answer:
        """`{service: instant}`, undefined where there are none; raises `PolicyUnavailable`."""


class ObservationWatch(Background):
    """Looks when it is nudged, when one ends, and every `interval` seconds, while it is open (`async with`)."""

    _name = "ostiary-observation-watch"

    def __init__(self, *, source: ObservationSource, clock: Clock, interval: float = _AGAIN) -> None:
        self._source = source
        self._clock = clock
        self._interval = interval
        self._said: Mapping[str, int] = {}
        self._said_at = 0.0
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Another bundle is active: look now."""
        self._nudged.set()

    async def look(self) -> Mapping[str, int] | None:
        """What is observed now, by service the Unix second at which that ends; None if OPA is not there."""
        try:
            answer = await self._source.observed()
        except PolicyUnavailable:
            return None
        now = self._clock.now()
        return {service: until for service, until in sorted(_ends(answer.result).items()) if until > now}

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            found = await self.look()
            if found is not None:
                self._say(found)
            ends = min(self._said.values(), default=math.inf) - self._clock.now()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(self._interval, ends), _PAUSE)):
                    await self._nudged.wait()

    def _say(self, found: Mapping[str, int]) -> None:
        now = self._clock.monotonic()
        for service in self._said.keys() - found.keys():
            _log.info("%s is not observed any more: what the policy refuses is refused", service)
        again = now - self._said_at >= self._interval
        for service, until in found.items():
            if again or self._said.get(service) != until:
                told = written_instant(until)
                _log.warning("%s is only observed until %s: its callers are let through everywhere", service, told)
        if again or found != self._said:
            self._said, self._said_at = found, now


def _ends(document: Json) -> dict[str, int]:
    found = document.items() if isinstance(document, dict) else ()
    return {service: until for service, until in found if isinstance(until, int)}
