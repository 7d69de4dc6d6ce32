"""`make bench-policy`: what tools for policy cost. Exit status 1 if a target is missed. The method is in README.md.

    python -m benchmarks.policy [diff] [replay] [enforcing] [waiting]

Where nothing is named, every part is measured. What an earlier run has found of other parts is kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.policy import diff, enforcing, replay, waiting
from benchmarks.processes import BUILD
from benchmarks.rego import report
from benchmarks.report import show_targets
from benchmarks.targets import Target

RESULT: Final = BUILD / "bench-policy.json"

PARTS: Final[Mapping[str, Callable[[Path], report.Part]]] = {
    "diff": diff.measure,
    "replay": replay.measure,
    "enforcing": enforcing.measure,
    "waiting": waiting.measure,
}


def main(arguments: Sequence[str]) -> int:
    unknown = [name for name in arguments if name not in PARTS]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    targets: list[Target] = []
    for name in arguments or PARTS:
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
            part = PARTS[name](Path(directory))
        report.write(part, result=RESULT)
        targets += part.targets
    show_targets(targets)
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
