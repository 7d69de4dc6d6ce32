"""A request for access and the grant that comes of it: one record, from the first step to the last.

A record is a plain document: what was asked, under which terms, how it stands, and every step with who, why and when.
It is what the stores keep, what the audit is told of and what the interfaces show. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, TypeAlias

from ostiary.models import Grant, Json, Owner

State: TypeAlias = Literal["pending", "denied", "cancelled", "active", "used-up", "dropped", "revoked", "expired"]
"""How a record stands. All but the first and `active` are ends. A request that is approved is active at once."""

Kind: TypeAlias = Literal[
    "requested",
    "approved",
    "activated",
    "denied",
    "cancelled",
    "extension-requested",
    "extension-approved",
    "extension-denied",
    "extended",
    "dropped",
    "revoked",
    "used-up",
    "expired",
    "reviewed",
]
"""What a step was."""

OPEN: Final[frozenset[State]] = frozenset({"pending", "active"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who takes a step, with the callers that the policy says they are."""

    issuer: str
    subject: str
    callers: frozenset[str] = frozenset()

    @property
    def owner(self) -> Owner:
        return (self.issuer, self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The limits of an eligibility, as they were when it was asked for. Durations are in seconds.

    `auto_approve`: a rule of the organisation may approve. `emergency` is the longest that may be had in one.
    """

    approvers: tuple[str, ...]
    approvals: int = 1
    max_duration: int
    max_uses: int | None = None
    reason_required: bool = True
    auto_approve: bool = False
    emergency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for, for one `(issuer, subject)`, within these terms. `duration` is in seconds.

    The conditions of the eligibility are not here: the policy judges each use by those that it has then. `denial` is
    the id of the decision that it was asked by, where that is how it was asked.
    """

    issuer: str
    subject: str
    caller: str
    service: str
    endpoints: tuple[str, ...]
    duration: int
    max_uses: int | None = None
    reason: str = ""
    emergency: bool = False
    denial: str | None = None
    terms: Terms

    @property
    def owner(self) -> Owner:
        return (self.issuer, self.subject)

    @property
    def digest(self) -> str:
        """What an approval is for: a request that differs in anything has another."""
        return _digest(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """More time, asked for by the holder or proposed by an approver, and who approved it so far. `duration` is in
    seconds, from the last approval on."""

    duration: int
    reason: str
    digest: str
    approved: tuple[Owner, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `actor` is None where nobody took it: time passed, or a rule approved. `caller` is the caller as whom
    an approver acted. `change` is the store's number for the change, and orders all steps of all records.
    `expires_at` is of a step that gave time: when the grant ends by it."""

    kind: Kind
    time: float
    change: int
    actor: Owner | None
    caller: str | None = None
    reason: str = ""
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`uses` counts those so far. `granted_at` and `expires_at` are the grant's first and last second; `confirmed_at`
    is when time was given last. `pending_until` is when a request expires that nobody answers. `review` is that of an
    emergency: open until another person closes it. `recorded` is how many steps are in the audit.
    """

    id: str
    change: int
    asked: Asked
    digest: str
    state: State
    steps: tuple[Step, ...]
    pending_until: int
    approved: tuple[Owner, ...] = ()
    granted_at: int | None = None
    confirmed_at: int | None = None
    expires_at: int | None = None
    ended_at: int | None = None
    uses: int = 0
    extension: Extension | None = None
    review: Literal["open", "closed"] | None = None
    idempotency_key: str | None = None
    recorded: int = 0

    @property
    def owner(self) -> Owner:
        return self.asked.owner

    @property
    def uses_left(self) -> int | None:
        return None if self.asked.max_uses is None else self.asked.max_uses - self.uses

    def changes(self, begin: int, end: int) -> tuple[int, ...]:
        """Of the steps from that number to the other, exclusive, those that were the last of their change."""
        return tuple(
            number
            for number in range(begin, min(end, len(self.steps)))
            if number + 1 == len(self.steps) or self.steps[number + 1].change != self.steps[number].change
        )

    def grant(self) -> Grant | None:
        """What the policy is told while this is active. A step that gave time counts once it is in the audit, and
        what was before it until then: no record, no access."""
        ends = [step.expires_at for step in self.steps[: self.recorded] if step.expires_at is not None]
        if self.state != "active" or not ends:
            return None
        asked = self.asked
        return Grant(
            id=self.id,
            caller=asked.caller,
            issuer=asked.issuer,
            subject=asked.subject,
            service=asked.service,
            endpoints=asked.endpoints,
            expires_at=ends[-1],
            counted=asked.max_uses is not None,
        )

    def document(self) -> dict[str, Json]:
        """As it is kept, and as `of` reads it."""
        document: dict[str, Json] = _plain(self)
        return document

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> Record:
        """The record of a document that this version wrote. Raises `KeyError`, `TypeError` for what is none."""
        asked = dict(document["asked"])
        terms = dict(asked["terms"])
        extension = document["extension"]
        members = dict(document) | {
            "asked": Asked(
                **asked
                | {
                    "endpoints": tuple(asked["endpoints"]),
                    "terms": Terms(**terms | {"approvers": tuple(terms["approvers"])}),
                }
            ),
            "steps": tuple(Step(**step | {"actor": _owner(step["actor"])}) for step in document["steps"]),
            "approved": _owners(document["approved"]),
            "extension": None
            if extension is None
            else Extension(**extension | {"approved": _owners(extension["approved"])}),
        }
        return cls(**members)


def extension_digest(record: Record, *, duration: int, reason: str) -> str:
    """What the approval of an extension is for: that grant, as long as it is now, and so much more."""
    return _digest([record.id, record.digest, record.expires_at, duration, reason])


def _plain(value: Any) -> Any:
    """As `asdict` has it, without a copy of each text: that is most of what a change costs."""
    members = _MEMBERS.get(type(value))
    if members is not None:
        return {name: _plain(getattr(value, name)) for name in members}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


_MEMBERS: Final = {
    each: tuple(member.name for member in fields(each)) for each in (Record, Asked, Terms, Extension, Step)
}


def _digest(document: Json) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _owner(pair: Json) -> Owner | None:
    return None if pair is None else (pair[0], pair[1])


def _owners(pairs: Json) -> tuple[Owner, ...]:
    return tuple((pair[0], pair[1]) for pair in pairs)
