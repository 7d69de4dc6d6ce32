"""Programs in Go that tests run beside ours, built from the Go module proxy at the versions of deploy/tools.txt.

`python -m support.tools` builds those that are missing, which takes minutes the first time; `tool` is for tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Tool(NamedTuple):
    package: str
    version: str

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]

    @property
    def program(self) -> Path:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        cache = given if given.is_absolute() else Path.home() / ".cache"
        return cache / "ostiary" / "tools" / f"{self.name}-{self.version}" / self.name


def tools() -> dict[str, Tool]:
    lines = (ROOT / "deploy" / "tools.txt").read_text(encoding="utf-8").splitlines()
    found = [Tool(*line.split()) for line in lines if line and not line.startswith("#")]
    return {tool.name: tool for tool in found}


def tool(name: str) -> Path:
    """The program of that name, built if it is not there yet."""
    wanted = tools()[name]
    if not wanted.program.exists():
        build(wanted)
    return wanted.program


def build(wanted: Tool) -> None:
    """Build it by a module of its own: `go install` takes no module whose go.mod replaces or excludes others."""
    folder = wanted.program.parent
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH", "GOFLAGS")}
    environment |= {"CGO_ENABLED": "0"}
    with (folder / ".lock").open("w") as lock, tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.program.exists():
            return
        print(f"Building {wanted.name} {wanted.version}, which takes some minutes the first time.", flush=True)
        for command in (
            ["go", "mod", "init", "tools.test"],
            ["go", "get", f"{wanted.package}@{wanted.version}"],
            ["go", "build", "-ldflags=-s -w", "-o", wanted.name, wanted.package],
        ):
            subprocess.run(command, cwd=scratch, env=environment, check=True, capture_output=True, text=True)
        Path(scratch, wanted.name).replace(wanted.program)


def main() -> None:
    missing = [wanted for wanted in tools().values() if not wanted.program.exists()]
    if missing and shutil.which("go") is None:
        names = ", ".join(f"{wanted.name} {wanted.version}" for wanted in missing)
        sys.exit(
            f"The tests run {names}, which are built with Go, and there is no go on PATH: install it (https://go.dev/dl)."
        )
    for wanted in missing:
        try:
            build(wanted)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{wanted.name} could not be built: {error.stderr}")


if __name__ == "__main__":
    main()
