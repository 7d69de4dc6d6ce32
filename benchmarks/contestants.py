"""Who takes part: nothing at all, plain Envoy, rungs of ostiary, and the proxy as a person runs it.

Each is started without waiting, so that those of a bench start together; `all_ready` waits for them.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.deployment import Deployment
from benchmarks.processes import ALL, LOAD, MEASURED, Process, free_port, started, until_listening
from ostiary.demo.issuer import DemoIssuer

DIRECT: Final = "direct"
ENVOY: Final = "plain Envoy"
EVERYTHING: Final = "everything on"
UNCACHED: Final = "uncached"
PER_CALL: Final = "per-call credentials"
SCRIPTED: Final = "scripted authorizer"
TWO_WORKERS: Final = "two workers"
TWO_WORKERS_UNCACHED: Final = "two workers, uncached"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`process` is None where nothing stands between load and upstream. `home` is where its files are."""

    name: str
    port: int
    process: Process | None = None
    home: Path | None = None

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def audit(self) -> Path:
        if self.home is None:
            raise ValueError(f"{self.name} has no audit")
        return self.home / "audit"


def all_ready(contestants: Iterable[Contestant]) -> None:
    for one in contestants:
        if one.process is not None and one.home is not None:
            until_listening(one.port, one.process, one.home / "log")


class Field:
    """Starts contestants of one deployment, and ends them with `stack`."""

    def __init__(self, deployment: Deployment, stack: contextlib.ExitStack) -> None:
        self.deployment = deployment
        self._stack = stack

    def requests(self, name: str, raw: bytes) -> Path:
        """The path of a file that holds them."""
        path = self.deployment.place / f"{name}.requests"
        path.write_bytes(raw)
        return path

    def token(self) -> str:
        """The token of the caller of the usual map."""
        return self.deployment.issuer.token("web")

    @property
    def issuer(self) -> DemoIssuer:
        return self.deployment.issuer

    def direct(self) -> Contestant:
        return Contestant(name=DIRECT, port=self.deployment.upstream)

    def envoy(self) -> Contestant:
        from benchmarks import plain_envoy  # its dependency is the bench's alone, and no test needs it

        home, port = self._home(ENVOY), free_port()
        config = home / "envoy.json"
        configuration = plain_envoy.configuration(port, self.deployment.upstream)
        config.write_text(json.dumps(configuration), encoding="utf-8")
        return self._start(ENVOY, plain_envoy.command(config), home, port)

    def ostiary(
        self, name: str, *, workers: int = 1, cached_decisions: int | None = None, grants: str | None = None
    ) -> Contestant:
        """The proxy and its OPA: on one core, or with several workers on all."""
        home, port = self._home(name), free_port()
        config = self.deployment.configure(
            home, port=port, workers=workers, cached_decisions=cached_decisions, grants=grants
        )
        command = [sys.executable, "-m", "ostiary", "run", "-c", config]
        return self._start(name, command, home, port, cores=MEASURED if workers == 1 else ALL)

    def rung(self, name: str, rung: str, *, under: Sequence[Any] = ()) -> Contestant:
        """One worker in which some stages are stand-ins: see `rung.py`. `under` is a command that starts it."""
        home, port = self._home(name), free_port()
        config = self.deployment.configure(home, port=port)
        return self._start(name, [*under, sys.executable, "-m", "benchmarks.rung", config, rung], home, port)

    def memory(self, decisions: int) -> Process:
        """A worker that keeps so many decisions and says how large it is: see `memory.py`. On the load's core."""
        home = self._home("memory")
        config = self.deployment.configure(home, port=free_port(), cached_decisions=decisions)
        command = [sys.executable, "-m", "benchmarks.memory", config, str(decisions)]
        return self._stack.enter_context(started(command, LOAD, log=home / "log"))

    def _home(self, name: str) -> Path:
        home = self.deployment.place / name.strip("+ ").replace(",", "").replace(" ", "-")
        home.mkdir(mode=0o700)
        return home

    def _start(
        self, name: str, command: Sequence[Any], home: Path, port: int, *, cores: Iterable[int] = MEASURED
    ) -> Contestant:
        process = self._stack.enter_context(started(command, cores, log=home / "log"))
        return Contestant(name=name, port=port, process=process, home=home)


def resident_with(process: Process, decisions: int) -> int:
    """What `Field.memory` found, in bytes."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    found: dict[str, int] = json.loads(said)
    if found["decisions"] != decisions:
        raise SystemExit(f"{found['decisions']} decisions are kept, not {decisions}")
    return found["resident"]
