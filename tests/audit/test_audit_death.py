"""What is promised of a process that dies, and of a disk that is full, tried on real processes.

`make soak` kills five hundred times (tests/soak).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ostiary.audit import AuditFiles, AuditTrail, FileAuditLog
from ostiary.clock import SystemClock
from support.audit import forward, lines, until
from support.trail import Place, chained, notes, verified, written

TESTS = Path(__file__).resolve().parent.parent

WRITER = """
import asyncio, os, sys
from pathlib import Path
from support.audit import exchange, let_through
from support.trail import Place, trail_log

async def caller(log):
    while True:
        carried = exchange()
        with log.record(carried) as record:
            await let_through(record)
            os.write(1, carried.id.encode() + b"\\n")  # the upstream would be called now
            await carried.respond(200, [], b"{}")

async def main():
    log = trail_log(Place(Path(sys.argv[1])), max_bytes=200_000)
    await log.start()
    await asyncio.gather(*(caller(log) for _ in range(8)))

asyncio.run(main())
"""

# The limit on a file's size stands for a full disk: the write is cut short, and the next one fails.
FULL = """
import asyncio, json, resource, sys
from pathlib import Path
from support.audit import forward
from support.trail import Place, trail_log
from ostiary.errors import AuditUnavailable

async def burst(log):
    results = await asyncio.gather(*(forward(log) for _ in range(30)), return_exceptions=True)
    strange = [r for r in results if not isinstance(r, (str, AuditUnavailable))]
    if strange:
        raise strange[0]
    return [r for r in results if isinstance(r, str)]

async def main():
    log = trail_log(Place(Path(sys.argv[1])))
    await log.start()
    before = await burst(log)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    full = await burst(log)
    error = log.health().error
    refused_at_once = await burst(log)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    while not log.health().writable:
        await asyncio.sleep(0.01)
    after = await burst(log)
    await log.close()
    print(json.dumps([before, full, refused_at_once, after, error]))

asyncio.run(main())
"""


def program(source: str, directory: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen([sys.executable, "-c", source, str(directory)], stdout=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_that_was_let_through_has_its_line_when_the_process_is_killed(tmp_path: Path, seed: int) -> None:
    """And the trail is whole: the process that comes next goes on, and says so."""
    place, chance = Place(tmp_path), random.Random(seed)
    acknowledged: set[str] = set()
    for _ in range(2):
        acknowledged |= killed(tmp_path, after=chance.uniform(0, 0.15))
    assert len(acknowledged) > 1
    written(place, [[1]])

    recorded = set()
    for path in place.files():
        *whole, _ = path.read_bytes().split(b"\n")
        recorded |= {line["decision_id"] for line in map(json.loads, whole) if line["kind"] == "decision"}
    assert acknowledged <= recorded
    report = verified(place)
    assert report.findings == []
    assert notes(report).count("resume") == 2
    assert set(notes(report)) <= {"resume", "torn"}


class SlowDisk(AuditTrail):
    """A trail whose every other group takes longer than a request waits."""

    def __init__(self, files: AuditFiles) -> None:
        super().__init__(files, worker="w0", clock=SystemClock())
        self._slow = False

    def append(self, lines: Sequence[bytes]) -> None:
        self._slow = not self._slow
        if self._slow:
            time.sleep(0.15)
        super().append(lines)


async def test_a_slow_disk_refuses_what_it_records_too_late_and_its_chain_is_whole(tmp_path: Path) -> None:
    place = Place(tmp_path)
    files, _ = chained(place)
    log = FileAuditLog(sink=SlowDisk(files), worker="w0", clock=SystemClock(), deadline=0.05)
    await log.start()
    let_through: set[str] = set()
    for _ in range(6):
        results = await asyncio.gather(*(forward(log) for _ in range(5)), return_exceptions=True)
        let_through |= {one for one in results if isinstance(one, str)}
        await until(lambda: log.health().writable)
    await asyncio.sleep(0.3)
    await log.close()

    recorded = {line["decision_id"] for line in lines(place.audit) if line["kind"] == "decision"}
    assert let_through <= recorded
    assert [one for one in verified(place).remarks if one.kind != "open"] == []


def killed(directory: Path, *, after: float) -> set[str]:
    """Start a writer, kill it after so many seconds, and return the ids of what it had let through."""
    process = program(WRITER, directory)
    stdout = process.stdout
    assert stdout is not None
    first = stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    let_through = (first + stdout.read()).split()
    process.wait()
    stdout.close()
    return {one.decode() for one in let_through if len(one) == 32}


def test_a_full_disk_refuses_requests_and_loses_none_that_was_let_through(tmp_path: Path) -> None:
    process = program(FULL, tmp_path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    before, full, refused_at_once, after, error = json.loads(output)
    place = Place(tmp_path)

    assert (len(before), full, refused_at_once, len(after)) == (30, [], [], 30)
    assert error == "the audit cannot be written: EFBIG"
    found = lines(place.audit)  # every line of every file is whole
    for kind in ("decision", "completion"):
        assert {line["decision_id"] for line in found if line["kind"] == kind} == {*before, *after}
    (outage,) = (line for line in found if line["kind"] == "outage")
    assert outage["refused"] == 60
    assert sum(line["kind"] == "refusal" for line in found) == 60
    assert verified(place).remarks == []
