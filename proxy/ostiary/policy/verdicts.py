"""What comes of a table of cases: each goes through the canonicaliser of the request path, and all of them together to
OPA, which holds the built bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from ostiary.clock import written_instant
from ostiary.errors import AccessError, ConfigurationError
from ostiary.exchange import Exchange
from ostiary.models import AccessRequest, Grant, Identity, Json, Target
from ostiary.policy.cases import ALLOW, DENY, OBSERVED, Case, Table
from ostiary.policy.explain import SOMEONE
from ostiary.policy.model import Caller, PermissionMap
from ostiary.policy.rego import Opa
from ostiary.spiffe import SpiffeId
from ostiary.target import Targets

_DECISIONS: Final = "data.ostiary.authz.decisions"
_HOST: Final = "service.invalid"
_OWN_HOST: Final = "ostiary.invalid"
_GRANTED: Final = 900  # seconds


@dataclass(frozen=True, slots=True)
class _Verdict:
    """`allow`, `deny` or `observed`, with the reasons of the latter two."""

    name: str
    reasons: tuple[str, ...]


_Answer: TypeAlias = _Verdict | str
"""A decision, or what OPA said in place of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A case that does not hold: what was asked, expected and got, in words."""

    file: str
    line: int
    asked: str
    expected: str
    got: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """`reached` is OPA's report of the lines that the cases reached, by the bundle's files; None where OPA could not
    decide one."""

    passed: int
    missed: tuple[Miss, ...]
    reached: Mapping[str, Json] | None


def judge(tables: Sequence[Table], known: PermissionMap, bundle: Path, opa: Opa) -> Verdicts:
    """Ask about every case. Raises `ConfigurationError` where OPA does not answer at all."""
    cases = [(table.file, line, case) for table in tables for line, case in table.cases]
    asked = [_asked(case, known) for _, _, case in cases]
    requests = [each for each in asked if isinstance(each, AccessRequest)]
    answers, reached = _decisions(requests, bundle, opa)
    found = iter(answers)
    missed = []
    for (file, line, case), each in zip(cases, asked, strict=True):
        answer = _Verdict(DENY, each.reasons) if isinstance(each, AccessError) else next(found)
        if not _holds(case, answer):
            missed.append(
                Miss(
                    file=file,
                    line=line,
                    asked=_in_words(case),
                    expected=case.expect if isinstance(case.expect, str) else ", ".join(case.expect),
                    got=_told(answer),
                    why=case.why,
                )
            )
    return Verdicts(passed=len(cases) - len(missed), missed=tuple(missed), reached=reached)


def _asked(case: Case, known: PermissionMap) -> AccessRequest | AccessError:
    """What the policy is asked, or the refusal that comes before it."""
    try:
        target = _target(case)
    except AccessError as refusal:
        return refusal
    identity = _identity(case, known)
    return AccessRequest(
        identity=identity,
        method=case.request.method,
        target=target,
        time=case.time,
        source_ip=case.from_,
        grants=_grants(case, identity),
    )


def _target(case: Case) -> Target:
    scope = {
        "type": "http",
        "method": case.request.method,
        "raw_path": case.request.path,
        "query_string": case.request.query,
        "headers": [(b"host", _HOST.encode())],
    }
    targets = Targets(hosts={_HOST: case.service}, own_host=_OWN_HOST, ports=frozenset())
    return targets.resolve(Exchange(scope, _never, _ignored))


async def _never() -> dict[str, Any]:
    raise RuntimeError("no body is looked at before a decision")


async def _ignored(message: Mapping[str, Any]) -> None:
    """Nobody is there to receive it."""


def _identity(case: Case, known: PermissionMap) -> Identity:
    who = case.identity or known.callers[case.caller or ""]
    if who.spiffe is not None:
        return Identity(issuer=SpiffeId.parse(who.spiffe).issuer, subject=who.spiffe, method="mtls", expires_at=0)
    if isinstance(who, Caller):
        own: dict[str, Json] = {name: values[0] for name, values in (who.claims or {}).items()} | (case.claims or {})
    else:
        own = who.claims or {}
    return Identity(
        issuer=who.issuer or "", subject=who.subject or case.subject or SOMEONE, method="jwt", expires_at=0, claims=own
    )


def _grants(case: Case, identity: Identity) -> tuple[Grant, ...]:
    if case.granted is None or case.caller is None:
        return ()
    return (
        Grant(
            id="g-1",
            caller=case.caller,
            issuer=identity.issuer,
            subject=identity.subject,
            service=case.service,
            endpoints=tuple(case.granted),
            expires_at=case.time + _GRANTED,
        ),
    )


def _decisions(
    requests: Sequence[AccessRequest], bundle: Path, opa: Opa
) -> tuple[list[_Answer], Mapping[str, Json] | None]:
    """As many answers as requests, and what they reached; None where one failed.

    One that fails, fails its batch: then each half is asked about by itself.
    """
    if not requests:
        return [], {}
    asked = {"evaluations": [request.document() for request in requests]}
    try:
        decisions, reached = opa.evaluate(bundle, _DECISIONS, asked)
    except ConfigurationError as error:
        if len(requests) == 1:
            return [f"no decision: {' '.join(error.mistakes)}"], None
        half = len(requests) // 2
        first, second = (_decisions(part, bundle, opa)[0] for part in (requests[:half], requests[half:]))
        return [*first, *second], None
    if not isinstance(decisions, list) or len(decisions) != len(requests):
        raise ConfigurationError([f"{bundle}: OPA gives no decisions: it holds no ostiary policy, or a broken one"])
    return [_verdict(each) for each in decisions], reached


def _verdict(decision: Mapping[str, Json]) -> _Verdict:
    if decision["allow"] is not True:
        return _Verdict(DENY, tuple(decision["reasons"]))
    return _Verdict(OBSERVED if decision["observed"] else ALLOW, tuple(decision["reasons"]))


def _holds(case: Case, answer: _Answer) -> bool:
    if isinstance(answer, str):
        return False
    if isinstance(case.expect, str):
        return case.expect == answer.name
    wanted, reasons = case.expect, answer.reasons
    return (
        answer.name == DENY
        and all(any(_is(reason, one) for reason in reasons) for one in wanted)
        and all(any(_is(reason, one) for one in wanted) for reason in reasons)
        and bool(reasons)
    )


def _is(reason: str, wanted: str) -> bool:
    return reason == wanted or reason.partition(": ")[0] == wanted


def _told(answer: _Answer) -> str:
    if isinstance(answer, str):
        return answer
    return f"{answer.name}: {', '.join(answer.reasons)}" if answer.reasons else answer.name


def _in_words(case: Case) -> str:
    return ", ".join(_parts(case))


def _parts(case: Case) -> Iterator[str]:
    stranger = case.identity
    who = case.caller or (stranger and (stranger.spiffe or f"{stranger.subject} of {stranger.issuer}"))
    yield f"{who}: {case.request} at {case.service}"
    if case.granted:
        yield f"with a grant for {' and '.join(case.granted)}"
    yield f"from {case.from_}"
    yield written_instant(case.time)
