"""A state directory is one proxy's at a time, and another's as soon as that one has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ostiary.errors import ConfigurationError
from ostiary.holding import held

HOLDER = """\
import asyncio, subprocess, sys
from pathlib import Path
from ostiary.holding import held

async def hold() -> None:
    async with held(Path(sys.argv[1])):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(child.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


def holder(place: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A process that holds it, and the id of its child."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


async def test_it_is_held_by_one_at_a_time_and_who_that_is_is_told(tmp_path: Path) -> None:
    async with held(tmp_path):
        with pytest.raises(ConfigurationError) as refused:
            async with held(tmp_path, patience=0.05):
                pass
        told = f"{tmp_path}: is the state of another ostiary, which runs (process {os.getpid()})"
        assert tuple(refused.value.mistakes) == (told,)
    async with held(tmp_path):
        pass


async def test_who_was_killed_holds_nothing_though_its_children_live(tmp_path: Path) -> None:
    process, child = holder(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match=f"process {process.pid}"):
            async with held(tmp_path, patience=0.05):
                pass
        process.kill()
        async with held(tmp_path):
            os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)
        process.wait()
