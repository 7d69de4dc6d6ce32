"""What is acknowledged when: who takes something away waits for the audit, and not for what is noted about that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable, GrantsUnavailable
from ostiary.grants import Board, GrantService, Publisher
from ostiary.grants.sqlite import SqliteStore
from ostiary.models import Json
from support.grants import CID, asked


class SlowToMark(SqliteStore):
    """Takes no note of what is in the audit until it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may = asyncio.Event()
        self.may.set()
        self.away = False

    async def recorded(self, id: str, steps: int) -> None:
        await self.may.wait()
        if self.away:
            raise GrantsUnavailable("it is away")
        await super().recorded(id, steps)


class Audit:
    """A `StepLog` in memory. `full`: it takes nothing."""

    def __init__(self) -> None:
        self.steps: list[tuple[Json, Json]] = []
        self.full = False

    async def step(self, document: Mapping[str, Json]) -> None:
        if self.full:
            raise AuditUnavailable("no space left")
        self.steps.append((document["step"], document["action"]))


@asynccontextmanager
async def service_of(folder: Path) -> AsyncIterator[tuple[GrantService, SlowToMark, Audit]]:
    store, audit = SlowToMark(folder / "grants.db"), Audit()
    board = Board.create(folder / "grants")
    publisher = Publisher(store, board, clock=SystemClock())
    yield GrantService(store=store, publisher=publisher, audit=audit, patience=60), store, audit
    await store.close()
    board.close()


async def given(service: GrantService) -> str:
    record = await service.ask(asked())
    return (await service.approve(record.id, CID, digest=record.digest)).id


REVOKED = [(0, "requested"), (1, "approved"), (2, "activated"), (3, "revoked")]


async def test_a_revocation_is_acknowledged_once_the_audit_has_it_and_noted_later(tmp_path: Path) -> None:
    async with service_of(tmp_path) as (service, store, audit):
        grant = await given(service)
        store.may.clear()
        async with asyncio.timeout(5):
            await service.revoke(grant, CID, reason="an incident")
        assert audit.steps == REVOKED
        assert (await store.get(grant)).recorded == 3
        await service.tidy()  # nor is it found, and recorded again, meanwhile
        store.may.set()
        await service.close()
        assert (await store.get(grant)).recorded == 4
        assert audit.steps == REVOKED


async def test_what_could_not_be_noted_is_recorded_once_more(tmp_path: Path) -> None:
    async with service_of(tmp_path) as (service, store, audit):
        grant = await given(service)
        store.away = True
        await service.revoke(grant, CID, reason="an incident")
        await service.close()
        store.away = False
        await service.tidy()
        assert audit.steps == [*REVOKED, (3, "revoked")]
        assert (await store.get(grant)).recorded == 4


async def test_what_the_audit_did_not_take_is_recorded_when_it_can(tmp_path: Path) -> None:
    async with service_of(tmp_path) as (service, store, audit):
        grant = await given(service)
        audit.full = True
        assert (await service.revoke(grant, CID, reason="an incident")).state == "revoked"
        audit.full = False
        await service.tidy()
        assert audit.steps == REVOKED
        assert (await store.get(grant)).recorded == 4
