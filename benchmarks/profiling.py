"""`make profile`: where the CPU time of the hot path goes, by function and by part of the proxy.

A worker with everything on is sampled while the load runs at 32 connections. py-spy starts it, so that neither root
nor a setting of the kernel is needed, and looks at whoever holds the interpreter's lock: that is what the path costs.
What C code does while it holds it (writing to a socket, for one) counts for the function that called it.

Written are `build/profile.txt`, which is printed too, and `build/profile.speedscope.json` for speedscope's viewer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.contestants import Contestant, Field
from benchmarks.deployment import deployed
from benchmarks.messages import get
from benchmarks.processes import BUILD, LOAD, children, until_listening
from benchmarks.traffic import Traffic, traffic

SECONDS: Final = 10
RATE: Final = 250
"""Samples a second."""
CONNECTIONS: Final = 32

LISTING: Final = BUILD / "profile.txt"
FLAMES: Final = BUILD / "profile.speedscope.json"

_SHOWN: Final = 40
_STARTING: Final = "main (benchmarks/rung.py"
_PART: Final = re.compile(r"\((?:ostiary/(?P<part>\w+)|(?P<package>\w+)/)")

Stack: TypeAlias = tuple[str, ...]
"""Frames, the outermost first: `Pipeline.__call__ (ostiary/pipeline.py:60)`."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How often each stack was seen."""

    stacks: Mapping[Stack, int]

    @classmethod
    def parse(cls, folded: Iterable[str]) -> Profile:
        """From lines of `frame;frame;frame count`. What was seen while the worker started is left out."""
        stacks: Counter[Stack] = Counter()
        for line in folded:
            frames, _, count = line.rstrip("\n").rpartition(" ")
            stack = tuple(frames.split(";"))
            if not any(frame.startswith((_STARTING, "_find_and_load")) for frame in stack):
                stacks[stack] += int(count)
        return cls(stacks=stacks)

    @property
    def samples(self) -> int:
        return sum(self.stacks.values())

    def own(self) -> Counter[str]:
        """How often each function was the innermost."""
        return self._counted(lambda stack: {stack[-1]})

    def total(self) -> Counter[str]:
        """How often each function was anywhere in the stack."""
        return self._counted(set)

    def parts(self) -> Counter[str]:
        """How often each part was the innermost of ours: what libraries do for a part is the part's."""
        return self._counted(lambda stack: {part_of(stack)})

    def _counted(self, names: Callable[[Stack], set[str]]) -> Counter[str]:
        found: Counter[str] = Counter()
        for stack, count in self.stacks.items():
            for name in names(stack):
                found[name] += count
        return found


def part_of(stack: Stack) -> str:
    """The package or module of ostiary that is innermost in a stack; the library's name where none is in it."""
    library = "the interpreter"
    for frame in reversed(stack):
        found = _PART.search(frame)
        if found is None:
            continue
        if found["part"]:
            return found["part"]
        if library == "the interpreter":
            library = found["package"]
    return library


def listing(profile: Profile, *, per_second: float) -> str:
    """For people."""
    total, own = profile.total(), profile.own()

    def share(count: int) -> str:
        return f"{100 * count / profile.samples:5.1f} %"

    lines = [
        f"{profile.samples} samples at {per_second:.0f} requests a second; {CONNECTIONS} connections, everything on",
        "",
        "by part, what libraries do for it included",
        *(f"  {share(count)}  {name}" for name, count in profile.parts().most_common()),
        "",
        "by function: itself, and with what it calls",
        *(f"  {share(count)} {share(total[name])}  {name}" for name, count in own.most_common(_SHOWN)),
    ]
    return "\n".join(lines) + "\n"


def speedscope(profile: Profile) -> dict[str, Any]:
    """In speedscope's file format, a profile of samples; see its file-format-schema.json."""
    frames = {name: number for number, name in enumerate(sorted({name for stack in profile.stacks for name in stack}))}
    return {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": "hot path",
                "unit": "none",
                "startValue": 0,
                "endValue": profile.samples,
                "samples": [[frames[name] for name in stack] for stack in profile.stacks],
                "weights": list(profile.stacks.values()),
            }
        ],
    }


def main() -> int:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        ends = stack.enter_context(traffic())
        field = Field(deployed(place / "orders", upstream=ends.port), stack)
        folded = place / "folded"
        profiled, per_second = sampled(field, ends, folded)
        if profiled.process is None or profiled.process.wait(30) or not folded.exists():
            raise SystemExit(f"py-spy failed\n{(place / 'orders' / 'profiled' / 'log').read_text(encoding='utf-8')}")
        profile = Profile.parse(folded.read_text(encoding="utf-8").splitlines())
    BUILD.mkdir(exist_ok=True)
    text = listing(profile, per_second=per_second)
    LISTING.write_text(text, encoding="utf-8")
    FLAMES.write_text(json.dumps(speedscope(profile)), encoding="utf-8")
    print(text)
    print(f"flame graph: open {FLAMES} in speedscope")
    return 0


def sampled(field: Field, ends: Traffic, folded: Path) -> tuple[Contestant, float]:
    """The sampler, which is about to end and then writes `folded`, and the requests a second that it saw."""
    requests = field.requests("order", get("/orders/42", field.token()))
    spy = [Path(sys.executable).parent / "py-spy", "record", "--gil", "--function", "--format", "raw"]
    contestant = field.rung("profiled", "audit", under=[*spy, "--rate", str(RATE), "--output", folded, "--"])
    process = contestant.process
    if process is None or contestant.home is None:
        raise SystemExit("nothing was started")
    until_listening(contestant.port, process, contestant.home / "log")
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), LOAD)  # the sampler is not to be in the way of what it samples
    try:
        run = ends.run(contestant.port, requests, connections=CONNECTIONS, seconds=SECONDS, ramp=0.5)
    finally:
        for worker in children(process.pid):
            os.kill(worker, signal.SIGTERM)
    return contestant, run.requests / run.seconds


if __name__ == "__main__":
    sys.exit(main())
