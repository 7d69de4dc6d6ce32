"""Explanations: which permission allows a request, or each reason why not and what would.

The bundle itself is asked (`data.ostiary.explain.explanation`), by `opa eval`, so an explanation is the decision that the
proxy would get, with everything that led to it. Nothing of it is on the request path.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ostiary.errors import REASONS, ConfigurationError
from ostiary.models import AccessRequest, Json
from ostiary.policy.words import closest, quoted

SOMEONE: Final = "someone"
"""The subject of a caller that is known by claims alone."""

_DEADLINE: Final = 60  # seconds
_WORKLOAD_PROOF: Final = "mtls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """An identity that is a given caller: what a token would have to prove, and nothing more."""

    issuer: str
    subject: str
    method: str = "jwt"
    claims: Mapping[str, Json] = field(default_factory=dict)


def read_map(bundle: Path) -> dict[str, Json]:
    """`data.ostiary.map` of a built bundle. Raises `ConfigurationError` if there is none."""
    try:
        document = json.loads((bundle / "data.json").read_bytes())
        found = document["ostiary"]["map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            [f"{bundle}: is not a bundle that 'ostiary bundle build' wrote ({type(error).__name__})"]
        ) from error
    if not isinstance(found, dict):
        raise ConfigurationError([f"{bundle}: its map is not an object"])
    return found


def specimen(permission_map: Mapping[str, Json], caller: str) -> Specimen:
    """An identity that is `caller`, read off the compiled map. Raises `ConfigurationError` for an unknown one."""
    callers = permission_map["callers"]
    claims = {name: values[0] for name, values in _demands(callers, caller)}
    for issuer, subject in _keys(callers["workloads"], caller):
        return Specimen(issuer=issuer, subject=subject, method=_WORKLOAD_PROOF)
    for issuer, subject in _keys(callers["subjects"], caller):
        return Specimen(issuer=issuer, subject=subject, claims=claims)
    for issuer, by_claim in callers["claims"].items():
        for claim, value in _keys(by_claim, caller):
            return Specimen(issuer=issuer, subject=SOMEONE, claims={**claims, claim: value})
    known = sorted(_names(callers))
    raise ConfigurationError([f"the bundle has no caller {quoted(caller)}{closest(caller, known)}"])


def _keys(table: Mapping[str, Mapping[str, list[str]]], caller: str) -> Iterator[tuple[str, str]]:
    for outer, inner in table.items():
        yield from ((outer, key) for key, names in inner.items() if caller in names)


def _demands(callers: Mapping[str, Json], caller: str) -> Iterator[tuple[str, list[Json]]]:
    for name, values in callers["demands"].get(caller, {}).items():
        yield name, values if isinstance(values, list) else [values]


def _names(callers: Mapping[str, Json]) -> set[str]:
    tables = [*callers["subjects"].values(), *callers["workloads"].values()]
    tables += [values for by_claim in callers["claims"].values() for values in by_claim.values()]
    return {name for table in tables for names in table.values() for name in names}


def ask(opa: Path, bundle: Path, request: AccessRequest) -> dict[str, Json]:
    """The explanation of a request, as Rego gives it. Raises `ConfigurationError` if the bundle has none."""
    command = [
        *(str(opa), "eval", "--format", "json", "--bundle", str(bundle), "--ignore", "*_test.rego"),
        *("--strict-builtin-errors", "--stdin-input", "data.ostiary.explain.explanation"),
    ]
    done = subprocess.run(  # noqa: S603 - no shell, and the binary is the one that was found
        command, input=json.dumps(request.document()).encode(), capture_output=True, check=False, timeout=_DEADLINE
    )
    try:
        explanation = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[:500]
        raise ConfigurationError([f"{bundle}: OPA gives no explanation: {said}"]) from error
    if not isinstance(explanation, dict):
        raise ConfigurationError([f"{bundle}: OPA's explanation is not an object"])
    return explanation


def in_words(request: AccessRequest, explanation: Mapping[str, Json]) -> list[str]:
    """The explanation as lines for a person."""
    decision = explanation["decision"]
    endpoint = explanation["endpoint"]
    aimed = "no endpoint" if endpoint is None else f"{endpoint['name']}: {endpoint['template']}"
    service = request.target.service
    lines = [
        f"{'ALLOWED' if decision['allow'] is True else 'DENIED'}  {request.method} {request.target.request_target}",
        f"service   {service}",
        f"endpoint  {aimed}",
        f"subject   {request.identity.subject} ({request.identity.issuer})",
    ]
    if decision["allow"] is True:
        lines.append(f"allowed by {decision['permission'] or decision['grant']}")
        profile = decision["credential"]
        lines.append(f"credential: {'one call' if profile['per_call'] else 'reusable'}, {profile['lifetime']} s at most")
    for reason in decision["reasons"]:
        lines.append(f"reason    {reason}: {_sentence(reason)}")
    for caller in explanation["callers"]:
        lines += _caller(caller)
    if decision["allow"] is not True:
        lines += [f"would do: {hint}" for hint in hints(explanation)]
    return lines


def _sentence(reason: str) -> str:
    known = REASONS.get(reason.partition(":")[0])
    return "" if known is None else known.sentence


def _caller(caller: Mapping[str, Json]) -> Iterator[str]:
    yield f"as caller {caller['caller']}:"
    if not caller["standing"] and not caller["eligible"]:
        yield "  no permission for this endpoint"
    for kind in ("standing", "eligible"):
        for variant in caller[kind]:
            state = "holds" if variant["holds"] else "does not hold"
            extra = f" (eligible, grant {variant['grant']})" if kind == "eligible" else ""
            yield f"  {variant['permission']} {state}{extra}"
            for condition in variant["conditions"]:
                mark = "yes" if condition["holds"] else "NO "
                yield (
                    f"    {mark} {condition['condition']}: demanded {json.dumps(condition['demanded'])}, "
                    f"found {json.dumps(condition['found'])}"
                )


def hints(explanation: Mapping[str, Json]) -> list[str]:
    """What would have allowed it, one sentence each."""
    decision, endpoint = explanation["decision"], explanation["endpoint"]
    reasons = {reason.partition(":")[0] for reason in decision["reasons"]}
    found: list[str] = []
    if endpoint is None and explanation["methods"]:
        written = ", ".join(f"{method} ({name})" for method, name in sorted(explanation["methods"].items()))
        found.append(f"this path has other methods: {written}")
    for caller in explanation["callers"]:
        for variant in caller["standing"]:
            failing = [each["condition"] for each in variant["conditions"] if not each["holds"]]
            if failing:
                found.append(f"{variant['permission']}, if {' and '.join(failing)} held")
    if "grant-required" in reasons or "grant-expired" in reasons:
        requestable = decision["requestable"]
        if requestable is not None:
            approvers = ", ".join(requestable["approvers"])
            found.append(
                f"a grant, requested as {requestable['caller']} and approved by {approvers}, "
                f"for at most {requestable['max_duration']} s"
            )
    if "permission-missing" in reasons or "unknown-caller" in reasons:
        if explanation["permitted"]:
            found.append(f"being one of the callers that have a permission: {', '.join(explanation['permitted'])}")
        if explanation["roles"]:
            found.append(f"one of the roles that hold this endpoint: {', '.join(explanation['roles'])}")
    return found
