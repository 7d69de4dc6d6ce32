"""What counts on this machine, for all its processes: a board that whoever changes something writes to, and all read.

It is a page of memory that every process maps, and a journal: a file to which a line is added for each grant that
begins to count, changes or ends. The page holds one number, the *epoch*: how far the journal goes, and which one it is.
A worker compares it with the one it saw last, for every request that it receives; if it is another, the worker reads
the lines that were added, which are in memory, and goes on. So what is published here counts for every request that is
received afterwards, in every worker, with no delay and without a question to the store; and a change costs each worker
one line, however many grants there are.

Writers take turns by a lock on the page's file (`flock`, which the kernel gives back when its holder dies). The epoch
is written last: of a writer that dies before it, nothing is seen, and the next one writes over what it left.

The page also says when the store was heard of last (the machine's monotonic clock, which all processes share), and how
far its clock is ahead of this machine's.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import orjson

_SIZE: Final = 4096
_EPOCH, _HEARD, _CHANGE, _LINES, _LIVE, _FROM, _TO, _BOARD = range(8)  # words of 8 bytes
_AHEAD_AT: Final = 64
_BLOCKS, _UNKEPT = 9, 10
_STORE: Final = slice(128, 192)
_DOUBLE: Final = struct.Struct("<d")
_LENGTH_BITS: Final = 40
_LENGTH: Final = (1 << _LENGTH_BITS) - 1


class BoardChanged(Exception):
    """The journal was replaced while it was looked for: the epoch has to be read again."""


class Board:
    """Made by `create`, once on a machine, or by `attach`. Every process may read and write."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Board:
        """A new board at `path`, readable by this user alone, on which nothing counts. Raises `OSError`.

        One that was there, and its journals, are left to those who have them open. Journals are called by a number of
        their board's own, so that one of those never writes into another's.
        """
        path.unlink(missing_ok=True)
        for journal in path.parent.glob(f"{path.name}-*"):
            journal.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(descriptor, _SIZE)
        board = cls(path, descriptor)
        board._words[_BOARD] = secrets.randbits(64)
        return board

    @classmethod
    def attach(cls, path: Path) -> Board:
        """The board at `path`. Raises `OSError`."""
        return cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._descriptor)

    # Reading. Both are asked for every request.

    @property
    def epoch(self) -> int:
        """Another number whenever something was published."""
        return self._words[_EPOCH]

    @property
    def heard(self) -> float:
        """When the store was heard of last: seconds of `time.monotonic`. 0 if it never was."""
        return self._words[_HEARD] / 1e9

    @property
    def ahead(self) -> float:
        """By how many seconds the store's clock is ahead of this machine's; negative if it is behind."""
        found: float = _DOUBLE.unpack_from(self._memory, _AHEAD_AT)[0]
        return found

    @property
    def shortened(self) -> tuple[int, int]:
        """The epochs before and after the journal was last made shorter: what counted was the same in both."""
        return self._words[_FROM], self._words[_TO]

    def journal(self, epoch: int) -> int:
        """A descriptor of the journal that this epoch is of. Raises `BoardChanged` if it was replaced."""
        try:
            return os.open(self._journal(generation_of(epoch)), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BoardChanged from error

    @property
    def blocks(self) -> int | None:
        """How many blocks are in force; None where that was never known."""
        return self._words[_BLOCKS] if self._words[_EPOCH] else None

    @property
    def unkept(self) -> bool:
        """Whether the file that outlives the board does not have these blocks."""
        return bool(self._words[_UNKEPT])

    # Writing, by who holds the lock.

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """True if this process may write now, False if another one does. Never waits."""
        try:
            # A descriptor of its own: the lock is the open file's, so that two tasks of a process exclude each other.
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    @property
    def change(self) -> int:
        """The store's last change that is on the board."""
        return self._words[_CHANGE]

    @property
    def store(self) -> str:
        """The store that it is of."""
        return bytes(self._memory[_STORE]).rstrip(b"\0").decode("ascii", "replace")

    @property
    def wasteful(self) -> bool:
        """Whether the journal is mostly of what does not count any more."""
        return self._words[_LINES] > 1000 + 4 * self._words[_LIVE]

    def add(self, lines: Sequence[bytes], *, change: int) -> None:
        """Publish these, which lead to that change. Raises `OSError`."""
        epoch = self._words[_EPOCH]
        content = b"".join(lines)
        generation, length = generation_of(epoch), length_of(epoch)
        with _open(self._journal(generation), os.O_WRONLY) as journal:
            _write(journal, content, length)
        self._words[_EPOCH] = _epoch(generation, length + len(content))
        self._words[_CHANGE] = change  # after it: what is published twice does no harm
        self._words[_LINES] += len(lines)

    def replace(self, lines: Sequence[bytes], *, store: str, change: int) -> None:
        """Begin a new journal, with all that counts. Raises `OSError`."""
        before = generation_of(self._words[_EPOCH])
        content = self._begin(before + 1, lines)
        self._words[_CHANGE] = 0  # whoever comes after a writer that dies in here begins anew
        self._memory[_STORE] = store.encode("ascii")[: _STORE.stop - _STORE.start].ljust(64, b"\0")
        self._words[_EPOCH] = _epoch(before + 1, content)
        self._words[_LINES] = self._words[_LIVE] = len(lines)
        self._words[_CHANGE] = change
        self._remove(before)

    def shorten(self) -> None:
        """Begin a new journal, of what counts in this one: who has read this one goes on in it. Raises `OSError`."""
        epoch = self._words[_EPOCH]
        before = generation_of(epoch)
        last: dict[object, bytes] = {}
        with _open(self._journal(before), os.O_RDONLY) as journal:
            for line in read(journal, 0, length_of(epoch)).splitlines(keepends=True):
                found, _, _, grant, _ = orjson.loads(line)
                last.pop(found, None)
                if grant is not None:
                    last[found] = line
        after = _epoch(before + 1, self._begin(before + 1, list(last.values())))
        self._words[_FROM], self._words[_TO] = epoch, after
        self._words[_EPOCH] = after
        self._words[_LINES] = self._words[_LIVE] = len(last)
        self._remove(before)

    def _begin(self, generation: int, lines: Sequence[bytes]) -> int:
        """A journal of these lines; its length."""
        content = b"".join(lines)
        with _open(self._journal(generation), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as journal:
            _write(journal, content, 0)
        return len(content)

    def _remove(self, generation: int) -> None:
        """Those who have it open can read it all the same."""
        with suppress(OSError):
            self._journal(generation).unlink(missing_ok=True)

    def doubt(self) -> None:
        """Whoever finds that a journal is not what was written says so, and who writes next begins another one."""
        self._words[_CHANGE] = 0

    def count_blocks(self, number: int, *, kept: bool) -> None:
        self._words[_BLOCKS], self._words[_UNKEPT] = number, not kept

    def hear(self, at: float, *, ahead: float) -> None:
        """The store was asked at `at` (`time.monotonic`), and what it answered is on the board."""
        _DOUBLE.pack_into(self._memory, _AHEAD_AT, ahead)
        self._words[_HEARD] = max(int(at * 1e9), self._words[_HEARD])

    def _journal(self, generation: int) -> Path:
        return self._path.with_name(f"{self._path.name}-{self._words[_BOARD]}-{generation}")


def generation_of(epoch: int) -> int:
    return epoch >> _LENGTH_BITS


def length_of(epoch: int) -> int:
    """Bytes of the journal that count."""
    return epoch & _LENGTH


def beginning(epoch: int) -> int:
    """The epoch in which nothing of its journal counts yet."""
    return epoch & ~_LENGTH


def _epoch(generation: int, length: int) -> int:
    return generation << _LENGTH_BITS | length


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read(descriptor: int, begin: int, end: int) -> bytes:
    """These bytes of a journal. Raises `ValueError` if it has not so many, `OSError`."""
    parts = []
    while begin < end:
        part = os.pread(descriptor, end - begin, begin)
        if not part:
            raise ValueError("the journal is shorter than was said")
        parts.append(part)
        begin += len(part)
    return b"".join(parts)
