"""`make bench-rego`: what the policy costs in OPA. Exit status 1 if a target is missed. The method is in README.md.

    python -m benchmarks.rego [evaluation] [memory] [batch] [--sizes]

Where nothing is named, the three parts before `--sizes` are measured, which is about maps from a thousand to a million
permissions. What an earlier run has found of other parts is kept.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.rego import parts, report
from benchmarks.rego.parts import Bench
from benchmarks.report import show_targets
from benchmarks.targets import Target

GATE: Final[Mapping[str, Callable[[Bench], report.Part]]] = {
    "evaluation": parts.evaluate,
    "memory": parts.weigh,
    "batch": parts.ask_together,
}
KNOWN: Final = {**GATE, "--sizes": parts.grow}


def main(arguments: Sequence[str]) -> int:
    unknown = [name for name in arguments if name not in KNOWN]
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}: there are {', '.join(KNOWN)}")
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
        bench = Bench(Path(directory))
        for name in arguments or GATE:
            part = KNOWN[name](bench)
            report.write(part)
            targets += part.targets
    show_targets(targets)
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
