"""Mappings and lists that know in which line of a file each key and item is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class Mapping(dict[str, Any]):
    """A mapping that knows the line of each key."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}

    def remove_all(self, keys: Collection[str]) -> None:
        for key in keys:
            del self[key]


class Sequence(list[Any]):
    """A list that knows the line of each item, and each item's index as written."""

    __slots__ = ("indices", "lines")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []
        self.indices: list[int] = []

    def remove_all(self, places: Collection[int]) -> None:
        kept = [place for place in range(len(self)) if place not in places]
        self.lines = [self.lines[place] for place in kept]
        self.indices = [self.indices[place] for place in kept]
        self[:] = [self[place] for place in kept]
