"""`make bench-revoke`: how fast access is given and taken away. Exit status 1 if a target is missed. See README.md.

    python -m benchmarks.revoke [--trials N] [revoking] [streams] [standing] [replicas] [lookups]

Where nothing is named, every part is measured. What an earlier run has found of other parts is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.processes import BUILD
from benchmarks.rego import report
from benchmarks.report import show_targets
from benchmarks.revoke import lookups, replicas, revoking, standing, streams
from benchmarks.targets import Target

RESULT: Final = BUILD / "bench-revoke.json"
TRIALS: Final = 1000

PARTS: Final[Mapping[str, Callable[[Path, int], report.Part]]] = {
    "revoking": revoking.measure,
    "streams": streams.measure,
    "standing": standing.measure,
    "replicas": replicas.measure,
    "lookups": lookups.measure,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.revoke")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if given.trials < 1:
        parser.error("at least one trial")
    targets: list[Target] = []
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
            part = PARTS[name](Path(directory), given.trials)
        report.write(part, result=RESULT)
        targets += part.targets
    show_targets(targets)
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
