"""What ends between the policy's answer and the service's: nobody is let through by it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.access import AccessRequestBuilder, NoPrediction
from ostiary.clock import SystemClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.scripted import ScriptedAuthorizer
from ostiary.decision.warden import PolicyWarden
from ostiary.errors import GrantExpired
from ostiary.exchange import GRANT_EXPIRES, Exchange
from ostiary.grants import Board, GrantService, Keeper, Publisher, life
from ostiary.grants.active import ActiveGrants
from ostiary.grants.records import Record
from ostiary.grants.sqlite import SqliteStore
from ostiary.models import AccessRequest, Decision, Json
from support.audit import decision, exchange, identity, request
from support.grants import ANN, CID, asked, terms


class Steps:
    """A `StepLog` that keeps nothing."""

    async def step(self, document: Mapping[str, Json]) -> None: ...


class Worker:
    """One worker of a machine, with the means to give a grant and to take it away."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.store = SqliteStore(folder / "grants.db")
        self.board = Board.create(folder / "grants")
        publisher = Publisher(self.store, self.board, clock=clock)
        self.service = GrantService(store=self.store, publisher=publisher, audit=Steps(), patience=3600)
        self.grants = ActiveGrants(self.board, monotonic=clock.monotonic)
        self.keeper = Keeper(service=self.service, grants=self.grants, clock=clock)
        requests = AccessRequestBuilder(clock=clock, grants=self.grants, endpoints=NoPrediction())
        self.warden = PolicyWarden(
            authorizer=ScriptedAuthorizer([]), requests=requests, horizon=PolicyHorizon(), clock=clock
        )

    async def give(self, **changes: object) -> Record:
        record = await self.service.ask(asked(**changes))
        return await self.service.approve(record.id, CID, digest=record.digest)

    def decided(self, record: Record) -> tuple[AccessRequest, Decision]:
        """A request that was received and decided now."""
        person = identity(issuer=ANN.issuer, subject=ANN.subject)
        grants = self.grants.active(ANN.owner, int(time.time()))
        return replace(request(proven=person), grants=grants), decision(permission=None, grant=record.id)

    @asynccontextmanager
    async def let_through(self, decided: tuple[AccessRequest, Decision]) -> AsyncIterator[Exchange]:
        carried = exchange()
        with self.warden.admit(carried, *decided) as underway:
            await self.keeper.take(underway)
            yield carried

    async def close(self) -> None:
        await self.store.close()
        self.grants.close()
        self.board.close()


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    made = Worker(tmp_path)
    await made.store.start()
    yield made
    await made.close()


@pytest.mark.parametrize("uses", [None, 3])
@pytest.mark.parametrize("noticed", [True, False])
async def test_a_grant_that_was_taken_away_after_the_decision_lets_nobody_through(
    worker: Worker, uses: int | None, noticed: bool
) -> None:
    """Whether or not another request made the worker see that it ended, when nothing stood on it yet."""
    record = await worker.give(max_uses=uses, terms=terms(max_uses=uses))
    decided = worker.decided(record)
    await worker.service.revoke(record.id, CID, reason="an incident")
    if noticed:
        worker.grants.look()
    with pytest.raises(GrantExpired):
        async with worker.let_through(decided):
            pytest.fail("it was let through")


async def test_the_last_use_is_had_by_who_took_it(worker: Worker) -> None:
    record = await worker.give(max_uses=1, terms=terms(max_uses=1))
    decided = worker.decided(record)
    async with worker.let_through(decided):
        worker.grants.look()
    with pytest.raises(GrantExpired):
        async with worker.let_through(decided):
            pytest.fail("it was let through")
    assert (await worker.store.change(record.id, life.revoke(CID, reason="an incident"))).state == "revoked"


async def test_only_who_took_a_use_is_told_when_the_grant_ends(worker: Worker) -> None:
    """Its end is announced on what it let through, and not on the refusal of what came too late."""
    record = await worker.give(max_uses=1, duration=60, terms=terms(max_uses=1))
    decided = worker.decided(record)
    other, late = exchange(), exchange()
    async with worker.let_through(decided) as carried:
        assert [name for name, _ in carried.own].count(GRANT_EXPIRES) == 1
    with worker.warden.admit(late, *decided) as underway, pytest.raises(GrantExpired):
        await worker.keeper.take(underway)
    assert late.own == [(name, late.id.encode()) for name, _ in other.own]
