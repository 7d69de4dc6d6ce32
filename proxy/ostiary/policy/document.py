"""A file that people write: its content, and where in the file each part of it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from ostiary.errors import ConfigurationError
from ostiary.policy.lined import Mapping, Sequence

MAX_BYTES: Final = 64 * 1024 * 1024

Place: TypeAlias = tuple[int | str, ...]
"""Where a value is: the keys and indices that lead to it."""

_ABSENT: Final = object()


def _below(value: Any, step: int | str) -> Any:
    if isinstance(value, Mapping):
        return value.get(str(step), _ABSENT)
    if isinstance(value, Sequence) and isinstance(step, int) and 0 <= step < len(value):
        return value[step]
    return _ABSENT


@dataclass(slots=True, kw_only=True)
class Document:
    """One file's content. `mistakes` are those of the notation: (line, sentence)."""

    name: str
    value: Any
    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """The line of the key or item at `place`, or of what is nearest above it."""
        line = 1
        value: Any = self.value
        for step in place:
            below = _below(value, step)
            if below is _ABSENT:
                break
            lines: Any = value.lines
            line, value = lines[step], below
        return line

    def original(self, place: Place) -> Place:
        """The place with the indices that list items have in the file; a text read as a list of one has none."""
        value = self.value
        steps: list[int | str] = []
        for step in place:
            below = _below(value, step)
            if below is not _ABSENT:
                steps.append(value.indices[step] if isinstance(value, Sequence) and isinstance(step, int) else step)
            elif isinstance(step, str):
                steps.append(step)  # what is missing
            value = below
        return tuple(steps)

    def written(self, place: Place) -> str:
        """The place as people write it: `permissions[1].when.source[0]`."""
        text = ""
        for step in self.original(place):
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def put(self, place: Place, value: Any) -> None:
        """Set a key of a mapping that is there; its line is the mapping's."""
        holder: Any = self.value
        for step in place[:-1]:
            holder = _below(holder, step)
        line = self.line(place)
        holder[place[-1]] = value
        holder.lines[place[-1]] = line

    def cut(self, places: Iterable[Place]) -> bool:
        """Take out what is at these places, or what is nearest above. False if that would be everything."""
        holders: dict[int, tuple[Mapping | Sequence, set[Any]]] = {}
        for place in places:
            path = [self.value]
            for step in place:
                path.append(_below(path[-1], step))
            depth = next((length for length, value in enumerate(path) if value is _ABSENT), len(path)) - 1
            if depth == 0:
                return False
            holder = path[depth - 1]
            holders.setdefault(id(holder), (holder, set()))[1].add(place[depth - 1])
        for holder, steps in holders.values():
            holder.remove_all(steps)
        return True


def read_document(path: Path, *, any_key: bool = False) -> Document:
    """Read one YAML file. With `any_key` a key may be a number, as in many files that are not ours.

    Raises `ConfigurationError` where nothing can be made of it. Mistakes that leave the rest readable (a duplicate
    key, a tag) are in `Document.mistakes`, so that all of a file's mistakes can be reported together.
    """
    try:
        if path.is_dir():
            raise ConfigurationError([f"{path}: is a directory, not a file"])
        if not path.is_file():
            raise ConfigurationError([f"{path}: there is no such file"])
        if path.stat().st_size > MAX_BYTES:
            raise ConfigurationError([f"{path}:1: the file is larger than {MAX_BYTES // 1024**2} MiB"])
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}:1: the file cannot be read: {error.strerror}"]) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([f"{path}:{line}: the file is not UTF-8"]) from error
    return parse_document(text, name=str(path), any_key=any_key)


def parse_document(text: str, *, name: str, any_key: bool = False) -> Document:
    """As `read_document`, from text; `name` stands where the file's path would."""
    from ostiary.policy import notation  # imported here: a worker, which has read no file, needs no YAML

    try:
        value, mistakes = notation.parse(text, any_key=any_key)
    except notation.Unreadable as error:
        raise ConfigurationError([f"{name}:{error.line}: {error}"]) from error
    return Document(name=name, value=value, mistakes=mistakes)


def plain(value: Any) -> Any:
    """The same JSON value in plain dicts and lists. Raises `ValueError` for what JSON does not have."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a text")
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{type(value).__name__} is not a JSON type")
