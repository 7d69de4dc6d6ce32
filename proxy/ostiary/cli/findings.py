"""What `ostiary check` says of each thing that it looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ostiary.errors import ConfigurationError

State: TypeAlias = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` is what keeps the proxy from doing its work."""

    part: str
    state: State
    what: str

    def document(self) -> dict[str, str]:
        return {"part": self.part, "state": self.state, "what": self.what}


def ok(part: str, what: str) -> list[Finding]:
    return [Finding(part, "ok", what)]


def wrong(part: str, what: str | ConfigurationError) -> list[Finding]:
    """One finding, or one for each mistake of a file."""
    lines: Iterable[str] = what.mistakes if isinstance(what, ConfigurationError) else (what,)
    return [Finding(part, "wrong", line) for line in lines]


def warned(part: str, lines: Iterable[str]) -> list[Finding]:
    return [Finding(part, "warning", line) for line in lines]
