"""All cases at once: each lab is started once, and labs run beside one another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from attacks.runner.access import access_lab
from attacks.runner.corpus import Case, Unintelligible
from attacks.runner.fixture import DEADLINES
from attacks.runner.generators import planned
from attacks.runner.labs import Findings, Lab, bundle_lab, keys_lab, machine_lab, opa_lab, plain_lab
from attacks.runner.listeners import listeners_lab
from attacks.runner.plans import Plan
from attacks.runner.sequences import cache_lab
from attacks.runner.shared import shared_lab

_AT_ONCE: Final = 4
"""Labs that run at a time: more would only wait for one another on a machine with few cores."""

_AT_MOST: Final = 400
"""Cases that one lab is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`findings` is what it falls short of, nothing if it holds; `not_yet` why it was not tried."""

    case: Case
    findings: tuple[str, ...] = ()
    not_yet: str | None = None
    not_understood: bool = False
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        return not self.findings and self.not_yet is None


@dataclass
class Report:
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.case.id] = outcome

    @property
    def held(self) -> list[Outcome]:
        return [one for one in self.outcomes.values() if one.held]

    @property
    def not_yet(self) -> list[Outcome]:
        return [one for one in self.outcomes.values() if one.not_yet is not None]

    @property
    def fell_short(self) -> list[Outcome]:
        return [one for one in self.outcomes.values() if one.findings]

    @property
    def status(self) -> int:
        """For a shell: 0 if all held, 1 if some fell short, 2 if a case was not understood."""
        if any(one.not_understood for one in self.outcomes.values()):
            return 2
        return 1 if self.fell_short else 0


def plans(cases: Iterable[Case], report: Report) -> list[Plan]:
    """The plan of each case; one without is in the report."""
    found = []
    for case in cases:
        try:
            found.append(planned(case))
        except Exception as error:  # noqa: BLE001 - whatever is odd about one case is said of it, and ends no other
            report.add(_not_understood(case, error))
    return found


def _not_understood(case: Case, error: Exception) -> Outcome:
    """Of what nobody foresaw it says the kind of the error, too."""
    said = str(error) if isinstance(error, Unintelligible) else f"{type(error).__name__}: {error}"
    return Outcome(case=case, findings=(f"not understood: {said}",), not_understood=True)


async def run(cases: Iterable[Case], *, on_outcome: Callable[[Outcome], None] = lambda _: None) -> Report:
    """Try all cases on proxies of the runner's own. If a control falls short, nothing else counts."""
    report = Report()
    began = time.monotonic()
    found = plans(cases, report)
    for outcome in report.outcomes.values():
        on_outcome(outcome)
    room = asyncio.Semaphore(_AT_ONCE)
    controls_hold = asyncio.get_running_loop().create_future()
    if not any(plan.case.is_control for plan in found):
        controls_hold.set_result(True)

    def tell(outcome: Outcome) -> None:
        report.add(outcome)
        on_outcome(outcome)

    waiting = [plan for plan in found if plan.case.is_control]

    def tried_control(held: list[bool], controls: list[Plan]) -> None:
        for plan in controls:
            waiting.remove(plan)
        if not controls_hold.done() and (not all(held) or not waiting):
            controls_hold.set_result(all(held))

    async def group(make: Opening, members: list[Plan]) -> None:
        controls = [plan for plan in members if plan.case.is_control]
        try:
            async with room:
                opening = make()
                lab = await opening.__aenter__()
        except Exception as error:  # noqa: BLE001 - whatever keeps a lab from starting, its cases did not hold
            for plan in members:
                tell(
                    Outcome(case=plan.case, findings=(" ".join(f"the fixture did not start: {error}"[:1000].split()),))
                )
            if controls:
                tried_control([False], controls)
            return
        try:
            held = [await _try(plan, lab, tell) for plan in controls]
            if controls:
                tried_control(held, controls)
            if not await controls_hold:
                for plan in members:
                    if plan not in controls:
                        tell(Outcome(case=plan.case, findings=("the controls fell short, so this says nothing",)))
                return
            await tried([plan for plan in members if plan not in controls], lab, tell)
        finally:
            leaked: object = None
            try:
                leaked = lab.proxy.leaked() if lab.proxy is not None else None
                await opening.__aexit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - so it is when it ends: each case could be the cause
                first = members[0].case
                before = report.outcomes.get(first.id)
                ending = (
                    *(before.findings if before else ()),
                    f"the proxy of this lab did not end well: {leaked or repr(error)}"[:500],
                )
                tell(Outcome(case=first, findings=ending))

    async def whole_group(make: Opening, members: list[Plan]) -> None:
        try:
            await group(make, members)
        except Exception as error:  # noqa: BLE001 - no lab ends the run of the others
            for plan in members:
                if plan.case.id not in report.outcomes:
                    tell(Outcome(case=plan.case, findings=(f"not tried to the end: {error!r}",)))
            if not controls_hold.done() and any(plan.case.is_control for plan in members):
                controls_hold.set_result(False)

    async with asyncio.TaskGroup() as tasks:
        for make, members in _groups(found):
            tasks.create_task(whole_group(make, members))
    report.seconds = time.monotonic() - began
    return report


Opening = Callable[[], AbstractAsyncContextManager[Lab]]


def _groups(found: list[Plan]) -> list[tuple[Opening, list[Plan]]]:
    """The labs, and who is tried in each. One lab is not given more than some hundred cases: most of what a case takes
    is waiting, and that can be done beside others."""
    hurried = partial(plain_lab, deadlines=DEADLINES)
    makers = {
        "access": access_lab,
        "plain": plain_lab,
        "dos": hurried,
        "closing": hurried,
        "opa": opa_lab,
        "bundle": bundle_lab,
        "cache": cache_lab,
        "listeners": listeners_lab,
        "machine": machine_lab,
        "shared": shared_lab,
    }
    grouped: dict[tuple[str, str], list[Plan]] = {}
    for plan in found:
        grouped.setdefault((plan.lab, repr(plan.place)), []).append(plan)
    groups: list[tuple[Opening, list[Plan]]] = []
    for (lab, _), members in grouped.items():
        place = members[0].place
        if lab == "keys":
            faults = [fault for plan in members for fault in plan.keys or ()]
            groups.append((partial(keys_lab, place, faults), members))
            continue
        parts = -(-len(members) // _AT_MOST)
        groups += [(partial(makers[lab], place), members[part::parts]) for part in range(parts)]
    # Those with the controls first, since all wait for them, then those that have to wait the longest.
    return sorted(groups, key=lambda group: (not any(plan.case.is_control for plan in group[1]), not group[1][0].slow))


async def tried(members: list[Plan], lab: Lab, tell: Callable[[Outcome], None]) -> None:
    """The slow ones beside one another, the others one by one; what leaves something behind comes last."""
    async with asyncio.TaskGroup() as tasks:
        for plan in members:
            if plan.slow and not plan.last:
                tasks.create_task(_try(plan, lab, tell))
        for plan in members:
            if not plan.slow and not plan.last:
                await _try(plan, lab, tell)
    for plan in members:
        if plan.last:
            await _try(plan, lab, tell)


async def _try(plan: Plan, lab: Lab, tell: Callable[[Outcome], None]) -> bool:
    began = time.monotonic()
    findings: Findings
    try:
        findings = await plan.attempt(lab)
    except Unintelligible as error:
        tell(_not_understood(plan.case, error))
        return False
    except Exception as error:  # noqa: BLE001 - an attempt that fails has shown nothing
        findings = [f"the attempt failed: {type(error).__name__}: {error}"]
    unique = tuple(dict.fromkeys(findings))
    tell(Outcome(case=plan.case, findings=unique, seconds=time.monotonic() - began))
    return not unique
