"""What has been used once, for all workers of a machine: a table in a file that each of them maps.

Nobody owns it. A worker takes the lock of the file (`flock`, which the kernel gives back when its holder dies, by
`kill -9` too), looks for the digest, writes it into a free place, and lets go: some microseconds. A place is written in
such an order that a worker that is killed half-way leaves it free; what it was about to admit was not admitted. The
lock is asked for and never waited for: who does not get it soon is refused with a 503, so that a worker that hangs with
it stops no event loop.

*Bounded.* The table has a fixed number of places, in buckets of 64; a digest has one bucket. Its bucket is chosen by a
secret of the table, so that nobody can aim at one. Where all places of a bucket hold what is not yet too old, a new
digest is refused: to forget one early would let it be used again. At half load that happens by chance once in many
millions.

*No clock.* What was used is kept by when it was issued, which its signer wrote and no clock of ours changes; a clock
says only whose place may be taken. The table keeps the latest instant of issue of all that it had to forget, and
refuses what was issued up to then. So nothing is used twice, whichever worker's clock is ahead or behind, whatever was
stepped forth or back, and also if the time that a proof is good for was made longer. And a clock that was ahead for a
while costs what was really forgotten meanwhile, nothing if there was room, not all proofs until the time it had shown.

*From the beginning.* The file stays from start to start. One that has to be made anew (the first start, another size,
or something that is no table) refuses what was issued before it began, which might have been used, and what was issued
up to the latest proof in the table that it replaces. One that began in what is the future now began when a clock was
ahead: it begins at this start.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import mmap
import os
import secrets
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from ostiary.errors import Overloaded

_MAGIC: Final = b"ostiary-replay-2"
_HEADER: Final = 4096
_SECRET: Final = slice(64, 96)
_GEOMETRY: Final = struct.Struct("<16sQd")  # magic, buckets, when it began
_BEGAN: Final = struct.Struct("<d")
_BEGAN_AT: Final = 24
_INSTANT: Final = struct.Struct("<Q")  # whole Unix seconds; 0 is none
_FORGOTTEN_AT: Final = 48  # the latest issue of what was forgotten
_NEWEST_AT: Final = 56  # the latest issue of what was used
_PLACES: Final = 64
_DIGEST: Final = 24  # bytes kept of each: enough for two never to be taken for one another
_ISSUES: Final = struct.Struct(f"<{_PLACES}Q")
_BUCKET: Final = _PLACES * (_DIGEST + _INSTANT.size)

_CHUNK: Final = 1024 * 1024
_PATIENCE: Final = 0.25
_PAUSE: Final = 0.001


class ReplayTable:
    """Implements `dpop.ReplayStore`. Made by `create`, once on a machine, and used by whoever does `attach`."""

    def __init__(self, descriptor: int, memory: mmap.mmap) -> None:
        self._descriptor = descriptor
        self._memory = memory
        _, self._buckets, self._began = _GEOMETRY.unpack_from(memory, 0)
        self._secret = bytes(memory[_SECRET])

    @classmethod
    def create(cls, path: Path, *, capacity: int, now: float) -> None:
        """See to it that there is a table of at least `capacity` places at `path`, readable by this user alone.

        `now` is in Unix seconds. One that is there and fits is left as it is, but for a beginning that is later than
        `now`. Nobody else may have it open. Raises `OSError`.
        """
        buckets = -(-capacity // _PLACES)
        header = _header(path)
        before = 0
        if header is not None:
            _, found, began = _GEOMETRY.unpack_from(header, 0)
            if found == buckets:
                if began > now:
                    _begin(path, now)
                return
            (before,) = _INSTANT.unpack_from(header, _NEWEST_AT)
        path.unlink(missing_ok=True)
        # Made aside and moved: who attaches finds a whole one.
        aside = path.with_name(f"{path.name}.new")
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _reserve(descriptor, _HEADER + buckets * _BUCKET)
            made = bytearray(_HEADER)
            _GEOMETRY.pack_into(made, 0, _MAGIC, buckets, now)
            _INSTANT.pack_into(made, _FORGOTTEN_AT, before)
            _INSTANT.pack_into(made, _NEWEST_AT, before)
            made[_SECRET] = secrets.token_bytes(32)
            os.pwrite(descriptor, made, 0)
        finally:
            os.close(descriptor)
        aside.replace(path)

    @classmethod
    def attach(cls, path: Path) -> ReplayTable:
        """The table at `path`. Raises `OSError`, or `ValueError` for what is none."""
        if _header(path) is None:
            raise ValueError(f"{path} is no table of what was used")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor, mmap.mmap(descriptor, 0))
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)

    async def spend(self, digest: bytes, *, issued_at: int, expires_at: int, now: float) -> bool:
        """As `ReplayStore.spend`. `digest` is 32 bytes."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if loop.time() >= until:
                    raise Overloaded("the table of used proofs is locked") from None
                await asyncio.sleep(_PAUSE)
                continue
            try:
                return self._spend(digest, issued_at, expires_at, now)
            finally:
                with suppress(OSError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _spend(self, digest: bytes, issued_at: int, expires_at: int, now: float) -> bool:
        memory = self._memory
        (forgotten,) = _INSTANT.unpack_from(memory, _FORGOTTEN_AT)
        if expires_at <= now or issued_at < self._began or issued_at <= forgotten:
            return False
        # With the secret, what is kept is not what was sent: nobody can aim at a bucket, or read who was here.
        kept = hashlib.blake2b(digest, key=self._secret, digest_size=_DIGEST + 8).digest()
        key = kept[:_DIGEST]
        begin = _HEADER + int.from_bytes(kept[_DIGEST:], "little") % self._buckets * _BUCKET
        issues_at = begin + _PLACES * _DIGEST
        issues = _ISSUES.unpack_from(memory, issues_at)
        if self._holds(key, begin, issues_at, issues):
            return False
        oldest = min(issues)
        if oldest + expires_at - issued_at > now:  # it is good for as long as this one
            raise Overloaded("the table of used proofs is full")
        if oldest > forgotten:
            _INSTANT.pack_into(memory, _FORGOTTEN_AT, oldest)
        if issued_at > _INSTANT.unpack_from(memory, _NEWEST_AT)[0]:
            _INSTANT.pack_into(memory, _NEWEST_AT, issued_at)
        place = issues.index(oldest)
        # Free until the last step: who is killed between two leaves a place that holds nothing.
        _INSTANT.pack_into(memory, issues_at + place * _INSTANT.size, 0)
        memory[begin + place * _DIGEST : begin + (place + 1) * _DIGEST] = key
        _INSTANT.pack_into(memory, issues_at + place * _INSTANT.size, issued_at)
        return True

    def _holds(self, key: bytes, begin: int, end: int, issues: tuple[int, ...]) -> bool:
        at = self._memory.find(key, begin, end)
        while at >= 0:
            place, offset = divmod(at - begin, _DIGEST)
            if offset == 0 and issues[place]:
                return True
            at = self._memory.find(key, at + 1, end)
        return False


def _header(path: Path) -> bytes | None:
    """That of a table; None for what is none, or is not there."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(header) < _HEADER:
        return None
    magic, buckets, _ = _GEOMETRY.unpack_from(header, 0)
    return header if magic == _MAGIC and buckets > 0 and size == _HEADER + buckets * _BUCKET else None


def _begin(path: Path, now: float) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, _BEGAN.pack(now), _BEGAN_AT)
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Zeros that have their place on the disk: to a mapped page for which there is none, nobody writes and lives."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for begin in range(0, size, _CHUNK):
        os.pwrite(descriptor, bytes(min(_CHUNK, size - begin)), begin)
