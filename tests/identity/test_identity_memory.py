"""What a worker knows of an issuer that cannot be reached when it is started: what the one before it was told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import JwksUrl, ListenerAuthenticator, RefreshSettings, build_authenticator
from support.identity import Issuer, KeyServer, RawServer, SigningKey, bearing, jwks, raw_server, settings

REFRESH = RefreshSettings(deadline=10, wait=10)
ROTATED = SigningKey(id="k2", material="second")


@asynccontextmanager
async def worker(
    server: RawServer, memory: Path, clock: ManualClock, *, path: str = "jwks"
) -> AsyncIterator[ListenerAuthenticator]:
    url = JwksUrl(url=f"http://127.0.0.1:{server.port}/{path}")
    built = build_authenticator([settings(url)], clock=clock, refresh=REFRESH, memory=memory)
    await built.start()
    try:
        yield built
    finally:
        await built.close()


async def knows(built: ListenerAuthenticator, token: str) -> bool:
    try:
        return (await built.identify(bearing(token))).subject == "web"
    except IdentityInvalid:
        return False


def kept_in(memory: Path) -> Path:
    (kept,) = memory.iterdir()
    return kept


def modes(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "issuer-keys"


@pytest.fixture
async def left(memory: Path, clock: ManualClock, issuer: Issuer) -> AsyncIterator[tuple[RawServer, KeyServer]]:
    """A worker has come and gone, and so has the issuer."""
    served = KeyServer(jwks(issuer.key))
    async with raw_server(served) as server:
        async with worker(server, memory, clock) as built:
            assert await knows(built, issuer.token())
        served.raw = b""
        yield server, served


async def test_the_next_worker_knows_the_keys_and_forgets_them_when_this_one_would_have(
    left: tuple[RawServer, KeyServer], memory: Path, clock: ManualClock, issuer: Issuer
) -> None:
    assert (modes(memory), modes(kept_in(memory))) == (0o700, 0o600)
    clock.advance(REFRESH.max_age - 60)
    async with worker(left[0], memory, clock) as built:
        assert await knows(built, issuer.token())
        (health,) = built.health()
        assert (health.ready, health.age, health.failure) == (True, REFRESH.max_age - 60, "unreachable")
        clock.advance(60)
        assert not await knows(built, issuer.token())
    async with worker(left[0], memory, clock) as built:
        assert not await knows(built, issuer.token())
        assert [health.ready for health in built.health()] == [False]


async def test_what_the_issuer_says_counts_as_soon_as_it_says_it(
    left: tuple[RawServer, KeyServer], memory: Path, clock: ManualClock, issuer: Issuer
) -> None:
    left[1].raw, left[1].document = None, jwks(ROTATED)
    for _ in range(2):
        async with worker(left[0], memory, clock) as built:
            assert not await knows(built, issuer.token())
            assert await knows(built, Issuer(clock=clock, key=ROTATED).token())
        left[1].raw = b""


async def test_another_address_is_another_memory(
    left: tuple[RawServer, KeyServer], memory: Path, clock: ManualClock, issuer: Issuer
) -> None:
    async with worker(left[0], memory, clock, path="moved") as built:
        assert not await knows(built, issuer.token())


def _shared(kept: Path) -> None:
    kept.chmod(0o620)


def _to_come(kept: Path) -> None:
    os.utime(kept, (kept.stat().st_mtime + 60,) * 2)


def _a_link(kept: Path) -> None:
    kept.rename(kept.with_name("away"))
    kept.symlink_to("away")


def _a_pipe(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept, 0o600)


def _broken(kept: Path) -> None:
    time = kept.stat().st_mtime
    kept.write_bytes(kept.read_bytes()[:-1])
    os.utime(kept, (time, time))


def _large(kept: Path) -> None:
    time = kept.stat().st_mtime
    kept.write_bytes(kept.read_bytes() + b" " * 300_000)
    os.utime(kept, (time, time))


@pytest.mark.parametrize("changed", [_shared, _to_come, _a_link, _a_pipe, _broken, _large])
async def test_what_cannot_be_believed_is_not(
    left: tuple[RawServer, KeyServer],
    memory: Path,
    clock: ManualClock,
    issuer: Issuer,
    changed: Callable[[Path], None],
) -> None:
    changed(kept_in(memory))
    async with worker(left[0], memory, clock) as built:
        assert not await knows(built, issuer.token())


async def test_a_directory_that_takes_nothing_keeps_nobody_out(
    tmp_path: Path, clock: ManualClock, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        raw_server(KeyServer(jwks(issuer.key))) as server,
        worker(server, tmp_path / "nowhere" / "issuer-keys", clock) as built,
    ):
        assert await knows(built, issuer.token())
    assert [one.message for one in caplog.records if "cannot be kept" in one.message] != []
