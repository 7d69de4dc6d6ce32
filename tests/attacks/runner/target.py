"""A proxy that runs already: what needs no more than the connection to it is tried, and the rest is said not to be.

It has to be the fixture of SECURITY.md as far as a case can see: the service answers to a host, the caller `web` may
`GET /orders/{order_id}` and `POST /orders`. What else is known of it is optional, and what cannot be known is not
judged: the key of its issuer, without which no tokens can be made; the port of its service, at which the runner then is
that service; the directory of its audit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attacks.runner.corpus import Case, CorpusError
from attacks.runner.fixture import HOST, AuditTail
from attacks.runner.forgery import AUDIENCE, ISSUER, KEY_ID, Forge, load_rsa_key
from attacks.runner.labs import Lab
from attacks.runner.plans import Plan
from attacks.runner.run import Outcome, Report, plans, tried
from attacks.runner.service import Service

_ELSEWHERE: Final = {
    "opa": "OPA, the audit's disk and the time that they fail at are not this runner's",
    "keys": "the keys of its issuers are not this runner's",
    "access": "its store of grants, its clock and who may ask for access are not this runner's",
    "bundle": "its bundles are not this runner's",
    "cache": "its policy is not this runner's",
    "listeners": "its listeners, and whose certificates they take, are not this runner's",
}
"""Labs of which nothing can be tried on a proxy that runs already, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where it is, and what is known of it. `service_port` is None where the service is somebody else's."""

    url: str
    host: str = HOST
    issuer: str = ISSUER
    audience: str = AUDIENCE
    key_id: str = KEY_ID
    key_file: Path | None = None
    token: str | None = None
    service_port: int | None = None
    audit: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Raises `CorpusError`."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise CorpusError(f"{self.url}: a target is http://host:port")
        return parts.hostname, parts.port or 80

    def forge(self) -> Forge:
        """Raises `CorpusError`."""
        if self.key_file is None and self.token is None:
            raise CorpusError("a target needs the key of its issuer, or a token of the caller `web`")
        if self.key_file is not None:
            try:
                load_rsa_key("target", self.key_file.read_bytes())
            except (OSError, ValueError) as error:
                raise CorpusError(f"{self.key_file}: not an RSA private key: {error}") from None
        return Forge(
            issuer=self.issuer,
            audience=self.audience,
            key="target" if self.key_file else "issuer",
            key_id=self.key_id,
            given=None if self.key_file else self.token,
        )


async def run_against(
    target: Target, cases: Iterable[Case], *, on_outcome: Callable[[Outcome], None] = lambda _: None
) -> Report:
    """Try what can be tried. Raises `CorpusError` where the target is not told of sufficiently."""
    report = Report()
    began = time.monotonic()
    address, forge = target.address, target.forge()
    found = plans(cases, report)
    for outcome in report.outcomes.values():
        on_outcome(outcome)

    def tell(outcome: Outcome) -> None:
        report.add(outcome)
        on_outcome(outcome)

    async with contextlib.AsyncExitStack() as stack:
        service = None
        if target.service_port is not None:
            service = await stack.enter_async_context(Service(port=target.service_port).running())
        audit = None if target.audit is None else AuditTail(target.audit)
        lab = Lab(address=address, forge=forge, service=service, audit=audit, host=target.host)
        here: list[Plan] = []
        for plan in found:
            reason = _elsewhere(plan, lab)
            if reason is None:
                here.append(plan)
            else:
                tell(Outcome(case=plan.case, not_yet=reason))
        controls = [plan for plan in here if plan.case.is_control]
        await tried(controls, lab, tell)
        if any(not report.outcomes[plan.case.id].held for plan in controls):
            for plan in here:
                if plan not in controls:
                    tell(Outcome(case=plan.case, findings=("the controls fell short, so this says nothing",)))
        else:
            await tried([plan for plan in here if plan not in controls], lab, tell)
        await asyncio.sleep(0)
    report.seconds = time.monotonic() - began
    return report


def _elsewhere(plan: Plan, lab: Lab) -> str | None:
    """Why a case cannot be tried here; None if it can."""
    if plan.lab in _ELSEWHERE and not plan.wire:
        return _ELSEWHERE[plan.lab]
    if not (plan.ordinary or (plan.wire and plan.lab == "listeners")):
        return "it needs a proxy that is configured for it"
    if plan.service and lab.service is None:
        return "what the service answers is not this runner's (--service)"
    if plan.forges and lab.forge.given is not None:
        return "no token can be made without the key of the issuer (--key)"
    if not plan.wire and not plan.service:
        return "it needs more than the connection"
    return None
