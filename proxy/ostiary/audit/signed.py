"""Checkpoints, read back: each is checked by its signature, and told chain by chain.

What is kept in memory is one entry for each chain, which is each start of a worker. The checkpoints of a chain are
read again, one after the other, when its records are.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ostiary.audit.files import CHECKPOINTS, file_names, opened
from ostiary.audit.findings import Remark
from ostiary.audit.lines import MAX_LINE

_SIGNED: Final = re.compile(rb'(?P<text>\{.+),"signature":"(?P<signature>[A-Za-z0-9_-]{86})"\}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One of them. `time` is RFC 3339."""

    chain: str
    seq: int
    mac: bytes
    number: int
    time: str
    kid: str


@dataclass(slots=True, kw_only=True)
class ChainCheckpoints:
    """Those of one chain: where the first one is (file and offset), and which is the last."""

    id: str
    files: list[Path]
    offset: int
    last: Checkpoint


class CheckpointBook:
    """Every checkpoint of some directories. `keys` are the public keys that are trusted for them, by their ids.

    `remarks` is what is to be said of the files themselves.
    """

    def __init__(self, directories: Sequence[Path], *, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys
        self._chains: dict[str, dict[str, ChainCheckpoints]] = {}
        self._bad: set[tuple[Path, int]] = set()
        self._unknown: set[str] = set()
        self.remarks: list[Remark] = []
        found = [(name, one / str(name)) for one in directories for name in file_names(one, prefix=CHECKPOINTS)]
        for name, path in sorted(found):
            self._read(name.worker, path)

    @property
    def workers(self) -> set[str]:
        return set(self._chains)

    def chains(self, worker: str) -> list[ChainCheckpoints]:
        return list(self._chains.get(worker, {}).values())

    def of(self, worker: str, chain: str) -> Iterator[Checkpoint]:
        """Those of one chain that are good, in their order."""
        found = self._chains.get(worker, {}).get(chain)
        if found is None:
            return
        offset = found.offset
        for path in found.files:
            for at, line in _lines(path, offset):
                checkpoint = _parse(line)
                if checkpoint is not None and checkpoint.chain == chain and (path, at) not in self._bad:
                    yield checkpoint
            offset = 0

    def _read(self, worker: str, path: Path) -> None:
        for number, (at, line) in enumerate(_lines(path, 0), start=1):
            checkpoint = _parse(line)
            if checkpoint is not None and checkpoint.kid not in self._keys:
                self._bad.add((path, at))
                self._unsigned(checkpoint, path, number)
            elif checkpoint is None or not self._good(line, checkpoint):
                self._bad.add((path, at))
                what = "no checkpoint that was signed here"
                self.remarks.append(Remark(kind="altered", file=path.name, line=number, what=what))
            else:
                self._note(worker, checkpoint, path, at, number)

    def _note(self, worker: str, checkpoint: Checkpoint, path: Path, at: int, number: int) -> None:
        chains = self._chains.setdefault(worker, {})
        chain = chains.get(checkpoint.chain)
        if chain is None:
            chains[checkpoint.chain] = ChainCheckpoints(id=checkpoint.chain, files=[path], offset=at, last=checkpoint)
            return
        if checkpoint.number != chain.last.number + 1:
            what = f"checkpoints between {chain.last.number} and {checkpoint.number} of a chain are missing before it"
            self.remarks.append(Remark(kind="removed", file=path.name, line=number, what=what))
        chain.last = checkpoint
        if chain.files[-1] != path:
            chain.files.append(path)

    def _unsigned(self, checkpoint: Checkpoint, path: Path, number: int) -> None:
        if checkpoint.kid not in self._unknown:
            self._unknown.add(checkpoint.kid)
            what = f"the public key {checkpoint.kid} is not there: no checkpoint under it can be judged"
            self.remarks.append(Remark(kind="key-missing", file=path.name, line=number, what=what))

    def _good(self, line: bytes, checkpoint: Checkpoint) -> bool:
        found = _SIGNED.fullmatch(line)
        if found is None:
            return False
        try:
            signature = base64.urlsafe_b64decode(found["signature"] + b"==")
            self._keys[checkpoint.kid].verify(signature, found["text"])
        except (InvalidSignature, binascii.Error):
            return False
        return True


def _lines(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """Offset and line, of those that are whole: a process may have died in writing the last one."""
    with opened(path) as file:
        if file is None:
            return
        file.seek(offset)
        while line := file.readline(MAX_LINE):
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def _parse(line: bytes) -> Checkpoint | None:
    try:
        said = orjson.loads(line)
        if said["kind"] != "checkpoint":
            return None
        return Checkpoint(
            chain=str(said["chain"]),
            seq=int(said["seq"]),
            mac=str(said["mac"]).encode(),
            number=int(said["number"]),
            time=str(said["time"]),
            kid=str(said["kid"]),
        )
    except (ValueError, TypeError, KeyError):
        return None
