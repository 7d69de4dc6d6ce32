"""Mappings with a hard bound, under every cache.

`BoundedMap` lets the entry go first that was used least recently. `Memo` lets all go at once, and its reads cost what a
dictionary's do: for what every request asks and is made again cheaply.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """At most `capacity` entries; `get` makes an entry recent, `put` evicts the oldest when full."""

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a bounded map holds at least one entry, not {capacity}")
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: K, value: V) -> None:
        if key in self._entries:
            self._entries.move_to_end(key)
        elif len(self._entries) >= self._capacity:
            self._entries.popitem(last=False)
        self._entries[key] = value

    def values(self) -> tuple[V, ...]:
        """All that is kept, the oldest first. Nothing becomes recent by that."""
        return tuple(self._entries.values())

    def discard(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()


class Memo(Generic[K, V]):
    """At most `capacity` entries; `put` forgets all of them when full. `get` is a dictionary's own: None if unknown."""

    __slots__ = ("_capacity", "_entries", "get")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a memo holds at least one entry, not {capacity}")
        self._capacity = capacity
        self._entries: dict[K, V] = {}
        self.get: Callable[[K], V | None] = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V) -> None:
        if len(self._entries) >= self._capacity:
            self._entries.clear()
        self._entries[key] = value

    def clear(self) -> None:
        self._entries.clear()
