"""What waits to be told, as statements of the store (`statements` says what an operation is).

A row is written for each webhook that is known, in the transaction in which it becomes known that a step is in the
audit; so nothing is told that the audit does not have, and nothing that it has is forgotten by a death in between. It
is removed once it was taken or given up. A webhook is known while some proxy has it: one that nobody asked for in
`FORGOTTEN` is dropped with what waits for it.

Whoever sends holds the webhook, for a while that is longer than an attempt takes. Of one grant, or one block, the
earliest that waits goes first; a later one waits until that was taken or given up. (Both have their id in the column
that is called `grant_id`, from when there was nothing to tell of blocks.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from ostiary.grants import block_statements
from ostiary.grants.blocks import Block
from ostiary.grants.records import Record
from ostiary.grants.statements import Operation, get
from ostiary.grants.store import Told

FORGOTTEN: Final = 7 * 86_400
"""Seconds."""


class Delivery(NamedTuple):
    """One thing that one webhook is to be told. `tries` were made before, `now` is the store's time."""

    webhook: str
    record: Record | Block
    step: int
    tries: int
    now: float


class Waiting(NamedTuple):
    """How many wait, and whether the time of one has come."""

    number: int
    due: bool


class Outbox(Protocol):
    """Every method raises `GrantsUnavailable`. `holder` is a name that no other process has."""

    async def know(self, webhooks: Sequence[str]) -> None:
        """From now on there is something to tell these."""

    async def waiting(self, webhook: str) -> Waiting: ...

    async def take(self, webhook: str, holder: str, seconds: float) -> Delivery | None:
        """What is to be told next. The webhook is the holder's for that long. None if nothing is due, or if it is
        another's."""

    async def told(self, delivery: Delivery) -> None:
        """It was taken, or is given up."""

    async def postpone(self, delivery: Delivery, seconds: float, *, hold: float) -> None:
        """Not before so many seconds. The webhook is still its holder's for `hold` seconds."""

    async def release(self, holder: str) -> None:
        """Others may go on at once."""


def know(webhooks: Sequence[str], *, told: Told) -> Operation[None]:
    now = yield from _now(told)
    for webhook in webhooks:
        yield (
            """INSERT INTO grant_webhooks (webhook, seen, holder, held_until) VALUES (?, ?, '', 0)
            ON CONFLICT (webhook) DO UPDATE SET seen = excluded.seen""",
            (webhook, now),
        )
    old = "SELECT webhook FROM grant_webhooks WHERE seen < ?"
    yield f"DELETE FROM grant_deliveries WHERE webhook IN ({old})", (now - FORGOTTEN,)
    yield "DELETE FROM grant_webhooks WHERE seen < ?", (now - FORGOTTEN,)


def waiting(webhook: str, *, told: Told) -> Operation[Waiting]:
    now = yield from _now(told)
    rows = yield "SELECT count(*), min(due) FROM grant_deliveries WHERE webhook = ?", (webhook,)
    count, due = rows[0]
    return Waiting(count, due is not None and due <= now)


def take(webhook: str, holder: str, seconds: float, *, told: Told) -> Operation[Delivery | None]:
    now = yield from _now(told)
    rows = yield "SELECT holder, held_until FROM grant_webhooks WHERE webhook = ? {lock}", (webhook,)
    if not rows or (rows[0][0] != holder and rows[0][1] > now):
        return None
    rows = yield (
        """SELECT d.grant_id, d.step, d.tries FROM grant_deliveries d
        WHERE d.webhook = ? AND d.due <= ? AND NOT EXISTS (SELECT 1 FROM grant_deliveries e
        WHERE e.webhook = d.webhook AND e.grant_id = d.grant_id AND e.step < d.step)
        ORDER BY d.due, d.change, d.step LIMIT 1""",
        (webhook, now),
    )
    if not rows:
        return None
    yield (
        "UPDATE grant_webhooks SET holder = ?, held_until = ? WHERE webhook = ?",
        (holder, now + seconds, webhook),
    )
    id, step, tries = rows[0]  # noqa: A001
    return Delivery(webhook, (yield from _record(id)), step, tries, now)


def _record(id: str) -> Operation[Record | Block]:
    if (yield "SELECT 1 FROM block_records WHERE id = ?", (id,)):
        return (yield from block_statements.get(id))
    return (yield from get(id))


def remove(delivery: Delivery) -> Operation[None]:
    yield (
        "DELETE FROM grant_deliveries WHERE webhook = ? AND grant_id = ? AND step = ?",
        (delivery.webhook, delivery.record.id, delivery.step),
    )


def postpone(delivery: Delivery, seconds: float, *, hold: float, told: Told) -> Operation[None]:
    now = yield from _now(told)
    yield "UPDATE grant_webhooks SET held_until = ? WHERE webhook = ?", (now + hold, delivery.webhook)
    yield (
        "UPDATE grant_deliveries SET tries = ?, due = ? WHERE webhook = ? AND grant_id = ? AND step = ?",
        (delivery.tries + 1, now + seconds, delivery.webhook, delivery.record.id, delivery.step),
    )


def release(holder: str) -> Operation[None]:
    yield "UPDATE grant_webhooks SET held_until = 0 WHERE holder = ?", (holder,)


def _now(told: Told) -> Operation[float]:
    rows = yield "SELECT {now}", ()
    return told(rows[0][0])
