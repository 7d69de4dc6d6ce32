"""The bench of revocation, with few trials on a real proxy, and what it makes of what it saw."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from benchmarks.revoke import lookups, revoking, standing, streams
from benchmarks.revoke.__main__ import main
from benchmarks.revoke.connection import Answer
from benchmarks.revoke.proxies import SQLITE, proxies
from benchmarks.revoke.trials import Disk, Trial, milliseconds
from ostiary.grants.sqlite import SqliteStore


def test_a_few_trials_on_a_real_proxy() -> None:
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as place, proxies(Path(place), [SQLITE]) as (proxy,):
        revoked = asyncio.run(revoking.measured(proxy, 3, disk=Disk(Path(place))))
        cut = asyncio.run(streams.measured(proxy, 2))
        lost = asyncio.run(standing.measured(proxy, 1, place=Path(place)))
    assert [target.value for target in revoked.targets if target.bound == 0] == [0, 0, 0]
    row = revoked.members["revoking"]
    assert row["trials"] == 3
    assert row["disk"]["p50_ms"] > 0
    assert 0 < row["revoked"]["p50_ms"] <= row["revoked"]["p99_ms"] <= row["revoked"]["most_ms"]
    assert cut.members["streams"]["wrong"] == 0
    assert cut.members["streams"]["without_load"]["p99_ms"] > 0
    assert lost.members["standing"]["wrong"] == 0
    assert lost.members["standing"]["cut"]["p99_ms"] > 0


def answer(sent: float, status: int) -> Answer:
    return Answer(sent=sent, received=sent + 0.25, status=status, body=b"")


def test_what_was_sent_after_an_acknowledgement_counts() -> None:
    approval, revocation = answer(1.0, 200), answer(4.0, 200)
    seen = [
        answer(1.1, 403),  # sent before the approval was acknowledged
        answer(1.5, 403),
        answer(2.0, 200),
        answer(3.9, 403),  # on its way when the revocation was sent
        answer(4.2, 200),  # sent before that was acknowledged
        answer(4.5, 200),
        answer(5.0, 200),
        answer(6.0, 403),
    ]
    trial = Trial.of(seen, approval=approval, opened=2.25, revocation=revocation)
    assert (trial.refused, trial.allowed) == (1, 2)
    assert (trial.given, trial.opened, trial.taken, trial.closed) == (0.25, 1.0, 0.25, 1.0)


def test_nothing_after_the_acknowledgement_took_no_time() -> None:
    trial = Trial.of([], approval=answer(1, 200), opened=2, revocation=answer(3, 200))
    assert (trial.refused, trial.allowed, trial.closed) == (0, 0, 0)


def test_times_are_told_in_milliseconds() -> None:
    assert milliseconds([0.001, 0.002, 0.003]) == {"p50_ms": 2, "p99_ms": 3, "most_ms": 3}


async def test_the_grants_of_the_look_ups_are_active(tmp_path: Path) -> None:
    await lookups.fill(tmp_path / "grants.db", count=3)
    store = SqliteStore(tmp_path / "grants.db")
    news = await store.news(0)
    await store.close()
    assert sorted(held.subject for held in news.held if held.grant is not None) == ["person-1", "person-2", "web"]


def test_a_part_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["revocation"])
    assert "no part revocation: there are revoking, streams, standing, replicas, lookups" in capsys.readouterr().err
