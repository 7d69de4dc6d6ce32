"""Two thousand clients that wait at one bundle server, real OPAs among them: how long until the last of them is served.

The simulated clients do what OPA does, on a connection each: they ask with the tag of what they have and wait, read the
bundle to its end, and ask again. They are in a process of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from benchmarks.policy.distributing import NAME, archives, publish, revision_of, serving, until, waiting_opa
from benchmarks.processes import ALL, resident, started
from benchmarks.rego.questions import permission_count, permission_map
from benchmarks.rego.report import Part
from benchmarks.targets import Target
from ostiary.listening import allow_descriptors

CLIENTS: Final = 2000
OPAS: Final = 3
PUBLICATIONS: Final = 10
SERVICES: Final = 1
"""Of the map, which has a thousand permissions."""
BOUND: Final = 1.0
_SPARE: Final = 100


def measure(place: Path) -> Part:
    """The slowest of the publications counts, until the last simulated client has read it and the last OPA uses it."""
    maps = [permission_map(SERVICES, denied=denied) for denied in ("endpoint-1", "endpoint-2")]
    bundles = archives(place / "bundles", maps, count=PUBLICATIONS + 2)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(place / "server"))
        client = stack.enter_context(server.client())
        publish(client, bundles[0])
        opas = [
            stack.enter_context(waiting_opa(place / f"opa-{number}", server, status=server.port))
            for number in range(OPAS)
        ]
        clients = stack.enter_context(
            started([sys.executable, "-m", "benchmarks.policy.waiting", str(server.port)], ALL, log=place / "log")
        )
        if clients.stdout is None:
            raise SystemExit("the clients did not start")
        rows = []
        for number, bundle in enumerate(bundles[1:], start=2):
            until(lambda: _waiting(client) == CLIENTS + OPAS, "that all wait")
            revision = f"{number}-"
            began = time.monotonic()
            publish(client, bundle)
            until(lambda revision=revision: all((revision_of(opa) or "").startswith(revision) for opa in opas), "OPA's")  # type: ignore[misc]
            activated = time.monotonic() - began
            told = json.loads(clients.stdout.readline())
            rows.append({"served_s": told["last"] - began, "first_s": told["first"] - began, "opas_s": activated})
        memory = resident(server.process.pid)
    rows = rows[1:]
    slowest = max(max(row["served_s"], row["opas_s"]) for row in rows)
    print(
        f"{CLIENTS:,} clients and {OPAS} OPAs, {len(bundles[0]):,} bytes: the last is served after {slowest:.2f} s at "
        f"most; the server has {memory / 1e6:.0f} MB",
        flush=True,
    )
    members = {
        "clients": CLIENTS,
        "opas": OPAS,
        "permissions": permission_count(SERVICES),
        "bundle_bytes": len(bundles[0]),
        "server_bytes": memory,
        "publications": rows,
    }
    name = f"{CLIENTS:,} long-polling clients and {OPAS} OPAs: the last is served"
    return Part(
        name="waiting",
        members={"waiting": members},
        targets=[Target(name=name, value=slowest, bound=BOUND, side="at most", unit="s")],
    )


def _waiting(client: httpx.Client) -> int:
    document: dict[str, Any] = client.get("/status").json()
    return int(document["bundles"][NAME]["waiting"])


# the simulated clients


class _Client(asyncio.Protocol):
    """Reads whole answers; `served` is called with the time when one was a bundle."""

    def __init__(self, served: Any) -> None:
        self._served = served
        self._head = b""
        self._left = 0
        self._bundle = False
        self._tag = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        raise SystemExit("the server has ended a connection")

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = b""
            status, fields = head.split(b"\r\n")[0][9:12], dict(_field(line) for line in head.split(b"\r\n")[1:])
            self._bundle = status == b"200"
            self._tag = fields[b"etag"]
            self._left = (int(fields[b"content-length"]) if self._bundle else 0) - len(rest)
        if self._left == 0:
            if self._bundle:
                self._served()
            self._ask()

    def _ask(self) -> None:
        if self._transport is not None:
            known = b"If-None-Match: " + self._tag + b"\r\n" if self._tag else b""
            self._transport.write(
                b"GET /" + NAME.encode() + b" HTTP/1.1\r\nHost: x\r\n"
                b"Prefer: modes=snapshot,delta;wait=60\r\n" + known + b"\r\n"
            )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()


async def _wait(port: int) -> None:
    """Print when the first and the last client had each bundle, but the first one."""
    times: list[float] = []
    rounds = 0

    def served() -> None:
        nonlocal rounds
        times.append(time.monotonic())
        if len(times) == CLIENTS:
            if rounds:
                print(json.dumps({"first": times[0], "last": times[-1]}), flush=True)
            rounds += 1
            times.clear()

    loop = asyncio.get_running_loop()
    for begin in range(0, CLIENTS, _SPARE):
        await asyncio.gather(
            *(loop.create_connection(lambda: _Client(served), "127.0.0.1", port) for _ in range(begin, begin + _SPARE))
        )
    await asyncio.Event().wait()


if __name__ == "__main__":
    allow_descriptors(CLIENTS + _SPARE, by="so many clients")
    uvloop.run(_wait(int(sys.argv[1])))
