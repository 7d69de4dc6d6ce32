"""`ostiary` as a program: the demo as it is run from a shell, and the signs of life that it gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.faults import all_gone, descendants

OSTIARY = (sys.executable, "-m", "ostiary")


@dataclass
class Program:
    """A program that runs, and what it has written."""

    process: asyncio.subprocess.Process
    output: Path
    began: float

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    async def writes(self, text: str, *, seconds: float = 60.0) -> float:
        """Wait until it has written this; seconds since it was started."""
        while text not in self.text:
            assert self.process.returncode is None, self.text
            assert time.monotonic() - self.began < seconds, self.text
            await asyncio.sleep(0.02)
        return time.monotonic() - self.began

    async def end(self, number: int) -> tuple[int, float]:
        """Send it a signal: its exit status, and the seconds until it and everything it started had ended."""
        family = descendants(self.process.pid)
        began = time.monotonic()
        self.process.send_signal(number)
        status = await asyncio.wait_for(self.process.wait(), 60)
        await all_gone(family)
        return status, time.monotonic() - began


@asynccontextmanager
async def program(
    *command: str, home: Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Run a command whose state is kept in `home`. What still runs at the end is killed."""
    variables = {**os.environ, "XDG_STATE_HOME": str(home), **(environment or {})}
    with tempfile.TemporaryFile() as output:
        path = Path(f"/proc/self/fd/{output.fileno()}")
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, env=variables, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield Program(process, path, began)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def demo_check(
    ostiary: Sequence[str] = OSTIARY, *, home: Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Take the demo's tour by itself, demand that it ends well and with nothing left over; its outcomes."""
    async with program(*ostiary, "demo", "--check", "--json", home=home, cwd=cwd, environment=environment) as demo:
        family: set[int] = set()
        async with asyncio.timeout(120):
            while demo.process.returncode is None:
                family.update(descendants(demo.process.pid))
                await asyncio.sleep(0.2)
        assert demo.process.returncode == 0, demo.text
        await all_gone(list(family))
        outcomes: list[dict[str, Any]] = json.loads(demo.text)
        return outcomes
