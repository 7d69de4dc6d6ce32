"""Records, read back from the files: the last ones, those that come, and one entry for each request.

What is read here is not proved by anything: that is what verifying is for. Lines that are no records are left out.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import orjson

from ostiary.audit.chain import LONGEST
from ostiary.audit.files import AUDIT, FileName, file_names, opened

Document: TypeAlias = Mapping[str, Any]

ASKED: Final = frozenset({"decision", "refusal", "answer"})
"""The kinds of line that a request begins with."""

_BLOCK: Final = 1 << 16
_PAUSE: Final = 0.2  # seconds between two looks at what came
_HELD: Final = 100_000
"""Requests that are waited for to end. The oldest is given up when there are more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which requests. `since` and `until` are RFC 3339 as in the files; what is None selects nothing out."""

    caller: str | None = None
    service: str | None = None
    endpoint: str | None = None
    reason: str | None = None
    since: str | None = None
    until: str | None = None
    decision_id: str | None = None

    @property
    def everything(self) -> bool:
        return self == Selection()

    def admits(self, request: Document) -> bool:
        """Whether a request is among them, by its line and, merged into it, its completion."""
        if self.since is not None and str(request.get("time")) < self.since:
            return False
        if self.until is not None and str(request.get("time")) >= self.until:
            return False
        if self.reason is not None and self.reason not in (request.get("reasons") or ()):
            return False
        if self.endpoint is not None and self.endpoint not in (request.get("endpoints") or (request.get("endpoint"),)):
            return False  # a step of a grant has several
        wanted = {"caller": self.caller, "service": self.service, "decision_id": self.decision_id}
        return all(value is None or request.get(name) == value for name, value in wanted.items())


def audit_files(directories: Sequence[Path]) -> dict[str, list[tuple[FileName, Path]]]:
    """The files of each worker, in the order in which they were written. Raises OSError."""
    found: dict[str, list[tuple[FileName, Path]]] = {}
    for directory in directories:
        for name in file_names(directory, prefix=AUDIT):
            found.setdefault(name.worker, []).append((name, directory / str(name)))
    return {worker: sorted(files) for worker, files in sorted(found.items())}


def requests(directories: Sequence[Path], selection: Selection, *, steps: bool = False) -> Iterator[dict[str, Any]]:
    """One document for each request that was selected: its first line, with the members of its completion put in.

    Each worker's are in the order of their ends. One whose end is not recorded comes without `outcome`. With `steps`
    also the lines of kind `grant` and `block` that were selected.
    """
    for files in audit_files(directories).values():
        pending: OrderedDict[str, dict[str, Any]] = OrderedDict()
        for _, path in files:
            for line in _records(path):
                kind, known = line.get("kind"), str(line.get("decision_id"))
                if kind == "decision":
                    pending[known] = line
                    if len(pending) > _HELD:
                        yield from _selected(pending.popitem(last=False)[1], selection)
                elif kind == "completion" and known in pending:
                    yield from _selected(_completed(pending.pop(known), line), selection)
                elif kind in ASKED or (steps and kind in ("grant", "block")):
                    yield from _selected(line, selection)
        for line in pending.values():
            yield from _selected(line, selection)


def is_observed(line: Document) -> bool:
    """Whether a `decision` let its request through only because the service is observed."""
    result = line.get("result")
    return line.get("kind") == "decision" and isinstance(result, Mapping) and result.get("observed") is True


def sizes(directories: Sequence[Path]) -> dict[Path, int]:
    """How far each file is written now, in bytes, to the end of a line: who begins there has the next one whole. Raises
    OSError."""
    found = {}
    for files in audit_files(directories).values():
        for _, path in files:
            with opened(path) as file:
                if file is not None:
                    found[path] = _end(file)
    return found


def last(
    directories: Sequence[Path], count: int, selection: Selection, *, until: Mapping[Path, int]
) -> list[dict[str, Any]]:
    """The last lines of requests, in the order of their time: `count` of them, completions included.

    What was written after `until` (`sizes`) is left to `follow`.
    """
    found: list[dict[str, Any]] = []
    for files in audit_files(directories).values():
        found += _last_of([path for _, path in files if path in until], count, selection, until)
    return heapq.nlargest(count, found, key=lambda line: str(line.get("time")))[::-1]


def follow(directories: Sequence[Path], selection: Selection, *, since: Mapping[Path, int]) -> Iterator[dict[str, Any]]:
    """Lines of requests as they come, from `since` (`sizes`) on, for ever."""
    chosen = _Chosen(selection)
    places = dict(since)
    while True:
        for files in audit_files(directories).values():
            for _, path in files:
                with opened(path) as file:
                    if file is None:
                        continue
                    file.seek(places.setdefault(path, 0))
                    while (raw := file.readline(LONGEST)).endswith(b"\n"):
                        places[path] += len(raw)
                        line = _parsed(raw)
                        if line is not None and chosen.takes(line):
                            yield line
        time.sleep(_PAUSE)


class _Chosen:
    """Which lines belong to requests that were selected, when they come in their order."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._known: OrderedDict[str, None] = OrderedDict()

    def takes(self, line: Document) -> bool:
        kind, known = line.get("kind"), str(line.get("decision_id"))
        if kind in ASKED:
            taken = self._selection.admits(line)
            if taken and kind == "decision":
                self._known[known] = None
                if len(self._known) > _HELD:
                    self._known.popitem(last=False)
            return taken
        if kind == "completion" and self._selection.reason is not None:
            return self._selection.reason in (line.get("reasons") or ())
        return kind in ("completion", "credential") and (self._selection.everything or known in self._known)


def _last_of(
    files: Sequence[Path], count: int, selection: Selection, until: Mapping[Path, int]
) -> list[dict[str, Any]]:
    """Read backwards: a completion comes before what it completes, and is kept until that was met."""
    found: list[dict[str, Any]] = []
    ends: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for path in reversed(files):
        with opened(path) as file:
            if file is None:
                continue
            for raw in _backwards(file, until[path]):
                line = _parsed(raw)
                if line is None:
                    continue
                kind, known = line.get("kind"), str(line.get("decision_id"))
                if kind == "completion" and not selection.everything:
                    ends[known] = line
                    if len(ends) > _HELD:
                        ends.popitem(last=False)
                elif kind == "completion":
                    found.append(line)
                elif kind in ASKED:
                    end = ends.pop(known, None)
                    if selection.admits(line if end is None else _completed(line, end)):
                        found += [line] if end is None else [end, line]
                if len(found) >= count:
                    return found
    return found


def _end(file: BinaryIO) -> int:
    """Where the last line ends that is written whole."""
    place = file.seek(0, os.SEEK_END)
    while place > 0:
        size = min(_BLOCK, place)
        place -= size
        file.seek(place)
        newline = file.read(size).rfind(b"\n")
        if newline >= 0:
            return place + newline + 1
    return 0


def _backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines of a file up to `end`, the last one first. What stands behind the last newline is left out."""
    place = end
    rest, first = b"", True
    while place > 0:
        size = min(_BLOCK, place)
        place -= size
        file.seek(place)
        rest = file.read(size) + rest
        pieces = rest.split(b"\n")
        rest = pieces[0]
        whole = pieces[1:]
        if first and whole:
            whole.pop()
            first = False
        yield from (piece for piece in reversed(whole) if piece)
    if rest and not first:
        yield rest


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with opened(path) as file:
        if file is None:
            return
        while raw := file.readline(LONGEST):
            line = _parsed(raw) if raw.endswith(b"\n") else None
            if line is not None:
                yield line


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = orjson.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _completed(line: dict[str, Any], end: Document) -> dict[str, Any]:
    members = ("outcome", "status", "detail", "bytes_received", "bytes_sent", "duration_ms")
    merged = {**line, **{name: end.get(name) for name in members}}
    merged["reasons"] = [*(line.get("reasons") or ()), *(end.get("reasons") or ())]
    return merged


def _selected(line: dict[str, Any], selection: Selection) -> Iterator[dict[str, Any]]:
    if selection.admits(line):
        yield line
