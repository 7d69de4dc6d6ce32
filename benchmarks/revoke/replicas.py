"""Two proxies and one PostgreSQL: what is revoked at one of them counts at the other."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from benchmarks.rego.report import Part
from benchmarks.revoke.load import load_of
from benchmarks.revoke.people import people
from benchmarks.revoke.proxies import Proxy, proxies
from benchmarks.revoke.trials import at_most, meanwhile, milliseconds, run_trials, show_machine, show_wrong, told
from support.postgresql import PostgresServer

CONNECTIONS: Final = 8
_WARMING: Final = 5


def measure(place: Path, trials: int) -> Part:
    with contextlib.closing(PostgresServer()) as server:
        server.start()
        with proxies(place, [server.url, server.url]) as (here, there):
            return asyncio.run(_measured(here, there, trials))


async def _measured(here: Proxy, there: Proxy, trials: int) -> Part:
    """Approved and revoked here, asked for there."""
    load = load_of(there)
    async with people(here) as those, load.on(there, connections=CONNECTIONS):
        await run_trials(load, those, trials=_WARMING)
        with meanwhile() as machine:
            found = await run_trials(load, those, trials=trials)
    row: dict[str, Any] = {
        "trials": len(found),
        "answers": load.answers,
        "revoked": milliseconds([one.taken for one in found]),
        "last_allowed": milliseconds([one.closed for one in found]),
        "allowed_after_approval": milliseconds([one.opened for one in found]),
        "wrong": len(load.wrong),
        "meanwhile": machine,
    }
    print(f"replicas: {row['trials']:,} trials, {row['answers']:,} answers")
    print(f"  {told('revocation acknowledged here:', row['revoked'])}")
    print(f"  {told('acknowledged here → the last is allowed there:', row['last_allowed'])}")
    print(f"  {told('approval acknowledged here → all are let through there:', row['allowed_after_approval'])}")
    show_machine(machine)
    show_wrong(load)
    return Part(
        name="replicas",
        members={"replicas": row},
        targets=[
            at_most(
                "PostgreSQL, revoked at one proxy → the last allowed at another: p99", row["last_allowed"]["p99_ms"], 50
            ),
            at_most(
                "PostgreSQL, approved at one proxy → allowed at another: p99",
                row["allowed_after_approval"]["p99_ms"],
                100,
            ),
        ],
    )
