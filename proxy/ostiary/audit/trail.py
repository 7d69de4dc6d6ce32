"""The whole trail as the writer's sink: the files with their chain, the checkpoints, and the copy for others.

The files alone decide whether a group is written. What comes after them is told, and never asked or waited for. What
of the copy got lost is recorded where everything is: an `uncopied` record, with the next group, at most every ten
seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, Protocol

from ostiary.audit.lines import SCHEMA, Timestamps, render
from ostiary.audit.syslog import SyslogCopy
from ostiary.audit.writer import Sink
from ostiary.clock import Clock

_TELL: Final = 10.0  # seconds between two records of what was not copied


class Part(Protocol):
    """What is opened with the trail, before the first record, and closed after the last."""

    def open(self) -> None:
        """Make ready. Raises OSError."""

    def close(self) -> None: ...


class AuditTrail:
    """A `Sink`: `files` and, opened after and closed after them, the checkpoints and the copy, where there are such.

    `clock` is of the thread that writes.
    """

    def __init__(
        self, files: Sink, checkpoints: Part | None = None, *, worker: str, clock: Clock, copy: SyslogCopy | None = None
    ) -> None:
        self._files = files
        self._parts: list[Part] = [part for part in (files, checkpoints, copy) if part is not None]
        self._worker = worker
        self._clock = clock
        self._copy = copy
        self._told = 0
        self._tell_at = 0.0

    def open(self) -> None:
        """Open all, or none. Raises OSError."""
        opened: list[Part] = []
        try:
            for part in self._parts:
                part.open()
                opened.append(part)
        except OSError:
            for part in reversed(opened):
                part.close()
            raise

    def append(self, lines: Sequence[bytes]) -> None:
        if self._copy is None or self._clock.monotonic() < self._tell_at:
            self._files.append(lines)
            return
        self._append_telling(lines, self._copy)

    def close(self) -> None:
        if self._copy is not None and self._copy.dropped().lines > self._told:
            with contextlib.suppress(OSError):
                self._append_telling([], self._copy)
        for part in self._parts:
            part.close()

    def _append_telling(self, lines: Sequence[bytes], copy: SyslogCopy) -> None:
        self._tell_at = self._clock.monotonic() + _TELL
        dropped = copy.dropped()
        if dropped.lines == self._told:
            self._files.append(lines)
            return
        line = render(
            {
                "schema": SCHEMA,
                "kind": "uncopied",
                "time": Timestamps().format(self._clock.now()),
                "worker": self._worker,
                "to": str(copy.address),
                "lines": dropped.lines - self._told,
                "error": dropped.error,
            }
        )
        self._files.append([*lines, line])
        self._told = dropped.lines
