"""The log on real files and real pipes: what waits, what is bounded, and what happens when the disk does not answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ostiary.audit import AuditHealth, FileAuditLog
from ostiary.audit.losses import NAMED
from ostiary.clock import ManualClock, SystemClock
from ostiary.errors import AuditUnavailable, HostUnknown, IdentityInvalid, MessageMalformed
from support.audit import (
    PipeSink,
    Stages,
    credential,
    decision,
    exchange,
    file_log,
    forward,
    identity,
    lines,
    names,
    request,
    until,
    written,
)


def kinds(directory: Path) -> list[str]:
    return [line["kind"] for line in lines(directory)]


@pytest.fixture
async def pipe() -> AsyncIterator[PipeSink]:
    sink = PipeSink()
    yield sink
    sink.drain()  # whoever is blocked gets on
    if await asyncio.to_thread(sink.closed.wait, 5):
        os.close(sink.reader)


def pipe_log(sink: PipeSink, **settings: Any) -> FileAuditLog:
    return FileAuditLog(sink=sink, worker="w0", clock=SystemClock(), **{"deadline": 0.2, **settings})


async def test_a_committed_decision_is_in_the_file_when_commit_returns(tmp_path: Path) -> None:
    log = file_log(tmp_path)
    await log.start()
    carried = exchange()
    with log.record(carried) as record:
        record.decided(request(), decision())
        await record.commit(credential())
        assert [(line["kind"], line["decision_id"]) for line in lines(tmp_path)] == [("decision", carried.id)]
    await log.close()

    assert kinds(tmp_path) == ["decision", "completion"]


async def test_rotation_under_concurrency_loses_nothing_and_splits_nothing(tmp_path: Path) -> None:
    log = file_log(tmp_path, max_bytes=20_000)
    await log.start()

    async def caller() -> list[str]:
        return [await forward(log) for _ in range(25)]

    ids = [one for many in await asyncio.gather(*(caller() for _ in range(40))) for one in many]
    await log.close()

    found = lines(tmp_path)
    assert len(names(tmp_path)) > 20
    for kind in ("decision", "completion"):
        assert sorted(line["decision_id"] for line in found if line["kind"] == kind) == sorted(ids)
    order = {(line["decision_id"], line["kind"]): place for place, line in enumerate(found)}
    assert all(order[one, "decision"] < order[one, "completion"] for one in ids)


async def test_a_completion_is_written_soon_without_another_request(tmp_path: Path) -> None:
    log = file_log(tmp_path)
    await log.start()
    await forward(log)
    await until(lambda: kinds(tmp_path) == ["decision", "completion"])
    await log.close()


async def test_two_workers_share_a_directory_and_no_file(tmp_path: Path) -> None:
    logs = [file_log(tmp_path, worker=worker) for worker in ("w0", "w1")]
    for log in logs:
        await log.start()
        await forward(log)
        await log.close()

    assert [name.split("-")[1] for name in names(tmp_path)] == ["w0", "w1"]
    assert len(lines(tmp_path)) == 4


async def test_an_audit_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit").write_bytes(b"")
    with pytest.raises(AuditUnavailable, match="audit"):
        await file_log(tmp_path / "audit").start()


async def test_before_the_start_and_after_the_end_nothing_is_let_through(tmp_path: Path) -> None:
    log = file_log(tmp_path)
    with pytest.raises(AuditUnavailable):
        await forward(log)
    await log.start()
    await log.close()
    with pytest.raises(AuditUnavailable):
        await forward(log)
    await log.close()


async def test_a_disk_that_does_not_answer_refuses_by_the_deadline_and_blocks_nobody(pipe: PipeSink) -> None:
    log = pipe_log(pipe)
    await log.start()
    pipe.fill()
    began = time.monotonic()
    refused = [asyncio.ensure_future(forward(log)) for _ in range(5)]
    longest, last = 0.0, began
    while not all(task.done() for task in refused):
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()

    assert all(isinstance(task.exception(), AuditUnavailable) for task in refused)
    assert 0.15 < time.monotonic() - began < 1
    assert longest < 0.15

    began = time.monotonic()
    with pytest.raises(AuditUnavailable):
        await forward(log)
    assert time.monotonic() - began < 0.1  # no deadline is waited for twice
    assert log.health().error == "the audit was not written within 0.2 s"

    seen = b""

    async def read() -> None:
        nonlocal seen
        while not log.health().writable:
            seen += pipe.drain()
            await asyncio.sleep(0.01)

    await asyncio.wait_for(read(), 5)
    allowed = await forward(log)
    await log.close()
    found = [json.loads(line) for line in (seen + pipe.drain()).splitlines() if line]
    (outage,) = (line for line in found if line["kind"] == "outage")
    assert outage == {
        "schema": 1,
        "kind": "outage",
        "time": outage["time"],
        "worker": "w0",
        "since": outage["since"],
        "error": "the audit was not written within 0.2 s",
        "refused": 6,
    }
    assert outage["since"] < outage["time"]
    assert [line["kind"] for line in found if line.get("decision_id") == allowed] == ["decision", "completion"]


async def test_an_end_does_not_wait_for_a_disk_that_does_not_answer(
    pipe: PipeSink, caplog: pytest.LogCaptureFixture
) -> None:
    log = pipe_log(pipe)
    await log.start()
    pipe.fill()
    with pytest.raises(AuditUnavailable):
        await forward(log)
    began = time.monotonic()
    await log.close()

    assert time.monotonic() - began < 1
    assert "could not be written at the end" in caplog.text


async def test_a_full_queue_refuses_and_counts(pipe: PipeSink, caplog: pytest.LogCaptureFixture) -> None:
    log = pipe_log(pipe, deadline=5, queue_bytes=8000)
    await log.start()
    pipe.fill()
    waiting = [asyncio.ensure_future(forward(log)) for _ in range(5)]
    await asyncio.sleep(0.05)
    with pytest.raises(AuditUnavailable, match="queue is full"):
        await forward(log)
    for _ in range(20):
        log.refused(MessageMalformed(), decision_id="d-1", peer="10.0.0.9")

    assert log.health().backlog <= 8000
    assert log.health().lost >= 20
    while not all(task.done() for task in waiting):
        pipe.drain()
        await asyncio.sleep(0.01)
    assert [task.exception() for task in waiting] == [None] * 5
    await log.close()


async def test_the_audit_goes_on_by_itself_when_its_directory_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    log = file_log(directory, deadline=2)
    await log.start()
    first = await forward(log)
    await until(lambda: len(lines(directory)) == 2)
    shutil.move(directory, tmp_path / "old")
    for path in (tmp_path / "old").iterdir():
        shutil.copy(path, tmp_path / path.name)
        path.unlink()
    directory.write_bytes(b"in the way")

    carried = exchange()
    with log.record(carried) as record:
        record.identified(identity())
        record.decided(request(), decision())
        with pytest.raises(AuditUnavailable, match="cannot be written: EEXIST") as refused:
            await record.commit(credential())
        record.refused(refused.value)
    assert log.health() == AuditHealth(
        writable=False,
        error="the audit cannot be written: EEXIST",
        backlog=log.health().backlog,
        lines=2,
        bytes=log.health().bytes,
        lost=0,
    )

    directory.unlink()
    await until(lambda: log.health().writable)
    second = await forward(log)
    await log.close()

    assert [(line["kind"], line.get("decision_id")) for line in lines(directory)] == [
        ("outage", None),
        ("refusal", carried.id),
        ("decision", second),
        ("completion", second),
    ]
    assert [line["decision_id"] for line in lines(tmp_path)] == [first, first]


async def test_a_commit_that_is_cancelled_harms_nobody_else(tmp_path: Path) -> None:
    log = file_log(tmp_path)
    await log.start()
    doomed = [asyncio.ensure_future(forward(log)) for _ in range(5)]
    others = [asyncio.ensure_future(forward(log)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in doomed:
        task.cancel()
    ids = await asyncio.gather(*others)
    await asyncio.gather(*doomed, return_exceptions=True)
    await log.close()

    found = lines(tmp_path)
    assert {line["decision_id"] for line in found if line["kind"] == "completion"} == set(ids)
    assert [line["outcome"] for line in found if line["kind"] == "refusal"] == ["cancelled"] * 5


async def test_strangers_beyond_their_quota_are_counted_and_reported_in_one_line(tmp_path: Path) -> None:
    log = file_log(tmp_path, strangers_per_second=0.001, strangers_burst=3, report_interval=0.05)
    await log.start()
    for index in range(10):
        refusal = HostUnknown() if index % 2 else IdentityInvalid()
        stages = Stages(resolve=refusal) if index % 2 else Stages(identify=refusal)
        await stages.pipeline(log)(*stages.asgi())
    log.refused(MessageMalformed(), decision_id="d-1", peer="10.0.0.9")
    await until(lambda: "lost" in kinds(tmp_path))
    await forward(log)
    await log.close()

    found = lines(tmp_path)
    assert [line["kind"] for line in found] == ["refusal"] * 3 + ["lost", "decision", "completion"]
    assert found[3] == {
        "schema": 1,
        "kind": "lost",
        "time": found[3]["time"],
        "worker": "w0",
        "since": found[3]["since"],
        "over_quota": {"host-unknown": 4, "identity-invalid": 3, "message-malformed": 1},
        "identities": [],
        "other_identities": {},
        "no_room": {},
    }
    assert log.health().lost == 8


async def test_the_quota_of_strangers_fills_again_and_binds_nobody_identified(tmp_path: Path) -> None:
    clock = ManualClock()
    log = file_log(tmp_path, clock=clock, strangers_per_second=2, strangers_burst=1)
    await log.start()
    for _ in range(3):
        log.refused(MessageMalformed(), decision_id="d-1", peer=None)
    clock.advance(0.5)
    log.refused(MessageMalformed(), decision_id="d-1", peer=None)
    for _ in range(5):
        stages = Stages(decide=decision(allow=False, reasons=("permission-missing",)))
        await stages.pipeline(log)(*stages.asgi())
    await log.close()

    found = [(line["kind"], *line.get("reasons", [])) for line in lines(tmp_path)]
    denied = [("refusal", "permission-missing")] * 5
    assert found == [("refusal", "message-malformed")] * 2 + denied + [("lost",)]


async def refused(log: FileAuditLog, subject: str, *reasons: str) -> None:
    for reason in reasons:
        stages = Stages(identify=identity(subject=subject), decide=decision(allow=False, reasons=(reason,)))
        await stages.pipeline(log)(*stages.asgi())


async def test_what_an_identity_is_refused_beyond_its_quota_is_counted_as_its_own(tmp_path: Path) -> None:
    """Others have theirs, and so have strangers; whoever is let through has both lines, whatever was refused before."""
    log = file_log(
        tmp_path, clock=ManualClock(), refusals_per_second=1, refusals_burst=2, strangers_burst=1, report_interval=0.05
    )
    await log.start()
    await refused(log, "web", "permission-missing", "unknown-endpoint", "permission-missing", "unknown-endpoint")
    await refused(log, "web", "permission-missing")
    await refused(log, "other", "permission-missing")
    log.refused(MessageMalformed(), decision_id="d-1", peer=None)
    allowed = await forward(log)
    await until(lambda: "lost" in kinds(tmp_path))
    await log.close()

    found = lines(tmp_path)
    (lost,) = (line for line in found if line["kind"] == "lost")
    web = {"permission-missing": 2, "unknown-endpoint": 1}
    assert lost == {
        "schema": 1,
        "kind": "lost",
        "time": lost["time"],
        "worker": "w0",
        "since": lost["since"],
        "over_quota": {},
        "identities": [{"issuer": "https://idp.test", "subject": "web", "over_quota": web}],
        "other_identities": {},
        "no_room": {},
    }
    subjects = [line["identity"] and line["identity"]["subject"] for line in found if line["kind"] == "refusal"]
    assert subjects == ["web", "web", "other", None]
    assert [line["kind"] for line in found if line.get("decision_id") == allowed] == ["decision", "completion"]
    assert log.health().lost == 3


async def test_the_quota_of_an_identity_is_shared_by_its_tokens_and_fills_again(tmp_path: Path) -> None:
    clock = ManualClock()
    log = file_log(tmp_path, clock=clock, refusals_per_second=2, refusals_burst=1)
    await log.start()
    for claims, seconds in (({"n": 1}, 0.0), ({"n": 2}, 0.0), ({"n": 3}, 0.5)):
        clock.advance(seconds)
        stages = Stages(identify=identity(claims=claims), decide=decision(allow=False, reasons=("permission-missing",)))
        await stages.pipeline(log)(*stages.asgi())
    await log.close()

    subjects = [line["input"]["subject"] for line in lines(tmp_path) if line["kind"] == "refusal"]
    assert [subject["properties"]["claims"] for subject in subjects] == [{"n": 1}, {"n": 3}]


async def test_a_report_names_so_many_identities_and_counts_the_others(tmp_path: Path) -> None:
    log = file_log(tmp_path, refusals_burst=0, refusals_per_second=0)
    await log.start()
    for number in range(NAMED + 3):
        await refused(log, f"{number}-{'x' * 1000}", "permission-missing")
    await log.close()

    (lost,) = lines(tmp_path)
    assert len(lost["identities"]) == NAMED
    assert lost["identities"][0]["subject"] == f"0-{'x' * 510}[+490]"
    assert lost["other_identities"] == {"permission-missing": 3}
    assert log.health().lost == NAMED + 3


async def test_what_a_request_brings_stays_on_its_line(tmp_path: Path) -> None:
    log = file_log(tmp_path)
    await log.start()
    attack = 'x"}\n{"kind":"decision"}\r\n\u202e\x00\x7f\u00e9'
    proven = identity(subject=attack, claims={attack: [attack]}, token_id=attack)
    stages = Stages(identify=proven, decide=decision(allow=False, reasons=(f"policy-denied: {attack}",)))
    hostile = attack.encode()
    await stages.pipeline(log)(
        *stages.asgi(raw_path=hostile, query=hostile, headers=[(b"host", hostile), (b"user-agent", hostile)])
    )
    log.refused(MessageMalformed(attack), decision_id="d-1", peer=attack, method=attack, target=hostile, host=hostile)
    await log.close()

    assert written(tmp_path).count(b"\n") == 2
    assert not set(written(tmp_path)) & ({*range(0x20), *range(0x7F, 0x100)} - {0x0A})
    judged, parsed = lines(tmp_path)
    assert (judged["kind"], judged["identity"]["subject"]) == ("refusal", attack)
    assert judged["input"]["subject"]["properties"]["claims"] == {attack: [attack]}
    assert parsed["detail"] == attack


@pytest.mark.parametrize("settings", [{"strangers_burst": -1}, {"refusals_per_second": -0.1}])
def test_no_quota_is_negative(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        file_log(tmp_path, **settings)


@pytest.mark.parametrize("settings", [{"deadline": 0}, {"queue_bytes": 0}, {"report_interval": 0}])
def test_settings_without_a_bound_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above zero"):
        file_log(tmp_path, **settings)
