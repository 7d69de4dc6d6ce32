"""The grants that count, as a worker knows them: by the identity that holds them, in its own memory.

For a request that is one look at the board, to see whether anything is new, and one look-up by `(issuer, subject)`.
What is new is read from the board's journal at once, so that the request which noticed it is already judged by it.

*Void.* Where the store was not heard of for `patience` seconds, no grant counts: somebody may have revoked it
elsewhere. Permissions that stand are no concern of this.

*Two clocks.* A grant ends by the store's clock or by this machine's, whichever is first; so a replica whose clock is
behind gives nobody more time, and one that is ahead gives less. One that was given in what is the future now, because a
clock was ahead for a while, does not count: nobody knows when it would end.

The same journal says what is blocked, which is kept beside it (`blocklist`): whatever voids grants leaves blocks.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson

from ostiary.grants.blocklist import Blocked
from ostiary.grants.board import Board, BoardChanged, beginning, generation_of, length_of, read
from ostiary.marks import Mark
from ostiary.models import Grant, Owner

_log = logging.getLogger("ostiary.grants")

PATIENCE: Final = 2.0
"""Seconds without the store after which no grant counts."""
_REMEMBERED: Final = 300
"""Seconds for which the policy is still told of a grant that time has ended, so that it can say so."""
_PAST: Final = 10_000
"""Grants of which that is remembered."""
_PAST_OF_ONE: Final = 10
"""Of these so many of one identity: each goes along with every question to the policy."""
_SLACK: Final = 2.0
"""Seconds by which two readings of one clock may differ."""
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class _Held:
    """`confirmed_at` is when time was given last. `ended`: its time is up, as the store says; it never counts again."""

    grant: Grant
    confirmed_at: int
    ended: bool = False


class ActiveGrants:
    """Implements `GrantReader`. `monotonic` is the machine's, in seconds."""

    def __init__(self, board: Board, *, monotonic: Callable[[], float], patience: float = PATIENCE) -> None:
        self._board = board
        self._monotonic = monotonic
        self._patience = patience
        self.epoch = 0
        self._journal = -1
        self._held: dict[Owner, tuple[_Held, ...]] = {}
        self._past: deque[tuple[Owner, str]] = deque()  # those in `_held` that have ended, in order
        self.blocked = Blocked()
        self.ended: Callable[[str | None], None] = _nobody_asks
        """Called with the id of a grant that was taken away or has ended, but not of one whose uses are used up: those
        were had. With None where all has to be looked at anew."""

    def close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def active(self, owner: Owner, time: int) -> tuple[Grant, ...]:
        """Those of this identity at that second, with those that time ended a moment ago, in a stable order."""
        if self._board.epoch != self.epoch and not self.read():
            return ()
        held = self._held.get(owner)
        return () if held is None else self._counting(held, time)

    def look(self) -> bool:
        """Read what is new, if anything is. False if that cannot be told."""
        return self._board.epoch == self.epoch or self.read()

    def end(self, grant: Grant) -> int | None:
        """The second in which this grant ends, as far as is known now; None if it does not count any more."""
        for one in self._held.get((grant.issuer, grant.subject), ()):
            if one.grant.id == grant.id and not one.ended:
                return one.grant.expires_at
        return None

    @property
    def ahead(self) -> float:
        """By how many seconds the store's clock is ahead of this machine's."""
        return self._board.ahead

    @property
    def void(self) -> bool:
        """Whether the store was not heard of for too long."""
        return not self._monotonic() - self._board.heard < self._patience

    def _counting(self, held: tuple[_Held, ...], time: int) -> tuple[Grant, ...]:
        if self.void:
            return ()
        # The store's time. As exact as the question to it was fast; a request's time is rounded down.
        now = time + self._board.ahead
        return tuple([one.grant for one in held if _counts(one, time=time, now=now)])

    # What is new

    def read(self) -> bool:
        """Read what was published. False if that cannot be told: then nothing counts, and it is tried again."""
        for _ in range(_TRIES):
            try:
                self._follow(self._board.epoch)
            except BoardChanged:
                continue
            except OSError as error:
                return self._unread(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, what was not read does not count
                self._board.doubt()
                return self._unread(error)
            return True
        self._board.doubt()  # it is nowhere
        self._forget()
        return False

    def _unread(self, error: Exception) -> bool:
        told = f"{type(error).__name__}: {error}"
        _log.error("the grants that were published cannot be read: none counts (%s)", told)
        self._forget()
        return False

    def _follow(self, epoch: int) -> None:
        if self._journal < 0 or generation_of(epoch) != generation_of(self.epoch):
            self._change_journal(epoch)
        self._read_up_to(epoch)
        self.blocked.settle()

    def _change_journal(self, epoch: int) -> None:
        """Three cases: the first journal, one that is shorter and says the same, one that says something else."""
        journal = self._board.journal(epoch)
        before, after = self._board.shortened
        same = generation_of(before) == generation_of(self.epoch) and generation_of(after) == generation_of(epoch)
        try:
            if self._journal >= 0 and same:
                self._read_up_to(before)
                self.close()
            else:
                self._forget()
                after = beginning(epoch)
        except BaseException:
            os.close(journal)
            raise
        self._journal, self.epoch = journal, after

    def _read_up_to(self, epoch: int) -> None:
        for line in read(self._journal, length_of(self.epoch), length_of(epoch)).splitlines():
            self._take(orjson.loads(line))
        self.epoch = epoch

    def _take(self, line: list[object]) -> None:
        grant, issuer, subject, document, state = line
        if issuer is None:
            self.blocked.take(str(grant), None if document is None else _mark(document))
            return
        owner = (str(issuer), str(subject))
        others = [one for one in self._held.get(owner, ()) if one.grant.id != grant]
        if isinstance(document, dict):
            confirmed = document.pop("confirmed_at")
            document["endpoints"] = tuple(document["endpoints"])
            others.append(_Held(Grant(**document), confirmed))
        elif state == "expired":
            others += [replace(one, ended=True) for one in self._held.get(owner, ()) if one.grant.id == grant]
            others = _without_older(others)
            self._past.append((owner, str(grant)))
        self._keep(owner, others)
        if len(self._past) > _PAST:
            self._let_go(*self._past.popleft())
        if document is None and state != "used-up":
            self.ended(str(grant))

    def _let_go(self, owner: Owner, grant: str) -> None:
        self._keep(owner, [one for one in self._held.get(owner, ()) if not (one.ended and one.grant.id == grant)])

    def _keep(self, owner: Owner, held: list[_Held]) -> None:
        if held:
            self._held[owner] = tuple(sorted(held, key=lambda one: one.grant.id))
        else:
            self._held.pop(owner, None)

    def _forget(self) -> None:
        self.close()
        self._held.clear()
        self._past.clear()
        self.blocked.begin_anew()
        self.epoch = 0
        self.ended(None)


def _mark(document: object) -> Mark:
    """Raises `TypeError` for what is none."""
    if not isinstance(document, dict) or not isinstance(document.get("mark"), list):
        raise TypeError("a block without a mark")
    return tuple(map(str, document["mark"]))


def _nobody_asks(id: str | None) -> None: ...


def _without_older(held: list[_Held]) -> list[_Held]:
    """Of those that have ended only the last few."""
    ended = sorted((one.grant.expires_at, one.grant.id) for one in held if one.ended)
    gone = {grant for _, grant in ended[:-_PAST_OF_ONE]}
    return [one for one in held if one.grant.id not in gone]


def _counts(held: _Held, *, time: int, now: float) -> bool:
    ends = held.grant.expires_at
    if ends <= time:
        return time < ends + _REMEMBERED  # the policy sees for itself that it has ended
    return not held.ended and now < ends and held.confirmed_at <= now + _SLACK
