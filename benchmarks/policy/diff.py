"""`ostiary bundle diff` of two compiled maps of 100,000 permissions, for changes of different reach."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.rego.questions import permission_count, permission_map
from benchmarks.rego.report import Part
from benchmarks.targets import Target
from ostiary.policy.bundle import MANIFEST
from ostiary.policy.compiler import compile_map
from ostiary.policy.model import PermissionMap
from ostiary.policy.terms import canonical

ROUNDS: Final = 3
BOUND: Final = 5.0
"""Seconds, of the slowest change, from the start of the command to its end."""


def measure(place: Path) -> Part:
    """The map as it is, and after each change, as bundle directories; the best of the rounds counts for each."""
    before = json.loads(permission_map())
    old = _bundle(place / "old", before)
    seconds = {name: _seconds(old, _bundle(place / name, change(before)), place) for name, change in CHANGES.items()}
    for name, (taken, changes) in seconds.items():
        print(f"{taken:8.2f} s  {name}: {changes} changes are told")
    slowest = max(taken for taken, _ in seconds.values())
    name = f"the diff of two maps of {permission_count():,} permissions"
    rows = [{"change": each, "seconds": taken, "told": told} for each, (taken, told) in seconds.items()]
    return Part(
        name="diff",
        members={"diff": rows},
        targets=[Target(name=name, value=slowest, bound=BOUND, side="at most", unit="s")],
    )


def _bundle(place: Path, written: Mapping[str, Any]) -> Path:
    """What a comparison reads of a bundle: its map, and the manifest."""
    content = compile_map(PermissionMap.model_validate(written))
    place.mkdir()
    (place / "data.json").write_text(canonical({"ostiary": {"map": content}}), encoding="ascii")
    (place / MANIFEST).write_text(json.dumps({"revision": "1-0", "roots": ["ostiary", "policy"]}), encoding="ascii")
    return place


def _seconds(old: Path, new: Path, place: Path) -> tuple[float, int]:
    best, told = float("inf"), 0
    for _ in range(ROUNDS):
        with (place / "out.json").open("wb+") as out:
            began = time.monotonic()
            command: list[str | Path] = [sys.executable, "-m", "ostiary", "bundle", "diff", old, new, "--json"]
            subprocess.run(command, check=True, stdout=out)
            best = min(best, time.monotonic() - began)
            out.seek(0)
            told = len(json.load(out)["access"])
    return best, told


def _one_endpoint(written: Mapping[str, Any]) -> dict[str, Any]:
    first, *others = written["permissions"]
    return {**written, "permissions": [{**first, "endpoints": first["endpoints"][1:]}, *others]}


def _every_permission(written: Mapping[str, Any]) -> dict[str, Any]:
    """Each gets another condition."""
    entries = [{**each, "when": each.get("when", {}) | {"source": ["10.0.0.0/8"]}} for each in written["permissions"]]
    return {**written, "permissions": entries}


def _every_path(written: Mapping[str, Any]) -> dict[str, Any]:
    """Every service gets a template that takes paths from `**`."""
    services = {
        name: {"endpoints": {**each["endpoints"], "readme": "GET /files/readme"}}
        for name, each in written["services"].items()
    }
    return {**written, "services": services}


CHANGES: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "nothing": dict,
    "one permission goes": _one_endpoint,
    "every permission has another source": _every_permission,
    "every service has another template": _every_path,
}
