"""Explanations: which permission allows a request, or each reason why not and what would.

The bundle itself is asked (`data.ostiary.explain.explanation`), by `opa eval`, so an explanation is the decision that
the proxy would get, with everything that led to it. The Rego that explains is ours and in no bundle. Nothing of it is
on the request path.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ostiary.clock import written_instant
from ostiary.errors import REASONS, ConfigurationError, PolicyDenied
from ostiary.models import AccessRequest, Json, Method
from ostiary.policy import phrases
from ostiary.policy.bundle import rego_for_explanations
from ostiary.policy.compiler import FORMAT
from ostiary.policy.values import written_duration
from ostiary.policy.words import closest, quoted
from ostiary.target import OWN_SERVICE

SOMEONE: Final = "someone"
"""The subject of a caller that is known by claims alone."""

_DEADLINE: Final = 60  # seconds
_SHOWN: Final = 12  # endpoints that a hint names
_OWN: Final = "a path under /.well-known/: the proxy's own host has no other"
_BUILD: Final = "build it again with 'ostiary bundle build'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """An identity that is a given caller: what a token or a certificate would have to prove, and nothing more."""

    issuer: str
    subject: str
    method: Method = "jwt"
    claims: Mapping[str, Json] = field(default_factory=dict)


def read_map(bundle: Path) -> dict[str, Json]:
    """`data.ostiary.map` of a built bundle. Raises `ConfigurationError` if there is none that is understood here."""
    try:
        document = json.loads((bundle / "data.json").read_bytes())
        found = document["ostiary"]["map"]
        format_ = found["format"]
    except OSError as error:
        raise ConfigurationError([f"{bundle}: is not a built bundle: data.json: {error.strerror}"]) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError([f"{bundle}: is not a bundle that 'ostiary bundle build' wrote"]) from error
    if format_ != FORMAT:
        raise ConfigurationError([f"{bundle}: its map has the format {format_}, and {FORMAT} is read here: {_BUILD}"])
    return dict(found)


def specimen(permission_map: Mapping[str, Json], caller: str) -> Specimen:
    """An identity that is `caller`, read off the compiled map. Raises `ConfigurationError` for an unknown one."""
    callers = permission_map["callers"]
    claims = {name: values[0] for name, values in callers["demands"].get(caller, {}).items()}
    for issuer, subject in _keys(callers["workloads"], caller):
        return Specimen(issuer=issuer, subject=subject, method="mtls")
    for issuer, subject in _keys(callers["subjects"], caller):
        return Specimen(issuer=issuer, subject=subject, claims=claims)
    for issuer, by_claim in callers["claims"].items():
        for claim, value in _keys(by_claim, caller):
            return Specimen(issuer=issuer, subject=SOMEONE, claims={**claims, claim: value})
    known = sorted(_names(callers))
    raise ConfigurationError([f"the map has no caller {quoted(caller)}{closest(caller, known)}"])


def _keys(table: Mapping[str, Mapping[str, list[str]]], caller: str) -> Iterator[tuple[str, str]]:
    for outer, inner in table.items():
        yield from ((outer, key) for key, names in inner.items() if caller in names)


def _names(callers: Mapping[str, Json]) -> set[str]:
    tables = [*callers["subjects"].values(), *callers["workloads"].values()]
    tables += [values for by_claim in callers["claims"].values() for values in by_claim.values()]
    return {name for table in tables for names in table.values() for name in names}


def ask(opa: Path, bundle: Path, request: AccessRequest, *, rego_root: Path) -> dict[str, Json]:
    """The explanation of a request, as Rego gives it. `rego_root` is as in `build_bundle`.

    Raises `ConfigurationError` if there is none of this bundle.
    """
    command = [
        *(str(opa), "eval", "--format", "json", "--bundle", str(bundle.absolute()), "--ignore", "*_test.rego"),
        *("--data", str(rego_for_explanations(rego_root))),
        *("--strict-builtin-errors", "--stdin-input", "data.ostiary.explain.explanation"),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the binary is the one that was found
            command, input=json.dumps(request.document()).encode(), capture_output=True, check=False, timeout=_DEADLINE
        )
    except OSError as error:
        raise ConfigurationError([f"{opa}: OPA cannot be run: {error.strerror}"]) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError([f"{bundle}: OPA gave no explanation within {_DEADLINE} s"]) from error
    try:
        explanation = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigurationError([f"{bundle}: OPA gives no explanation: {_said(done)}"]) from error
    if not isinstance(explanation, dict):
        raise ConfigurationError([f"{bundle}: OPA's explanation is not an object"])
    return explanation


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first of OPA's errors, or the beginning of whatever it said, in one line."""
    try:
        first = json.loads(done.stdout)["errors"][0]
        said = f"{first['message']} ({first['code']})" if "code" in first else str(first["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        said = (done.stderr or done.stdout).decode(errors="replace")
    return " ".join(said.split())[:500] or f"exit code {done.returncode}"


def assumptions(explanation: Mapping[str, Json], caller: str, claims: Collection[str]) -> list[str]:
    """What a person should know who takes the explanation for one about `caller`. `claims` were said to be there."""
    found: list[str] = []
    if caller not in [each["caller"] for each in explanation["callers"]] and explanation["endpoint"] is not None:
        found.append(f"with this subject and these claims, the identity is not the caller {quoted(caller)}")
    failing = {
        condition["condition"]
        for each in explanation["callers"]
        for variant in (*each["standing"], *each["eligible"], *each["shadow"])
        for condition in variant["conditions"]
        if not condition["holds"]
    }
    if failing & {"claims", "path"} and not claims:
        found.append("no claims are assumed but those that make it this caller: --claim NAME=VALUE adds others")
    return found


def in_words(
    request: AccessRequest,
    explanation: Mapping[str, Json],
    endpoints: Mapping[str, Mapping[str, str]],
    notes: Collection[str] = (),
) -> list[str]:
    """The explanation as lines for a person. `endpoints` is the map's route table, `notes` go before the hints."""
    decision, endpoint = explanation["decision"], explanation["endpoint"]
    allowed, observed = decision["allow"] is True, decision["observed"] is True
    lines = [
        f"{outcome(decision).upper()}  {request.method} {request.target.request_target}",
        f"service     {request.target.service}",
        f"endpoint    {'none' if endpoint is None else '{name}: {template}'.format_map(endpoint)}",
        f"identity    {_identity(request)}",
        f"source      {request.source_ip}",
        f"time        {written_instant(request.time)}",
    ]
    if allowed:
        profile = decision["credential"]
        if observed:
            until = written_instant(decision["expires_at"])
            lines.append(f"allowed by  nothing: the service is only observed, until {until}")
        else:
            lines.append(f"allowed by  {decision['permission'] or decision['grant']}")
        lines.append(
            f"credential  {'for one call' if profile['per_call'] else 'reusable'}, "
            f"at most {written_duration(profile['lifetime'] * 1000)}"
        )
    lines += [f"reason      {_reason(reason)}" for reason in decision["reasons"]]
    if decision["shadow"] is not None:
        lines.append(f"shadow      {decision['shadow']} would have allowed it, and is a shadow")
    if endpoint is not None:
        for caller in explanation["callers"]:
            lines += _caller(caller)
    lines += [f"note        {note}" for note in notes]
    if not allowed or observed:
        own = request.target.service == OWN_SERVICE
        found = [_OWN] if own else hints(explanation, endpoints.get(request.target.service))
        lines += [f"would do    {hint}" for hint in found]
    return lines


def outcome(decision: Mapping[str, Json]) -> str:
    """`allowed`, `denied`, or `observed`: let through, and only because the service is observed."""
    if decision["allow"] is not True:
        return "denied"
    return "observed" if decision["observed"] is True else "allowed"


def _identity(request: AccessRequest) -> str:
    identity = request.identity
    claims = phrases.found("claims", identity.claims) if identity.claims else ""
    return ", ".join(part for part in (f"{phrases.text(identity.subject)} of {identity.issuer}", claims) if part)


def _reason(reason: str) -> str:
    """The reason with its sentence, and with the rest of it: a rule's own text, or the name of a custom condition."""
    name, _, rest = reason.partition(": ")
    return f"{name}: {REASONS.get(name, PolicyDenied).sentence}{f' ({rest})' if rest else ''}"


def _caller(caller: Mapping[str, Json]) -> Iterator[str]:
    yield f"as caller {caller['caller']}:"
    if not caller["standing"] and not caller["eligible"]:
        yield "  no permission for this endpoint"
    for variant in caller["standing"]:
        yield f"  {variant['permission']} {_holds(variant)}"
        yield from _conditions(variant)
    for variant in caller["eligible"]:
        needs = {"missing": "and needs a grant", "expired": "and its grant has ended", "active": "by a grant"}
        yield f"  {variant['permission']} {_holds(variant)}, is eligible {needs[variant['grant']]}"
        yield from _conditions(variant)
    for variant in caller["shadow"]:
        yield f"  {variant['permission']} {_holds(variant)}, is a shadow and allows nothing"
        yield from _conditions(variant)


def _holds(variant: Mapping[str, Json]) -> str:
    return "holds" if variant["holds"] else "does not hold"


def _conditions(variant: Mapping[str, Json]) -> Iterator[str]:
    for condition in variant["conditions"]:
        name = condition["condition"]
        found = phrases.found(name, condition["found"])
        yield (
            f"    {'yes' if condition['holds'] else 'NO '} {phrases.demanded(name, condition['demanded'])}"
            f"{f' (here: {found})' if found else ''}"
        )


def hints(explanation: Mapping[str, Json], endpoints: Mapping[str, str] | None) -> list[str]:
    """What would have allowed it, one phrase each. `endpoints` are the service's; None where the map has none."""
    if explanation["endpoint"] is None:
        return list(_other_endpoints(explanation, endpoints))
    return [
        *_shadow(explanation),
        *_conditions_met(explanation),
        *_grant(explanation),
        *_others(explanation),
        *_organisation(explanation),
    ]


def _other_endpoints(explanation: Mapping[str, Json], endpoints: Mapping[str, str] | None) -> Iterator[str]:
    if endpoints is None:
        yield "an entry for this service in the permission map"
    elif explanation["methods"]:
        written = (f"{method} ({name})" for method, name in sorted(explanation["methods"].items()))
        yield f"another method, which this path has: {', '.join(written)}"
    else:
        written = (f"{template} ({name})" for name, template in sorted(endpoints.items())[:_SHOWN])
        more = f" and {len(endpoints) - _SHOWN} more" if len(endpoints) > _SHOWN else ""
        yield f"another path; this service has {', '.join(written)}{more}"


def _conditions_met(explanation: Mapping[str, Json]) -> Iterator[str]:
    for caller in explanation["callers"]:
        for variant in (*caller["standing"], *caller["eligible"]):
            failing = [
                phrases.demanded(each["condition"], each["demanded"])
                for each in variant["conditions"]
                if not each["holds"]
            ]
            grant = " and a grant" if variant.get("grant", "active") != "active" else ""
            if failing:
                yield f"{variant['permission']}, with {' and '.join(failing)}{grant}"


def _shadow(explanation: Mapping[str, Json]) -> Iterator[str]:
    if explanation["decision"]["shadow"] is not None:
        yield f"{explanation['decision']['shadow']}, without its 'shadow: true'"


def _grant(explanation: Mapping[str, Json]) -> Iterator[str]:
    for caller in explanation["callers"]:
        for variant in caller["eligible"]:
            if not variant["holds"] or variant["grant"] == "active":
                continue  # said already, or there
            yield f"a grant for {variant['permission']}, {phrases.approval(variant)}"


def _others(explanation: Mapping[str, Json]) -> Iterator[str]:
    reasons = set(explanation["decision"]["reasons"])
    if not reasons & {"permission-missing", "unknown-caller"}:
        return
    own = {caller["caller"] for caller in explanation["callers"]}
    for kind, sentence in (("permitted", "have a permission"), ("eligible", "may request it")):
        others = [name for name in explanation[kind] if name not in own]
        if others:
            yield f"being one of the callers that {sentence}: {', '.join(others)}"
    if explanation["roles"]:
        yield f"a permission with a role that holds this endpoint: {', '.join(explanation['roles'])}"
    if not (explanation["permitted"] or explanation["eligible"] or explanation["roles"]):
        yield "a permission in the map: nobody has one for this endpoint"


def _organisation(explanation: Mapping[str, Json]) -> Iterator[str]:
    if explanation["organisation"]:
        yield "a change to the organisation's own Rego: the permission map allows it"
