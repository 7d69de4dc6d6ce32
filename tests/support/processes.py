"""What tests of grants do in processes of their own."""

from __future__ import annotations

import asyncio
import sys
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from ostiary.grants.base import DatabaseStore
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.refusals import GrantRefused
from ostiary.grants.sqlite import SqliteStore


def store_at(address: str) -> DatabaseStore:
    if address.startswith("postgresql:"):
        return PostgresStore(address, deadline=20, connections=10)
    return SqliteStore(Path(address), deadline=20)


def consumer(address: str, id: str, parallel: int, begin: Event, answers: Queue[list[str]]) -> None:
    """Take a use so many times at once, when told to begin."""
    answers.put(asyncio.run(_consume(address, id, parallel, begin, answers)))


async def _consume(address: str, id: str, parallel: int, begin: Event, answers: Queue[list[str]]) -> list[str]:
    store = store_at(address)
    await store.start()
    answers.put(["ready"])
    await asyncio.to_thread(begin.wait)
    try:
        return await asyncio.gather(*(_use(store, id) for _ in range(parallel)))
    finally:
        await store.close()


async def _use(store: DatabaseStore, id: str) -> str:
    try:
        await store.use(id)
    except GrantRefused as refusal:
        return refusal.reason
    return "used"


def writer(address: str, prefix: str) -> None:
    """Ask and cancel for ever, and print each change once it is acknowledged."""
    asyncio.run(_write(address, prefix))


async def _write(address: str, prefix: str) -> None:
    from ostiary.grants import life
    from support.grants import ANN, draft

    store = store_at(address)
    await store.start()
    number = 0
    while True:
        number += 1
        for state in ("pending", "cancelled"):
            if state == "pending":
                await store.ask(draft(f"{prefix}-{number}", reason="x"))
            else:
                await store.change(f"{prefix}-{number}", life.cancel(ANN))
            sys.stdout.write(f"{prefix}-{number} {state}\n")
            sys.stdout.flush()


def teller(address: str, url: str, secret: str) -> None:
    """Tell a webhook what waits for it, for ever."""
    asyncio.run(_tell(address, url, secret))


async def _tell(address: str, url: str, secret: str) -> None:
    from ostiary.grants.webhooks.deliverer import Deliverer
    from ostiary.grants.webhooks.sender import Sender, Webhook
    from ostiary.grants.webhooks.templates import BUILT_IN

    store = store_at(address)
    await store.start()
    one = Webhook(name="chat", url=url, template=BUILT_IN["generic"], secret=secret)
    await Deliverer(store, [one], sender=Sender(), public_url="https://own.test", interval=0.01, lease=0.5).start()
    await asyncio.Event().wait()
