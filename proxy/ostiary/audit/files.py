"""The files of the audit: one directory, one file at a time per worker, only ever appended to.

    audit-<worker>-<UTC time>-<number>.ndjson      0600, in a directory made 0700

A name is used once and no file of an earlier run is opened again, so a last line that a death cut short is never
written behind. Names of a worker only ever go up, also when the machine's clock is set back, so their order is that
in which they were written. Only the writer's thread uses this; every call may block.

With a chain (`chain`) each file begins with what it goes on from. That is written together with the first lines: a
file in which nothing was recorded has nothing in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from ostiary.audit.chain import LONGEST, SEAL_BYTES, Chain, Link, Sealed
from ostiary.audit.keys import guard
from ostiary.clock import Clock
from ostiary.disk import sync_directory

_log = logging.getLogger("ostiary.audit")

AUDIT: Final = "audit"
CHECKPOINTS: Final = "checkpoints"

_NAME: Final = re.compile(r"([a-z]+)-([A-Za-z0-9_]{1,32})-(\d{8}T\d{9}Z)-(\d{6,})\.ndjson")
_WORKER: Final = re.compile(r"[A-Za-z0-9_]{1,32}")
_ATTEMPTS: Final = 1000  # names tried within one millisecond
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditFiles:
    """A `Sink` over a directory.

    `max_bytes` is the size at which the next file is begun; a group of lines is never split between two. With `keep`,
    the oldest files of this worker beyond that many are removed; without, none ever are. With `sync` each group is
    on the medium when `append` returns, otherwise with the operating system: it survives the death of the process but
    not the loss of power. `clock` is for the names; it is used by the writer's thread, so it is one of its own.
    `written` is told of each group once it is in the file. `prefix` is what names begin with.
    """

    def __init__(
        self,
        *,
        directory: Path,
        worker: str,
        clock: Clock,
        max_bytes: int,
        keep: int | None = None,
        sync: bool = False,
        chain: Chain | None = None,
        written: Callable[[bytes], None] | None = None,
        prefix: str = AUDIT,
    ) -> None:
        if not _WORKER.fullmatch(worker):
            raise ValueError(f"a worker is named by letters, digits and _, not {worker!r}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        if keep is not None and keep < 1:
            raise ValueError(f"keep is at least 1, not {keep}")
        self._directory = directory
        self._worker = worker
        self._clock = clock
        self._max_bytes = max_bytes
        self._keep = keep
        self._sync = sync
        self._chain = chain
        self._seals = 0 if chain is None else SEAL_BYTES
        self._written = written
        self._prefix = prefix
        self._floor: FileName | None = None  # the newest name that was there at the start, or that was given
        self._surveyed = False
        self._follows: Link | None = None
        self._lineage: list[FileName] = []  # of a chain: the files that this one goes on from, the oldest first
        self._pruned: list[str] = []  # removed, or about to be, and not yet said
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0

    def open(self) -> None:
        """Begin a file. Raises OSError."""
        guard(self._directory, "the directory")
        if not self._surveyed:
            self._survey()
        self._path, self._descriptor = self._create()
        self._size = 0
        try:
            if self._sync:
                sync_directory(self._directory)
        except OSError:
            self._leave()
            raise
        if self._chain is None:
            self._remove(self._superfluous())

    def append(self, lines: Sequence[bytes]) -> None:
        """Return once the operating system (with `sync`, the medium) has all of them. Raises OSError.

        After an error none of the lines counts as written. What was written of them is taken back where that is
        possible, and the file is left either way: the next `append` begins a new one.
        """
        # Twice, because a file that was removed underneath takes writes as if nothing had happened.
        for _ in range(2):
            descriptor = self._ready(sum(map(len, lines)) + self._seals * len(lines))
            sealed = self._sealed(lines)
            group = b"".join(lines) if sealed is None else sealed.text
            self._write(descriptor, group)
            if os.fstat(descriptor).st_nlink > 0:
                self._stands(len(group), sealed)
                if self._written is not None:
                    self._written(group)
                return
            self._leave()
        raise FileNotFoundError(errno.ENOENT, "audit files are removed while they are written", str(self._directory))

    def close(self) -> None:
        """Close the file, of a chain with its end; one in which nothing was written is removed."""
        if self._chain is not None and self._descriptor is not None and self._size > 0:
            with contextlib.suppress(OSError):  # what is missing is what a death would leave out
                self.append(self._chain.ending())
        self._leave()

    def _ready(self, length: int) -> int:
        overdue = self._chain is not None and self._chain.due
        if self._descriptor is not None and self._size > 0 and (overdue or self._size + length > self._max_bytes):
            self._leave()
        if self._descriptor is None:
            self.open()
        if self._descriptor is None:
            raise OSError(errno.EBADF, "no audit file is open")
        return self._descriptor

    def _sealed(self, lines: Sequence[bytes]) -> Sealed | None:
        if self._chain is None:
            return None
        if self._size == 0:
            for name in (path.name for path in self._superfluous()):
                if name not in self._pruned:
                    self._pruned.append(name)
            lines = [*self._chain.opening(self._follows, pruned=self._pruned), *lines]
        return self._chain.seal(lines)

    def _stands(self, length: int, sealed: Sealed | None) -> None:
        """A group is in the file."""
        self._size += length
        if sealed is None or self._chain is None or self._path is None:
            return
        self._chain.accept(sealed.head)
        if self._size == length:
            self._prune()
            if self._floor is not None:
                self._lineage.append(self._floor)

    def _here(self, *, torn: int = 0) -> None:
        """What the next file goes on from, if something was written in this one."""
        if self._chain is not None and self._path is not None and self._size > 0:
            chain, seq, mac = self._chain.head
            self._follows = Link(file=self._path.name, chain=chain, seq=seq, mac=mac, bytes=self._size, torn=torn)

    def _prune(self) -> None:
        """Remove what the file that was just begun says is removed: in this order, or nothing would tell why."""
        if self._pruned:
            self._remove([self._directory / name for name in self._pruned])
            self._pruned.clear()

    def _write(self, descriptor: int, group: bytes) -> None:
        rest = memoryview(group)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if self._sync:
                os.fsync(descriptor)
        except OSError:
            self._take_back(descriptor)
            raise

    def _take_back(self, descriptor: int) -> None:
        torn = 0
        try:
            os.ftruncate(descriptor, self._size)  # this process alone writes here
        except OSError:
            with contextlib.suppress(OSError):
                torn = os.fstat(descriptor).st_size - self._size
                if self._size == 0 and self._path is not None:
                    self._path.unlink()
        if self._size == 0:
            # The disk may be full of what was to be removed. It is said in the next file that can be written.
            self._remove([self._directory / name for name in self._pruned])
        self._leave(torn=torn)

    def _leave(self, *, torn: int = 0) -> None:
        self._here(torn=torn)
        descriptor, path = self._descriptor, self._path
        self._descriptor = self._path = None
        if descriptor is None or path is None:
            return
        with contextlib.suppress(OSError):
            # Else a full disk would collect one empty file for every attempt to go on.
            if os.fstat(descriptor).st_size == 0:
                path.unlink()
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def _survey(self) -> None:
        """What an earlier process of this worker has left. Once: after that this process knows."""
        left = file_names(self._directory, prefix=self._prefix, worker=self._worker)
        if left:
            self._floor = left[-1]
        if self._chain is not None:
            self._follows = last_link(self._directory, left)
            self._lineage = lineage(self._directory, left, self._follows)
        self._surveyed = True

    def _create(self) -> tuple[Path, int]:
        now = self._clock.now()
        stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}{int(now % 1 * 1000):03d}Z"
        floor = self._floor
        number = 0 if floor is None else floor.number
        if floor is not None and floor.stamp > stamp:
            stamp = floor.stamp
        for _ in range(_ATTEMPTS):
            number += 1
            self._floor = name = FileName(prefix=self._prefix, worker=self._worker, stamp=stamp, number=number)
            path = self._directory / str(name)
            with contextlib.suppress(FileExistsError):
                return path, os.open(path, _FLAGS, 0o600)
        raise FileExistsError(errno.EEXIST, "every name for an audit file is taken", str(self._directory))

    def _superfluous(self) -> list[Path]:
        """The oldest files beyond those that are kept."""
        if self._keep is None:
            return []
        if self._chain is not None:
            # Not what is in the directory: what somebody put there would have others removed, and be called ours.
            self._lineage = [name for name in self._lineage if (self._directory / str(name)).exists()]
            most = max(len(self._lineage) + 1 - self._keep, 0)
            return [self._directory / str(name) for name in self._lineage[:most]]
        try:
            names = file_names(self._directory, prefix=self._prefix, worker=self._worker)
        except OSError as error:
            _warn_of(error)
            return []
        found = [self._directory / str(name) for name in names[: -self._keep]]
        return [path for path in found if path != self._path]

    def _remove(self, paths: Sequence[Path]) -> None:
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            # No reason to refuse requests: there will be one if the disk is full of them.
            _warn_of(error)


def _warn_of(error: OSError) -> None:
    _log.warning("old audit files cannot be removed: %s", error)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FileName:
    """The name of a file, in the order in which those of a worker are written."""

    prefix: str
    worker: str
    stamp: str
    number: int

    def __str__(self) -> str:
        return f"{self.prefix}-{self.worker}-{self.stamp}-{self.number:06d}.ndjson"

    @classmethod
    def parse(cls, text: str) -> FileName | None:
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        return cls(prefix=found[1], worker=found[2], stamp=found[3], number=int(found[4]))


def file_names(directory: Path, *, prefix: str, worker: str | None = None) -> list[FileName]:
    """The files of a directory (of one worker), sorted. Raises OSError."""
    found = (FileName.parse(path.name) for path in directory.iterdir())
    return sorted(
        name
        for name in found
        if name is not None and name.prefix == prefix and (worker is None or name.worker == worker)
    )


def last_link(directory: Path, names: Sequence[FileName]) -> Link | None:
    """The last record that is whole in the newest of these files that has one: where the next file goes on.

    None if there is none, or if that file was written before there were chains. Raises OSError.
    """
    for name in reversed(names):
        with opened(directory / str(name)) as file:
            if file is None:
                continue
            first = file.readline(LONGEST)
            if not first.endswith(b"\n"):
                continue
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - LONGEST)
            file.seek(start)
            tail = file.read(LONGEST)
        whole = tail[: tail.rfind(b"\n") + 1]
        last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        return _link(name, first, last, end=start + len(whole), torn=len(tail) - len(whole))
    return None


def lineage(directory: Path, names: Sequence[FileName], link: Link | None) -> list[FileName]:
    """Those of these files that lead to this link, each going on from the one before it. Raises OSError."""
    before = {str(name): name for name in names}
    found: list[FileName] = []
    name = None if link is None else before.pop(link.file, None)
    while name is not None:
        found.append(name)
        with opened(directory / str(name)) as file:
            first = b"" if file is None else file.readline(LONGEST)
        try:
            name = before.pop(orjson.loads(first)["follows"]["file"], None)
        except (ValueError, TypeError, KeyError):
            break
    return found[::-1]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO | None]:
    """A regular file, opened without waiting for anything that was put in its place; None if it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOENT):
            raise
        yield None
        return
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        yield file if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _link(name: FileName, first: bytes, last: bytes, *, end: int, torn: int) -> Link | None:
    try:
        begin, record = orjson.loads(first), orjson.loads(last)
        return Link(
            file=str(name),
            chain=str(begin["chain"]),
            seq=int(record["seq"]),
            mac=str(record["mac"]),
            bytes=end,
            torn=torn,
            ended=record["kind"] == "end",
        )
    except (ValueError, TypeError, KeyError):
        return None  # of the time before there were chains, or damaged: verifying tells which
