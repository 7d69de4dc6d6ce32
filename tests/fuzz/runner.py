"""Running cases: fresh ones and mutations of those that did something new; what is found is kept as a file.

A case with which something new happens (another refusal, another way through the pipeline: what `Target.check`
returns) is kept and mutated further, which is a coarse coverage feedback that costs nothing. For a fine one there is
`guided`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.mutation import mutate, shrink
from fuzz.target import Target
from fuzz.targets import TARGETS

CASES: Final = Path(__file__).parent / "cases"
_KEPT: Final = 2000
_MUTATED: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A case, as small as it could be made, and what it broke."""

    target: str
    case: bytes
    said: str

    @property
    def path(self) -> Path:
        return CASES / f"{self.target}-{hashlib.sha256(self.case).hexdigest()[:16]}.case"

    def keep(self) -> Path:
        CASES.mkdir(exist_ok=True)
        self.path.write_bytes(self.case)
        return self.path


def made(name: str) -> Target:
    """The target of this name. It has to be closed."""
    return next(make for make in TARGETS if make.name == name)()  # type: ignore[attr-defined]


def broken(target: Target, case: bytes) -> str | None:
    """What a case breaks, or None. Whatever gets out counts, not findings alone."""
    try:
        target.check(case)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


def run(
    name: str, *, cases: int, seed: int, tick: Callable[[int], None] = lambda _: None, most: int = 5
) -> Iterator[Finding]:
    """Run so many cases of a target, and yield what is found, `most` times at most. The same seed does the same."""
    rng = random.Random(f"{seed} {name}")
    target = made(name)
    kept: list[bytes] = []
    happened: set[object] = set()
    found: set[str] = set()
    try:
        for number in range(cases):
            if kept and rng.random() < _MUTATED:
                case = mutate(rng.choice(kept), rng, target.words, kept)
            else:
                case = target.make(rng)
            try:
                what = target.check(case)
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                kind = f"{type(error).__name__}: {error}"[:40]
                if kind not in found:
                    found.add(kind)
                    yield _finding(target, case, kind)
                    if len(found) >= most:
                        return
                continue
            if what not in happened:
                happened.add(what)
                if len(kept) < _KEPT:
                    kept.append(case)
                else:
                    kept[rng.randrange(_KEPT)] = case
            if number % 100 == 99:
                tick(100)
    finally:
        target.close()


def _finding(target: Target, case: bytes, kind: str) -> Finding:
    small = shrink(case, lambda smaller: (broken(target, smaller) or "")[:40] == kind)
    return Finding(target=target.name, case=small, said=broken(target, small) or kind)


def kept_cases() -> list[Path]:
    """What was found before, and has been mended."""
    return sorted(CASES.glob("*.case"))
