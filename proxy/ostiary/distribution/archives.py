"""What is published: a bundle as one file, of which nothing is known but its bytes, and the revision in it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from ostiary.decision.revision import Revision
from ostiary.decision.rollback import Statement

LARGEST: Final = 256 * 1024**2
"""Bytes of an archive, packed: a map of a million permissions has a tenth of that."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.tar\.gz", re.ASCII)
"""What a published bundle may be called."""


class BundleRefused(Exception):
    """This is no bundle, or no statement, that may be published. The message is a clause, without its own text."""


class Examiner(Protocol):
    """Who knows bundles. Both read what a stranger may have written; both block, and raise `BundleRefused`."""

    def examine(self, content: bytes) -> Revision:
        """The revision of a bundle that is whole, and signed where that is demanded."""

    def peek(self, content: bytes) -> Revision:
        """The revision that a bundle states, whatever else is in it."""

    def statement(self, content: bytes) -> Statement:
        """What a statement says, which is signed as bundles are where that is demanded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExaminedStatement:
    """A statement as it is published, and what it says."""

    content: bytes = field(repr=False)
    said: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A bundle that was examined. `digest` is the SHA-256 of its bytes, in hexadecimal."""

    revision: Revision
    digest: str
    content: bytes

    @classmethod
    def read(cls, content: bytes, examiner: Examiner) -> Self:
        """Blocks; raises `BundleRefused`."""
        if len(content) > LARGEST:
            raise BundleRefused(f"it has more than {LARGEST} bytes")
        return cls(revision=examiner.examine(content), digest=hashlib.sha256(content).hexdigest(), content=content)

    @property
    def tag(self) -> str:
        """A strong entity tag (RFC 9110, section 8.8.3), the same wherever these bytes are served."""
        return f'"{self.digest}"'
