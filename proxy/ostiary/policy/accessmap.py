"""The access map: who may call what, read off a permission map for people and programs.

What is shown is what is written, role by role resolved; only the policy decides what a request gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ostiary.policy.model import Caller, Conditions, Eligibility, Permission, PermissionMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One caller, one endpoint. `kind` is `standing` or `eligible`; `when` is each condition as text."""

    caller: str
    identity: str
    service: str
    endpoint: str
    method: str
    path: str
    kind: str
    when: tuple[str, ...]
    credential: str

    def document(self) -> dict[str, Any]:
        return {
            "caller": self.caller,
            "identity": self.identity,
            "service": self.service,
            "endpoint": self.endpoint,
            "method": self.method,
            "path": self.path,
            "kind": self.kind,
            "when": list(self.when),
            "credential": self.credential,
        }


def access_map(policy: PermissionMap, *, caller: str | None = None, service: str | None = None) -> list[Access]:
    """Every access that is written, sorted; narrowed to a caller or a service where one is named."""
    rows = [*_standing(policy), *_eligible(policy)]
    rows = [row for row in rows if caller in (None, row.caller) and service in (None, row.service)]
    return sorted(rows, key=lambda row: (row.caller, row.service, row.endpoint, row.kind, row.when))


def _standing(policy: PermissionMap) -> Iterator[Access]:
    for permission in policy.permissions:
        for service, endpoint in _endpoints(policy, permission):
            yield _row(policy, permission, service, endpoint, "standing")


def _eligible(policy: PermissionMap) -> Iterator[Access]:
    for eligibility in policy.eligible:
        for endpoint in eligibility.endpoints:
            yield _row(policy, eligibility, eligibility.service, endpoint, "eligible")


def _endpoints(policy: PermissionMap, permission: Permission) -> Iterator[tuple[str, str]]:
    for role in permission.roles or ():
        for service, endpoints in policy.roles[role].items():
            yield from ((service, endpoint) for endpoint in endpoints)
    if permission.service is not None:
        yield from ((permission.service, endpoint) for endpoint in permission.endpoints or ())


def _row(
    policy: PermissionMap, written: Permission | Eligibility, service: str, endpoint: str, kind: str
) -> Access:
    found = policy.services[service].endpoints[endpoint]
    credential = written.credential
    return Access(
        caller=written.caller,
        identity=describe_caller(policy.callers[written.caller]),
        service=service,
        endpoint=endpoint,
        method=found.method,
        path=found.path,
        kind=kind,
        when=tuple(_conditions(written.when)),
        credential="per call" if credential is not None and credential.per_call else "reusable",
    )


def describe_caller(caller: Caller) -> str:
    """A caller's definition in one line."""
    if caller.spiffe is not None:
        return caller.spiffe
    proofs = [f"sub={caller.subject}"] if caller.subject is not None else []
    proofs += [f"{name}={'|'.join(values)}" for name, values in (caller.claims or {}).items()]
    return f"{caller.issuer} {' '.join(proofs)}"


def _conditions(when: Conditions | None) -> Iterator[str]:
    if when is None:
        return
    for name, value in when.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True).items():
        yield f"{name}: {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return "|".join(_short(inner) for inner in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def mermaid(rows: Iterable[Access]) -> str:
    """A Mermaid flowchart: callers to endpoints, an eligible access as a dotted arrow."""
    lines, names = ["flowchart LR"], _Names()
    for row in rows:
        arrow = "-.->" if row.kind == "eligible" else "-->"
        label = f"|{_mermaid_text('; '.join(row.when))}|" if row.when else ""
        caller = f'{names.of("c", row.caller)}(["{_mermaid_text(row.caller)}"])'
        endpoint = (
            f'{names.of("e", f"{row.service}/{row.endpoint}")}'
            f'["{_mermaid_text(f"{row.service}: {row.method} {row.path}")}"]'
        )
        lines.append(f"  {caller} {arrow}{label} {endpoint}")
    return "\n".join(lines) + "\n"


def dot(rows: Iterable[Access]) -> str:
    """The same as a Graphviz digraph."""
    lines = ["digraph access {", "  rankdir=LR;", "  node [shape=box];"]
    callers: set[str] = set()
    for row in rows:
        if row.caller not in callers:
            callers.add(row.caller)
            lines.append(f"  {_dot_text(row.caller)} [shape=ellipse];")
        style = "dashed" if row.kind == "eligible" else "solid"
        target = _dot_text(f"{row.service}: {row.method} {row.path}")
        label = _dot_text("; ".join(row.when))
        lines.append(f"  {_dot_text(row.caller)} -> {target} [style={style}, label={label}];")
    return "\n".join([*lines, "}"]) + "\n"


class _Names:
    """Node ids for a diagram: short, and the same for the same text."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}

    def of(self, kind: str, text: str) -> str:
        return self._ids.setdefault((kind, text), f"{kind}{len(self._ids)}")


def _mermaid_text(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("|", "#124;").replace("{", "#123;").replace("}", "#125;")


def _dot_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
