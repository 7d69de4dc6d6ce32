"""The result of the Rego bench: what a run measured, beside what earlier runs measured of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import BUILD
from benchmarks.report import machine
from benchmarks.targets import Target

RESULT: Final = BUILD / "bench-rego.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part of the bench found: `members` of the document, and targets."""

    name: str
    members: Mapping[str, Any]
    targets: Sequence[Target] = field(default_factory=tuple)


def merged(earlier: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """The earlier document with this part's members and targets in the place of those that it had."""
    others = [target for target in earlier.get("targets", []) if target.get("part") != part.name]
    own = [{"part": part.name, **target.document()} for target in part.targets]
    return {**earlier, **part.members, "targets": others + own}


def write(part: Part, *, result: Path = RESULT) -> None:
    """Put it into the file `result`, with what it was measured on."""
    document = merged(_earlier(result), part) | {"machine": machine()}
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _earlier(result: Path) -> dict[str, Any]:
    """What is there, if it is of this form."""
    try:
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if "machine" in found else {}
