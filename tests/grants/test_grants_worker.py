"""What a worker does beside its requests goes on, whatever comes of it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ostiary.clock import SystemClock
from ostiary.config import load_config
from ostiary.credential import SigningKey
from ostiary.errors import AccessError
from ostiary.granting.stores import grant_store
from ostiary.granting.worker import WorkerGrants
from ostiary.grants import Board, GrantFeed, Publisher
from ostiary.grants.blocking import BlockService
from ostiary.grants.policy import NOTHING, About
from ostiary.marks import subject_mark
from ostiary.models import AccessRequest, Identity, Json
from support.audit import until
from support.files import CONFIG
from support.grants import ANN, IDP


class Audit:
    """A `BlockLog` that keeps nothing."""

    async def step(self, document: Mapping[str, Json], *, kind: str = "grant") -> None: ...


class NobodyAsks:
    """An `AccessPolicy`."""

    async def about(self, request: AccessRequest, asked: Mapping[str, Json] = NOTHING) -> About:
        raise NotImplementedError


class Exchanges:
    """`OpenExchanges` that come upon a mistake of their own at the first `mistakes` cuts."""

    def __init__(self, *, mistakes: int) -> None:
        self.cuts, self._mistakes = 0, mistakes

    def cut(self, concerns: Callable[[Identity], bool], refusal: Callable[[], AccessError]) -> int:
        self.cuts += 1
        if self.cuts <= self._mistakes:
            raise IndexError
        return 0

    def judge(self, concerns: Callable[[Identity], bool]) -> int:
        return 0


async def test_no_unforeseen_error_ends_the_look_for_what_has_to_be_cut(tmp_path: Path) -> None:
    """Nor is a cut that failed the last one: whoever is blocked would keep what is open."""
    path = tmp_path / "ostiary.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    config, clock = load_config(path, {}), SystemClock()
    assert config.grants is not None
    config.state.mkdir(parents=True, exist_ok=True)
    board, store, audit = Board.create(config.grant_board), grant_store(config.grants), Audit()
    publisher = Publisher(store, board, clock=clock)
    feed = GrantFeed(publisher, store)
    blocks = BlockService(store=store, publisher=publisher, audit=audit)
    worker = WorkerGrants(
        config, config.grants, audit=audit, policy=NobodyAsks(), clock=clock, key=SigningKey.generate("EdDSA")
    )
    exchanges = Exchanges(mistakes=2)
    worker.cut(exchanges)
    await feed.start()
    await worker.start()
    await blocks.block(subject_mark(IDP, "eve"), ANN.owner, reason="an incident")
    await until(lambda: exchanges.cuts == 3)
    await blocks.block(subject_mark(IDP, "web"), ANN.owner, reason="an incident")
    await until(lambda: exchanges.cuts == 4)
    await worker.close()
    await blocks.close()
    await feed.close()
    await store.close()
    board.close()
