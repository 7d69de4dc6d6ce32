"""The whole trail as the writer's sink: the files with their chain, the checkpoints, and the copy for others.

The files alone decide whether a group is written. What comes after them is told and never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ostiary.audit.writer import Sink


class Part(Protocol):
    """What is opened with the trail, before the first record, and closed after the last."""

    def open(self) -> None:
        """Make ready. Raises OSError."""

    def close(self) -> None: ...


class AuditTrail:
    """A `Sink`: `files` and, opened after and closed after them, the others in their order."""

    def __init__(self, files: Sink, *others: Part) -> None:
        self._files = files
        self._others = others

    def open(self) -> None:
        """Open all, or none. Raises OSError."""
        opened: list[Part] = []
        try:
            for part in (self._files, *self._others):
                part.open()
                opened.append(part)
        except OSError:
            for part in reversed(opened):
                part.close()
            raise

    def append(self, lines: Sequence[bytes]) -> None:
        self._files.append(lines)

    def close(self) -> None:
        for part in (self._files, *self._others):
            part.close()
