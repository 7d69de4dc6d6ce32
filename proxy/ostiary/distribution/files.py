"""A published bundle as a file in a directory, replaced as a whole, by one publisher at a time.

Whoever replaces one holds the lock of its directory (flock(2) on `.lock`), looks once more at what is there, and
renames. So a reader has one bundle or the other, and of two publishers the second sees what the first has done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ostiary.disk import replacing


class Identity(NamedTuple):
    """What tells a file from the one that had its name before."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class FileChanged(Exception):
    """Somebody else has published there meanwhile."""


def identify(path: Path) -> Identity | None:
    """None where there is no file. Raises OSError."""
    try:
        return Identity.of(path.stat())
    except FileNotFoundError:
        return None


def replace(path: Path, content: bytes, *, expected: Identity | None) -> Identity:
    """Put a file in the place of the one that was `expected` there, and make it last. Blocks.

    Raises `FileChanged` if something else is there by now, and OSError.
    """
    with _locked(path.parent):
        if identify(path) != expected:
            raise FileChanged
        put(path, content)
        return Identity.of(path.stat())


def put(path: Path, content: bytes) -> None:
    """Put a file there, in the place of whatever is there, and make it last. Blocks; raises OSError."""
    with replacing(path, mode=0o644) as file:
        file.write(content)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
