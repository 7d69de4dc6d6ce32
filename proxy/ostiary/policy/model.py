"""The permission map (`permissions.yaml`, DESIGN section 5): who may call what.

Shapes are written here; `references` holds what the parts must say of one another. Both run whenever a
`PermissionMap` is made, so whoever holds one holds a good one. What the format leaves open is decided so:

* every list of values means "one of these": of a claim, a query parameter, sources, days;
* a permission names roles, or a service with endpoints, never both: its conditions then have one meaning;
* a key that is written has a value; an empty list or mapping inside an entry is a mistake, never "any";
* callers may overlap and may even be equal; the same permission twice is a mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, ValidationError

from ostiary.policy.document import read_document
from ostiary.policy.mistakes import Inspection, StandIn
from ostiary.policy.references import Known, find_mistakes
from ostiary.policy.values import (
    FILLED,
    NAME_PATTERN,
    ONE_OR_MANY,
    CallerText,
    CallerTexts,
    ClaimName,
    CustomName,
    Distinct,
    Duration,
    Hour,
    Instant,
    JsonValue,
    Listing,
    Name,
    Network,
    Present,
    SpiffeText,
    Text,
    TimeZone,
    distinct,
    mistake,
    mistakes_at,
    read_name,
)
from ostiary.policy.words import quoted
from ostiary.routes import METHODS, Endpoint, TemplateError
from ostiary.target import OWN_SERVICE

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Strict(BaseModel):
    """Frozen, refuses unknown keys, and never shows what it was given: that may be a secret.

    A model is built when it first reads something, and its fields' docstrings are read by whoever shows them
    (`schema`): together most of what importing it would take, and a worker, which is handed a finished `Config`,
    needs neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True)


def _endpoints(value: Any) -> dict[str, Endpoint]:
    if not isinstance(value, dict):
        raise mistake("is not a mapping of names to endpoints")
    distinct(value)
    found: list[tuple[tuple[int | str, ...], str]] = []
    endpoints: dict[str, Endpoint] = {}
    for name, text in value.items():
        try:
            read_name(name)
            endpoints[name] = text if isinstance(text, Endpoint) else _endpoint(name, text)
        except (TemplateError, PydanticCustomError) as error:
            found.append(((str(name),), str(error)))
    if found:
        raise mistakes_at(found)
    return endpoints


def _endpoint(name: str, text: Any) -> Endpoint:
    if not isinstance(text, str):
        raise TemplateError(f"an endpoint is a method and a path template, 'GET /orders', not {quoted(text)}")
    method, space, _ = text.partition(" ")
    upper = method.upper()
    hint = f" (did you mean {quoted(upper)}?)" if space and upper in METHODS and method != upper else ""
    try:
        return Endpoint.parse(name, text)
    except TemplateError as error:
        raise TemplateError(f"{error}{hint}") from None


def _not_reserved(name: str) -> str:
    if name == OWN_SERVICE:
        raise mistake(f"the service name {quoted(name)} is reserved for the proxy itself")
    return name


def _issuer(value: str) -> str:
    if value.startswith("spiffe:"):
        raise mistake(f"{quoted(value)} is no issuer of tokens: name the workload with 'spiffe'")
    return value


def _named(value: Any) -> Any:
    if value == "*":
        raise mistake("there is no wildcard: endpoints are named one by one")
    return value


Endpoints: TypeAlias = Annotated[Listing, BeforeValidator(_named)]


def _only_true(value: Any) -> bool:
    if value is True:
        return True
    raise mistake(f"is true or left out, not {quoted(value)}")


def _alternative(value: str) -> str:
    if value == "*":
        raise mistake("'*' stands for any one value and is written alone")
    return value


_ALTERNATIVES: Final[TypeAdapter[list[str]]] = TypeAdapter(
    Annotated[list[Annotated[Text, AfterValidator(_alternative)]], Distinct],
    config=ConfigDict(strict=True, hide_input_in_errors=True, defer_build=True),
)


def _query_values(value: Any) -> str | list[str]:
    if value == "*":
        return "*"
    return _ALTERNATIVES.validate_python([value] if isinstance(value, str | int | float) else value)


QueryValues: TypeAlias = Annotated[list[str] | Literal["*"], PlainValidator(_query_values), WithJsonSchema(ONE_OR_MANY)]

_TEMPLATE_SCHEMA: Final = {
    "type": "string",
    "pattern": "^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) /",
    "description": "A method and a path template: `GET /orders/{order_id}`.",
}


class Service(Strict):
    """A protected upstream and its endpoints."""

    endpoints: Annotated[
        dict[str, Endpoint],
        PlainValidator(_endpoints),
        PlainSerializer(lambda endpoints: {name: f"{e.method} {e.path}" for name, e in endpoints.items()}),
        WithJsonSchema(
            {
                "type": "object",
                "minProperties": 1,
                "patternProperties": {f"^{NAME_PATTERN}$": _TEMPLATE_SCHEMA},
                "additionalProperties": False,
            }
        ),
    ]
    """Name to method and path template: `get-order: GET /orders/{order_id}`. HEAD and OPTIONS need endpoints of their
    own."""


class Caller(Strict):
    """Whose requests: an issuer with a subject, claims or both; or a SPIFFE ID alone. Never everyone."""

    issuer: Annotated[Annotated[Text, AfterValidator(_issuer)] | None, Present] = None
    """The token's `iss`, compared exactly."""
    subject: Annotated[CallerText | None, Present] = None
    """The token's `sub`, compared exactly."""
    claims: Annotated[Annotated[dict[ClaimName, CallerTexts], Distinct] | None, Present] = None
    """Claim to value, or to a list of values of which one is enough. All claims must hold; where the token's claim is
    a list, the value must be in it."""
    spiffe: Annotated[SpiffeText | None, Present] = None
    """A SPIFFE ID, proved by a certificate or a JWT-SVID; a plain token never matches it."""

    @model_validator(mode="after")
    def _is_someone(self) -> Caller:
        if self.spiffe is not None:
            if self.issuer is not None or self.subject is not None or self.claims is not None:
                raise mistake("a SPIFFE ID stands alone: leave out issuer, subject and claims", lacking=())
        elif self.issuer is None:
            raise mistake(
                "a caller is an issuer with a subject or claims, or a SPIFFE ID, and this is neither",
                lacking=("issuer", "spiffe"),
            )
        elif self.subject is None and self.claims is None:
            raise mistake(
                "this caller is everyone with a token of the issuer: add a subject or claims",
                lacking=("subject", "claims"),
            )
        return self

    @property
    def individual(self) -> str | None:
        """A key for the one identity that this can be, or None where several identities may fit."""
        if self.spiffe is not None:
            return self.spiffe
        return None if self.subject is None else f"{self.issuer} {self.subject}"


class Hours(Strict):
    """A daily window in a time zone. Past midnight (`from` later than `to`), the day is the one it began on."""

    from_: Annotated[Hour, Field(alias="from")]
    """`HH:MM`, inclusive."""
    to: Hour
    """`HH:MM`, exclusive; `24:00` is the day's end."""
    days: Annotated[list[Day], Distinct, FILLED] = list(get_args(Day))
    """The days on which the window begins; every day if left out."""
    timezone: TimeZone
    """An IANA time zone: `Europe/Paris`."""

    @model_validator(mode="after")
    def _is_a_window(self) -> Hours:
        if self.from_ == "24:00":
            raise mistake("a window does not begin at '24:00' (did you mean '00:00'?)", lacking=())
        if self.from_ == self.to:
            raise mistake("from and to are the same hour, so the window is empty", lacking=())
        return self

    @property
    def start(self) -> int:
        """Minutes since midnight, 0 to 1439; inclusive."""
        return _minutes(self.from_)

    @property
    def end(self) -> int:
        """Minutes since midnight, 0 to 1440; exclusive. Less than `start` where the window passes midnight."""
        return _minutes(self.to)


def _minutes(hour: str) -> int:
    return int(hour[:2]) * 60 + int(hour[3:])


class ClaimReference(Strict):
    """A claim of the request's identity."""

    claim: ClaimName
    """The claim's name. Its value must be the path variable's, or contain it where it is a list."""


class Conditions(Strict):
    """What must hold besides. All of it; whatever cannot be evaluated does not hold."""

    source: Annotated[Annotated[list[Network], Distinct, FILLED] | None, Present] = None
    """Networks, one of which holds the peer's address: `10.0.0.0/8`, `2001:db8::/32`."""
    hours: Annotated[Hours | None, Present] = None
    """A daily window in a time zone."""
    claims: Annotated[Annotated[dict[ClaimName, CallerTexts], Distinct] | None, Present] = None
    """Claim to value, or to a list of values of which one is enough."""
    read_only: Annotated[bool, BeforeValidator(_only_true), WithJsonSchema({"const": True})] = False
    """GET, HEAD and OPTIONS only."""
    query: Annotated[Annotated[dict[Text, QueryValues], Distinct] | None, Present] = None
    """These parameters only, each at most once, with one of these values; `"*"` is any one value."""
    path: Annotated[Annotated[dict[Text, ClaimReference], Distinct] | None, Present] = None
    """Path variable to the claim that it must equal: tenant isolation."""
    custom: Annotated[Annotated[dict[CustomName, JsonValue], Distinct] | None, Present] = None
    """Name to argument: conditions that the organisation's `policy.condition(name, argument, request)` answers."""

    @model_validator(mode="after")
    def _conditions_something(self) -> Conditions:
        if not self.model_fields_set:
            raise mistake("is empty: name a condition or leave the key out")
        return self


class CredentialSettings(Strict):
    """What the upstream receives in place of the caller's credential."""

    per_call: bool = False
    """One credential for each request, bound to the exact target and usable once."""
    lifetime: Annotated[Annotated[int, Duration(least=1, most=3600, whole=True)] | None, Present] = None
    """Whole seconds, 1s to 1h; the service's own (60s) if left out. Never longer than the caller's token."""

    @model_validator(mode="after")
    def _sets_something(self) -> CredentialSettings:
        if not self.model_fields_set:
            raise mistake("is empty: set something or leave the key out")
        return self


class Permission(Strict):
    """A caller may use endpoints: those of roles, or those named of one service."""

    caller: Annotated[str, StandIn("")]
    """Who: a name of `callers`."""
    roles: Annotated[Listing | None, Present, StandIn(["?"])] = None
    """Roles, all of whose endpoints this covers. Not together with `service`."""
    service: Annotated[str | None, Present, StandIn("")] = None
    """The service whose `endpoints` follow."""
    endpoints: Annotated[Endpoints | None, Present, StandIn(["?"])] = None
    """Names of the service's endpoints, each one; there is no wildcard."""
    when: Annotated[Conditions | None, Present] = None
    """What must hold besides."""
    credential: Annotated[CredentialSettings | None, Present] = None
    """What the upstream receives in place of the caller's credential."""
    shadow: Annotated[bool, BeforeValidator(_only_true), WithJsonSchema({"const": True})] = False
    """True for a permission that allows nothing yet: what it would have allowed is told in decisions and the audit."""


class Eligibility(Strict):
    """What a caller may request for a while, within these limits, from these approvers."""

    caller: Annotated[str, StandIn("")]
    """Who may request: a name of `callers`."""
    service: Annotated[str, StandIn("")]
    """The service whose `endpoints` follow."""
    endpoints: Annotated[Endpoints, StandIn(["?"])]
    """Names of the service's endpoints, each one; there is no wildcard."""
    approvers: Annotated[Listing, StandIn(["?"])]
    """Callers, any of whom may approve. Nobody approves a request of their own."""
    approvals: Annotated[int, Field(ge=1, le=10)] = 1
    """How many different approvers it takes."""
    max_duration: Annotated[int, Duration(least=1, most=7 * 86400, whole=True), StandIn(1)]
    """The longest that a grant may last: whole seconds, 1s to 168h."""
    max_uses: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | None, Present] = None
    """How many requests a grant is good for; any number if left out."""
    reason_required: bool = True
    """Whether a request must say why."""
    auto_approve: bool = False
    """Whether the organisation's rule `policy.approve` may approve a request in an approver's place."""
    emergency: Annotated[Annotated[int, Duration(least=1, most=86400, whole=True)] | None, Present] = None
    """The longest that a grant may last which whoever asks approves for themselves, in an emergency: whole seconds, 1s
    to 24h. One of the approvers reviews it afterwards. None can be had if left out."""
    when: Annotated[Conditions | None, Present] = None
    """What must hold besides."""
    credential: Annotated[CredentialSettings | None, Present] = None
    """What the upstream receives in place of the caller's credential."""


class Observation(Strict):
    """Of a service: what is not allowed is let through, and told of, until this ends by itself."""

    until: Instant
    """When it ends: `2026-12-24T00:00:00Z`. At most 31 days after the bundle is built."""


ServiceName: TypeAlias = Annotated[Name, AfterValidator(_not_reserved)]


class PermissionMap(Strict):
    """Who may call what. Whatever is not permitted here is denied."""

    services: Annotated[
        dict[ServiceName, Service],
        Distinct,
        Field(json_schema_extra={"minProperties": 1}),
        StandIn({"stand-in": {"endpoints": {"stand-in": "GET /"}}}),
    ]
    """The protected upstreams, by name."""
    roles: dict[Name, Annotated[dict[str, Listing], Distinct]] = {}
    """Named sets of endpoints: role to service to endpoints."""
    callers: dict[Name, Caller] = {}
    """Those for whom permissions are written, by name."""
    permissions: list[Permission] = []
    """What is allowed at all times, within its conditions."""
    eligible: list[Eligibility] = []
    """What is not allowed but may be requested."""
    observe: dict[Name, Observation] = {}
    """Services at which every caller is let through everywhere, for a while: what is not allowed is told of."""
    operators: Annotated[Listing | None, Present] = None
    """Callers who may block identities, tokens and keys in an incident, and lift blocks. Nobody if left out."""

    @model_validator(mode="after")
    def _agrees_with_itself(self, info: ValidationInfo) -> PermissionMap:
        known = (info.context or {}).get("known")
        found = find_mistakes(self, known if isinstance(known, Known) else Known.of(self))
        if found:
            raise ValidationError.from_exception_data("PermissionMap", found, hide_input=True)
        return self

    def covered(self, permission: Permission) -> Iterator[tuple[str, Endpoint]]:
        """Each (service, endpoint) that the permission is about, once."""
        if permission.service is not None:
            endpoints = self.services[permission.service].endpoints
            yield from ((permission.service, endpoints[name]) for name in permission.endpoints or ())
            return
        seen: set[tuple[str, str]] = set()
        for role in permission.roles or ():
            for service, names in self.roles[role].items():
                for name in names:
                    if (service, name) not in seen:
                        seen.add((service, name))
                        yield service, self.services[service].endpoints[name]


def load_permissions(path: Path) -> PermissionMap:
    """Read `permissions.yaml`. Raises `ConfigurationError` with every mistake, each `file:line: what is wrong`."""
    document = read_document(path)
    return Inspection(document).validate(PermissionMap, {"known": Known.in_document(document.value)})
