"""A bundle server, real OPAs that wait at it, and bundles to publish there, each with the next sequence."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket as socketlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.processes import ALL, Process, started
from benchmarks.rego.publishing import stamped
from ostiary import assets
from ostiary.opa.install import ensure_opa
from ostiary.opa.process import DEFAULTS
from ostiary.policy.archive import pack
from ostiary.policy.bundle import build_bundle

NAME: Final = "bench.tar.gz"
_TOKEN: Final = "a-publisher-of-the-bench"  # noqa: S105 - of a server on loopback, for a minute
_PATIENCE: Final = 120.0
_SERVING: Final = re.compile(r"serving \d+ bundle\(s\) on 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A bundle server on this port of loopback."""

    port: int
    process: Process

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {_TOKEN}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60, trust_env=False)


@contextlib.contextmanager
def serving(place: Path) -> Iterator[Server]:
    """`place` is made."""
    (place / "published").mkdir(parents=True)
    tokens, log = place / "tokens", place / "server.log"
    tokens.touch(mode=0o600)
    tokens.write_text(_TOKEN, encoding="ascii")
    command = [sys.executable, "-m", "ostiary", "bundle", "serve", place / "published", "--listen", "127.0.0.1:0"]
    command += ["--connections-per-peer", "10000"]  # all are from one address
    with started([*command, "--publisher-tokens", tokens], ALL, log=log) as process:
        deadline = time.monotonic() + _PATIENCE
        while (found := _SERVING.search(log.read_text(encoding="utf-8"))) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the bundle server did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.02)
        yield Server(port=int(found[1]), process=process)


@contextlib.contextmanager
def waiting_opa(place: Path, server: Server, *, status: int) -> Iterator[Path]:
    """An OPA as `deploy/` starts one, which waits at the server and reports to this port of loopback; its socket.

    `place` is made.
    """
    place.mkdir(mode=0o700)
    socket, config = place / "opa.sock", place / "opa.json"
    polling = {"min_delay_seconds": 1, "max_delay_seconds": 1, "long_polling_timeout_seconds": 60}
    document = {
        "services": {
            "policy": {"url": f"http://127.0.0.1:{server.port}"},
            "status": {"url": f"http://127.0.0.1:{status}"},
        },
        "bundles": {"bench": {"service": "policy", "resource": NAME, "polling": polling}},
        "status": {"service": "status"},
    }
    config.write_text(json.dumps(document), encoding="utf-8")
    command = [ensure_opa(), "run", "--server", "--config-file", config, "--addr", f"unix://{socket}"]
    with started([*command, "--log-level", "error"], ALL, log=place / "log", env=DEFAULTS):
        yield socket


def archives(place: Path, maps: Sequence[str], *, count: int) -> list[bytes]:
    """Bundles of these maps by turns, with the sequences 1 and up. `place` is made."""
    place.mkdir()
    built = []
    for number, text in enumerate(maps):
        source, bundle = place / f"source-{number}", place / f"bundle-{number}"
        source.mkdir()
        (source / "permissions.yaml").write_text(text, encoding="utf-8")
        build_bundle(source, bundle, opa=ensure_opa(), sequence=0, rego_root=assets.rego())
        built.append(bundle)
    return [_packed(built[sequence % len(built)], sequence=sequence) for sequence in range(1, count + 1)]


def publish(client: httpx.Client, archive: bytes) -> None:
    answer = client.put(f"/{NAME}", content=archive)
    if not answer.is_success:
        raise SystemExit(f"the bundle server says {answer.status_code}: {answer.text}")


def revision_of(socket: Path) -> str | None:
    """The bundle that an OPA has, None before it has any."""
    try:
        with socketlib.socket(socketlib.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            client.connect(str(socket))
            client.sendall(b"GET /v1/data/none?provenance=true HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        document: Mapping[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return None
    bundles = document.get("provenance", {}).get("bundles", {})
    return next((one.get("revision") for one in bundles.values()), None)


def quantile(values: Sequence[float], q: float) -> float:
    """The least value that a share `q` of all stayed within."""
    return sorted(values)[max(math.ceil(len(values) * q), 1) - 1]


def _packed(bundle: Path, *, sequence: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-", dir=bundle.parent) as directory:
        place, archive = Path(directory) / "bundle", Path(directory) / NAME
        stamped(bundle, place, sequence=sequence)
        pack(place, archive)
        return archive.read_bytes()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen in {_PATIENCE:g} s")
        time.sleep(0.01)
