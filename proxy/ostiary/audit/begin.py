"""The first record of a file of the audit, read back: which chain the file is of, and what it goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from ostiary.audit.chain import FIRST
from ostiary.audit.judge import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Follows:
    """What a `begin` says that it goes on from."""

    file: str
    chain: str
    seq: int
    mac: bytes
    bytes: int
    torn: int

    @classmethod
    def of(cls, said: Any) -> Follows:
        return cls(
            file=str(said["file"]),
            chain=str(said["chain"]),
            seq=int(said["seq"]),
            mac=str(said["mac"]).encode(),
            bytes=int(said["bytes"]),
            torn=int(said["torn"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What the first record of a file says: its chain and key, and by `follows` the number and MAC before it."""

    chain: str = ""
    key: str = ""
    follows: Follows | None = None
    seq: int = 1
    mac: bytes = FIRST.encode()

    @classmethod
    def of(cls, line: Line) -> Begin:
        try:
            said = orjson.loads(line.raw)
            chain, key, follows = str(said["chain"]), str(said["key"]), said["follows"]
            before = None if follows is None else Follows.of(follows)
        except (ValueError, TypeError, KeyError):
            return cls()
        if before is None or before.chain != chain:
            return cls(chain=chain, key=key, follows=before)
        return cls(chain=chain, key=key, follows=before, seq=before.seq + 1, mac=before.mac)
