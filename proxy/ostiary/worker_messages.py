"""What a supervisor and its workers tell each other, by pickle.

Apart from both, so that neither imports what the other is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostiary.config import Config
from ostiary.opa.address import OpaAddress

READY: Final = "ready"
HOW: Final = "how"
LOOK: Final = "look"
"""From a worker: OPA has a bundle of which nothing was announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """Why a worker cannot start, in lines for whoever started it."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told. `port` is the one that was really bound, `page` where the supervisor's page is, `core`
    the one that it keeps to."""

    name: str
    config: Config
    opa_address: OpaAddress
    port: int
    page: Path
    core: int | None = None
