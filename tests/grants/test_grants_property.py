"""Any sequence of what people do, and of time: both stores do what a simple model does.

The model knows of each grant who may still do what to it. It has no steps, no digests, and no store.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ostiary.grants import life
from ostiary.grants.life import Transition
from ostiary.grants.records import Actor
from ostiary.grants.refusals import GrantRefused
from support.grants import ANN, BEN, CID, EVE, Make, MovedTime, draft, on_postgresql, on_sqlite, terms
from support.postgresql import PostgresServer

T = TypeVar("T")

people = st.sampled_from((ANN, BEN, CID, EVE))
numbers = st.integers(0, 2)
PATIENCE = 1000


@dataclass
class Model:
    """One grant. `left` is in seconds until it is due, `uses` how many there are still."""

    holder: Actor
    needed: int
    duration: int
    uses: int | None
    left: float = PATIENCE
    state: str = "pending"
    approved: set[str] = field(default_factory=set)
    extension: int | None = None
    extenders: set[str] = field(default_factory=set)

    def approver(self, actor: Actor) -> bool:
        return actor.subject != self.holder.subject and "support-lead" in actor.callers

    def approve(self, actor: Actor) -> bool:
        if not self.approver(actor):
            return False
        if self.state == "active" and self.extension is not None:
            return self._approve_extension(actor)
        if self.state != "pending" or actor.subject in self.approved:
            return False
        self.approved.add(actor.subject)
        if len(self.approved) == self.needed:
            self.state, self.left = "active", self.duration
        return True

    def extend(self, actor: Actor, duration: int) -> bool:
        own = actor.subject == self.holder.subject
        if self.state != "active" or self.extension is not None or not (own or self.approver(actor)):
            return False
        self.extension, self.extenders = duration, set()
        return own or self._approve_extension(actor)

    def _approve_extension(self, actor: Actor) -> bool:
        if actor.subject in self.extenders:
            return False
        self.extenders.add(actor.subject)
        if len(self.extenders) == self.needed:
            self.left, self.extension = max(self.left, self.extension or 0), None
        return True

    def deny(self, actor: Actor) -> bool:
        if not self.approver(actor):
            return False
        if self.state == "active" and self.extension is not None:
            self.extension = None
            return True
        return self.end(("pending",), "denied")

    def end(self, states: tuple[str, ...], state: str) -> bool:
        if self.state not in states:
            return False
        self.state = state
        return True

    def use(self) -> bool:
        if self.state != "active":
            return False
        if self.uses is not None:
            self.uses -= 1
            if self.uses == 0:
                self.state = "used-up"
        return True

    def wait(self, seconds: float) -> None:
        self.left -= seconds
        if self.state in ("pending", "active") and self.left <= 0:
            self.state = "expired"


class Life(RuleBasedStateMachine):
    make: Make

    def __init__(self) -> None:
        super().__init__()
        self.time = MovedTime()
        self.loop = asyncio.new_event_loop()
        self.store = self.run(type(self).make(self.time))
        self.models: list[Model] = []

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return self.loop.run_until_complete(waited())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @rule(holder=people, needed=st.integers(1, 2), uses=st.sampled_from([None, 1, 2]))
    def ask(self, holder: Actor, needed: int, uses: int | None) -> None:
        if len(self.models) < 3:
            self.models.append(Model(holder=holder, needed=needed, duration=600, uses=uses))
            limits = terms(approvals=needed, max_uses=uses)
            number = len(self.models) - 1
            self.run(self.store.ask(draft(f"g-{number}", holder, patience=PATIENCE, terms=limits)))

    def attempt(self, number: int, transition: Transition, expected: bool) -> None:
        self.compare(self.store.change(f"g-{number}", transition), expected)

    def compare(self, work: Coroutine[Any, Any, object], expected: bool) -> None:
        try:
            self.run(work)
        except GrantRefused:
            done = False
        else:
            done = True
        assert done is expected

    def digest(self, number: int) -> str:
        record = self.run(self.store.get(f"g-{number}"))
        return record.digest if record.extension is None else record.extension.digest

    @rule(number=numbers, actor=people)
    def approve(self, number: int, actor: Actor) -> None:
        if number < len(self.models):
            transition = life.approve(actor, digest=self.digest(number))
            self.attempt(number, transition, self.models[number].approve(actor))

    @rule(number=numbers, actor=people)
    def deny(self, number: int, actor: Actor) -> None:
        if number < len(self.models):
            self.attempt(number, life.deny(actor), self.models[number].deny(actor))

    @rule(number=numbers, actor=people, duration=st.sampled_from([1, 700, 1800]))
    def extend(self, number: int, actor: Actor, duration: int) -> None:
        if number < len(self.models):
            expected = self.models[number].extend(actor, duration)
            self.attempt(number, life.extend(actor, duration=duration, reason="more"), expected)

    @rule(number=numbers, actor=people)
    def give_back(self, number: int, actor: Actor) -> None:
        if number < len(self.models):
            model = self.models[number]
            own = actor.subject == model.holder.subject
            if model.state == "pending":
                self.attempt(number, life.cancel(actor), own and model.end(("pending",), "cancelled"))
            else:
                self.attempt(number, life.drop(actor), own and model.end(("active",), "dropped"))

    @rule(number=numbers, actor=people)
    def revoke(self, number: int, actor: Actor) -> None:
        if number < len(self.models):
            model = self.models[number]
            endable = ("pending", "active", "used-up") if model.left > 0 else ("pending", "active")
            expected = model.end(endable, "revoked")
            self.attempt(number, life.revoke(actor, reason="an incident"), expected)

    @rule(number=numbers)
    def use(self, number: int) -> None:
        if number < len(self.models):
            self.compare(self.store.use(f"g-{number}"), self.models[number].use())

    @rule(seconds=st.sampled_from([5, 300, 650]), swept=st.booleans())
    def wait(self, seconds: int, swept: bool) -> None:
        self.time.moved += seconds
        for model in self.models:
            model.wait(seconds)
        if swept:
            self.run(self.store.expire())

    @invariant()
    def all_are_as_the_model_says(self) -> None:
        self.run(self.store.expire())
        for number, model in enumerate(self.models):
            record = self.run(self.store.get(f"g-{number}"))
            assert record.state == model.state
            assert record.uses_left == model.uses
            assert (record.extension is None) is (model.extension is None or model.state != "active")
            times = [step.time for step in record.steps]
            assert times == sorted(times)
            assert {step.actor for step in record.steps if step.kind.endswith("approved")}.isdisjoint({record.owner})


def drive(made: Make, *, examples: int) -> None:
    class Driven(Life):
        make = staticmethod(made)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Driven, settings=settings(max_examples=examples, stateful_step_count=15, deadline=None, print_blob=True)
    )


def test_sqlite_does_what_the_model_does() -> None:
    with tempfile.TemporaryDirectory() as folder:
        drive(on_sqlite(Path(folder)), examples=25)


def test_postgresql_does_what_the_model_does(postgresql: PostgresServer) -> None:
    drive(on_postgresql(postgresql), examples=12)
