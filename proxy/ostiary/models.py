"""The records that pass between the stages. Frozen, made by keyword, free of behaviour that decides anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from ostiary.errors import denial
from ostiary.marks import Mark, subject_mark, token_mark

Json: TypeAlias = Any
"""What `json.loads` yields: None, bool, int, float, str, list or dict of these."""

Method: TypeAlias = Literal["jwt", "jwt-svid", "mtls", "xfcc"]
"""How an identity was proved."""

IdentityKey: TypeAlias = tuple[str, str, Method, bytes, bytes]
"""All that a policy sees of an identity: issuer, subject, method of proof, digests of the actor and of the claims."""

Owner: TypeAlias = tuple[str, str]
"""Whose an identity is: its issuer and subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is aimed at: the only form that policy, cache, audit and the forwarded request line use.

    `segments` are decoded; `path` is their one canonical encoding, starting with `/`, as it is forwarded.
    `query` is what followed the `?`, verbatim and without it; None when there was none.
    `pairs` is the strictly decoded list of parameters, or None where it cannot be decoded so.
    """

    service: str
    segments: tuple[str, ...]
    path: str
    query: str | None
    pairs: tuple[tuple[str, str], ...] | None

    @property
    def request_target(self) -> str:
        """Path and query as the forwarded request line has them."""
        return self.path if self.query is None else f"{self.path}?{self.query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What authentication proved.

    `issuer` and `subject` are always non-empty strings. `claims` holds only those that the issuer's configuration
    lists. `expires_at` is in whole Unix seconds: nothing derived from this identity outlives it. For `leeway` seconds
    more it is itself accepted, since clocks differ.
    `token_id` is the token's `jti`, for the audit; the token itself is kept nowhere.
    `key` is equal for identities that no policy can tell apart, and only for those. `owner` is issuer and subject: what
    a limit for each identity counts by, whatever claims its tokens have. `marks` are all that it can be blocked by:
    itself, its token, and `proved_by`, the marks of what else it was proved by and of who acts for it.
    """

    issuer: str
    subject: str
    method: Method
    expires_at: int
    claims: Mapping[str, Json] = field(default_factory=dict)
    token_id: str | None = None
    actor: Mapping[str, Json] | None = None
    leeway: int = 0
    proved_by: tuple[Mark, ...] = field(default=(), repr=False, compare=False)
    key: IdentityKey = field(init=False, repr=False, compare=False)
    owner: Owner = field(init=False, repr=False, compare=False)
    marks: tuple[Mark, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = (self.issuer, self.subject, self.method, _digest(self.actor), _digest(self.claims))
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "owner", key[:2])
        token = () if self.token_id is None else (token_mark(self.issuer, self.token_id),)
        object.__setattr__(self, "marks", (subject_mark(self.issuer, self.subject), *token, *self.proved_by))

    @property
    def ends_at(self) -> int:
        """The Unix second from which it is accepted no longer."""
        return self.expires_at + self.leeway

    def document(self) -> dict[str, Json]:
        """The `subject` of the decision contract."""
        return {
            "type": "workload",
            "id": self.subject,
            "properties": {"issuer": self.issuer, "method": self.method, "claims": dict(self.claims)},
        }


def _digest(document: Mapping[str, Json] | None) -> bytes:
    """SHA-256 of one text for one JSON value; 1, 1.0 and true are three."""
    plain = None if document is None else dict(document)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An eligibility approved for one `(issuer, subject)` until `expires_at` (whole Unix seconds).

    `counted`: it is good for so many requests, and each takes one. The policy is not told, since it need not know.
    """

    id: str
    caller: str
    issuer: str
    subject: str
    service: str
    endpoints: tuple[str, ...]
    expires_at: int
    counted: bool = False

    def document(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "caller": self.caller,
            "issuer": self.issuer,
            "subject": self.subject,
            "service": self.service,
            "endpoints": list(self.endpoints),
            "expires_at": self.expires_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class AccessRequest:
    """The question that is put to the policy. `time` is in whole Unix seconds, rounded down.

    `endpoint` is what the route table of the bundle `revision` says this is aimed at, None where that table has nothing
    for it. Without a `revision` nothing was predicted, and no answer is kept.

    The one record that every request makes. By the descriptors of its slots it is made in half the time that a frozen
    dataclass's own `__init__` takes, which goes through `object.__setattr__`.
    """

    identity: Identity
    method: str
    target: Target
    time: int
    source_ip: str
    grants: tuple[Grant, ...] = ()
    endpoint: str | None = None
    revision: str | None = None

    def __init__(
        self,
        *,
        identity: Identity,
        method: str,
        target: Target,
        time: int,
        source_ip: str,
        grants: tuple[Grant, ...] = (),
        endpoint: str | None = None,
        revision: str | None = None,
    ) -> None:
        _set_identity(self, identity)
        _set_method(self, method)
        _set_target(self, target)
        _set_time(self, time)
        _set_source_ip(self, source_ip)
        _set_grants(self, grants)
        _set_endpoint(self, endpoint)
        _set_revision(self, revision)

    def document(self) -> dict[str, Json]:
        """The `input` of the decision contract: OpenID AuthZEN words, `context` written by the proxy alone."""
        identity, target = self.identity, self.target
        properties: dict[str, Json] = {
            "segments": list(target.segments),
            "query": None if target.pairs is None else [list(pair) for pair in target.pairs],
        }
        if self.endpoint is not None:
            properties["endpoint"] = self.endpoint
        return {
            "subject": identity.document(),
            "action": {"name": self.method},
            "resource": {"type": "service", "id": target.service, "properties": properties},
            "context": {
                "time": self.time,
                "source_ip": self.source_ip,
                "actor": None if identity.actor is None else dict(identity.actor),
                "grants": [grant.document() for grant in self.grants],
            },
        }


_set_identity, _set_method, _set_target, _set_time, _set_source_ip, _set_grants, _set_endpoint, _set_revision = (
    getattr(AccessRequest, one.name).__set__ for one in fields(AccessRequest)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialProfile:
    """What credential a permission asks for. `lifetime` is in seconds."""

    lifetime: int
    per_call: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How long (seconds) an answer may be used again, and on which further names it depends."""

    max_age: int
    vary: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The policy's answer, with the revision of the bundle that gave it.

    An allow has caller, service, endpoint, credential and revision, and either permission or grant; one that is only
    `observed` has neither, but the reasons for which it is none, and an end. A denial has what was found before it was
    refused. `shadow` is the shadow permission that would have allowed what is denied or observed. `said` is what OPA
    answered, where that is not what the other members say.
    """

    allow: bool
    reasons: tuple[str, ...]
    caller: str | None
    service: str | None
    endpoint: str | None
    permission: str | None
    grant: str | None
    credential: CredentialProfile | None
    expires_at: int | None
    cache: CachePolicy
    requestable: Mapping[str, Json] | None
    observed: bool
    revision: str
    shadow: str | None = None
    cached: bool = False
    said: Mapping[str, Json] | None = field(default=None, repr=False)

    @property
    def document(self) -> Mapping[str, Json]:
        """The answer as OPA gave it, for the audit and for replay.

        Made when it is asked for: a worker keeps a hundred thousand decisions, and a document is half a kilobyte.
        """
        if self.said is not None:
            return self.said
        credential = self.credential
        return {
            "allow": self.allow,
            "reasons": list(self.reasons),
            "caller": self.caller,
            "service": self.service,
            "endpoint": self.endpoint,
            "permission": self.permission,
            "grant": self.grant,
            "credential": None
            if credential is None
            else {"lifetime": credential.lifetime, "per_call": credential.per_call},
            "expires_at": self.expires_at,
            "cache": {"max_age": self.cache.max_age, "vary": list(self.cache.vary)},
            "requestable": self.requestable,
            "observed": self.observed,
            "shadow": self.shadow,
        }

    def enforce(self) -> None:
        """Raise `AccessDenied` unless this is an allow. The literal `True` alone is one."""
        if self.allow is not True:
            raise denial(self.reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What the upstream receives in place of the caller's own. The value is a secret and never printed.

    `id` is the token's `jti`. `remove` names further request headers (lower case) that this strategy replaces.
    """

    header: tuple[bytes, bytes] = field(repr=False)
    id: str
    expires_at: int
    per_call: bool = False
    remove: frozenset[bytes] = frozenset()
