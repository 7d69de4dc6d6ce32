"""Responses that are written together.

Each write wakes the client at its other end. One after the other, with work on other requests in between, they wake it
each time anew; together they wake it once, and the way through the kernel stays warm. At 32 connections that is 4 % of
the CPU time of a request, measured in pairs. (The requests to the upstream, held back in the same way, gained nothing.)
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

_log = logging.getLogger("ostiary.server")


class Sender(Protocol):
    def send_held(self) -> None:
        """Write what is held back, if it still is and there still is somebody to write it to."""


class Outbox:
    """Those who hold something back until the event loop has run what was ready: well under a millisecond."""

    __slots__ = ("_senders",)

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def add(self, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        if not self._senders:
            loop.call_soon(self._send)
        self._senders.append(sender)

    def _send(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            try:
                sender.send_held()
            except Exception:  # noqa: BLE001 - one connection's failure is not the others'
                _log.exception("a response that was held back could not be written")
