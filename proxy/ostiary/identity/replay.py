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

*One clock.* The table keeps the latest instant that any worker has seen, and what has expired by that is refused: else
a worker whose clock is behind would take again what another, ahead of it, had forgotten.

*From the beginning.* The file stays from start to start. One that has to be made anew (the first start, another size,
or something that is no table) refuses what was issued before it began, which might have been used.
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

_MAGIC: Final = b"ostiary-replay-1"
_HEADER: Final = 4096
_SECRET: Final = slice(64, 96)
_GEOMETRY: Final = struct.Struct("<16sQd")  # magic, buckets, when it began
_LATEST: Final = struct.Struct("<d")
_LATEST_AT: Final = 48
_PLACES: Final = 64
_DIGEST: Final = 24  # bytes kept of each: enough for two never to be taken for one another
_EXPIRIES: Final = struct.Struct(f"<{_PLACES}Q")
_EXPIRY: Final = struct.Struct("<Q")
_BUCKET: Final = _PLACES * (_DIGEST + _EXPIRY.size)

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

        `now` is in Unix seconds. One that is there and fits is left as it is. Raises `OSError`.
        """
        buckets = -(-capacity // _PLACES)
        if _buckets(path) == buckets:
            return
        path.unlink(missing_ok=True)
        # Made aside and moved: who attaches finds a whole one.
        aside = path.with_name(f"{path.name}.new")
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _reserve(descriptor, _HEADER + buckets * _BUCKET)
            header = bytearray(_HEADER)
            _GEOMETRY.pack_into(header, 0, _MAGIC, buckets, now)
            _LATEST.pack_into(header, _LATEST_AT, now)
            header[_SECRET] = secrets.token_bytes(32)
            os.pwrite(descriptor, header, 0)
        finally:
            os.close(descriptor)
        aside.replace(path)

    @classmethod
    def attach(cls, path: Path) -> ReplayTable:
        """The table at `path`. Raises `OSError`, or `ValueError` for what is none."""
        if _buckets(path) is None:
            raise ValueError(f"{path} is no table of what was used")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(descriptor, mmap.mmap(descriptor, 0))
        except BaseException:
            os.close(descriptor)
            raise

    async def start(self) -> None:
        """For the lifespan's sake: it is there already."""

    async def close(self) -> None:
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
        (latest,) = _LATEST.unpack_from(memory, _LATEST_AT)
        if now > latest:
            _LATEST.pack_into(memory, _LATEST_AT, now)
            latest = now
        if expires_at <= latest or issued_at < self._began:
            return False
        # With the secret, what is kept is not what was sent: nobody can aim at a bucket, or read who was here.
        kept = hashlib.blake2b(digest, key=self._secret, digest_size=_DIGEST + 8).digest()
        key = kept[:_DIGEST]
        begin = _HEADER + int.from_bytes(kept[_DIGEST:], "little") % self._buckets * _BUCKET
        expiries_at = begin + _PLACES * _DIGEST
        expiries = _EXPIRIES.unpack_from(memory, expiries_at)
        if self._holds(key, begin, expiries_at, expiries, latest):
            return False
        oldest = min(expiries)
        if oldest > latest:
            raise Overloaded("the table of used proofs is full")
        place = expiries.index(oldest)
        # Free until the last step: who is killed between two leaves a place that holds nothing.
        _EXPIRY.pack_into(memory, expiries_at + place * _EXPIRY.size, 0)
        memory[begin + place * _DIGEST : begin + (place + 1) * _DIGEST] = key
        _EXPIRY.pack_into(memory, expiries_at + place * _EXPIRY.size, expires_at)
        return True

    def _holds(self, key: bytes, begin: int, end: int, expiries: tuple[int, ...], latest: float) -> bool:
        at = self._memory.find(key, begin, end)
        while at >= 0:
            place, offset = divmod(at - begin, _DIGEST)
            if offset == 0 and expiries[place] > latest:
                return True
            at = self._memory.find(key, at + 1, end)
        return False


def _buckets(path: Path) -> int | None:
    """How many a table has; None for what is none, or is not there."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(header) < _HEADER:
        return None
    magic, buckets, _ = _GEOMETRY.unpack_from(header, 0)
    return buckets if magic == _MAGIC and buckets > 0 and size == _HEADER + buckets * _BUCKET else None


def _reserve(descriptor: int, size: int) -> None:
    """Zeros that have their place on the disk: to a mapped page for which there is none, nobody writes and lives."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for begin in range(0, size, _CHUNK):
        os.pwrite(descriptor, bytes(min(_CHUNK, size - begin)), begin)
