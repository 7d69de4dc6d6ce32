"""`make soak`: five hundred deaths of workers under load, in proxies of two that die five times each."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.killing import kill_workers

PROXIES = 100
KILLS = 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(PROXIES))
async def test_whatever_instant_a_worker_dies_at_the_trail_is_whole(opa_binary: Path, seed: int) -> None:
    outcome = await kill_workers(kills=KILLS, seed=1000 + seed)

    assert outcome.forwarded > 100
    assert (outcome.unrecorded, outcome.findings) == (set(), [])
    assert outcome.resumed > 0
    assert set(outcome.notes) <= {"resume", "torn", "open"}
