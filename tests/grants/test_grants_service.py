"""What is acknowledged when: who takes something away waits for the audit, and not for what is noted about that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable, GrantsUnavailable
from ostiary.grants import ActiveGrants, Board, GrantService, Publisher, statements
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.store import Selection
from ostiary.models import Json
from support.grants import CID, IDP, asked


class SlowToMark(SqliteStore):
    """Takes no note of what is in the audit until it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may = asyncio.Event()
        self.may.set()
        self.away = False

    async def all_recorded(self, marks: Sequence[tuple[str, int]]) -> None:
        await self.may.wait()
        if self.away:
            raise GrantsUnavailable("it is away")
        await super().all_recorded(marks)


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


async def given(service: GrantService, subject: str = "ann") -> str:
    record = await service.ask(asked(subject=subject))
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


async def test_many_are_revoked_in_steps_that_count_at_once_and_go_on_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_SWEPT", 2)
    async with service_of(tmp_path) as (service, store, audit):
        grants = [await given(service, f"s{number}") for number in range(5)]
        board = Board.attach(tmp_path / "grants")
        active = ActiveGrants(board, monotonic=time.monotonic)

        def counting() -> int:
            active.look()
            now = int(time.time())
            return sum(len(active.active((IDP, f"s{number}"), now)) for number in range(5))

        assert counting() == 5
        audit.steps.clear()
        said = []
        for left in (3, 1, 0):
            revoked = await service.revoke_all(Selection(), CID, reason="an incident", seconds=0)
            said.append((revoked.count, len(revoked.records), revoked.complete))
            assert counting() == left
        revoked = await service.revoke_all(Selection(), CID, reason="an incident")
        assert said == [(2, 2, False), (2, 2, False), (1, 1, False)]
        assert (revoked.count, revoked.complete) == (0, True)
        await service.close()
        assert audit.steps == [(3, "revoked")] * 5
        assert await store.unrecorded() == []
        assert {(await store.get(grant)).state for grant in grants} == {"revoked"}
        active.close()
        board.close()


async def test_what_the_audit_does_not_take_of_many_is_revoked_all_the_same(tmp_path: Path) -> None:
    async with service_of(tmp_path) as (service, store, audit):
        for number in range(3):
            await given(service, f"s{number}")
        audit.full = True
        assert (await service.revoke_all(Selection(), CID, reason="an incident")).count == 3
        audit.full = False
        await service.tidy()
        assert audit.steps[-3:] == [(3, "revoked")] * 3
        assert await store.unrecorded() == []
