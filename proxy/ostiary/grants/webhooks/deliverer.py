"""Brings what is in the outbox to those it is for, beside everything else: at least once, and of one grant or block in
order.

There is one loop for each webhook, so that one that hangs delays no other; it tells one thing at a time. What is not
taken is tried again after a pause that doubles, with some chance in it, until it is too old; meanwhile it goes on with
what is due of other grants, after a pause of its own, or after as long as the receiver says (`Retry-After`). A receiver
that says it is gone (410) is asked once an hour.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ostiary.errors import GrantsUnavailable
from ostiary.grants.blocks import Block
from ostiary.grants.outbox import Delivery, Outbox
from ostiary.grants.webhooks.block_notices import block_notice
from ostiary.grants.webhooks.notices import Notice, notice_of
from ostiary.grants.webhooks.sender import DEADLINE, Outcome, Sender, Webhook
from ostiary.models import Json

_log = logging.getLogger("ostiary.grants")

INTERVAL: Final = 1.0
"""Seconds between two looks for what waits."""
_KNOWN: Final = 3600.0
"""Seconds after which the store is told again that a webhook is there."""
_LEASE: Final = 3 * DEADLINE
_FIRST: Final = 5.0
_LONGEST: Final = 3600.0
_PAUSE: Final = 60.0
"""Seconds: the longest that one failure after the other keeps back what is due of other grants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookFacts:
    """`delivered`, `failed` attempts and what was `given_up` are those of this process; what is `waiting`, the
    store's. `failure` is why the last attempt failed, None if it did not."""

    name: str
    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    waiting: int = 0
    failure: str | None = None

    def document(self) -> dict[str, Json]:
        return {
            "state": "delivering" if self.failure is None else "failing",
            "failure": self.failure,
            "waiting": self.waiting,
            "given_up": self.given_up,
        }


class Deliverer:
    """Runs from `start` to `close`. `public_url` is the origin of the proxy's own host; times are in seconds."""

    def __init__(
        self,
        outbox: Outbox,
        webhooks: Sequence[Webhook],
        *,
        sender: Sender,
        public_url: str,
        interval: float = INTERVAL,
        lease: float = _LEASE,
        first_pause: float = _FIRST,
    ) -> None:
        holder = secrets.token_hex(8)
        self._outbox = outbox
        self._holder = holder
        self._loops = [
            _Loop(
                outbox,
                webhook,
                sender=sender,
                holder=holder,
                public_url=public_url,
                interval=interval,
                lease=lease,
                first_pause=first_pause,
            )
            for webhook in webhooks
        ]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def facts(self) -> tuple[WebhookFacts, ...]:
        return tuple(loop.facts for loop in self._loops)

    async def start(self) -> None:
        """From when this returns there is nothing that would not be told, unless the store cannot be reached: then
        from when it can."""
        known = await self._know()
        self._tasks.append(asyncio.create_task(self._keep_known(known), name="webhooks-known"))
        self._tasks += [asyncio.create_task(loop.run(), name=f"webhook-{loop.name}") for loop in self._loops]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        try:
            await self._outbox.release(self._holder)
        except GrantsUnavailable as error:
            _log.debug("others wait for the webhooks of this process: %s", error)

    async def _keep_known(self, known: bool) -> None:
        while True:
            await asyncio.sleep(_KNOWN if known else INTERVAL)
            known = await self._know()

    async def _know(self) -> bool:
        try:
            await self._outbox.know([loop.name for loop in self._loops])
        except Exception as error:  # noqa: BLE001 - a webhook that nobody asks for is forgotten: it has to be asked again
            _log.warning("nobody can be told of access: %s", error)
            return False
        return True


class _Loop:
    """One webhook's."""

    def __init__(
        self,
        outbox: Outbox,
        webhook: Webhook,
        *,
        sender: Sender,
        holder: str,
        public_url: str,
        interval: float,
        lease: float,
        first_pause: float,
    ) -> None:
        self._outbox = outbox
        self._webhook = webhook
        self._sender = sender
        self._holder = holder
        self._public_url = public_url
        self._interval = interval
        self._lease = lease
        self._first_pause = first_pause
        self._failures = 0
        self.name = webhook.name
        self.facts = WebhookFacts(name=webhook.name)

    async def run(self) -> None:
        while True:
            try:
                pause = await self._next()
            except GrantsUnavailable as error:
                _log.debug("the webhook %s waits for the store: %s", self.name, error)
                pause = self._interval
            except Exception as error:  # noqa: BLE001 - who is told nothing any more has to be seen, and to be told again
                pause = self._unreadable(error)
            await asyncio.sleep(pause)

    async def _next(self) -> float:
        """Tell one thing, if there is one. For how long to wait then."""
        found = await self._outbox.waiting(self.name)
        self.facts = replace(self.facts, waiting=found.number)
        if not found.due:
            return self._interval
        delivery = await self._outbox.take(self.name, self._holder, self._lease)
        if delivery is None:
            return self._interval
        notice = self._notice(delivery)
        if not self._webhook.wants(notice):
            await self._outbox.told(delivery)
            return 0.0
        outcome = await self._sender.send(self._webhook, notice)
        if outcome.failure is None:
            self._succeeded()
            await self._outbox.told(delivery)
            return 0.0
        return await self._failed(delivery, notice, outcome, outcome.failure)

    def _notice(self, delivery: Delivery) -> Notice:
        if isinstance(delivery.record, Block):
            return block_notice(delivery.record, delivery.step)
        return notice_of(delivery.record, delivery.step, public_url=self._public_url)

    def _unreadable(self, error: Exception) -> float:
        """What a later version wrote waits for a proxy of that; what was not foreseen, for better luck."""
        failure = f"cannot be told what is in the store: {type(error).__name__}"
        if self.facts.failure != failure:
            _log.error("the webhook %s %s", self.name, failure)
        self.facts = replace(self.facts, failure=failure)
        return _PAUSE

    def _succeeded(self) -> None:
        if self.facts.failure is not None:
            _log.warning("the webhook %s takes what it is told again", self.name)
        self._failures = 0
        self.facts = replace(self.facts, delivered=self.facts.delivered + 1, failure=None)

    async def _failed(self, delivery: Delivery, notice: Notice, outcome: Outcome, failure: str) -> float:
        if self.facts.failure != failure:
            _log.warning("the webhook %s is not told: it %s", self.name, failure)
        self._failures += 1
        self.facts = replace(self.facts, failed=self.facts.failed + 1, failure=failure)
        if outcome.wait is None:
            pause = _doubled(self._interval, self._failures - 1, _PAUSE)
        else:
            pause = min(outcome.wait, _LONGEST)
        if delivery.now - notice.time >= self._webhook.give_up_after:
            _log.error("the webhook %s is never told of %s (%s): it %s", self.name, notice.id, notice.event, failure)
            self.facts = replace(self.facts, given_up=self.facts.given_up + 1)
            await self._outbox.told(delivery)
        else:
            later = max(pause, _doubled(self._first_pause, delivery.tries, _LONGEST))
            await self._outbox.postpone(delivery, later, hold=pause + self._lease)
        return pause


def _doubled(first: float, times: int, longest: float) -> float:
    """Half of it by chance, so that what failed together is not tried again together."""
    pause = min(first * 2.0 ** min(times, 30), longest)
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
