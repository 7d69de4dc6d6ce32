"""The chain: what makes a file of the audit tell by itself that it is whole.

Every line gets two more members, as its last ones:

    …,"seq":7,"mac":"<64 hex>"}

`seq` counts the records of a chain from 1, and `mac` is HMAC-SHA256, under the chain's key, of three things in a row:
the `mac` of the record before (64 zeros before the first), `seq` in decimal digits, and the line as it was before the
two members were put in, with its newline. It is computed over bytes as they are written, so nothing has to be
serialised again to verify; a chain can be taken up again at every line, so what was tampered with is named and what
follows is still judged.

A chain is one process of one worker. It may fill several files, each of which begins with a `begin` record that says
what the file goes on from: the last record of the file before, also where that is another process's chain. The first
record after that of a process that did not come to an `end` is `resume`. Files that were removed to keep their number
down are named in a `pruned` record first.

The MAC is that of each record and not of each group that is written together, because what is altered has to be
named; and it is not a bare hash, because a hash can be computed by whoever alters. It costs 2 to 3 µs a record in
the writer's thread, measured in pairs with the chain left out; of them the MAC of a decision is 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final, NamedTuple

from ostiary.audit.keys import MAC_TEXT, AuditKey, AuditKeys, Sealing
from ostiary.audit.lines import MAX_LINE, SCHEMA, Timestamps, render
from ostiary.clock import Clock

FIRST: Final = "0" * MAC_TEXT
"""What stands in the place of the MAC before that of the first record."""

SEAL_BYTES: Final = 100
"""What the two members add to a line, at most."""

LONGEST: Final = MAX_LINE + SEAL_BYTES
"""Bytes of the longest record that is in a file."""

_TRY_AGAIN: Final = 60.0  # seconds, when the next key could not be made


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a file of a chain stood when the next one was begun.

    `bytes` is where its last record ends. `torn` is how many bytes there were behind that: what a process that died,
    or a disk that failed, had left of records that were never whole.
    """

    file: str
    chain: str
    seq: int
    mac: str
    bytes: int
    torn: int = 0
    ended: bool = False

    def document(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "chain": self.chain,
            "seq": self.seq,
            "mac": self.mac,
            "bytes": self.bytes,
            "torn": self.torn,
        }


class Head(NamedTuple):
    """The last record of a chain that is in its file. A tuple, because one is made for each group."""

    chain: str
    seq: int
    mac: str


class Sealed(NamedTuple):
    """Lines as they go into the file, and the head of the chain once they are there."""

    text: bytes
    head: Head


class Chain:
    """The chain of this process, for the thread that writes. `clock` is that thread's own.

    Nothing that is sealed counts before it is given back by `accept`: after a write that failed the same numbers are
    used again.
    """

    def __init__(self, *, worker: str, keys: AuditKeys, clock: Clock) -> None:
        self._worker = worker
        self._keys = keys
        self._clock = clock
        self._stamps = Timestamps()
        self._key: AuditKey | None = None
        self._sealing: Sealing | None = None
        self._expires = 0.0
        self.head = Head(chain=token_hex(16), seq=0, mac=FIRST)

    @property
    def due(self) -> bool:
        """Whether the key is too old, so that another file has to be begun with the next one."""
        return self._clock.now() >= self._expires

    def opening(self, follows: Link | None, *, pruned: Sequence[str]) -> list[bytes]:
        """The records that a new file begins with; what is sealed from now on is for that file.

        Raises OSError if there is no key and none can be made.
        """
        self._take_key()
        begin = {
            **self._about("begin"),
            "chain": self.head.chain,
            "key": "" if self._key is None else self._key.id,
            "follows": None if follows is None else follows.document(),
        }
        lines = [render(begin)]
        if follows is not None and follows.chain != self.head.chain and not follows.ended:
            lines.append(
                render({**self._about("resume"), "chain": follows.chain, "after": follows.seq, "torn": follows.torn})
            )
        if pruned:
            lines.append(render({**self._about("pruned"), "files": list(pruned)}))
        return lines

    def ending(self) -> list[bytes]:
        """The last record of a process that ends as it should."""
        return [render(self._about("end"))]

    def seal(self, lines: Sequence[bytes]) -> Sealed:
        """The lines as they are to be written behind the head."""
        if self._sealing is None:
            raise ValueError("a file is begun before anything is sealed for it")
        mac_of = self._sealing.mac
        chain, seq, text = self.head
        mac = text.encode()
        pieces: list[bytes] = []
        for line in lines:
            seq += 1
            mac = mac_of(b"%b%d" % (mac, seq), line)
            pieces += (line[:-2], b',"seq":%d,"mac":"%b"}\n' % (seq, mac))
        return Sealed(b"".join(pieces), Head(chain, seq, mac.decode()))

    def accept(self, head: Head) -> None:
        """What ended in this head is in the file."""
        self.head = head

    def _take_key(self) -> None:
        now = self._clock.now()
        try:
            key = self._keys.current(now)
        except OSError:
            if self._key is None:
                raise
            self._expires = now + _TRY_AGAIN  # the old one seals as well, and refusing requests would help nobody
            return
        self._expires = self._keys.expires(key)
        if self._key is None or key.id != self._key.id:
            self._key = key
            self._sealing = key.sealing(self.head.chain)

    def _about(self, kind: str) -> dict[str, Any]:
        now = self._stamps.format(self._clock.now())
        return {"schema": SCHEMA, "kind": kind, "time": now, "worker": self._worker}
