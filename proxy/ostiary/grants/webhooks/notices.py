"""What a step of a request or a grant means to those who are told of it. (Of a block: `block_notices`.)

One change of a record is told once, by its last step: the last approval is told by `activated`, which names all who
approved; a request that a rule answered at once, by that answer. What is said is what was so after that step, however
late it is said; how to answer is said only while it can still be answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, get_args

from ostiary.grants.records import Kind, Record, State, Step
from ostiary.grants.service import step_document
from ostiary.models import Json

GrantEvent: TypeAlias = Literal[
    "requested",
    "approved",
    "activated",
    "emergency",
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
"""The kinds of steps, and `emergency`, which is the activation of a grant that its holder took without an approver."""
BlockEvent: TypeAlias = Literal["blocked", "unblocked"]
BLOCK_EVENTS: Final[tuple[BlockEvent, ...]] = get_args(BlockEvent)
Event: TypeAlias = GrantEvent | BlockEvent
EVENTS: Final[tuple[Event, ...]] = (*get_args(GrantEvent), *BLOCK_EVENTS)

NAMES: Final = (
    "text",
    "title",
    "alarm",
    "event",
    "time",
    "grant",
    "state",
    "holder",
    "issuer",
    "caller",
    "service",
    "endpoints",
    "duration",
    "more",
    "uses",
    "reason",
    "actor",
    "why",
    "approvers",
    "approvals",
    "needed",
    "expires",
    "review",
    "digest",
    "command",
    "url",
    "block",
    "by",
    "blocked",
)
"""Of the values that a template can name."""

_AFTER: Final[Mapping[Kind, State]] = {
    "requested": "pending",
    "activated": "active",
    "denied": "denied",
    "cancelled": "cancelled",
    "dropped": "dropped",
    "revoked": "revoked",
    "used-up": "used-up",
    "expired": "expired",
}
_TITLES: Final[Mapping[GrantEvent, str]] = {
    "requested": "Access requested",
    "approved": "Access approved by one, another is needed",
    "activated": "Access granted",
    "emergency": "EMERGENCY access taken",
    "denied": "Access denied",
    "cancelled": "Request taken back",
    "extension-requested": "More time requested",
    "extension-approved": "More time approved by one, another is needed",
    "extension-denied": "More time denied",
    "extended": "Access extended",
    "dropped": "Access given back",
    "revoked": "Access revoked",
    "used-up": "Access used up",
    "expired": "Access expired",
    "reviewed": "Emergency reviewed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """`id` is the event's own, and the same for all who are told and however often. `time` is when it happened (Unix
    seconds). `service` is None where it is about all of them. `data` is all of it for programs, `values` what a
    template can name, in words: every one of `NAMES`, and one that says nothing here is empty."""

    id: str
    about: Literal["grant", "block"] = "grant"
    event: Event | Literal["test"]
    time: float
    service: str | None
    data: Mapping[str, Json]
    values: Mapping[str, str]

    def document(self) -> dict[str, Json]:
        """As the generic template has it: the payload that Standard Webhooks recommends."""
        return {"type": f"{self.about}.{self.event}", "timestamp": instant(self.time), "data": dict(self.data)}


def notice_of(record: Record, number: int, *, public_url: str) -> Notice:
    """What is told of that step. `public_url` is the origin of the proxy's own host, as approvers reach it."""
    step, seen = record.steps[number], record.steps[: number + 1]
    event: GrantEvent = "emergency" if step.kind == "activated" and record.asked.emergency else step.kind
    data = step_document(record, number) | {
        "state": _state(seen),
        "request_reason": record.asked.reason,
        "approvers": list(record.asked.terms.approvers),
        "approvals": {"needed": record.asked.terms.approvals, "given": [_given(one) for one in _approvals(seen)]},
        "expires_at": _ends(seen),
        "review": _review(record, seen),
        "extension": _extension(record, event),
        "answer": _answer(record, public_url),
    }
    return Notice(
        id=f"{record.id}-{number}",
        event=event,
        time=step.time,
        service=record.asked.service,
        data=data,
        values=_values(record, step, event, data),
    )


def instant(time: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(int(time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _state(seen: Sequence[Step]) -> State:
    found: State = "pending"
    for step in seen:
        found = _AFTER.get(step.kind, found)
    return found


def _approvals(seen: Sequence[Step]) -> list[Step]:
    """Those of what was asked for last: of the request, or of the extension."""
    found: list[Step] = []
    for step in seen:
        if step.kind == "extension-requested":
            found = []
        elif step.kind in ("approved", "extension-approved"):
            found.append(step)
    return found


def _given(step: Step) -> Json:
    return {
        "actor": None if step.actor is None else {"issuer": step.actor[0], "subject": step.actor[1]},
        "approver": step.caller,
        "reason": step.reason,
        "at": step.time,
    }


def _ends(seen: Sequence[Step]) -> int | None:
    return next((step.expires_at for step in reversed(seen) if step.expires_at is not None), None)


def _review(record: Record, seen: Sequence[Step]) -> str | None:
    if record.review is None:
        return None
    return "closed" if any(step.kind == "reviewed" for step in seen) else "open"


def _extension(record: Record, event: GrantEvent) -> Json:
    """The one that is asked for, while it is."""
    extension = record.extension
    if extension is None or event not in ("extension-requested", "extension-approved"):
        return None
    return {"duration": extension.duration, "reason": extension.reason}


def _answer(record: Record, public_url: str) -> Json:
    """How to approve what waits for it now: on the command line, and by the API."""
    if record.state == "pending":
        digest = record.digest
    elif record.state == "active" and record.extension is not None:
        digest = record.extension.digest
    else:
        return None
    return {
        "command": f"ostiary access approve {record.id} --digest {digest} --url {public_url}",
        "method": "POST",
        "url": f"{public_url}/access/requests/{record.id}/approve",
        "body": {"digest": digest},
    }


# In words


def _values(record: Record, step: Step, event: GrantEvent, data: Mapping[str, Json]) -> dict[str, str]:
    asked, answer, ends, extension = record.asked, data["answer"] or {}, data["expires_at"], data["extension"]
    named = {
        "event": event,
        "title": _TITLES[event],
        "alarm": "Nobody else has approved this. Its review is open." if event == "emergency" else "",
        "time": instant(step.time),
        "grant": record.id,
        "state": data["state"],
        "holder": asked.subject,
        "issuer": asked.issuer,
        "caller": asked.caller,
        "service": asked.service,
        "endpoints": ", ".join(asked.endpoints),
        "duration": _span(asked.duration),
        "more": "" if extension is None else _span(extension["duration"]),
        "uses": "" if asked.max_uses is None else str(asked.max_uses),
        "reason": asked.reason,
        "actor": "" if step.actor is None else _who(step),
        "why": step.reason,
        "approvers": ", ".join(asked.terms.approvers),
        "approvals": ", ".join(_who(one) for one in _approvals(record.steps[: data["step"] + 1])),
        "needed": str(asked.terms.approvals),
        "expires": "" if ends is None else instant(ends),
        "review": data["review"] or "",
        "digest": answer.get("body", {}).get("digest", ""),
        "command": answer.get("command", ""),
        "url": answer.get("url", ""),
    }
    return dict.fromkeys(NAMES, "") | named | {"text": _sentence(event, named)}


def _who(step: Step) -> str:
    if step.actor is None:
        return "a rule"
    return step.actor[1] if step.caller is None else f"{step.actor[1]} ({step.caller})"


def _sentence(event: GrantEvent, named: Mapping[str, str]) -> str:
    holder = f"{named['holder']} ({named['caller']})"
    what = f"{named['service']}: {named['endpoints']}"
    uses = f", {named['uses']} uses" if named["uses"] else ""
    why = f": {named['why']}" if named["why"] else ""
    by = named["actor"] or "a rule"
    said: dict[GrantEvent, str] = {
        "requested": f"{holder} asks for {what}, for {named['duration']}{uses}{why}",
        "approved": f"{by} approves what {holder} asks for, {what}{why}",
        "activated": f"{holder} has {what} until {named['expires']}{uses}, approved by {named['approvals']}",
        "emergency": f"{holder} has taken {what} until {named['expires']}{uses}: {named['reason']}",
        "denied": f"{by} denies {holder} {what}{why}",
        "cancelled": f"{holder} does not ask for {what} any more{why}",
        "extension-requested": f"{by} asks for {named['more'] or 'some'} more of {what} for {holder}{why}",
        "extension-approved": f"{by} approves more time for {holder}, {what}{why}",
        "extension-denied": f"{by} denies {holder} more time of {what}{why}",
        "extended": f"{holder} has {what} until {named['expires']}, approved by {named['approvals']}",
        "dropped": f"{holder} has given {what} back{why}",
        "revoked": f"{by} has taken {what} away from {holder}{why}",
        "used-up": f"{holder} has used {what} as often as was granted",
        "expired": f"the time of {holder} for {what} is up"
        if named["expires"]
        else f"nobody answered {holder}, {what}",
        "reviewed": f"{by} has reviewed what {holder} did in an emergency, {what}{why}",
    }
    return said[event]


def _span(seconds: int) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
