"""The keys of one issuer, kept fresh in the background.

- A request whose key is known never waits: refreshes happen ahead of need, every `interval` or a little sooner.
- Attempts are counted, not successes: at most one per `cooldown`, whoever asks for it and however it ends
  (PyJWKClient's cool-down starts only on success). Those who ask together share one.
- A key id that the set lacks may be one that was just rotated in. It asks for an attempt, if one is due, and its
  request waits for that a bounded time: a refusal would send a client with a good token back to its issuer. Inside
  the cool-down the answer is no at once, and the next refresh is moved to the cool-down's end.
- A failed attempt, or a set without one usable key, leaves the last good set in use until `max_age`
  (GHSA-fhv5-28vv-h8m8: a cache wiped on error). After that there are no keys: no is the only answer left.
- What was fetched is kept by a `KeyMemory`, if there is one, and a store that is started begins with that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.identity.keys import NO_KEYS, KeyReader, KeySet, KeySourceError, VerificationKey
from ostiary.identity.memory import KeyMemory
from ostiary.identity.settings import RefreshSettings
from ostiary.identity.sources import KeySource
from ostiary.models import Json

_log = logging.getLogger("ostiary.identity")

_UNKNOWN_CAPACITY: Final = 4096
_UNKNOWN_AGE: Final = 60.0
"""Seconds for which a key id that the issuer did not have is not asked for again."""
_JITTER: Final = 0.1
"""The share of a pause by which it varies, so that the workers of many machines do not ask all at once."""
_chance: Final = random.SystemRandom().random


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHealth:
    """The state of one issuer's keys. `generation` is how often the set changed, `age` seconds since the last good
    answer, and `failure` the cause, one word, of the last attempt if that failed."""

    issuer: str
    ready: bool
    keys: int
    ignored: int
    generation: int
    attempts: int
    age: float | None
    failure: str | None

    def document(self) -> dict[str, Json]:
        return {
            "issuer": self.issuer,
            "ready": self.ready,
            "keys": self.keys,
            "ignored": self.ignored,
            "generation": self.generation,
            "attempts": self.attempts,
            "age": None if self.age is None else round(self.age, 3),
            "failure": self.failure,
        }


class JwksStore:
    """One issuer's keys. `start` and `close` belong to the application's lifespan."""

    def __init__(
        self,
        *,
        issuer: str,
        source: KeySource,
        reader: KeyReader,
        clock: Clock,
        refresh: RefreshSettings,
        memory: KeyMemory | None = None,
    ) -> None:
        self._issuer = issuer
        self._memory = memory
        self._source = source
        self._reader = reader
        self._clock = clock
        self._refresh = refresh
        self._current = NO_KEYS
        self._document: bytes | None = None
        self._loaded_at: float | None = None
        self._next_allowed = clock.monotonic()
        self._due = clock.monotonic()
        self._generation = 0
        self._attempts = 0
        self._successes = 0
        self._failure: str | None = None
        self._unknown: BoundedMap[str, float] = BoundedMap(_UNKNOWN_CAPACITY)
        self._waiting = 0
        self._wake = asyncio.Event()
        self._attempt: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def current(self) -> KeySet:
        """The keys in use. The same object until the set changes, and `NO_KEYS` once it is too old."""
        if self._loaded_at is None or self._clock.monotonic() - self._loaded_at >= self._refresh.max_age:
            return NO_KEYS
        return self._current

    def health(self) -> KeyHealth:
        current = self.current
        return KeyHealth(
            issuer=self._issuer,
            ready=current is not NO_KEYS,
            keys=current.count,
            ignored=current.ignored,
            generation=self._generation,
            attempts=self._attempts,
            age=None if self._loaded_at is None else self._clock.monotonic() - self._loaded_at,
            failure=self._failure,
        )

    async def start(self) -> None:
        """Begin keeping the keys. Returns when the first attempt has ended, or after `wait` seconds; never fails."""
        if self._keeper is None:
            await self._recall()
            attempt = self._begin()
            self._keeper = asyncio.create_task(self._keep(), name=f"keys of {self._issuer}")
            await asyncio.wait({attempt}, timeout=self._refresh.wait)

    async def close(self) -> None:
        tasks = [task for task in (self._keeper, self._attempt) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._keeper = self._attempt = None

    async def find(self, key_id: str) -> tuple[KeySet, VerificationKey | None]:
        """The key of that id with the set it is in; None if the issuer has none, as far as can be known now."""
        current = self.current
        key = current.keys.get(key_id)
        if key is not None or self._is_known_unknown(key_id):
            return current, key
        attempt = self._attempt_in_reach()
        if attempt is None or self._waiting >= self._refresh.max_waiting:
            return current, None
        successes = self._successes
        self._waiting += 1
        try:
            await asyncio.wait({attempt}, timeout=self._refresh.wait)
        finally:
            self._waiting -= 1
        current = self.current
        key = current.keys.get(key_id)
        if key is None and self._successes != successes:
            self._unknown.put(key_id, self._clock.monotonic() + _UNKNOWN_AGE)
        return current, key

    def _is_known_unknown(self, key_id: str) -> bool:
        until = self._unknown.get(key_id)
        if until is None:
            return False
        if self._clock.monotonic() < until:
            return True
        self._unknown.discard(key_id)
        return False

    def _attempt_in_reach(self) -> asyncio.Task[None] | None:
        """The attempt in flight, or a new one if it is time; else none, and the next refresh is moved forward."""
        if self._keeper is None:
            return None  # not started, or closed
        if self._attempt is not None and not self._attempt.done():
            return self._attempt
        if self._clock.monotonic() >= self._next_allowed:
            return self._begin()
        if self._next_allowed < self._due:
            self._due = self._next_allowed
            self._wake.set()
        return None

    def _begin(self) -> asyncio.Task[None]:
        now = self._clock.monotonic()
        self._attempts += 1
        self._next_allowed = now + self._refresh.cooldown
        self._due = now + self._refresh.interval * (1 - _JITTER * _chance())
        self._due = max(self._due, self._next_allowed)
        self._attempt = asyncio.create_task(self._load(), name=f"fetch keys of {self._issuer}")
        return self._attempt

    async def _keep(self) -> None:
        while True:
            if self._attempt is not None and not self._attempt.done():
                await asyncio.wait({self._attempt})
            remaining = self._due - self._clock.monotonic()
            if remaining <= 0:
                self._begin()
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._wake.wait()

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._refresh.deadline):
                document = await self._source.read()
            self._accept(document)
            await self._remember(document)
        except KeySourceError as error:
            self._failed(error.cause, str(error))
        except TimeoutError:
            self._failed("timeout", f"no answer within {self._refresh.deadline} s")
        except Exception as error:  # noqa: BLE001 - one issuer's document must not end the keeping of keys
            self._failed("internal", type(error).__name__)

    async def _recall(self) -> None:
        """Begin with what a worker before this one was told, as old as it is."""
        found = None if self._memory is None else await asyncio.to_thread(self._memory.recall, self._clock.now())
        if found is None or found[1] >= self._refresh.max_age:
            return
        try:
            self._accept(found[0])
        except KeySourceError as error:
            _log.warning("issuer %s: the keys that were kept cannot be used: %s", self._issuer, error)
            return
        self._loaded_at = self._clock.monotonic() - found[1]

    async def _remember(self, document: bytes) -> None:
        if self._memory is not None:
            try:
                await asyncio.to_thread(self._memory.keep, document, self._clock.now())
            except OSError as error:
                _log.warning("issuer %s: its keys cannot be kept for the next worker: %s", self._issuer, error)

    def _accept(self, document: bytes) -> None:
        if document != self._document:
            keys = self._reader.read(document)
            self._document = document
            if keys.fingerprint != self._current.fingerprint:
                self._current = keys
                self._generation += 1
                self._unknown.clear()
                _log.info("issuer %s: %d key(s), generation %d", self._issuer, keys.count, self._generation)
        self._successes += 1
        self._loaded_at = self._clock.monotonic()
        self._failure = None

    def _failed(self, cause: str, message: str) -> None:
        """Keep what there is, and try again as soon as the cool-down lets it: the next one may be the good one."""
        self._failure = cause
        late = self._refresh.cooldown * _JITTER * _chance()
        self._due = min(self._due, self._next_allowed + late)
        _log.warning("issuer %s: keys not refreshed (%s): %s", self._issuer, cause, message)
