"""Files of the audit in pieces of whole lines, and a piece read: what is to be done side by side.

A piece goes to another process and what was found in it comes back, so both are plain and short: within a piece equal
questions are one already.
"""

from __future__ import annotations

import errno
import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias, cast

from ostiary.audit.chain import LONGEST
from ostiary.audit.files import AUDIT, file_names
from ostiary.policy.replay.recorded import Malformed, NotReplayable, Why, read_line

STDIN: Final = Path("-")
PACKED: Final = ".gz"
SIZE: Final = 4 * 1024 * 1024
"""Bytes of a piece."""

_NAMED: Final = 100
"""Malformed lines of a piece that are named; the others are counted."""


class Piece(NamedTuple):
    """Lines of one file, from the line `first` on. `passed` is how far the file is read, as `size_of` counts."""

    file: str
    first: int
    content: bytes
    passed: int


class Outcome(NamedTuple):
    """What was answered to a question."""

    allow: bool
    caller: str | None
    service: str
    endpoint: str | None
    reasons: tuple[str, ...]


Answered: TypeAlias = dict[Outcome, tuple[int, str]]
"""The answers that one question was given, each with how often, and the `decision_id` of the first time."""


@dataclass(slots=True)
class Found:
    """What a piece holds: by key its question with what was answered to it, and what cannot be asked again."""

    questions: dict[bytes, tuple[bytes, Answered]] = field(default_factory=dict)
    not_replayable: Counter[Why] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)
    malformed_count: int = 0


def read_piece(piece: Piece) -> Found:
    """Every line of it."""
    found = Found()
    for number, raw in enumerate(piece.content.split(b"\n"), piece.first):
        if not raw:
            continue
        try:
            line = read_line(raw)
        except Malformed as error:
            found.malformed_count += 1
            if len(found.malformed) < _NAMED:
                found.malformed.append(f"{piece.file}:{number}: {error}")
            continue
        if line is None:
            continue
        if isinstance(line, NotReplayable):
            found.not_replayable[line.why] += line.count
            continue
        known = found.questions.get(line.key)
        if known is None:
            known = found.questions[line.key] = (line.question, {})
        outcome = Outcome(line.allow, line.caller, line.service, line.endpoint, line.reasons)
        count, example = known[1].get(outcome, (0, line.decision_id))
        known[1][outcome] = count + 1, example
    return found


def audit_paths(named: Sequence[Path]) -> list[Path]:
    """The files that are named, and those of the audit in directories that are; each once. Raises OSError."""
    found: dict[Path, Path] = {}
    for path in named:
        for each in _inside(path) if path.is_dir() else [path]:
            found.setdefault(each if each == STDIN else each.resolve(), each)
    return list(found.values())


def _inside(directory: Path) -> list[Path]:
    """As they are, and those that somebody has packed since."""
    packed = sorted(directory.glob(f"{AUDIT}-*.ndjson{PACKED}"))
    return [*(directory / str(name) for name in file_names(directory, prefix=AUDIT)), *packed]


def size_of(path: Path) -> int:
    """Bytes as they lie there, packed or not; of standard input nobody knows."""
    return 0 if path == STDIN else path.stat().st_size


def pieces(path: Path) -> Iterator[Piece]:
    """A file in its pieces. What is longer than any record is cut out, and is malformed in what is left.

    Raises OSError.
    """
    first, rest = 1, b""
    with _opened(path) as (file, below):
        while content := file.read(SIZE):
            whole, newline, tail = content.rpartition(b"\n")
            if not newline:
                rest = rest + content if len(rest) <= LONGEST else rest
                continue
            yield Piece(str(path), first, rest + whole, below.tell() if below.seekable() else 0)
            first += whole.count(b"\n") + 1
            rest = tail
        if rest:
            yield Piece(str(path), first, rest, size_of(path))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The lines, and the file below, which says how far it is read."""
    if path == STDIN:
        yield sys.stdin.buffer, sys.stdin.buffer
        return
    with path.open("rb") as below:
        if path.suffix != PACKED:
            yield below, below
            return
        try:
            with gzip.open(below) as unpacked:
                yield cast("BinaryIO", unpacked), below
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(errno.EIO, "is no whole gzip file", str(path)) from error
