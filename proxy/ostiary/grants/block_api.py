"""The API of blocks, on the proxy's own host, for operators, whom the permission map names:

    POST /access/blocks               block: what, reason; duration (seconds), myself
    GET  /access/blocks               those that are active; ?state=active,lifted,expired; ?after= is the `next` of the
                                      answer before
    GET  /access/blocks/{id}
    POST /access/blocks/{id}/lift     reason

What is blocked is said by its parts: `issuer` with `subject`, with `jti` or with `kid`; `digest`, `thumbprint` or
`certificate` alone. Exactly one of these.

*Whoever would block themselves* has to say that they mean it (`myself`): it takes another operator to lift it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, get_args

from ostiary.exchange import Exchange
from ostiary.grants.blocking import BlockService
from ostiary.grants.blocks import MEMBERS, Block, BlockSelection, BlockState, shown_mark
from ostiary.grants.bodies import Members, body_of
from ostiary.grants.policy import AccessPolicy
from ostiary.grants.refusals import BodyRefused, NotAnOperator, OwnBlock, StepUnknown
from ostiary.marks import Mark
from ostiary.models import AccessRequest, Json, Owner

_TEXT: Final = re.compile(r"[!-~](?:[ -~]{0,2046}[!-~])?")
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "digest": (re.compile(r"[0-9a-f]{64}"), "a SHA-256 in hexadecimal digits"),
    "certificate": (re.compile(r"[0-9a-f]{64}"), "a SHA-256 in hexadecimal digits"),
    "thumbprint": (re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"), "a SHA-256 in base64url, as RFC 7638 has it"),
}
_PARTS: Final = frozenset(part for parts in MEMBERS.values() for part in parts)
_STATES: Final[tuple[BlockState, ...]] = get_args(BlockState)
_PAGE: Final = 1000
_CURSOR: Final = re.compile(r"([0-9]{1,18})\.(b-[0-9a-f]{32})")


class BlockApi:
    """A section of the `AccessApi`: answers what is below `/access/blocks`."""

    def __init__(self, *, service: BlockService, policy: AccessPolicy) -> None:
        self._service = service
        self._policy = policy

    async def answer(self, exchange: Exchange, request: AccessRequest, place: tuple[str, ...]) -> tuple[int, Json]:
        """`place` are the segments after `blocks`. Raises as `AccessApi.serve`, and `GrantRefused`."""
        match exchange.method, place:
            case "POST", ():
                return await self._block(exchange, request)
            case "GET", ():
                return await self._list(request)
            case "GET", (id,):
                await self._operator(request)
                return 200, shown(await self._service.get(id))
            case "POST", (id, "lift"):
                body = await body_of(exchange, {"reason"})
                actor = await self._operator(request)
                return 200, shown(await self._service.lift(id, actor, reason=_reason(body)))
        raise StepUnknown

    async def _block(self, exchange: Exchange, request: AccessRequest) -> tuple[int, Json]:
        body = await body_of(exchange, _PARTS | {"reason", "duration", "myself"})
        mark, duration, myself = mark_of(body), body.get("duration"), body.get("myself", False)
        if duration is not None and (not isinstance(duration, int) or isinstance(duration, bool)):
            raise BodyRefused("duration is a whole number of seconds")
        if not isinstance(myself, bool):
            raise BodyRefused("myself is true or false")
        actor = await self._operator(request)
        if mark in request.identity.marks and not myself:
            raise OwnBlock("say so with myself: true; it takes another operator to lift it")
        return 201, shown(await self._service.block(mark, actor, reason=_reason(body), duration=duration))

    async def _list(self, request: AccessRequest) -> tuple[int, Json]:
        await self._operator(request)
        given = dict(request.target.pairs or ())
        selection = BlockSelection(
            states=_states(given.get("state", "active")), limit=_PAGE, before=_cursor(given.get("after"))
        )
        found = await self._service.find(selection)
        last = found[-1] if len(found) == _PAGE else None
        return 200, {
            "blocks": [shown(block) for block in found],
            "next": None if last is None else f"{last.change}.{last.id}",
        }

    async def _operator(self, request: AccessRequest) -> Owner:
        about = await self._policy.about(request)
        if not about.operator:
            raise NotAnOperator
        return about.actor.owner


def mark_of(body: Members) -> Mark:
    """What a body says is to be blocked. Raises `BodyRefused`."""
    said = body.keys() & _PARTS
    for name, parts in MEMBERS.items():
        if said == set(parts):
            return (name, *(_part(body, part) for part in parts))
    ways = ", ".join(" with ".join(parts) for parts in MEMBERS.values())
    raise BodyRefused(f"what is blocked is said in one way: {ways}")


def shown(block: Block) -> dict[str, Json]:
    """A block as people and programs see it."""
    return {
        "id": block.id,
        "state": block.state,
        "in_force": block.in_force,
        "by": block.mark[0],
        "blocked": dict(shown_mark(block.mark)),
        "ends_at": block.ends_at,
        "steps": [
            {
                "step": step.kind,
                "time": step.time,
                "actor": None if step.actor is None else {"issuer": step.actor[0], "subject": step.actor[1]},
                "reason": step.reason,
                "ends_at": step.ends_at,
            }
            for step in block.steps
        ],
    }


def _part(body: Members, name: str) -> str:
    value = body[name]
    form, told = _FORMS.get(name, (_TEXT, "a printable text"))
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise BodyRefused(f"{name} is {told}")
    return value


def _reason(body: Members) -> str:
    value = body.get("reason", "")
    if not isinstance(value, str):
        raise BodyRefused("reason is a text")
    return value


def _states(text: str) -> tuple[BlockState, ...]:
    wanted = {state for state in text.split(",") if state}
    if not wanted or wanted - set(_STATES):
        raise BodyRefused(f"a state is one of {', '.join(_STATES)}")
    return tuple(state for state in _STATES if state in wanted)


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise BodyRefused("after is the `next` of an answer")
    return int(found[1]), found[2]
