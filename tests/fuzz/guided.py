"""`python -m fuzz.guided TARGET SECONDS`, with `tests` on the path: one target under atheris, in one process.

libFuzzer chooses the cases by the branches of ours that they reach. atheris is no requirement: `pip install atheris`
(Linux and macOS, CPython). What is found is kept like any finding, and ends the run.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import atheris

with atheris.instrument_imports(include=["ostiary", "fuzz.reference"]):
    from fuzz.runner import Finding, broken, made

_SEEDS = 500


def guided(name: str, *, seconds: int) -> NoReturn:
    """Does not return: libFuzzer ends the process."""
    target = made(name)
    corpus = Path(tempfile.mkdtemp(prefix="ostiary-corpus-"))
    rng = random.Random(name)
    for number in range(_SEEDS):
        (corpus / str(number)).write_bytes(target.make(rng))

    def one(case: bytes) -> None:
        said = broken(target, case)
        if said is not None:
            print(said, "\n  kept as", Finding(target=name, case=case, said=said).keep(), flush=True)
            raise SystemExit(1)

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()
    raise SystemExit(0)


if __name__ == "__main__":
    guided(sys.argv[1], seconds=int(sys.argv[2]))
