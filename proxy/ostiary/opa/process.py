"""One OPA process: started on a leash, its log folded into ours, and ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final, Self

from ostiary.opa.archive import Verification
from ostiary.opa.logs import LogFolder
from ostiary.opa.probe import OpaNotReady

_LEASH: Final = Path(__file__).with_name("leash.py")
_PASSED_ON: Final = (
    "PATH",
    "HOME",
    "TMPDIR",
    "TZ",
    "GOMAXPROCS",
    "GOMEMLIMIT",
    "GOGC",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""The variables of our environment that OPA gets. Not all: Rego can read it (`opa.runtime`), and secrets are in it."""
DEFAULTS: Final = {"GOGC": "200"}
"""Decisions are garbage as soon as they are answered: collecting half as often saves a tenth of OPA's time, and costs
27 MB on a map of 100,000 permissions (89 to 116 MB under load). What the environment says goes before."""
_GRACE: Final = 2  # seconds for OPA to finish what it is answering


def command(*, binary: Path, bundle: Path, socket: Path, verification: Verification | None = None) -> list[str]:
    """The command line of an OPA that serves `bundle` on `socket` (mode 0660) and talks to nobody else."""
    verified = ["--skip-verify"]
    if verification is not None:
        verified = [
            f"--verification-key={verification.key}",
            f"--verification-key-id={verification.key_id}",
            f"--scope={verification.scope}",
            f"--signing-alg={verification.algorithm}",
        ]
    return [
        str(binary),
        "run",
        "--server",
        f"--addr=unix://{socket}",
        "--unix-socket-perm=660",
        "--skip-version-check",
        "--log-format=json",
        "--log-level=info",
        "--log-level-request=debug",  # else two lines for every decision
        f"--shutdown-grace-period={_GRACE}",
        "--ignore=*_test.rego",
        *verified,
        f"--bundle={bundle}" if str(bundle).startswith("-") else "--bundle",
        str(bundle),
    ]


class OpaProcess:
    """A running OPA. Made by `start`, ended by `stop`."""

    def __init__(self, *, process: asyncio.subprocess.Process, pipe: int | None, logs: LogFolder) -> None:
        self._process = process
        self._pipe = pipe
        self._logs = logs
        self._folding = asyncio.create_task(self._fold(), name="ostiary-opa-log")

    @classmethod
    async def start(
        cls,
        *,
        binary: Path,
        bundle: Path,
        socket: Path,
        verification: Verification | None = None,
        with_pipe: bool | None = None,
        niceness: int = 0,
    ) -> Self:
        """Start OPA in a session of its own, so that a Ctrl-C meant for the proxy does not end it first.

        `with_pipe` chooses the leash (see `leash`); None is the one of this system. Raises `OpaNotReady`.
        """
        if not sys.executable:
            raise OpaNotReady("OPA cannot be started: this Python does not know its own executable")
        if with_pipe if with_pipe is not None else sys.platform != "linux":
            theirs, ours = os.pipe()
        else:
            theirs, ours = None, None
        pipe = "-" if theirs is None else str(theirs)
        leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), pipe, str(niceness)]
        try:
            process = await asyncio.create_subprocess_exec(
                *leash,
                *command(binary=binary, bundle=bundle, socket=socket, verification=verification),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=DEFAULTS | {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                start_new_session=True,
                pass_fds=() if theirs is None else (theirs,),
            )
        except OSError as error:
            if ours is not None:
                os.close(ours)
            raise OpaNotReady(f"OPA cannot be started: {error.strerror}") from error
        finally:
            if theirs is not None:
                os.close(theirs)
        return cls(process=process, pipe=ours, logs=LogFolder())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None

    async def wait(self) -> str:
        """Wait until it has ended; how, and what it last complained about, in one line."""
        code = await self._process.wait()
        await asyncio.shield(self._folding)
        self._unleash()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        said = " / ".join(self._logs.tail)
        return f"OPA {how}; last output: {said}" if said else f"OPA {how}"

    async def stop(self) -> None:
        """End it: let it finish what it is answering, then kill it. Returns when it is gone."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(_GRACE + 1):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        finally:
            if not self.ended:  # cancelled: no time left for manners
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._process.wait()
        await asyncio.shield(self._folding)
        self._unleash()

    async def _fold(self) -> None:
        if self._process.stdout is not None:
            await self._logs.fold(self._process.stdout)

    def _unleash(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
