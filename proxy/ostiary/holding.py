"""Whose a state directory is: one proxy's at a time.

Who starts makes the shared page, the board of grants and the sockets anew. A second proxy in the same directory,
started by mistake, would take them away from the first, whose workers would go on by what nobody writes to any more. So
a proxy holds a lock on a file in the directory, from before it makes anything in
it until its last worker has ended. The kernel gives it up when the proxy dies, however it dies; its workers, which may
take a moment longer to end, do not have it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ostiary.errors import ConfigurationError

_PATIENCE: Final = 1.0
"""Seconds for a lock to be given up: a child has its parent's until it becomes another program, a moment later."""
_TURN: Final = 0.02


@asynccontextmanager
async def held(directory: Path, *, patience: float = _PATIENCE) -> AsyncIterator[None]:
    """Hold the directory. Raises `ConfigurationError` with the id of the process that does, `OSError`."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + patience
        while not _locked(descriptor):
            if time.monotonic() > until:
                raise ConfigurationError(
                    [f"{directory}: is the state of another ostiary, which runs ({_who(descriptor)})"]
                )
            await asyncio.sleep(_TURN)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _who(descriptor: int) -> str:
    told = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return f"process {told}" if told.isdigit() else "it has not said which process it is"
