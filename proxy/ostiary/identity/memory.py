"""The last good keys of an issuer in a file, for the worker that is started while the issuer cannot be reached.

What is read there is subject to all that a fetched document is, and to the same age: the file's time is that of the
fetch. A file that somebody else could have written, or of a time that is yet to come, is none.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from ostiary.identity.keys import MAX_DOCUMENT_BYTES
from ostiary.identity.settings import KeyOrigin


class KeyMemory:
    """One issuer's document, in a directory that is this user's alone. Of another address, it is another one's."""

    def __init__(self, directory: Path, *, issuer: str, keys: KeyOrigin) -> None:
        self._path = directory / f"{sha256(repr((issuer, keys)).encode()).hexdigest()[:32]}.jwks"

    def recall(self, now: float) -> tuple[bytes, float] | None:
        """The document and its age in seconds, None if there is none to be believed. `now` is in Unix seconds."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
            document = file.read(MAX_DOCUMENT_BYTES + 1)
        age = now - status.st_mtime
        return (document, age) if age >= 0 and len(document) <= MAX_DOCUMENT_BYTES else None

    def keep(self, document: bytes, now: float) -> None:
        """Keep what was fetched at that time. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{token_hex(8)}")
        try:
            with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(document)
            os.utime(draft, (now, now))
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
