"""What a bundle server serves: the bundles in a directory, kept in memory, and who waits for another one.

The directory is looked at fifty times a second: a file that was renamed into it is served at once, and so is what was
published through this server. A file that is no whole bundle is not served, and what had its name before still is; so
one that is being written may be seen at any moment. A file that is taken away is served no more.

What is put in the directory by hand is served whatever its sequence is, since only who put it there can have meant it;
the log warns of an older one. What is published through the server has to follow what is there, unless it is forced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import LARGEST_STATEMENT, Statement, statement_beside
from ostiary.distribution import files
from ostiary.distribution.archives import (
    LARGEST,
    NAME,
    Archive,
    BundleRefused,
    Examiner,
)

_log = logging.getLogger("ostiary.distribution")

_LOOK: Final = 0.02
"""Seconds between two looks at the directory, each of which costs a tenth of a millisecond."""
_ATTEMPTS: Final = 5


class Older(Exception):
    """It has a lower sequence than the revision that is published."""

    def __init__(self, revision: Revision, published: Revision) -> None:
        super().__init__(f"{revision} does not follow {published}, which is published")


class NotExpected(Exception):
    """What is published is not what the publisher believes it replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What has to be published for a publication to replace it (RFC 9110, section 13.1): one of these tags, or nothing
    at all. None: whatever there is."""

    match: tuple[str, ...] | None = None
    absent: bool = False

    def check(self, published: Archive | None) -> None:
        """Raises `NotExpected`."""
        if self.absent and published is not None:
            raise NotExpected
        if self.match is not None and (published is None or not {published.tag, "*"} & set(self.match)):
            raise NotExpected


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A bundle that is served, since this instant in Unix seconds."""

    name: str
    archive: Archive
    since: float


class Store:
    """`load` once, then keep `watch` running. All of it belongs to one event loop."""

    def __init__(self, directory: Path, *, examiner: Examiner) -> None:
        self._directory = directory
        self._examiner = examiner
        self._known: dict[str, files.Identity] = {}
        self._published: dict[str, Published] = {}
        self._changes: dict[str, asyncio.Future[None]] = {}
        self._changing = asyncio.Lock()
        self._troubled = False
        self._ended = False

    def get(self, name: str) -> Published | None:
        return self._published.get(name)

    def all(self) -> list[Published]:
        return sorted(self._published.values(), key=lambda one: one.name)

    def change(self, name: str) -> asyncio.Future[None]:
        """Done when another bundle has this name, or nobody should wait any longer. Not to be cancelled: it is shared.

        Of a name that is published. Nothing may be awaited since the look at that, so that nothing comes between.
        """
        found = self._changes.get(name)
        if found is None or found.done():
            found = self._changes[name] = asyncio.get_running_loop().create_future()
            if self._ended:
                found.set_result(None)
        return found

    @property
    def awaited(self) -> frozenset[str]:
        """The names of which another bundle is waited for, or was."""
        return frozenset(self._changes)

    def end(self) -> None:
        """Let all who wait go."""
        self._ended = True
        for name in tuple(self._changes):
            self._wake(name)

    async def load(self) -> None:
        """Read what is there. Raises OSError if the directory cannot be read."""
        async with self._changing:
            await self._take_over(await asyncio.to_thread(self._scan))

    async def watch(self) -> None:
        """Look for ever. Trouble with the directory is logged once, and what was published is served meanwhile."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                async with self._changing:
                    await self._take_over(await asyncio.to_thread(self._scan))
            except OSError as error:
                if not self._troubled:
                    _log.error("%s cannot be read: %s", self._directory, error.strerror)
                self._troubled = True
            else:
                self._troubled = False

    async def publish(self, name: str, content: bytes, *, condition: Condition, force: bool) -> Archive:
        """Serve this from now on; when it returns, the file will survive.

        Raises `BundleRefused`, `Older`, `NotExpected` and OSError, and then nothing has changed.
        """
        archive = await asyncio.to_thread(Archive.read, content, self._examiner)
        async with self._changing:
            for _ in range(_ATTEMPTS):
                await self._take_over(await asyncio.to_thread(self._scan))
                published = self._published.get(name)
                before = None if published is None else published.archive
                condition.check(before)
                if before is not None and not force and not archive.revision.may_follow(before.revision):
                    raise Older(archive.revision, before.revision)
                if before is not None and before.digest == archive.digest:
                    return archive
                try:
                    identity = await asyncio.to_thread(
                        files.replace, self._directory / name, content, expected=self._known.get(name)
                    )
                except files.FileChanged:
                    continue
                self._known[name] = identity
                self._serve(name, archive)
                return archive
        raise NotExpected

    async def statement(self, name: str) -> bytes | None:
        """What lies beside the bundle of this name; None where nothing does. Raises OSError."""
        return await asyncio.to_thread(self._beside, name)

    async def publish_statement(self, name: str, content: bytes) -> Statement:
        """Put it beside the bundle of this name; when it returns, the file will survive.

        Raises `BundleRefused` and OSError, and then nothing has changed.
        """
        statement = await asyncio.to_thread(self._examiner.statement, content)
        await asyncio.to_thread(files.put, statement_beside(self._directory / name), content)
        _log.warning("%s: proxies may go back from %s to %s by a statement", name, statement.back_from, statement.to)
        return statement

    def _beside(self, name: str) -> bytes | None:
        try:
            with statement_beside(self._directory / name).open("rb") as file:
                return file.read(LARGEST_STATEMENT + 1)
        except FileNotFoundError:
            return None

    def _scan(self) -> dict[str, files.Identity]:
        found = {}
        for path in self._directory.iterdir():
            if NAME.fullmatch(path.name):
                identity = files.identify(path)
                if identity is not None:
                    found[path.name] = identity
        return found

    async def _take_over(self, found: dict[str, files.Identity]) -> None:
        for name in self._known.keys() - found.keys():
            del self._known[name]
            if self._published.pop(name, None) is not None:
                _log.warning("%s is gone, and is not served any more", name)
                self._wake(name)
        for name, identity in found.items():
            if self._known.get(name) == identity:
                continue
            self._known[name] = identity
            try:
                archive = await asyncio.to_thread(self._read, name)
            except FileNotFoundError:
                continue  # the next look tells
            except OSError as error:
                _log.error("%s cannot be read: %s", name, error.strerror)
            except BundleRefused as error:
                _log.error("%s is not served: %s", name, error)
            except Exception:  # noqa: BLE001 - one file keeps no other from being served, now or later
                _log.exception("%s is not served", name)
            else:
                self._serve(name, archive)

    def _read(self, name: str) -> Archive:
        with (self._directory / name).open("rb") as file:
            content = file.read(LARGEST + 1)
        return Archive.read(content, self._examiner)

    def _serve(self, name: str, archive: Archive) -> None:
        before = self._published.get(name)
        if before is not None and before.archive.digest == archive.digest:
            return
        self._published[name] = Published(name=name, archive=archive, since=time.time())
        self._wake(name)
        if before is None:
            _log.info("%s: revision %s is served", name, archive.revision)
        elif archive.revision.may_follow(before.archive.revision):
            _log.info("%s: revision %s is served, it was %s", name, archive.revision, before.archive.revision)
        else:
            _log.warning(
                "%s: revision %s is served, older than %s before it: proxies that have that one refuse it",
                name,
                archive.revision,
                before.archive.revision,
            )

    def _wake(self, name: str) -> None:
        change = self._changes.pop(name, None)
        if change is not None and not change.done():
            change.set_result(None)
