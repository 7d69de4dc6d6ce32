"""One machine with two workers: a revocation and an approval count for what is sent after they are acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from benchmarks.rego.report import Part
from benchmarks.revoke.load import load_of
from benchmarks.revoke.people import people
from benchmarks.revoke.proxies import SQLITE, Proxy, proxies
from benchmarks.revoke.trials import Disk, at_most, meanwhile, milliseconds, run_trials, show_machine, show_wrong, told

CONNECTIONS: Final = 8
_WARMING: Final = 5
"""Trials before those that count."""


def measure(place: Path, trials: int) -> Part:
    with proxies(place, [SQLITE]) as (proxy,):
        return asyncio.run(measured(proxy, trials, disk=Disk(place)))


async def measured(proxy: Proxy, trials: int, *, disk: Disk) -> Part:
    load = load_of(proxy)
    async with people(proxy) as those, load.on(proxy, connections=CONNECTIONS):
        await run_trials(load, those, trials=_WARMING)
        with meanwhile() as machine:
            found = await run_trials(load, those, trials=trials, disk=disk)
    row: dict[str, Any] = {
        "trials": len(found),
        "answers": load.answers,
        "disk": milliseconds(disk.seconds),
        "revoked": milliseconds([one.taken for one in found]),
        "approved": milliseconds([one.given for one in found]),
        "allowed_after_approval": milliseconds([one.opened for one in found]),
        "allowed_after_revocation": sum(one.allowed for one in found),
        "refused_after_approval": sum(one.refused for one in found),
        "wrong": len(load.wrong),
        "meanwhile": machine,
    }
    print(f"revoking: {row['trials']:,} trials, {row['answers']:,} answers")
    print(f"  {told('revocation acknowledged:', row['revoked'])}")
    print(f"  {told('approval acknowledged:', row['approved'])}")
    print(f"  {told('approval acknowledged → all are let through:', row['allowed_after_approval'])}")
    print(f"  {told('beside it, one fsync of 4 KiB there:', row['disk'])}")
    show_machine(machine)
    show_wrong(load)
    return Part(
        name="revoking",
        members={"revoking": row},
        targets=[
            at_most(
                "requests sent after a revocation was acknowledged, and allowed",
                row["allowed_after_revocation"],
                0,
                unit="requests",
            ),
            at_most("a revocation, from the call to its acknowledgement: p99", row["revoked"]["p99_ms"], 5),
            at_most(
                "requests sent after an approval was acknowledged, and refused",
                row["refused_after_approval"],
                0,
                unit="requests",
            ),
            at_most("approval acknowledged → allowed: p99", row["allowed_after_approval"]["p99_ms"], 100),
            at_most("answers that nothing explains", row["wrong"], 0, unit="answers"),
        ],
    )
