"""The API of requests for access, on the proxy's own host: for those who ask, and those who answer.

    POST /access/requests                   ask: service, endpoints, duration, reason; max_uses, caller, emergency,
                                            dry_run
    GET  /access/requests                   one's own, and with ?to=approve those that one may answer; ?state=
    GET  /access/requests/{id}
    POST /access/requests/{id}/{step}       approve, deny, cancel, extend, drop, revoke, review
    POST /access/revocations                all that fit: service, endpoint, caller, issuer and subject; reason

Who sends these was identified as for any other request, and as whom they may ask and answer, the policy says. A record
is shown to its holder and to its approvers; to anybody else it is as if it were not there. An `Idempotency-Key` finds
the request that was made with it. Refusals are `application/problem+json`, their names those of `refusals`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Final, TypeAlias, get_args

import orjson

from ostiary.errors import TooManyRequests
from ostiary.exchange import Exchange
from ostiary.grants.policy import AccessPolicy
from ostiary.grants.records import OPEN, Actor, Asked, Record, State
from ostiary.grants.refusals import (
    BodyRefused,
    GrantRefused,
    NotEligible,
    StepUnknown,
)
from ostiary.grants.service import GrantService
from ostiary.grants.store import Selection
from ostiary.models import AccessRequest, Json, Owner
from ostiary.shares import Places
from ostiary.strictjson import NotStrict, read_object

_MAX_BODY: Final = 64 * 1024
_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_PROBLEM: Final = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
_KEY_LENGTH: Final = 128
_ASKED: Final = frozenset({"service", "endpoints", "duration", "reason", "max_uses", "caller", "emergency"})
_AT_A_TIME: Final = 4
"""Requests of one identity that a worker serves: each may take the store's one thread, for which others wait."""
_STATES: Final[frozenset[str]] = frozenset(get_args(State))

Members: TypeAlias = Mapping[str, Json]


class AccessApi:
    """Implements `Reception`."""

    def __init__(self, *, service: GrantService, policy: AccessPolicy) -> None:
        self._service = service
        self._policy = policy
        self._places: Places[Owner] = Places(_AT_A_TIME)

    async def serve(self, exchange: Exchange, request: AccessRequest) -> bool:
        """Answer if this is for the API. Raises what an `AccessPolicy` raises, `GrantsUnavailable`, and
        `TooManyRequests` where this identity has enough of them under way."""
        if request.target.segments[0] != "access":
            return False
        asker = request.identity.owner
        if not self._places.enter(asker):
            raise TooManyRequests
        try:
            await self._serve(exchange, request)
        finally:
            self._places.leave(asker)
        return True

    async def _serve(self, exchange: Exchange, request: AccessRequest) -> None:
        try:
            status, document = await self._answer(exchange, request)
        except GrantRefused as refusal:
            status, document, headers = refusal.status, _problem(refusal, exchange.id), list(_PROBLEM)
            if refusal.retry_after is not None:
                headers.append((b"retry-after", b"%d" % refusal.retry_after))
            if not exchange.body_complete and exchange.method == "POST":
                headers.append((b"connection", b"close"))
        else:
            headers = list(_JSON)
        await exchange.respond(status, headers, orjson.dumps(document))

    async def _answer(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        match exchange.method, request.target.segments[1:]:
            case "POST", ("requests",):
                return await self._ask(exchange, request)
            case "GET", ("requests",):
                return await self._list(request)
            case "GET", ("requests", id):
                about = await self._policy.about(request)
                return 200, shown(await self._service.get(id, to=about.actor))
            case "POST", ("requests", id, step):
                return await self._step(exchange, request, id, step)
            case "POST", ("revocations",):
                return await self._revoke(exchange, request)
        raise StepUnknown

    async def _ask(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        body = dict(await _body(exchange, _ASKED | {"dry_run"}))
        service, endpoints = _text(body, "service"), _texts(body, "endpoints")
        dry_run = _truth(body, "dry_run")
        body.pop("dry_run", None)  # a rule says the same of it
        about = await self._policy.about(request, {**body, "service": service, "endpoints": list(endpoints)})
        caller = _text(body, "caller", default="") or min(about.eligible, default="")
        terms = about.eligible.get(caller)
        if terms is None:
            raise NotEligible(f"of {service}: {', '.join(endpoints)}")
        asked = Asked(
            issuer=about.actor.issuer,
            subject=about.actor.subject,
            caller=caller,
            service=service,
            endpoints=endpoints,
            duration=_number(body, "duration"),
            max_uses=_number(body, "max_uses") if body.get("max_uses") is not None else None,
            reason=_text(body, "reason", default=""),
            emergency=_truth(body, "emergency"),
            terms=terms,
        )
        if dry_run:
            return 200, shown(await self._service.would_ask(asked, ruling=about.ruling)) | {"id": None}
        record = await self._service.ask(asked, ruling=about.ruling, idempotency_key=_key(exchange))
        return 201, shown(record)

    async def _list(self, request: AccessRequest) -> tuple[int, Json]:
        actor = (await self._policy.about(request)).actor
        given = dict(request.target.pairs or ())
        states = _states(given.get("state", ""))
        if given.get("to") == "approve":
            selection = Selection(approvers=actor.callers, states=states or ("active", "pending"))
        else:
            selection = Selection(owner=actor.owner, states=states)
        return 200, {"requests": [shown(record) for record in await self._service.find(selection)]}

    async def _step(self, exchange: Exchange, request: AccessRequest, id: str, step: str) -> tuple[int, Json]:
        steps: dict[str, Callable[[str, Actor, Members], Awaitable[Record]]] = {
            "approve": self._approve,
            "deny": lambda grant, actor, body: self._service.deny(grant, actor, reason=_reason(body)),
            "cancel": lambda grant, actor, body: self._service.cancel(grant, actor, reason=_reason(body)),
            "extend": self._extend,
            "drop": lambda grant, actor, body: self._service.drop(grant, actor, reason=_reason(body)),
            "revoke": lambda grant, actor, body: self._service.revoke(grant, actor, reason=_reason(body)),
            "review": lambda grant, actor, body: self._service.review(grant, actor, reason=_reason(body)),
        }
        if step not in steps:
            raise StepUnknown
        body = await _body(exchange, {"reason", "digest", "duration"})
        actor = (await self._policy.about(request)).actor
        await self._service.get(id, to=actor)
        return 200, shown(await steps[step](id, actor, body))

    async def _approve(self, id: str, actor: Actor, body: Members) -> Record:
        return await self._service.approve(id, actor, digest=_text(body, "digest"), reason=_reason(body))

    async def _extend(self, id: str, actor: Actor, body: Members) -> Record:
        return await self._service.extend(id, actor, duration=_number(body, "duration"), reason=_reason(body))

    async def _revoke(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        """Of those that the actor may answer: nobody takes away what they could not have given."""
        body = await _body(exchange, {"service", "endpoint", "caller", "issuer", "subject", "reason"})
        actor = (await self._policy.about(request)).actor
        owner = (_text(body, "issuer"), _text(body, "subject")) if {"issuer", "subject"} & body.keys() else None
        selection = Selection(
            owner=owner,
            caller=_text(body, "caller", default="") or None,
            service=_text(body, "service", default="") or None,
            endpoint=_text(body, "endpoint", default="") or None,
            approvers=actor.callers,
        )
        revoked = await self._service.revoke_all(selection, actor, reason=_reason(body))
        return 200 if revoked.complete else 202, {
            "revoked": [shown(record) for record in revoked.records],
            "count": revoked.count,
            "complete": revoked.complete,
        }


def shown(record: Record) -> dict[str, Json]:
    """A record as people and programs see it."""
    asked, extension = record.asked, record.extension
    return {
        "id": record.id,
        "state": record.state,
        "open": record.state in OPEN,
        "digest": record.digest,
        "caller": asked.caller,
        "holder": {"issuer": asked.issuer, "subject": asked.subject},
        "service": asked.service,
        "endpoints": list(asked.endpoints),
        "duration": asked.duration,
        "reason": asked.reason,
        "emergency": asked.emergency,
        "review": record.review,
        "approvers": list(asked.terms.approvers),
        "approvals": {"needed": asked.terms.approvals, "given": len(record.approved)},
        "max_uses": asked.max_uses,
        "uses": record.uses,
        "pending_until": record.pending_until if record.state == "pending" else None,
        "granted_at": record.granted_at,
        "expires_at": record.expires_at,
        "ended_at": record.ended_at,
        "extension": None
        if extension is None
        else {
            "duration": extension.duration,
            "reason": extension.reason,
            "digest": extension.digest,
            "approvals": {"needed": asked.terms.approvals, "given": len(extension.approved)},
        },
        "steps": [
            {
                "step": step.kind,
                "time": step.time,
                "actor": None if step.actor is None else {"issuer": step.actor[0], "subject": step.actor[1]},
                "approver": step.caller,
                "reason": step.reason,
            }
            for step in record.steps
        ],
    }


def _problem(refusal: GrantRefused, id: str) -> dict[str, Json]:
    document = {
        "type": "about:blank",
        "status": refusal.status,
        "decision_id": id,
        "title": refusal.sentence,
        "reasons": [refusal.reason],
    }
    return document | ({"detail": refusal.detail} if refusal.detail else {})


async def _body(exchange: Exchange, known: Set[str]) -> Members:
    # A page of somebody else's makes a browser, which has a client's certificate, send any other type unasked.
    media_type = (exchange.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise BodyRefused("the content type is application/json")
    content = b""
    while not exchange.body_complete:
        content += await exchange.receive_body()
        if len(content) > _MAX_BODY:
            raise BodyRefused(f"at most {_MAX_BODY} bytes")
    try:
        document = read_object(content or b"{}", max_depth=4)
    except NotStrict as error:
        raise BodyRefused(str(error)) from None
    if unknown := sorted(document.keys() - known):
        raise BodyRefused(f"unknown: {', '.join(unknown)[:200]}; known: {', '.join(sorted(known))}")
    return document


def _states(text: str) -> tuple[State, ...]:
    """Each once, in one order: of statements that look for them there are only so many."""
    wanted = {state for state in text.split(",") if state}
    if wanted - _STATES:
        raise BodyRefused(f"a state is one of {', '.join(sorted(_STATES))}")
    return tuple(state for state in get_args(State) if state in wanted)


def _text(body: Members, name: str, *, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BodyRefused(f"{name} is a text")
    return value


def _texts(body: Members, name: str) -> tuple[str, ...]:
    value = body.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise BodyRefused(f"{name} is a list of texts")
    return tuple(value)


def _number(body: Members, name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BodyRefused(f"{name} is a whole number")
    return value


def _truth(body: Members, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise BodyRefused(f"{name} is true or false")
    return value


def _reason(body: Members) -> str:
    return _text(body, "reason", default="")


def _key(exchange: Exchange) -> str | None:
    value = exchange.header(b"idempotency-key")
    if value is None:
        return None
    text = value.decode("latin-1")
    if not 1 <= len(text) <= _KEY_LENGTH or not (text.isascii() and text.isprintable()):
        raise BodyRefused(f"an Idempotency-Key has 1 to {_KEY_LENGTH} printable characters")
    return text
