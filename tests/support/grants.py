"""Parts for tests of grants: people, what they ask for, and stores whose time is moved."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from ostiary.grants.base import DatabaseStore
from ostiary.grants.life import Moment
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.records import Actor, Asked, Terms
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Draft
from support.postgresql import PostgresServer, empty

IDP = "https://idp.test"
ANN = Actor(issuer=IDP, subject="ann", callers=frozenset({"support"}))
BEN = Actor(issuer=IDP, subject="ben", callers=frozenset({"support-lead", "support"}))
CID = Actor(issuer=IDP, subject="cid", callers=frozenset({"support-lead"}))
EVE = Actor(issuer=IDP, subject="eve", callers=frozenset({"web"}))
NOW = 1_790_000_000.25


def terms(**changes: Any) -> Terms:
    return Terms(**{"approvers": ("support-lead",), "max_duration": 1800, **changes})


def asked(actor: Actor = ANN, **changes: Any) -> Asked:
    given: dict[str, Any] = {
        "issuer": actor.issuer,
        "subject": actor.subject,
        "caller": "support",
        "service": "billing",
        "endpoints": ("refund",),
        "duration": 600,
        "reason": "order 42 was charged twice",
        "terms": terms(),
    }
    return Asked(**given | changes)


def draft(id: str = "g-1", actor: Actor = ANN, *, key: str | None = None, **changes: Any) -> Draft:
    patience = changes.pop("patience", 3600)
    ruling = changes.pop("ruling", None)
    return Draft(id=id, asked=asked(actor, **changes), patience=patience, ruling=ruling, idempotency_key=key)


def moment(seconds: float = 0, change: int = 1) -> Moment:
    return Moment(now=NOW + seconds, change=change)


class MovedTime:
    """What a store makes of its time: it runs ahead by what it was moved."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self, now: float) -> float:
        return now + self.moved


Make: TypeAlias = Callable[[MovedTime], Awaitable[DatabaseStore]]
"""Makes an empty store that is open, for one of many runs."""


def on_sqlite(folder: Path) -> Make:
    numbers = itertools.count(1)

    async def made(time: MovedTime) -> DatabaseStore:
        store = SqliteStore(folder / f"{next(numbers)}.db", told=time)
        await store.start()
        return store

    return made


def on_postgresql(server: PostgresServer) -> Make:
    async def made(time: MovedTime) -> DatabaseStore:
        store = PostgresStore(await empty(server), told=time, connections=1)
        await store.start()
        return store

    return made
