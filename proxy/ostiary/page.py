"""What the supervisor tells its workers: a page of memory that they share, written by one and read by all.

A worker looks at it for every request, so looking is one read of memory; and what is written counts for every request
that is received afterwards, in every worker, whatever else that worker is busy with.

The page is a file in the state directory, mapped by each process. It holds a counter and two places for text; a text is
written to the place that nobody reads, then the counter moves. A writer that is killed half-way leaves what was there
before. Each text carries its number and a checksum: a machine that shows the counter before the text is asked again.
"""

from __future__ import annotations

import mmap
import os
import zlib
from pathlib import Path
from typing import Final

_SIZE: Final = 4096
_PLACES: Final = (64, 2048)
_ROOM: Final = 1024  # bytes for a text with its number and checksum; a revision has at most 148 characters


class Page:
    """Implements `decision.horizon.Announcements`. Made by `create`, or by `attach` to only read."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._words = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Page:
        """A new page at `path`, readable by this user alone. One that was there is left to those who have it."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, _SIZE)
            return cls(mmap.mmap(descriptor, _SIZE))
        finally:
            os.close(descriptor)

    @classmethod
    def attach(cls, path: Path) -> Page:
        """The page at `path`, to read. Raises `OSError`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls(mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._words.release()
        self._memory.close()

    @property
    def epoch(self) -> int:
        return self._words[0]

    def revision(self) -> str | None:
        """What was announced last. None if nothing was, or if it cannot be seen yet."""
        epoch = self._words[0]
        place = _PLACES[epoch % 2]
        number, _, rest = bytes(self._memory[place : place + _ROOM]).rstrip(b"\0").partition(b" ")
        text, _, checksum = rest.partition(b" ")
        if number != b"%d" % epoch or checksum != _checksum(number, text):
            return None
        return text.decode("ascii")

    def announce(self, revision: str) -> None:
        """From now on this revision counts. Raises `ValueError` for what is no revision."""
        text = revision.encode("ascii")
        if b" " in text or b"\0" in text or len(text) > _ROOM // 2:
            raise ValueError("a revision is one short word")
        epoch = self._words[0] + 1
        number = b"%d" % epoch
        place = _PLACES[epoch % 2]
        content = b" ".join((number, text, _checksum(number, text)))
        self._memory[place : place + _ROOM] = content.ljust(_ROOM, b"\0")
        self._words[0] = epoch


def _checksum(number: bytes, text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(number + b" " + text)
