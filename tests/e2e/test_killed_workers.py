"""Workers of a real proxy are killed under load, at instants that a seed chooses. `make soak` does it more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.killing import kill_workers


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_request_is_forwarded_without_its_record_and_the_trail_is_whole(opa_binary: Path, seed: int) -> None:
    outcome = await kill_workers(kills=6, seed=seed)

    assert outcome.forwarded > 100
    assert (outcome.unrecorded, outcome.findings) == (set(), [])
    assert outcome.resumed > 0
    assert set(outcome.notes) <= {"resume", "torn", "open"}
