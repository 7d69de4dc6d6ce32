"""When the policy is asked again about what is open, and what it is told. What a real one says: `opa/` and `e2e/`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ostiary.access import AccessRequestBuilder, NoPrediction
from ostiary.clock import ManualClock
from ostiary.decision.horizon import PolicyHorizon
from ostiary.decision.warden import PATIENCE, PolicyWarden
from ostiary.errors import AccessError, GrantExpired, PermissionMissing, PolicyUnavailable
from ostiary.exchange import GRANT_EXPIRES
from ostiary.models import AccessRequest, Decision, Grant, Owner
from support.audit import decision, exchange, request, until
from support.warden import Opened

NOW = 1_790_000_000
AT_ONCE = 32
GRANT = Grant(
    id="g-1",
    caller="support",
    issuer="https://idp.test",
    subject="web",
    service="orders",
    endpoints=("get-order",),
    expires_at=NOW + 600,
)


class Worker:
    """A warden between a policy and a time that do what they are told. `asked` are the questions."""

    def __init__(self) -> None:
        self.clock = ManualClock(float(NOW))
        self.horizon = PolicyHorizon()
        self.horizon.saw("7-abc", asked=0)
        self.answer: Callable[[AccessRequest], Decision] = lambda _: decision(revision=str(self.horizon.latest))
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked: list[AccessRequest] = []
        self.waiting = self.most = 0
        self.grants: tuple[Grant, ...] = ()
        requests = AccessRequestBuilder(clock=self.clock, grants=self, endpoints=NoPrediction())
        self.warden = PolicyWarden(authorizer=self, requests=requests, horizon=self.horizon, clock=self.clock)

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.answering.wait()
            return self.answer(request)
        finally:
            self.waiting -= 1

    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        return self.grants

    async def open(self, *grants: Grant, source_ip: str = "10.0.0.7", **decided: Any) -> Opened:
        asked = replace(request(), grants=grants, source_ip=source_ip)
        opened = Opened(self.warden, asked, decision(**decided))
        await asyncio.sleep(0)
        return opened

    def announce(self, revision: str) -> None:
        self.horizon.saw(revision, asked=self.horizon.changes)


@pytest.fixture
async def worker() -> Worker:
    return Worker()


async def test_another_bundle_has_each_asked_about_once_and_so_many_at_a_time(worker: Worker) -> None:
    opened = [await worker.open() for _ in range(3 * AT_ONCE)]
    worker.answering.clear()
    worker.announce("8-def")
    await until(lambda: worker.waiting == AT_ONCE)
    await asyncio.sleep(0.1)
    worker.answering.set()
    await until(lambda: len(worker.asked) == len(opened))
    assert await opened[0].goes_on()
    assert (len(worker.asked), worker.most) == (len(opened), AT_ONCE)
    for one in opened:
        await one.end()


async def test_what_was_decided_by_the_bundle_before_is_asked_about_though_it_comes_late(worker: Worker) -> None:
    first = await worker.open(revision="8-def")
    worker.announce("8-def")
    assert await first.goes_on()
    assert worker.asked == []
    late = await worker.open(revision="7-abc")
    await until(lambda: len(worker.asked) == 1)
    assert await late.goes_on()
    assert len(worker.asked) == 1
    await first.end()
    await late.end()


async def test_a_bundle_that_comes_while_the_policy_is_asked_has_it_asked_again(worker: Worker) -> None:
    opened = await worker.open()
    worker.answering.clear()
    worker.announce("8-def")
    await until(lambda: worker.waiting == 1)
    worker.answer = lambda _: decision(revision="8-def")
    worker.announce("9-abc")
    await asyncio.sleep(0.1)
    worker.answering.set()
    await until(lambda: len(worker.asked) >= 2)
    worker.answer = lambda _: decision(allow=False, reasons=("permission-missing",), revision="9-abc")
    assert isinstance(await opened.cut(), PermissionMissing)


async def test_who_wants_it_judged_again_is_not_put_off_with_a_question_from_before(worker: Worker) -> None:
    opened = await worker.open()
    worker.answering.clear()
    worker.warden.judge(lambda _: True)
    await until(lambda: worker.waiting == 1)
    worker.warden.judge(lambda _: True)
    worker.answering.set()
    await until(lambda: len(worker.asked) == 2)
    assert await opened.goes_on()
    assert len(worker.asked) == 2
    await opened.end()


async def test_the_policy_is_told_of_the_grant_that_it_stands_on_and_of_no_other(worker: Worker) -> None:
    other, extended = replace(GRANT, id="g-2"), replace(GRANT, expires_at=NOW + 1200)
    granted = {"permission": None, "grant": "g-1", "expires_at": NOW + 600}
    by_permission, by_grant = await worker.open(GRANT), await worker.open(GRANT, other, **granted)
    worker.answer = lambda asked: decision(**(granted if asked.grants else {}))
    for grants, told in (((other, GRANT), GRANT), ((other, extended), extended), ((other,), extended)):
        worker.grants = grants  # in the end its uses are used up
        worker.asked.clear()
        worker.warden.judge(lambda _: True)
        await until(lambda: len(worker.asked) == 2)
        assert sorted([each.grants for each in worker.asked], key=len) == [(), (told,)]
        assert await by_grant.goes_on()
    await by_permission.end()
    await by_grant.end()


async def test_a_grant_that_was_extended_is_asked_about_and_what_else_has_ended_is_not(worker: Worker) -> None:
    granted = {"permission": None, "grant": "g-1"}
    by_grant = await worker.open(GRANT, **granted, expires_at=NOW + 10)
    observed = await worker.open(permission=None, observed=True, reasons=("permission-missing",), expires_at=NOW + 10)
    worker.answer = lambda _: decision(**granted, expires_at=NOW + 600)
    worker.clock.advance(10)
    assert (await observed.cut()).reasons == ("permission-missing",)
    assert await by_grant.goes_on()
    assert [each.grants for each in worker.asked] == [(GRANT,)]
    await by_grant.end()


@pytest.mark.parametrize("error", [PolicyUnavailable("gone"), ZeroDivisionError()])
async def test_what_is_no_answer_lets_nothing_go_on_for_ever(worker: Worker, error: Exception) -> None:
    def fail(_: AccessRequest) -> Decision:
        raise error

    opened = await worker.open()
    worker.answer = fail
    worker.warden.judge(lambda _: True)
    await until(lambda: len(worker.asked) == 2)
    worker.clock.advance(PATIENCE)
    refusal = await opened.cut()
    assert (type(refusal), refusal.status) == (PolicyUnavailable, 503)


async def test_a_policy_that_answers_nobody_is_not_asked_about_everybody(worker: Worker) -> None:
    """Nor does who was not asked about go on for longer."""

    def fail(_: AccessRequest) -> Decision:
        raise PolicyUnavailable("gone")

    opened = [await worker.open() for _ in range(20 * AT_ONCE)]
    worker.answer = fail
    worker.announce("8-def")
    await until(lambda: len(worker.asked) >= AT_ONCE)
    await asyncio.sleep(0.8)
    assert len(worker.asked) <= 3 * AT_ONCE
    assert await opened[-1].goes_on()
    worker.clock.advance(PATIENCE - 1)
    asked = len(worker.asked)
    await until(lambda: len(worker.asked) > asked)  # about one that waited for it all the while
    assert await opened[-1].goes_on()
    worker.clock.advance(1)
    assert {type(await one.cut()) for one in opened} == {PolicyUnavailable}


async def test_a_policy_that_answers_again_is_asked_about_all(worker: Worker) -> None:
    def fail(_: AccessRequest) -> Decision:
        raise PolicyUnavailable("gone")

    opened = [await worker.open() for _ in range(3 * AT_ONCE)]
    answer, worker.answer = worker.answer, fail
    worker.announce("8-def")
    await until(lambda: len(worker.asked) >= AT_ONCE)
    failed, worker.answer = len(worker.asked), answer
    await until(lambda: len(worker.asked) == failed + len(opened))
    worker.clock.advance(PATIENCE)
    assert await opened[0].goes_on()
    assert await opened[-1].goes_on()
    for one in opened:
        await one.end()


async def test_the_first_refusal_counts_and_takes_back_what_was_told_of_the_grant(worker: Worker) -> None:
    carried = exchange()
    carried.own.append((GRANT_EXPIRES, b"soon"))

    async def cut_twice() -> None:
        with worker.warden.admit(carried, request(), decision()) as underway:
            underway.cut(PermissionMissing())
            underway.cut(GrantExpired())
            await asyncio.sleep(1)

    with pytest.raises(PermissionMissing):
        await cut_twice()
    assert GRANT_EXPIRES not in dict(carried.own)
    assert cancelling() == 0


async def test_what_fails_by_itself_as_it_is_cut_has_failed(worker: Worker) -> None:
    async def fail() -> None:
        with worker.warden.admit(exchange(), request(), decision()) as underway:
            underway.cut(PermissionMissing())
            try:
                await asyncio.sleep(1)
            finally:
                raise AccessError("it failed")

    with pytest.raises(AccessError, match="it failed"):
        await fail()
    assert cancelling() == 0  # nor is what comes after it


async def test_what_is_ended_before_it_is_cut_ends(worker: Worker) -> None:
    """As when the proxy ends: who is told to end does not go on because something else ended too."""
    opened = await worker.open()
    opened.task.cancel()
    worker.warden.cut(lambda _: True, PermissionMissing)
    await asyncio.wait([opened.task])
    assert opened.task.cancelled()
    assert opened.refusal is None


def cancelling() -> int:
    task = asyncio.current_task()
    return -1 if task is None else task.cancelling()
