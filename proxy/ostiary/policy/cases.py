"""Tables of expected decisions (`*_cases.yaml`), for people who do not write Rego.

    cases:
      - caller: web
        service: orders
        request: GET /orders/42?page=2
        expect: allow
        why: the shop shows its customers their orders

A caller stands for an identity that is this caller and no more. What is not said is what helps least: an address that
is in nobody's network, no grant, no further claim. A table has a case that is allowed and one that is denied, since a
policy that allows nothing would pass the one kind, and one that allows everything the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ostiary.errors import REASONS, AccessDenied, ConfigurationError, TargetMalformed, TargetTooLong, TokenInQuery
from ostiary.policy.document import read_document
from ostiary.policy.mistakes import Inspection, StandIn
from ostiary.policy.model import Caller, PermissionMap, Strict
from ostiary.policy.values import (
    Address,
    CallerText,
    ClaimName,
    Distinct,
    Instant,
    JsonValue,
    Listing,
    Present,
    SpiffeText,
    Text,
    mistake,
    mistakes_at,
)
from ostiary.policy.words import closest, quoted
from ostiary.routes import METHODS

CASES: Final = "*_cases.yaml"

NOWHERE: Final = "192.0.2.1"
"""Where a request comes from that does not say: an address for documentation (RFC 5737), so nobody's network has it."""

SOME_TIME: Final = 1_772_445_600
"""When a request is made that does not say: 2026-03-02 10:00:00 UTC, a Monday. Unix seconds."""

ALLOW: Final = "allow"
DENY: Final = "deny"
OBSERVED: Final = "observed"
"""Let through, and only because the service is observed."""
_VERDICTS: Final = (ALLOW, DENY, OBSERVED)

_REQUEST: Final = re.compile(r"([^ ]+) (/[^ ?]*)(?:\?([^ ]*))?")
_BEFORE: Final = (TargetMalformed, TargetTooLong, TokenInQuery)
_REASONS: Final = {name for name, refusal in REASONS.items() if issubclass(refusal, AccessDenied) or refusal in _BEFORE}


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What is asked for. `path` and `query` are as a client sends them; the query without its question mark."""

    method: str
    path: bytes
    query: bytes

    def __str__(self) -> str:
        query = f"?{self.query.decode()}" if self.query else ""
        return f"{self.method} {self.path.decode()}{query}"


def _request(value: Any) -> RequestLine:
    found = _REQUEST.fullmatch(value) if isinstance(value, str) and value.isprintable() else None
    if found is None:
        raise mistake(f"{quoted(value)} is not a request, which is written GET /orders/42?page=2")
    method, path, query = found.groups()
    if method not in METHODS:
        raise mistake(f"unknown method {quoted(method)}{closest(method.upper(), METHODS)}")
    return RequestLine(method, path.encode(), (query or "").encode())


def _expectation(value: Any) -> str | list[str]:
    if value in _VERDICTS:
        return str(value)
    if isinstance(value, str):
        return [_reason(value)]
    if not isinstance(value, list) or not value:
        raise mistake("is allow, deny, observed, a reason or a list of reasons")
    found = []
    reasons = []
    for place, each in enumerate(value):
        try:
            reasons.append(_reason(each))
        except PydanticCustomError as error:
            found.append(((place,), error))
    if found:
        raise mistakes_at(found)
    return reasons


def _reason(value: Any) -> str:
    if value in _VERDICTS:
        raise mistake(f"{quoted(value)} stands alone: a list is of reasons")
    name = value.partition(": ")[0] if isinstance(value, str) else value
    if isinstance(value, str) and name in _REASONS:
        return value
    known = sorted({*_REASONS, *_VERDICTS})
    raise mistake(f"unknown reason {quoted(name)}{closest(str(name), known)}")


Claims: TypeAlias = Annotated[dict[ClaimName, JsonValue], Distinct]

_EXPECT_SCHEMA: Final = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}


class Stranger(Strict):
    """Who asks, where it is no caller of the map: what a token or a certificate proves."""

    issuer: Annotated[Text | None, Present] = None
    """The token's `iss`."""
    subject: Annotated[CallerText | None, Present] = None
    """The token's `sub`."""
    claims: Annotated[Claims | None, Present] = None
    """The token's claims that the issuer is configured to show."""
    spiffe: Annotated[SpiffeText | None, Present] = None
    """A SPIFFE ID, in place of all of these."""

    @model_validator(mode="after")
    def _is_someone(self) -> Stranger:
        if self.spiffe is not None:
            if self.issuer is not None or self.subject is not None or self.claims is not None:
                raise mistake("a SPIFFE ID stands alone: leave out issuer, subject and claims", lacking=())
        elif self.issuer is None or self.subject is None:
            raise mistake(
                "an identity is an issuer and a subject, or a SPIFFE ID", lacking=("issuer", "subject", "spiffe")
            )
        return self


class Case(Strict):
    """One request, what must come of it, and why."""

    caller: Annotated[str | None, Present] = None
    """A caller of the map: an identity that is it and no more."""
    identity: Annotated[Stranger | None, Present] = None
    """In place of a caller: somebody whom the map need not know."""
    subject: Annotated[CallerText | None, Present] = None
    """The caller's subject, where its definition leaves that open."""
    claims: Annotated[Claims | None, Present] = None
    """Claims beside those that make it this caller."""
    service: Annotated[str, StandIn("")]
    """The service: a name of the map's `services`."""
    request: Annotated[
        RequestLine,
        PlainValidator(_request),
        WithJsonSchema({"type": "string", "pattern": "^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /[^ ]*$"}),
        StandIn("GET /"),
    ]
    """Method, path and query: `GET /orders/42?page=2`."""
    from_: Annotated[Address, Field(alias="from")] = NOWHERE
    """The address that it comes from."""
    at: Annotated[Instant | None, Present] = None
    """When: `2026-03-02T10:00:00Z`, which it is if left out; a Monday."""
    granted: Annotated[Listing | None, Present] = None
    """Endpoints of the service for which the caller has a grant."""
    expect: Annotated[str | list[str], PlainValidator(_expectation), WithJsonSchema(_EXPECT_SCHEMA), StandIn(DENY)]
    """`allow`, `deny`, `observed` (let through only because the service is observed), a reason or the list of all
    reasons. A reason may leave out what follows its colon."""
    why: Annotated[Text, StandIn("?")]
    """What this is for, for whoever reads that it failed."""

    @property
    def time(self) -> int:
        """When, in Unix seconds."""
        return SOME_TIME if self.at is None else self.at

    @model_validator(mode="after")
    def _agrees_with_the_map(self, info: ValidationInfo) -> Case:
        if (self.caller is None) == (self.identity is None):
            both = self.caller is not None
            raise mistake(
                "has a caller and an identity: leave one out" if both else "says not who asks: name a caller",
                lacking=() if both else ("caller", "identity"),
            )
        known = (info.context or {}).get("map")
        found = list(_mistakes(self, known)) if isinstance(known, PermissionMap) else []
        if found:
            raise mistakes_at(found)
        return self


def _mistakes(case: Case, known: PermissionMap) -> Iterator[tuple[tuple[int | str, ...], str]]:
    service = known.services.get(case.service)
    if service is None:
        yield ("service",), f"unknown service {quoted(case.service)}{closest(case.service, known.services)}"
    if case.caller is None:
        for key in ("subject", "claims", "granted"):
            if getattr(case, key) is not None:
                yield (key,), "is for a caller; an identity says all of itself"
        return
    caller = known.callers.get(case.caller)
    if caller is None:
        yield ("caller",), f"unknown caller {quoted(case.caller)}{closest(case.caller, known.callers)}"
        return
    yield from _contradictions(case, caller)
    for place, name in enumerate(case.granted or ()):
        if service is not None and not _eligible(known, case, name):
            hint = closest(name, service.endpoints) if name not in service.endpoints else ""
            yield ("granted", place), f"{quoted(case.caller)} is not eligible for {quoted(name)}{hint}"


def _contradictions(case: Case, caller: Caller) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """What would make of it somebody else than the caller."""
    only = caller.spiffe or caller.subject
    if case.subject is not None and only is not None and case.subject != only:
        yield ("subject",), f"the caller {quoted(case.caller)} is {quoted(only)} alone"
    if caller.spiffe is not None and case.claims is not None:
        yield ("claims",), "is for tokens: a certificate proves no claims"
    for name, values in (caller.claims or {}).items():
        given = (case.claims or {}).get(name, values[0])
        if not any(value in values for value in (given if isinstance(given, list) else [given])):
            one = quoted(values[0]) if len(values) == 1 else f"one of {', '.join(map(quoted, values))}"
            yield ("claims", name), f"with this it is not the caller {quoted(case.caller)}, who has {one}"


def _eligible(known: PermissionMap, case: Case, name: str) -> bool:
    return any(
        each.caller == case.caller and each.service == case.service and name in each.endpoints
        for each in known.eligible
    )


def _filled(cases: list[Case]) -> list[Case]:
    if not cases:
        raise mistake("is empty: nothing would be tested")
    return cases


class CaseTable(Strict):
    """Expected decisions, one a case."""

    cases: Annotated[list[Case], AfterValidator(_filled), Field(json_schema_extra={"minItems": 1})]
    """What is asked, what must come of it, and why. At least one is allowed, and one denied."""

    @model_validator(mode="after")
    def _goes_both_ways(self) -> CaseTable:
        if all(case.expect in (ALLOW, OBSERVED) for case in self.cases):
            raise mistake("no case expects a denial: a policy that allows everything would pass")
        if not any(case.expect == ALLOW for case in self.cases):
            raise mistake("no case expects 'allow': a policy that allows nothing would pass")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A file of cases, each with its line."""

    file: str
    cases: tuple[tuple[int, Case], ...]


def case_files(source: Path) -> list[Path]:
    """The tables below a directory. Raises `ConfigurationError` for one under a name that would not be read."""
    unread = sorted(source.rglob("*_cases.yml"))
    if unread:
        raise ConfigurationError([f"{path}: is not read: name it {path.with_suffix('.yaml').name}" for path in unread])
    return sorted(source.rglob(CASES))


def load_cases(path: Path, known: PermissionMap) -> Table:
    """Read a table of cases about a map. Raises `ConfigurationError` with every mistake, `file:line: what is wrong`."""
    document = read_document(path)
    context: Mapping[str, Any] = {"map": known}
    table = Inspection(document).validate(CaseTable, context)
    return Table(
        file=document.name,
        cases=tuple((document.line(("cases", place)), case) for place, case in enumerate(table.cases)),
    )
