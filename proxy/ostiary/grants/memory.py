"""The blocks that were in force last, in a file: for a machine that begins anew while the store cannot be reached.

Without the store no grant counts, and that is safe. A block that is not known is not: so the last known ones stay in
force, and the machine that never knew any lets nobody through (`blocklist`).

The file is replaced as a whole, and is on the disk before what it says is on the board. Its time is when the store was
heard of last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ostiary.disk import replacing
from ostiary.grants.store import HeldBlock

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """`heard_at` is in Unix seconds."""

    blocks: tuple[HeldBlock, ...]
    heard_at: float


class BlockMemory:
    """In a directory that is this user's alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, blocks: Sequence[HeldBlock], *, store: str) -> None:
        """Raises `OSError`."""
        document = {"format": _FORMAT, "store": store, "blocks": {one.id: one.mark for one in blocks}}
        with replacing(self.path) as file:
            file.write(orjson.dumps(document))

    def heard(self) -> None:
        """The store was heard of, and what the file says holds. Raises `OSError`."""
        os.utime(self.path)

    def recall(self) -> Remembered | None:
        """None if there is no file. Raises `OSError`, and `ValueError` if it does not say which blocks there are."""
        try:
            with self.path.open("rb") as file:
                heard_at = os.fstat(file.fileno()).st_mtime
                document = orjson.loads(file.read())
        except FileNotFoundError:
            return None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError("not a file of blocks of this version")
        blocks = document.get("blocks")
        if not isinstance(blocks, dict) or not all(_is_mark(mark) for mark in blocks.values()):
            raise ValueError("it does not say what is blocked")
        found = tuple(HeldBlock(id, tuple(mark)) for id, mark in blocks.items())  # noqa: A001
        return Remembered(blocks=found, heard_at=heard_at)


def _is_mark(mark: object) -> bool:
    return isinstance(mark, list) and len(mark) > 1 and all(isinstance(part, str) for part in mark)
