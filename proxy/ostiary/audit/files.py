"""The files of the audit: one directory, one file at a time per worker, only ever appended to.

    audit-<worker>-<UTC time>-<number>.ndjson      0600, in a directory made 0700

A name is used once and no file of an earlier run is opened again, so a last line that a death cut short is never
written behind. Only the writer's thread uses this; every call may block.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ostiary.clock import Clock

_log = logging.getLogger("ostiary.audit")

_WORKER: Final = re.compile(r"[A-Za-z0-9_]{1,32}")
_ATTEMPTS: Final = 1000  # names tried within one millisecond
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditFiles:
    """A `Sink` over a directory.

    `max_bytes` is the size at which the next file is begun; a group of lines is never split between two. With `keep`,
    the oldest files of this worker beyond that many are removed; without, none ever are. With `sync` each group is
    on the medium when `append` returns, otherwise with the operating system: it survives the death of the process but
    not the loss of power. `clock` is for the names; it is used by the writer's thread, so it is one of its own.
    """

    def __init__(
        self, *, directory: Path, worker: str, clock: Clock, max_bytes: int, keep: int | None = None, sync: bool = False
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
        self._number = 0
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0

    def open(self) -> None:
        """Begin a file. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "others can write in the directory", str(self._directory))
        self._path, self._descriptor = self._create()
        self._size = 0
        try:
            if self._sync:
                self._sync_directory()
        except OSError:
            self._leave()
            raise
        try:
            self._remove_oldest()
        except OSError as error:
            # No reason to refuse requests: there will be one if the disk is full of them.
            _log.warning("old audit files cannot be removed: %s", error)

    def append(self, lines: Sequence[bytes]) -> None:
        """Return once the operating system (with `sync`, the medium) has all of them. Raises OSError.

        After an error none of the lines counts as written. What was written of them is taken back where that is
        possible, and the file is left either way: the next `append` begins a new one.
        """
        group = b"".join(lines)
        # Twice, because a file that was removed underneath takes writes as if nothing had happened.
        for _ in range(2):
            descriptor = self._ready(len(group))
            self._write(descriptor, group)
            if os.fstat(descriptor).st_nlink > 0:
                self._size += len(group)
                return
            self._leave()
        raise FileNotFoundError(errno.ENOENT, "audit files are removed while they are written", str(self._directory))

    def close(self) -> None:
        """Close the file; one in which nothing was written is removed."""
        self._leave()

    def _ready(self, length: int) -> int:
        if self._descriptor is not None and self._size > 0 and self._size + length > self._max_bytes:
            self._leave()
        if self._descriptor is None:
            self.open()
        if self._descriptor is None:
            raise OSError(errno.EBADF, "no audit file is open")
        return self._descriptor

    def _write(self, descriptor: int, group: bytes) -> None:
        rest = memoryview(group)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if self._sync:
                os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._size)  # this process alone writes here
            self._leave()
            raise

    def _leave(self) -> None:
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

    def _create(self) -> tuple[Path, int]:
        now = self._clock.now()
        stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}{int(now % 1 * 1000):03d}Z"
        for _ in range(_ATTEMPTS):
            self._number += 1
            path = self._directory / f"audit-{self._worker}-{stamp}-{self._number:06d}.ndjson"
            with contextlib.suppress(FileExistsError):
                return path, os.open(path, _FLAGS, 0o600)
        raise FileExistsError(errno.EEXIST, "every name for an audit file is taken", str(self._directory))

    def _remove_oldest(self) -> None:
        if self._keep is None:
            return
        ours = re.compile(rf"audit-{self._worker}-\d{{8}}T\d{{9}}Z-\d{{6,}}\.ndjson")
        names = sorted(path for path in self._directory.iterdir() if ours.fullmatch(path.name))
        for path in names[: -self._keep]:
            if path != self._path:
                path.unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
