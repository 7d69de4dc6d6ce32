"""The keys of the audit's chain: 32 random bytes in a file of their own, in a directory that is not the audit's.

    <UTC time>-<8 hex>.key         0600, in a directory made 0700; the name is the key's id

The writer makes the first one and, when it is older than its lifetime, the next; workers that do so at the same time
end up with a key each, which harms nothing, because every file of the audit names its own. A key that is no longer
the newest is not written with again: only `ostiary audit verify` reads it. Moved to another machine, it is beyond
the reach of whoever breaks into this one later, and no record that it sealed can then be rewritten here.

Keys are not evolved from record to record. That would protect the records between the last change of keys and a
break-in too, but only if the first key of each evolution were kept elsewhere, so it is the moving that protects, and
an evolution would only make the steps shorter. For the hours since the last change there are checkpoints: what one of
them says, on another machine, no key can rewrite.

Each chain is sealed with a key that is derived from the file's, so that no line fits into another chain, and that one
chain's key can be shown to somebody without showing the others'.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from binascii import hexlify
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from hmac import digest
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Final

from ostiary.disk import sync_directory

KEY_BYTES: Final = 32
MAC_TEXT: Final = 64
"""Characters of a MAC: HMAC-SHA256 in lower-case hexadecimal."""

_BLOCK: Final = 64  # bytes of a block of SHA-256
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))
_HELD: Final = 2047
"""Bytes that hashlib hashes without letting go of the interpreter. The writer's thread would have to wait to get it
back, up to five milliseconds for each line."""

_NAME: Final = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8})\.key")
_TEXT: Final = re.compile(rb"[0-9a-f]{64}\n?")


class Sealing:
    """HMAC-SHA256 (RFC 2104) under one chain's key.

    The two hashes of the padded key are computed once and copied for each record, which takes half the time of
    `hmac.digest`: that sets up the algorithm anew at each call, and lets go of the interpreter.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            raise ValueError("a key of a chain is at most 64 bytes")
        padded = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(padded.translate(_INNER))
        self._outer = sha256(padded.translate(_OUTER))

    def mac(self, head: bytes, line: bytes) -> bytes:
        """Of `head` and then `line`, as text."""
        inner = self._inner.copy()
        if len(head) + len(line) <= _HELD:
            inner.update(head + line)
        else:
            inner.update(head)
            view = memoryview(line)
            for start in range(0, len(line), _HELD):
                inner.update(view[start : start + _HELD])
        outer = self._outer.copy()
        outer.update(inner.digest())
        return hexlify(outer.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKey:
    """A key as its file holds it. Neither `str()` nor a log shows it. `made` is in Unix seconds."""

    id: str
    made: float
    secret: bytes = field(repr=False)

    def sealing(self, chain: str) -> Sealing:
        """What seals the records of one chain."""
        return Sealing(digest(self.secret, b"ostiary audit chain " + chain.encode(), "sha256"))


class AuditKeys:
    """A directory of keys. `lifetime` is in seconds."""

    def __init__(self, directory: Path, *, lifetime: float) -> None:
        if lifetime <= 0:
            raise ValueError("the lifetime of a key is above zero")
        self._directory = directory
        self._lifetime = lifetime

    def current(self, now: float) -> AuditKey:
        """The newest key, made if there is none or if that one is too old. `now` is in Unix seconds. Raises OSError."""
        guard(self._directory, "the directory of the audit's keys")
        newest = self.newest()
        if newest is not None and now - newest.made < self._lifetime:
            return newest
        return self._make(now)

    def newest(self) -> AuditKey | None:
        """The one that would be gone on with, None if there is none. Makes nothing. Raises OSError."""
        names = sorted(name for path in self._directory.iterdir() if (name := _id(path)) is not None)
        return _read(self._directory / f"{names[-1]}.key", names[-1]) if names else None

    def expires(self, key: AuditKey) -> float:
        """When a key is too old to go on with, in Unix seconds."""
        return key.made + self._lifetime

    def _make(self, now: float) -> AuditKey:
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{token_hex(4)}"
        path = self._directory / f"{name}.key"
        # Whole under another name first: the next process after a crash never finds half a key.
        draft = self._directory / f".{name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(token_bytes(KEY_BYTES).hex().encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            draft.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        sync_directory(self._directory)
        return _read(path, name)


def read_keys(directory: Path) -> Mapping[str, AuditKey]:
    """Every key of a directory by its id, to verify with; none if there is no such directory.

    Raises OSError, also for a key that others than its owner can read.
    """
    if not directory.is_dir():
        return {}
    found = {name: path for path in directory.iterdir() if (name := _id(path)) is not None}
    return {name: _read(path, name) for name, path in sorted(found.items())}


def guard(directory: Path, what: str) -> None:
    """Make a directory of the audit, or see that nobody else can write in the one that is there. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    unshared(directory, what)


def unshared(directory: Path, what: str) -> None:
    """See that nobody else can write in a directory that is there. Raises OSError."""
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"others can write in {what}", str(directory))


def _id(path: Path) -> str | None:
    found = _NAME.fullmatch(path.name)
    return found[1] if found is not None else None


def _read(path: Path, name: str) -> AuditKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "a key of the audit is its owner's alone (mode 0600)", str(path))
        text = os.read(descriptor, 256)
    finally:
        os.close(descriptor)
    if not _TEXT.fullmatch(text):
        raise OSError(errno.EINVAL, "is not a key of the audit: 64 hexadecimal digits", str(path))
    made = datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    return AuditKey(id=name, made=made, secret=bytes.fromhex(text.decode().strip()))
