"""Any sequence of what operators do, of time, of audits that are full and of boards that are written anew: a worker
refuses exactly those who are blocked, and the file that outlives the board has them, with both stores."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable, IdentityBlocked
from ostiary.grants.active import ActiveGrants
from ostiary.grants.blocking import BlockService
from ostiary.grants.blocklist import BoardBlocklist
from ostiary.grants.blocks import BlockSelection
from ostiary.grants.board import Board
from ostiary.grants.memory import BlockMemory
from ostiary.grants.publisher import Publisher
from ostiary.marks import Mark, key_mark, subject_mark
from ostiary.models import Identity, Json
from support.grants import ANN, IDP, Make, MovedTime, on_postgresql, on_sqlite
from support.postgresql import PostgresServer

T = TypeVar("T")

MARKS: tuple[Mark, ...] = (subject_mark(IDP, "eve"), subject_mark(IDP, "web"), key_mark(IDP, "k1"))
marks = st.sampled_from(MARKS)


class Audit:
    full = False

    async def step(self, document: Mapping[str, Json], *, kind: str = "grant") -> None:
        if self.full:
            raise AuditUnavailable("no space left")


class Blocks(RuleBasedStateMachine):
    make: Make

    def __init__(self) -> None:
        super().__init__()
        self.time, self.audit = MovedTime(), Audit()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        self.store = self.run(type(self).make(self.time))
        self.board = Board.create(path / "grants")
        self.memory = BlockMemory(path / "blocks.json")
        self.publisher = Publisher(self.store, self.board, clock=SystemClock(), memory=self.memory)
        self.service = BlockService(store=self.store, publisher=self.publisher, audit=self.audit)
        self.worker = self.another()
        self.left: dict[Mark, float | None] = {}  # seconds until the end of what is in force, None for never
        self.unrecorded: set[Mark] = set()  # whose end is not in the audit
        self.run(self.publisher.publish())

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return self.loop.run_until_complete(waited())

    def another(self) -> ActiveGrants:
        return ActiveGrants(self.board, monotonic=SystemClock().monotonic)

    def teardown(self) -> None:
        self.run(self.service.close())
        self.run(self.store.close())
        self.worker.close()
        self.board.close()
        self.loop.close()
        self.folder.cleanup()

    @rule(mark=marks, duration=st.sampled_from([None, 100, 1000]))
    def block(self, mark: Mark, duration: int | None) -> None:
        self.run(self.service.block(mark, ANN.owner, reason="an incident", duration=duration))
        before = self.left.get(mark, 0.0)
        self.left[mark] = None if before is None or duration is None else max(before, duration)

    @rule(mark=marks)
    def lift(self, mark: Mark) -> None:
        for block in self.run(self.store.find_blocks(BlockSelection())):
            if block.mark == mark:
                try:
                    self.run(self.service.lift(block.id, ANN.owner, reason="over"))
                except AuditUnavailable:
                    self.unrecorded.add(mark)
                del self.left[mark]

    @rule(seconds=st.sampled_from([53.0, 507.0]))  # by no sum of these is anything due to the second
    def wait(self, seconds: float) -> None:
        self.time.moved += seconds
        self.left = {mark: None if left is None else left - seconds for mark, left in self.left.items()}

    @rule()
    def tidy(self) -> None:
        due = {mark for mark, left in self.left.items() if left is not None and left <= 0}
        self.left = {mark: left for mark, left in self.left.items() if mark not in due}
        self.unrecorded |= due
        try:
            self.run(self.service.tidy())
        except AuditUnavailable:
            self.run(self.publisher.publish())
        else:
            self.unrecorded.clear()

    @rule(full=st.booleans())
    def audit_fills(self, full: bool) -> None:
        self.audit.full = full

    @rule()
    def shorten(self) -> None:
        self.board.shorten()

    @rule()
    def forget(self) -> None:
        """The board is written anew, from the store."""
        self.board.replace([], store="another", change=0)
        self.run(self.publisher.publish())

    @rule()
    def start_anew(self) -> None:
        self.worker.close()
        self.worker = self.another()

    @invariant()
    def exactly_those_are_refused_who_are_blocked(self) -> None:
        blocked = self.left.keys() | self.unrecorded
        remembered = self.memory.recall()
        assert remembered is not None
        assert {one.mark for one in remembered.blocks} == blocked
        for mark in MARKS:
            assert self.refuses(mark) is (mark in blocked)

    def refuses(self, mark: Mark) -> bool:
        blocklist = BoardBlocklist(self.board, self.worker)
        subject = mark[2] if mark[0] == "subject" else "somebody"
        identity = Identity(
            issuer=IDP, subject=subject, method="jwt", expires_at=0, proved_by=() if mark[0] == "subject" else (mark,)
        )
        try:
            blocklist.check(identity)
        except IdentityBlocked:
            return True
        return False


def drive(made: Make, *, examples: int) -> None:
    class Driven(Blocks):
        make = staticmethod(made)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Driven, settings=settings(max_examples=examples, stateful_step_count=12, deadline=None, print_blob=True)
    )


def test_with_sqlite_exactly_those_are_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        drive(on_sqlite(Path(folder)), examples=10)


def test_with_postgresql_exactly_those_are_refused(postgresql: PostgresServer) -> None:
    drive(on_postgresql(postgresql), examples=4)
