"""Parts for tests of how bundles are distributed: archives, a bundle server, and real OPAs as its clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ostiary.cli.examiner import ArchiveExaminer
from ostiary.clock import Clock, SystemClock
from ostiary.distribution.access import Access
from ostiary.distribution.app import BundleServer
from ostiary.distribution.archives import Examiner
from ostiary.distribution.reports import Reports
from ostiary.distribution.store import Store
from ostiary.policy.archive import pack
from support.opa import REGO, write_bundle
from support.served import served

Running = TypeVar("Running")

READER = "a-token-that-may-read"
PUBLISHER = "a-token-that-may-publish"


def archive(path: Path, sequence: int, *, rego: str = REGO) -> Path:
    """A small bundle as a file, of this sequence."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory) / "bundle"
        write_bundle(bundle, revision=f"{sequence}-0a1b2c3d", rego=rego)
        pack(bundle, path)
    return path


def token_file(path: Path, *tokens: str) -> Path:
    path.touch(mode=0o600)
    path.write_text("# for tests\n\n" + "".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@dataclass
class Local:
    """A bundle server in this event loop."""

    address: str
    store: Store
    server: BundleServer

    def url(self, name: str = "shop.tar.gz") -> str:
        return f"{self.address}/{name}"


@contextlib.asynccontextmanager
async def local(
    directory: Path,
    *,
    access: Access | None = None,
    examiner: Examiner | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Local]:
    store = Store(directory, examiner=examiner or ArchiveExaminer())
    server = BundleServer(store, access=access or Access(), reports=Reports(clock=clock or SystemClock()))
    await store.load()
    watching = asyncio.create_task(store.watch())
    try:
        async with served(server.application) as address:
            yield Local(address=address, store=store, server=server)
            server.end()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@dataclass
class Process:
    """`ostiary bundle serve`, running. `lines` are what it has logged."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    port: int = 0

    def logged(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)


@contextlib.contextmanager
def bundle_server(directory: Path, *options: object) -> Iterator[Process]:
    command = [sys.executable, "-m", "ostiary", "bundle", "serve", directory, "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen([str(one) for one in command], stderr=subprocess.PIPE, text=True)
    found = Process(process)
    reading = threading.Thread(target=_read, args=(found,), daemon=True)
    reading.start()
    try:
        wait_until(lambda: bool(found.port) or process.poll() is not None)
        if not found.port:
            raise AssertionError("".join(found.lines))
        yield found
    finally:
        process.terminate()
        process.wait(20)
        reading.join()
        if process.stderr is not None:
            process.stderr.close()


def _read(found: Process) -> None:
    for line in found.process.stderr or ():
        found.lines.append(line)
        if serving := re.search(r"serving \d+ bundle\(s\) on 127\.0\.0\.1:(\d+)", line):
            found.port = int(serving[1])


@dataclass
class Opa:
    """A real one that gets its bundle from somewhere."""

    socket: Path
    log: Path

    def get(self, path: str) -> Any:
        """The document there. Raises OSError, ValueError."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.socket))
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return json.loads(_all(client).partition(b"\r\n\r\n")[2])

    def revision(self) -> str | None:
        try:
            document = self.get("/v1/data/nothing?provenance=true")
        except (OSError, ValueError):
            return None
        bundles = document.get("provenance", {}).get("bundles", {})
        return next((one.get("revision") for one in bundles.values()), None)


def _all(client: socket.socket) -> bytes:
    found = bytearray()
    while piece := client.recv(65536):
        found += piece
    return bytes(found)


@contextlib.contextmanager
def opa_client(binary: Path, place: Path, config: Mapping[str, Any]) -> Iterator[Opa]:
    place.mkdir()
    (place / "opa.json").write_text(json.dumps(config), encoding="utf-8")
    path, log = place / "opa.sock", place / "log"
    command = [binary, "run", "--server", "--config-file", place / "opa.json", "--addr", f"unix://{path}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--log-level", "info"],
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], "HOME": str(place)},
        )
        try:
            yield Opa(socket=path, log=log)
        finally:
            process.terminate()
            process.wait(20)


@contextlib.asynccontextmanager
async def aside(running: contextlib.AbstractContextManager[Running]) -> AsyncIterator[Running]:
    """Started and ended while this loop answers it."""
    yielded = await asyncio.to_thread(running.__enter__)
    try:
        yield yielded
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


def long_polling(
    port: int,
    *,
    token: str | None = None,
    proxy: str | None = None,
    seconds: int = 60,
    tls: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """OPA's configuration: polls for long, and would wait for a minute otherwise."""
    service: dict[str, Any] = {"url": f"{'https' if tls else 'http'}://127.0.0.1:{port}", **(tls or {})}
    if token is not None:
        service["credentials"] = {"bearer": {"token": token}}
    polling = {"min_delay_seconds": 60, "max_delay_seconds": 60, "long_polling_timeout_seconds": seconds}
    return {
        "labels": {} if proxy is None else {"proxy": proxy},
        "services": {"policy": service},
        "bundles": {"shop": {"service": "policy", "resource": "shop.tar.gz", "polling": polling}},
        "status": {"service": "policy"},
    }


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError("it did not happen")
        time.sleep(0.005)
    return time.monotonic() - began
