"""Proxies that can grant access, as a person runs them: `ostiary run` with two workers and a managed OPA."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.deployment import deployed
from benchmarks.processes import ALL, children, free_port, started, until_listening
from benchmarks.revoke.upstream import upstream
from ostiary.demo.issuer import ISSUER, DemoIssuer

SQLITE: Final = "sqlite:///grants.db"
WORKERS: Final = 2

MAP: Final[Mapping[str, Any]] = {
    "services": {
        "orders": {"endpoints": {"get-order": "GET /orders/{order_id}", "get-invoice": "GET /invoices/{invoice_id}"}},
        "news": {"endpoints": {"events": "GET /events"}},
    },
    "callers": {name: {"issuer": ISSUER, "subject": name} for name in ("web", "reporting", "lead")},
    "eligible": [
        {
            "caller": "web",
            "service": service,
            "endpoints": [endpoint],
            "approvers": ["lead"],
            "max_duration": "12h",
        }
        for service, endpoint in (("orders", "get-invoice"), ("news", "events"))
    ],
    "permissions": [
        {"caller": caller, "service": "orders", "endpoints": ["get-order"]} for caller in ("web", "reporting")
    ],
}
"""`get-order` may be had at any time; `get-invoice` and the stream of `events` are granted to `web` by `lead`."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """Its port, the processes of its workers, the bundle that it serves, and its page of announcements."""

    port: int
    bundle: Path
    page: Path
    workers: Sequence[int]
    issuer: DemoIssuer


@contextlib.contextmanager
def proxies(place: Path, stores: Sequence[str]) -> Iterator[list[Proxy]]:
    """One for each of these addresses of a store, behind each of them the same service."""
    with contextlib.ExitStack() as stack:
        deployment = deployed(place / "bench", upstream=stack.enter_context(upstream()), permissions=MAP)
        running = []
        for number, store in enumerate(stores):
            home, port = deployment.place / f"proxy-{number}", free_port()
            home.mkdir(mode=0o700)
            config = deployment.configure(home, port=port, workers=WORKERS, grants=store)
            command = [sys.executable, "-m", "ostiary", "run", "-c", config]
            running.append((port, home, stack.enter_context(started(command, ALL, log=home / "log"))))
        for port, home, process in running:
            until_listening(port, process, home / "log")
        yield [
            Proxy(
                port=port,
                bundle=deployment.place / "bundle",
                page=home / "state" / "page",
                workers=[pid for pid in children(process.pid) if b"spawn_main" in _command_line(pid)],
                issuer=deployment.issuer,
            )
            for port, home, process in running
        ]


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
