"""Whatever a sink does: who was let through has a line, who has none was refused, and writing goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.audit import FileAuditLog
from ostiary.clock import SystemClock
from ostiary.errors import AuditUnavailable
from support.audit import ScriptedSink, Stages, exchange, forward, until

OUTCOMES = st.sampled_from([None, None, OSError(errno.ENOSPC, "full"), OSError("odd"), RuntimeError("unforeseen")])


async def answer(carried: object) -> None:
    await carried.respond(200, [], b"{}")  # type: ignore[attr-defined]


@settings(max_examples=40, deadline=None)
@given(
    script=st.lists(OUTCOMES, max_size=6),
    bursts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    pauses=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_each_request_is_either_let_through_and_recorded_or_refused_and_recorded(
    script: list[Exception | None], bursts: list[int], pauses: list[bool]
) -> None:
    async def main() -> None:
        sink = ScriptedSink(script)
        log = FileAuditLog(sink=sink, worker="w0", clock=SystemClock(), deadline=60)  # a busy machine refuses nothing
        await log.start()
        let_through = 0

        async def carry(carried: object) -> None:
            nonlocal let_through
            let_through += 1
            await answer(carried)

        pipeline = Stages(upstream=carry).pipeline(log)
        for burst, pause in zip(bursts, pauses, strict=False):
            await asyncio.gather(*(pipeline(*Stages().asgi()) for _ in range(burst)))
            if pause:
                await asyncio.sleep(0.02)
        await until(lambda: log.health().writable)
        await log.close()

        lines = [json.loads(line) for line in sink.lines]
        ids = {
            kind: {line["decision_id"] for line in lines if line["kind"] == kind} for kind in ("decision", "refusal")
        }
        kinds = Counter(line["kind"] for line in lines)
        assert kinds["decision"] == kinds["completion"] == let_through
        assert kinds["decision"] + kinds["refusal"] == sum(bursts)
        assert not ids["decision"] & ids["refusal"]
        assert sum(line["refused"] for line in lines if line["kind"] == "outage") == kinds["refusal"]
        assert log.health().lost == 0

    asyncio.run(main())


class HeldSink(ScriptedSink):
    """Fails the first group, and takes the second only when it is let go."""

    def __init__(self) -> None:
        super().__init__([OSError(errno.ENOSPC, "full")])
        self.trying, self.go_on = threading.Event(), threading.Event()
        self._groups = 0

    def append(self, lines: Sequence[bytes]) -> None:
        self._groups += 1
        if self._groups == 2:
            self.trying.set()
            assert self.go_on.wait(10)
        super().append(lines)


async def test_who_is_refused_while_an_outage_ends_is_counted_too() -> None:
    sink = HeldSink()
    log = FileAuditLog(sink=sink, worker="w0", clock=SystemClock())
    await log.start()
    with pytest.raises(AuditUnavailable):
        await forward(log)
    await until(sink.trying.is_set)
    for _ in range(3):
        with pytest.raises(AuditUnavailable):
            await forward(log)
    sink.go_on.set()
    await until(lambda: log.health().writable)
    await log.close()

    first, second = (line for line in map(json.loads, sink.lines) if line["kind"] == "outage")
    assert (first["refused"], second["refused"]) == (1, 3)
    assert second["since"] == first["time"]
    assert second["error"] == first["error"] == "the audit cannot be written: ENOSPC"


async def test_an_end_during_an_outage_tries_until_its_deadline() -> None:
    sink = ScriptedSink([OSError(errno.EIO, "bad")] * 3)
    log = FileAuditLog(sink=sink, worker="w0", clock=SystemClock())
    await log.start()
    with pytest.raises(AuditUnavailable, match="cannot be written: EIO"):
        await forward(log)
    await log.close()

    assert [json.loads(line)["kind"] for line in sink.lines] == ["outage", "refusal"]


async def test_lines_after_the_end_are_counted() -> None:
    sink = ScriptedSink()
    log = FileAuditLog(sink=sink, worker="w0", clock=SystemClock())
    await log.start()
    late = exchange()
    with log.record(late):
        await log.close()

    assert (sink.lines, log.health().lost) == ([], 1)
