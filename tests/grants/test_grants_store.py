"""What every store of grants does: SQLite and PostgreSQL are put to the same tests."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time as clocks
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.grants import life, refusals, statements
from ostiary.grants.allowance import DAY
from ostiary.grants.base import DatabaseStore
from ostiary.grants.postgresql import PostgresStore
from ostiary.grants.records import Record
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.statements import VERSION
from ostiary.grants.store import Bounds, Selection
from support.grants import ANN, BEN, CID, EVE, MovedTime, asked, draft, terms
from support.postgresql import PostgresServer, empty
from support.processes import consumer

PROCESSES = 5
PARALLEL = 10


async def approved(store: DatabaseStore, id: str = "g-1", **changes: object) -> Record:
    record = await store.ask(draft(id, **changes))
    record = await store.change(id, life.approve(BEN, digest=record.digest))
    await store.recorded(id, len(record.steps))
    return await store.get(id)


async def test_the_tables_are_those_of_this_version(store: DatabaseStore) -> None:
    assert await store.tables() == VERSION


async def test_who_looks_for_tables_makes_none(postgresql: PostgresServer) -> None:
    store = PostgresStore(await empty(postgresql))
    assert [await store.tables(), await store.tables()] == [0, 0]
    await store.close()


async def test_what_was_asked_is_found_again(store: DatabaseStore) -> None:
    record = await store.ask(draft())
    assert await store.get("g-1") == record
    assert await store.find(Selection(owner=ANN.owner)) == [record]
    with pytest.raises(refusals.GrantUnknown):
        await store.get("g-2")
    with pytest.raises(refusals.GrantUnknown):
        await store.change("g-2", life.drop(ANN))


async def test_what_is_somebody_elses_is_told_by_nothing_from_what_is_not_there(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.ask(draft())
    for actor in (ANN, CID):
        assert (await store.get("g-1", to=actor)).id == "g-1"
    monkeypatch.setattr(statements, "_record", None)  # it is not read, which would take longer
    for id in ("g-1", "g-2"):  # noqa: A001
        with pytest.raises(refusals.GrantUnknown):
            await store.get(id, to=EVE)


async def test_a_record_of_before_its_approvers_were_kept_apart_is_theirs(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "grants.db")
    await store.ask(draft())
    with closing(sqlite3.connect(tmp_path / "grants.db", isolation_level=None)) as connection:
        connection.execute("UPDATE grant_records SET approvers = NULL")
    assert (await store.get("g-1", to=CID)).id == "g-1"
    with pytest.raises(refusals.GrantUnknown):
        await store.get("g-1", to=EVE)
    await store.close()


async def test_a_transition_that_is_refused_changes_nothing(store: DatabaseStore) -> None:
    record = await store.ask(draft())
    with pytest.raises(refusals.NotAnApprover):
        await store.change("g-1", life.deny(EVE))
    assert await store.get("g-1") == record


async def test_a_key_finds_the_request_it_was_used_for_and_makes_no_second(store: DatabaseStore) -> None:
    first, *others = await asyncio.gather(*(store.ask(draft(f"g-{number}", key="k1")) for number in range(5)))
    assert all(other == first for other in others)
    assert await store.find(Selection()) == [first]
    with pytest.raises(refusals.KeyReused):
        await store.ask(draft("g-9", key="k1", duration=601))
    assert (await store.ask(draft("g-10", BEN, key="k1"))).id == "g-10"
    assert await store.ask(draft("g-11", key="k1", terms=terms(max_duration=900))) == first


async def test_what_would_be_asked_is_judged_and_not_kept(store: DatabaseStore, time: MovedTime) -> None:
    time.moved = DAY - clocks.time() % DAY  # all of it in one day
    would = await store.would_ask(draft(duration=1800))
    assert (would.state, would.asked.duration) == ("pending", 1800)
    assert await store.find(Selection()) == []
    before = await store.news(0)
    with pytest.raises(refusals.DurationRefused):
        await store.would_ask(draft(duration=1801))
    for number in range(3):
        await approved(store, f"g-{number}", duration=1800)
    with pytest.raises(refusals.TimeSpent):
        await store.would_ask(draft("g-9", duration=1800))
    assert (await store.news(0)).change > before.change
    assert len(await store.find(Selection())) == 3


async def test_changes_are_numbered_in_their_order_and_times_do_not_go_back(store: DatabaseStore) -> None:
    records = await asyncio.gather(*(store.ask(draft(f"g-{number}", reason=f"r {number}")) for number in range(10)))
    changes = sorted(record.change for record in records)
    assert len(set(changes)) == 10
    by_change = sorted(records, key=lambda record: record.change)
    assert [one.steps[0].time for one in by_change] == sorted(one.steps[0].time for one in records)


async def test_of_what_is_found_the_latest_comes_first_and_the_rest_after_it(store: DatabaseStore) -> None:
    for number in range(5):
        await store.ask(draft(f"g-{number}", endpoints=("refund",) if number % 2 else ("charge",)))
    everything = await store.find(Selection())
    assert [record.id for record in everything] == ["g-4", "g-3", "g-2", "g-1", "g-0"]
    first = await store.find(Selection(limit=2))
    rest = await store.find(Selection(before=(first[-1].change, first[-1].id)))
    assert first + rest == everything
    assert [one.id for one in await store.find(Selection(endpoint="refund"))] == ["g-3", "g-1"]
    assert await store.find(Selection(approvers=frozenset({"web"}))) == []
    assert len(await store.find(Selection(approvers=frozenset({"web", "support-lead"})))) == 5
    assert await store.find(Selection(states=("active",))) == []
    assert await store.find(Selection(service="orders")) == []
    assert await store.find(Selection(review=True)) == []


INCIDENT = life.revoke(CID, reason="an incident")


async def test_many_are_revoked_some_at_a_time_and_no_other(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_SWEPT", 2)
    for each in ("g-1", "g-2", "g-3"):
        await approved(store, each, duration=60)
    await approved(store, "g-4", service="orders", duration=60)
    selection = Selection(service="billing", approvers=frozenset({"support-lead"}))
    steps = [records async for records in store.change_all(selection, INCIDENT)]
    assert [[record.id for record in records] for records in steps] == [["g-1", "g-2"], ["g-3"]]
    assert len({record.change for record in steps[0]}) == 1
    states = Counter(record.state for record in await store.find(Selection()))
    assert states == {"revoked": 3, "active": 1}
    # Of one change, what comes after one of them.
    rest = await store.find(Selection(before=(steps[0][0].change, "g-1")))
    assert [record.id for record in rest] == ["g-2", "g-4"]
    assert [records async for records in store.change_all(replace(selection, approvers=frozenset()), INCIDENT)] == []
    with pytest.raises(refusals.ReasonTooLong):
        async for _ in store.change_all(Selection(), life.revoke(CID, reason="a" * 1001)):
            pass


async def test_what_is_asked_for_and_approved_while_many_are_revoked_is_revoked_too(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_SWEPT", 1)
    waiting = await store.ask(draft("g-waiting"))
    await store.ask(draft("g-1"))
    revoked = []
    begun = store.change_all(Selection(), INCIDENT)
    revoked += await anext(begun)  # the one that waited longest
    late = await store.ask(draft("g-late"))
    await store.change("g-late", life.approve(BEN, digest=late.digest))
    await begun.aclose()
    assert [record.id for record in revoked] == [waiting.id]
    # Broken off, and begun again.
    async for records in store.change_all(Selection(), INCIDENT):
        revoked += records
        if len(revoked) == 2:
            await store.ask(draft("g-last"))
    assert [record.id for record in revoked] == ["g-waiting", "g-1", "g-late", "g-last"]
    assert await store.find(Selection(states=("active", "pending"))) == []


async def test_what_is_used_up_before_its_time_is_revoked_with_all_that_fit(
    store: DatabaseStore, time: MovedTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last use may be a stream that goes on."""
    monkeypatch.setattr(statements, "_SWEPT", 2)
    for number in range(4):
        await approved(store, f"g-{number}", duration=60 if number == 3 else 600, max_uses=1)
        await store.use(f"g-{number}")
    await store.recorded("g-1", 4)
    time.moved = 61
    chosen = Selection(endpoint="refund", approvers=frozenset({"support-lead"}))
    assert [r async for r in store.change_all(replace(chosen, approvers=frozenset({"nobody"})), INCIDENT)] == []
    steps = [[record.id for record in records] async for records in store.change_all(chosen, INCIDENT)]
    assert steps == [["g-0", "g-2"], ["g-1"]]
    assert (await store.get("g-3")).state == "used-up"
    assert [record async for record in store.change_all(chosen, INCIDENT)] == []


async def test_what_is_due_and_not_ended_yet_stays_for_time_to_end(store: DatabaseStore, time: MovedTime) -> None:
    await approved(store, duration=60)
    time.moved = 61
    assert [records async for records in store.change_all(Selection(), INCIDENT)] == []
    assert [record.state for record in await store.expire()] == ["expired"]


async def test_time_ends_what_is_due_once(store: DatabaseStore, time: MovedTime) -> None:
    await approved(store)
    await store.ask(draft("g-2", patience=50))
    assert await store.expire() == []
    time.moved = 51
    assert [record.id for record in await store.expire()] == ["g-2"]
    time.moved = 601
    ended = await asyncio.gather(store.expire(), store.expire())
    assert [record.id for records in ended for record in records] == ["g-1"]
    time.moved = -3600
    assert (await store.get("g-1")).state == "expired"
    with pytest.raises(refusals.WrongState):
        await store.use("g-1")


async def test_one_person_is_granted_so_much_time_a_day(store: DatabaseStore, time: MovedTime) -> None:
    time.moved = DAY - clocks.time() % DAY  # all of it in one day
    for number in range(4):
        await approved(store, f"g-{number}", duration=1700)
    with pytest.raises(refusals.TimeSpent):
        await store.ask(draft("g-5", duration=1700))
    assert (await store.ask(draft("g-6", EVE, duration=1700))).state == "pending"
    await store.change("g-0", life.drop(ANN))  # what was not used is given back
    record = await store.ask(draft("g-7", duration=1700))
    assert (await store.change("g-7", life.approve(BEN, digest=record.digest))).state == "active"
    with pytest.raises(refusals.TimeSpent):
        await store.change("g-7", life.extend(BEN, duration=1800, reason="more"))


async def test_one_identity_has_so_many_requests_and_grants(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary.grants.statements.MAX_OPEN", 2)
    await store.ask(draft("g-1"))
    at_once = {"emergency": True, "duration": 60, "terms": terms(emergency=60)}
    assert (await store.ask(draft("g-2", **at_once))).state == "active"
    for change in ({}, at_once):
        with pytest.raises(refusals.TooManyOpen):
            await store.ask(draft("g-3", **change))
    assert (await store.ask(draft("g-4", EVE))).state == "pending"
    await store.change("g-2", life.drop(ANN))
    assert (await store.ask(draft("g-3"))).state == "pending"


@pytest.mark.parametrize("bounds", [Bounds(requests_per_day=2)])
async def test_one_identity_asks_so_often_a_day(store: DatabaseStore, time: MovedTime) -> None:
    time.moved = DAY - clocks.time() % DAY + 60  # a minute after midnight
    first = await store.ask(draft("g-1", key="k"))
    await store.ask(draft("g-2", ruling=life.Ruling(approve=False)))  # a refusal is an answer, too
    for again in (store.ask, store.would_ask):
        with pytest.raises(refusals.TooManyAsked) as refused:
            await again(draft("g-3"))
        assert refused.value.retry_after is not None
        assert DAY - 70 < refused.value.retry_after <= DAY - 60
    assert (await store.ask(draft("g-3", key="k"))).id == first.id
    await store.ask(draft("g-4", EVE))
    time.moved += refused.value.retry_after
    await store.ask(draft("g-5"))


async def test_what_has_been_over_for_long_enough_is_let_go_and_nothing_else(
    store: DatabaseStore, time: MovedTime
) -> None:
    async def recorded(id: str) -> None:
        await store.recorded(id, 10)

    await approved(store, "g-revoked", duration=1700)
    await store.change("g-revoked", life.revoke(CID, reason="an incident"))
    await store.ask(draft("g-denied", ruling=life.Ruling(approve=False), key="k"))
    await approved(store, "g-unrecorded")
    await store.change("g-unrecorded", life.revoke(CID, reason="an incident"))
    await store.ask(draft("g-emergency", duration=300, emergency=True, terms=terms(emergency=300)))
    await store.change("g-emergency", life.drop(ANN))
    await store.ask(draft("g-pending"))
    for id in ("g-revoked", "g-denied", "g-emergency", "g-pending"):  # noqa: A001
        await recorded(id)
    time.moved = 30 * DAY - 60
    assert await store.prune() == 0
    # One that was revoked would have counted for longer: a machine that slept must not find it gone too early.
    time.moved = 30 * DAY + 60
    assert await store.prune() == 1
    assert await store.prune() == 0
    with pytest.raises(refusals.GrantUnknown):
        await store.get("g-denied")
    time.moved = 30 * DAY + 1760
    assert await store.prune() == 1
    left = {record.id for record in await store.find(Selection())}
    assert left == {"g-unrecorded", "g-emergency", "g-pending"}
    await recorded("g-unrecorded")
    await store.change("g-emergency", life.review(CID, reason="it did burn"))
    await recorded("g-emergency")
    assert await store.prune() == 2
    assert (await store.ask(draft("g-new", duration=60, key="k"))).id == "g-new"  # what the key found is gone, too


async def test_so_many_are_let_go_at_a_time_and_what_an_older_version_ended_later(
    store: DatabaseStore, time: MovedTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_PRUNED", 2)
    for number in range(5):
        await store.ask(draft(f"g-{number}", ruling=life.Ruling(approve=False)))
        await store.recorded(f"g-{number}", 10)
    await approved(store, "g-active")
    await store._write(_as_the_migration_left_them())
    time.moved = 31 * DAY
    assert [await store.prune() for _ in range(4)] == [1, 2, 2, 0]
    assert [record.id for record in await store.find(Selection())] == ["g-active"]


def _as_the_migration_left_them() -> statements.Operation[None]:
    """By a guess: the one that is active was taken for over, the first of all."""
    yield "UPDATE grant_records SET over_at = 1 WHERE id = 'g-active'", ()


async def test_a_list_looks_through_so_many_and_a_revocation_through_all(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostiary.grants.statements._BATCH", 2)
    monkeypatch.setattr("ostiary.grants.statements._LOOKED_AT", 4)
    for number in range(6):
        await store.ask(draft(f"g-{number}", endpoints=("charge",) if number else ("refund",)))
    assert await store.find(Selection(endpoint="refund")) == []
    assert len(await store.find(Selection(endpoint="charge"))) == 4
    (revoked,) = [records async for records in store.change_all(Selection(endpoint="refund"), INCIDENT)]
    assert [record.id for record in revoked] == ["g-0"]


async def test_news_is_what_changed_since(store: DatabaseStore) -> None:
    nothing = await store.news(0)
    assert (nothing.change, list(nothing.held)) == (0, [])
    record = await store.ask(draft())
    asked_for = await store.news(nothing.change)
    assert [(held.id, held.grant) for held in (await store.news(0)).held] == []
    record = await store.change("g-1", life.approve(BEN, digest=record.digest))
    unrecorded = await store.news(asked_for.change)
    assert [(held.id, held.grant) for held in unrecorded.held] == [("g-1", None)]
    await store.recorded("g-1", len(record.steps))
    counts = await store.news(unrecorded.change)
    assert [(held.issuer, held.subject) for held in counts.held] == [ANN.owner]
    assert counts.held[0].grant is not None
    assert counts.held == (await store.news(0)).held
    assert list((await store.news(counts.change)).held) == []
    await store.change("g-1", life.revoke(CID, reason="an incident"))
    gone = await store.news(counts.change)
    assert [(held.id, held.grant) for held in gone.held] == [("g-1", None)]
    assert list((await store.news(0)).held) == []
    assert counts.store == gone.store == nothing.store
    assert list((await store.news(10_000)).held) == []  # of a store that was there before this one: all that counts


async def test_what_is_not_in_the_audit_is_known(store: DatabaseStore) -> None:
    record = await store.ask(draft())
    assert await store.unrecorded() == [record]
    await store.recorded("g-1", 1)
    await store.recorded("g-1", 0)  # late
    assert await store.unrecorded() == []
    await store.change("g-1", life.cancel(ANN))
    (record,) = await store.unrecorded()
    assert (record.recorded, len(record.steps)) == (1, 2)


async def test_a_grant_without_a_count_is_used_at_will(store: DatabaseStore) -> None:
    await approved(store)
    for _ in range(3):
        assert (await store.use("g-1")).state == "active"


async def test_of_so_many_uses_exactly_so_many_succeed_whoever_asks_at_once(
    store: DatabaseStore, address: Callable[[DatabaseStore], str]
) -> None:
    """Fifty at a time, from five processes."""
    await approved(store, terms=terms(max_uses=20))
    context = multiprocessing.get_context("spawn")
    begin = context.Event()
    answers: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [
        context.Process(target=consumer, args=(address(store), "g-1", PARALLEL, begin, answers))
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        assert await asyncio.to_thread(answers.get, timeout=60) == ["ready"]
    begin.set()
    found = Counter[str]()
    for _ in processes:
        found.update(await asyncio.to_thread(answers.get, timeout=60))
    for process in processes:
        process.join(10)
    assert found == {"used": 20, "wrong-state": 30}
    record = await store.get("g-1")
    assert (record.state, record.uses) == ("used-up", 20)


async def test_a_change_loses_no_use_that_is_taken_meanwhile(store: DatabaseStore) -> None:
    await approved(store, terms=terms(max_uses=100))
    extend = life.extend(BEN, duration=900, reason="more")
    await asyncio.gather(*(store.use("g-1") for _ in range(20)), store.change("g-1", extend))
    assert (await store.get("g-1")).uses == 20


async def test_a_request_changed_after_is_a_new_one(store: DatabaseStore) -> None:
    record = await store.ask(draft())
    other = await store.ask(draft("g-2", duration=1200))
    with pytest.raises(refusals.AskedOtherwise):
        await store.change("g-2", life.approve(BEN, digest=record.digest))
    assert other.asked == asked(duration=1200)
