"""The API of requests for access, on the proxy's own host: for those who ask, and those who answer.

    POST /access/requests                   ask: service, endpoints, duration, reason; max_uses, caller, emergency,
                                            dry_run
    GET  /access/requests                   one's own, and with ?to=approve those that one may answer; ?state=
    GET  /access/requests/{id}
    POST /access/requests/{id}/{step}       approve, deny, cancel, extend, drop, revoke, review
    POST /access/revocations                all that fit: service, endpoint, caller, issuer and subject; reason
         /access/blocks                     what operators may do: `block_api`

and the same in the words of the AuthZEN Access Request and Approval profile, for programs that were denied (`tasks`):

    POST /access/tasks                      ask, with what the denial said: denial, context, requested_access
    GET  /access/tasks/{id}
    POST /access/tasks/{id}/cancel          reason, comment
    GET  /access/tasks.schema.json          what is said with a denial, as JSON Schema

    GET  /access/openapi.json               all of this (`openapi`)

Who sends these was identified as for any other request, and as whom they may ask and answer, the policy says. A record
is shown to its holder and to its approvers; to anybody else it is as if it were not there. An `Idempotency-Key` finds
the request that was made with it. Refusals are `application/problem+json`, their names those of `refusals`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, get_args

import orjson

from ostiary.errors import TooManyRequests
from ostiary.exchange import Exchange
from ostiary.grants import schemas, tasks
from ostiary.grants.bodies import Members, body_of, idempotency_key, number, text, texts, truth
from ostiary.grants.denials import DenialSeal
from ostiary.grants.openapi import openapi_document
from ostiary.grants.own_host import OwnHost
from ostiary.grants.policy import AccessPolicy
from ostiary.grants.records import OPEN, Actor, Asked, Record, State
from ostiary.grants.refusals import (
    BodyRefused,
    GrantRefused,
    KeyReused,
    NotEligible,
    StepUnknown,
)
from ostiary.grants.service import GrantService
from ostiary.grants.store import Selection
from ostiary.grants.tasks import Wanted
from ostiary.models import AccessRequest, Json, Owner
from ostiary.shares import Places

_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_PROBLEM: Final = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
_ASKED: Final = frozenset({"service", "endpoints", "duration", "reason", "max_uses", "caller", "emergency"})
_AT_A_TIME: Final = 4
"""Requests of one identity that a worker serves: each may take the store's one thread, for which others wait."""
_STATES: Final[frozenset[str]] = frozenset(get_args(State))


class Section(Protocol):
    """What answers below a place of its own."""

    async def answer(self, exchange: Exchange, request: AccessRequest, place: tuple[str, ...]) -> tuple[int, Json]:
        """Status and document. `place` are the segments after that place. Raises `GrantRefused`."""


class AccessApi:
    """Implements `Reception`. `blocks` answers below `/access/blocks`."""

    def __init__(
        self, *, service: GrantService, policy: AccessPolicy, seal: DenialSeal, own_host: OwnHost, blocks: Section
    ) -> None:
        self._service = service
        self._policy = policy
        self._seal = seal
        self._own_host = own_host
        self._blocks = blocks
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
            case "POST", ("tasks",):
                return await self._submit(exchange, request)
            case "GET", ("openapi.json",):
                return 200, openapi_document(origin=self._own_host.origin(exchange))
            case "GET", ("tasks.schema.json",):
                return 200, schemas.ASKING
            case "GET", ("tasks", id):
                actor = (await self._policy.about(request)).actor
                return 200, self._task(exchange, request, await self._service.get(id, to=actor))
            case "POST", ("tasks", id, "cancel"):
                return await self._cancel_task(exchange, request, id)
            case _, ("blocks", *place):
                return await self._blocks.answer(exchange, request, tuple(place))
        raise StepUnknown

    async def _ask(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        given = await body_of(exchange, _ASKED | {"dry_run"})
        # What is null was left out: a rule could take it for little.
        body = {name: value for name, value in given.items() if value is not None}
        service, endpoints = text(body, "service"), texts(body, "endpoints")
        dry_run = truth(body, "dry_run")
        body.pop("dry_run", None)  # a rule says the same of it
        about = await self._policy.about(request, {**body, "service": service, "endpoints": list(endpoints)})
        caller = text(body, "caller", default="") or min(about.eligible, default="")
        terms = about.eligible.get(caller)
        if terms is None:
            raise NotEligible(f"of {service}: {', '.join(endpoints)}")
        asked = Asked(
            issuer=about.actor.issuer,
            subject=about.actor.subject,
            caller=caller,
            service=service,
            endpoints=endpoints,
            duration=number(body, "duration"),
            max_uses=number(body, "max_uses") if "max_uses" in body else None,
            reason=text(body, "reason", default=""),
            emergency=truth(body, "emergency"),
            terms=terms,
        )
        if dry_run:
            return 200, shown(await self._service.would_ask(asked, ruling=about.ruling)) | {"id": None}
        record = await self._service.ask(asked, ruling=about.ruling, idempotency_key=idempotency_key(exchange))
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
        body = await body_of(exchange, {"reason", "digest", "duration"})
        actor = (await self._policy.about(request)).actor
        await self._service.get(id, to=actor)
        return 200, shown(await steps[step](id, actor, body))

    async def _approve(self, id: str, actor: Actor, body: Members) -> Record:
        return await self._service.approve(id, actor, digest=text(body, "digest"), reason=_reason(body))

    async def _extend(self, id: str, actor: Actor, body: Members) -> Record:
        return await self._service.extend(id, actor, duration=number(body, "duration"), reason=_reason(body))

    async def _revoke(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        """Of those that the actor may answer: nobody takes away what they could not have given."""
        body = await body_of(exchange, {"service", "endpoint", "caller", "issuer", "subject", "reason"})
        actor = (await self._policy.about(request)).actor
        owner = (text(body, "issuer"), text(body, "subject")) if {"issuer", "subject"} & body.keys() else None
        selection = Selection(
            owner=owner,
            caller=text(body, "caller", default="") or None,
            service=text(body, "service", default="") or None,
            endpoint=text(body, "endpoint", default="") or None,
            approvers=actor.callers,
        )
        revoked = await self._service.revoke_all(selection, actor, reason=_reason(body))
        return 200 if revoked.complete else 202, {
            "revoked": [shown(record) for record in revoked.records],
            "count": revoked.count,
            "complete": revoked.complete,
        }

    async def _submit(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        body = await body_of(exchange, tasks.SUBMITTED, max_depth=tasks.DEPTH)
        denial = self._seal.open(tasks.binding_token(body), owner=request.identity.owner)
        wanted = tasks.wanted(body, denial)
        # One denial is one request, however often, and however late, it is brought back.
        key = idempotency_key(exchange) or f"denial:{denial.id}"
        record = await self._service.asked(denial.owner, key)
        if record is None:
            record = await self._ask_by(request, wanted, key)
        elif not wanted.is_that(record):
            raise KeyReused
        document = self._task(exchange, request, record)
        exchange.own.append((b"location", document["task"]["status_endpoint"].encode()))
        return 202 if document["task"]["status"] == "pending" else 201, document

    async def _ask_by(self, request: AccessRequest, wanted: Wanted, key: str) -> Record:
        denial = wanted.denial
        about = await self._policy.about(request, wanted.document())
        terms = about.eligible.get(denial.caller)
        if terms is not None and wanted.duration is None:
            wanted = wanted.within(terms)  # and a rule has to know for how long
            about = await self._policy.about(request, wanted.document())
            terms = about.eligible.get(denial.caller)
        denial.expect(now=request.time, revision=about.revision)
        if terms is None:
            raise NotEligible(f"of {denial.service}: {denial.endpoint}")
        return await self._service.ask(wanted.asked(terms), ruling=about.ruling, idempotency_key=key)

    async def _cancel_task(self, exchange: Exchange, request: AccessRequest, id: str) -> tuple[int, Json]:
        body = await body_of(exchange, {"reason", "comment"})
        actor = (await self._policy.about(request)).actor
        await self._service.get(id, to=actor)
        why = [said for said in (_reason(body), text(body, "comment", default="")) if said]
        record = await self._service.cancel(id, actor, reason=": ".join(why))
        return 200, self._task(exchange, request, record)

    def _task(self, exchange: Exchange, request: AccessRequest, record: Record) -> dict[str, Json]:
        document = tasks.task(record, origin=self._own_host.origin(exchange))
        if document["task"]["status"] == "pending":
            seconds = tasks.look_again(record, now=request.time)
            exchange.own.append((b"retry-after", str(seconds).encode()))
        return document


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
        "denial": asked.denial,
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
        "type": refusal.type,
        "status": refusal.status,
        "decision_id": id,
        "title": refusal.sentence,
        "reasons": [refusal.reason],
    }
    return document | ({"detail": refusal.detail} if refusal.detail else {})


def _states(given: str) -> tuple[State, ...]:
    """Each once, in one order: of statements that look for them there are only so many."""
    wanted = {state for state in given.split(",") if state}
    if wanted - _STATES:
        raise BodyRefused(f"a state is one of {', '.join(sorted(_STATES))}")
    return tuple(state for state in get_args(State) if state in wanted)


def _reason(body: Members) -> str:
    return text(body, "reason", default="")
