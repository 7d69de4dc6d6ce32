"""What the look-up of grants costs a request that stands on none, when 100,000 are active on the machine."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.contestants import Field
from benchmarks.deployment import deployed
from benchmarks.messages import get
from benchmarks.rego.report import Part
from benchmarks.revoke.proxies import MAP
from benchmarks.rounds import Contest, Entry, Outcome, Sample
from benchmarks.rounds import measure as measured
from benchmarks.targets import Target
from benchmarks.traffic import traffic
from ostiary.demo.issuer import ISSUER
from ostiary.grants import statements
from ostiary.grants.life import Ruling
from ostiary.grants.records import Asked, Terms
from ostiary.grants.sqlite import SqliteStore
from ostiary.grants.statements import Operation
from ostiary.grants.store import NO_BOUNDS, Draft, as_told

GRANTS: Final = 100_000
ROUNDS: Final = 12
SECONDS: Final = 1.5
CONNECTIONS: Final = 32
BOUND: Final = 0.9
NONE: Final = "no grants configured"
STANDING: Final = f"{GRANTS:,} grants"
BY_GRANT: Final = "allowed by a grant"
_HOUR: Final = 3600


class FilledStore(SqliteStore):
    """One that is given many grants in one transaction."""

    async def fill(self, drafts: list[Draft]) -> None:
        await self._write(_active(drafts))


def _active(drafts: list[Draft]) -> Operation[None]:
    """Approved by a rule, and recorded."""
    for draft in drafts:
        record = yield from statements.ask(draft, told=as_told, bounds=NO_BOUNDS)
        yield from statements.recorded([(record.id, len(record.steps))], told=as_told)


async def fill(path: Path, *, count: int) -> None:
    """So many active grants, each of a person of its own; the first is that of `web`."""
    store = FilledStore(path, deadline=600)
    await store.start()
    await store.fill([_draft(number) for number in range(count)])
    await store.close()


def _draft(number: int) -> Draft:
    asked = Asked(
        issuer=ISSUER,
        subject=f"person-{number}" if number else "web",
        caller="web",
        service="orders",
        endpoints=("get-invoice",),
        duration=12 * _HOUR,
        reason="a look-up",
        terms=Terms(approvers=("lead",), max_duration=12 * _HOUR, auto_approve=True),
    )
    return Draft(
        id=f"g-{number:032x}", asked=asked, patience=_HOUR, ruling=Ruling(approve=True, reason="it is for a bench")
    )


def measure(place: Path, _trials: int) -> Part:
    asyncio.run(fill(place / "grants.db", count=GRANTS))
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(traffic())
        field = Field(deployed(place / "orders", upstream=ends.port, permissions=MAP), stack)
        without = field.ostiary(NONE)
        with_grants = field.ostiary(STANDING, grants=f"sqlite:///{place / 'grants.db'}")
        order = field.requests("order", get("/orders/42", field.token()))
        invoice = field.requests("invoice", get("/invoices/42", field.token()))
        entries = [
            Entry(contestant=without, requests=order),
            Entry(contestant=with_grants, requests=order),
            Entry(name=BY_GRANT, contestant=with_grants, requests=invoice),
        ]
        contest = Contest(
            title="look-ups of grants", connections=CONNECTIONS, entries=entries, seconds=SECONDS, baseline=NONE
        )
        (outcome,) = measured([contest], ends, rounds=ROUNDS, warm_up=1.0)
    report.show([outcome])
    return _part(outcome)


def _part(outcome: Outcome) -> Part:
    ratios = {name: outcome.ratio(name, _of_a_cpu_second) for name in (STANDING, BY_GRANT)}
    for name, ratio in ratios.items():
        print(f"  {name}: {report.text(ratio)} × the requests of a CPU second")
    rows: dict[str, Any] = {
        "grants": GRANTS,
        "rounds": ROUNDS,
        "rows": report.rows([outcome]),
        "of_a_cpu_second": {name: asdict(ratio) for name, ratio in ratios.items()},
    }
    name = f"cached, with {GRANTS:,} active grants: requests per CPU second"
    return Part(
        name="lookups",
        members={"lookups": rows},
        targets=[Target(name=name, value=ratios[STANDING].median, bound=BOUND, unit="× without grants")],
    )


def _of_a_cpu_second(sample: Sample) -> float:
    return sample.of_a_cpu_second
