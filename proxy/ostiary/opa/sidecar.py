"""OPA as a child process: started, watched, restarted, replaced when its bundle is, and ended with the proxy.

One directory (0700) holds the socket that everybody uses, `opa.sock`. Every OPA listens on a socket of its own beside
it and takes that name over (rename(2)) once it is ready. So a new bundle costs no request: while OPA with the old one
still answers, another is started with the new one, and clients go over to it with their next question (`OpaTransport`
sees that the socket is another). The old one is ended a moment later.

The bundle directory or archive is what is published. A bundle that may not be used (`vetting`: an older one, or one
that fails its probe) is not taken over, and is logged as an error for as long as it is there. What became active is
kept in the directory, `bundle.tar.gz` or `bundle`: it serves when OPA, or the proxy, is started again and what is
published then may not be loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ostiary.addresses import SOCKET_PATH_BYTES
from ostiary.decision.revision import Revision
from ostiary.errors import PolicyUnavailable
from ostiary.opa.address import OpaAddress
from ostiary.opa.archive import Verification
from ostiary.opa.bundle import BundleError, PublishedBundle, remove
from ostiary.opa.client import OpaClient
from ostiary.opa.monitor import State
from ostiary.opa.probe import OpaNotReady, wait_until_ready
from ostiary.opa.process import OpaProcess
from ostiary.opa.vetting import Vetting

_log = logging.getLogger("ostiary.opa")

SOCKET: Final = "opa.sock"
"""The name in the directory by which clients reach whichever OPA serves."""
_KEPT: Final = {True: "bundle.tar.gz", False: "bundle"}
"""What was active last, by whether it is an archive."""
_STAGED: Final = "staged"
_LINGER: Final = 1.0
"""Seconds for which a replaced OPA is kept: longer than a question to it, asked just before, can take."""
_STABLE: Final = 30.0
"""Seconds of serving after which a death counts as the first one again."""


class ManagedOpa:
    """Owned by the supervisor, open (`async with`) as long as the proxy runs. Opening returns with OPA serving.

    `verification` says whose signature the bundle must have, which then is an archive.
    `directory` is made if it is absent; without one a temporary one is used. `start_timeout`, `interval` (between two
    looks at the bundle) and `longest_pause` (between two attempts with one bundle) are in seconds. `on_active` is
    told of each bundle that clients reach from now on. `restarts` counts the attempts to start it again after it ended.
    `vetting` says which bundle may be used; `refused` is why the published one is not, None where it is.
    `niceness` is by how much OPA stands back behind other processes (nice(1)).
    """

    def __init__(
        self,
        *,
        binary: Path,
        bundle: Path,
        verification: Verification | None = None,
        vetting: Vetting | None = None,
        directory: Path | None = None,
        on_active: Callable[[Revision], None] = lambda _: None,
        start_timeout: float = 30.0,
        interval: float = 1.0,
        first_pause: float = 0.1,
        longest_pause: float = 10.0,
        niceness: int = 0,
    ) -> None:
        self._binary = binary
        self._bundle = PublishedBundle(bundle)
        self._verification = verification
        self._vetting = vetting or Vetting()
        self._given_directory = directory
        self._on_active = on_active
        self._start_timeout = start_timeout
        self._interval = interval
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._niceness = niceness
        self._resources = contextlib.ExitStack()
        self._directory = Path()
        self._generation = 0
        self._process: OpaProcess | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._revision: Revision | None = None
        self.state: State = "starting"
        self.refused: str | None = None
        self.restarts = 0

    @property
    def address(self) -> OpaAddress:
        """Where clients reach it, whichever process serves. Known once it is open."""
        return OpaAddress(socket=self._directory / SOCKET)

    @property
    def revision(self) -> str | None:
        """The revision of the bundle that was taken over last."""
        return None if self._revision is None else str(self._revision)

    @property
    def pid(self) -> int | None:
        """The process that serves, if one does."""
        return None if self._process is None or self._process.ended else self._process.pid

    async def __aenter__(self) -> Self:
        """Raises `OpaNotReady`, with OPA's own words, if OPA does not come up with this bundle."""
        try:
            self._prepare_directory()
            await self._revive()
        except BaseException:
            await self._end()
            raise
        self.state = "serving"
        self._spawn(self._supervise(), "ostiary-opa-supervisor")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = "down"
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        try:
            if self._process is not None:
                await self._process.stop()
        finally:
            self._resources.close()

    def _prepare_directory(self) -> None:
        if self._given_directory is None:
            self._directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-opa-")))
        else:
            self._directory = _private(self._given_directory.absolute())
        if len(os.fsencode(self._directory / "opa-000000.sock")) > SOCKET_PATH_BYTES:
            raise OpaNotReady(f"the path {self._directory} is too long for a unix socket: choose a shorter directory")
        self._lock()
        self._resources.callback(self._clear)
        self._clear()

    def _lock(self) -> None:
        """Two owners would take the socket from each other. The kernel lifts the lock with the owner's end."""
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._resources.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OpaNotReady(f"the directory {self._directory} is used by another ostiary") from error

    def _clear(self) -> None:
        """Remove sockets, also those that an owner which was killed has left."""
        for socket in self._directory.glob("opa*.sock"):
            socket.unlink(missing_ok=True)

    async def _revive(self) -> None:
        """Start an OPA with what is published or, if that may not be, with the archive that was active last."""
        try:
            await self._launch(self._bundle)
        except OpaNotReady as error:
            kept = self._kept()
            if kept is None:
                raise
            self.refused = str(error)
            _log.error("the published bundle is not taken over, the one that was active last is: %s", error)
            await self._launch(kept)

    def _kept(self) -> PublishedBundle | None:
        """What was active last, if there is something. Where a signature is wanted, it has to have one, too."""
        kept = next((one for one in self._places() if one.path.exists()), None)
        if kept is None:
            return None
        try:
            kept.revision()
        except BundleError as error:
            _log.error("%s", error)
            return None
        return kept

    def _places(self) -> list[PublishedBundle]:
        """Where what was active is kept: one of the two is there, and where a signature is wanted only an archive."""
        forms = (True,) if self._verification is not None else (True, False)
        return [PublishedBundle(self._directory / _KEPT[form]) for form in forms]

    async def _launch(self, bundle: PublishedBundle) -> None:
        """Start an OPA with that bundle as it is now, wait until it is ready, and give it the socket's name.

        The one before it is ended a moment later."""
        await self._vetting.admit(self._stated(bundle))
        staged = await asyncio.to_thread(self._stage, bundle)
        self._generation += 1
        socket = self._directory / f"opa-{self._generation:06}.sock"
        process = await OpaProcess.start(
            binary=self._binary,
            bundle=staged.path,
            socket=socket,
            verification=self._verification,
            niceness=self._niceness,
        )
        try:
            revision = await self._ready(process, socket, staged, published=bundle.path)
            self._take_over(staged, revision, socket)
        except BaseException:
            await process.stop()
            socket.unlink(missing_ok=True)
            raise
        replaced, self._process = self._process, process
        if replaced is not None and not replaced.ended:
            self._spawn(self._retire(replaced), "ostiary-opa-retire")
        if bundle is self._bundle:
            self.refused = None
        self._on_active(revision)
        before, self._revision = self._revision, revision  # after it: who could not be told is told again
        if before is not None and before != revision:
            _log.info("the bundle %s is active, it was %s (OPA is process %d)", revision, before, process.pid)
        else:
            _log.info("OPA (process %d) serves the bundle %s", process.pid, revision)

    def _take_over(self, staged: PublishedBundle, revision: Revision, socket: Path) -> None:
        """From now on it is what counts. It is kept and remembered before anybody reaches it."""
        try:
            staged.keep(self._directory / _KEPT[staged.is_archive])
            for other in (self._directory / name for form, name in _KEPT.items() if form != staged.is_archive):
                remove(other)
            self._vetting.took(revision)
            socket.replace(self._directory / SOCKET)
        except OSError as error:
            raise OpaNotReady(f"the bundle {revision} cannot be kept: {error.strerror}") from error

    def _stage(self, bundle: PublishedBundle) -> PublishedBundle:
        try:
            return bundle.stage(self._directory / _STAGED, self._verification)
        except BundleError as error:
            raise OpaNotReady(str(error)) from error

    async def _ready(self, process: OpaProcess, socket: Path, bundle: PublishedBundle, *, published: Path) -> Revision:
        async with OpaClient(address=OpaAddress(socket=socket), deadline=self._start_timeout) as client:
            waiting = asyncio.ensure_future(
                wait_until_ready(client, accept=partial(self._expect, bundle), patience=self._start_timeout)
            )
            ending = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    raise OpaNotReady(ending.result().replace(str(bundle.path), str(published)))
                return waiting.result()
            finally:
                waiting.cancel()
                ending.cancel()
                await asyncio.gather(waiting, ending, return_exceptions=True)

    async def _expect(self, bundle: PublishedBundle, found: Revision) -> None:
        if found != (awaited := self._stated(bundle)):
            raise PolicyUnavailable(f"its bundle is {found} where {awaited} is expected")
        await self._vetting.admit(found)

    def _stated(self, bundle: PublishedBundle) -> Revision:
        try:
            return bundle.revision()
        except BundleError as error:
            raise OpaNotReady(str(error)) from error

    async def _supervise(self) -> None:
        while True:
            try:
                await self._look_after()
            except Exception:  # noqa: BLE001 - a dead OPA would stay dead, and an old bundle active, without a word
                self.state = "down"
                _log.exception("OPA could not be looked after, the next attempt is in %.1f s", self._longest_pause)
            await asyncio.sleep(self._longest_pause)

    async def _look_after(self) -> None:
        self.state = "down" if self.pid is None else "serving"
        loop = asyncio.get_running_loop()
        pause, since = self._first_pause, loop.time()
        tried, retry_at = self._bundle.stamp(), 0.0
        while self._process is not None:
            if said := await self._ended_within(self._process, self._interval):
                self.state = "down"
                _log.error("%s", said)
                pause = self._first_pause if loop.time() - since > _STABLE else pause
                pause = await self._restart(pause)
                since = loop.time()
            elif self._is_outdated() and ((stamp := self._bundle.stamp()) != tried or loop.time() >= retry_at):
                tried = stamp
                if not await self._replace():
                    retry_at = loop.time() + self._longest_pause

    async def _ended_within(self, process: OpaProcess, seconds: float) -> str | None:
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            return None

    async def _restart(self, pause: float) -> float:
        """Start OPA again, with a pause before each attempt that doubles; the pause for the next death."""
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._longest_pause)
            self.restarts += 1
            try:
                await self._revive()
            except OpaNotReady as error:
                _log.error("OPA is down, the next attempt is in %.1f s: %s", pause, error)
            else:
                self.state = "serving"
                return pause

    def _is_outdated(self) -> bool:
        try:
            return self._bundle.revision() != self._revision
        except BundleError:
            return False  # being replaced, or gone: the monitor sees how long that lasts

    async def _replace(self) -> bool:
        """Put an OPA with the new bundle in the place of the old one; False if that one has to stay."""
        try:
            await self._launch(self._bundle)
        except OpaNotReady as error:
            self.refused = str(error)
            _log.error("the new bundle is not taken over, %s stays active: %s", self._revision, error)
            return False
        return True

    async def _retire(self, old: OpaProcess) -> None:
        try:
            await asyncio.sleep(_LINGER)
        finally:
            await old.stop()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _private(directory: Path) -> Path:
    """The directory, ours and closed to others: who can write in it can answer in OPA's place."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OpaNotReady(f"{directory} is not a directory of this user alone: it has to have mode 0700")
    return directory
