"""Where decisions are kept: bounded in all and per identity, and never for longer than a few seconds."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from ostiary.decision.contract import LONGEST_MAX_AGE
from ostiary.models import AccessRequest, Decision, IdentityKey

Key: TypeAlias = tuple[object, ...]
"""A tuple that begins with the identity's key."""


class Entry:
    """A decision, good for requests of the Unix seconds from `since` (when it was asked for) to before `until`."""

    __slots__ = ("decision", "key", "since", "until")

    def __init__(self, key: Key, decision: Decision, *, since: int, until: int) -> None:
        self.key = key
        self.decision = decision
        self.since = since
        self.until = until

    def serves(self, request: AccessRequest) -> bool:
        return self.since <= request.time < self.until


class Shelf:
    """At most `capacity` entries, and at most `per_identity` of one identity.

    The oldest goes first: all live equally short, so the one used least recently is no better a choice, and costs a
    write for every read. An identity at its bound gets no further entry until some of its own have ended, so that it
    cannot push out those of others.
    """

    def __init__(self, *, capacity: int, per_identity: int) -> None:
        if capacity < 1 or per_identity < 1:
            raise ValueError("a shelf holds at least one entry, and one of each identity")
        self._capacity = capacity
        self._per_identity = per_identity
        self._entries: dict[Key, Entry] = {}
        self._order: deque[Entry] = deque()  # with entries that were replaced since: those are skipped
        self._owned: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def put(self, entry: Entry) -> bool:
        """Keep the entry in place of any of its key; False if its identity has no room left."""
        self._let_go(entry.since - LONGEST_MAX_AGE)
        self.discard(entry.key)
        owner = entry.key[0]
        if self._owned.get(owner, 0) >= self._per_identity:
            return False
        if len(self._entries) >= self._capacity:
            self._evict()
        self._entries[entry.key] = entry
        self._owned[owner] = self._owned.get(owner, 0) + 1  # after the eviction, which may have been its own
        self._order.append(entry)
        return True

    def discard(self, key: Key) -> None:
        if self._entries.pop(key, None) is None:
            return
        left = self._owned[key[0]] - 1
        if left:
            self._owned[key[0]] = left
        else:
            del self._owned[key[0]]

    def clear(self) -> None:
        self._entries.clear()
        self._order.clear()
        self._owned.clear()

    def owned(self, identity: IdentityKey) -> int:
        return self._owned.get(identity, 0)

    def _let_go(self, since: int) -> None:
        """Drop what was asked for at `since` or before: it has ended, whatever it was good for."""
        order = self._order
        while order and order[0].since <= since:
            self._drop(order.popleft())

    def _evict(self) -> None:
        size = len(self._entries)
        while len(self._entries) == size:
            self._drop(self._order.popleft())

    def _drop(self, entry: Entry) -> None:
        if self._entries.get(entry.key) is entry:
            self.discard(entry.key)
