"""What is promised of a process that dies, and of a disk that is full, tried on real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.audit import lines

TESTS = Path(__file__).resolve().parent.parent

WRITER = """
import asyncio, os, sys
from pathlib import Path
from support.audit import credential, decision, exchange, file_log, identity, request, target

async def caller(log):
    while True:
        carried = exchange()
        with log.record(carried) as record:
            record.resolved(target())
            record.identified(identity())
            record.decided(request(), decision())
            await record.commit(credential())
            os.write(1, carried.id.encode() + b"\\n")  # the upstream would be called now
            await carried.respond(200, [], b"{}")

async def main():
    log = file_log(Path(sys.argv[1]), max_bytes=200_000)
    await log.start()
    await asyncio.gather(*(caller(log) for _ in range(8)))

asyncio.run(main())
"""

# The limit on a file's size stands for a full disk: the write is cut short, and the next one fails.
FULL = """
import asyncio, json, resource, sys
from pathlib import Path
from support.audit import file_log, forward
from ostiary.errors import AuditUnavailable

async def burst(log):
    results = await asyncio.gather(*(forward(log) for _ in range(30)), return_exceptions=True)
    strange = [r for r in results if not isinstance(r, (str, AuditUnavailable))]
    if strange:
        raise strange[0]
    return [r for r in results if isinstance(r, str)]

async def main():
    log = file_log(Path(sys.argv[1]), max_bytes=1 << 20)
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


@pytest.mark.parametrize("seed", range(6))
def test_every_request_that_was_let_through_has_its_line_when_the_process_is_killed(tmp_path: Path, seed: int) -> None:
    process = program(WRITER, tmp_path)
    stdout = process.stdout
    assert stdout is not None
    first = stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    let_through = (first + stdout.read()).split()
    process.wait()
    stdout.close()

    recorded = set()
    for path in tmp_path.iterdir():
        *whole, rest = path.read_bytes().split(b"\n")
        recorded |= {line["decision_id"] for line in map(json.loads, whole) if line["kind"] == "decision"}
        assert rest == b"" or not rest.endswith(b"}")
    acknowledged = {one.decode() for one in let_through if len(one) == 32}
    assert len(acknowledged) > 1
    assert acknowledged <= recorded


def test_a_full_disk_refuses_requests_and_loses_none_that_was_let_through(tmp_path: Path) -> None:
    process = program(FULL, tmp_path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    before, full, refused_at_once, after, error = json.loads(output)

    assert (len(before), full, refused_at_once, len(after)) == (30, [], [], 30)
    assert error == "the audit cannot be written: EFBIG"
    found = lines(tmp_path)  # every line of every file is whole
    for kind in ("decision", "completion"):
        assert {line["decision_id"] for line in found if line["kind"] == kind} == {*before, *after}
    (outage,) = (line for line in found if line["kind"] == "outage")
    assert outage["refused"] == 60
    assert sum(line["kind"] == "refusal" for line in found) == 60
