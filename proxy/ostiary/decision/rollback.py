"""The statement of a rollback, as proxies, bundle servers and those who publish have to agree on it.

How it is signed and verified: `opa.rollback`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.decision.revision import Revision

SUFFIX: Final = ".rollback"
"""What comes behind a bundle's name in that of the statement beside it."""
LARGEST_STATEMENT: Final = 16 * 1024
"""Bytes of a statement."""
MEDIA_TYPE: Final = "application/jose"
"""RFC 7515, section 9.2.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """That proxies may go back to one bundle, from those up to another. `expires` is in whole Unix seconds."""

    back_from: Revision
    to: Revision
    scope: str
    expires: int


def statement_beside(bundle: Path) -> Path:
    return bundle.with_name(bundle.name + SUFFIX)
